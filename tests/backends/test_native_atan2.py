"""The native backend's own float32 angle: C's special cases, at most 2 ulp everywhere, and the checks notice faults."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from optc.runtime import native_build
from optc.runtime.native_build import prelude
from tests.backends import native_kernels as k
from tests.backends.native_kernels import apply
from tests.backends.test_native_power import has_fma
from tests.backends.units import Floats, units

BOUND = 2.0
"""Units in the last place; half a unit is the rounding of an exact result."""

SPECIAL = np.array(
    [0, 1, 0.5, 1.0000001, 2.0**-126, 2.0**-126 - 2.0**-149, 2.0**-149, 1e-40, 1e20, 3.4028235e38, np.inf, np.nan], np.float32
)
SIGNED = np.concatenate([SPECIAL, -SPECIAL])


def native(y: Floats, x: Floats) -> Floats:
    found: Floats = apply(k.op("atan2", k.g, k.state("m")), torch.from_numpy(y.copy()), torch.from_numpy(x.copy())).numpy()
    return found


def error(y: Floats, x: Floats) -> float:
    """The largest distance from the angle in units of the last place."""
    with np.errstate(invalid="ignore"):  # some NaN
        want = np.arctan2(y.astype(np.float64), x.astype(np.float64))
    return units(native(y, x), want)


def cases() -> dict[str, tuple[Floats, Floats]]:
    """Pairs (y, x) by what makes them hard."""
    random = np.random.default_rng(31)
    every = random.integers(0, 2**32, 200_000, np.uint32).view(np.float32)
    x = random.standard_normal(200_000).astype(np.float32)
    slopes = (x * np.tan(random.uniform(-1.57, 1.57, x.size))).astype(np.float32)
    return {
        "special": (np.repeat(SIGNED, SIGNED.size), np.tile(SIGNED, SIGNED.size)),
        "any bits": (every, np.roll(every, 1)),
        "any angle": (slopes, x),
        "around the diagonals": ((x * random.uniform(0.99, 1.01, x.size)).astype(np.float32), x * np.sign(slopes)),
        "denormal": (random.integers(0, 0x900000, x.size, np.uint32).view(np.float32), np.sign(x) * np.float32(1e-38)),
    }


CASES = cases()


@pytest.mark.parametrize("case", CASES)
def test_the_angle_is_right_in_hard_cases(case: str) -> None:
    bound = BOUND if has_fma() else 4.0  # glibc's
    assert error(*CASES[case]) <= bound


def test_a_result_does_not_depend_on_the_place_in_the_tensor() -> None:
    if not has_fma():
        pytest.skip("no fast fma: the angle is glibc's")
    y, x = (a[:80] for a in CASES["any angle"])
    whole = native(y, x)
    for size in range(1, 70):
        assert np.array_equal(native(y[:size], x[:size]), whole[:size])


FAULTS = {
    "a coefficient": ("0x1.b4e388p-4f", "0x1.b4e788p-4f"),
    "the last coefficient": ("0x1.7eea72p-9f", "0x1.5eea72p-9f"),
    "the rest of quarter turns": ("-0x1.777a5cp-25f", "0x1.777a5cp-25f"),
    "equal sides": ("where(smaller == larger, ", "where(false, "),
    "the origin": ("where(larger > 0, 1.0f, 0.0f)", "1.0f"),
    "the diagonals": ("where(larger > 0, 1.0f, 0.0f)", "0.0f"),
    "steep angles": ("steep ? 1 : ", ""),
    "angles to the left": (">> 31 & 2)", ">> 31 & 0)"),
    "the direction of turning": ("^ (bits_of(x) & sign)", ""),
    "the sign of x where it is 0": ("int32_t(bits_of(x)) >> 31 & 2", "(x < 0 ? 2 : 0)"),
    "the sign of y": ("__builtin_copysignf(fma(quarters", "__builtin_fabsf(fma(quarters"),
    "infinity": ("where(smaller == larger, ", "where(smaller == larger && larger < __builtin_inff(), "),
}


@pytest.mark.usefixtures("fresh_kernels")
@pytest.mark.parametrize("fault", FAULTS)
def test_the_cases_notice_faults(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_fma():
        pytest.skip("no fast fma: the angle is glibc's")
    right, wrong = FAULTS[fault]
    assert prelude().count(right) == 1
    text = prelude().replace(right, wrong).replace("__builtin_fabsf(fma(quarters, 0x1.921fb6p+0f, rest), y)", "rest")
    monkeypatch.setattr(native_build, "prelude", lambda: text)
    assert any(error(*pairs) > BOUND for pairs in CASES.values())
