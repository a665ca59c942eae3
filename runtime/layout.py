"""Memory orders: every tensor of one parameter must be dense, with the same element at the same place."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def all_contiguous(tensors: Iterable[Tensor]) -> bool:
    """Whether every tensor is; quick for thousands of them. A sparse one never is."""
    return all(map(Tensor.is_contiguous, tensors))


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one block of memory, each once, in some order of the dimensions."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((stride, size) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def overlaps(tensor: Tensor) -> bool:
    """Whether two elements may share one place in memory, as after `expand`."""
    if tensor.numel() <= 1 or is_dense(tensor):
        return False
    reach = 0  # of all dimensions with smaller strides
    for stride, size in sorted((stride, size) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size != 1):
        if stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def same_order(a: Tensor, b: Tensor) -> bool:
    """Whether place i of memory holds the same element in both, two tensors of one shape."""
    if a.is_contiguous() and b.is_contiguous():
        return True
    return all(x == y for size, x, y in zip(a.shape, a.stride(), b.stride(), strict=True) if size != 1)


def arranged(tensor: Tensor, like: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` itself, if it has this dtype, and the memory order and device of `like` (dense); otherwise a copy that does."""
    if tensor.dtype == dtype and tensor.device == like.device and tensor.layout == torch.strided and same_order(tensor, like):
        return tensor
    return torch.empty_like(like, dtype=dtype).copy_(tensor)
