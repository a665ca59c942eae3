"""Restarts that become lower, which no library has, against the definition: cycle after cycle, in exact fractions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from typing import Any

import pytest

from optc import schedules

STEPS, BASE = 10_000, Fraction(3, 8)
SETTINGS: list[dict[str, Any]] = [
    {"T": 700, "decay": 0.75},
    {"T": 7, "decay": 0.9375, "last": 0.0078125},  # more than a thousand cycles, of which the last ones are below the last rate
    {"T": 13, "multiplier": 2, "decay": 0.5, "warmup": 40},
    {"T": 5, "multiplier": 1.5, "decay": 0.875, "warmup": 3, "ratio": 0.125},
    {"T": 1, "multiplier": 3, "decay": 0.25},
    {"T": 100, "multiplier": 1.0625, "decay": 1.0, "last": 0.25},
]
"""Numbers that float64 has exactly, as the fractions of the definition have."""


def rates(
    T: int, multiplier: float = 1, decay: float = 1, warmup: int = 0, last: float = 0, ratio: float = 0
) -> Iterator[tuple[Fraction, Fraction, Fraction]]:
    """Of each step the rate at the bottom of its cycle and at its top, and how far it is in the cycle, from 0 to 1.

    In the warm-up there is no cycle: the rate is the top, and how far it is 0.
    """
    for n in range(warmup):
        yield Fraction(0), BASE * n / warmup, Fraction(0)
    low = Fraction(last) + Fraction(ratio) * BASE
    start, length, high, k = Fraction(0), Fraction(T), BASE, 0
    while True:
        while k >= start + length:
            start, length, high = start + length, length * Fraction(multiplier), high * Fraction(decay)
        yield low, max(low, high), (k - start) / length
        k += 1


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_restarts_are_what_the_page_says(setting: dict[str, Any]) -> None:
    ours, base = schedules.Restarts(**setting), float(BASE)
    for n, (low, high, p) in enumerate(islice(rates(**setting), STEPS)):
        expected = float(low) + float(high - low) * (1 + math.cos(math.pi * float(p))) / 2
        assert abs(ours(n, base) - expected) <= 1e-12 * base, n
