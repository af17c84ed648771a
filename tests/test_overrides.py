"""Overrides as they are printed: the shell gives back one word, and Hydra the value."""

import random
import shlex
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from esrgan_lit.overrides import as_override

# What paths and names are made of, with all that means something to the shell, to Hydra or to OmegaConf.
PIECES = [
    *"abZ09_./-+~ =()[]{},:;'\"\\$#@!%&*?<>|`^\n\té漢字😀",
    "${",
    "\\${",
    "null",
    "true",
    "1e5",
    "\\\\",
    "..",
    "nan",
]


def read_back(override: str) -> Any:
    [word] = shlex.split(override)
    config = OmegaConf.create({"key": None})
    OmegaConf.update(config, "key", OverridesParser.create().parse_override(word).value())
    return OmegaConf.to_container(config, resolve=True)["key"]  # pyright: ignore[reportCallIssue, reportArgumentType]


@pytest.mark.parametrize("seed", range(4))
def test_what_is_printed_is_read_back(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(250):
        text = "".join(chance.choice(PIECES) for _ in range(chance.randrange(9)))
        for value in (text, [text, text[::-1]], {"a": text, "b": [1, text]}):
            assert read_back(as_override("key", value)) == value


def test_plain_values_are_printed_plainly() -> None:
    printed = [as_override("data.train", ["my/photos", "../more"]), as_override("stage.optimizer.lr", 5e-5)]
    printed += [as_override("data.cache", None), as_override("data.augment", False), as_override("crop", 96)]
    assert printed == [
        "'data.train=[my/photos,../more]'",
        "stage.optimizer.lr=5e-05",
        "data.cache=null",
        "data.augment=false",
        "crop=96",
    ]
    assert as_override("data.train", ["Fotos (März), 1=2"]) == "'data.train=[\"Fotos (März), 1=2\"]'"
    assert as_override("resume", "my runs/it's.ckpt") == """'resume="my runs/it'"'"'s.ckpt"'"""
