"""What is beside the pixels: kept where a format holds it, said where not, and never the end of a picture."""

import io
import struct
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from tiff_files import layout, make_tiff

from conftest import make_photograph
from esrgan_lit.images.exif import Exif, parse_exif
from esrgan_lit.images.metadata import iptc_in, photoshop_block
from esrgan_lit.images.picture import Picture
from esrgan_lit.images.png import png_bytes
from esrgan_lit.images.reading import read_picture
from esrgan_lit.images.writing import written_picture

PHOTOGRAPH = make_photograph(24, 32, 0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="kept"/></x:xmpmeta>'
SUFFIXES = (".png", ".jpg", ".webp", ".tif", ".avif", ".bmp")
IPTC = b"\x1c\x02\x78\x00\x05hello"


def converted(source: Path, suffix: str) -> Path:
    """The file that an upscaling by 1 would write."""
    path = source.with_name(f"{source.stem}_out{suffix}")
    with written_picture(read_picture(source), path, 100):
        pass
    return path


def exif_block(rows: list[tuple[int, int, int, bytes]], order: str = "<") -> bytes:
    """EXIF data of rows (tag, type, count, four bytes of value or offset); what is behind them begins at 1000."""
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8)
    table = b"".join(struct.pack(f"{order}HHI", tag, kind, count) + value for tag, kind, count, value in rows)
    return (head + struct.pack(f"{order}H", len(rows)) + table + bytes(4)).ljust(1000, b"\0") + bytes(range(64))


def jpeg_with(exif: bytes, path: Path) -> Path:
    file = io.BytesIO()
    Image.fromarray(PHOTOGRAPH).save(file, "JPEG", quality=95)
    data = file.getvalue()
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif
    path.write_bytes(data[:2] + segment + data[2:])
    return path


