"""Run a sweep's jobs: each in a process of its own, together one W&B group and one report."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from esrgan_lit.files import write_text
from esrgan_lit.overrides import as_override
from esrgan_lit.reports.runs import FAILURE
from esrgan_lit.reports.training import write_report
from esrgan_lit.training.changes import differences
from esrgan_lit.training.checkpointing import find_checkpoint, read_checkpoint
from esrgan_lit.training.folder_lock import unused_folder
from esrgan_lit.training.objective import VALUE
from esrgan_lit.training.resume import AUTO
from esrgan_lit.training.signals import Interrupted

SWEPT = "multirun.yaml"  # what a sweep varies, by Hydra's own sweeper
OUTPUT = "output.txt"  # what a job prints, where others run beside it
log = logging.getLogger(__name__)


class JobFailedError(RuntimeError):
    """Raised when a job of a sweep failed; Hydra goes on with the others and fails at the end."""


def run_job(config: DictConfig) -> float | None:
    """Run this job of a sweep, then write the sweep's report anew.

    In a process of its own, because what one job leaves in a process harms the next: the rank variables and process
    group of several GPUs, a CUDA error, a full memory. That process is no multirun either, and its own further ranks
    do not begin the sweep anew, each in another folder.

    Args:
        config: of the job, as Hydra composed it.

    Returns:
        The value of ``optimized_metric``; None without one.

    Raises:
        JobFailedError: when it failed.
        ValueError: when the jobs would write to one folder.
        Interrupted: when SIGTERM or Ctrl-C ended the sweep, with this job's checkpoint written.
    """
    hydra = HydraConfig.get()
    folder, sweep = Path(hydra.runtime.output_dir), Path(hydra.sweep.dir).absolute()
    if not (sweep / SWEPT).is_file():  # Optuna's and Ax's sweepers write none, and reports know a sweep by it
        write_text(sweep / SWEPT, "hydra: {overrides: {task: []}}\n")
    changes = overrides_swept(sweep, hydra.overrides.task)
    log.info("job %s in %s: %s", hydra.job.num, folder, " ".join(changes))
    if Path(config.output_dir).absolute() != folder:
        raise ValueError(
            f"output_dir={config.output_dir} would be one folder for all jobs; leave it out, and say with "
            "hydra.sweep.dir=FOLDER where the sweep is to be"
        )
    if config.resume == AUTO and (fault := other_job(folder, config, changes)):
        raise JobFailedError(f"job {hydra.job.num}: {fault}")
    _name_in_wandb(config, sweep, changes)
    # Under SLURM each rank of the job comes here, and writes a file of its own.
    rank = getattr(rank_zero_only, "rank", None) or 0
    settings = folder / ".hydra" / f"job_{rank}.yaml"
    settings.parent.mkdir(exist_ok=True)
    OmegaConf.save(config, settings, resolve=True)
    failure = folder / FAILURE
    failure.unlink(missing_ok=True)
    settings.with_name(VALUE).unlink(missing_ok=True)
    command = [sys.executable, "-m", "esrgan_lit.cli.train_job", str(settings), str(sweep)]
    launcher = hydra.launcher["_target_"]
    output = None if "BasicLauncher" in launcher else folder / OUTPUT
    one_gpu = config.trainer.accelerator == "gpu" and config.trainer.devices == 1
    try:
        with _gpu_of_its_own(sweep, hydra.job.num) if one_gpu and "Joblib" in launcher else nullcontext({}) as gpu:
            code = _run_process(command, output, os.environ | gpu)
        if code and not failure.exists():
            reason = f"killed by signal {-code}" if code < 0 else f"its process ended with code {code}"
            failure.write_text(reason, encoding="utf-8")
    finally:
        if rank == 0:
            _report(sweep)
    if code:
        raise JobFailedError(f"job {hydra.job.num} in {folder}: {failure.read_text(encoding='utf-8')}")
    value = settings.with_name(VALUE)
    return float(value.read_text()) if value.is_file() else None


def check_same_sweep(sweep: Path, overrides: Sequence[str]) -> None:
    """Raise ValueError where a folder holds a sweep over other values, whose jobs these would be mixed with.

    Args:
        sweep: folder of the sweep.
        overrides: of the command.
    """
    if not (sweep / SWEPT).is_file():
        return
    before, now = _swept(list(OmegaConf.load(sweep / SWEPT).hydra.overrides.task)), _swept(overrides)
    if before and before != now:
        raise ValueError(
            f"{sweep} holds a sweep over {' '.join(before)}, and this one is over {' '.join(now)}; begin it elsewhere: "
            f"{as_override('hydra.sweep.dir', unused_folder(sweep))}"
        )


def _swept(overrides: Sequence[str]) -> list[str]:
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [str(each.input_line) for each in parsed if each.is_sweep_override()]


def other_job(folder: Path, config: DictConfig, changes: Sequence[str]) -> str | None:
    """Return why a job's folder is another job's, as of a sweeper that draws other values; None where it is its own.

    Args:
        folder: of the job.
        config: of the job.
        changes: its overrides that the sweep varies.
    """
    found = find_checkpoint(folder / "checkpoints")
    theirs = None if found is None else read_checkpoint(found).get("config")
    if theirs is None:
        return None
    keys = [each.partition("=")[0].lstrip("+~").partition("@")[0].replace("/", ".") for each in changes]
    ours = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    for key, (before, now) in differences(theirs, ours).items():
        if any(key == each or key.startswith(f"{each}.") for each in keys):
            return (
                f"{folder} holds a job with {key}={before}, and this one has {key}={now}; begin the sweep elsewhere: "
                f"{as_override('hydra.sweep.dir', unused_folder(folder.parent))}"
            )
    return None


def overrides_swept(sweep: Path, overrides: Sequence[str]) -> list[str]:
    """Return those of a job's overrides that the sweep varies.

    Args:
        sweep: folder of the sweep.
        overrides: of the job.
    """
    if not (sweep / SWEPT).is_file():
        return list(overrides)
    given = OverridesParser.create().parse_overrides(list(OmegaConf.load(sweep / SWEPT).hydra.overrides.task))
    fixed = {each.get_key_element() for each in given if not each.is_sweep_override()}
    return [each for each in overrides if each.partition("=")[0] not in fixed]


def _name_in_wandb(config: DictConfig, sweep: Path, changes: Sequence[str]) -> None:
    """Make the sweep's jobs one group in W&B, each named for its changes; what the user chose stays."""
    options = OmegaConf.select(config, "trainer.logger.wandb")
    if options is not None:
        options.group = options.group or f"{sweep.parent.name}/{sweep.name}"
        options.name = " ".join([config.name, *changes]) if options.name == config.name else options.name


