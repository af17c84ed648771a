"""Ranges and probabilities of random degradations: their checks, and draws from them."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

Range = Sequence[float]
_Name = TypeVar("_Name", bound=str)


def check_range(name: str, given: Range, least: float, most: float = math.inf) -> None:
    """Raise ValueError unless a range is two numbers in order, both within [least, most]."""
    rule = f"at least {least:g}" if most == math.inf else f"within {least:g} … {most:g}"
    if len(given) != 2 or not all(isinstance(each, int | float) and math.isfinite(each) for each in given):
        raise ValueError(f"{name} {list(given)} is no range; give two numbers, the smaller first, {rule}")
    low, high = given
    if low > high:
        raise ValueError(f"{name} [{low:g}, {high:g}] begins with the larger number; use [{high:g}, {low:g}]")
    if low < least or high > most:
        raise ValueError(f"{name} [{low:g}, {high:g}] must be {rule}")


def check_probability(name: str, given: float) -> None:
    """Raise ValueError unless a number is in [0, 1]."""
    if not 0 <= given <= 1:  # NaN is not, too
        raise ValueError(f"{name} {given:g} is no probability; use 0 … 1")


def choose(random: np.random.Generator, probabilities: Mapping[_Name, float]) -> _Name:
    """Draw one name by its probability."""
    names = list(probabilities)
    bounds = np.cumsum([probabilities[name] for name in names])
    return names[min(int(np.searchsorted(bounds, random.random() * bounds[-1], "right")), len(names) - 1)]


def uniform(random: np.random.Generator, given: Range) -> float:
    """Draw a number from a range, uniformly."""
    low, high = given
    return float(random.uniform(low, high))
