"""Run methods on test sets and score them. What was computed once, by any process, is remembered and not done again."""

import hashlib
import logging
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from esrgan_lit.evaluation.methods import Method, OutputError, digest_image
from esrgan_lit.evaluation.test_sets import Case, Images, TestSet, fit
from esrgan_lit.files import recall, remember
from esrgan_lit.images.levels import to_batch
from esrgan_lit.images.reading import read_image
from esrgan_lit.images.writing import save_image
from esrgan_lit.metrics.metric import Metric

# Raised whenever the way outputs are made or scored changes, so that what is remembered from before is not used.
CACHE_VERSION = 1
log = logging.getLogger(__name__)


class Result(NamedTuple):
    """One method on one image.

    Attributes:
        test_set: name of the set.
        image: name of the image.
        method: name of the method.
        output: file with its output; None where there is none.
        values: metric → value; NaN where it does not exist.
        note: what had to be done, or went wrong; "" for nothing.
    """

    test_set: str
    image: str
    method: str
    output: Path | None
    values: dict[str, float]
    note: str


def evaluate(
    sets: Sequence[TestSet], methods: Sequence[Method], metrics: Sequence[Metric], cache: Path, workers: int
) -> list[Result]:
    """Score every method, and every set's finished images, on every image of the sets.

    Networks run one image after the other; scores are computed by ``workers`` threads meanwhile.

    Args:
        sets: what to evaluate on.
        methods: what to evaluate; finished images come with the sets.
        metrics: what to measure.
        cache: folder of outputs and scores, shared by all evaluations.
        workers: threads.
    """
    count = sum(len(test_set.cases) * (len(methods) + len(test_set.cases[0].finished)) for test_set in sets)
    results: list[Result | Future[Result]] = []
    bar = tqdm(total=count, desc="evaluating", unit="output")
    with ThreadPoolExecutor(workers) as pool:
        try:
            for test_set in sets:
                for case in test_set.cases:
                    # No more than one image's outputs wait for a worker, or those of a large set would fill the memory.
                    results = [result.result() if isinstance(result, Future) else result for result in results]
                    images = test_set.read(case)
                    measured = [metric.with_border(test_set.border) for metric in metrics]
                    for name, output in _outputs(case, images, methods, cache):
                        bar.set_postfix_str(f"{name} on {case.name}", refresh=False)
                        job = pool.submit(_score, test_set, case, images, name, output, measured, cache)
                        job.add_done_callback(lambda _: bar.update())
                        results.append(job)
            return [result.result() if isinstance(result, Future) else result for result in results]
        finally:
            pool.shutdown(cancel_futures=True)
            bar.close()


def _outputs(
    case: Case, images: Images, methods: Sequence[Method], cache: Path
) -> Iterator[tuple[str, Path | OutputError]]:
    """Yield each method and the file with its output, or why there is none."""
    low_res = digest_image(images.low_res)
    for method in methods:
        channels = images.low_res.shape[2]
        suffix = ".png" if channels == 3 else ".npy"
        path = cache / "outputs" / f"{_key(CACHE_VERSION, method.fingerprint, low_res)}{suffix}"
        try:
            if not _is_whole(path, channels):
                save_image(method.enlarge(images.low_res), path)
            yield method.name, path
        except RuntimeError as error:  # NaN, or out of memory
            yield method.name, OutputError(str(error).splitlines()[0])
    yield from case.finished.items()


def _is_whole(path: Path, channels: int) -> bool:
    """Return whether a remembered output is there and not damaged."""
    try:
        read_image(path, channels)
    except OSError:
        return False
    return True


def _score(
    test_set: TestSet,
    case: Case,
    images: Images,
    method: str,
    output: Path | OutputError,
    metrics: Sequence[Metric],
    cache: Path,
) -> Result:
    absent = {metric.name: math.nan for metric in metrics}
    if isinstance(output, OutputError):
        return Result(test_set.name, case.name, method, None, absent, str(output))
    try:
        made = read_image(output, test_set.channels)
        image, fitted = fit(made, images.high_res, images.low_res, test_set.degradation.scale)
    except ValueError as error:
        return Result(test_set.name, case.name, method, None, absent, str(error))
    values = _remembered_scores(image, fitted, metrics, cache)
    notes = [note for note in (images.note, fitted.note) if note]
    missing = [metric.title for metric in metrics if math.isnan(values[metric.name])]
    if missing:
        notes.append(f"{', '.join(missing)} not defined on an image of {image.shape[1]}×{image.shape[0]}")
    return Result(test_set.name, case.name, method, output, values, "; ".join(notes))


def _remembered_scores(output: np.ndarray, images: Images, metrics: Sequence[Metric], cache: Path) -> dict[str, float]:
    key = _key(CACHE_VERSION, *map(digest_image, (output, images.high_res, images.low_res)))
    path = cache / "scores" / f"{key}.json"
    known: dict[str, float] = recall(path) or {}
    names = {metric.name: f"{metric.name}: {metric.protocol} {metric.fingerprint}".strip() for metric in metrics}
    missing = [metric for metric in metrics if names[metric.name] not in known]
    if missing:
        tensors = [to_batch(image) for image in (output, images.high_res, images.low_res)]
        known |= {names[metric.name]: float(metric(*tensors)) for metric in missing}
        remember(path, known)
    return {metric.name: known[names[metric.name]] for metric in metrics}


def _key(*parts: object) -> str:
    return hashlib.sha256(os.fsencode("\n".join(map(str, parts)))).hexdigest()[:32]
