"""The evaluation as one HTML page that needs nothing else: images, data and script are in it."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from esrgan_lit.reports.evaluation import SetReport, Shown
from esrgan_lit.reports.html import LOSSY_QUALITY, image_address, write_page


def write_evaluation(
    reports: Sequence[SetReport],
    shown: Mapping[str, Sequence[Shown]],
    planes: Mapping[str, str],
    absent: Mapping[str, str],
    sources: Mapping[str, str],
    megabytes: float,
    path: Path,
) -> None:
    """Write the page.

    Args:
        reports: one for each set.
        shown: set → its images; those whose methods differ most are the last to be left out.
        planes: set → SVG of the perception-distortion plane.
        absent: metric → why it is not there.
        sources: method → what it is.
        megabytes: how large the images may make the page. Above it they are compressed with loss, and if that is not
            enough, left out; the page says so.
        path: of the page.
    """
    encoded, remark = _encode([one for images in shown.values() for one in images], megabytes * 1e6)
    metrics = reports[0].metrics
    data = {
        "metrics": [
            {
                "name": metric.name,
                "title": metric.title,
                "protocol": metric.protocol,
                "higher": metric.higher_is_better,
                "digits": metric.digits,
            }
            for metric in metrics
        ],
        "absent": absent,
        "sources": sources,
        "remark": remark,
        "made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "sets": [_set_data(report, shown[report.test_set.name], encoded, planes) for report in reports],
    }
    names = ", ".join(report.test_set.name for report in reports)
    write_page(path, f"Evaluation on {names}", data, "evaluation")


def _set_data(
    report: SetReport, shown: Sequence[Shown], encoded: Mapping[int, dict[str, str]], planes: Mapping[str, str]
) -> dict[str, Any]:
    name = report.test_set.name
    images = []
    for one in shown:
        row = report.results[one.case.name]
        height, width = one.size
        images.append(
            {
                "name": one.case.name,
                "width": width,
                "height": height,
                "side": one.side,
                "places": one.places,
                "values": {method: _plain(result.values) for method, result in row.items()},
                "notes": {method: result.note for method, result in row.items() if result.note},
                "pixels": encoded.get(id(one)),
                "picture": f"pictures/{name}_{one.case.name}.png",
            }
        )
    literature = [
        {
            "model": table.model,
            "metric": table.metric,
            "protocol": table.protocol,
            "source": table.source,
            "published": published,
            "ours": _plain(ours),
        }
        for table, published, ours in report.literature
    ]
    return {
        "name": name,
        "origin": report.test_set.origin,
        "methods": report.methods,
        "figures": {method: _plain(figures) for method, figures in report.figures.items()},
        "literature": literature,
        "plane": planes.get(name),
        "images": images,
    }


def _plain(values: Mapping[str, float]) -> dict[str, float | str | None]:
    """JSON has neither NaN nor infinity: null, and ∞ as a text."""
    return {
        name: None if math.isnan(value) else value if math.isfinite(value) else "∞" for name, value in values.items()
    }


def _encode(shown: Sequence[Shown], limit: float) -> tuple[dict[int, dict[str, str]], str]:
    """Data addresses of all images (by the identity of what is shown), and a remark on what had to be given up."""
    # WebP without loss takes about three quarters of a PNG, and base64 a third more than what it holds.
    lossless = sum(path.stat().st_size for one in shown for path in (one.case.high_res, *one.outputs.values())) <= limit
    encoded: dict[int, dict[str, str]] = {}
    size = 0
    with tqdm(total=sum(1 + len(one.outputs) for one in shown), desc="embedding images", unit="image") as bar:
        for one in sorted(shown, key=lambda one: one.disagreement, reverse=True):
            addresses = {name: image_address(image, lossless) for name, image in one.read().items()}
            bar.update(len(addresses))
            length = sum(map(len, addresses.values()))
            if size + length <= limit:
                size += length
                encoded[id(one)] = addresses
    remarks = []
    if not lossless:
        remarks.append(f"Its images are compressed with loss (WebP, quality {LOSSY_QUALITY}).")
    if len(encoded) < len(shown):
        remarks.append(f"{len(shown) - len(encoded)} of {len(shown)} images are left out.")
    if remarks:
        remarks.append("That keeps it small; page_megabytes=… allows for more.")
    return encoded, " ".join(remarks)
