"""What a parameter or a gradient must be; errors say what was found and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from optc.runtime import layout
from optc.runtime.sharding import is_divided, local, shard_of

_FLOATS = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})
PLAIN: frozenset[type[Any]] = frozenset({Tensor, torch.nn.Parameter})
"""The classes of ordinary gradients, for a quick check of many at once."""


def parameter(p: Tensor) -> None:
    """Raises ValueError or TypeError if `p` cannot be optimized."""
    if p.is_complex():
        raise ValueError(f"it is complex ({p.dtype}): optimize torch.view_as_real of it instead")
    if is_lazy(p):
        return
    if p.dtype not in _FLOATS:
        raise ValueError(f"it has dtype {p.dtype}: only float64, float32, bfloat16 and float16 can be optimized")
    if is_divided(p):
        shard_of(p)
        p = local(p)
    if is_traceable_wrapper_subclass(p):
        raise TypeError(f"it is a {type(p).__name__}: what wraps other tensors (codes, nested ones) cannot be optimized")
    if p.layout != torch.strided:
        raise ValueError(f"it is sparse ({p.layout}): only dense parameters can be optimized")
    if p.is_neg():
        raise ValueError("it is a lazily negated view: use resolve_neg() of it")
    if layout.overlaps(p):
        raise ValueError(f"elements of it share memory (shape {tuple(p.shape)}, strides {p.stride()}): clone it first")


def companion(p: Tensor, x: Tensor, what: str) -> None:
    """Raises ValueError or TypeError if `x` (a gradient, an input) cannot go with `p`."""
    if x.layout != torch.strided:
        raise ValueError(f"{what} is sparse ({x.layout}): use a dense one, e.g. nn.Embedding(sparse=False)")
    if is_traceable_wrapper_subclass(x):
        raise TypeError(f"{what} is a {type(x).__name__}, which wraps other tensors: not supported")
    if x.dtype not in _FLOATS:
        raise ValueError(f"{what} has dtype {x.dtype}: it must be a floating-point tensor")
    if x.shape != p.shape:
        raise ValueError(f"{what} has shape {tuple(x.shape)}, the parameter {tuple(p.shape)}")
    if x._is_zerotensor():
        raise ValueError(f"{what} is a stand-in for zeros without memory: clone it first")
    if x.is_neg() and layout.is_dense(x) and x.numel() > 1:
        raise ValueError(f"{what} is a lazily negated tensor: use resolve_neg() of it")
    if x.device != p.device:
        raise ValueError(f"{what} is on {x.device}, the parameter on {p.device}")


def no_duplicates(parameters: Sequence[Tensor]) -> None:
    """Raises ValueError if a parameter stands twice in a group: it would be updated twice."""
    if len(set(map(id, parameters))) != len(parameters):
        raise ValueError("a parameter appears twice in one parameter group")
