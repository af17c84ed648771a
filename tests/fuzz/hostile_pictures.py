"""Hostile pictures: mutated files of every format that people have, and what reads them."""

import io
import math
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from conftest import make_photograph
from esrgan_lit.cli.data import main as data_main
from esrgan_lit.cli.upscale import main as upscale_main
from esrgan_lit.data.check import Fault, check
from esrgan_lit.degradations.bicubic import Bicubic
from esrgan_lit.evaluation.evaluate import evaluate
from esrgan_lit.evaluation.methods import bicubic
from esrgan_lit.evaluation.test_sets import open_sets
from esrgan_lit.images.reading import read_image, read_picture
from esrgan_lit.metrics.metric import MetricOptions
from esrgan_lit.metrics.registry import make_metric
from judging import Kind, files_below, tiny_network
from mutations import INTEGERS, Random, damage, pick

HEIGHT, WIDTH = 40, 48
_TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}  # TIFF's, with bytes
_TAGS = (
    0x0100, 0x0101, 0x0102, 0x0103, 0x0106, 0x010E, 0x010F, 0x0111, 0x0112, 0x0115, 0x0116, 0x0117, 0x011A, 0x011B,
    0x011C, 0x0128, 0x0131, 0x0132, 0x013B, 0x013E, 0x0142, 0x0144, 0x0152, 0x0153, 0x015B, 0x0201, 0x0202, 0x0213,
    0x02BC, 0x8298, 0x829A, 0x83BB, 0x8649, 0x8769, 0x8773, 0x8825, 0x9000, 0x9003, 0x9204, 0x927C, 0x9286, 0xA001,
    0xA002, 0xA003, 0xA005, 0xA20E, 0xA401, 0xC4A5, 0xFFFF,
)  # fmt: skip


@cache
def whole() -> dict[str, bytes]:
    """Return whole pictures: name → content."""
    rgb = make_photograph(HEIGHT, WIDTH, 0)
    image = Image.fromarray(rgb)
    gray = image.convert("L")
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1)))
    rgba = Image.merge("RGBA", (*image.split(), alpha))
    deep = rgb.astype(np.uint16) * 257
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A], exif[0x0128] = 6, "Maker", 72.0, 2
    exif.get_ifd(0x8769)[0xA002] = WIDTH
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 14.0)
    text = PngInfo()
    text.add_text("Title", "A picture")
    text.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    text.add_text("Comment", "long " * 50, zip=True)
    told = {"exif": exif, "icc_profile": profile, "dpi": (300, 300)}
    files: dict[str, bytes] = {}

    def save(name: str, picture: Image.Image, kind: str, **options: object) -> None:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        files[name] = buffer.getvalue()

    save("rgb.png", image, "PNG", pnginfo=text, **told)
    save("rgba.png", rgba, "PNG")
    save("palette.png", image.quantize(16), "PNG", transparency=3)
    save("bit.png", image.convert("1"), "PNG")
    save("gray16.png", Image.fromarray(deep[..., 0].copy()), "PNG")
    save("moving.png", image, "PNG", save_all=True, append_images=[image.rotate(90)])
    files["rgb16.png"] = imagecodecs.png_encode(deep)
    save("rgb.jpg", image, "JPEG", xmp=b"<x:xmpmeta/>", comment=b"said", **told)
    save("progressive.jpg", image, "JPEG", progressive=True, subsampling=2)
    save("gray.jpg", gray, "JPEG")
    save("cmyk.jpg", image.convert("CMYK"), "JPEG")
    save("rgb.tif", image, "TIFF", description="A picture", **told)
    save("lzw.tif", image, "TIFF", compression="tiff_lzw")
    save("jpeg.tif", image, "TIFF", compression="jpeg")
    save("gray.tif", gray, "TIFF", tiffinfo={0x0112: 6})
    save("bit.tif", image.convert("1"), "TIFF", compression="group4")
    save("pages.tif", image, "TIFF", save_all=True, append_images=[image.rotate(90)])
    for name, options in {
        "rgb16.tif": {"compression": "deflate"},
        "tiled16.tif": {"tile": (16, 16)},
        "planes16.tif": {"planarconfig": "separate"},
    }.items():
        buffer = io.BytesIO()
        data = np.moveaxis(deep, -1, 0) if "planes" in name else deep
        tifffile.imwrite(buffer, data, photometric="rgb", **options)
        files[name] = buffer.getvalue()
    save("lossy.webp", image, "WEBP", exif=exif, icc_profile=profile, xmp=b"<x:xmpmeta/>")
    save("lossless.webp", rgba, "WEBP", lossless=True)
    save("moving.webp", image, "WEBP", save_all=True, append_images=[image.rotate(90)])
    save("palette.gif", image.quantize(16), "GIF", transparency=3, comment=b"said")
    save("moving.gif", image.quantize(16), "GIF", save_all=True, append_images=[gray.quantize(8)], loop=0)
    save("rgb.bmp", image, "BMP")
    save("palette.bmp", image.quantize(16), "BMP")
    save("rgb.ppm", image, "PPM")
    save("gray.ppm", gray, "PPM")
    files["text.ppm"] = b"P3\n# said\n2 2\n255\n" + b" ".join(b"%d" % value for value in rgb[:2, :2].ravel())
    files["rgb16.ppm"] = b"P6\n%d %d\n65535\n" % (WIDTH, HEIGHT) + deep.astype(">u2").tobytes()
    save("rgb.avif", image, "AVIF", quality=50)
    return files


