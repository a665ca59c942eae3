"""Operations of the language that PyTorch lacks, or has with another meaning or at another price.

Reductions give one float64 number per tensor, 0-dim, on its device, or one per row or column. Sums are made of sums of blocks
of a fixed size, in the order of memory: the same to the bit whatever the number of threads, and without a copy of the whole
tensor in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 1 << 14
"""Elements per block on a CPU: PyTorch gives so few to one thread, and their float64 copies fit into its cache."""
PANEL = 1 << 18
"""Elements of several rows or columns that are summed at a time on a CPU: their float64 copies stay in its caches."""
DEVICE_BLOCK = 1 << 24
"""Both elsewhere, where a launch costs more, and the order of a sum depends on its shape only."""


def sign(x: Tensor) -> Tensor:
    """−1, 0 or 1 by element, and NaN where x is NaN (`torch.sign` gives 0 there and would hide it)."""
    return torch.where(x == x, torch.sign(x), x)


def pick(x: Tensor, p: float) -> Tensor:
    """Every p-th element of x, flattened, from the first one on: a view of contiguous memory. `p` is whole, at least 1."""
    return x.flatten()[:: min(int(p), max(1, x.numel()))]


def cospi(x: Tensor) -> Tensor:
    """cos πx by element; whole turns are taken off before the product with π, so that large x are as good as small ones."""
    return (x - 2 * torch.floor(x / 2 + 0.5)).mul_(math.pi).cos_()


def round_bf16(x: Tensor, u: Tensor | float) -> Tensor:
    """x as bfloat16, in its own dtype: away from 0 where the 16 bits of float32 that are cut off, as a number from [0, 1),
    exceed u.
    """
    bits = x.to(torch.float32).view(torch.int32)
    cut = bits & 0xFFFF
    rounded = (bits - cut + (cut > u * 65536).int() * 0x10000).view(torch.float32)
    return torch.where(x == x, rounded.to(x.dtype), x)


def total(x: Tensor, dim: int | None = None) -> Tensor:
    """Σx in float64; 0 over no elements. With `dim` -1 of each row, with -2 of each column, in a dimension of length 1."""
    if dim is None:
        return _by_blocks(x, lambda block: block.sum(dtype=torch.float64))
    return _along(x, dim)


def mean(x: Tensor, dim: int | None = None) -> Tensor:
    """Σx divided by the number of entries, in float64; NaN over none. `dim` as for `total`."""
    return total(x, dim) / (x.numel() if dim is None else x.shape[dim])


def norm(x: Tensor, order: int = 2) -> Tensor:
    """√Σx², or Σ|x| with order 1, in float64: no square of a float32 element overflows. 0 over no elements."""
    return _by_blocks(x, lambda block: torch.linalg.vector_norm(block, order, dtype=torch.float64))


def count(condition: Tensor) -> Tensor:
    """The number of elements where a condition holds, exactly."""
    return condition.count_nonzero().double()


def largest(x: Tensor, dim: int | None = None) -> Tensor:
    """The largest element in float64; −∞ over none, NaN if any is NaN. `dim` as for `total`."""
    if dim is not None:
        return x.amax(dim, keepdim=True).double() if x.shape[dim] else _filled(x, dim, -math.inf)
    return x.amax().double() if x.numel() else x.new_full((), -math.inf, dtype=torch.float64)


def smallest(x: Tensor, dim: int | None = None) -> Tensor:
    """The smallest element in float64; ∞ over none, NaN if any is NaN. `dim` as for `total`."""
    if dim is not None:
        return x.amin(dim, keepdim=True).double() if x.shape[dim] else _filled(x, dim, math.inf)
    return x.amin().double() if x.numel() else x.new_full((), math.inf, dtype=torch.float64)


def largest_magnitude(x: Tensor) -> Tensor:
    """The largest |x|; −∞ over no elements, NaN if any is NaN."""
    if not x.numel():
        return largest(x)
    low, high = torch.aminmax(x)
    return torch.maximum(-low, high).double()


def _by_blocks(x: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """`reduce` over blocks of x, then over what it gave, until one number is left."""
    block = BLOCK if x.device.type == "cpu" else DEVICE_BLOCK
    if not x.is_contiguous():
        x = x.permute(sorted(range(x.ndim), key=x.stride, reverse=True))
    flat = x.reshape(-1)
    while flat.numel() > block:
        flat = torch.stack([reduce(flat[start : start + block]) for start in range(0, flat.numel(), block)])
    return reduce(flat)


def _along(x: Tensor, dim: int) -> Tensor:
    """Sums of rows (`dim` -1) or columns (-2), by panels of a fixed size.

    PyTorch lets several threads share one sum only where there is no other; then it is made as that of a whole tensor.
    """
    shape = _narrow(x, dim)
    if math.prod(shape) == 1:
        return total(x).reshape(shape)
    if dim == -2:
        return _in_panels(x, dim)
    rows = x.flatten(0, -2)
    panels = rows.tensor_split(max(1, len(rows) // max(2, _panel(x) // max(1, x.shape[-1]))))
    return torch.cat([_in_panels(panel, dim) for panel in panels]).reshape(shape)


def _in_panels(x: Tensor, dim: int) -> Tensor:
    """Sums along a dimension, of pieces of it; no piece is copied to float64 with more than a panel's elements."""
    lines = math.prod(_narrow(x, dim))
    step = max(1, _panel(x) // max(1, lines))
    sums = _filled(x, dim, 0.0)
    for start in range(0, x.shape[dim], step):
        piece = x.narrow(dim, start, min(step, x.shape[dim] - start))
        sums += piece.sum(dim, keepdim=True, dtype=torch.float64)
    return sums


def _panel(x: Tensor) -> int:
    return PANEL if x.device.type == "cpu" else DEVICE_BLOCK


def _filled(x: Tensor, dim: int, number: float) -> Tensor:
    """The same float64 number for every row or column."""
    return x.new_full(_narrow(x, dim), number, dtype=torch.float64)


def _narrow(x: Tensor, dim: int) -> list[int]:
    """The shape with length 1 in a dimension."""
    return [1 if index == x.ndim + dim else size for index, size in enumerate(x.shape)]
