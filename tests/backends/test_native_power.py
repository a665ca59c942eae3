"""The native backend's own float32 power: C's special cases, at most 1 ulp everywhere, and the checks notice faults.

There are two forms: in pairs of floats where the CPU has a fast fma, and in doubles, to 0.6 ulp, elsewhere.
"""

from __future__ import annotations

import functools
import subprocess

import numpy as np
import pytest
import torch

from optc.runtime import native_build
from optc.runtime.native_build import find_compiler, prelude
from tests.backends import native_kernels as k
from tests.backends.native_kernels import apply
from tests.backends.units import Floats, units

BOUNDS = {"floats": 1.0, "doubles": 0.6}
"""By form: units in the last place; half a unit is the rounding of an exact result."""

FMA = "#ifdef __FP_FAST_FMAF\n// C's powf"

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
    """The largest distance from the power, in units of the last place."""
    with np.errstate(all="ignore"):
        want = np.power(x.astype(np.float64), y.astype(np.float64))
    return units(native(x, y), want)


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


@functools.cache
def has_fma() -> bool:
    """Whether kernels are compiled for a CPU with a fast fma."""
    command = [*find_compiler().command, *native_build.LADDER[0][:1], "-dM", "-E", "-x", "c++", "/dev/null"]
    return "__FP_FAST_FMAF" in subprocess.run(command, capture_output=True, text=True, check=False).stdout


def text_of(form: str) -> str:
    """The prelude with this form of the power."""
    if form == "floats" and not has_fma():
        pytest.skip("no fast fma")
    assert prelude().count(FMA) == 1
    return prelude().replace(FMA, FMA if form == "floats" else "#if 0\n// C's powf")


@pytest.fixture(params=BOUNDS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Kernels of this test have this form of the power."""
    name: str = request.param
    text = text_of(name)
    monkeypatch.setattr(native_build, "prelude", lambda: text)
    return name


@pytest.mark.parametrize("case", CASES)
def test_the_power_is_right_in_hard_cases(form: str, case: str) -> None:
    assert error(*CASES[case]) <= BOUNDS[form]


@pytest.mark.usefixtures("form")
def test_exact_powers_are_exact() -> None:
    base, exponent = np.meshgrid(np.arange(-40, 41, dtype=np.float32), np.arange(0, 5, dtype=np.float32))
    found = native(base.ravel(), exponent.ravel())
    assert np.array_equal(found, (base.astype(np.int64) ** exponent.astype(np.int64)).ravel().astype(np.float32))


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("case", ["any base", "negative base", "denormal result"])
def test_a_result_does_not_depend_on_the_place_in_the_tensor(case: str) -> None:
    x, y = (a[:64] for a in CASES[case])
    whole = native(x, y)
    for size in range(1, 40):
        assert np.array_equal(native(x[:size], y[:size]), whole[:size], equal_nan=True)


FAULTS = {
    "floats": {
        "a coefficient of the logarithm": ("0x1.277508p-1f", "0x1.277d08p-1f"),
        "a coefficient of the exponential": ("0x1.3b2dd2p-7f", "0x1.3b4dd2p-7f"),
        "the rest of 2/ln 2": ("rest_of_two_by_ln2 = 0x1.4ae0cp-25f", "rest_of_two_by_ln2 = 0.0f"),
        "the rest of the factor": ("fma(s, rest_of_factor, ", "fma(s, 0.0f, "),
        "the rest of the sum": ("rest_of_sum = m - (sum - c)", "rest_of_sum = 0.0f"),
        "the rest of s": ("fma(rest_of_s, slope, ", "fma(0.0f, slope, "),
        "the slope": ("slope = fma(w, two_by_ln2, two_by_ln2)", "slope = two_by_ln2"),
        "the rest of the logarithm": ("fma(y, rest_of_log2_x, ", "fma(y, 0.0f, "),
        "the rest of the product": ("fma(y, log2_x, -t)", "0.0f"),
        "the upper half": ("where(upper, 0x1.0014p-1f, 0.0f)", "where(upper, 0x1.0016p-1f, 0.0f)"),
        "denormal bases": ("size * 0x1p24f", "size"),
        "infinite bases and NaN": ("where(finite, scale, size)", "scale"),
        "NaN bases": ("where(finite, scale, size)", "where(finite, scale, inf)"),
        "zero bases": ("where(x == 0, -inf, where(finite, scale, size))", "where(finite, scale, size)"),
        "overflow": ("where(t > 0, inf, 0.0f)", "0.0f"),
        "far powers": ("__builtin_fabsf(t) > 200", "__builtin_fabsf(t) > 2000"),
        "denormal powers": ("half = int8_t(exponent >> 1)", "half = exponent"),
        "1^inf and 1^NaN": ("(size == 1) | (y == 0)", "y == 0"),
        "(-1)^inf": ("(size == 1)", "(x == 1)"),
        "0^0 and NaN^0": ("(size == 1) | (y == 0)", "size == 1"),
        "parity": ("half_y = y * 0.5f", "half_y = y * 0.25f"),
        "the sign of powers that are no integers": ("odd = integer & (", "odd = true & ("),
        "roots of negative numbers": ("(x < 0) & finite & !integer", "(x < 0) & finite & false"),
        "non-integer powers of -inf": ("(x < 0) & finite & !integer", "(x < 0) & !integer"),
    },
    "doubles": {
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
    },
}  # fmt: skip


@pytest.mark.usefixtures("fresh_kernels")
@pytest.mark.parametrize(("form_name", "fault"), [(name, fault) for name, faults in FAULTS.items() for fault in faults])
def test_the_hard_cases_notice_faults(form_name: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = FAULTS[form_name][fault]
    text = text_of(form_name)
    # the form in use is the only one that is changed
    floats, doubles = text.split("\n#else\n// The same")
    faulty = floats.replace(right, wrong) if form_name == "floats" else doubles.replace(right, wrong)
    assert faulty not in (floats, doubles)
    joined = (faulty, doubles) if form_name == "floats" else (floats, faulty)
    monkeypatch.setattr(native_build, "prelude", lambda: "\n#else\n// The same".join(joined))
    assert any(error(*pairs) > BOUNDS[form_name] for pairs in CASES.values())
