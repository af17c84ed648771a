"""What a sample means is what its file says: every depth, kind and turn, against formulas and other decoders."""

import io
import struct
import zlib
from itertools import product
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from tiff_files import layout, make_tiff, packed

from conftest import make_photograph
from esrgan_lit.images.picture import PictureError
from esrgan_lit.images.png import png_bytes
from esrgan_lit.images.reading import read_image, read_picture, size_of

HEIGHT, WIDTH = 11, 13
RANDOM = np.random.default_rng(0)
TURNS = {
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: np.rot90,
}


def levels(samples: np.ndarray, bits: int) -> np.ndarray:
    """The definition: a sample's share of what its bits can say, of 255 or of 65535."""
    full, dtype = (255, np.uint8) if bits <= 8 else (65535, np.uint16)
    return np.rint(samples.astype(np.int64) * full / (2**bits - 1)).astype(dtype)


def both_read(path: Path, expected: np.ndarray) -> None:
    """The reader of upscaling and that of training give the same picture."""
    pixels = read_picture(path).pixels
    assert pixels.dtype == expected.dtype
    np.testing.assert_array_equal(pixels, expected)
    assert size_of(path) == expected.shape[:2]
    colors = expected.reshape(*expected.shape[:2], -1)
    colors = colors[..., :1].repeat(3, 2) if colors.shape[2] < 3 else colors[..., :3]
    colors = np.rint(colors / 257).astype(np.uint8) if colors.dtype == np.uint16 else colors
    np.testing.assert_array_equal(read_image(path), colors)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("photometric", [0, 1])
def test_gray_tiff_of_every_depth(photometric: int, order: str, tmp_path: Path) -> None:
    for bits in (1, 2, 4, 6, 8, 10, 12, 14, 16):
        samples = RANDOM.integers(0, 2**bits, (HEIGHT, WIDTH))
        tags = layout(HEIGHT, WIDTH, bits, photometric)
        path = make_tiff(tmp_path / f"{bits}.tif", [(tags, packed(samples, bits, order))], order)
        both_read(path, levels(samples if photometric else 2**bits - 1 - samples, bits))


def test_color_tiff_of_every_depth(tmp_path: Path) -> None:
    for bits, channels in product((2, 4, 8, 10, 12, 14, 16), (3, 4)):
        samples = RANDOM.integers(0, 2**bits, (HEIGHT, WIDTH, channels))
        tags = layout(HEIGHT, WIDTH, bits, 2, channels, **({"tag338": 2} if channels == 4 else {}))
        path = make_tiff(tmp_path / f"{bits}_{channels}.tif", [(tags, packed(samples, bits))])
        both_read(path, levels(samples, bits))


