"""Figures that others published, to stand beside ours. All are ×4 with bicubic low-resolution images."""

from typing import NamedTuple


class Table(NamedTuple):
    """Figures of one model under one protocol.

    Attributes:
        model: what was measured, and what it was trained on.
        metric: name of the metric in :data:`esrgan_lit.scores.METRICS`.
        protocol: how, as far as the source says.
        source: where the figures stand.
        figures: test set → figure.
    """

    model: str
    metric: str
    protocol: str
    source: str
    figures: dict[str, float]


_Y = "Y channel, 4 border pixels shaved"
_RGB = "RGB, 4 border pixels shaved"

# RCAN's published Set5 outputs have 30.70 dB on RGB, 0.06 dB above the first of its models, and an SSIM of 0.8711 as
# MATLAB's function computes it on R, G and B: the list's 0.8559 must be of another form of SSIM.
_RGB_SSIM = f"{_RGB}; of another form of SSIM than here, by about 0.015 on Set5"
_README = "xinntao/ESRGAN, README.md"
_MMAGIC = "open-mmlab/mmagic, configs/esrgan/README.md"
_REPORTED = "reported for RRDB_ESRGAN_x4.pth in the literature after the paper; first source not verified"
_SETS: tuple[str, ...] = ("Set5", "Set14", "BSD100", "Urban100")
_RGB_SETS: tuple[str, ...] = ("Set5", "Set14", "DIV2K-valid")


def _on_y(model: str, *figures: tuple[float, float]) -> tuple[Table, Table]:
    """PSNR and SSIM on Y from the README's table, in the order of its columns."""
    psnr, ssim = (dict(zip(_SETS, column, strict=True)) for column in zip(*figures, strict=True))
    return Table(model, "psnr_y", _Y, _README, psnr), Table(model, "ssim_y", _Y, _README, ssim)


def _on_rgb(model: str, *figures: tuple[float, float]) -> tuple[Table, Table]:
    """PSNR and SSIM on RGB from mmagic's table, in the order of its rows."""
    psnr, ssim = (dict(zip(_RGB_SETS, column, strict=True)) for column in zip(*figures, strict=True))
    return Table(model, "psnr_rgb", _RGB, _MMAGIC, psnr), Table(model, "ssim_rgb", _RGB_SSIM, _MMAGIC, ssim)


PUBLISHED: tuple[Table, ...] = (
    Table(
        "bicubic",
        "psnr_y",
        _Y,
        "the same in the literature's tables",
        dict(zip(_SETS, (28.42, 26.10, 25.96, 23.15), strict=True)),
    ),
    *_on_y("SRCNN, 291", (30.48, 0.8628), (27.50, 0.7513), (26.90, 0.7101), (24.52, 0.7221)),
    *_on_y("EDSR, DIV2K", (32.46, 0.8968), (28.80, 0.7876), (27.71, 0.7420), (26.64, 0.8033)),
    *_on_y("RCAN, DIV2K", (32.63, 0.9002), (28.87, 0.7889), (27.77, 0.7436), (26.82, 0.8087)),
    *_on_y("RRDB-23 PSNR, DF2K", (32.73, 0.9011), (28.99, 0.7917), (27.85, 0.7455), (27.03, 0.8153)),
    *_on_rgb("RRDB-23 PSNR, DIV2K", (30.6428, 0.8559), (27.0543, 0.7447), (29.3354, 0.8263)),
    *_on_rgb("ESRGAN, DIV2K", (28.2700, 0.7778), (24.6328, 0.6491), (26.6531, 0.7340)),
    Table(
        "MSRResNet-16, DIV2K",
        "psnr_rgb",
        _RGB,
        "open-mmlab/mmagic and BasicSR, model lists",
        {"Set5": 30.25, "Set14": 26.78, "DIV2K-valid": 29.00},
    ),
    Table("released ESRGAN", "psnr_y", _Y, _REPORTED, dict(zip(_SETS, (30.45, 26.28, 25.32, 24.36), strict=True))),
    Table(
        "released ESRGAN",
        "lpips",
        "network not stated",
        _REPORTED,
        dict(zip(_SETS, (0.0748, 0.1329, 0.1614, 0.1229), strict=True)),
    ),
    Table(
        "released ESRGAN",
        "pi",
        "PIRM 2018's code",
        _REPORTED,
        dict(zip(_SETS, (3.752, 2.926, 2.479, 3.770), strict=True)),
    ),
)  # fmt: skip

# PIRM 2018's challenge on perceptual super-resolution: bounds of its three regions on the perception-distortion plane.
PIRM_REGIONS = (11.5, 12.5, 16.0)


def published_for(test_set: str, metrics: list[str], scale: int) -> list[Table]:
    """Tables with a figure for a test set (its name in any case), of metrics that were measured."""
    if scale != 4:
        return []
    return [
        table._replace(figures={test_set: figure})
        for table in PUBLISHED
        for name, figure in table.figures.items()
        if name.lower() == test_set.lower() and table.metric in metrics
    ]
