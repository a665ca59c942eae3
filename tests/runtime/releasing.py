"""Backward passes of chosen gradients, and the comparison of released steps with normal ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import optc
from tests.runtime.training import assert_equal, parameters

SHAPES = ((4, 6), (6,), (), (3, 2, 5), (300,))


def backward(params: Sequence[Tensor], seed: int, missing: Sequence[int] = ()) -> None:
    """A gradient of random numbers for all but the missing ones."""
    generator = torch.Generator().manual_seed(seed)
    numbers = [torch.randn(p.shape, generator=generator).to(p.dtype) for p in params]
    taking = [i for i in range(len(params)) if i not in missing and params[i].requires_grad]
    torch.autograd.backward([(params[i] * numbers[i]).sum() for i in taking])


def hook_on(params: Sequence[Tensor], hook: Callable[[Tensor], None]) -> list[Any]:
    """A hook of one's own; the handles."""
    return [p.register_post_accumulate_grad_hook(hook) for p in params]  # type: ignore[no-untyped-call]


def same(one: Any, other: Any) -> bool:
    """State dicts, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return repr(one) == repr(other)  # levels of codes may be NaN


def assert_same_training(
    make: Callable[[Sequence[nn.Parameter]], Any],
    *,
    passes: int = 1,
    steps: int = 4,
    dtype: torch.dtype = torch.float32,
    missing: Callable[[int], Sequence[int]] = lambda number: (),
    between: Callable[[int, Any, list[nn.Parameter]], None] = lambda step, optimizer, params: None,
) -> None:
    """A step after the backward passes, and one in the last of them, leave the same parameters and states."""
    ours, theirs = parameters(SHAPES, dtype), parameters(SHAPES, dtype)
    released, normal = make(ours), make(theirs)
    optc.release(released, passes)
    for step in range(steps):
        for number in range(passes):
            backward(ours, step * passes + number, missing(step * passes + number))
            backward(theirs, step * passes + number, missing(step * passes + number))
        for optimizer, params in ((released, ours), (normal, theirs)):
            optimizer.step()
            optimizer.zero_grad()
            between(step, optimizer, params)
    assert_equal(ours, theirs)
    assert same(released.state_dict(), normal.state_dict())


def leaving_out(number: int) -> Sequence[int]:
    """Somebody is missing in most passes."""
    return {0: (3,), 1: (), 2: (0, 4), 3: (1,)}[number % 4]


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(8, 8), nn.Tanh())])
