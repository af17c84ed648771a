"""Released weights by name: ``load_generator("esrgan_x4")``. Downloaded once, verified, kept in a folder.

Every figure stands in a public source, named beside it; what no source gives is None and says so. A checksum of eight
digits is the beginning of the SHA-256, which the authors put into the file's name.
"""

import os
from pathlib import Path
from typing import NamedTuple

from esrgan_lit.files import (
    Archive,
    FetchError,
    UnavailableError,
    alone,
    cache_folder,
    digest,
    download,
    readable_bytes,
)


class Release(NamedTuple):
    """Weights that their authors published.

    Attributes:
        archives: files that hold them, tried in this order.
        scale: magnification.
        training_data: what they were trained on, and with what.
        licence: what their users may do.
        page: where the authors speak of them.
    """

    archives: tuple[Archive, ...]
    scale: int
    training_data: str
    licence: str
    page: str


def _file(address: str, size: int | None, checksum: str | None, source: str, called: str | None = None) -> Archive:
    return Archive(address, "", size, checksum, source, called)


def _drive(identifier: str, checksum: str, source: str, called: str) -> Archive:
    return _file(f"https://drive.google.com/uc?export=download&id={identifier}", None, checksum, source, called)


_ESRGAN = "https://github.com/xinntao/ESRGAN"
_REAL_ESRGAN = "https://github.com/xinntao/Real-ESRGAN"
_MMAGIC = "https://github.com/open-mmlab/mmagic"
_KAIR = "https://github.com/cszn/KAIR"
_ESRGAN_LICENCE = "Apache-2.0 (the repository's; of the weights themselves nothing is said)"
_REAL_ESRGAN_LICENCE = "BSD-3-Clause (the repository's; of the weights themselves nothing is said, Real-ESRGAN#677)"
_MMAGIC_LICENCE = "Apache-2.0 (the repository's; of the weights themselves nothing is said)"
_KAIR_LICENCE = "MIT (the repository's; of the weights themselves nothing is said)"
_DEGRADED = "DF2K and OST, degraded at random (blur, noise, JPEG)"
_TWO_STUDIES = "SHA-256: two public projects that pin it"
_NAME_HAS_IT = "checksum: in the file's name; no size found"
_OPENMMLAB = "https://download.openmmlab.com/mmediting/restorers"

