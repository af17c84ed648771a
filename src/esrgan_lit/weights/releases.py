"""Released weights by name: ``load_generator("esrgan_x4")``. Downloaded once, verified, kept in a folder.

What is released, and where each figure comes from, stands in ``releases.toml``.
"""

import os
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from esrgan_lit.downloads import RemoteFile, fetch_file
from esrgan_lit.files import cache_folder


@dataclass(frozen=True)
class Release:
    """Weights that their authors published.

    Attributes:
        use: the pictures that they are for.
        scale: magnification.
        training_data: what they were trained on, and with what.
        license: what their users may do.
        page: where the authors speak of them.
        files: that hold them, tried in this order.
    """

    use: str
    scale: int
    training_data: str
    license: str
    page: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int | None:
        """Return the bytes to download, where any source tells them."""
        return next((file.size for file in self.files if file.size is not None), None)

    @property
    def path(self) -> Path | None:
        """Return where it lies already, not verified; None where it is still to be downloaded."""
        paths = (cache() / file.file_name for file in self.files)
        return next((path for path in paths if path.is_file()), None)


def _read_releases() -> dict[str, Release]:
    content = tomllib.loads(files("esrgan_lit.weights").joinpath("releases.toml").read_text(encoding="utf-8"))
    return {
        name: Release(**{**entry, "files": tuple(RemoteFile(**file) for file in entry["files"])})
        for name, entry in content.items()
    }


RELEASES = _read_releases()
# Taken where nobody chose: most people's photographs are compressed. With its smooth partner for --alpha.
DEFAULT = ("realesrnet_x4plus", "realesrgan_x4plus")


def fetch(name: str) -> Path:
    """Return the file of a release: from the cache, or downloaded into it; verified. A second process waits.

    Args:
        name: in :data:`RELEASES`.

    Raises:
        FetchError: when it cannot be had, with what to do; or when a file of its name is another one.
    """
    release = RELEASES[name]
    remedy = (
        f"(another folder with ESRGAN_WEIGHTS=FOLDER), or give the file's path instead of {name}.\n"
        f"Trained on: {release.training_data}. License: {release.license}. Page: {release.page}"
    )
    return fetch_file(release.files, cache(), name, remedy)


def cache() -> Path:
    """Return the folder that keeps releases: ``ESRGAN_WEIGHTS`` where it is set, else one in the user's cache."""
    chosen = os.environ.get("ESRGAN_WEIGHTS")
    return Path(chosen) if chosen else cache_folder()


def metadata(name: str) -> dict[str, str]:
    """Return what is known of a release, as files' headers hold it."""
    release = RELEASES[name]
    return {
        "source": f"{name}: {release.page}",
        "training_data": release.training_data,
        "license": release.license,
    }
