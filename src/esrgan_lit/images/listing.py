"""Find image files in folders."""

from collections.abc import Sequence
from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".avif")


def list_images(sources: Sequence[str | Path], setting: str) -> list[Path]:
    """List the image files of a union of folders (recursive) and files, sorted within each, none twice.

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
        if source.is_file():
            images = [source]
        else:
            images = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not images:
            state = "holds no images" if source.is_dir() else "does not exist"
            how = f": {setting}=[FOLDER,…]" if "." in setting else ""  # a key of the configuration
            raise ValueError(
                f"{setting}: {source} {state} (looked in {source.absolute()}). Put the photographs "
                f"({', '.join(SUFFIXES)}) there, or name your own folders{how}"
            )
        found |= {path.resolve(): path for path in images}
    return list(found.values())
