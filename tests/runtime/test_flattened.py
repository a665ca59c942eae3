"""Parameters that other libraries have flattened into one vector: elementwise optimizers take them, others say why not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import optc


def flattened(name: str) -> torch.optim.Optimizer:
    """As DeepSpeed's ZeRO does it: one float32 vector in the place of all parameters of a group."""
    optimizer = optc.create(name, nn.Linear(4, 3))
    flat = torch.randn(15)
    flat.grad = torch.randn(15)
    optimizer.param_groups[0]["params"] = [flat]
    return optimizer


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Lion"])
def test_elements_may_come_as_one_vector(name: str) -> None:
    optimizer = flattened(name)
    before = optimizer.param_groups[0]["params"][0].clone()
    optimizer.step()
    assert not torch.equal(before, optimizer.param_groups[0]["params"][0])


@pytest.mark.parametrize("name", ["LAMB", "Adafactor", "LARS", "AdamW + clip_norm"])
def test_what_looks_at_each_parameter_refuses_a_vector_of_all(name: str) -> None:
    optimizer = flattened(name)
    before = optimizer.param_groups[0]["params"][0].clone()
    with pytest.raises(ValueError, match=r"flattened into a vector of 15 elements .* looks at each parameter"):
        optimizer.step()
    assert torch.equal(before, optimizer.param_groups[0]["params"][0]) and not optimizer.state


def test_fsdp1_marks_what_it_has_flattened() -> None:
    p = nn.Parameter(torch.randn(6))
    p._fsdp_flattened = True  # type: ignore[attr-defined]
    p.grad = torch.randn(6)
    optc.create("AdamW", [p]).step()
    with pytest.raises(ValueError, match="flattened"):
        optc.create("LAMB", [p]).step()


def test_a_vector_of_ones_own_is_none() -> None:
    bias = nn.Parameter(torch.randn(5))
    bias.grad = torch.randn(5)
    optimizer = optc.create("LAMB", [bias, nn.Parameter(torch.randn(2, 2))])
    optimizer.forget([optimizer.param_groups[0]["params"][1]])
    optimizer.step()
    again = copy.deepcopy(optimizer)
    again.param_groups[0]["params"][0].grad = torch.randn(5)
    again.step()
