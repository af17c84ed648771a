"""Damage bytes and values, as a seeded generator decides: what every kind of hostile file is made of."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np

Random = np.random.Generator
INTEGERS = (0, 1, -1, 2, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1)


def damage(data: bytes, random: Random, other: bytes = b"", header: int = 64) -> bytes:
    """Return bytes with one to three damages, half of them in the first ``header`` bytes.

    Args:
        data: to damage.
        random: decides.
        other: another file, of which a part may be spliced in.
        header: where fields are likely.
    """
    for _ in range(random.integers(1, 4)):
        length = header if random.random() < 0.5 else max(len(data), 1)
        place = int(random.integers(0, min(length, max(len(data), 1))))
        data = pick(random, _DAMAGES)(data, place, random, other)
    return data


def pick(random: Random, choices: Any) -> Any:
    """Return one of a sequence, itself and not a NumPy copy of it."""
    return choices[int(random.integers(len(choices)))]


def _flip(data: bytes, place: int, random: Random, other: bytes) -> bytes:
    return (
        data[:place]
        + bytes(byte ^ (1 << int(random.integers(8))) for byte in data[place : place + 1])
        + data[place + 1 :]
    )


def _cut(data: bytes, place: int, random: Random, other: bytes) -> bytes:
    return data[:place]


def _remove(data: bytes, place: int, random: Random, other: bytes) -> bytes:
    return data[:place] + data[place + int(random.integers(1, 64)) :]


def _insert(data: bytes, place: int, random: Random, other: bytes) -> bytes:
    return data[:place] + random.bytes(int(random.integers(1, 64))) + data[place:]


def _overwrite(data: bytes, place: int, random: Random, other: bytes) -> bytes:
    length = int(random.integers(1, 64))
    return data[:place] + pick(random, (bytes(length), b"\xff" * length, random.bytes(length))) + data[place + length :]


def _repeat(data: bytes, place: int, random: Random, other: bytes) -> bytes:
    part = data[place : place + int(random.integers(1, 256))]
    return data[:place] + part * int(random.integers(2, 20)) + data[place + len(part) :]


def _number(data: bytes, place: int, random: Random, other: bytes) -> bytes:
    size = pick(random, (1, 2, 4, 8))
    value = (pick(random, INTEGERS) % 256**size).to_bytes(size, pick(random, ("little", "big")))
    return data[:place] + value + data[place + size :]


def _splice(data: bytes, place: int, random: Random, other: bytes) -> bytes:
    return data[:place] + other[int(random.integers(len(other) + 1)) :]


_DAMAGES: tuple[Callable[[bytes, int, Random, bytes], bytes], ...] = (
    _flip, _flip, _flip, _cut, _remove, _insert, _overwrite, _repeat, _number, _number, _splice
)  # fmt: skip


def forge(content: Any, random: Random, odd: Callable[[Random, Any], Any]) -> Any:
    """Return nested dictionaries and lists with one to three values or keys that are none.

    Args:
        content: as JSON or a checkpoint has it; a copy is changed.
        random: decides.
        odd: makes a value in place of one.
    """
    content = copy.deepcopy(content)
    for _ in range(random.integers(1, 4)):
        holder: Any = None
        place: Any = None
        inner = content
        while isinstance(inner, dict | list) and inner and (holder is None or random.random() < 0.8):
            holder, place = inner, pick(random, list(inner) if isinstance(inner, dict) else range(len(inner)))
            inner = holder[place]
        if holder is None:
            return odd(random, content)
        how = random.random()
        if how < 0.15:
            del holder[place]
        elif how < 0.25 and isinstance(holder, dict):
            holder[pick(random, (0, "", "x" * 300, "\ud800", "a\nb", None))] = holder.pop(place)
        elif how < 0.3:
            holder[place] = content  # contains itself
        else:
            holder[place] = odd(random, inner)
    return content


def odd_value(random: Random, value: Any) -> Any:
    """Return a value that JSON can hold, of another type or size."""
    if isinstance(value, int) and random.random() < 0.6:
        return pick(
            random, (*INTEGERS, value + 1, value - 1, -value, 2 * value, 10**30, float(value), str(value), -(2**63))
        )
    if isinstance(value, str) and random.random() < 0.5:
        return pick(
            random, ("", value * 100, value + "\0", "../../" + value, "/etc/passwd", "a\nb", "é" * 200, "\udcff")
        )
    return pick(
        random, (None, True, -1, 0, 10**12, math.nan, math.inf, 0.5, "", "text", [], {}, [[]], [None], {"a": 1})
    )
