"""Parameters come and go: every one of them keeps its own history, as if it had an optimizer of its own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from optc import generated
from tests.runtime.training import assert_close, twins

SHAPES = ((3, 4), (5,), (), (70,), (2, 2), (33,), (1,), (4, 4))


@pytest.fixture
def float64() -> Iterator[None]:
    """PyTorch keeps its counts and products in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
@pytest.mark.parametrize(
    ("name", "hypers"),
    [("AdamW", {"amsgrad": True}), ("NAdam", {}), ("RAdam", {}), ("ASGD", {"t0": 3.0}), ("SGD", {"momentum": 0.9})],
)
def test_changing_sets_are_torchs(name: str, hypers: dict[str, Any], backend: str) -> None:
    """NAdam and ASGD carry numbers on the host, RAdam's steps differ with the count, SGD's first one is another."""
    chance, generator = random.Random(name), torch.Generator().manual_seed(3)
    ours = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    theirs = twins(ours)
    optimizer = getattr(generated, name)([{"params": ours[:6]}, {"params": ours[6:], "lr": 0.02}], backend=backend, **hypers)
    reference = getattr(torch.optim, name)([{"params": theirs[:6]}, {"params": theirs[6:], "lr": 0.02}], **hypers)
    for step in range(25):
        share = chance.choice([0.1, 0.5, 0.9, 1.0])
        for p, q in zip(ours, theirs, strict=True):
            p.grad = q.grad = None
            if chance.random() < share:
                p.grad = torch.randn(p.shape, generator=generator)
                q.grad = p.grad.clone()
        if step == 15:
            optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()
        reference.step()
        assert_close(ours, theirs)
    for p, q in zip(ours, theirs, strict=True):
        expected = reference.state.get(q, {})
        if "step" in expected:
            assert float(optimizer.state[p]["step"]) == float(expected["step"])


def test_who_leaves_takes_the_count_along() -> None:
    params = [nn.Parameter(torch.ones(2)) for _ in range(5)]
    optimizer = generated.AdamW(params)

    def step(*taking: int) -> list[float]:
        for index, p in enumerate(params):
            p.grad = torch.ones(2) if index in taking else None
        optimizer.step()
        return [float(optimizer.state[p]["step"]) for p in params if p in optimizer.state]

    def tensors() -> int:
        return len({id(optimizer.state[p]["step"]) for p in params})

    assert step(0, 1, 2, 3, 4) == [1, 1, 1, 1, 1]
    assert tensors() == 1
    assert step(0, 1, 2, 3) == [2, 2, 2, 2, 1]  # most keep the tensor, one gets a copy
    assert step(4) == [2, 2, 2, 2, 2]
    assert step(0, 1, 2, 3, 4) == [3, 3, 3, 3, 3]
    assert tensors() == 1
    assert step(1) == [3, 4, 3, 3, 3]
    assert tensors() == 2
    optimizer.state[params[0]]["step"].fill_(9)  # all that share it: 0, 2, 3 and 4
    assert step(0, 2) == [10, 4, 10, 9, 9]
