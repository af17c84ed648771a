"""Pairs per second of the data path beside readers that do what BasicSR's PairedImageDataset does, in one run.

    python benchmarks/data_rate.py --photographs FOLDER [--seconds 4] [--rounds 3]
    python benchmarks/data_rate.py --packed FOLDER  # ours alone, from a packed folder: to be run with less
                                                    # memory than it has, for example in a control group

Everything runs on one core, in one process, on the same photographs. The rivals decode a PNG (OpenCV), crop HR and LR,
flip or rotate, convert to float tensors and collate, a sample at a time: from whole 2K PNGs, and from 480-pixel
sub-images in LMDB, the LR sub-images given. Ours read packed images and make the exact LR. Rates are medians over
rounds in which all readers take turns; ratios are what counts on a noisy machine.

Needs the extra `bench` (lmdb, opencv-python-headless).
"""

import argparse
import itertools
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import lmdb
import numpy as np
import torch
from torch.utils.data import default_collate

from esrgan_lit.data.crops import CropDataset
from esrgan_lit.data.loading import StepSampler, ThreadedLoader
from esrgan_lit.data.packed import PackedImages, pack
from esrgan_lit.data.photographs import check_images
from esrgan_lit.degradations.bicubic import Bicubic
from esrgan_lit.degradations.pairs import make_pairs
from esrgan_lit.images.listing import list_images
from esrgan_lit.resize import imresize

CROP, SCALE, BATCH = 128, 4, 16


def make_photographs(source: Path, folder: Path, count: int) -> list[Path]:
    """Write PNGs of 2040×1356, DIV2K's usual size, from the user's photographs, mirrored where too small."""
    folder.mkdir()
    paths = []
    for number, path in zip(range(count), itertools.cycle(list_images([source], "--photographs"))):
        image = cv2.imread(str(path))
        pad = max(0, 1356 - image.shape[0]), max(0, 2040 - image.shape[1])
        image = np.pad(image, ((0, pad[0]), (0, pad[1]), (0, 0)), mode="symmetric")[:1356, :2040]
        paths.append(folder / f"{number:04}.png")
        cv2.imwrite(str(paths[-1]), np.roll(image, 7 * number, axis=1))
    return paths


class Rival:
    """What BasicSR's PairedImageDataset does for a sample, given encoded HR and LR images."""

    def __init__(self, encoded: Callable[[int], tuple[bytes, bytes]], count: int) -> None:
        self.encoded = encoded
        self.count = count
        self.random = np.random.default_rng(0)

    def sample(self) -> dict[str, torch.Tensor]:
        """Decode both, crop both at one random place, flip and rotate both, convert to RGB float tensors."""
        both = self.encoded(int(self.random.integers(self.count)))
        high, low = (
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(np.float32) / 255 for data in both
        )
        size = CROP // SCALE
        top, left = (int(self.random.integers(side - size + 1)) for side in low.shape[:2])
        low = low[top : top + size, left : left + size]
        high = high[top * SCALE : top * SCALE + CROP, left * SCALE : left * SCALE + CROP]
        flip, vertical, turn = self.random.random(3) < 0.5
        pair = []
        for image in (high, low):
            if flip:
                cv2.flip(image, 1, image := np.ascontiguousarray(image))
            if vertical:
                cv2.flip(image, 0, image := np.ascontiguousarray(image))
            if turn:
                image = image.transpose(1, 0, 2)
            pair.append(
                torch.from_numpy(
                    cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2RGB).transpose(2, 0, 1)
                ).float()
            )
        return {"gt": pair[0], "lq": pair[1]}

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """Collated batches without end."""
        while True:
            yield default_collate([self.sample() for _ in range(BATCH)])


def whole_files(paths: list[Path], folder: Path) -> Rival:
    """Rival on whole PNGs and their whole LR PNGs."""
    folder.mkdir()
    for path in paths:
        cv2.imwrite(str(folder / path.name), imresize(cv2.imread(str(path)), 1 / SCALE))
    return Rival(lambda index: (paths[index].read_bytes(), (folder / paths[index].name).read_bytes()), len(paths))


