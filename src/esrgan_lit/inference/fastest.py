"""The fastest engine on this machine, by a trial that is remembered."""

import importlib.metadata
import json
import math
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm import tqdm

from esrgan_lit.files import cache_folder, write_whole
from esrgan_lit.inference.engines import Engine, EngineName, body_of, installed, make_engine, prepared_bytes
from esrgan_lit.inference.memory import free_memory
from esrgan_lit.networks.generator import Generator

BUSY = 25  # per cent of the processor taken by other programs, above which a trial of engines is not remembered


def fastest(generator: Generator, side: int = 64, max_memory: int | None = None) -> EngineName:
    """The installed engine that computes this architecture soonest on this machine's CPU, by trying all of them.

    Each runs the whole network, as it will for images, on one of side × side pixels. That takes from seconds to half a
    minute, once: ``engines.json`` in the user's cache remembers it for the architecture, the processor, the threads and
    the versions of all engines. Delete the file for another trial. Nothing is remembered while other programs keep the
    processor busy.

    Args:
        generator: of the architecture.
        side: of the image that is tried, in pixels.
        max_memory: bytes that the process may take; engines whose weights would take more than half of what is left
            beside the others' are not tried.
    """
    engines: dict[EngineName, Engine] = {}
    allowed = (max_memory - psutil.Process().memory_info().rss if max_memory is not None else free_memory()) // 2
    for name in installed():
        allowed -= prepared_bytes(name, generator)
        if allowed > 0 or name == "torch":
            engines[name] = make_engine(name, generator)
    if len(engines) == 1:
        return "torch"
    versions = {name: _version(name) for name in ("esrgan_lit", *engines)}
    machine = [_processor(), torch.get_num_threads()]
    key = json.dumps([generator.architecture, side, machine, versions], sort_keys=True)
    file = cache_folder() / "engines.json"
    known = _remembered(file).get(key, {})
    if known and known.keys() <= engines.keys():
        return min(known, key=lambda name: known[name])
    busy = psutil.cpu_percent(0.2) > BUSY
    times = _trial(generator, engines, side)
    if not busy:
        with suppress(OSError):  # a home that cannot be written: tried again next time
            write_whole(file, json.dumps({**_remembered(file), key: times}, indent=1))
    return min(times, key=lambda name: times[name])


@torch.inference_mode()
def _trial(generator: Generator, engines: dict[EngineName, Engine], side: int) -> dict[EngineName, float]:
    """Least seconds of each engine for a whole image, the engines in turn, because a machine is busy now and then."""
    side = round_up(side, generator.unshuffle)
    image = torch.rand(1, generator.architecture["channels"], side, side)
    times: dict[EngineName, float] = {}
    everyone: list[EngineName] = [name for name in installed() if name in engines]
    rounds: list[list[EngineName]] = [everyone, everyone]  # the first is a warm-up
    with tqdm(total=4 * len(engines), desc="trying engines, once", unit="run", leave=False, delay=1) as bar:
        for number in range(4):
            if number == 2:  # what is far behind is not tried again
                near: list[EngineName] = [name for name in everyone if times[name] < 1.5 * min(times.values())]
                rounds += [near, near]
            for name in rounds[number]:
                engine = engines[name]
                start = time.perf_counter()
                head = engine.head(image)
                engine.finish()(engine.blocks(0, len(body_of(generator)))(head), head)
                taken = time.perf_counter() - start
                times[name] = taken if number < 2 else min(taken, times[name])
                bar.update()
    return times


def _remembered(path: Path) -> dict[str, dict[EngineName, float]]:
    """What earlier trials found, as far as the file can be read: seconds of each engine."""
    try:
        found: Any = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {key: times for key, times in found.items() if isinstance(times, dict)} if isinstance(found, dict) else {}


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""  # a build under another name


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "CPU part")))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def round_up(length: int, step: int) -> int:
    return math.ceil(length / step) * step
