"""Find image files in folders, and say what is left out of them. Nothing heavy is imported."""

import glob
import importlib.util
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

# All that the reader takes. What a file is read as is decided by its content.
_NAMES = """
    png apng jpg jpeg jpe jfif webp gif bmp dib tif tiff ppm pgm pbm pnm pam avif avifs heic heif hif jxl jxr wdp hdp
    jls jp2 j2k j2c jpc jpf jpx tga icb vda vst dds ico cur icns pcx dcx psd qoi sgi rgb rgba bw ras sun msp pcd pxr
    xbm xpm blp ftc ftu fli flc gbr mpo fit fits npy
"""
SUFFIXES = tuple(f".{name}" for name in _NAMES.split())
_EXTRAS = dict.fromkeys((".heic", ".heif", ".hif"), ("pillow_heif", "formats"))

_SEEN = "link to a folder that is looked through already"
log = logging.getLogger(__name__)


class LeftOut:
    """What was found and not taken, by reason: counted, with the first name of each."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, Path]] = {}

    def add(self, reason: str, path: Path) -> None:
        """Count a file or folder under a reason, such as ``.txt`` or ``broken link``."""
        count, first = self._found.get(reason, (0, path))
        self._found[reason] = count + 1, first

    def update(self, other: "LeftOut") -> None:
        """Count what another one has, too."""
        for reason, (more, path) in other._found.items():
            count, first = self._found.get(reason, (0, path))
            self._found[reason] = count + more, first

    def __bool__(self) -> bool:
        return bool(self._found)

    def __str__(self) -> str:
        most_first = sorted(self._found.items(), key=lambda item: (-item[1][0], item[0]))
        return "; ".join(
            f"{count:,} {reason} ({printable(first)}{', …' * (count > 1)})" for reason, (count, first) in most_first
        )


def list_images(sources: Sequence[str | Path], setting: str) -> list[Path]:
    """List the image files of a union of folders (recursive) and files, sorted within each, none twice.

    What folders hold beside them is logged as a warning, by suffix and count. A file given by name is always taken.

    Args:
        sources: folders or image files.
        setting: what the user would change, for the message.

    Raises:
        ValueError: when a source does not exist or holds no image.
    """
    if isinstance(sources, str | Path):
        sources = [sources]
    found: dict[Path, Path] = {}
    for source in map(Path, sources):
        left_out = LeftOut()
        images = images_in(source, left_out) if source.is_dir() else [source] if source.is_file() else []
        if not images:
            state = "does not exist"
            if source.is_dir():
                state = f"holds no images, but {left_out}" if left_out else "holds no images"
            elif source.exists() or source.is_symlink():
                state = "is a broken link" if source.is_symlink() else "is no file"
            how = f": {setting}=[FOLDER,…]" if "." in setting else ""  # a key of the configuration
            raise ValueError(
                f"{setting}: {source} {state} (looked in {source.absolute()}). Put the photographs "
                f"(.png, .jpg, .tif, .webp, …) there, or name your own folders{how}"
            )
        for path in images:
            taken = found.setdefault(path.resolve(), path)
            if taken != path:
                left_out.add("taken already by another name", path)
        if left_out:
            log.warning("%s: left out %s", printable(source), left_out)
    return list(found.values())


def images_in(folder: Path, left_out: LeftOut) -> list[Path]:
    """List the image files below a folder, sorted; hidden ones are not looked for, linked folders are followed once."""
    return sorted(only_images(walk(folder, left_out), left_out))


def only_images(paths: Iterable[Path], left_out: LeftOut) -> Iterator[Path]:
    """Yield the files whose suffix is that of an image that can be read."""
    for path in paths:
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            left_out.add(suffix if suffix else "without a suffix", path)
        elif suffix in _EXTRAS and importlib.util.find_spec(_EXTRAS[suffix][0]) is None:
            left_out.add(f"{suffix} for which pip install 'esrgan_lit[{_EXTRAS[suffix][1]}]' is needed", path)
        else:
            yield path


def walk(folder: Path, left_out: LeftOut, seen: set[str] | None = None) -> Iterator[Path]:
    """Yield the files below a folder, by name. Of several ways to one, that is gone which has no links, if there is.

    Args:
        folder: where to begin.
        left_out: gets what is no file, hidden or seen.
        seen: real paths of folders that are looked through already; the new ones are added.
    """

    def unreadable(error: OSError) -> None:
        left_out.add(f"folder that cannot be opened ({error.strerror})", Path(os.fsdecode(error.filename)))

    seen = set() if seen is None else seen
    seen.add(os.path.realpath(folder))
    for place, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        inside, entered = Path(place), []
        # links last: what they lead to may have been entered by its own name by then
        for name in sorted(folders, key=lambda name: ((inside / name).is_symlink(), name)):
            if name.startswith("."):
                left_out.add("hidden folder", inside / name)
            elif (real := os.path.realpath(inside / name)) in seen:
                left_out.add(_SEEN, inside / name)
            else:
                seen.add(real)
                entered.append(name)
        folders[:] = entered
        for name in sorted(files):
            path = inside / name
            if name.startswith("."):
                if path.suffix.lower() in SUFFIXES and ".partial" not in path.suffixes:  # an unfinished file of ours
                    left_out.add("hidden", path)
            elif _is_file(path, left_out):
                yield path


def matching(pattern: str, base: Path, rest: tuple[str, ...], left_out: LeftOut) -> Iterator[Path]:
    """Yield the files that match a pattern, or lie below folders that do.

    Args:
        pattern: as the user gave it.
        base: its fixed part.
        rest: its other parts.
        left_out: as for :func:`walk`.
    """
    if "**" in rest:  # glob's own ** goes round in circles of links
        yield from (file for file in walk(base, left_out) if _fits_or_is_below(file.relative_to(base).parts, rest))
        return
    folders, seen = list[Path](), {os.path.realpath(base)}
    for path in map(Path, sorted(glob.glob(pattern))):  # noqa: PTH207 (Path's takes no absolute pattern)
        if path.is_dir():
            folders.append(path)
        elif _is_file(path, left_out):
            yield path
    for folder in sorted(folders, key=lambda path: (path.is_symlink(), path)):
        if os.path.realpath(folder) in seen:
            left_out.add(_SEEN, folder)
        else:
            yield from walk(folder, left_out, seen)


def _fits_or_is_below(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    return any(_fits(parts[:end], pattern) for end in range(1, len(parts) + 1))


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern or not parts:
        return not parts and set(pattern) <= {"**"}
    if pattern[0] == "**":
        return _fits(parts, pattern[1:]) or _fits(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _is_file(path: Path, left_out: LeftOut) -> bool:
    """Return whether a path is a file, or leads to one; what is not is left out."""
    if not (found := path.is_file()):
        left_out.add("broken link" if path.is_symlink() else "that is no file", path)
    return found


def printable(path: Path | str) -> str:
    """Return a name, or a message with names, on one line that every terminal and log can show."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in str(path)
    )
