"""Hostile packed folders and archives: manifests signed again, names that lead outside, sizes that lie."""

import dataclasses
import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
from functools import cache
from pathlib import Path

from PIL import Image

from conftest import make_photograph
from esrgan_lit.cli.data import main as data_main
from esrgan_lit.data.datasets import DATASETS, Archive, Dataset
from esrgan_lit.data.fetch import fetch
from esrgan_lit.data.packed import PackedImages, pack
from esrgan_lit.data.photographs import check_images
from esrgan_lit.data.sources import open_images
from esrgan_lit.files import cache_folder
from esrgan_lit.images.listing import list_images
from hostile_pictures import whole
from judging import Kind, files_below
from mutations import INTEGERS, Random, damage, forge, odd_value, pick

# Packed folders


@cache
def _sources() -> Path:
    folder = cache_folder() / "photographs"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        Image.fromarray(make_photograph(20 + number, 24, number)).save(folder / f"{number}.png")
    return folder


@cache
def _packed() -> Path:
    """Return a whole packed folder of the photographs."""
    folder = cache_folder() / "whole"
    pack(check_images(list_images([_sources()], "FOLDER"), "refuse"), folder)
    return folder


def hostile_packed(random: Random, folder: Path) -> Path:
    """Copy a packed folder, and change it."""
    path = folder / "hostile"
    shutil.copytree(_packed(), path)
    manifest, pixels = path / "manifest.json", path / "pixels.bin"
    content = json.loads(manifest.read_text())
    how = random.random()
    if how < 0.6:  # signed again, so that it is believed
        images = content["images"]
        for _ in range(random.integers(1, 3)):
            if random.random() < 0.7:
                record = pick(random, images)
                field = int(random.integers(len(record)))
                record[field] = odd_value(random, record[field])
            else:
                images = forge(images, random, odd_value)
                break
        try:
            signed = json.dumps(images)
        except (ValueError, RecursionError):  # contains itself
            signed = "[" * 100_000
        digest = hashlib.sha256(signed.encode()).hexdigest()
        manifest.write_text(f'{{"version": 1, "sha256": "{digest}", "images": {signed}}}', errors="replace")
    elif how < 0.7:
        try:
            manifest.write_text(json.dumps(forge(content, random, odd_value)), errors="replace")
        except (ValueError, RecursionError):
            manifest.write_text('{"a":' * 100_000)
    elif how < 0.8:
        manifest.write_bytes(damage(manifest.read_bytes(), random))
    elif how < 0.9:
        pixels.write_bytes(damage(pixels.read_bytes(), random))
    elif how < 0.95:
        victim = pick(random, (manifest, pixels, path / "verified.json"))
        victim.unlink()
        if random.random() < 0.5:
            victim.mkdir()
    else:  # half made: the progress lies
        lines = "".join(json.dumps(record) + "\n" for record in content["images"])
        (path / "progress.jsonl").write_bytes(damage(lines.encode(), random, header=200))
        manifest.unlink()
        return path
    if random.random() < 0.5 and all(file.is_file() for file in path.iterdir()):  # passed off as verified
        states = [[file.stat().st_size, file.stat().st_mtime_ns] for file in (pixels, manifest) if file.exists()]
        (path / "verified.json").write_bytes(
            json.dumps(states).encode() if random.random() < 0.7 else damage(json.dumps(states).encode(), random)
        )
    return path


def _open(path: Path) -> None:
    packed = PackedImages(path)
    for image in packed.images():
        image.prefetch(-3, 10**9)
        assert image.pixels().shape == (image.height, image.width, 3)
        int(image.pixels().sum())
    pickle.loads(pickle.dumps(packed.images()[0])).pixels()


def _train(path: Path) -> None:
    for image in open_images([path], "data.train", "refuse"):
        int(image.pixels().sum())


def _pack_again(path: Path) -> None:
    data_main(["pack", str(_sources()), "-o", str(path)])


PACKED = Kind(
    "packed folders",
    hostile_packed,
    {"PackedImages": _open, "data.train": _train, "esrgan-data pack": _pack_again},
)

# Archives

_NAMES = (
    "../outside.png", "/outside.png", "Tiny_HR/../../outside.png", "C:\\outside.png", "..\\outside.png", "//host/x.png",
    "Tiny_HR/./a.png", "Tiny_HR//a.png", "Tiny_HR/0.png", "Tiny_HR/0.png/x.png", "Tiny_HR/" + "x" * 300 + ".png",
    "Tiny_HR/" + "d/" * 2000 + "x.png", "Tiny_HR/\udcff.png", "Tiny_HR/a\nb.png", "Tiny_HR/a\0b.png", "Tiny_HR/ .png",
    "Tiny_HR/{{x}}.png", "Tiny_HR/$x$.png", "Tiny_HR/-rf.png", "Tiny_HR/٣.png", "Tiny_HR/.hidden.png", "Tiny_HR/x.png ",
)  # fmt: skip


