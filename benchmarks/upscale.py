"""Upscaling measured: speed beside other programs, memory against its prediction, seams of tiles, exactness of strips.

    python benchmarks/upscale.py --weights FILE                      # speed, both engines beside spandrel
    python benchmarks/upscale.py --weights FILE --memory             # peak memory of fresh processes
    python benchmarks/upscale.py --weights FILE --seams PHOTOGRAPH…  # what tiles change, by overlap
    python benchmarks/upscale.py --weights FILE --strips PHOTOGRAPH… # what strips change: nothing
    python benchmarks/upscale.py --device cuda                       # frames a second: 480×640, 720² and 1080p (×2)

The rival of the speed table is spandrel's eager model (`pip install '.[test]'`). Each takes turns with it, because a
busy machine is noisy; times are medians, with the least beside them. ``esrgan_lit …`` goes from 8-bit pixels to 8-bit
pixels, and ``auto`` marks what ``esrgan-upscale`` takes; the largest difference is to spandrel's unrounded image and
comes from the engine alone.
"""

import argparse
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from esrgan_lit import RRDBNet, load_generator
from esrgan_lit.images.levels import to_image
from esrgan_lit.inference import winograd_library
from esrgan_lit.inference.upscaler import Upscaler
from esrgan_lit.networks.generator import Generator

MIB = 2**20
FRAMES = ["480x640@4", "720x720@4", "1080x1920@2"]
INSTALLED = ["torch", "winograd"] if winograd_library.available() else ["torch"]


def main() -> None:
    """Measure what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--device", help="frames a second there, of networks as initialized: speed asks for no more")
    parser.add_argument("--frames", nargs="+", default=FRAMES, metavar="HEIGHTxWIDTH@SCALE", help="with --device")
    parser.add_argument("--blocks", type=int, default=23, help="with --device")
    parser.add_argument("--compile", action="store_true", help="with --device: a row with Inductor, too")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--engines", nargs="+", default=INSTALLED, choices=["torch", "winograd"])
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--max-memory", type=int, help="MiB, with --memory")
    parser.add_argument("--seams", type=Path, nargs="+", metavar="PHOTOGRAPH")
    parser.add_argument("--strips", type=Path, nargs="+", metavar="PHOTOGRAPH")
    parser.add_argument("--side", type=int, default=256, help="of the photographs' centres that are enlarged")
    parser.add_argument("--tile", type=int, default=128)
    parser.add_argument("--overlaps", type=int, nargs="+", default=[8, 10, 16, 32, 64])
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # a fresh process of --memory
    options = parser.parse_args()
    if options.device:
        frames_table(options)
    elif not options.weights:
        parser.error("--weights FILE is missing")
    elif options.one:
        measure_memory(options.weights, *options.one, options.max_memory)
    elif options.memory:
        memory_table(options)
    elif options.seams:
        seam_table(load_generator(options.weights), options)
    elif options.strips:
        strip_table(load_generator(options.weights), options)
    else:
        speed_table(options)


def speed_table(options: argparse.Namespace) -> None:
    """Time everything in turns with spandrel's model, and print a table for each size."""
    import spandrel

    generator = load_generator(options.weights)
    theirs = spandrel.ModelLoader().load_from_file(options.weights).model.float().eval()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, load {os.getloadavg()[0]:.1f} at the start")
    for side in options.sizes:
        pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        low_res = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
        auto = Upscaler(generator, "auto", "cpu").engine.name
        print(f"\n{side}×{side}")
        print("| what | ms (least) | spandrel, ms (least) | × spandrel (of the least) | largest difference |")
        print("|---|---:|---:|---:|---:|", flush=True)
        with torch.inference_mode():
            reference = theirs(low_res)
            for name in options.engines:
                # One at a time: each row is there when it is measured, and one working memory is held.
                upscaler = Upscaler(generator, name, "cpu")
                run = partial(upscaler, pixels)
                difference = largest_difference(upscaler, low_res, reference)
                run()
                pairs = [(timed(run), timed(partial(theirs, low_res))) for _ in range(options.repeats)]
                (ours, our_least), (spandrels, their_least) = (
                    (statistics.median(times), min(times)) for times in zip(*pairs, strict=True)
                )
                cells = [f"esrgan_lit {name}" + " (auto)" * (name == auto)]
                cells += [
                    f"{ours * 1e3:.0f} ({our_least * 1e3:.0f})",
                    f"{spandrels * 1e3:.0f} ({their_least * 1e3:.0f})",
                ]
                cells += [f"{spandrels / ours:.2f} ({their_least / our_least:.2f})", f"{difference:.1e}"]
                print(f"| {' | '.join(cells)} |", flush=True)
                run = upscaler = None
                gc.collect()


