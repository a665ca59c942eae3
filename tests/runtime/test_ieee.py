"""Host arithmetic follows IEEE 754, as NumPy does, and never raises."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from optc.runtime import ieee

EDGES = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.5, -0.5, 1e300, -1e300, 5e-324, math.inf, -math.inf, math.nan]
NUMBERS = st.sampled_from(EDGES) | st.floats()

UNARY: list[tuple[Callable[[float], float], Any]] = [
    (ieee.sqrt, np.sqrt), (ieee.exp, np.exp), (ieee.log, np.log), (ieee.sin, np.sin), (ieee.cos, np.cos),
    (ieee.tanh, np.tanh), (ieee.floor, np.floor), (ieee.sign, np.sign),
]  # fmt: skip
BINARY: list[tuple[Callable[[float, float], float], Any]] = [
    (ieee.div, np.divide), (ieee.pow, np.power), (ieee.mod, np.mod), (ieee.atan2, np.arctan2),
    (ieee.minimum, np.minimum), (ieee.maximum, np.maximum),
]  # fmt: skip


def assert_same(ours: float, numpys: float) -> None:
    """Equal but for the last bits (two libraries' exp and pow), with the same kind of special value and sign of zero."""
    assert isinstance(ours, float)
    if math.isnan(numpys) or math.isinf(numpys) or numpys == 0.0:
        assert str(ours) == str(float(numpys))
    else:
        assert ours == pytest.approx(float(numpys), rel=4e-15, abs=1e-323)


@pytest.mark.parametrize(("ours", "numpys"), UNARY, ids=lambda f: getattr(f, "__name__", ""))
@settings(max_examples=60, deadline=None)
@given(x=NUMBERS)
def test_functions_of_one_number_follow_numpy(ours: Callable[[float], float], numpys: Any, x: float) -> None:
    with np.errstate(all="ignore"):
        assert_same(ours(x), numpys(np.float64(x)))


def comparable(ours: Callable[[float, float], float], a: float, b: float) -> bool:
    """NumPy picks either zero in min and max, and takes a root for a^0.5, which differs from IEEE's pow at -0 and -inf."""
    if ours in (ieee.minimum, ieee.maximum):
        return a != b
    return not (ours is ieee.pow and b == 0.5 and a in (0.0, -math.inf))


@pytest.mark.parametrize(("ours", "numpys"), BINARY, ids=lambda f: getattr(f, "__name__", ""))
@settings(max_examples=150, deadline=None)
@given(a=NUMBERS, b=NUMBERS)
@example(a=-0.0, b=-1.0)
@example(a=-1e300, b=3.0)
@example(a=-1e300, b=2.0)
def test_functions_of_two_numbers_follow_numpy(ours: Callable[[float, float], float], numpys: Any, a: float, b: float) -> None:
    if comparable(ours, a, b):
        with np.errstate(all="ignore"):
            assert_same(ours(a, b), numpys(np.float64(a), np.float64(b)))


@pytest.mark.parametrize("a", EDGES)
@pytest.mark.parametrize("b", EDGES)
def test_every_pair_of_edges_follows_numpy(a: float, b: float) -> None:
    with np.errstate(all="ignore"):
        for ours, numpys in BINARY:
            if comparable(ours, a, b):
                assert_same(ours(a, b), numpys(np.float64(a), np.float64(b)))


def test_equal_numbers_and_roots_of_edges() -> None:
    assert ieee.minimum(2.0, 2.0) == ieee.maximum(2.0, 2.0) == 2.0
    assert str(ieee.pow(-0.0, 0.5)) == "0.0" and ieee.pow(-math.inf, 0.5) == math.inf


def test_none_as_a_number_is_nan() -> None:
    assert ieee.number(2.0) == 2.0 and math.isnan(ieee.number(None))


def test_where_picks_a_side() -> None:
    assert ieee.where(True, 1.0, math.nan) == 1.0
    assert ieee.where(False, math.nan, 2.0) == 2.0
