"""Powers whose exponent all elements have in common: of every kind, in every special case, and the checks notice faults."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor

from optc.compiler.backends.native import loop
from optc.compiler.plan import Kernel
from optc.runtime import native_build
from optc.runtime.native_build import prelude
from tests.backends import native_kernels as k
from tests.backends.test_native_power import has_fma

ROOTS = [1e-6, 0.01, 0.1, 0.24, 0.25, 1 / 3, 0.4, 0.45, 0.4999, 0.5 - 2**-40]
OTHERS = [1.0, 0.5, 0.0, -0.0, 0.5001, 0.75, 1.5, 2.0, 3.0, 127.0, -0.25, -0.5, -1.0, -2.0, np.inf, -np.inf, np.nan, 1e300]

BOUND = 2.0
"""Units in the last place: of roots. Other kinds are exact, rounded once, or as any power (see `test_native_power.py`)."""

DTYPES = [torch.float32, torch.float64]


def kernel() -> Kernel:
    """θ <- g^p."""
    body = k.store(k.theta, k.op("pow", k.g, k.scalar("p")))
    streams = (k.stream(k.theta, reads=False), k.stream(k.g, writes=False))
    return Kernel("power", streams, ("p",), (), (), (body,))


def native(x: Tensor, exponent: float) -> Tensor:
    """What the kernel computes."""
    result = torch.full_like(x, -7.0)
    k.prepare(kernel(), {"theta": [result]}, x.dtype).launch({"g": [x]}, (exponent,), (), 1.0)
    return result


@functools.cache
def bases(dtype: torch.dtype) -> Tensor:
    """Special numbers of both signs, numbers of all sizes and denormals, and many around 1 and √½."""
    random = np.random.default_rng(23)
    bits = random.integers(0, 0x7F800000, 50_000, np.uint32).view(np.float32)
    middle = random.uniform(0.5, 2.0, 50_000)
    special = [0.0, 1.0, np.inf, np.nan, 2.0**-126, 2.0**-126 - 2.0**-149, 2.0**-149, 3.4028235e38, 0.70710677, 0.70710683]
    positive = np.concatenate([special, 2.0 ** np.arange(-149, 128), bits, middle])
    return torch.from_numpy(np.concatenate([positive, -positive[:2000]])).to(dtype)


def error(found: Tensor, x: Tensor, exponent: float) -> float:
    """The largest distance in units of the last place; infinite for a wrong sign, infinity or NaN."""
    got = found.numpy()
    with np.errstate(all="ignore"):
        want = np.power(x.numpy().astype(np.longdouble), np.longdouble(exponent))
        rounded = want.astype(got.dtype)
        same = ((got == rounded) & (np.signbit(got) == np.signbit(rounded))) | (np.isnan(got) & np.isnan(rounded))
        distance = np.abs(got.astype(np.longdouble) - want) / np.spacing(np.abs(rounded)).astype(np.longdouble)
    right = np.isfinite(rounded) & np.isfinite(got) & (np.signbit(got) == np.signbit(rounded))
    return float(np.where(same, 0, np.where(right, distance, np.inf)).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exponent", ROOTS)
def test_roots_are_accurate_on_all_numbers(exponent: float, dtype: torch.dtype) -> None:
    x = bases(dtype)
    assert error(native(x, exponent), x, exponent) <= BOUND


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exponent", OTHERS)
def test_other_exponents_have_all_special_cases(exponent: float, dtype: torch.dtype) -> None:
    x = bases(dtype)
    # a power that is not of a kind of its own is of the rounded exponent
    rounded = torch.tensor(exponent, dtype=dtype).item()
    assert error(native(x, exponent), x, rounded) <= (0.51 if exponent in (1.0, 0.5) else 1.0)


def test_a_root_is_of_the_exponent_that_was_not_rounded() -> None:
    x = torch.tensor([1e-38, 3e38])
    exact = error(native(x, 1 / 3), x, 1 / 3)
    assert exact <= 1 < error(native(x, 1 / 3), x, float(np.float32(1 / 3))) - exact


@pytest.mark.parametrize("exponent", [0.25, 1 / 3, 0.5, 1.0, 1.5])
def test_a_result_does_not_depend_on_the_place_in_the_tensor(exponent: float) -> None:
    x = torch.cat([bases(torch.float32)[:30], bases(torch.float32)[-40:]])
    whole = native(x, exponent)
    for size in range(1, 40):
        assert torch.equal(torch.nan_to_num(native(x[:size], exponent)), torch.nan_to_num(whole[:size]))


@pytest.mark.parametrize("exponent", [0.25, 1.5, 4.0, -1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_literal_exponents_are_as_accurate(exponent: float, dtype: torch.dtype) -> None:
    x = bases(dtype)
    # a product of denormal numbers has no relative accuracy to lose
    x = torch.where((x.abs() < 1e-9) & (x != 0), 1.5, x) if exponent == 4 else x
    found = k.apply(k.op("pow", k.g, k.number(exponent)), x, x)
    assert error(found, x, exponent) <= {0.25: BOUND, 4.0: 3.0}.get(exponent, 1.0)


@pytest.mark.parametrize("exponents", [(1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.25, 0.3, 0.4), (1.0, 0.5, 0.5), (0.5, 0.5, 0.3)])
def test_several_exponents_of_one_loop(exponents: tuple[float, ...]) -> None:
    names = ("p", "q", "r")
    targets = (k.theta, k.state("m"), k.state("v"))
    body = tuple(k.store(t, k.op("pow", k.g, k.scalar(n))) for t, n in zip(targets, names, strict=True))
    streams = (*(k.stream(t, reads=False) for t in targets), k.stream(k.g, writes=False))
    x = bases(torch.float32)
    found = {t.symbol.name: [torch.full_like(x, -7.0)] for t in targets}
    launcher = k.prepare(Kernel("powers", streams, names, (), (), body), found, x.dtype)
    launcher.launch({"g": [x]}, exponents, (), 1.0)
    for (result,), exponent in zip(found.values(), exponents, strict=True):
        rounded = float(np.float32(exponent))  # where the exponents have no kind in common
        assert min(error(result, x, exponent), error(result, x, rounded)) <= BOUND


def test_the_kinds_are_those_of_the_fixed_part() -> None:
    kinds = prelude().split("enum class Power {")[1].split("}")[0].split(",")
    assert tuple(kind.strip() for kind in kinds) == loop._POWERS


FAULTS = {
    "a coefficient of the logarithm": ("0.2876587435197412", "0.2877587435197412"),
    "the last coefficient of the logarithm": ("0.12542702628093802", "0.1242702628093802"),
    "a coefficient of the exponential": ("0x1.3b23b8p-7f", "0x1.3b63b8p-7f"),
    "the last coefficient of the exponential": ("0x1.fa0ef2p-17f", "0x1.0a0ef2p-17f"),
    "the rest of the exponent": ("fma(e, y.low, ", "fma(e, 0.0f, "),
    "denormal bases": ("parted(size)", "parted(size < 0x1p-126f ? 0x1p-126f : size)"),
    "zero": ("where((size > 0) & finite, scaled, size)", "where(finite, scaled, size)"),
    "infinity and NaN": ("where((size > 0) & finite, scaled, size)", "where(size > 0, scaled, size)"),
    "roots of negative numbers": ("where((x < 0) & finite, __builtin_nanf(\"\"), where", "where(false, x, where"),
    "roots of -inf": ("where((x < 0) & finite, __builtin_nanf(\"\"), where", "where(x < 0, __builtin_nanf(\"\"), where"),
    "exponents below ½": ("exponent < 0.5", "exponent < 1.6"),
    "exponents above 0": ("exponent > 0 &&", "exponent >= 0 &&"),
    "the root": ("exponent == 0.5 ? Power::half", "exponent == 0.25 ? Power::half"),
    "one": ("exponent == 1 ? Power::one", "exponent == 2 ? Power::one"),
}  # fmt: skip


@pytest.mark.usefixtures("fresh_kernels")
@pytest.mark.parametrize("fault", FAULTS)
def test_the_cases_notice_faults(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_fma():
        pytest.skip("no fast fma: there are no roots")
    right, wrong = FAULTS[fault]
    shared = "// --- powers whose exponent is the same"
    before, after = prelude().split(shared)
    assert right in after
    text = before + shared + after.replace(right, wrong)
    monkeypatch.setattr(native_build, "prelude", lambda: text)
    x = bases(torch.float32)
    roots = any(error(native(x, exponent), x, exponent) > BOUND for exponent in ROOTS)
    assert roots or any(error(native(x, e), x, float(np.float32(e))) > 1.0 for e in OTHERS)
