"""Entries of OpenModelDB, the community's catalogue of enlarging networks: JSON from what an export knows of itself.

Its schema is ``src/lib/schema.ts`` of OpenModelDB/open-model-database, its rules are ``src/lib/model-props.ts`` there.
"""

import datetime
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from esrgan_lit.files import digest, write_text
from esrgan_lit.images.reading import read_image
from esrgan_lit.images.writing import save_image
from esrgan_lit.inference.upscale import upscale
from esrgan_lit.networks.generator import Generator

_RESOURCES = {".pth": ("pytorch", "pth"), ".safetensors": ("pytorch", "safetensors"), ".onnx": ("onnx", "onnx")}
_ID = re.compile(r"[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*")
_ASKED_FOR = {
    "author": "--author NAME",
    "license": "--license SPDX-ID",
    "tags": "--tag TAG",
    "description": "--description TEXT",
    "date": "--date YYYY-MM-DD",
    "architecture": "the catalogue's programs would not read this network: a bicubic skip, batch normalization or ×3",
}


@dataclass(frozen=True)
class About:
    """What only its author knows of a network; empty for what is not said.

    Attributes:
        name: of the network; by default the file's, without suffix.
        authors: the catalogue's names of users.
        tags: of the catalogue's, such as ``photo``.
        description: Markdown.
        date: of publication, ``yyyy-mm-dd``.
        address: of the folder in which the files will lie, for others to download.
        pictures: low-resolution pictures to show, which are enlarged by the network.

    Raises:
        ValueError: for what the catalogue does not take.
    """

    name: str = ""
    authors: Sequence[str] = ()
    tags: Sequence[str] = ()
    description: str = ""
    date: str = ""
    address: str = ""
    pictures: Sequence[str | Path] = ()

    def __post_init__(self) -> None:
        for option, values in (("author", self.authors), ("tag", self.tags)):
            for value in values:
                if not _ID.fullmatch(value):
                    raise ValueError(f"--{option} {value!r}: the catalogue takes letters, digits and single hyphens")
        try:
            wrong = self.date and datetime.date.fromisoformat(self.date).isoformat() != self.date
        except ValueError:
            wrong = True
        if wrong:
            raise ValueError(f"--date {self.date!r} is no day; give it as 2026-01-31")
        if self.address and not re.match(r"https?://[^/\s]+", self.address):
            raise ValueError(f"--address {self.address!r} is no address; give the files' folder, https://…/")


def files_of_entry(generator: Generator, exported: Path, about: About) -> list[Path]:
    """Return the files that :func:`write_entry` writes beside an export, the entry first.

    Raises:
        ValueError: for an export of a kind that the catalogue does not list, or a name without letters.
    """
    if exported.suffix not in _RESOURCES:
        raise ValueError(
            f"{exported.name}: the catalogue lists {', '.join(_RESOURCES)}; export to one of these with --openmodeldb"
        )
    name = re.sub(r"^\d+x[-_ ]?|^x\d+[-_ ]", "", about.name or exported.stem, flags=re.IGNORECASE)
    name = "-".join(re.findall(r"[a-zA-Z0-9]+", name))
    if not name:
        raise ValueError(f"{exported.stem!r} holds no letter or digit to be called by; give --name NAME")
    entry = exported.with_name(f"{generator.scale}x-{name}.json")
    numbers = range(1, len(about.pictures) + 1)
    pictures = [entry.with_name(f"{entry.stem}-{number}-{kind}.png") for number in numbers for kind in ("LR", "SR")]
    return [entry, *pictures]


def write_entry(generator: Generator, exported: Path, about: About) -> tuple[list[Path], list[str]]:
    """Write the catalogue's entry of an export beside it, and its pairs of pictures. Nothing in it is a guess.

    Args:
        generator: that was exported.
        exported: the file.
        about: what its author says.

    Returns:
        The files, and what the catalogue asks for and nobody has said, each with how to say it.
    """
    path, *pictures = files_of_entry(generator, exported, about)
    for number, picture in enumerate(about.pictures):
        low_res = read_image(Path(picture))  # pixels alone: what a camera wrote beside them stays here
        save_image(low_res, pictures[2 * number])
        save_image(upscale(low_res, generator), pictures[2 * number + 1])
    known = {
        "name": about.name or exported.stem,
        "author": list(about.authors) if len(about.authors) > 1 else "".join(about.authors),
        "license": generator.metadata.get("license", ""),
        "tags": list(about.tags),
        "description": _describe(generator, about),
        "date": about.date,
        **_describe_architecture(generator),
        "scale": generator.scale,
        "inputChannels": generator.channels,
        "outputChannels": generator.out_channels,
        "resources": [_describe_file(exported, about)],
        **_describe_training(generator),
        "images": _pair_up(pictures, about),
    }
    entry = {key: value for key, value in known.items() if value not in ("", []) or key == "images"}
    write_text(path, json.dumps(entry, indent=4, ensure_ascii=False) + "\n")
    missing = [f"{key} ({how})" for key, how in _ASKED_FOR.items() if key not in entry]
    if not about.address:
        missing.append("where the files will lie (--address https://…/)")
    return [path, *pictures], missing


def _describe(generator: Generator, about: About) -> str:
    facts = {
        "Degradation in training": generator.metadata.get("degradation"),
        "Figures": generator.metadata.get("metrics"),
        "Blend": generator.metadata.get("blend"),
    }
    lines = [f"{title}: {fact}" for title, fact in facts.items() if fact]
    return "\n\n".join(part for part in (about.description, "  \n".join(lines)) if part)


def _describe_architecture(generator: Generator) -> dict[str, Any]:
    """Return the catalogue's name of the architecture and its size; nothing where other programs' code is another."""
    arguments = generator.architecture
    if generator.architecture_name == "RRDBNet" and not generator.peculiarity("old"):
        growth = arguments.get("growth", 32)
        size = [f"{arguments.get('width', 64)}nf", f"{arguments.get('blocks', 23)}nb"]
        return {
            "architecture": "esrgan+" if arguments.get("plus") else "esrgan",
            "size": size if growth == 32 else [*size, f"{growth}gc"],
        }
    if generator.architecture_name == "SRResNet" and not generator.peculiarity("basicsr"):
        return {
            "architecture": "sr-res-net",
            "size": [f"{arguments.get('width', 64)}nf", f"{arguments.get('blocks', 16)}nb"],
        }
    return {}


def _describe_file(path: Path, about: About) -> dict[str, Any]:
    platform, kind = _RESOURCES[path.suffix]
    return {
        "platform": platform,
        "type": kind,
        "size": path.stat().st_size,
        "sha256": digest(path),
        "urls": [_address(path, about)] if about.address else [],
    }


def _describe_training(generator: Generator) -> dict[str, Any]:
    said = generator.metadata
    numbers = {"trainingIterations": "steps", "trainingBatchSize": "batch", "trainingHRSize": "crop"}
    facts: dict[str, Any] = {
        key: int(said[name]) for key, name in numbers.items() if re.fullmatch(r"[1-9]\d{0,11}", said.get(name, ""))
    }
    if "degradation" in said:
        facts["trainingOTF"] = said["degradation"] != "given pairs"
    return facts | {"dataset": said.get("training_data", "")}


def _pair_up(pictures: Sequence[Path], about: About) -> list[dict[str, str]]:
    if not about.address:
        return []
    pairs = zip(pictures[::2], pictures[1::2], strict=True)
    return [{"type": "paired", "LR": _address(low, about), "SR": _address(high, about)} for low, high in pairs]


def _address(path: Path, about: About) -> str:
    return f"{about.address.rstrip('/')}/{quote(path.name)}"