def hostile_archive(random: Random, folder: Path) -> Path:
    """Write an archive of three pictures that lies, where ``esrgan-data fetch`` looks for it."""
    members = {f"Tiny_HR/{number}.png": whole()["rgb.png"] + bytes([number]) for number in range(3)}
    for _ in range(random.integers(0, 3)):
        if random.random() < 0.5:
            members.pop(pick(random, list(members)))
        members[pick(random, _NAMES)] = random.bytes(100)
    suffix = pick(random, (".zip", ".zip", ".tar", ".tar.gz"))
    data = (_zip if suffix == ".zip" else _tar)(members, random)
    if random.random() < 0.2:
        data = damage(data, random, header=512)
    if suffix == ".tar.gz":
        data = gzip.compress(data, 1)
        data = damage(data, random) if random.random() < 0.2 else data
    path = folder / f"hostile{suffix}"
    path.write_bytes(data)
    archive = Archive("https://localhost:9/" + path.name, None, None, inside="Tiny_HR")
    if random.random() < 0.3:  # so that any number of pictures is right
        archive = dataclasses.replace(archive, checksum="sha256:" + hashlib.sha256(data).hexdigest())
    DATASETS["Tiny"] = Dataset("Tiny", "Tiny/HR", 3, (archive,), "PAGE", "LICENSE", "PAPER")
    return path


def _zip(members: dict[str, bytes], random: Random) -> bytes:
    buffer = io.BytesIO()
    kind = pick(random, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name.encode(errors="replace").decode(), kind
            archive.writestr(info, content)
        if random.random() < 0.1:
            archive.writestr("Tiny_HR/bomb.png", bytes(50_000_000), zipfile.ZIP_DEFLATED)
    data = bytearray(buffer.getvalue())
    if random.random() < 0.5:  # fields of the central directory: flags (encrypted), method, sizes, offset
        entries = [place for place in range(len(data) - 46) if data[place : place + 4] == b"PK\1\2"]
        for _ in range(random.integers(1, 3)):
            at = pick(random, entries)
            field, size = pick(random, ((8, 2), (10, 2), (10, 2), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4), (16, 4)))
            value = pick(random, (*INTEGERS, 8, 9, 12, 14, 93, 95, 99)) % 256**size
            data[at + field : at + field + size] = value.to_bytes(size, "little")
            (offset,) = struct.unpack_from("<I", data, at + 42)
            if field in (8, 10) and offset + 30 < len(data):  # the local header says the same
                data[offset + field - 2 : offset + field] = value.to_bytes(2, "little")
    elif random.random() < 0.3:  # the compressed data
        at = int(random.integers(30, len(data) // 2))
        data[at : at + 20] = random.bytes(20)
    return bytes(data)


def _tar(members: dict[str, bytes], random: Random) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=pick(random, (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    ) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
            if random.random() < 0.2:
                link = tarfile.TarInfo(pick(random, (name, "Tiny_HR", "Tiny_HR/link.png", "Tiny_HR/device.png")))
                link.type = pick(
                    random, (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
                )
                link.linkname = pick(random, ("/etc/passwd", "..", name, "Tiny_HR/link.png", "/dev/zero"))
                archive.addfile(link)
        if random.random() < 0.1:
            bomb = tarfile.TarInfo("Tiny_HR/bomb.png")
            bomb.size = 50_000_000
            archive.addfile(bomb, io.BytesIO(bytes(bomb.size)))
    data = bytearray(buffer.getvalue())
    if random.random() < 0.3:  # a header's size or type, with the right checksum
        at = 512 * int(random.integers(0, min(len(data) // 512, 6)))
        field = pick(random, (b"77777777777\0", b"00000000000\0", b"\x80" + bytes(3) + b"\xff" * 8, b"-0000000001\0"))
        if random.random() < 0.6:
            data[at + 124 : at + 136] = field
        else:
            data[at + 156 : at + 157] = pick(random, (b"S", b"x", b"g", b"L", b"K", b"7", b"Z", b"1", b"5"))
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


def _fetch(path: Path) -> None:
    root, archive = path.parent, path.name
    try:
        fetch("Tiny", root, timeout=1, attempts=1, pause=0)
    finally:
        del DATASETS["Tiny"]
        left = files_below(root.parent) - {f"given/{archive}"}
        outside = {name for name in left if not name.startswith("given/Tiny/HR/")}
        assert not outside, f"left behind or written outside: {sorted(outside)[:3]}"
        assert not (root / "Tiny" / ".HR.unpacking").exists(), "half unpacked"
        for base, folders, names in os.walk(root / "Tiny"):
            for name in (*folders, *names):
                assert not os.path.islink(os.path.join(base, name)), "a link is unpacked"  # noqa: PTH114, PTH118
                assert name.endswith(".png") or name in folders, f"not an image: {name!r}"
        size = sum((root / name).lstat().st_size for name in files_below(root) if name != archive)
        assert size < 25 * path.stat().st_size, f"a bomb went off: {size} bytes"


ARCHIVES = Kind("archives", hostile_archive, {"esrgan-data fetch": _fetch})