def everything(path: Path) -> Path:
    """A JPEG file with all that there can be beside its pixels."""
    exif = Image.Exif()
    exif[0x010F], exif[0x010E], exif[0x0112] = "Maker", "a scan", 6
    exif.get_ifd(0x8769).update({0x829A: 0.01, 0x9286: b"ASCII\0\0\0hi", 0xA002: 32, 0xA003: 24, 0x927C: bytes(40)})
    exif.get_ifd(0x8825).update({1: "N", 2: (47.0, 22.0, 0.0)})
    extra = b"\xff\xed" + struct.pack(">H", len(photoshop_block(IPTC)) + 2) + photoshop_block(IPTC)
    Image.fromarray(PHOTOGRAPH).save(
        path, exif=exif, xmp=XMP, icc_profile=SRGB, dpi=(300, 300), comment=b"a word", extra=extra, quality=95
    )
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_all_of_it_survives_where_it_can(suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = everything(tmp_path / "photo.jpg")
    output = converted(source, suffix)
    with Image.open(output) as opened:
        assert opened.size == (24, 32)  # upright
        exif, info = opened.getexif(), opened.info
        opened.load()
        assert exif.get(0x0112, 1) == 1
        if suffix != ".bmp":
            assert (exif[0x010F], exif[0x010E]) == ("Maker", "a scan")
            detail, place = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
            assert (detail[0x829A], detail[0x9286], detail[0x927C]) == (0.01, b"ASCII\0\0\0hi", bytes(40))
            assert (detail[0xA002], detail[0xA003]) == (24, 32)
            assert (place[1], place[2]) == ("N", (47.0, 22.0, 0.0))
            assert info["icc_profile"] == SRGB
            assert info["xmp"].replace(b'Orientation="1"', b'Orientation="6"') == XMP
            assert b'Orientation="6"' not in output.read_bytes()
        if suffix in (".webp", ".avif"):
            assert (exif[0x011A], exif[0x011B], exif[0x0128]) == (300, 300, 2)
        else:
            assert info["dpi"] == pytest.approx((300, 300), abs=0.1)
    lost = {".png": "IPTC", ".webp": "comment, IPTC", ".tif": "comment", ".avif": "comment, IPTC"}
    lost[".bmp"] = "color profile, comment, EXIF, XMP, IPTC"
    expected = f"{output}: {suffix} files do not hold, left out: {lost[suffix]}" if suffix in lost else ""
    assert [record.message for record in caplog.records] == [expected] * bool(expected)
    again = read_picture(output)
    assert again.iptc == (IPTC if suffix in (".jpg", ".tif") else None)
    if suffix == ".png":
        assert Image.open(output).text["Comment"] == "a word"


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("depth", [8, 16])
def test_tiff_to_tiff(depth: int, order: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for channels in (1, 3, 4):
        tags = layout(4, 5, depth, 1 if channels == 1 else 2, channels, **({"tag338": 2} if channels == 4 else {}))
        tags |= {270: (2, b"a scan\0"), 305: (2, b"Scanner\0"), 315: (2, b"me\0"), 306: (2, b"2020:01:01 00:00:00\0")}
        tags |= {282: (5, (600, 2)), 283: (5, (1200, 4)), 296: (3, (2,)), 700: (1, XMP), 33723: (7, IPTC + b"\0")}
        tags |= {34675: (7, SRGB)} if channels > 1 else {}
        tags |= {37724: (7, bytes(100)), 33550: (3, (1, 2, 3)), 65000: (2, b"private\0"), 530: (3, (1, 1))}
        source = make_tiff(tmp_path / "scan.tif", [(tags, bytes(4 * 5 * channels * depth // 8))], order)
        caplog.clear()
        with tifffile.TiffFile(converted(source, ".tif")) as file:
            found = {tag.code: tag.value for tag in file.pages[0].tags}
            assert file.byteorder == order
        assert (found[270], found[305], found[315], found[306]) == ("a scan", "Scanner", "me", "2020:01:01 00:00:00")
        assert (found[282][0] / found[282][1], found[296]) == (300, 2)
        assert found[700].replace(b'"1"', b'"6"') == XMP
        assert found[33723] == IPTC + b"\0"
        assert found.get(34675) == (SRGB if channels > 1 else None)
        assert not {37724, 33550, 65000, 530} & found.keys()
        left_out = "tag 33550, Photoshop's layers, tag 65000"
        assert [record.message for record in caplog.records] == [f"{source}: left out: {left_out}"]


TAGS = (0x010E, 0x0112, 0x011A, 0x0128, 0x0132, 0x8298, 0x8769, 0x8825, 0x9C9B, 0x4746, 0x1234)
ODD = list(product(TAGS, (*range(14), 77, 129, 65535), (0, 1, 2, 9, 2**32 - 1)))  # tag, type, count
VALUES = [bytes(4), struct.pack("<I", 1000), struct.pack("<I", 8), b"\xff" * 4, struct.pack("<f", np.inf), b"6\0\0\0"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_odd_tag_ends_a_picture(suffix: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    picture = read_picture(jpeg_with(b"", tmp_path / "plain.jpg"))
    plain = Picture(picture.pixels[:1, :1])
    for number in range(120 if suffix in (".jpg", ".tif", ".png") else 40):
        rows = [(*ODD[random.integers(len(ODD))], VALUES[random.integers(len(VALUES))]) for _ in range(3)]
        order = "<>"[number % 2]
        faults: list[str] = []
        parsed = parse_exif(exif_block(rows, order), faults)
        if parsed is None:
            continue
        again = parse_exif(parsed.tobytes(), written_faults := [])
        assert not written_faults
        assert (again or Exif(parsed.order)) == parsed
        path = jpeg_with(exif_block(rows, order), tmp_path / "odd.jpg")
        picture = read_picture(path)
        assert picture.pixels.shape[2] == 3
        with written_picture(plain._replace(exif=picture.exif, dpi=picture.dpi), tmp_path / f"out{suffix}"):
            pass
        with Image.open(tmp_path / f"out{suffix}") as opened:
            exif = opened.getexif()
            assert exif.get(0x0112, 1) == 1
            dict(exif)
            opened.load()


def test_loops_and_bombs_in_exif_end(tmp_path: Path) -> None:
    faults: list[str] = []
    assert not parse_exif(exif_block([(0x8769, 4, 1, struct.pack("<I", 8))]), faults)
    assert faults == ["EXIF details (damaged)"]
    block = exif_block([(tag, 7, 2**20, struct.pack("<I", 2000)) for tag in range(1, 80)]).ljust(2**21, b"\1")
    parsed = parse_exif(block, faults)
    assert parsed
    assert (
        sum(len(entry.data) for entry in parsed.main.values()) <= 2**26
    )  # what overlaps is not multiplied without end


def test_orientation_stands_in_one_place(tmp_path: Path) -> None:
    turned = exif_block([(0x0112, 3, 1, struct.pack("<HH", 6, 0))])
    hexadecimal = b"\nexif\n%8d\n%s\n" % (len(turned), turned.hex().encode())
    info = PngInfo()
    info.add(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(hexadecimal))
    info.add_itxt("XML:com.adobe.xmp", "<x><tiff:Orientation>6</tiff:Orientation></x>")
    Image.fromarray(PHOTOGRAPH).save(tmp_path / "raw.png", pnginfo=info)
    for suffix in (".png", ".jpg", ".tif", ".webp"):
        with Image.open(converted(tmp_path / "raw.png", suffix)) as opened:
            assert opened.size == (24, 32)
            assert opened.getexif().get(0x0112, 1) == 1
            assert "Raw profile" not in str(opened.info)
            assert b"tiff:Orientation>1<" in opened.info["xmp"]


def test_color_chunks_and_texts_of_png(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chunks = (
        (b"gAMA", struct.pack(">I", 100_000)),
        (b"cHRM", struct.pack(">8I", 31270, 32900, 70800, 29200, 17000, 79700, 13100, 4600)),
        (b"cICP", b"\x09\x10\x00\x01"),
        (b"tEXt", b"caf\xe9\0one"),
        (b"tEXt", b"caf\xe9\0two"),
        (b"zTXt", b"long\0\0" + zlib.compress(b"x" * 5000)),
        (b"iTXt", b"prompt\0\0\0ja\0\xe3\x83\x97\0\xe6\x97\xa5"),
        (b"vpAg", bytes(9)),
    )
    for depth in (8, 16):
        pixels = PHOTOGRAPH if depth == 8 else PHOTOGRAPH.astype(np.uint16) * 257
        picture = Picture(pixels, chunks=chunks)
        with written_picture(picture, tmp_path / "all.png"):
            pass
        data = (tmp_path / "all.png").read_bytes()
        assert all(kind + content in data for kind, content in chunks)
        assert sorted(read_picture(tmp_path / "all.png").chunks) == sorted(chunks)
        with Image.open(tmp_path / "all.png") as opened:
            opened.load()
            assert opened.info["gamma"] == 1
            assert opened.text["prompt"] == "日"
    assert not caplog.text
    for suffix in (".jpg", ".tif"):
        caplog.clear()
        output = converted(tmp_path / "all.png", suffix)
        assert caplog.messages == [
            f"{output}: {suffix} files do not hold, left out: gAMA, cHRM, cICP, 4 PNG texts, vpAg"
        ]
    caplog.clear()
    srgb = ((b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45455)))
    with written_picture(Picture(PHOTOGRAPH, chunks=srgb), tmp_path / "srgb.jpg"):
        pass
    assert not caplog.text  # what files without a profile mean anyway


def test_profiles_of_another_color_space(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gray = gray_profile()
    Image.fromarray(PHOTOGRAPH[..., 0]).save(tmp_path / "gray.png", icc_profile=gray)
    for suffix in (".png", ".jpg", ".tif"):
        with Image.open(converted(tmp_path / "gray.png", suffix)) as opened:
            assert (opened.mode, opened.info["icc_profile"]) == ("L", gray)
    with Image.open(converted(tmp_path / "gray.png", ".webp")) as opened:
        assert "icc_profile" not in opened.info
        seen = ImageCms.profileToProfile(
            Image.fromarray(PHOTOGRAPH[..., 0]), io.BytesIO(gray), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        np.testing.assert_array_equal(opened.convert("RGB"), seen)
    assert not caplog.text
    for pixels, profile, space in ((PHOTOGRAPH, gray, "GRAY"), (PHOTOGRAPH[..., 0], SRGB, "RGB")):
        caplog.clear()
        with written_picture(Picture(pixels, profile), tmp_path / "other.png"):
            pass
        assert caplog.messages == [
            f"{tmp_path / 'other.png'}: .png files do not hold, left out: color profile (of {space} pixels)"
        ]


def gray_profile() -> bytes:
    """A GRAY profile: gamma 1.8, so that converting it shows."""
    tags = {
        b"desc": b"desc" + struct.pack(">II", 0, 5) + b"gray\0" + bytes(78),
        b"wtpt": b"XYZ " + struct.pack(">I3i", 0, 63190, 65536, 54061),
        b"kTRC": b"curv" + struct.pack(">IIH", 0, 1, round(1.8 * 256)) + bytes(2),
    }
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s", 0, b"lcms", 0x02400000, b"mntr", b"GRAY", b"XYZ ").ljust(36, b"\0") + b"acsp"
    head = head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    profile = head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(profile)) + profile[4:]


def test_damaged_and_large_profiles_and_texts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    core = io.BytesIO()
    Image.fromarray(PHOTOGRAPH).save(core, "PNG")
    path = tmp_path / "p.png"

    def pixels_with(*chunks: tuple[bytes, bytes]) -> Picture:
        caplog.clear()
        path.write_bytes(core.getvalue()[:33] + png_bytes(chunks)[8:-12] + core.getvalue()[33:])
        picture = read_picture(path)
        np.testing.assert_array_equal(picture.pixels, PHOTOGRAPH)
        return picture

    for junk in (b"no profile", SRGB[:200], b"\0" * 300):
        assert pixels_with((b"iCCP", b"name\0\0" + zlib.compress(junk))).profile is None
        assert caplog.messages == [f"{path}: left out: color profile (damaged)"]
    assert pixels_with((b"iCCP", b"name\0\0" + b"not deflated")).profile is None
    assert pixels_with((b"iCCP", b"name\0\0" + zlib.compress(SRGB + bytes(2_000_000)))).profile == SRGB
    assert "2,000,000 bytes behind the end of its color profile" in caplog.text
    pixels_with((b"iCCP", b"name\0\0" + zlib.compress(bytes(70_000_000), 9)))
    assert "color profile (larger than 64 MiB)" in caplog.text
    for kind in (b"zTXt", b"iTXt", b"tEXt"):
        pixels_with((kind, b"keyword\0\0" + zlib.compress(bytes(5_000_000))), (kind, b"\0"), (kind, b""))
    pixels_with((b"eXIf", b"garbage!" * 9), (b"pHYs", b"short"), (b"gAMA", b""), (b"cICP", b"9"))
    assert "left out: EXIF (damaged)" in caplog.text
    for profile in (b"not a profile" * 9, SRGB[:300]):
        Image.fromarray(PHOTOGRAPH).save(tmp_path / "bad.jpg", icc_profile=profile)
        caplog.clear()
        assert read_picture(tmp_path / "bad.jpg").profile is None
        assert caplog.messages == [f"{tmp_path / 'bad.jpg'}: left out: color profile (damaged)"]
    Image.fromarray(PHOTOGRAPH).convert("CMYK").save(tmp_path / "cmyk.jpg", icc_profile=b"no" * 99)
    assert read_picture(tmp_path / "cmyk.jpg").pixels.shape == (24, 32, 3)


def test_what_is_too_large_for_jpeg(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    exif = parse_exif(exif_block([(0x010F, 2, 4, b"Me!\0")]), [])
    assert exif
    large = exif.detail | {0x927C: exif.main[0x010F]._replace(kind=7, values=70_000, data=bytes(70_000))}
    exif = Exif(exif.order, exif.main, large)
    picture = Picture(PHOTOGRAPH, exif=exif, xmp=b"x" * 70_000, iptc=b"\x1c" * 70_000, comment=b"c" * 70_000)
    with written_picture(picture, tmp_path / "full.jpg"):
        pass
    assert "MakerNote (70,000 bytes), XMP of more than 64 KiB, IPTC of" in caplog.text
    with Image.open(tmp_path / "full.jpg") as opened:
        assert opened.getexif()[0x010F] == "Me!"


def test_resolutions_that_are_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for x, y, unit, dpi in (
        (struct.pack("<II", 300, 1), struct.pack("<II", 300, 1), 2, (300, 300)),
        (struct.pack("<II", 100, 1), struct.pack("<II", 200, 1), 3, (254, 508)),
        (struct.pack("<II", 1, 0), struct.pack("<II", 1, 0), 2, None),
        (struct.pack("<II", 2**32 - 1, 1), struct.pack("<II", 300, 1), 2, None),
        (struct.pack("<II", 72, 1), struct.pack("<II", 72, 1), 9, None),
    ):
        ratios = [(tag, 5, 1, struct.pack("<I", at)) for tag, at in ((0x011A, 1000), (0x011B, 1008))]
        block = exif_block([*ratios, (0x0128, 3, 1, bytes((unit, 0, 0, 0)))])
        caplog.clear()
        picture = read_picture(jpeg_with(block[:1000] + x + y, tmp_path / "dpi.jpg"))
        assert picture.dpi == (pytest.approx(dpi) if dpi else None)
        assert ("resolution" in caplog.text) == (dpi is None)
        for suffix in SUFFIXES:
            converted(tmp_path / "dpi.jpg", suffix)


def test_iptc_is_found_where_it_is() -> None:
    assert iptc_in(photoshop_block(IPTC)) == IPTC
    other = b"8BIM\x03\xed\x00\x00\x00\x00\x00\x01\x07\x00"
    assert iptc_in(other + photoshop_block(IPTC).removeprefix(b"Photoshop 3.0\0")) == IPTC
    for damaged in (b"", b"8BIM", b"8BIM\x04\x04\x00\x00\xff\xff\xff\xff", other, b"Photoshop 3.0\0" + bytes(40)):
        assert iptc_in(damaged) is None


def test_metadata_of_other_formats(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image, exif = Image.fromarray(PHOTOGRAPH), Image.Exif()
    exif[0x010F] = "Maker"
    block = exif.tobytes()
    image.save(tmp_path / "a.avif", exif=block, xmp=XMP, icc_profile=SRGB)
    plugin = pytest.importorskip("pillow_jxl.JpegXLImagePlugin")
    for name, deflated in (("a.jxl", False), ("b.jxl", True)):
        image.save(tmp_path / name, exif=block, xmp=XMP, lossless=True, compress_metadata=deflated)
    heif = pytest.importorskip("pillow_heif").from_pillow(image)
    heif.info.update({"exif": block, "icc_profile": SRGB, "icc_profile_type": "prof"})
    heif.save(tmp_path / "a.heic")
    for name in ("a.avif", "a.jxl", "b.jxl", "a.heic"):
        picture = read_picture(tmp_path / name)
        assert picture.exif
        assert picture.exif.main[0x010F].data == b"Maker\0"
        expected = SRGB
        if "jxl" in name:
            with plugin.JXLImageFile(tmp_path / name) as opened:
                expected = opened.info["icc_profile"]
        assert picture.profile == expected
        assert (picture.xmp is None) == ("heic" in name)
    assert not caplog.text
    damaged = bytearray((tmp_path / "a.avif").read_bytes())
    at = damaged.find(b"MM\0*")
    damaged[at : at + 4] = b"XXXX"
    (tmp_path / "b.avif").write_bytes(damaged)
    np.testing.assert_array_equal(read_picture(tmp_path / "b.avif").pixels, read_picture(tmp_path / "a.avif").pixels)
    assert caplog.messages == [f"{tmp_path / 'b.avif'}: left out: EXIF (damaged)"]
    size = struct.pack(">hbbHHHH", 474, 0, 2, 3, 8, 6, 3).ljust(512, b"\0")
    (tmp_path / "deep.sgi").write_bytes(size + bytes(3 * 6 * 8 * 2))
    read_picture(tmp_path / "deep.sgi")
    assert "deep.sgi: it has 16 bits a sample, of which this format's reader takes 8" in caplog.text
