"""Parameters, gradients and comparisons for the runtime's tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

SHAPES = ((4, 3), (5,), (), (0, 2), (2, 3, 4))


def parameters(
    shapes: Sequence[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[nn.Parameter]:
    """Random parameters; an empty and a 0-dim one among them."""
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def give_gradients(seed: int, *models: Sequence[Tensor]) -> None:
    """The same new gradients for the parameters of each model."""
    for params in models:
        generator = torch.Generator().manual_seed(seed)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def train(steps: Iterable[int], *pairs: tuple[torch.optim.Optimizer, Sequence[Tensor]]) -> None:
    """Steps of several optimizers on the same gradients; the loss, for those that read it, falls."""
    for seed in steps:
        for optimizer, params in pairs:
            give_gradients(seed, params)
            optimizer.step(lambda seed=seed: 2.0 / (1 + seed))  # type: ignore[misc]  # a default argument is none to a closure


def twins(params: Sequence[Tensor]) -> list[nn.Parameter]:
    """Equal parameters of their own."""
    return [nn.Parameter(p.detach().clone()) for p in params]


def assert_equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> None:
    """Bit for bit."""
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


def assert_close(one: Sequence[Tensor], other: Sequence[Tensor]) -> None:
    """Float64 values of the same equations, rounded in another order."""
    assert all(a.dtype == torch.float64 for a in one)
    torch.testing.assert_close(list(one), list(other), rtol=1e-12, atol=1e-14)