RELEASES = {
    "esrgan_x4": Release(
        (
            _file(
                "https://github.com/cszn/KAIR/releases/download/v1.0/ESRGAN.pth",
                66_929_193,
                "sha256:65fece06e1ccb48853242aa972bdf00ad07a7dd8938d2dcbdf4221b59f6372ce",
                f"a copy of the authors' RRDB_ESRGAN_x4.pth with its checksum, which is: {_TWO_STUDIES}",
            ),
            _drive(
                "1TPrz5QKd8DHHt1k8SRtm6tMiPjz_Qene",
                "sha256:65fece06e1ccb48853242aa972bdf00ad07a7dd8938d2dcbdf4221b59f6372ce",
                "the authors' file",
                "RRDB_ESRGAN_x4.pth",
            ),
        ),
        4,
        "DF2K and OST, MATLAB bicubic; the paper's GAN stage",
        _ESRGAN_LICENCE,
        _ESRGAN,
    ),
    "esrgan_psnr_x4": Release(
        (
            _drive(
                "1pJ_T-V1dpb1ewoEra1TGSWl5e6H7M4NN",
                "sha256:f372b59f22929e1bc83fa58d78215c96f976de3b2eaeee736da1b348913da6cc",
                f"the authors' file; {_TWO_STUDIES}; no size found",
                "RRDB_PSNR_x4.pth",
            ),
        ),
        4,
        "DF2K, MATLAB bicubic; the paper's PSNR stage",
        _ESRGAN_LICENCE,
        _ESRGAN,
    ),
    "esrgan_basicsr_x4": Release(
        (
            _file(
                f"{_REAL_ESRGAN}/releases/download/v0.1.1/ESRGAN_SRx4_DF2KOST_official-ff704c30.pth",
                None,
                "sha256:ff704c30",
                _NAME_HAS_IT,
            ),
        ),
        4,
        "DF2K and OST, MATLAB bicubic; the paper's GAN stage, with BasicSR's names",
        _ESRGAN_LICENCE,
        "https://github.com/XPixelGroup/BasicSR",
    ),
    "esrgan_div2k_x4": Release(
        (
            _file(
                f"{_OPENMMLAB}/esrgan/esrgan_x4c64b23g32_1x16_400k_div2k_20200508-f8ccaf3b.pth",
                None,
                "sha256:f8ccaf3b",
                _NAME_HAS_IT,
            ),
        ),
        4,
        "DIV2K, MATLAB bicubic; GAN stage, 400,000 iterations",
        _MMAGIC_LICENCE,
        f"{_MMAGIC}/tree/main/configs/esrgan",
    ),
    "esrgan_psnr_div2k_x4": Release(
        (
            _file(
                f"{_OPENMMLAB}/esrgan/esrgan_psnr_x4c64b23g32_1x16_1000k_div2k_20200420-bf5c993c.pth",
                None,
                "sha256:bf5c993c",
                _NAME_HAS_IT,
            ),
        ),
        4,
        "DIV2K, MATLAB bicubic; PSNR stage, 1,000,000 iterations",
        _MMAGIC_LICENCE,
        f"{_MMAGIC}/tree/main/configs/esrgan",
    ),
    "msrresnet_x4": Release(
        (
            _file(
                f"{_OPENMMLAB}/srresnet_srgan/msrresnet_x4c64b16_1x16_300k_div2k_20200521-61556be5.pth",
                None,
                "sha256:61556be5",
                _NAME_HAS_IT,
            ),
        ),
        4,
        "DIV2K, MATLAB bicubic; L1; 300,000 iterations, says its name",
        _MMAGIC_LICENCE,
        f"{_MMAGIC}/tree/main/configs/srgan_resnet",
    ),
    "realesrgan_x4plus": Release(
        (
            _file(
                f"{_REAL_ESRGAN}/releases/download/v0.1.0/RealESRGAN_x4plus.pth",
                67_040_989,
                "sha256:4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
                "size and SHA-256: Arch Linux's package realesrgan-model, and many projects that pin them",
            ),
        ),
        4,
        _DEGRADED,
        _REAL_ESRGAN_LICENCE,
        _REAL_ESRGAN,
    ),
    "realesrnet_x4plus": Release(
        (
            _file(
                f"{_REAL_ESRGAN}/releases/download/v0.1.1/RealESRNet_x4plus.pth",
                67_040_989,
                "sha256:a820b9bde89a874d7599d545567308ce6c128fc8754a53208eda016d40aa81df",
                "SHA-256: Arch Linux's package realesrgan-model; size: projects that pin it",
            ),
        ),
        4,
        f"{_DEGRADED}; L1 only",
        _REAL_ESRGAN_LICENCE,
        _REAL_ESRGAN,
    ),
    "realesrgan_x2plus": Release(
        (
            _file(
                f"{_REAL_ESRGAN}/releases/download/v0.2.1/RealESRGAN_x2plus.pth",
                67_061_725,
                "sha256:49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
                "SHA-256: Arch Linux's package realesrgan-model; size: projects that pin it",
            ),
        ),
        2,
        _DEGRADED,
        _REAL_ESRGAN_LICENCE,
        _REAL_ESRGAN,
    ),
    "realesrgan_x4plus_anime_6b": Release(
        (
            _file(
                f"{_REAL_ESRGAN}/releases/download/v0.2.2.4/RealESRGAN_x4plus_anime_6B.pth",
                17_938_799,
                "sha256:f872d837d3c90ed2e05227bed711af5671a6fd1c9f7d7e91c911a61f155e99da",
                "SHA-256: Arch Linux's package realesrgan-model; size: projects that pin it",
            ),
        ),
        4,
        "anime illustrations (the set is not named), degraded at random; six blocks",
        _REAL_ESRGAN_LICENCE,
        _REAL_ESRGAN,
    ),
    "bsrgan_x4": Release(
        (
            _file(
                f"{_KAIR}/releases/download/v1.0/BSRGAN.pth",
                None,
                "sha256:5d505a0766160921e0388d76e1ddf08cb114303990f9080432bf2b1c988b1c54",
                "SHA-256: projects that pin it; no size found",
            ),
        ),
        4,
        "DIV2K, Flickr2K, WED and faces of FFHQ, degraded at random in random order",
        _KAIR_LICENCE,
        _KAIR,
    ),
}


