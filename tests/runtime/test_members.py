"""Parameters that come, go, freeze and are forgotten in training: bit for bit as with optimizers of their own."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optc
from optc.generated import SGD, AdamW, NAdam, Prodigy
from optc.runtime import Routed
from tests.runtime.training import assert_close, assert_equal, give_gradients, parameters, train, twins

SHAPES = ((4, 3), (5,), (), (2, 3, 2), (1, 7))
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "AdamW": (AdamW, {"lr": 0.1, "amsgrad": True}),
    "NAdam": (NAdam, {"lr": 0.1}),
    "SGD": (SGD, {"lr": 0.1, "momentum": 0.9}),
    "torch": (AdamW, {"lr": 0.1, "backend": "torch"}),
    "LAMB": (lambda params, **options: optc.create("lamb", params, **options), {"lr": 0.1}),
    "8 bits": (lambda params, **options: optc.create("adamw8bit", params, **options), {"lr": 0.1}),
}


class Alone:
    """A copy of each parameter with an optimizer of its own, stepped where it has a gradient."""

    def __init__(self, kind: str, params: Sequence[Tensor]) -> None:
        make, options = KINDS[kind]
        self.params = twins(params)
        self.optimizers = [make([q], **options) for q in self.params]

    def step(self, params: Sequence[Tensor]) -> None:
        for p, q, optimizer in zip(params, self.params, self.optimizers, strict=True):
            q.grad = None if p.grad is None else p.grad.clone()
            optimizer.step()
        assert_equal(params, self.params)


def started(kind: str) -> tuple[list[nn.Parameter], Any, Alone]:
    params = parameters(SHAPES)
    make, options = KINDS[kind]
    return params, make([{"params": params[:2]}, {"params": params[2:]}], **options), Alone(kind, params)


@pytest.mark.parametrize("kind", KINDS)
def test_freezing_and_thawing(kind: str) -> None:
    params, optimizer, alone = started(kind)
    for number in range(9):
        give_gradients(number, params)
        if number in (2, 3, 6):
            for p in params[1:4]:
                p.requires_grad_(False)
                p.grad = None
        elif number in (4, 7):
            for p in params[1:4]:
                p.requires_grad_(True)
        optimizer.step()
        alone.step(params)


@pytest.mark.parametrize("kind", KINDS)
def test_forgetting(kind: str) -> None:
    params, optimizer, alone = started(kind)
    for number in range(8):
        give_gradients(number, params)
        if number == 3:
            optimizer.forget(params[1])
            optimizer.forget([params[3], params[2]])
        if number >= 3:
            for p in params[1:4]:
                p.grad = None
        optimizer.step()
        alone.step(params)
    assert [group["params"] for group in optimizer.param_groups] == [[params[0]], [params[4]]]
    assert set(optimizer.state) == {params[0], params[4]}
    saved = optimizer.state_dict()
    assert sorted(saved["state"]) == [0, 1] and [group["params"] for group in saved["param_groups"]] == [[0], [1]]
    make, options = KINDS[kind]
    others = twins([params[0], params[4]])
    resumed = make([{"params": others[:1]}, {"params": others[1:]}], **options)
    resumed.load_state_dict(saved)
    train(range(3), (optimizer, [params[0], params[4]]), (resumed, others))
    assert_equal([params[0], params[4]], others)


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_back_starts_anew(kind: str) -> None:
    params, optimizer, alone = started(kind)
    for number in range(8):
        if number == 3:
            optimizer.forget(params[:2])
            optimizer.add_param_group({"params": [params[1], params[0]]})
            make, options = KINDS[kind]
            alone.optimizers[:2] = [make([q], **options) for q in alone.params[:2]]
        give_gradients(number, params)
        optimizer.step()
        alone.step(params)
    assert [len(group["params"]) for group in optimizer.param_groups] == [0, 3, 2]
    if kind == "AdamW":
        assert [optimizer.state[p]["step"] for p in params] == [5, 5, 8, 8, 8]


def test_a_group_added_in_training_is_torchs() -> None:
    params = parameters(SHAPES, torch.float64)
    others = twins(params)
    ours, torchs = AdamW(params[:2], lr=0.1), torch.optim.AdamW(others[:2], lr=0.1, foreach=False)
    for number in range(9):
        if number == 3:
            ours.add_param_group({"params": params[2:4], "lr": 0.01})
            torchs.add_param_group({"params": others[2:4], "lr": 0.01})
        if number == 6:
            for model in (params, others):
                model[0].requires_grad_(False)
        give_gradients(number, params, others)
        if number >= 6:
            params[0].grad = others[0].grad = None
        ours.step()
        torchs.step()
    assert_close(params, others)


def test_schedulers_go_on_when_a_group_is_emptied() -> None:
    params, optimizer, _ = started("AdamW")
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for number in range(3):
        train([number], (optimizer, params[:1] if number else params))
        if not number:
            optimizer.forget(params[2:])
            for p in params[2:]:
                p.grad = None
        schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.1 * 0.5**3] * 2


def test_numbers_of_the_model_stay() -> None:
    params = parameters(SHAPES)
    optimizer = Prodigy([{"params": params[:2]}, {"params": params[2:]}])
    train(range(3), (optimizer, params))
    d = float(optimizer.param_groups[0]["d"])
    optimizer.forget(params[:2])
    assert float(optimizer.param_groups[0]["d"]) == d
    new = nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [new]})
    train([3], (optimizer, [*params[2:], new]))
    assert optimizer.param_groups[2]["d"] is optimizer.param_groups[0]["d"] and float(optimizer.param_groups[2]["d"]) >= d


def named(kind: str) -> tuple[nn.Module, Any]:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    rules: Any = [("*.weight", {"type": "SGD", "momentum": 0.9})]
    made: Any = (
        AdamW(optc.groups.no_decay(model, 0.1)) if kind == "one" else optc.route(model, rules, otherwise={"type": "AdamW"})
    )
    return model, made


@pytest.mark.parametrize("kind", ["one", "routed"])
def test_names_leave_with_their_parameters(kind: str) -> None:
    model, optimizer = named(kind)
    own = dict(model.named_parameters())
    give_gradients(0, list(own.values()))
    optimizer.step()
    optimizer.forget(["1.weight", own["2.bias"]])
    left = {n: p for group in optimizer.param_groups for n, p in zip(group["param_names"], group["params"], strict=True)}
    assert set(left) == {"0.weight", "0.bias", "1.bias", "2.weight"} and all(own[name] is p for name, p in left.items())
    assert set(optimizer.state) == set(left.values())
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    optimizer.load_state_dict(torch.load(buffer, weights_only=True))
    twin, other = copy.deepcopy((model, optimizer))
    for one, steps in ((model, optimizer), (twin, other)):
        for p in one.parameters():
            p.grad = None
        give_gradients(1, [dict(one.named_parameters())[name] for name in left])
        steps.step()
    assert_equal(list(model.parameters()), list(twin.parameters()))
    if isinstance(optimizer, Routed):
        optimizer.add_param_group({"params": [("2.bias", own["2.bias"])], "type": "SGD"})
        assert optimizer.parts["SGD"].param_groups[1]["params"] == [own["2.bias"]]


STRANGER = nn.Parameter(torch.ones(3, 2))
ERRORS: dict[str, tuple[Callable[[], Any], str]] = {
    "a stranger": (
        lambda: named("one")[1].forget([STRANGER]),
        r"cannot forget a tensor of shape \(3, 2\): it is no parameter of this optimizer",
    ),
    "a near name": (
        lambda: named("routed")[1].forget("1.wieght"),
        r"cannot forget '1.wieght': no parameter is called so; did you mean '1.weight'",
    ),
    "a far name": (lambda: named("one")[1].forget("head"), "no parameter is called so; it has 6, such as '0.weight'"),
    "a name without names": (
        lambda: AdamW([STRANGER]).forget("head"),
        "cannot forget 'head': the parameters of this optimizer have no names, give the parameter itself",
    ),
    "no parameter": (lambda: AdamW([STRANGER]).forget([3]), "cannot forget 3: give parameters or their names"),  # type: ignore[list-item]
}


@pytest.mark.parametrize("case", ERRORS)
def test_mistakes_are_told(case: str) -> None:
    make, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        make()


def test_a_mistake_changes_nothing() -> None:
    params, optimizer, alone = started("AdamW")
    give_gradients(0, params)
    optimizer.step()
    with pytest.raises(ValueError, match="cannot forget"):
        optimizer.forget([params[0], STRANGER])
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 3] and set(optimizer.state) == set(params)
    alone.step(params)