def sub_images_in_lmdb(paths: list[Path], folder: Path) -> Rival:
    """Rival on 480-pixel sub-images (stride 240) of both, PNG in LMDB."""
    environment = lmdb.open(str(folder), map_size=1 << 34)
    count = 0
    with environment.begin(write=True) as transaction:
        for path in paths:
            image = cv2.imread(str(path))
            low = imresize(image, 1 / SCALE)
            for top, left in itertools.product(range(0, 1356 - 479, 240), range(0, 2040 - 479, 240)):
                parts = (
                    image[top : top + 480, left : left + 480],
                    low[top // SCALE : (top + 480) // SCALE, left // SCALE : (left + 480) // SCALE],
                )
                for kind, part in zip(("hr", "lr"), parts, strict=True):
                    transaction.put(f"{kind}{count}".encode(), cv2.imencode(".png", part)[1].tobytes())
                count += 1
    reader = environment.begin(buffers=True)
    return Rival(lambda index: (reader.get(f"hr{index}".encode()), reader.get(f"lr{index}".encode())), count)


def ours(packed: PackedImages, *, make_low_res: bool, threaded: bool) -> Iterator[object]:
    """Batches without end from packed images; the LR made here, or left to the device."""
    degradation = Bicubic(SCALE)
    finish = (lambda windows: make_pairs(windows, degradation)) if make_low_res else (lambda windows: windows)
    crops = CropDataset(packed.images(), CROP, degradation, 0, True, 1 << 60, in_memory=False)
    sampler = StepSampler(BATCH, 0, 1, 1 << 40, lambda: 0)
    if threaded:
        return iter(ThreadedLoader(crops, sampler, finish))
    return (finish(crops.__getitems__(numbers)) for numbers in sampler)


def rate(batches: Iterator[object], seconds: float) -> float:
    """Pairs per second over at least so many seconds."""
    for _ in range(3):
        next(batches)
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        next(batches)
        count += BATCH
    return count / elapsed


def forget_pages(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident_mib() -> float:
    """Memory of this process, without the pages of mapped files."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def measure_packed(packed: PackedImages, rounds: int, seconds: float) -> None:
    """Print the rates of each round, from a cold page cache on."""
    forget_pages(packed.folder / "pixels.bin")
    print(f"packed, {packed.pixels.nbytes / 2**20:,.0f} MiB, pairs per second in rounds of {seconds:g} s")
    for what, make_low_res in (("exact LR on the CPU", True), ("LR left to the device", False)):
        batches = ours(packed, make_low_res=make_low_res, threaded=False)
        print(f"{what}: {', '.join(f'{rate(batches, seconds):,.0f}' for _ in range(rounds))}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--photographs", type=Path, help="folder of photographs to cut 2K PNGs from")
    source.add_argument("--packed", type=Path, help="a packed folder, to be read without rivals")
    parser.add_argument("--count", type=int, default=20, help="number of 2K PNGs")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each reader in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--batches", type=int, default=36_000, help="of the memory test: an hour at 10 iterations a second"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    if options.packed:
        measure_packed(PackedImages(options.packed), options.rounds, options.seconds)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"writing {options.count} PNGs of 2040×1356 and the rivals' copies …", flush=True)
        paths = make_photographs(options.photographs, folder / "hr", options.count)
        rivals = {
            "whole PNGs": whole_files(paths, folder / "lr").batches(),
            "480² in LMDB": sub_images_in_lmdb(paths, folder / "lmdb").batches(),
        }
        packed = pack(check_images(list_images([folder / "hr"], "FOLDER"), "refuse"), folder / "packed")
        readers = {
            **rivals,
            "packed, exact LR on the CPU": ours(packed, make_low_res=True, threaded=False),
            "packed, LR left to the device": ours(packed, make_low_res=False, threaded=False),
            "the same in a thread": ours(packed, make_low_res=False, threaded=True),
        }
        rates: dict[str, list[float]] = {reader: [] for reader in readers}
        for _ in range(options.rounds):
            for reader, batches in readers.items():
                rates[reader].append(rate(batches, options.seconds))
        readers["the same in a thread"].close()  # type: ignore[attr-defined]

        pixels = folder / "packed" / "pixels.bin"
        cold = []
        for _ in range(options.rounds):
            forget_pages(pixels)
            cold.append(rate(ours(PackedImages(folder / "packed"), make_low_res=True, threaded=False), options.seconds))
        rates["packed, exact LR, page cache dropped before"] = cold

        medians = {reader: statistics.median(values) for reader, values in rates.items()}
        print(f"\npairs per second on one core, medians of {options.rounds} rounds of {options.seconds:g} s\n")
        print("| reader | pairs/s | × LMDB | × whole PNGs |\n|---|---:|---:|---:|")
        for reader, median in medians.items():
            ratios = (median / medians[rival] for rival in ("480² in LMDB", "whole PNGs"))
            print(f"| {reader} | {median:,.0f} | " + " | ".join(f"{ratio:,.1f}" for ratio in ratios) + " |")

        print(f"\nmemory over {options.batches:,} batches (anonymous, MiB):", end=" ", flush=True)
        batches = ours(packed, make_low_res=False, threaded=True)
        for number in range(options.batches + 1):
            next(batches)
            if number % max(1, options.batches // 6) == 0:
                print(f"{resident_mib():.0f}", end=" ", flush=True)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"(peak with mapped pages {peak:,.0f}; the packed file has {pixels.stat().st_size / 2**20:,.0f})")


if __name__ == "__main__":
    main()
