"""The language's functions in native code: accurate on all numbers; 16-bit numbers are read exactly and rounded to even."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from optc.compiler.plan import Kernel
from tests.backends import native_kernels as k
from tests.backends.native_kernels import apply

SPECIAL = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, 3.0, -3.0, np.inf, -np.inf, np.nan, 1e-40, -1e-45, 3.4e38, 88.7, 88.8, -104.0]


def pairs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Every pair of special values, and random ones of all sizes."""
    random = np.random.default_rng(5)
    wide = random.standard_normal(60_000) * np.exp(random.uniform(-60, 60, 60_000))
    near = random.standard_normal(60_000) * 4
    a = np.concatenate([np.repeat(SPECIAL, len(SPECIAL)), wide, near])
    b = np.concatenate([np.tile(SPECIAL, len(SPECIAL)), np.roll(near, 1), np.roll(wide, 1)])
    return torch.from_numpy(a).to(dtype), torch.from_numpy(b).to(dtype)


def ulps(found: Tensor, want: npt.NDArray[np.longdouble]) -> float:
    """The largest distance in units of the last place of `found`'s dtype; equal inf and NaN count as 0."""
    got = found.numpy()
    with np.errstate(all="ignore"):
        rounded = want.astype(got.dtype)
        same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
        error = np.abs(got.astype(np.longdouble) - want) / np.spacing(np.abs(rounded)).astype(np.longdouble)
    return float(np.where(same, 0, np.where(np.isnan(error), np.inf, error)).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("operation", "by_numpy", "bound"),
    [
        ("exp", np.exp, 4), ("log", np.log, 4), ("tanh", np.tanh, 4), ("sqrt", np.sqrt, 0.5), ("floor", np.floor, 0),
        ("abs", np.abs, 0), ("sign", np.sign, 0), ("neg", np.negative, 0),
        ("pow", np.power, 4), ("atan2", np.arctan2, 4), ("min", np.minimum, 0), ("max", np.maximum, 0),
        ("div", np.divide, 0.5), ("add", np.add, 0.5),
    ],
)  # fmt: skip
def test_functions_are_accurate_on_all_numbers(
    operation: str, by_numpy: Callable[..., npt.NDArray[np.longdouble]], bound: float, dtype: torch.dtype
) -> None:
    a, b = pairs(dtype)
    binary = operation in ("pow", "atan2", "min", "max", "div", "add")
    found = apply(k.op(operation, *((k.g, k.state("m")) if binary else (k.g,))), a, b)
    with np.errstate(all="ignore"):
        arguments = [x.numpy().astype(np.longdouble) for x in ((a, b) if binary else (a,))]
        assert ulps(found, by_numpy(*arguments)) <= bound * (1 + 1e-3)


@pytest.mark.parametrize("operation", ["sin", "cos"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sine_and_cosine_are_accurate(operation: str, dtype: torch.dtype) -> None:
    x = torch.from_numpy(np.random.default_rng(1).standard_normal(50_000) * 100).to(dtype)
    found = apply(k.op(operation, k.g), x, x)
    assert ulps(found, getattr(np, operation)(x.numpy().astype(np.longdouble))) <= 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("exponent", "bound"), [(2.0, 0.5), (3.0, 1.5), (0.5, 0.5)])
def test_short_powers_equal_the_power(exponent: float, bound: float, dtype: torch.dtype) -> None:
    # x·x·x: half an ulp of its own, and the relative error of x·x, which is at most one ulp of the result
    a, b = pairs(dtype)
    # a product of denormal numbers has no relative accuracy to lose
    if exponent == 3.0:
        a = torch.where((a.abs() < 1e-12) & (a != 0), 1.5, a)
    with np.errstate(all="ignore"):
        want = np.power(a.numpy().astype(np.longdouble), np.longdouble(exponent))
    found = apply(k.op("pow", k.g, k.number(exponent)), a, b)
    assert ulps(found, want) <= bound * (1 + 1e-3)
    zero = found[(a == 0) & torch.signbit(a)]
    assert bool(torch.signbit(zero).all()) == (exponent == 3.0)


def test_modulo_has_the_sign_of_the_divisor() -> None:
    a = torch.tensor([5.5, -5.5, 5.5, -5.5, 6.0, -6.0, 0.0])
    b = torch.tensor([3.0, 3.0, -3.0, -3.0, 3.0, 3.0, 3.0])
    assert torch.equal(apply(k.op("mod", k.g, k.state("m")), a, b), torch.remainder(a, b))


def test_where_and_comparisons() -> None:
    a, b = pairs(torch.float32)
    for operation in ("lt", "le", "gt", "ge", "eq", "ne"):
        condition = k.op(operation, k.g, k.state("m"))
        found = apply(k.op("where", condition, k.number(1), k.number(2)), a, b)
        assert torch.equal(found, torch.where(getattr(torch, operation)(a, b), 1.0, 2.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_16_bit_number_is_read_exactly_and_written_back(dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    wide = apply(k.g, every, torch.zeros(2**16))
    assert torch.equal(torch.nan_to_num(wide, nan=5.0), torch.nan_to_num(every.float(), nan=5.0))
    assert torch.equal(torch.signbit(wide), torch.signbit(every))
    assert torch.equal(wide.isnan(), every.isnan())
    back = narrowed(wide, dtype)
    finite = ~every.isnan()
    assert torch.equal(back[finite].view(torch.int16), every[finite].view(torch.int16))
    assert bool(back[~finite].isnan().all())


def narrowed(values: Tensor, dtype: torch.dtype) -> Tensor:
    """fp32 values as a kernel stores them in a θ of `dtype`."""
    theta = torch.zeros(values.shape, dtype=dtype)
    kernel = Kernel(
        "narrow", (k.stream(k.theta), k.stream(k.state("m"), writes=False)), (), (), (), (k.store(k.theta, k.state("m")),)
    )
    k.prepare(kernel, {"theta": [theta], "m": [values]}, dtype).launch({}, (), (), 1.0)
    return theta


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stores_round_to_nearest_even_at_every_boundary(dtype: torch.dtype) -> None:
    every = torch.arange(2**15 - 1, dtype=torch.int32).to(torch.int16).view(dtype)
    low, high = every[:-1].float(), every[1:].float()
    numbers = high.isfinite()
    ties = ((low.double() + high.double()) / 2)[numbers].float()
    beyond, short = torch.nextafter(ties, torch.tensor(torch.inf)), torch.nextafter(ties, torch.tensor(0.0))
    random = torch.randint(-(2**31), 2**31, (400_000,), generator=torch.Generator().manual_seed(3)).to(torch.int32)
    largest = torch.tensor([65519.996, 65520.0, 65536.0, 3.3895e38, 3.3961e38, 3.4028e38, torch.inf, 1e-45, 1e-40])
    values = torch.cat([ties, beyond, short, random.view(torch.float32), largest])
    values = torch.cat([values, -values])
    found, want = narrowed(values, dtype), values.to(dtype)
    nan = values.isnan()
    assert torch.equal(found[~nan].view(torch.int16), want[~nan].view(torch.int16))
    assert bool(found[nan].isnan().all())
