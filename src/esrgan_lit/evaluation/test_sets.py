"""Test sets: high-resolution images with their low-resolution partners, and finished images that belong to them."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from esrgan_lit.data.fetch import fetch
from esrgan_lit.data.pairing import normalized, pair_files, unique_names
from esrgan_lit.data.photographs import sort_out
from esrgan_lit.degradations.bicubic import Bicubic, crop_to_multiple
from esrgan_lit.evaluation.methods import digest_image
from esrgan_lit.images.levels import to_computable, to_planes
from esrgan_lit.images.listing import list_images
from esrgan_lit.images.reading import read_image


class Case(NamedTuple):
    """A ground truth and, where given, its low-resolution image and the finished images of each method.

    ``degradation`` names the folder of the low-resolution image where the set has each ground truth under several.
    """

    name: str
    high_res: Path
    low_res: Path | None
    finished: dict[str, Path]
    degradation: str = ""


class Images(NamedTuple):
    """A case's images, (height, width, channels) as they were read, and what had to be done to them."""

    high_res: np.ndarray
    low_res: np.ndarray
    note: str


class TestSet(NamedTuple):
    """A named set of cases.

    Attributes:
        name: for example Set5.
        cases: its images.
        degradation: makes low-resolution images where none are given.
        border: pixels that its protocol shaves off each side; None for the usual ones.
        channels: that images are read with.
    """

    __test__ = False  # for pytest, which would collect the name

    name: str
    cases: list[Case]
    degradation: Bicubic
    border: int | None = None
    channels: int = 3

    @property
    def origin(self) -> str:
        """Say where its low-resolution images come from, for the protocol."""
        folders = {case.low_res.parent: None for case in self.cases if case.low_res is not None}
        if folders:
            first, *others = folders
            several = f" and {len(others)} more folders: as many degradations of each ground truth" if others else ""
            return f"low-resolution images given in {first}{several}"
        made = self.degradation
        return f"low-resolution images made as MATLAB's imresize(…, 1/{made.scale}) does ({made.form}, {made.boundary})"

    def digests(self) -> set[str]:
        """Return a digest of the pixels of each pair, whatever its files are called and however they are compressed."""
        pairs = (self.read(case) for case in self.cases)
        both = (digest_image(pair.high_res) + digest_image(pair.low_res) for pair in pairs)
        return {hashlib.sha256(pixels.encode()).hexdigest()[:12] for pixels in both}

    def read(self, case: Case) -> Images:
        """Decode one case; the ground truth is cropped to what its low-resolution image covers."""
        scale = self.degradation.scale
        high_res = read_image(case.high_res, self.channels)
        if case.low_res is None:
            high_res = crop_to_multiple(high_res, scale)
            low_res = self.degradation(to_computable(to_planes(high_res)))[0]
            return Images(high_res, np.ascontiguousarray(low_res.permute(1, 2, 0).numpy()), "")
        low_res = read_image(case.low_res, self.channels)
        covered = high_res[: low_res.shape[0] * scale, : low_res.shape[1] * scale]
        note = (
            ""
            if covered.shape == high_res.shape
            else f"ground truth cropped from {_size(high_res)} to {_size(covered)}"
        )
        return Images(covered, low_res, note)


