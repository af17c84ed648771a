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


def check_probabilities(name: str, given: Mapping[str, float]) -> None:
    """Raise ValueError unless each is in [0, 1] and their sum is 1, to four digits."""
    for key, probability in given.items():
        check_probability(f"{name}.{key}", probability)
    total = sum(given.values())
    if abs(total - 1) > 1e-4:
        shares = ", ".join(f"{key}: {probability / total:.5f}" for key, probability in given.items()) if total else ""
        remedy = f"divided by it they are {{{shares}}}" if total else "one of them must be above 0"
        raise ValueError(f"{name} has probabilities of sum {total:g}, which must be 1; {remedy}")


def choose(random: np.random.Generator, probabilities: Mapping[_Name, float]) -> _Name:
    """Draw one name by its probability."""
    names = list(probabilities)
    bounds = np.cumsum([probabilities[name] for name in names])
    return names[min(int(np.searchsorted(bounds, random.random() * bounds[-1], "right")), len(names) - 1)]


def uniform(random: np.random.Generator, given: Range) -> float:
    """Draw a number from a range, uniformly."""
    low, high = given
    return float(random.uniform(low, high))