@contextmanager
def _gpu_of_its_own(sweep: Path, number: int) -> Iterator[dict[str, str]]:
    """Of several GPUs one that no job beside this has, as environment variables; where all are taken, a shared one."""
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    with ExitStack() as stack:
        chosen = visible[number % count] if count else None
        for gpu in visible[:count]:
            with suppress(Timeout):
                stack.enter_context(FileLock(sweep / f".gpu_{gpu}.lock", blocking=False))
                chosen = gpu
                break
        yield {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}


def _run_process(command: Sequence[str], output: Path | None, environment: Mapping[str, str]) -> int:
    """Run a command to its end and return its code; SIGTERM and Ctrl-C end it, gently, and then us."""
    # Beside others its progress bar would be lost among theirs.
    with nullcontext() if output is None else output.open("ab") as file:
        errors = None if file is None else subprocess.STDOUT
        process = subprocess.Popen(command, stdout=file, stderr=errors, env=environment)
        try:
            with _interrupted_by_signals():
                return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _report(sweep: Path) -> None:
    """Write the report of the jobs so far. The last job to end writes the whole one, also where jobs run at once."""
    try:
        with FileLock(sweep / ".report.lock"):
            written = write_report([sweep], sweep)
            table = (sweep / "summary.md").read_text(encoding="utf-8")
        print(f"\n{table}", *written, sep="\n", flush=True)
    except Exception as error:  # whatever it is, it is no reason to lose the other jobs
        log.warning("the sweep's report could not be written (%s); `esrgan-report %s` makes it", error, sweep)
