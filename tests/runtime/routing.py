"""A model whose matrices and vectors go to different optimizers, in one and in two."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import optc
from optc.generated import SGD, AdamW
from optc.runtime import Routed
from tests.runtime.training import assert_equal, give_gradients


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def matrix(name: str, p: Tensor) -> bool:
    return p.ndim == 2


def routed(model: nn.Module, **options: Any) -> Routed:
    """SGD for matrices, AdamW for the others."""
    rules = [(matrix, {"type": "SGD", "lr": 0.1, "momentum": 0.9})]
    return optc.route(model, rules, otherwise={"type": "AdamW", "lr": 0.01, "weight_decay": 0.3}, **options)


def separate(model: nn.Module, **options: Any) -> list[torch.optim.Optimizer]:
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    return [SGD(matrices, lr=0.1, momentum=0.9, **options), AdamW(others, lr=0.01, weight_decay=0.3, **options)]


def step(model: nn.Module, optimizers: list[Any], seed: int = 0) -> None:
    give_gradients(seed, list(model.parameters()))
    for optimizer in optimizers:
        optimizer.step()


def same(one: nn.Module, other: nn.Module) -> None:
    assert_equal(list(one.parameters()), list(other.parameters()))
