"""Nothing grows over many iterations, image sizes and uses of each engine: memory, open files and threads."""

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from omegaconf import DictConfig

from esrgan_lit import RRDBNet
from esrgan_lit.inference.upscale import upscale
from esrgan_lit.inference.upscaler import Upscaler
from esrgan_lit.inference.winograd_library import available
from esrgan_lit.training.trainer import fit, prepare

MEGABYTES = 60  # what allocators keep in reserve; 3,000 uses that each lose a small image would take more


def assert_level(use: Callable[[int], object], first: int, more: int) -> None:
    """Use something ``first`` times, so that what is kept is there, then ``more`` times without growth."""
    process = psutil.Process()

    def measured(numbers: range) -> tuple[float, int, int]:
        for number in numbers:
            use(number)
        gc.collect()
        return process.memory_info().rss / 1e6, process.num_fds(), threading.active_count()

    memory, files, threads = measured(range(first))
    memory_now, files_now, threads_now = measured(range(first, first + more))
    assert memory_now - memory < MEGABYTES, f"{memory_now - memory:.0f} MB more after {more} uses"
    assert files_now <= files
    assert threads_now <= threads


def network() -> RRDBNet:
    torch.manual_seed(0)
    return RRDBNet(scale=2, blocks=1, width=8, growth=4).eval()


def image(number: int) -> np.ndarray:
    """Return an image whose size no other number below 1,800 has."""
    return np.full((4 + number % 60, 4 + number // 60 % 30, 3), number % 256, np.uint8)


ENGINES = ["torch", pytest.param("winograd", marks=pytest.mark.skipif(not available(), reason="no C++ compiler"))]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("first", "more"), [(40, 200), pytest.param(1800, 1800, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_image_sizes(engine: str, first: int, more: int) -> None:
    """All 1,800 sizes come once before: oneDNN keeps what it has made ready for the last 1,024 convolutions."""
    upscaler = Upscaler(network(), engine)
    assert_level(lambda number: upscaler(image(number * 7)), first, more)


USES = pytest.mark.parametrize("uses", [40, pytest.param(300, marks=pytest.mark.slow)])


@USES
@pytest.mark.parametrize("engine", ENGINES)
def test_new_engines(engine: str, uses: int) -> None:
    assert_level(lambda number: Upscaler(network(), engine)(image(10)), 20, uses)


@USES
def test_one_call_for_ever_new_networks(uses: int) -> None:
    assert_level(lambda number: upscale(image(10), network()), 20, uses)


@pytest.mark.parametrize("steps", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_iterations(steps: int, configure: Callable[..., DictConfig], tmp_path: Path) -> None:
    """The run measures itself (``growth.Watch``): from a sixth of its iterations to the last."""
    config = configure(
        "psnr_rrdb23",
        f"trainer.max_steps={steps}",
        f"trainer.val_check_interval={steps // 3}",
        f"+trainer.callbacks.watch={{_target_: growth.Watch, first: {steps // 6}}}",
    )
    fit(config, *prepare(config))
    memory, files, threads = np.loadtxt(tmp_path / "run" / "growth.txt")
    assert memory < MEGABYTES
    assert files <= 0
    assert threads <= 0
