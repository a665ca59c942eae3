"""The native backend's own float32 power: C's special cases, less than 0.6 ulp everywhere, and the checks notice faults."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch

from optc.runtime import native_build
from optc.runtime.native_build import prelude
from tests.backends import native_kernels as k
from tests.backends.native_kernels import apply

Floats = npt.NDArray[np.float32]

BOUND = 0.6
"""Units in the last place; half a unit is the rounding of an exact result."""

COUNT = 100_000

ONE = np.float32(1)
SPECIAL = np.array(
    [
        0, 0.25, 0.5, 1 / 3, 1, 1.5, 2, 3, 127, 128, 149, 150, 151, np.inf, np.nan,
        np.nextafter(ONE, np.float32(2)), np.nextafter(ONE, np.float32(0)), 2.0**-126, 2.0**-126 - 2.0**-149, 1e-40, 2.0**-149,
        # integers and halves around 2^23, 2^24 (the last odd number is 2^24 - 1) and beyond 32 and 64 bits; the largest
        4194303.5, 4194304.5, 8388606.5, 8388607.5, 8388607, 8388608, 8388609, 16777215, 16777216, 16777218,
        2.0**31, 2.0**32, 2.0**63, 2.0**64, 2.0**104, 3.4028235e38,
    ],
    np.float32,
)  # fmt: skip
SIGNED = np.concatenate([SPECIAL, -SPECIAL])


def native(x: Floats, y: Floats) -> Floats:
    found: Floats = apply(k.op("pow", k.g, k.state("m")), torch.from_numpy(x.copy()), torch.from_numpy(y.copy())).numpy()
    return found


def error(x: Floats, y: Floats) -> float:
    """The largest distance from the power, in units of the last place of a float32; infinite for a wrong sign or NaN.

    An infinite result counts as 2^128, the number after the largest.
    """
    found = native(x, y)
    with np.errstate(all="ignore"):
        want = np.power(x.astype(np.float64), y.astype(np.float64))
        bounded = np.clip(want, -(2.0**128), 2.0**128)
        # the unit is that of the binade; of denormals and 0 it is 2^-149, beyond the largest number that of the largest
        exponent = np.where(bounded == 0, -125, np.clip(np.frexp(bounded)[1], -125, 128))
        distance = np.abs(np.clip(found.astype(np.float64), -(2.0**128), 2.0**128) - bounded) / np.ldexp(1.0, exponent - 24)
    undefined = np.isnan(want)
    right = np.where(undefined, np.isnan(found), ~np.isnan(found) & (np.signbit(found) == np.signbit(want)))
    return float(np.where(right, np.where(undefined, 0, distance), np.inf).max())


def exponents(x: Floats, low: float, high: float, random: np.random.Generator) -> Floats:
    """y such that log2(x^y) is anywhere between the bounds."""
    with np.errstate(all="ignore"):
        y: Floats = (random.uniform(low, high, x.size) / np.log2(x.astype(np.float64))).astype(np.float32)
    return y


def floats(low: int, high: int, random: np.random.Generator) -> Floats:
    """Numbers of all sizes: their bits are between the bounds."""
    return random.integers(low, high, COUNT, np.uint32).view(np.float32)


def hard_cases() -> dict[str, tuple[Floats, Floats]]:
    """Pairs by what makes them hard."""
    random = np.random.default_rng(11)
    every, denormal, positive = floats(0, 2**32 - 1, random), floats(1, 0x800000, random), floats(1, 0x7F800000, random)
    near_one = floats(0x3F800000 - 3000, 0x3F800000 + 3000, random)
    near_one = near_one[near_one != 1]
    middle = random.uniform(0.65, 1.5, COUNT).astype(np.float32)
    thirds = (random.integers(-60, 60, COUNT) / random.choice([1, 1, 2, 3], COUNT)).astype(np.float32)
    return {
        "special": (np.repeat(SIGNED, SIGNED.size), np.tile(SIGNED, SIGNED.size)),
        "any bits": (every, floats(0, 2**32 - 1, random)),
        "any base": (positive, exponents(positive, -152, 130, random)),
        "denormal base": (denormal, exponents(denormal, -152, 130, random)),
        "base near 1": (near_one, exponents(near_one, -152, 130, random)),
        "base around √½ and √2": (middle, exponents(middle, -152, 130, random)),
        "result near the largest": (middle, exponents(middle, 127.9999, 128.0001, random)),
        "denormal result": (positive, exponents(positive, -150.1, -125.9, random)),
        "far out of range": (positive, exponents(positive, -2000, 2000, random)),
        "negative base": (-positive, thirds),
        "powers of two": (np.ldexp(ONE, random.integers(-149, 128, COUNT)).astype(np.float32), thirds),
    }


CASES = hard_cases()


@pytest.mark.parametrize("case", CASES)
def test_the_power_is_right_in_hard_cases(case: str) -> None:
    assert error(*CASES[case]) <= BOUND


def test_exact_powers_are_exact() -> None:
    base, exponent = np.meshgrid(np.arange(-40, 41, dtype=np.float32), np.arange(0, 5, dtype=np.float32))
    found = native(base.ravel(), exponent.ravel())
    assert np.array_equal(found, (base.astype(np.int64) ** exponent.astype(np.int64)).ravel().astype(np.float32))


def test_a_result_does_not_depend_on_the_place_in_the_tensor() -> None:
    x, y = (a[:64] for a in CASES["any base"])
    whole = native(x, y)
    for size in range(1, 40):
        assert np.array_equal(native(x[:size], y[:size]), whole[:size], equal_nan=True)


FAULTS = {
    "a coefficient of the logarithm": ("0.41167282583805961", "0.41177282583805961"),
    "a coefficient of the exponential": ("9.6184373532001713e-3", "9.6194373532001713e-3"),
    "denormal bases": ("size * 0x1p24f", "size"),
    "infinite bases": ("where(finite, scale, inf)", "scale"),
    "zero bases": ("where(x == 0, -inf, where(finite, scale, inf))", "where(finite, scale, inf)"),
    "overflow": ("where(estimate > 512, inf, ", "where(false, inf, "),
    "the range of the estimate": ("where(__builtin_fabsf(estimate) <= 512", "where(__builtin_fabsf(estimate) <= 2048"),
    "1^inf": ("where(estimate != estimate, 1.0f, 0.0f)", "0.0f"),
    "parity": ("uint32_t(whole) << 31", "uint32_t(whole) << 30"),
    "the sign of powers that are no integers": ("where(integer, float_of(uint32_t(whole) << 31), 0.0f)",
                                                "float_of(uint32_t(whole) << 31)"),
    "large odd numbers": ("0x4b800000", "0x4b000000"),
    "roots of negative numbers": ("& finite & !integer", "& finite & false"),
    "non-integer powers of -inf": ("(x < 0) & finite & !integer", "(x < 0) & !integer"),
    "NaN": ("| __builtin_isunordered(x, y)", "| false"),
    "1^NaN and NaN^0": ("where((x == 1) | (y == 0), 1.0f, ", "where(false, 1.0f, "),
}  # fmt: skip


@pytest.fixture
def fresh() -> Iterator[None]:
    """Kernels of this test are not those of others."""
    native_build._load_once.cache_clear()
    yield
    native_build._load_once.cache_clear()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("fault", FAULTS)
def test_the_hard_cases_notice_faults(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = FAULTS[fault]
    assert right in prelude()
    faulty = prelude().replace(right, wrong)
    monkeypatch.setattr(native_build, "prelude", lambda: faulty)
    assert any(error(*pairs) > BOUND for pairs in CASES.values())
