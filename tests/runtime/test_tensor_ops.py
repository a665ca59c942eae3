"""Reductions of one tensor to one number, by themselves."""

from __future__ import annotations

import math

import pytest
import torch

from optc.runtime import tensor_ops
from tests.matrix.runners import laid_out

SIZES = (0, 1, tensor_ops.BLOCK - 1, tensor_ops.BLOCK, tensor_ops.BLOCK + 1, 5 * tensor_ops.BLOCK + 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_reductions_are_those_of_exact_arithmetic(size: int, dtype: torch.dtype) -> None:
    x = torch.randn(size, dtype=dtype, generator=torch.Generator().manual_seed(size))
    values = x.double().tolist()
    assert tensor_ops.total(x).item() == pytest.approx(math.fsum(values), rel=1e-13, abs=1e-10)
    assert tensor_ops.norm(x).item() == pytest.approx(math.sqrt(math.fsum(v * v for v in values)), rel=1e-13)
    assert tensor_ops.norm(x, 1).item() == pytest.approx(math.fsum(map(abs, values)), rel=1e-13)
    assert tensor_ops.count(x > 0).item() == sum(v > 0 for v in values)
    assert tensor_ops.largest(x).item() == max(values, default=-math.inf)
    assert tensor_ops.smallest(x).item() == min(values, default=math.inf)
    assert tensor_ops.largest_magnitude(x).item() == max(map(abs, values), default=-math.inf)


@pytest.mark.parametrize("name", ["total", "norm", "largest", "smallest", "largest_magnitude"])
def test_nan_passes_through_reductions(name: str) -> None:
    x = torch.zeros(3 * tensor_ops.BLOCK)
    x[-5], x[3], x[4] = math.nan, math.inf, -math.inf
    found = getattr(tensor_ops, name)(x)
    assert math.isnan(found.item())
    assert (found.dtype, found.shape) == (torch.float64, ())


def test_squares_of_float32_do_not_overflow() -> None:
    assert tensor_ops.norm(torch.full((4,), 1e30)).item() == pytest.approx(2e30, rel=1e-6)
    assert tensor_ops.norm(torch.full((4,), 1e-30)).item() == pytest.approx(2e-30, rel=1e-6)


def test_sums_do_not_depend_on_threads_or_layout() -> None:
    x = torch.randn(300, 1000, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.append([f(x).item() for f in (tensor_ops.total, tensor_ops.norm)])
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]
    assert [f(laid_out(x, "gaps")).item() for f in (tensor_ops.total, tensor_ops.norm)] == found[0]
