"""Jobs that SLURM tells of their end: by a signal, after which they are queued again."""

import logging
import os
import signal
import subprocess

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

log = logging.getLogger(__name__)


def requeue_signal() -> int | None:
    """Return the signal that SLURM sends before a job's time is over (``sbatch --signal=USR1@120``); None elsewhere.

    Lightning takes the same; it would save in the middle of an iteration, and prefer that checkpoint to later ones.
    """
    return getattr(signal, "SIGUSR1", None) if SLURMEnvironment.detect() else None


def requeue(resumes: bool, folder: str) -> None:
    """Have SLURM queue this job again; where it cannot, say so.

    Args:
        resumes: whether the job's command resumes what it began; otherwise it would begin anew, and is not queued.
        folder: of the run, for the message.
    """
    if not resumes:
        log.warning("this job is not queued again, for it would begin anew: give hydra.run.dir=%s resume=auto", folder)
        return
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    job = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip()
        log.error("job %s could not be queued again (%s); the same command with resume=auto resumes", job, reason)
        return
    log.warning("job %s is queued again", job)
