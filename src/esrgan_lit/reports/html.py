"""HTML pages that need nothing else: pictures, data and script are in them."""

import base64
import html
import io
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from esrgan_lit.files import write_whole

LOSSY_QUALITY = 90  # of WebP, where the images would make the page too large without loss


def write_page(path: Path, title: str, data: dict[str, Any], script: str) -> None:
    """Write a page: ``page.html`` with its data, and the script that shows them.

    Args:
        path: of the page.
        title: of the page, in plain text.
        data: what the script finds as ``data``; JSON, hence without NaN and infinity.
        script: name of the script in this package, and of the style beside it where there is one, without suffix.
    """
    package = files("esrgan_lit.reports")
    style = package.joinpath(f"{script}.css")
    parts = {
        "title": html.escape(title),
        "style": style.read_text(encoding="utf-8") if style.is_file() else "",
        "script": package.joinpath(f"{script}.js").read_text(encoding="utf-8"),
        # "</" would end the script element that the data stand in.
        "data": json.dumps(data, ensure_ascii=False, allow_nan=False).replace("</", "<\\/"),
    }
    text = package.joinpath("page.html").read_text(encoding="utf-8")
    for name, part in parts.items():  # the data last, so that nothing in them is taken for a place
        text = text.replace(f"{{{{{name}}}}}", part)
    write_whole(path, text)


def image_address(image: np.ndarray, lossless: bool) -> str:
    """An image, uint8 (height, width, 3), as a WebP in a data address."""
    file = io.BytesIO()
    options = {"lossless": True, "quality": 50, "method": 2} if lossless else {"quality": LOSSY_QUALITY}
    Image.fromarray(np.ascontiguousarray(image)).save(file, "WEBP", **options)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