def frames_table(options: argparse.Namespace) -> None:
    """Print frames a second from 8-bit pixels to 8-bit pixels, in turns with spandrel's model in the same precision.

    Both are channels last, in fp16 on CUDA and in fp32 elsewhere; ×2 unshuffles pixels, as the released network does.
    """
    import spandrel

    device = torch.device(options.device)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(
        f"{device} ({name}), {dtype}, torch {torch.__version__}, {options.blocks} blocks, median of {options.repeats}"
    )
    print("| frame | what | frames/s | spandrel, frames/s | × spandrel |\n|---|---|---:|---:|---:|", flush=True)
    for frame in options.frames:
        height, width, scale = map(int, re.split("[x@]", frame))
        generator = RRDBNet(scale, options.blocks, unshuffle=2 if scale == 2 else 1)
        theirs = spandrel.ModelLoader().load_from_state_dict(generator.state_dict()).model.eval()
        theirs = theirs.to(device, dtype, memory_format=torch.channels_last)
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)

        @torch.inference_mode()
        def eager(pixels: np.ndarray = pixels, theirs: torch.nn.Module = theirs) -> np.ndarray:
            low_res = torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None].to(dtype) / 255
            large = theirs(low_res.contiguous(memory_format=torch.channels_last))[0].permute(1, 2, 0)
            return (large.clamp(0, 1) * 255).round().byte().cpu().numpy()

        for compiled in (False, True)[: 1 + options.compile]:
            run = partial(Upscaler(generator, "auto" if not compiled else "torch", device, compiled=compiled), pixels)
            run(), eager()
            pairs = [(timed(run), timed(eager)) for _ in range(options.repeats)]
            ours, others = (1 / statistics.median(column) for column in zip(*pairs, strict=True))
            cells = [
                f"{height}×{width} ×{scale}",
                "esrgan_lit" + " compiled" * compiled,
                f"{ours:.2f}",
                f"{others:.2f}",
            ]
            print(f"| {' | '.join(cells)} | {ours / others:.2f} |", flush=True)


