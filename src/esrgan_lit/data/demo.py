"""The photographs of the quickstart, which scikit-image's wheel carries."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

# The two halves of the stereo pair show the same scene and stay on one side.
SPLITS = {
    "train": (
        "astronaut.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "motorcycle_left.png",
        "motorcycle_right.png",
        "retina.jpg",
        "rocket.jpg",
    ),
    # For a GAN stage: without smooth subjects, and with gray photographs of nothing but texture.
    "textured": (
        "astronaut.png",
        "motorcycle_left.png",
        "motorcycle_right.png",
        "rocket.jpg",
        "brick.png",
        "grass.png",
        "gravel.png",
        "ihc.png",
    ),
    "held_out": ("chelsea.png", "coffee.png"),
}


def photographs(split: Literal["train", "textured", "held_out"]) -> list[str]:
    """Return the paths of the photographs of one side of the split; the held-out ones are never trained on.

    Raises:
        ValueError: when scikit-image is not installed.
    """
    found = find_spec("skimage")
    if found is None or found.origin is None:
        raise ValueError("the demo's photographs come with scikit-image: pip install 'esrgan_lit[demo]'")
    return [str(Path(found.origin).parent / "data" / name) for name in SPLITS[split]]
