"""Hypers are live and checked before anything changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.runtime.handmade import SGD, AdamW
from tests.runtime.training import assert_close, assert_equal, give_gradients, parameters, train, twins

WRONG: list[tuple[type[AdamW] | type[SGD], str, Any, str]] = [
    (AdamW, "lr", -1.0, r"lr = -1.0, but it must be a number in \[0, inf\)"),
    (AdamW, "lr", float("nan"), "lr = nan, but it must be"),
    (AdamW, "lr", float("inf"), "lr = inf, but it must be"),
    (AdamW, "lr", "0.1", "lr = '0.1', but it must be a number"),
    (AdamW, "lr", True, "lr = True, but it must be a number"),
    (AdamW, "lr", None, "lr = None"),
    (AdamW, "lr", torch.ones(2), r"lr may not be a tensor of shape \(2,\)"),
    (AdamW, "lr", torch.tensor(-1.0), "lr = tensor"),
    (AdamW, "betas", (0.9, 1.0), r"betas\[1\] = 1.0, but it must be a number in \[0, 1\)"),
    (AdamW, "betas", (0.9,), r"betas = \(0.9,\), but it must be a tuple of 2 numbers \(beta1, beta2\)"),
    (AdamW, "betas", 0.9, "a tuple of 2 numbers"),
    (AdamW, "betas", np.array([0.9, 0.99]), "a tuple of 2 numbers"),
    (AdamW, "betas", (torch.tensor(0.9), 0.99), r"betas\[0\] may not be a tensor"),
    (AdamW, "amsgrad", 1, "amsgrad = 1, but it must be True or False"),
    (SGD, "momentum", torch.tensor([0.1, 0.2]), "momentum may not be a tensor"),
    (SGD, "every", 0, r"every = 0, but it must be a whole number in \[1, inf\) or None"),
    (SGD, "every", 2.0, "every = 2.0, but it must be a whole number"),
    (SGD, "every", True, "every = True, but"),
    (SGD, "double", "matrces", "one of 'nothing', 'matrices' .did you mean 'matrices'"),
    (SGD, "double", 3, "double = 3, but it must be one of"),
    (SGD, "dampening", 0.5, r"dampening needs a momentum \(now momentum = 0.0, dampening = 0.5\)"),
]


@pytest.mark.parametrize(("kind", "key", "value", "message"), WRONG)
def test_a_wrong_value_is_refused_at_construction_and_before_a_step(kind: Any, key: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(parameters(), **{key: value})
    params = parameters()
    first, second = params[:2], params[2:]
    optimizer = kind([{"params": first}, {"params": second}])
    train(range(2), (optimizer, params))
    before = twins(params)
    optimizer.param_groups[1][key] = value
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            train([2], (optimizer, params))
    assert_equal(params, before)
    assert optimizer.state[params[0]]["step"] == 2, "the first group was not stepped either"
    optimizer.param_groups[1][key] = optimizer.defaults[key]
    train([2], (optimizer, params))
    assert optimizer.state[params[0]]["step"] == 3


def test_a_missing_key_is_named() -> None:
    optimizer = AdamW(parameters())
    del optimizer.param_groups[0]["eps"]
    with pytest.raises(ValueError, match="the parameter group has no 'eps'"):
        train([0], (optimizer, optimizer.param_groups[0]["params"]))


def test_changes_between_steps_take_effect() -> None:
    params = parameters(dtype=torch.float64)
    others = twins(params)
    ours, torchs = AdamW(params), torch.optim.AdamW(others, foreach=False)
    changes: list[dict[str, Any]] = [
        {},
        {"lr": 0.1},
        {"betas": (0.5, 0.6)},
        {"weight_decay": 0},
        {"eps": 1e-3, "maximize": True},
    ]
    for seed, change in enumerate(changes):
        ours.param_groups[0].update(change)
        torchs.param_groups[0].update(change)
        train([seed], (ours, params), (torchs, others))
        assert_close(params, others)


def test_a_list_changed_in_place_is_noticed() -> None:
    params = parameters(dtype=torch.float64)
    others = twins(params)
    ours, torchs = AdamW(params, betas=[0.9, 0.99]), torch.optim.AdamW(others, betas=(0.9, 0.99), foreach=False)  # type: ignore[arg-type]
    train(range(2), (ours, params), (torchs, others))
    ours.param_groups[0]["betas"][0] = 0.1
    torchs.param_groups[0]["betas"] = (0.1, 0.99)
    train([2], (ours, params), (torchs, others))
    assert_close(params, others)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_tensor_lr_is_read_at_every_step(shape: tuple[int, ...]) -> None:
    params = parameters()
    others = twins(params)
    lr = torch.full(shape, 0.25)
    ours, plain = AdamW(params, lr=lr), AdamW(others, lr=0.25)
    train(range(2), (ours, params), (plain, others))
    lr.fill_(0.125)
    plain.param_groups[0]["lr"] = 0.125
    train(range(2, 4), (ours, params), (plain, others))
    assert_equal(params, others)
    lr.fill_(-1.0)
    with pytest.raises(ValueError, match="lr"):
        train([4], (ours, params))


def test_a_flag_and_a_choice_switch_the_variant() -> None:
    p = nn.Parameter(torch.zeros(2, 2))
    optimizer = SGD([p], lr=1.0)
    p.grad = torch.ones(2, 2)
    optimizer.step()
    optimizer.param_groups[0]["double"] = "matrices"
    optimizer.step()
    optimizer.param_groups[0]["double"] = "nothing"
    optimizer.step()
    assert torch.equal(p, torch.full((2, 2), -4.0))


def test_an_optional_number_may_be_none_and_change() -> None:
    p = nn.Parameter(torch.zeros(1))
    optimizer = SGD([p], lr=1.0, every=2)
    p.grad = torch.ones(1)
    values = []
    for every in (2, 2, 1, None):
        optimizer.param_groups[0]["every"] = every
        optimizer.step()
        values.append(p.item())
    assert values == [-1.0, -1.0, -1.5, -2.5]


def test_shared_hypers_must_agree_over_groups() -> None:
    params = parameters([(2,), (2,)])
    optimizer = SGD([{"params": params[:1]}, {"params": params[1:]}], seed=3)
    optimizer.param_groups[1]["seed"] = 4
    before = twins(params)
    with pytest.raises(ValueError, match="seed must be the same in all parameter groups"):
        train([0], (optimizer, params))
    assert_equal(params, before)
    optimizer.param_groups[0]["seed"] = 4
    train([0], (optimizer, params))


def test_dtype_of_numbers_does_not_matter() -> None:
    params = parameters([(3,)])
    give_gradients(0, params)
    SGD(params, lr=np.float32(0.5), every=np.int64(3)).step()  # type: ignore[arg-type]