@pytest.mark.parametrize("photometric", ["miniswhite", "minisblack", "rgb"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_stored_in_every_way(dtype: type, photometric: str, tmp_path: Path) -> None:
    channels = (3,) if photometric == "rgb" else ()
    full = np.iinfo(dtype).max
    samples = RANDOM.integers(0, full + 1, (40, 50, *channels), dtype)
    expected = full - samples if photometric == "miniswhite" else samples
    ways = [
        {"compression": compression, "predictor": predictor, "tile": tile, "byteorder": order}
        for compression, predictor, tile, order in (
            ("deflate", True, None, "<"),
            ("lzw", False, (16, 16), ">"),
            ("zstd", True, (32, 16), "<"),
            ("packbits", False, None, ">"),
            ("lzma", False, None, "<"),
            ("webp", False, None, "<"),
            (None, False, (16, 32), ">"),
        )
        if compression != "webp" or (dtype == np.uint8 and channels)
    ]
    for number, way in enumerate(ways):
        path = tmp_path / f"{number}.tif"
        options = {"compressionargs": {"lossless": True}} if way["compression"] == "webp" else {}
        tifffile.imwrite(path, samples, photometric=photometric, metadata=None, **way, **options)
        both_read(path, expected)
    if channels:
        planes = np.moveaxis(samples, 2, 0)
        for number, compression in enumerate((None, "deflate")):
            path = tmp_path / f"planes{number}.tif"
            tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", compression=compression)
            both_read(path, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_turn(orientation: int, tmp_path: Path) -> None:
    for kind, dtype, compression in product(("gray", "RGB", "RGBA"), (np.uint8, np.uint16), (None, "deflate", "lzw")):
        shape = (HEIGHT, WIDTH) if kind == "gray" else (HEIGHT, WIDTH, len(kind))
        samples = RANDOM.integers(0, np.iinfo(dtype).max + 1, shape, dtype)
        path = tmp_path / "turned.tif"
        tifffile.imwrite(
            path,
            samples,
            photometric="minisblack" if kind == "gray" else "rgb",
            extrasamples=["unassalpha"] if kind == "RGBA" else None,
            compression=compression,
            extratags=[(274, 3, 1, orientation, True)],
            metadata=None,
        )
        both_read(path, TURNS[orientation](samples))
        if dtype == np.uint8 or kind != "gray":
            png = imagecodecs.png_encode(samples)
            tag = struct.pack(">2sHIHHHIH6x", b"MM", 42, 8, 1, 274, 3, 1, orientation)
            path = tmp_path / "turned.png"
            path.write_bytes(png[:33] + png_bytes([(b"eXIf", tag)])[8:-12] + png[33:])
            both_read(path, TURNS[orientation](samples))


@pytest.mark.parametrize("bits", [8, 16])
def test_what_samples_beyond_the_colors_mean(bits: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    full = 2**bits - 1
    samples = RANDOM.integers(0, full + 1, (HEIGHT, WIDTH, 4))
    samples[0, :, 3], samples[1, :, 3] = 0, full
    path = tmp_path / "four.tif"

    def written(meaning: int | None, photometric: int, channels: int) -> Path:
        extra = {"tag338": meaning} if meaning is not None else {}
        tags = layout(HEIGHT, WIDTH, bits, photometric, channels, **extra)
        return make_tiff(path, [(tags, packed(samples[..., -channels:], bits))])

    for photometric, channels in ((2, 4), (1, 2)):
        colors, alpha = samples[..., -channels:-1], samples[..., 3:]
        bare = colors if channels == 4 else colors[..., 0]
        caplog.clear()
        both_read(written(0, photometric, channels), levels(bare, bits))
        assert f"{path}: left out: 1 more sample a pixel, of unspecified meaning" in caplog.text
        both_read(written(2, photometric, channels), levels(samples[..., -channels:], bits))
        both_read(written(None, photometric, channels), levels(samples[..., -channels:], bits))
        straight = read_picture(written(1, photometric, channels)).pixels
        seen = alpha[..., 0] > 0
        exact = np.clip(colors / np.maximum(alpha, 1) * full, 0, full)
        assert np.abs(straight[..., :-1] - exact)[seen].max() <= 0.5
        np.testing.assert_array_equal(straight[..., -1:], alpha)
    tags = layout(HEIGHT, WIDTH, bits, 2, 5) | {338: (3, (0, 1))}
    five = np.concatenate((samples, samples[..., 3:]), 2)
    make_tiff(path, [(tags, packed(five, bits))])
    assert read_picture(path).pixels.shape == (HEIGHT, WIDTH, 4)  # the one that is told to be alpha
    make_tiff(path, [(layout(HEIGHT, WIDTH, bits, 1, 4) | {338: (3, (0, 0, 0))}, packed(samples, bits))])
    with pytest.raises(PictureError, match=r"4 bands"):
        read_picture(path)


def test_samples_of_unknown_range_are_refused(tmp_path: Path) -> None:
    for dtype in (np.int8, np.int16, np.int32, np.uint32, np.float16, np.float32, np.float64):
        path = tmp_path / f"{np.dtype(dtype).name}.tif"
        tifffile.imwrite(path, np.ones((HEIGHT, WIDTH, 3), dtype), photometric="rgb")
        for read in (read_picture, read_image):
            with pytest.raises(PictureError, match=rf"{path.name} cannot be read .* save it with 8 or 16"):
                read(path)


def test_palette_tiff(tmp_path: Path) -> None:
    for bits in (1, 4, 8):
        colors = RANDOM.integers(0, 256, (2**bits, 3))
        indices = RANDOM.integers(0, 2**bits, (HEIGHT, WIDTH))
        tags = layout(HEIGHT, WIDTH, bits, 3) | {320: (3, tuple((colors * 257).T.ravel().tolist()))}
        path = make_tiff(tmp_path / "palette.tif", [(tags, packed(indices, bits))])
        both_read(path, colors.astype(np.uint8)[indices])


def test_pages(tmp_path: Path) -> None:
    pages = RANDOM.integers(0, 256, (3, HEIGHT, WIDTH, 3), np.uint8)
    tags = layout(HEIGHT, WIDTH, 8, 2, 3)
    path = make_tiff(tmp_path / "pages.tif", [(tags, page.tobytes()) for page in pages])
    for read in (read_picture, read_image):
        with pytest.raises(PictureError, match=r"pages\.tif .*it has 3 pages; .*--frames all"):
            read(path)
    for number, page in enumerate(pages):
        np.testing.assert_array_equal(read_picture(path, number).pixels, page)
    with pytest.raises(PictureError, match=r"number 4 was asked for; use 1 … 3"):
        read_picture(path, 3)
    preview = layout(4, 5, 8, 2, 3) | {254: (4, (1,))}  # a smaller copy
    mask = layout(HEIGHT, WIDTH, 1, 4) | {254: (4, (4,))}
    path = make_tiff(
        tmp_path / "one.tif", [(preview, bytes(60)), (tags, pages[0].tobytes()), (mask, bytes(2 * HEIGHT))]
    )
    both_read(path, pages[0])
    tifffile.imwrite(tmp_path / "stack.tif", pages[..., 0], imagej=True)
    with pytest.raises(PictureError, match=r"stack\.tif .*it has 3 pages"):
        read_picture(tmp_path / "stack.tif")


def make_png(bits: int, color: int, samples: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of samples (height, width[, channels]) as they are."""
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, color, 0, 0, 0)
    rows = packed(samples, bits, ">")
    length = len(rows) // len(samples)
    filtered = b"".join(b"\0" + rows[at : at + length] for at in range(0, len(rows), length))
    return png_bytes([(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(filtered))])


def test_transparent_color_of_png(tmp_path: Path) -> None:
    path = tmp_path / "clear.png"
    for bits, color in ((1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2)):
        shape = (HEIGHT, WIDTH, 3) if color else (HEIGHT, WIDTH)
        samples = RANDOM.integers(0, 2**bits, shape)
        samples[4:6] = samples[5, 7]
        clear = samples[5, 7] if color else samples[5, 7, None]
        told = b"".join(struct.pack(">H", value) for value in clear)
        path.write_bytes(make_png(bits, color, samples, (b"tRNS", told)))
        planes = samples.reshape(HEIGHT, WIDTH, -1)
        alpha = np.where((planes == clear).all(2), 0, 2**bits - 1)[..., None]
        both_read(path, levels(np.concatenate((planes, alpha), 2), bits))


def test_palette_of_png(tmp_path: Path) -> None:
    path = tmp_path / "palette.png"
    for bits in (1, 2, 4, 8):
        colors = RANDOM.integers(0, 256, (2**bits, 4), np.uint8)
        colors[-1, 3] = 255  # what tRNS does not reach is opaque
        samples = RANDOM.integers(0, 2**bits, (HEIGHT, WIDTH))
        chunks = [(b"PLTE", colors[:, :3].tobytes()), (b"tRNS", colors[:-1, 3].tobytes())]
        path.write_bytes(make_png(bits, 3, samples, *chunks))
        both_read(path, colors[samples])
        with Image.open(path) as opened:
            np.testing.assert_array_equal(read_picture(path).pixels, opened.convert("RGBA"))
        path.write_bytes(make_png(bits, 3, samples, chunks[0]))
        both_read(path, colors[samples][..., :3])


def test_deep_png_of_every_kind(tmp_path: Path) -> None:
    for channels, color in ((1, 0), (2, 4), (3, 2), (4, 6)):
        samples = RANDOM.integers(0, 65536, (HEIGHT, WIDTH, channels))
        samples = samples[..., 0] if channels == 1 else samples
        (tmp_path / "deep.png").write_bytes(make_png(16, color, samples))
        both_read(tmp_path / "deep.png", samples.astype(np.uint16))


@pytest.mark.parametrize("most", [1, 7, 200, 255, 256, 1023, 4095, 65535])
def test_netpbm_with_every_highest_level(most: int, tmp_path: Path) -> None:
    for channels, kinds in ((1, (b"P2", b"P5", b"P7")), (2, (b"P7",)), (3, (b"P3", b"P6", b"P7")), (4, (b"P7",))):
        samples = RANDOM.integers(0, most + 1, (HEIGHT, WIDTH, channels))
        full, dtype = (255, np.uint8) if most <= 255 else (65535, np.uint16)
        expected = np.rint(samples * full / most).astype(dtype)
        for kind in kinds:
            body = samples.astype(">u2" if most > 255 else "u1").tobytes()
            head = b"%s\n# drawn\n%d %d\n%d\n" % (kind, WIDTH, HEIGHT, most)
            if kind == b"P7":
                fields = (b"WIDTH %d" % WIDTH, b"HEIGHT %d" % HEIGHT, b"DEPTH %d" % channels, b"MAXVAL %d" % most)
                head = b"\n".join((b"P7", *fields, b"TUPLTYPE ANY", b"ENDHDR\n"))
            if kind in (b"P2", b"P3"):
                body = b"\n".join(b"%d" % value for value in samples.ravel()) + b"\n"
            (tmp_path / "image.pnm").write_bytes(head + body)
            both_read(tmp_path / "image.pnm", expected[..., 0] if channels == 1 else expected)


def test_deep_samples_of_other_formats(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3)
    for bits in (10, 12):
        samples = np.rint(ramp * (2**bits - 1)).astype(np.uint16)
        coded = {
            "avif": imagecodecs.avif_encode(samples, level=100, bitspersample=bits, pixelformat="444"),
            "j2k": imagecodecs.jpeg2k_encode(samples, level=0, bitspersample=bits, codecformat="j2k"),
            "jp2": imagecodecs.jpeg2k_encode(samples, level=0, bitspersample=bits),
            "jxl": imagecodecs.jpegxl_encode(samples, lossless=True, bitspersample=bits),
        }
        for suffix, data in coded.items():
            (tmp_path / f"deep.{suffix}").write_bytes(data)
            both_read(tmp_path / f"deep.{suffix}", levels(samples, bits))
    deep = np.rint(ramp * 65535).astype(np.uint16)
    coded = {
        "jxl": imagecodecs.jpegxl_encode(deep, lossless=True),
        "jxr": imagecodecs.jpegxr_encode(deep, level=1.0),
        "jp2": imagecodecs.jpeg2k_encode(deep, level=0),
    }
    for suffix, data in coded.items():
        (tmp_path / f"deep.{suffix}").write_bytes(data)
        both_read(tmp_path / f"deep.{suffix}", deep)
    gray = deep[..., 0]
    for name, data in {"jls": imagecodecs.jpegls_encode(gray), "jpg": imagecodecs.ljpeg_encode(gray)}.items():
        (tmp_path / f"gray.{name}").write_bytes(data)
        both_read(tmp_path / f"gray.{name}", gray)
    twelve = np.rint(ramp * 4095).astype(np.uint16)
    (tmp_path / "12.jpg").write_bytes(imagecodecs.jpeg8_encode(twelve, bitspersample=12, level=100, subsampling="444"))
    assert np.abs(read_picture(tmp_path / "12.jpg").pixels.astype(int) - levels(twelve, 12)).mean() < 200


def test_heic(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    ramp = np.linspace(0, 1, 64 * 48 * 3).reshape(48, 64, 3)
    for bits, mode in ((8, "RGB"), (10, "RGB;16")):
        samples = np.rint(ramp * (2**bits - 1)).astype(np.uint16)
        stored = samples.astype(np.uint8) if bits == 8 else samples << (16 - bits)
        file = io.BytesIO()
        pillow_heif.from_bytes(mode, (64, 48), stored.tobytes()).save(
            file, quality=-1, chroma=444, matrix_coefficients=0
        )
        (tmp_path / "photo.heic").write_bytes(file.getvalue())
        both_read(tmp_path / "photo.heic", levels(samples, bits))


def test_animations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = [Image.fromarray(make_photograph(20, 30, seed)) for seed in range(3)]
    for name, options in (("a.gif", {}), ("a.webp", {"lossless": True}), ("a.png", {}), ("a.avif", {})):
        caplog.clear()
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        with Image.open(tmp_path / name) as opened:
            for number in range(3):
                opened.seek(number)
                np.testing.assert_array_equal(read_picture(tmp_path / name, number).pixels, opened.convert("RGB"), name)
        assert not caplog.text
        first = read_picture(tmp_path / name).pixels
        np.testing.assert_array_equal(first, read_picture(tmp_path / name, 0).pixels)
        assert caplog.text.count("it has 3 frames; the first is taken") == 1
        assert size_of(tmp_path / name) == (20, 30)
    with pytest.raises(PictureError, match=r"a\.gif .*it has 3 frames, and number 4 was asked for; use 1 … 3"):
        read_picture(tmp_path / "a.gif", 3)
    caplog.clear()
    frames[0].save(tmp_path / "pair.mpo", save_all=True, append_images=frames[1:2], quality=95)
    with Image.open(tmp_path / "pair.mpo") as opened:
        assert opened.n_frames == 2  # a preview or another eye: no page of the picture
        both_read(tmp_path / "pair.mpo", np.asarray(opened))
    sizes = [(16, 16), (32, 32), (64, 64)]
    frames[0].resize((64, 64)).save(tmp_path / "sizes.ico", sizes=sizes)
    both_read(tmp_path / "sizes.ico", np.asarray(frames[0].resize((64, 64)).convert("RGB")))
    assert not caplog.text


def test_formats_that_pillow_reads(tmp_path: Path) -> None:
    image = Image.fromarray(make_photograph(20, 32, 0))
    for suffix in ["jfif", "jpe", "gif", "tga", "dds", "ppm", "pgm", "pbm", "jp2", "bmp", "pcx", "sgi", "qoi", "ico"]:
        path = tmp_path / f"image.{suffix}"
        made = image.convert({"pgm": "L", "pbm": "1"}.get(suffix, "RGB"))
        made.save(path, **({"sizes": [(32, 20)]} if suffix == "ico" else {}))
        with Image.open(path) as opened:
            expected = np.asarray(opened.convert("RGB" if made.mode == "RGB" else "L"))
        both_read(path, expected)


def test_pictures_that_pillow_calls_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    photograph = make_photograph(20, 30, 0)
    for suffix in ("png", "jpg", "tif", "bmp", "webp", "gif"):
        Image.fromarray(photograph).save(tmp_path / f"large.{suffix}")
        assert read_picture(tmp_path / f"large.{suffix}").pixels.shape == (20, 30, 3)
    header = struct.pack(">IIBBBBB", 2**30, 2**30, 16, 6, 0, 0, 0)
    (tmp_path / "claims.png").write_bytes(png_bytes([(b"IHDR", header), (b"IDAT", zlib.compress(b""))]))
    with pytest.raises(PictureError, match=r"claims\.png .*1073741824×1073741824 pixels need [\d.]+ GiB, and"):
        read_picture(tmp_path / "claims.png")


def test_no_program_is_run_by_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: object, **options: object) -> None:
        raise AssertionError(f"a program was run: {arguments}")

    monkeypatch.setattr("subprocess.check_call", run)
    (tmp_path / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(PictureError, match=r"page\.png cannot be read"):
        read_picture(tmp_path / "page.png")


def test_files_that_are_cut_short(tmp_path: Path) -> None:
    image = Image.fromarray(make_photograph(80, 96, 0))
    deep = np.asarray(image).astype(np.uint16) * 257
    coded = {
        "jxr": imagecodecs.jpegxr_encode(deep, level=1.0),
        "jxl": imagecodecs.jpegxl_encode(deep, lossless=True),
        "jp2": imagecodecs.jpeg2k_encode(deep, level=0),
        "deep.png": imagecodecs.png_encode(deep),
        "12.jpg": imagecodecs.jpeg8_encode(deep >> 4, bitspersample=12, level=95),
        "ppm": b"P6 96 80 65535\n" + deep.astype(">u2").tobytes(),
    }
    for number, (compression, tile) in enumerate(
        product((None, "deflate", "zstd", "jpeg", "packbits"), (None, (32, 32)))
    ):
        file = io.BytesIO()
        tifffile.imwrite(file, np.asarray(image), photometric="rgb", compression=compression, tile=tile, metadata=None)
        coded[f"{number}.tif"] = file.getvalue()
    for name, format_name in (("png", "PNG"), ("jpg", "JPEG"), ("webp", "WebP"), ("avif", "AVIF"), ("bmp", "BMP")):
        file = io.BytesIO()
        image.save(file, format_name)
        coded[name] = file.getvalue()
    for name, data in coded.items():
        path = tmp_path / f"cut.{name}"
        path.write_bytes(data)
        read_picture(path)
        for length in (len(data) - 300, len(data) // 2):
            path.write_bytes(data[:length])
            for read in (read_picture, read_image):
                with pytest.raises(PictureError, match=r"cut\..* cannot be read"):
                    read(path)


def test_tiff_of_pillow(tmp_path: Path) -> None:
    image = Image.fromarray(make_photograph(33, 47, 0))
    plain = ("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate")
    for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr"):
        fax = {"1": ("group3", "group4", "tiff_ccitt"), "P": ()}
        for compression in (*plain, *fax.get(mode, ("jpeg",))):
            path = tmp_path / "pillow.tif"
            image.convert(mode).save(path, compression=compression)
            with path.open("rb") as file, Image.open(file) as opened:
                seen = {"1": "L", "L": "L", "RGBA": "RGBA"}.get(mode, "RGB")
                both_read(path, np.asarray(opened.convert(seen)))
