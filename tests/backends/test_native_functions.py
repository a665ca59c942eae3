"""The native backend's own float32 exp, log, tanh, sin and cos: C's special cases, few ulp, and the checks notice faults."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from optc.runtime import native_build
from optc.runtime.native_build import prelude
from tests.backends import native_kernels as k
from tests.backends.native_kernels import apply
from tests.backends.units import Floats, units

FUNCTIONS: dict[str, tuple[Callable[..., npt.NDArray[np.float64]], float]] = {
    "exp": (np.exp, 1.04),
    "log": (np.log, 1.0),
    "tanh": (np.tanh, 2.6),
    "sin": (np.sin, 0.51),
    "cos": (np.cos, 1.5),
}
"""What they are in float64, and the largest error in units of the last place; half a unit is that of a rounded exact result."""

COUNT = 200_000
SPECIAL = np.array(
    [0, 2.0**-149, 1e-40, 2.0**-126, 2.0**-24, 0.5, 1, 2, 88.72283, 88.72284, 87.4, 103.2, 103.97, 103.98, 1e4, 1e20,
     3.4028235e38, np.inf, np.nan],
    np.float32,
)  # fmt: skip
NEAREST = np.array([float.fromhex("0x1.628d4cp+40"), float.fromhex("0x1.628d4cp+41"), np.pi / 2, np.pi, 355, 710], np.float32)
"""Floats closest to a multiple of π/2."""


@functools.cache
def cases() -> dict[str, Floats]:
    """Numbers by what makes them hard."""
    random = np.random.default_rng(41)
    return {
        "special": np.concatenate([SPECIAL, -SPECIAL, NEAREST, -NEAREST]),
        "any bits": random.integers(0, 2**32, COUNT, np.uint32).view(np.float32),
        "usual": random.standard_normal(COUNT).astype(np.float32) * 4,
        "wide": random.uniform(-110, 110, COUNT).astype(np.float32),
        "around 1": random.uniform(0.6, 1.5, COUNT).astype(np.float32),
        "close to 1": (1 + random.standard_normal(COUNT) * 1e-4).astype(np.float32),
        "small": (random.standard_normal(COUNT) * 10.0 ** random.uniform(-44, -1, COUNT)).astype(np.float32),
        "quarter turns": (random.integers(0, 10**6, COUNT) * (np.pi / 2)).astype(np.float32),
    }


def native(function: str, x: Floats) -> Floats:
    given = torch.from_numpy(x.copy())
    found: Floats = apply(k.op(function, k.g), given, given).numpy()
    return found


def error(function: str, x: Floats) -> float:
    """The largest error in units of the last place."""
    with np.errstate(all="ignore"):
        want = FUNCTIONS[function][0](x.astype(np.float64))
    return units(native(function, x), want)


@pytest.mark.parametrize("case", cases())
@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_are_right_in_hard_cases(function: str, case: str) -> None:
    assert error(function, cases()[case]) <= FUNCTIONS[function][1]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_result_does_not_depend_on_the_place_in_the_tensor(function: str) -> None:
    x = np.concatenate([cases()["any bits"][:40], cases()["usual"][:40]])
    whole = native(function, x)
    for size in range(1, 70):
        for first in (0, 3):
            part = slice(first, first + size)
            assert np.array_equal(native(function, x[part]), whole[part], equal_nan=True)


FAULTS = {
    "exp": {
        "a coefficient": ("0x1.5554b4p-3f", "0x1.5556b4p-3f"),
        "the last coefficient": ("0x1.6b9c68p-10f", "0x1.6a9c68p-10f"),
        "the rest of ln 2": ("fma(whole, -REST_OF_LN2, ", "fma(whole, 0.0f, "),
        "overflow": ("where(x > 89, 89.0f, ", "where(x > 88.7, 88.7f, "),
        "large numbers": ("where(x > 89, 89.0f, ", "where(false, 89.0f, "),
        "small numbers": ("where(x < -104, -104.0f, x)", "x"),
        "denormal powers": ("where(x < -104, -104.0f, x)", "where(x < -87, -87.0f, x)"),
        "powers that are no floats": ("const int32_t half = e.n >> 1", "const int32_t half = e.n"),
    },
    "log": {
        "a coefficient": ("0x1.99a41cp-3f", "0x1.99b41cp-3f"),
        "the last coefficient": ("-0x1.38138ep-4f", "-0x1.28138ep-4f"),
        "the rest of ln 2": ("e * REST_OF_LN2", "0"),
        "the range of the rest": ("root_half = 0x3f3504f3, up = x", "root_half = 0x3f0504f3, up = x"),
        "denormals": ("x < 0x1p-126f ? 24u << 23 : 0u", "0u"),
        "their exponent": ("shifted = int32_t(above - up)", "shifted = int32_t(above)"),
        "zero": ("where(x == 0, -inf, where(x > 0", "where(false, -inf, where(x > 0"),
        "infinity": ("(x > 0) & (x < inf)", "x > 0"),
        "negative numbers": ('where(x > 0, x, __builtin_nanf(""))', "x"),
        "negative numbers, too": ("(x > 0) & (x < inf)", "(x != 0) & (x < inf)"),
    },
    "tanh": {
        "the bound": ("where(twice > 20, 20.0f, twice)", "where(twice > 16, 16.0f, twice)"),
        "large numbers": ("where(twice > 20, 20.0f, twice)", "twice"),
        "the sign": ("__builtin_copysignf(above / (above + 2), x)", "above / (above + 2)"),
        "small numbers": ("fma(e.less_one, power, power - 1)", "fma(e.less_one, power, power) - 1"),
    },
    "sin": {
        "a coefficient": ("0.008333329280525471", "0.008333529280525471"),
        "a part of 2/π": ("0x1.7272208p-27", "0x1.7272308p-27"),
        "a part for large numbers": ("0x1.b62959p-132", "0x1.b62957p-132"),
        "the last part": ("0x1.278872p-157", "0"),
        "whole turns": ("quarters += product - 4 * ", "quarters += product - 2 * "),
        "the quarter": ("n = int32_t(whole);", "n = int32_t(whole) & 1;"),
        "the sign of 0": ("where(x == 0, x, Turned(x).sine(0))", "Turned(x).sine(0)"),
    },
    "cos": {
        "a coefficient": ("0.04166662007283202", "0.04166762007283202"),
        "the quarter": ("Turned(x).sine(1)", "Turned(x).sine(3)"),
    },
}


@pytest.mark.usefixtures("fresh_kernels")
@pytest.mark.parametrize(("function", "fault"), [(name, fault) for name, faults in FAULTS.items() for fault in faults])
def test_the_cases_notice_faults(function: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = FAULTS[function][fault]
    assert prelude().count(right) == 1
    text = prelude().replace(right, wrong)
    monkeypatch.setattr(native_build, "prelude", lambda: text)
    assert any(error(function, x) > FUNCTIONS[function][1] for x in cases().values())