def hostile_picture(random: Random, folder: Path) -> Path:
    """Write one mutated picture into a folder; its suffix is mostly its own."""
    files = whole()
    name, other = pick(random, list(files)), files[pick(random, list(files))]
    mutate = _MUTATIONS.get(Path(name).suffix)
    knows = mutate is not None and random.random() < 0.6
    data = mutate(files[name], random) if mutate and knows else damage(files[name], random, other)
    suffix = Path(name).suffix if random.random() < 0.9 else Path(pick(random, list(files))).suffix
    path = folder / f"hostile{suffix}"
    path.write_bytes(data)
    return path


def _png(data: bytes, random: Random) -> bytes:
    """Change chunks, with right checksums, so that what reads them is reached."""
    chunks, place = [], 8
    while place + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    for _ in range(random.integers(1, 3)):
        number = int(random.integers(len(chunks)))
        kind, content = chunks[number]
        how = random.integers(6)
        if how == 0:
            chunks[number] = kind, damage(content, random, header=13)
        elif how == 1:
            del chunks[number]
        elif how == 2:
            chunks.insert(int(random.integers(len(chunks) + 1)), chunks[number])
        elif how == 3:
            chunks.insert(int(random.integers(1, len(chunks))), (b"eXIf", directory(random)))
        elif how == 4:
            packed = zlib.compress(bytes(30_000_000))
            chunks.insert(int(random.integers(1, len(chunks))), (b"zTXt", b"Raw profile type exif\0\0" + packed))
        else:
            kind = pick(
                random,
                (b"tRNS", b"PLTE", b"gAMA", b"cHRM", b"iCCP", b"pHYs", b"tEXt", b"iTXt", b"acTL", b"sRGB", b"cICP"),
            )
            chunks.insert(int(random.integers(1, len(chunks))), (kind, random.bytes(int(random.integers(0, 40)))))
        if not chunks:
            break
    return data[:8] + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def _jpeg(data: bytes, random: Random) -> bytes:
    """Change the segments before the picture, or put an EXIF of odd types there."""
    segments, place = [], 2
    while data[place : place + 1] == b"\xff" and data[place + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, place + 2)
        segments.append(data[place : place + 2 + length])
        place += 2 + length
    how = random.integers(4)
    if how == 0:
        exif = b"Exif\0\0" + directory(random)
        segments = [each for each in segments if each[1] != 0xE1]
        segments.insert(0, b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif)
    elif how == 1:
        del segments[int(random.integers(len(segments)))]
    elif how == 2:
        segments.insert(int(random.integers(len(segments))), pick(random, segments))
    else:
        number = int(random.integers(len(segments)))
        segments[number] = segments[number][:2] + damage(segments[number][2:], random, header=20)
    return data[:2] + b"".join(segments) + data[place:]


def _tiff(data: bytes, random: Random) -> bytes:
    """Change entries of the first directory: type, count, value; or append a directory with odd ones."""
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    changed = bytearray(data)
    entries = [bytearray(data[start + 2 + 12 * number :][:12]) for number in range(count)]
    for _ in range(random.integers(1, 4)):
        entry = pick(random, entries)
        field, size = pick(random, ((0, 2), (2, 2), (4, 4), (8, 4), (8, 4)))
        entry[field : field + size] = (pick(random, (*INTEGERS, *_TYPES)) % 256**size).to_bytes(
            size, "little" if order == "<" else "big"
        )
    if random.random() < 0.4:  # with entries of its own, behind the data
        for _ in range(random.integers(1, 4)):
            tag, kind, number, value = odd_entry(random)
            field = value.ljust(4, b"\0")
            if len(value) > 4:
                field = struct.pack(order + "I", len(changed))
                changed += value
            entries.append(bytearray(struct.pack(order + "HHI", tag, kind, number) + field))
        if random.random() < 0.7:
            entries.sort(key=lambda entry: struct.unpack_from(order + "H", entry)[0])
        changed[4:8] = struct.pack(order + "I", len(changed))
        return bytes(changed) + struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    changed[start + 2 : start + 2 + 12 * count] = b"".join(entries)
    return bytes(changed)


