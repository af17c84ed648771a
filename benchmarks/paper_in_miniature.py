"""The paper in miniature: train small networks on a folder of photographs and see which of the paper's claims show.

    python benchmarks/paper_in_miniature.py --photographs FOLDER [--test-images FOLDER …] [--vgg FILE] -o FOLDER

For each seed `esrgan-train` trains a PSNR stage, a GAN stage on it, and the same with features after the activation;
and such a pair on the layer whose features are sparsest. Seeds go side by side. Every eighth photograph is held out,
and the claims are judged on the centres of those and on every folder of --test-images. The report is `report.md` in
the output folder, with pictures beside it. The same command goes on where it was stopped. It takes less than an hour on
two cores, and needs VGG19 (`--vgg imagenet` downloads it, or a file that holds its first half) and NIQE's parameters
(downloaded once, or --niqe-parameters FILE).
"""

import argparse
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from itertools import pairwise, zip_longest
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from kornia.filters import gaussian_blur2d
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from tqdm import tqdm

from esrgan_lit.data.packed import pack
from esrgan_lit.data.photographs import Photograph, check_images
from esrgan_lit.degradations.bicubic import Bicubic, crop_to_multiple
from esrgan_lit.evaluation.evaluate import evaluate
from esrgan_lit.evaluation.methods import BICUBIC, Runner, alpha_series, bicubic, network, series_name
from esrgan_lit.evaluation.test_sets import TestSet, open_sets
from esrgan_lit.files import write_text
from esrgan_lit.images.levels import to_batch
from esrgan_lit.images.listing import list_images
from esrgan_lit.images.reading import read_image
from esrgan_lit.images.writing import save_image
from esrgan_lit.metrics.fidelity import luma
from esrgan_lit.metrics.metric import Metric, MetricOptions, MetricUnavailableError
from esrgan_lit.metrics.niqe import BLOCK
from esrgan_lit.metrics.registry import make_metric
from esrgan_lit.reports.comparison import read_output
from esrgan_lit.reports.evaluation import SetReport, results_table
from esrgan_lit.reports.plots import crops_of_difference, cut, draw_grid, pyplot, save_figure
from esrgan_lit.reports.runs import logs_in, read_curves
from esrgan_lit.reports.tables import Column, Table, Value
from esrgan_lit.training.checkpointing import read_checkpoint

SCALE = 4
HELD_OUT_EVERY = 8
CENTRE = 512  # side of the held-out photographs' centres
LEAST = 2 * BLOCK + 2 * SCALE  # side of an image with four of NIQE's blocks behind its border
ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SIGMA = 8  # of the Gaussian behind which only brightness is left, in pixels
TOLERANCE = 0.01  # of what lies between the two stages: so much counts as equally good
HELD_OUT = "held out"
SETTINGS = "settings.yaml"  # what a training was begun with
LAYER = "conv3_4"  # of miniature_gan
SPARSE_LAYER = "conv2_2"  # of the layers up to conv3_4 the one with the fewest active features
SPARSE_WEIGHT = 7e-3  # its features differ by about 110: weighted, about as much as conv3_4's
STAGES = {
    "psnr": "PSNR stage",
    "gan": "GAN stage",
    "gan_after": "GAN stage, features after activation",
    "sparse": f"GAN stage on {SPARSE_LAYER}",
    "sparse_after": f"GAN stage on {SPARSE_LAYER}, features after activation",
}
GAN_COST = 3  # of an iteration, in iterations of the PSNR stage; for the progress bar

Figures = Mapping[str, float]  # metric → figure of a test set


# What is measured ----------------------------------------------------------------------------------------------------