def timed(run: Callable[[], object]) -> float:
    """Seconds that it took."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def largest_difference(upscaler: Upscaler, low_res: torch.Tensor, reference: torch.Tensor) -> float:
    """Of the unrounded images."""
    image = upscaler._single(low_res, 3, lambda done: None)
    return float((torch.from_numpy(image).permute(2, 0, 1)[None] - reference).abs().max())


def memory_table(options: argparse.Namespace) -> None:
    """Print what fresh processes took at most, beside the prediction they made before."""
    print("| engine | input | at rest, MiB | predicted peak, MiB | measured peak, MiB | measured / predicted | s |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for side in options.sizes:
        for name in ["spandrel", *options.engines]:
            command = [sys.executable, __file__, "--weights", str(options.weights), "--one", name, str(side), str(side)]
            command += ["--max-memory", str(options.max_memory)] if options.max_memory else []
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            row = json.loads(done.stdout.splitlines()[-1])
            print(
                f"| {name} | {side}² | {row['rest']:.0f} | {row['predicted']:.0f} | {row['peak']:.0f} | "
                f"{row['peak'] / row['predicted']:.2f} | {row['seconds']:.1f} |",
                flush=True,
            )


def measure_memory(weights: Path, name: str, height: str, width: str, limit: int | None) -> None:
    """Enlarge one image in this process, and print a line of JSON."""
    pixels = np.random.default_rng(0).integers(0, 256, (int(height), int(width), 3), np.uint8)
    predicted = float("nan")
    if name == "spandrel":
        import spandrel

        theirs = spandrel.ModelLoader().load_from_file(weights).model.float().eval()
        low_res = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255

        def run() -> None:
            with torch.inference_mode():
                to_image(theirs(low_res))
    else:
        upscaler = Upscaler(load_generator(weights), name, "cpu", max_memory=limit and limit * MIB)  # pyright: ignore[reportArgumentType]
        predicted = upscaler.predicted_bytes(int(height), int(width)) / MIB

        def run() -> None:
            upscaler(pixels)

    Path("/proc/self/clear_refs").write_text("5")  # from here on: what loading took at most is not asked for
    rest = most_taken()
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    peak = most_taken()
    print(json.dumps({"rest": rest, "predicted": predicted, "peak": peak, "seconds": seconds}))


def most_taken() -> float:
    """Most MiB that this process has taken; Linux's ru_maxrss would begin with those of the process that started it."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def centres(paths: list[Path], side: int) -> list[np.ndarray]:
    """Squares from the middle of photographs."""
    images = [np.array(Image.open(path).convert("RGB")) for path in paths]
    corners = [((image.shape[0] - side) // 2, (image.shape[1] - side) // 2) for image in images]
    return [image[top : top + side, left : left + side] for image, (top, left) in zip(images, corners, strict=True)]


def seam_table(generator: Generator, options: argparse.Namespace) -> None:
    """Print what tiles change in the 8-bit result."""
    images = centres(options.seams, options.side)
    engine = options.engines[0] if len(options.engines) == 1 else Upscaler(generator, "auto", "cpu").engine.name
    whole = [Upscaler(generator, engine, "cpu")(image).astype(int) for image in images]
    print(f"{len(images)} photographs of {options.side}², tiles of {options.tile}, {engine}, 8-bit levels")
    print("| overlap | values changed | pixels changed | largest difference | time / whole |")
    print("|---:|---:|---:|---:|---:|")
    for overlap in options.overlaps:
        tiled = Upscaler(generator, engine, "cpu", tile=options.tile, overlap=overlap)
        changes = np.stack(
            [np.abs(tiled(image).astype(int) - truth) for image, truth in zip(images, whole, strict=True)]
        )
        # computed pixels, not seconds: the machine's load must not show
        tiles = -(-options.side // options.tile)
        edges = [
            (max(0, at * options.tile - overlap), min(options.side, (at + 1) * options.tile + overlap))
            for at in range(tiles)
        ]
        work = (sum(end - start for start, end in edges) / options.side) ** 2
        print(
            f"| {overlap} | {(changes > 0).mean():.2%} | {(changes > 0).any(-1).mean():.2%} | {changes.max()} | "
            f"{work:.2f} |",
            flush=True,
        )


@torch.inference_mode()
def strip_table(generator: Generator, options: argparse.Namespace) -> None:
    """Print what strips change, in the unrounded image and in 8 bits."""
    print("| engine | strips of rows, trunk / tail | largest difference | 8-bit values changed |\n|---|---|---:|---:|")
    images = centres(options.strips, options.side)
    for name in options.engines:
        upscaler = Upscaler(generator, name, "cpu")
        for trunk_rows, tail_rows in ((options.side, 8), (options.side, 50), (16, 8), (48, 64), (100, 50)):
            raw, levels = [], []
            for image in images:
                low_res = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
                outputs = []
                for rows in ((options.side, options.side), (trunk_rows, tail_rows)):
                    plan = Upscaler._plan(upscaler, options.side, options.side, 2**45)
                    assert plan is not None
                    plan = plan._replace(trunk_rows=rows[0], tail_rows=rows[1])
                    upscaler._plan = lambda height, width, budget, plan=plan: plan
                    outputs.append(upscaler._single(low_res, 3, lambda done: None))
                raw.append(np.abs(outputs[0] - outputs[1]).max())
                first, second = (np.round(np.clip(output, 0, 1) * 255) for output in outputs)
                levels.append((first != second).mean())
            print(f"| {name} | {trunk_rows} / {tail_rows} | {max(raw):.1e} | {np.mean(levels):.4%} |", flush=True)


if __name__ == "__main__":
    main()