def _webp(data: bytes, random: Random) -> bytes:
    if random.random() < 0.5:
        exif = directory(random)
        at = data.find(b"EXIF")
        if at > 0:
            chunk = b"EXIF" + struct.pack("<I", len(exif)) + exif + b"\0" * (len(exif) % 2)
            (old,) = struct.unpack_from("<I", data, at + 4)
            data = data[:at] + chunk + data[at + 8 + old + old % 2 :]
            return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    return damage(data, random, header=40)


def _ppm(data: bytes, random: Random) -> bytes:
    words = data.split(maxsplit=4)
    number = int(random.integers(min(4, len(words))))
    words[number] = pick(
        random, (b"0", b"-1", b"99999", b"4294967296", b"1e9", b"", b"#", b"P9", b"65536", b"7", b"\xff")
    )
    return b"\n".join(words)


_MUTATIONS: dict[str, Callable[[bytes, Random], bytes]] = {
    ".png": _png, ".jpg": _jpeg, ".tif": _tiff, ".webp": _webp, ".ppm": _ppm
}  # fmt: skip


def odd_entry(random: Random) -> tuple[int, int, int, bytes]:
    """Return a TIFF entry of any type, count and value: (tag, type, count, value's bytes)."""
    kind = pick(random, list(_TYPES))
    count = pick(random, (0, 1, 1, 1, 2, 3, 4, 70_000)) if random.random() < 0.5 else 1
    size = min(_TYPES[kind] * count, 200)
    value = pick(
        random,
        (
            bytes(size),
            b"\xff" * size,
            random.bytes(size),
            b"300 dpi\0",
            struct.pack("<ff", math.inf, math.nan),
            b"\x01",
        ),
    )
    return pick(random, _TAGS), kind, count, value[:size].ljust(size, b"\0")


def directory(random: Random) -> bytes:
    """Return an EXIF directory of odd entries, little-endian, as a TIFF file without pixels."""
    entries = [odd_entry(random) for _ in range(random.integers(1, 6))]
    if random.random() < 0.5:
        entries.append(
            (0x0112, pick(random, (1, 2, 3, 4, 9, 12)), 1, struct.pack("<H", random.integers(0, 12)).ljust(8, b"\0"))
        )
    behind = 8 + 2 + 12 * len(entries) + 4
    fields, values = b"", b""
    for tag, kind, count, value in entries:
        if len(value) > 4:
            field, values = struct.pack("<I", behind + len(values)), values + value
        else:
            field = value.ljust(4, b"\0")
        fields += struct.pack("<HHI", tag, kind, count) + field
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + fields + bytes(4) + values


# What reads them. Each folder also holds a good picture, which a bad one must not take along.


def _beside_a_good_one(path: Path) -> Path:
    folder = path.parent
    (folder / "good.png").write_bytes(whole()["rgb.png"])
    return folder


def _upscale(path: Path) -> None:
    folder = _beside_a_good_one(path)
    out = path.parents[1] / "out"
    try:
        upscale_main([str(folder), "-o", str(out), "--checkpoint", str(tiny_network()), "--engine", "torch"])
    finally:
        assert (out / "good.png").is_file(), "the good picture is not done"
        assert not [name for name in files_below(out) if "partial" in name], "unfinished files are left"


def _pack(path: Path) -> None:
    data_main(["pack", str(_beside_a_good_one(path)), "-o", str(path.parents[1] / "packed")])


def _check(path: Path) -> None:
    report = check([_beside_a_good_one(path)], crop=32)
    for finding in report.findings:
        if finding.path == path and finding.fault in (Fault.EMPTY, Fault.NOT_AN_IMAGE, Fault.DAMAGED, Fault.BOMB):
            raise ValueError(f"{path}: {finding.fault.title}: {finding.detail}")  # so that it counts as refused


def _evaluate(path: Path) -> None:
    degradation = Bicubic(4)
    sets = open_sets({"set": {"hr": str(_beside_a_good_one(path))}}, degradation, path.parent)
    metrics = [make_metric("psnr_y", 4, MetricOptions())]
    for result in evaluate(sets, [bicubic(4)], metrics, path.parents[1] / "cache", 1):
        assert result.output is not None, result.note


PICTURES = Kind(
    "pictures",
    hostile_picture,
    {
        "read_picture": read_picture,
        "read_image": read_image,
        "esrgan-upscale FOLDER": _upscale,
        "esrgan-data pack": _pack,
        "esrgan-data check": _check,
        "evaluation": _evaluate,
    },
)
