"""Measure ``esrgan-upscale`` on folders: small images by one process and by several; the planning of very many files.

python benchmarks/upscale_folder.py                         # 200 images of 64², and 200,000 files planned
python benchmarks/upscale_folder.py --only planning --files 1000000
python benchmarks/upscale_folder.py --only rates --rival ../before/src   # beside another commit's, in turns
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from esrgan_lit import RRDBNet, save_generator
from esrgan_lit.cli.upscale import _check_files
from esrgan_lit.cli.upscale_plan import plan_jobs
from esrgan_lit.data.demo import photographs


def measure_rates(images: int, side: int, blocks: int, repeats: int, rival: str | None) -> None:
    """Print images a second, and CPU time, of one process and of a process a core, in turns; the least of each."""
    cores = psutil.cpu_count(logical=False) or 2
    here = str(Path(__file__).parents[1] / "src")
    ways = {"one process": (here, "--device", "cpu"), f"--devices cpu:{cores}": (here, "--devices", f"cpu:{cores}")}
    ways = ({} if rival is None else {"rival": (rival, "--device", "cpu")}) | ways
    best = dict.fromkeys(ways, (float("inf"), float("inf")))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "small").mkdir()
        sources = [np.asarray(Image.open(path).convert("RGB")) for path in photographs("train")]
        random = np.random.default_rng(0)
        for number in range(images):
            photograph = sources[number % len(sources)]
            top, left = (int(random.integers(size - side)) for size in photograph.shape[:2])
            Image.fromarray(photograph[top : top + side, left : left + side]).save(folder / f"small/{number:04}.png")
        torch.manual_seed(0)
        save_generator(RRDBNet(4, blocks), folder / "net.safetensors")
        for _ in range(repeats):
            for way, (source, *options) in ways.items():
                command = [sys.executable, "-c", "from esrgan_lit.cli.upscale import main; main()", folder / "small"]
                begun, before = time.perf_counter(), _used()
                subprocess.run(
                    [*command, "-o", folder / "large", "--checkpoint", folder / "net.safetensors", *options],
                    check=True,
                    capture_output=True,
                    env={**os.environ, "PYTHONPATH": source},
                )
                measured = time.perf_counter() - begun, _used() - before
                best[way] = min(best[way][0], measured[0]), min(best[way][1], measured[1])
                shutil.rmtree(folder / "large")
    print(f"{images} images of {side}², RRDBNet with {blocks} blocks, start included, {cores} cores")
    first = next(iter(best.values()))
    for way, (seconds, used) in best.items():
        print(
            f"  {way:20} {images / seconds:6.2f} images/s  {first[0] / seconds:.2f} times, {used:5.1f} s of CPU time, "
            f"{first[1] / used:.2f} times less"
        )


def _used() -> float:
    """CPU time of processes that have ended, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure_planning(files: int) -> None:
    """Print seconds and memory of planning so many tiny files."""
    with tempfile.TemporaryDirectory() as place:
        image = Path(place) / "tiny.png"
        Image.new("RGB", (8, 8)).save(image)
        content = image.read_bytes()
        for number in range(files):
            path = Path(place) / "many" / f"{number // 1000:04}" / f"{number:07}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.process_time()
        plan = plan_jobs([str(Path(place) / "many")], str(Path(place) / "out"))
        faults = _check_files(plan, 4)
        seconds = time.process_time() - begun
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(
            f"{len(plan):,} files planned and headers read in {seconds:.1f} s of CPU time, {len(faults)} faults, "
            f"{grown / 1024:.1f} MiB more memory"
        )


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("rates", "planning"))
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rival", help="another checkout's src folder, measured beside this one")
    parser.add_argument("--files", type=int, default=200_000)
    arguments = parser.parse_args()
    if arguments.only != "planning":
        measure_rates(arguments.images, arguments.side, arguments.blocks, arguments.repeats, arguments.rival)
    if arguments.only != "rates":
        measure_planning(arguments.files)


if __name__ == "__main__":
    main()
