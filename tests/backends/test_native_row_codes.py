"""Codes beside rows and columns in native code: blocks that rows share, tiles, threads; against PyTorch, and by their rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import optc
from optc.runtime.codebook import Codebook
from optc.runtime.native_matrices import grids
from optc.runtime.optimizer import Optimizer
from optc.runtime.storage import decode, encode

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = """
optimizer InRows:
    hyper: lr = 1.0 in [0, inf)
    state:
        m = 0; k = 0
        if ndim >= 2: r = 0 per row
        else: w = 0
    storing m: {m}, k: {k}
    step:
        m <- m + g
        k <- k - 2*g
        if ndim >= 2:
            r <- rowmax(m) + rowmean(colmean(g))
            u = r
        else:
            w <- m
            u = w
        θ <- θ - lr*u*0.5
"""
"""m and k are sums: every backend has the same float32 numbers to encode."""
SHAPES = [(64, 64), (5, 3), (4100,), (7, 1), (1, 4097), (131, 77), (3, 33, 65), (9, 32, 64), (0, 5), (300, 300), (4, 4, 4, 80)]
LARGE = [(2048, 1024), (1023, 1025), (12, 257, 513), (3, 70001), (100000, 7)]


def parameters(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]


def run(
    m: str, k: str, shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float32, steps: int = 3
) -> list[list[Tensor]]:
    """All that is kept after some steps, by PyTorch and by native code."""
    found = []
    for backend in ("torch", "native"):
        cls: Any = optc.compile(SPEC.format(m=m, k=k))
        params = parameters(shapes, dtype)
        optimizer: Optimizer = cls(params, backend=backend)
        for t in range(steps):
            for number, p in enumerate(params):
                generator = torch.Generator().manual_seed(100 * t + number)
                p.grad = torch.randn(p.shape, generator=generator).to(dtype)
                if t == 1 and p.ndim > 1:
                    p.grad[: p.shape[0] // 2] = 0
            optimizer.step()
        slots = [optimizer.state[p] for p in params]
        found.append([x for p, s in zip(params, slots, strict=True) for x in (p.detach(), *(s[key] for key in sorted(s)))])
    return found


def assert_same(found: list[list[Tensor]], off: float = 1e-6) -> None:
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if a.dtype == torch.uint8:
            assert torch.equal(a, b)
        else:
            assert torch.allclose(a, b, rtol=off, atol=off)


@pytest.mark.parametrize(
    "m, k", [("dynamic8(smallest = 1)", "dynamic4(smallest = 1)"), ("linear8(64, smallest = 1)", "e4m3(4096)")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_codes_are_those_of_pytorch(m: str, k: str, dtype: torch.dtype) -> None:
    """Blocks of different lengths in one step, tensors that are codes in one of them only, vectors beside matrices."""
    assert_same(run(m, k, SHAPES, dtype), 1e-2 if dtype == torch.bfloat16 else 1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_tiles_and_threads(threads: int) -> None:
    torch.set_num_threads(threads)  # the fixture sets it back
    assert_same(run("dynamic8", "dynamic4(64)", LARGE, steps=2))


def test_codes_are_the_nearest() -> None:
    """From the numbers themselves, by the rule for one block."""
    cls: Any = optc.compile(SPEC.format(m="dynamic8(smallest = 1)", k="bf16"))
    (p,) = params = parameters([(37, 41)])
    optimizer: Optimizer = cls(params, backend="native")
    p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    optimizer.step()
    (book,) = (s.storage for s in optimizer.schema.states if isinstance(s.storage, Codebook))
    codes, scales = encode(p.grad, book)
    assert torch.equal(optimizer.state[p]["m"].flatten(), codes) and torch.equal(optimizer.state[p]["m_scale"], scales)
    assert float((decode(codes, scales, book, p.numel()) - p.grad.flatten()).abs().max()) < 0.05


def test_tiles_begin_with_a_block() -> None:
    """And are cut where that can be: else threads would share what is encoded together."""
    cls: Any = optc.compile(SPEC.format(m="dynamic8", k="dynamic8"))
    (kernel,) = cls.schema.procedures[0].kernels
    shapes = [torch.Size(s) for s in (*SHAPES, *LARGE) if len(s) >= 2]
    for block in (64, 256, 4096):
        found = grids(shapes, kernel, block)
        matrices, rows, columns, row_cuts, column_cuts, per_tile = found[:, :6].T
        assert np.all((column_cuts == 1) & (rows % row_cuts == 0))
        each = np.where(row_cuts > 1, rows // row_cuts * columns, per_tile * rows * columns)
        assert np.all((each % block == 0) | ((row_cuts == 1) & (per_tile >= matrices)))
    assert np.array_equal(grids(shapes, kernel), grids(shapes, kernel, 1))
    large = grids([torch.Size((2048, 1024))], kernel, 256)
    assert large[0, 3] > 1


def test_what_a_step_does_not_write_stays() -> None:
    """A state that is only read is not encoded anew."""
    text = SPEC.format(m="dynamic8(smallest = 1)", k="bf16").replace("m <- m + g", "if lr > 0.5: m <- m + g")
    cls: Any = optc.compile(text)
    params = parameters([(64, 65)])
    optimizer: Optimizer = cls(params, backend="native")
    params[0].grad = torch.randn(64, 65, generator=torch.Generator().manual_seed(1))
    optimizer.step()
    before = {key: x.clone() for key, x in optimizer.state[params[0]].items() if key.startswith("m")}
    optimizer.param_groups[0]["lr"] = 0.25
    optimizer.step()
    assert (
        all(torch.equal(optimizer.state[params[0]][key], x) for key, x in before.items()) and before["m"].dtype == torch.uint8
    )
