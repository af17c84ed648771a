"""HTML pages that need nothing else: pictures, style and script are in them. ``templates/`` has how they look."""

import base64
import io
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from esrgan_lit.files import anonymous, write_text

LOSSY_QUALITY = 90  # of WebP, where the images would make the page too large without loss


def write_page(path: Path, template: str, **content: Any) -> None:
    """Write a page. What is in its content is shown as it is: no name becomes markup or script; the user's is left out.

    Args:
        path: of the page.
        template: file name in ``templates/``.
        content: what the template shows.
    """
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    text = _environment().get_template(template).render(made=made, **content)
    write_text(path, text)


def image_address(image: np.ndarray, lossless: bool) -> str:
    """Return an image, uint8 (height, width, 3), as a WebP in a data address."""
    file = io.BytesIO()
    options = {"lossless": True, "quality": 50, "method": 2} if lossless else {"quality": LOSSY_QUALITY}
    Image.fromarray(np.ascontiguousarray(image)).save(file, "WEBP", **options)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _finalize(value: Any) -> Any:
    """Return a value of a page without the user's name; what is markup stays markup."""
    if isinstance(value, str):
        return type(value)(anonymous(value)) if isinstance(value, Markup) else anonymous(value)
    return value


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("esrgan_lit.reports"),
        autoescape=True,
        finalize=_finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The filter ``tojson`` escapes what could end a script element; JSON has no NaN and no infinity.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    environment.globals["zip"] = zip
    return environment
