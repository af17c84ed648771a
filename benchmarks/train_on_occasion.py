"""Train the paper's model for as long as there is a machine, and go on the next time: one command, again and again.

    python benchmarks/train_on_occasion.py --photographs FOLDER --testsets FOLDER -o FOLDER --minutes 25

Runs stage 1 (``psnr_rrdb23``), then stage 2 (``gan_rrdb23``) from its best checkpoint, each in its own folder of the
output; stops them by SIGTERM when the time is up; evaluates what there is on Set5 and Set14 (PSNR on Y and RGB, the
published figures beside it) and draws the curves over the iterations. ``--testsets`` holds ``Set5/HR`` and
``Set14/HR``. Further arguments are overrides of both trainings, those behind ``--psnr`` and ``--gan`` of one. On a CPU,
for example: ``--minutes 1 --psnr-iterations 40 --gan-iterations 20 trainer=cpu generator.blocks=1
trainer.val_check_interval=20 --gan stage.perceptual.layer=conv3_4 stage.perceptual.weights=FILE``.
"""

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from esrgan_lit.reports.curves import draw_curves, logs_beside

TOOLS = Path(sys.executable).parent


def train(overrides: list[str], seconds: float) -> None:
    """Run ``esrgan-train`` until it ends or the time is up, then have it save and end."""
    process = subprocess.Popen([str(TOOLS / "esrgan-train"), *overrides])
    try:
        process.wait(max(1.0, seconds))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.wait()
    if process.returncode:
        sys.exit(process.returncode)


def iterations(folder: Path) -> int:
    """How far the run in a folder has come."""
    last = folder / "checkpoints" / "last.ckpt"
    return torch.load(last, weights_only=True, mmap=True)["global_step"] if last.exists() else 0


def main() -> None:
    """Train, evaluate, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--testsets", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True, help="for training; evaluation comes on top")
    parser.add_argument("--psnr-iterations", type=int, default=1_000_000)
    parser.add_argument("--gan-iterations", type=int, default=400_000)
    parser.add_argument("--psnr", nargs="+", default=[], metavar="OVERRIDE")
    parser.add_argument("--gan", nargs="+", default=[], metavar="OVERRIDE")
    options, overrides = parser.parse_known_args()
    end = time.monotonic() + 60 * options.minutes
    data = [
        "data=folder",
        f"data.train=[{options.photographs}]",
        f"data.cache={options.output}/packed",
        f"data.validation=[{options.testsets}/Set5/HR]",
        "logger=csv",
        "resume=auto",
    ]
    folders = {stage: options.output / stage for stage in ("psnr", "gan")}
    steps = {"psnr": options.psnr_iterations, "gan": options.gan_iterations}
    for stage, folder in folders.items():
        start = [] if stage == "psnr" else [f"stage.start_from={folders['psnr']}/checkpoints/best.ckpt"]
        if iterations(folder) < steps[stage] and time.monotonic() < end:
            own = [f"+experiment={stage}_rrdb23", f"trainer.max_steps={steps[stage]}", f"hydra.run.dir={folder}"]
            train([*own, *data, *start, *overrides, *getattr(options, stage)], end - time.monotonic())
        if iterations(folder) < steps[stage]:
            break
    trained = {stage: folder for stage, folder in folders.items() if iterations(folder)}
    weights = [f"{stage} at {iterations(folder)}: {folder}/checkpoints/last.ckpt" for stage, folder in trained.items()]
    sets = ", ".join(f"{name}: {{hr: {options.testsets}/{name}/HR}}" for name in ("Set5", "Set14"))
    evaluation = [
        str(TOOLS / "esrgan-evaluate"),
        f"sets={{{sets}}}",
        f"weights={{{', '.join(weights)}}}",
        "metrics.names=[psnr_y,psnr_rgb]",
        f"out={options.output}/evaluation",
    ]
    subprocess.run(evaluation, check=True)
    draw_curves(
        [logs_beside(folder / "checkpoints" / "last.ckpt") for folder in trained.values()],
        options.output / "curves.png",
    )
    print(f"{options.output}/evaluation/index.html and {options.output}/curves.png")


if __name__ == "__main__":
    main()