def brightness_metrics() -> list[Metric]:
    """Two distances of the luma behind a Gaussian: of its histograms, and pixel by pixel; in levels."""

    def of_histograms(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        first, second = (low_pass(images).flatten(1).sort(1).values for images in (output, truth))
        return (first - second).abs().mean(1)

    def of_pixels(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        return (low_pass(output) - low_pass(truth)).abs().mean((1, 2, 3))

    blurred = f"luma (16–235, in levels) behind a Gaussian of σ = {SIGMA} px, {SCALE} border pixels shaved"
    histograms = f"mean distance of the histograms (Wasserstein-1) of {blurred}"
    pixels = f"mean absolute difference of {blurred}"
    return [
        Metric("histogram", "brightness histogram", histograms, False, 3, of_histograms),
        Metric("brightness", "brightness map", pixels, False, 3, of_pixels),
    ]


def low_pass(images: Tensor) -> Tensor:
    """Luma of (batch, 3, height, width) RGB in [0, 1] behind a Gaussian of :data:`SIGMA`, its border shaved."""
    values = luma(images[..., SCALE:-SCALE, SCALE:-SCALE]).float()
    return gaussian_blur2d(values, 6 * SIGMA + 1, (SIGMA, SIGMA))  # mirrored at the border


# The claims ----------------------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """What the networks of one seed reach on one test set.

    Attributes:
        bicubic: MATLAB's.
        networks: α → figures of the interpolated network; 0 is the PSNR stage, 1 the GAN stage.
        images: α → figures of the interpolated outputs, with the same ends.
        brightness: layer → figures of the GAN stages on its features before and after the activation.
    """

    bicubic: Figures
    networks: Mapping[float, Figures]
    images: Mapping[float, Figures]
    brightness: Mapping[str, tuple[Figures, Figures]]


class Finding(NamedTuple):
    """Whether a claim shows, and the figures that say so."""

    holds: bool
    figures: str


def judge_psnr_stage(measured: Measured) -> Finding:
    """PSNR stage > bicubic."""
    before, after = measured.bicubic["psnr_y"], measured.networks[0]["psnr_y"]
    return Finding(after > before, f"PSNR-Y {before:.2f} → {after:.2f} dB ({after - before:+.2f})")


def judge_gan_stage(measured: Measured) -> Finding:
    """NIQE and VGG distance fall, and so does PSNR."""
    psnr, gan = measured.networks[0], measured.networks[1]
    holds = all(gan[name] < psnr[name] for name in ("niqe", "vgg", "psnr_y"))
    return Finding(
        holds,
        f"NIQE {psnr['niqe']:.2f} → {gan['niqe']:.2f}, VGG distance {psnr['vgg']:.4f} → {gan['vgg']:.4f}, "
        f"PSNR-Y {psnr['psnr_y']:.2f} → {gan['psnr_y']:.2f} dB",
    )


def judge_monotone(measured: Measured) -> Finding:
    """PSNR of the interpolated network falls from each α to the next."""
    values = [measured.networks[alpha]["psnr_y"] for alpha in sorted(measured.networks)]
    holds = all(after < before for before, after in pairwise(values))
    return Finding(holds, "PSNR-Y " + ", ".join(f"{value:.2f}" for value in values) + " dB")


def judge_interpolation(measured: Measured) -> Finding:
    """At equal PSNR, the network's NIQE and VGG distance are no worse than the image's, within the tolerance."""
    holds, figures = True, []
    for name, title, digits in (("niqe", "NIQE", 3), ("vgg", "VGG distance", 5)):
        gain = advantage(measured.networks, measured.images, name)
        gap = abs(measured.networks[0][name] - measured.networks[1][name])
        holds = holds and gain >= -TOLERANCE * gap
        figures.append(
            f"{title} {-gain:+.{digits}f} ({-gain / gap if gap else math.nan:+.1%} of the stages' difference)"
        )
    return Finding(holds, "network minus image: " + ", ".join(figures))


def advantage(networks: Mapping[float, Figures], images: Mapping[float, Figures], name: str) -> float:
    """How much better (lower) a metric is by networks than by images, on average over the PSNR that both reach.

    Each curve over α is taken from its highest PSNR on, as metric over PSNR, and interpolated linearly between its
    points. NaN where a curve goes back in PSNR, or the two share none.
    """
    curves = []
    for points in (networks, images):
        psnr = [points[alpha]["psnr_y"] for alpha in sorted(points)]
        values = [points[alpha][name] for alpha in sorted(points)]
        top = int(np.argmax(psnr))
        falling, values = np.array(psnr[top:])[::-1], np.array(values[top:])[::-1]
        if len(falling) < 2 or not (np.diff(falling) > 0).all():
            return math.nan
        curves.append((falling, values))
    least = max(psnr[0] for psnr, _ in curves)
    most = min(psnr[-1] for psnr, _ in curves)
    if not least < most:
        return math.nan
    grid = np.linspace(least, most, 1001)
    by_networks, by_images = (np.interp(grid, psnr, values) for psnr, values in curves)
    return float((by_images - by_networks).mean())


def judge_brightness(measured: Measured, layer: str) -> Finding:
    """Both distances of brightness are smaller with features before the activation."""
    before, after = measured.brightness[layer]
    holds = all(before[name] < after[name] for name in ("histogram", "brightness"))
    return Finding(
        holds,
        f"histogram {before['histogram']:.3f} before, {after['histogram']:.3f} after; "
        f"map {before['brightness']:.3f} before, {after['brightness']:.3f} after (levels off the truth)",
    )


CLAIMS: dict[str, Callable[[Measured], Finding]] = {
    "The PSNR stage beats bicubic on PSNR": judge_psnr_stage,
    "The GAN stage beats the PSNR stage on NIQE and on a perceptual distance, and loses PSNR": judge_gan_stage,
    f"PSNR falls monotonically over α = {', '.join(f'{alpha:g}' for alpha in ALPHAS)}": judge_monotone,
    "Network interpolation is at least as good as image interpolation at equal PSNR": judge_interpolation,
    f"Features before the activation give a brightness closer to the truth than after, on {LAYER}": partial(
        judge_brightness, layer=LAYER
    ),
    f"The same on {SPARSE_LAYER}, whose features are sparser": partial(judge_brightness, layer=SPARSE_LAYER),
}


# Training ------------------------------------------------------------------------------------------------------------


class Training(NamedTuple):
    """One stage of one seed.

    Attributes:
        seed: of initialisation and data.
        stage: key of :data:`STAGES`.
        folder: of the run.
        overrides: arguments of `esrgan-train`.
        config: what they compose to.
    """

    seed: int
    stage: str
    folder: Path
    overrides: list[str]
    config: DictConfig

    @property
    def iterations(self) -> int:
        """How many it has."""
        return self.config.trainer.max_steps

    @property
    def checkpoint(self) -> Path:
        """What it ends with."""
        return self.folder / "checkpoints" / "last.ckpt"

    def is_done(self) -> bool:
        """Whether its last iteration is saved."""
        try:
            content = read_checkpoint(self.checkpoint, whole=True)
        except (OSError, ValueError):
            return False
        return content["global_step"] >= self.iterations

    def step(self) -> int:
        """Its iteration, as far as its logs tell."""
        curves = read_curves(logs_in(self.folder))
        return max((points[-1][0] for points in curves.values()), default=0)


def plan_trainings(options: argparse.Namespace, store: Path) -> list[Training]:
    """The trainings of all seeds, each stage composed once so that what is wrong is said before time is spent."""
    trainings = []
    with initialize_config_module("esrgan_lit.conf", version_base="1.3"):
        for seed in options.seeds:
            first = options.output.absolute() / f"seed_{seed}" / "psnr" / "checkpoints" / "last.ckpt"
            perceptual = [f"stage.start_from={quoted(first)}", f"stage.perceptual.weights={quoted(options.vgg)}"]
            gan = ["+experiment=miniature_gan", *perceptual, *options.gan]
            after = ["stage.perceptual.before_activation=false"]
            sparse = [f"stage.perceptual.layer={SPARSE_LAYER}", f"stage.loss_weights.perceptual={SPARSE_WEIGHT}"]
            for stage, own in {
                "psnr": ["+experiment=miniature_psnr", *options.psnr],
                "gan": gan,
                "gan_after": [*gan, *after],
                "sparse": [*gan, *sparse],
                "sparse_after": [*gan, *sparse, *after],
            }.items():
                folder = options.output.absolute() / f"seed_{seed}" / stage
                overrides = [*own, f"seed={seed}", f"data.train=[{quoted(store.absolute())}]"]
                try:
                    config = compose("train", [*overrides, "output_dir=RUN"])
                except (HydraException, OmegaConfBaseException) as error:
                    raise ValueError(f"{STAGES[stage]}: {error}") from error
                check_settings(folder, config)
                overrides += [f"hydra.run.dir={quoted(folder)}", "resume=auto"]
                trainings.append(Training(seed, stage, folder, overrides, config))
    return trainings


def check_settings(folder: Path, config: DictConfig) -> None:
    """Refuse to go on with a training that was begun with another configuration."""
    path = folder / SETTINGS
    before = path.read_text(encoding="utf-8").splitlines() if path.is_file() else None
    for old, new in zip_longest(before or (), OmegaConf.to_yaml(config).splitlines() if before else (), fillvalue=""):
        if old != new:
            raise ValueError(
                f"{folder} was begun with {old.strip()!r}, and this command says {new.strip()!r}; "
                "delete the folder to train anew, or name another with --output"
            )


def quoted(value: str | Path) -> str:
    """A string as Hydra's overrides take it, whatever it contains."""
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


class TrainingError(RuntimeError):
    """A training ended without its last checkpoint."""


def train_all(trainings: Sequence[Training], jobs: int, output: Path) -> None:
    """Run what is not done yet, the stages of a seed one after the other, ``jobs`` seeds side by side.

    Raises:
        TrainingError: when a training fails or is stopped; the others are stopped too, with their checkpoints saved.
    """
    done = {training.folder for training in trainings if training.is_done()}
    running: dict[Path, subprocess.Popen[bytes]] = {}
    stopping, noting = threading.Event(), threading.Lock()
    threads = max(1, (os.cpu_count() or 1) // jobs)

    def train_seed(seed: int) -> None:
        for training in trainings:
            if training.seed != seed or training.folder in done:
                continue
            if stopping.is_set():
                return
            start = time.perf_counter()
            write_text(training.folder / SETTINGS, OmegaConf.to_yaml(training.config))
            with (training.folder / "output.txt").open("ab") as file:
                running[training.folder] = subprocess.Popen(
                    [command_path(), *training.overrides],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={"OMP_NUM_THREADS": str(threads)} | os.environ,
                )
                code = running[training.folder].wait()
            del running[training.folder]
            with noting:
                note_seconds(output, training, time.perf_counter() - start)
            if not training.is_done():
                if stopping.is_set():
                    return
                log = training.folder / "output.txt"
                tail = "\n".join(log.read_text(errors="replace").replace("\r", "\n").splitlines()[-15:])
                raise TrainingError(f"seed {seed}, {STAGES[training.stage]}: ended early (exit code {code}):\n{tail}")
            done.add(training.folder)

    def cost(training: Training, steps: int) -> int:
        return (1 if training.stage == "psnr" else GAN_COST) * min(steps, training.iterations)

    def finished() -> int:
        return sum(cost(one, one.iterations if one.folder in done else one.step()) for one in trainings)

    total = sum(cost(training, training.iterations) for training in trainings)
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} and {remaining} to go{postfix}"
    with (
        tqdm(desc="training", total=total, initial=finished(), bar_format=form) as bar,
        ThreadPoolExecutor(jobs) as pool,
    ):
        futures = [pool.submit(train_seed, seed) for seed in dict.fromkeys(one.seed for one in trainings)]
        try:
            while wait(futures, timeout=1, return_when=FIRST_EXCEPTION).not_done:
                for future in futures:
                    if future.done():
                        future.result()
                bar.n = finished()
                now = [one for one in trainings if one.folder in running]
                bar.set_postfix_str(", ".join(f"seed {one.seed} {one.stage} {one.step()}" for one in now))
            for future in futures:
                future.result()
            bar.n = total
        finally:
            stopping.set()
            for process in list(running.values()):
                process.terminate()  # it saves and ends


def command_path() -> str:
    """`esrgan-train` of this interpreter's environment."""
    beside = Path(sys.executable).parent / "esrgan-train"
    found = str(beside) if beside.is_file() else shutil.which("esrgan-train")
    if found is None:
        raise FileNotFoundError("there is no esrgan-train beside this Python; pip install esrgan_lit into it")
    return found


def note_seconds(output: Path, training: Training, seconds: float) -> None:
    """Add to the time that a training has taken, over all times that it was started."""
    noted = read_seconds(output)
    key = str(training.folder.relative_to(output.absolute()))
    noted[key] = noted.get(key, 0.0) + seconds
    write_text(output / "seconds.json", json.dumps(noted, indent=1))


def read_seconds(output: Path) -> dict[str, float]:
    """Folder of a training → seconds."""
    path = output / "seconds.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


# Test images ---------------------------------------------------------------------------------------------------------


def hold_out(photographs: Sequence[Photograph]) -> tuple[list[Photograph], list[Photograph]]:
    """(to train on, held out): every eighth of those that NIQE can judge is held out."""
    large = [photo for photo in photographs if min(photo.height, photo.width) >= LEAST]
    if len(large) < 2 * HELD_OUT_EVERY:
        raise ValueError(
            f"--photographs: {len(large)} of {len(photographs)} images have {LEAST} pixels a side or more; give at "
            f"least {2 * HELD_OUT_EVERY}, because every {HELD_OUT_EVERY}th of them is held out and measured with NIQE"
        )
    held_out = large[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]
    return [photo for photo in photographs if photo not in held_out], held_out


def write_centres(photographs: Sequence[Photograph], folder: Path) -> None:
    """Write the centres of the held-out photographs."""
    for number, photo in enumerate(photographs):
        path = folder / f"{number:03d}_{photo.path.stem}.png"
        if not path.is_file():
            image = read_image(photo.path)
            top, left = (max(0, (size - CENTRE) // 2) for size in image.shape[:2])
            save_image(crop_to_multiple(image[top : top + CENTRE, left : left + CENTRE], SCALE), path)


def check_test_images(folders: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Test sets by name, from their folders.

    Raises:
        ValueError: for a folder without images, or images too small for NIQE.
    """
    sets = {}
    for folder in folders:
        images = check_images(list_images([folder], "--test-images"), "refuse")
        small = [image for image in images if min(image.height, image.width) < LEAST]
        if small:
            raise ValueError(
                f"--test-images: {small[0].path} is {small[0].width}×{small[0].height}, and {LEAST}×{LEAST} are needed "
                f"for NIQE ({len(small)} such in {folder}); take them out"
            )
        name = folder.absolute().parent.name if folder.name.upper() in ("HR", "GT") else folder.absolute().name
        if name in sets or name == HELD_OUT:
            raise ValueError(f"--test-images: two sets would be called {name!r}; rename one of the folders")
        sets[name] = {"hr": str(folder)}
    return sets


# The report ----------------------------------------------------------------------------------------------------------


def measure(
    sets: Sequence[TestSet], trainings: Sequence[Training], metrics: Sequence[Metric], output: Path
) -> list[SetReport]:
    """Run and score every method of every seed on every set."""
    runner = Runner(SCALE)
    methods = [bicubic(SCALE)]
    for seed in dict.fromkeys(training.seed for training in trainings):
        weights = {one.stage: one.checkpoint for one in trainings if one.seed == seed}
        own = alpha_series(weights["psnr"], weights["gan"], ALPHAS, runner)
        own += [network(STAGES[stage], weights[stage], runner) for stage in list(STAGES)[2:]]
        methods += [method._replace(name=f"seed {seed}: {method.name}") for method in own]
    workers, threads = os.cpu_count() or 1, torch.get_num_threads()
    torch.set_num_threads(1)  # each worker's own
    try:
        results = evaluate(sets, methods, metrics, output / "evaluation", workers)
    finally:
        torch.set_num_threads(threads)
    return [SetReport(test_set, results, metrics) for test_set in sets]


def names_of(seed: int, alpha: float, by: str) -> str:
    """Name of an α's method: by ``networks`` or by ``images``."""
    return f"seed {seed}: {series_name(alpha, by)}"


def measured(report: SetReport, seed: int) -> Measured:
    """One seed's figures on one set."""
    networks, images = (
        {alpha: report.figures[names_of(seed, alpha, by)] for alpha in ALPHAS} for by in ("networks", "images")
    )
    others = {stage: report.figures[f"seed {seed}: {title}"] for stage, title in list(STAGES.items())[2:]}
    pairs = {LAYER: (networks[1], others["gan_after"]), SPARSE_LAYER: (others["sparse"], others["sparse_after"])}
    return Measured(report.figures[BICUBIC], networks, images, pairs)


def judge(reports: Sequence[SetReport], seeds: Sequence[int]) -> dict[str, dict[tuple[str, int], Finding]]:
    """Claim → (test set, seed) → finding."""
    places = [(report, seed) for report in reports for seed in seeds]
    return {
        claim: {(report.test_set.name, seed): judgement(measured(report, seed)) for report, seed in places}
        for claim, judgement in CLAIMS.items()
    }


def claims_markdown(findings: Mapping[str, Mapping[tuple[str, int], Finding]]) -> str:
    """The claims, each with its verdict and a row per test set and seed."""
    verdicts: list[list[Value]] = []
    rows: list[list[Value]] = []
    for number, (claim, places) in enumerate(findings.items(), 1):
        count = sum(finding.holds for finding in places.values())
        verdict = "holds" if count == len(places) else "does not hold" if not count else "holds in part"
        verdicts.append([f"{number}. {claim}", f"{verdict} ({count} of {len(places)})"])
        for (name, seed), finding in places.items():
            rows.append([str(number), name, str(seed), finding.figures, "yes" if finding.holds else "NO"])
    titles = ("claim", "test set", "seed", "figures", "holds")
    tables = Table([Column("claim"), Column("verdict")], verdicts), Table([Column(title) for title in titles], rows)
    return "\n".join(table.markdown() for table in tables)


def balance_table(trainings: Sequence[Training]) -> Table:
    """What the terms of the GAN stages weighed, and how the discriminator did."""
    rows: list[list[Value]] = []
    for training in trainings:
        if training.stage != "psnr":
            weights = training.config.stage.loss_weights
            curves = read_curves(logs_in(training.folder))

            def mean(name: str, curves: Mapping[str, Any] = curves) -> float:
                return float(np.mean([value for _, value in curves[f"train/{name}"]]))

            terms = [weights[name] * mean(name) for name in ("perceptual", "adversarial", "pixel")]
            rival = [mean(name) for name in ("discriminator", "real_accuracy", "fake_accuracy")]
            rows.append([str(training.seed), STAGES[training.stage], *terms, *rival])
    forms = {"perceptual": ".2g", "adversarial": ".2g", "pixel": ".2g"}
    forms |= {"D's loss": ".2f", "D right on real": ".0%", "on fake": ".0%"}
    return Table([Column("seed"), Column("stage"), *(Column(title, form) for title, form in forms.items())], rows)


def draw_planes(reports: Sequence[SetReport], seeds: Sequence[int], path: Path) -> None:
    """NIQE and VGG distance over PSNR, a row per test set and seed: both curves over α, and the other methods."""
    plt = pyplot()
    rows = [(report, seed) for report in reports for seed in seeds]
    figure, axes = plt.subplots(len(rows), 2, figsize=(10, 3.4 * len(rows)), squeeze=False, layout="constrained")
    for pair, (report, seed) in zip(axes, rows, strict=True):
        found = measured(report, seed)
        for axis, (name, title) in zip(pair, {"niqe": "NIQE", "vgg": "VGG distance"}.items(), strict=True):
            for curve, label, style in (
                (found.networks, "network interpolation", "o-"),
                (found.images, "image interpolation", "x--"),
            ):
                points = [(curve[alpha]["psnr_y"], curve[alpha][name]) for alpha in ALPHAS]
                axis.plot(*zip(*points, strict=True), style, label=label)
            for figures, label, style in (
                (found.bicubic, "bicubic", "ks"),
                (found.networks[0], "PSNR stage", "g^"),
                (found.networks[1], "GAN stage", "rv"),
                (found.brightness[LAYER][1], STAGES["gan_after"], "m*"),
            ):
                axis.plot(figures["psnr_y"], figures[name], style, label=label)
            axis.set(xlabel="PSNR-Y in dB (more is closer)", ylabel=f"{title} (less is better)")
            axis.set_title(f"{report.test_set.name}, seed {seed}", fontsize=10)
            axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    save_figure(figure, path, dpi=90)


def draw_crops(report: SetReport, seed: int, path: Path, count: int = 4, side: int = 128) -> None:
    """Crops in which PSNR and GAN stage differ most, of the images in which they do."""
    columns = {
        "bicubic": BICUBIC,
        "PSNR stage": names_of(seed, 0, ""),
        "α = 0.8": names_of(seed, 0.8, "networks"),
        "GAN stage": names_of(seed, 1, ""),
        "after activation": f"seed {seed}: {STAGES['gan_after']}",
    }
    rows = []
    for case in report.test_set.cases:
        outputs = {title: read_output(report, case.name, method) for title, method in columns.items()}
        crop = crops_of_difference([outputs["PSNR stage"], outputs["GAN stage"]], side, 1)[0]
        outputs = {"ground truth": report.test_set.read(case).high_res, **outputs}
        crops = {title: cut(image, crop, side) for title, image in outputs.items()}
        difference = np.abs(crops["PSNR stage"].astype(float) - crops["GAN stage"]).mean()
        rows.append((difference, case.name, crops))
    rows = sorted(rows, key=lambda row: -row[0])[:count]
    draw_grid({name: crops for _, name, crops in rows}, path, width=1.9)


def draw_brightness(report: SetReport, seed: int, path: Path, count: int = 3) -> None:
    """Histograms as in Fig. 9, a row per layer: the images on which the two GAN stages differ most in brightness."""
    pairs = {
        LAYER: (names_of(seed, 1, ""), f"seed {seed}: {STAGES['gan_after']}"),
        SPARSE_LAYER: tuple(f"seed {seed}: {STAGES[stage]}" for stage in ("sparse", "sparse_after")),
    }
    truths = {case.name: report.test_set.read(case).high_res for case in report.test_set.cases}
    count = min(count, len(truths))
    figure, axes = pyplot().subplots(2, count, figsize=(4.6 * count, 6.6), squeeze=False, layout="constrained")
    for row, (layer, methods) in zip(axes, pairs.items(), strict=True):

        def difference(name: str, methods: Sequence[str] = methods) -> float:
            distances = [report.results[name][method].values["histogram"] for method in methods]
            return abs(distances[0] - distances[1])

        for axis, name in zip(row, sorted(truths, key=difference, reverse=True), strict=False):
            truth = low_pass(to_batch(truths[name])).flatten().numpy()
            span = float(truth.min()) - 3, float(truth.max()) + 3
            axis.hist(truth, bins=60, range=span, density=True, color="0.8", label="truth")
            for title, method in zip(("before activation", "after activation"), methods, strict=True):
                distance = report.results[name][method].values["histogram"]
                levels = low_pass(to_batch(read_output(report, name, method))).flatten().numpy()
                label = f"{title} ({distance:.2f} levels off)"
                axis.hist(levels, bins=60, range=span, density=True, histtype="step", label=label)
            axis.set(title=f"{layer}: {name}", xlabel=f"luma behind a Gaussian of σ = {SIGMA} px", yticks=[])
            axis.legend(fontsize=7)
    save_figure(figure, path, dpi=90)


def write_report(
    reports: Sequence[SetReport],
    trainings: Sequence[Training],
    metrics: Sequence[Metric],
    command: str,
    evaluation: float,
    output: Path,
) -> Path:
    """Write report and pictures; returns the report's path."""
    seeds = list(dict.fromkeys(training.seed for training in trainings))
    findings = judge(reports, seeds)
    draw_planes(reports, seeds, output / "planes.png")
    draw_crops(reports[0], seeds[0], output / "crops.png")
    draw_brightness(reports[0], seeds[0], output / "brightness.png")
    write_text(output / "results.csv", results_table(reports).csv())
    seconds = read_seconds(output)
    minutes = {one.folder: seconds.get(str(one.folder.relative_to(output.absolute())), 0) / 60 for one in trainings}
    lines = ["# The paper in miniature", "", f"`{command}`", "", claims_markdown(findings)]
    lines += ["A claim holds where it holds on every test set with every seed. At equal PSNR: over the PSNR that both"]
    lines += [f"interpolations reach, mean difference; up to {TOLERANCE:.0%} of what lies between the stages is equal."]
    lines += ["", "![NIQE and VGG distance over PSNR](planes.png)", "![Crops](crops.png)"]
    lines += ["![Brightness](brightness.png)", ""]
    for report in reports:
        lines += [f"## {report.test_set.name}", "", f"{len(report.results)} images; {report.test_set.origin}.", ""]
        lines += [report.table.markdown(), *(f"- {note}" for note in report.notes), ""]
    lines += ["## Balance of the GAN stages", "", "Terms as they are weighed, means over the training.", ""]
    lines += [
        balance_table(trainings).markdown(),
        "## Time",
        "",
        "Minutes on the clock, over all starts of a training.",
        "",
    ]
    lines += [f"- {minutes[one.folder]:.1f} min: `esrgan-train {shlex.join(one.overrides)}`" for one in trainings]
    lines += [f"- {evaluation / 60:.1f} min: evaluation (outputs and scores made before are not made again)", ""]
    lines += ["## Protocols", "", *(f"- **{metric.title}**: {metric.protocol}." for metric in metrics), ""]
    write_text(output / "report.md", "\n".join(lines))
    return output / "report.md"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(
        "paper_in_miniature.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", nargs="+", required=True, help="folders (recursive) or files to train on")
    parser.add_argument("--test-images", nargs="*", type=Path, default=[], help="folders of further test sets")
    parser.add_argument("--vgg", default="imagenet", help="state dict with torchvision's keys, up to conv3_4 at least")
    parser.add_argument("--niqe-parameters", help="niqe_pris_params.npz (default: downloaded once)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--jobs", type=int, help="seeds trained side by side (default: one per core)")
    parser.add_argument("--psnr", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of the PSNR stages")
    parser.add_argument("--gan", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of the GAN stages")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of runs and report")
    options = parser.parse_args(arguments)
    options.seeds = list(dict.fromkeys(options.seeds))
    options.jobs = options.jobs or min(len(options.seeds), os.cpu_count() or 1)
    if Path(options.vgg).exists():
        options.vgg = str(Path(options.vgg).absolute())
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Check everything, train, evaluate, judge, report."""
    options = parse(arguments)
    command = shlex.join(["python", "benchmarks/paper_in_miniature.py", *(arguments or sys.argv[1:])])
    try:
        if min(options.seeds) < 0:
            raise ValueError(f"--seeds: {min(options.seeds)} is negative; give numbers from 0 on")
        pyplot()
        command_path()
        names = MetricOptions(niqe_parameters=options.niqe_parameters, vgg_weights=options.vgg)
        metrics = [make_metric(name, SCALE, names) for name in ("psnr_y", "ssim_y", "rmse", "niqe", "vgg")]
        metrics += brightness_metrics()
        sets = check_test_images(options.test_images)
        trained_on, held_out = hold_out(check_images(list_images(options.photographs, "--photographs"), "refuse"))
        trainings = plan_trainings(options, options.output / "photographs")
        options.output.mkdir(parents=True, exist_ok=True)
        with FileLock(options.output / ".lock", timeout=0):
            pack(trained_on, options.output / "photographs")
            write_centres(held_out, options.output / "held_out")
            sets = {HELD_OUT: {"hr": str(options.output / "held_out")}, **sets}
            opened = open_sets(sets, Bicubic(SCALE), options.output)
            print(f"{len(trained_on)} photographs to train on, {len(held_out)} held out, seeds {options.seeds}")
            train_all(trainings, options.jobs, options.output)
            start = time.perf_counter()
            reports = measure(opened, trainings, metrics, options.output)
            seconds = time.perf_counter() - start
            report = write_report(reports, trainings, metrics, command, seconds, options.output)
    except Timeout:
        sys.exit(
            f"paper_in_miniature.py: another one is at work in {options.output}; wait for it, or name another folder"
        )
    except (ValueError, OSError, ModuleNotFoundError, MetricUnavailableError, TrainingError) as error:
        sys.exit(f"paper_in_miniature.py: {error}")
    except KeyboardInterrupt:
        sys.exit("paper_in_miniature.py: stopped, trainings are saved; the same command goes on from here")
    seeds = [int(seed) for seed in options.seeds]
    print(f"\n{claims_markdown(judge(reports, seeds))}\n{report}")


def stop(number: int, frame: FrameType | None) -> None:
    """What SIGTERM does: as Ctrl-C, save and end."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    main()
