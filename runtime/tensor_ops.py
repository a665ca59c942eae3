"""Operations of the language that PyTorch lacks, or has with another meaning or at another price.

Reductions give one float64 number per tensor, 0-dim, on its device. Sums are made of sums of blocks of a fixed size, in the
order of memory: the same to the bit whatever the number of threads, and without a copy of the whole tensor in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 1 << 14
"""Elements per block on a CPU: PyTorch gives so few to one thread, and their float64 copies fit into its cache."""
DEVICE_BLOCK = 1 << 24
"""The same elsewhere, where a launch costs more, and the order of a sum depends on its shape only."""


def sign(x: Tensor) -> Tensor:
    """−1, 0 or 1 by element, and NaN where x is NaN (`torch.sign` gives 0 there and would hide it)."""
    return torch.where(x == x, torch.sign(x), x)


def total(x: Tensor) -> Tensor:
    """Σx in float64; 0 over no elements."""
    return _by_blocks(x, lambda block: block.sum(dtype=torch.float64))


def norm(x: Tensor, order: int = 2) -> Tensor:
    """√Σx², or Σ|x| with order 1, in float64: no square of a float32 element overflows. 0 over no elements."""
    return _by_blocks(x, lambda block: torch.linalg.vector_norm(block, order, dtype=torch.float64))


def count(condition: Tensor) -> Tensor:
    """The number of elements where a condition holds, exactly."""
    return condition.count_nonzero().double()


def largest(x: Tensor) -> Tensor:
    """The largest element; −∞ over none, NaN if any is NaN."""
    return x.amax().double() if x.numel() else x.new_full((), -math.inf, dtype=torch.float64)


def smallest(x: Tensor) -> Tensor:
    """The smallest element; ∞ over none, NaN if any is NaN."""
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
