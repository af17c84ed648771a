"""Make a folder with one of each awkward image file: ``python tests/awkward.py FOLDER``."""

import sys
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms

sys.path.insert(0, str(Path(__file__).parent))
from conftest import make_photograph

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def make_awkward(folder: Path, photograph: np.ndarray | None = None) -> None:
    """Write a photograph (uint8 RGB; made up when there is none) in every form that upscaling must take."""
    folder.mkdir(parents=True, exist_ok=True)
    rgb = make_photograph(48, 64, 0) if photograph is None else photograph
    height, width = rgb.shape[:2]
    image = Image.fromarray(rgb)
    for suffix in ("png", "webp", "bmp", "avif"):
        image.save(folder / f"rgb.{suffix}")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    exif.get_ifd(0x8769)[0xA002] = width
    image.save(folder / "rotated.jpg", exif=exif, icc_profile=PROFILE, quality=95, dpi=(300, 300))
    grey = image.convert("L")
    grey.save(folder / "grey.png")
    image.convert("1").save(folder / "one_bit.png")
    y, x = np.mgrid[:height, :width]
    round_alpha = np.clip(300 - 600 * np.hypot(y / height - 0.5, x / width - 0.5), 0, 255).astype(np.uint8)
    alpha = Image.fromarray(round_alpha)
    Image.merge("RGBA", (*image.split(), alpha)).save(folder / "rgba.png")
    Image.merge("LA", (grey, alpha)).save(folder / "grey_alpha.png")
    deep = rgb.astype(np.uint16) * 256 + np.random.default_rng(0).integers(0, 256, rgb.shape, np.uint16)
    Image.fromarray(deep[..., 1].copy()).save(folder / "grey16.png")
    Image.fromarray(deep[..., 1].copy()).save(folder / "grey16.tif")
    (folder / "rgb16.png").write_bytes(imagecodecs.png_encode(deep))
    (folder / "rgba16.png").write_bytes(
        imagecodecs.png_encode(np.dstack((deep, round_alpha.astype(np.uint16)[..., None] * 257)))
    )
    tifffile.imwrite(folder / "rgb16.tif", deep, photometric="rgb", compression="deflate")
    palette = image.quantize(64)
    palette.save(folder / "palette.png")
    palette.save(folder / "palette.gif.png", "PNG", bits=8)
    palette.save(
        folder / "palette_transparent.png", transparency=int(np.bincount(np.asarray(palette).ravel()).argmax())
    )
    image.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    (folder / "cut.jpg").write_bytes((folder / "rotated.jpg").read_bytes()[:-700])
    (folder / "text.png").write_text("no image")


if __name__ == "__main__":
    given = np.array(Image.open(sys.argv[2]).convert("RGB")) if len(sys.argv) > 2 else None
    make_awkward(Path(sys.argv[1]), given)
