"""Read the data sets that ``esrgan-data fetch`` knows, from ``datasets.toml`` beside this file."""

import tomllib
from dataclasses import dataclass
from importlib.resources import files

from esrgan_lit.downloads import RemoteFile


@dataclass(frozen=True, kw_only=True)
class Archive(RemoteFile):
    """A ZIP or tar file of images.

    Attributes:
        inside: folder in the archive that holds the images; "" for all of it.
        source: where these facts were found.

    Its checksum may also be ``images-md5:…`` of what is in it: the MD5 of the images' hexadecimal MD5s, one after the
    other in the order of their names (deepinv's ``calculate_md5_for_folder``).
    """

    inside: str = ""
    source: str = ""
    copies: int = 2


@dataclass(frozen=True)
class Dataset:
    """A set of photographs.

    Attributes:
        name: what the user types.
        folder: where its images go, below the root; the paths that ``conf/data`` reads.
        images: how many there are.
        archives: files that hold it, tried in this order.
        page: where its authors offer it.
        license: what its users may do.
        citation: the paper to cite.
    """

    name: str
    folder: str
    images: int
    archives: tuple[Archive, ...]
    page: str
    license: str
    citation: str


_TABLE = tomllib.loads(files("esrgan_lit.data").joinpath("datasets.toml").read_text(encoding="utf-8"))

DATASETS = {
    entry["name"]: Dataset(**{**entry, "archives": tuple(Archive(**archive) for archive in entry["archives"])})
    for entry in _TABLE["dataset"]
}

GROUPS = {name: tuple(members) for name, members in _TABLE["groups"].items()}