def fetch(name: str, timeout: float = 30.0, attempts: int = 5, pause: float = 1.0) -> Path:
    """The file of a release: from the cache, or downloaded into it and verified. A second process waits for the first.

    Args:
        name: in :data:`RELEASES`.
        timeout: seconds without a sign of the server.
        attempts: how often in a row a transfer may fail without getting further.
        pause: seconds before the second attempt, doubled for each further one.

    Raises:
        FetchError: when it cannot be had, with what to do; or when a file of its name is another one.
    """
    release, folder = RELEASES[name], cache()
    for archive in release.archives:
        if (kept := folder / archive.file_name).is_file():
            _verify(archive, kept, "Remove it to have it downloaded")
            return kept
    folder.mkdir(parents=True, exist_ok=True)
    refusals = []
    with alone(folder / f".{name}.lock"):
        for archive in release.archives:
            kept = folder / archive.file_name
            if kept.is_file():  # the process waited for has fetched it
                return kept
            arriving = folder / f"{archive.file_name}.unverified"
            try:
                download(archive, arriving, timeout, attempts, pause)
                _verify(archive, arriving, "It is removed")
            except UnavailableError as error:
                refusals.append(f"{archive.address}: {error}")
                continue
            except FetchError:
                arriving.unlink(missing_ok=True)
                raise
            os.replace(arriving, kept)
            return kept
    raise FetchError(f"{name} could not be downloaded:\n  " + "\n  ".join(refusals) + f"\n{by_hand(name)}")


def cache() -> Path:
    """The folder that keeps releases: ``ESRGAN_WEIGHTS`` where it is set, else one in the user's cache."""
    chosen = os.environ.get("ESRGAN_WEIGHTS")
    return Path(chosen) if chosen else cache_folder()


def by_hand(name: str) -> str:
    """What a user without a network does: what to fetch elsewhere and where to put it."""
    release, folder = RELEASES[name], cache().absolute()
    files = [
        f"{archive.address} ({readable_bytes(archive.size)}) as {folder / archive.file_name}"
        for archive in release.archives
    ]
    return (
        "Fetch it by hand, where there is a network. Put\n  " + "\n  or ".join(files) + "\n"
        f"(another folder with ESRGAN_WEIGHTS=FOLDER), or give the file's path instead of {name}.\n"
        f"Trained on: {release.training_data}. Licence: {release.licence}. Page: {release.page}"
    )


def metadata(name: str) -> dict[str, str]:
    """What is known of a release, as files' headers hold it."""
    release = RELEASES[name]
    return {
        "source": f"{name}: {release.page}",
        "training_data": release.training_data,
        "licence": release.licence,
    }


def _verify(archive: Archive, path: Path, remedy: str) -> None:
    kind, _, expected = (archive.checksum or "").partition(":")
    if kind and not (seen := digest(path, kind)).startswith(expected):
        raise FetchError(
            f"{path} has {kind} {seen}, the catalogue has {expected}: it is another file. {remedy}, "
            "or give the path of a file that you trust"
        )