def fit(output: np.ndarray, truth: np.ndarray, low_res: np.ndarray, scale: int) -> tuple[np.ndarray, Images]:
    """Crop an output and its ground truth to what both cover.

    Args:
        output: of a method, (height, width, channels).
        truth: the ground truth, of the same kind.
        low_res: what the output was made from.
        scale: integer factor between the two.

    Raises:
        ValueError: when their sizes differ by the scale or more.
    """
    if output.shape == truth.shape:
        return output, Images(truth, low_res, "")
    if max(abs(ours - theirs) for ours, theirs in zip(output.shape, truth.shape, strict=True)) >= scale:
        raise ValueError(f"it is {_size(output)}, its ground truth {_size(truth)}: {scale} px or more apart")
    # To a multiple of the scale, so that the low-resolution image can be cropped with them.
    height, width = (min(output.shape[axis], truth.shape[axis]) // scale * scale for axis in (0, 1))
    note = f"output of {_size(output)} and ground truth of {_size(truth)} cropped to {width}×{height}"
    cropped = Images(truth[:height, :width], low_res[: height // scale, : width // scale], note)
    return output[:height, :width], cropped


def open_sets(
    settings: Mapping[str, Mapping[str, Any]], degradation: Bicubic, root: str | Path, channels: int = 3
) -> list[TestSet]:
    """Find and check the images of all sets, before time is spent.

    Args:
        settings: name of a set → its ``hr`` folder (or list of folders and files), or the name of its data set
            (``catalogue``), or where it may lie in ``root`` (``layouts``: [{hr: FOLDER, lr: FOLDER}, …] and ``page``,
            where to get it); optionally its ``lr`` folder, or several by a pattern such as ``deg_*``, ``border``, and
            ``finished``: {method: folder}.
        degradation: makes low-resolution images where there is no ``lr``.
        root: folder that holds the data sets.
        channels: that images are read with.

    Raises:
        ValueError: naming the images that do not pair up or do not decode, or sizes that do not belong together.
        FetchError: when a data set is not there and cannot be downloaded.
    """
    sets = []
    for name, setting in settings.items():
        if setting.get("layouts"):
            setting = {**setting, **_laid_out(name, setting, Path(root))}
        hr = setting.get("hr") or fetch(setting["catalogue"], root)
        sources = hr if isinstance(hr, list) else [hr]
        truths = _by_name(list_images(sources, f"{name}: hr"))
        cases: list[Case] = []
        for under, folder in _low_res_folders(setting.get("lr"), f"{name}: lr").items():
            low_res = _partners(truths, sources, folder, f"{name}: lr")
            finished = {
                method: _partners(truths, sources, _subfolder(Path(given), name, under), f"{name}: images of {method}")
                for method, given in setting.get("finished", {}).items()
            }
            cases += [
                Case(
                    f"{under}/{stem}" if under else stem,
                    path,
                    low_res.get(stem),
                    {method: files[stem] for method, files in finished.items()},
                    under,
                )
                for stem, path in truths.items()
            ]
        sets.append(TestSet(name, cases, degradation, setting.get("border"), channels))
    _check_sizes(sets)
    return sets


def _laid_out(name: str, setting: Mapping[str, Any], root: Path) -> dict[str, str]:
    """Return the ``hr`` and ``lr`` that the user gives, or those of the first layout whose folders are there.

    Raises:
        ValueError: where none is, with what belongs where; where only one of the two is said.
    """
    given = {key: str(setting[key]) for key in ("hr", "lr") if setting.get(key)}
    if given:
        if len(given) == 1:
            raise ValueError(
                f"{name} is of pairs, and only {next(iter(given))} is given; give both: "
                f"sets.{name}.hr=FOLDER sets.{name}.lr=FOLDER"
            )
        return given
    for layout in setting["layouts"]:
        hr, lr = root / layout["hr"], root / layout["lr"]
        if hr.is_dir() and any(path.is_dir() for path in lr.parent.glob(lr.name)):
            return {"hr": str(hr), "lr": str(lr)}
    ways = ", or ".join(f"{root / layout['hr']} and {root / layout['lr']}" for layout in setting["layouts"])
    raise ValueError(
        f"{name} is not in {root.absolute()}, and its authors' terms leave getting it to you ({setting['page']}). Put "
        f"its ground truths and low-resolution images into {ways}; or say where they are: "
        f"sets.{name}.hr=FOLDER sets.{name}.lr=FOLDER"
    )


def _low_res_folders(given: str | Path | None, what: str) -> dict[str, Path | None]:
    """Return the folders of low-resolution images by name; a single one, or none, has no name.

    Raises:
        ValueError: for a pattern that finds nothing.
    """
    if given is None or "*" not in Path(given).name or Path(given).exists():
        return {"": None if given is None else Path(given)}
    found = [path for path in Path(given).parent.glob(Path(given).name) if path.is_dir()]
    if not found:
        raise ValueError(f"{what}: no folder is called {given}; give the folder, or a pattern such as FOLDER/deg_*")
    return {path.name: path for path in sorted(found, key=lambda path: (len(path.name), path.name))}


def _by_name(paths: Sequence[Path]) -> dict[str, Path]:
    """Return {name: ground truth}, without what data sets append; images of one name have their folders in it."""
    names = [normalized(path.stem) for path in paths]
    alike = len({name.casefold() for name in names}) < len(names)
    return dict(zip(unique_names(paths) if alike else names, paths, strict=True))


def _subfolder(folder: Path, *names: str) -> Path:
    """Return the folder itself, or the one in it that has the set's name, and in that the degradation's."""
    for name in names:
        folder = folder / name if name and (folder / name).is_dir() else folder
    return folder


def _partners(
    truths: Mapping[str, Path], sources: Sequence[str | Path], folder: str | Path | None, what: str
) -> dict[str, Path]:
    """Return {name: its partner} for the files of a folder; ``truths`` were found in ``sources``.

    Raises:
        ValueError: naming the images that do not pair up.
    """
    if folder is None:
        return {}
    paths = list_images([folder], what)
    high_res = list(truths.values())
    places = pair_files(high_res, paths, f"{what}: {folder}", "", [Path(one) for one in sources], [Path(folder)])
    return {name: paths[place] for name, place in zip(truths, places, strict=True)}


def _check_sizes(sets: Sequence[TestSet]) -> None:
    """Decode every file once, in parallel, and refuse sizes that do not belong together."""
    files = list(dict.fromkeys(_files(case for test_set in sets for case in test_set.cases)))
    photographs, faults = sort_out(files, sets[0].channels)
    if faults:
        raise ValueError(f"{len(faults)} images cannot be decoded:\n  " + "\n  ".join(faults[:10]))
    sizes = {photograph.path: (photograph.height, photograph.width) for photograph in photographs}
    for test_set in sets:
        scale = test_set.degradation.scale
        for case in test_set.cases:
            height, width = sizes[case.high_res]
            if min(height, width) < 4 * scale:
                faults.append(f"{case.high_res} is {width}×{height}, too small to be shrunk {scale} times and measured")
            expected = (height, width)
            if case.low_res:
                low = tuple(side * scale for side in sizes[case.low_res])
                faults += _mismatch(case.low_res, low, expected, scale, f", enlarged {scale} times,")
            for path in case.finished.values():
                faults += _mismatch(path, sizes[path], expected, scale, "")
    if faults:
        more = [f"… and {len(faults) - 10} more"] if len(faults) > 10 else []
        raise ValueError(
            "images do not belong together:\n  " + "\n  ".join(faults[:10] + more) + "\nGive the right pairs, or "
            f"another scale. Differences of less than {sets[0].degradation.scale} px are cropped"
        )


def _mismatch(path: Path, found: Sequence[int], expected: Sequence[int], scale: int, how: str) -> list[str]:
    if max(abs(ours - theirs) for ours, theirs in zip(found, expected, strict=True)) < scale:
        return []
    return [f"{path}{how} is {found[1]}×{found[0]}, its ground truth {expected[1]}×{expected[0]}"]


def _files(cases: Iterable[Case]) -> Iterable[Path]:
    for case in cases:
        yield case.high_res
        if case.low_res:
            yield case.low_res
        yield from case.finished.values()


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}×{image.shape[0]}"
