"""A step like the one before goes the short way, and is then the same step to the bit; whatever else happened, it does not."""

from __future__ import annotations

import copy
import pickle
import random
import shutil
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import optc
from optc import generated
from optc.runtime.backend import BackendUnavailable
from optc.runtime.hypers import Reader
from optc.runtime.optimizer import Optimizer
from tests.runtime.training import assert_equal, give_gradients, parameters, train

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")

SHAPES = ((3, 4), (5,), (), (70,), (2, 2), (1,))


class Long:
    """How many steps went the long way. The first two do: one makes plans, the next sees the gradients natively first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        original = Optimizer._step

        def counted(optimizer: Optimizer, read: Any) -> None:
            self.steps += 1
            original(optimizer, read)

        monkeypatch.setattr(Optimizer, "_step", counted)


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> Long:
    return Long(monkeypatch)


class Pair:
    """Two equal models; the second never goes the short way."""

    def __init__(self, make: str | Callable[..., Any] = "AdamW", **hypers: Any) -> None:
        self.models = [parameters(SHAPES), parameters(SHAPES)]
        make = getattr(generated, make) if isinstance(make, str) else make
        self.optimizers = [make([{"params": ps[:4]}, {"params": ps[4:], "lr": 0.02}], **hypers) for ps in self.models]
        self.seed = 0

    def step(self) -> None:
        for params, optimizer in zip(self.models, self.optimizers, strict=True):
            give_gradients(self.seed, [p for p in params if p.requires_grad])
            optimizer.step()
            if optimizer is self.optimizers[1]:
                optimizer._repeat = None
        self.seed += 1
        assert_equal(*self.models)

    def both(self, change: Callable[[Any, list[nn.Parameter]], None]) -> None:
        for optimizer, params in zip(self.optimizers, self.models, strict=True):
            change(optimizer, params)


@pytest.mark.parametrize("name", ["AdamW", "SGD", "NAdam", "LAMB", "Adafactor", "AdamW8bit", "SGLD", "ScheduleFreeAdamW"])
def test_steps_alike_go_the_short_way(name: str, long: Long) -> None:
    """Elements, carried numbers, reductions, matrices, codes, random numbers, entries."""
    pair = Pair(name)
    for _ in range(3):
        pair.step()
    before = long.steps
    for _ in range(5):
        pair.step()
    assert long.steps - before == 5  # those of the second


def test_schedules_of_hypers_and_in_the_step_go_it_too(long: Long) -> None:
    by_scheduler = Pair()
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9) for optimizer in by_scheduler.optimizers]
    in_step = Pair(optc.compile("adamw", modifiers=["cosine(T = 20)"]))
    for _ in range(6):
        by_scheduler.step()
        in_step.step()
        for scheduler in schedulers:
            scheduler.step()
    assert long.steps == 2 * (2 + 6)


def test_closures_are_called_once_and_go_it_too(long: Long) -> None:
    ours, theirs = parameters(SHAPES), parameters(SHAPES)
    optimizers = generated.AdamW(ours, lr=0.1), generated.AdamW(theirs, lr=0.1)
    called = 0

    def closure() -> Tensor:
        nonlocal called
        called += 1
        optimizers[0].zero_grad()
        value = torch.stack([p.square().sum() for p in ours]).sum()
        torch.autograd.backward(value)
        return value

    for step in range(5):
        expected = torch.stack([p.square().sum() for p in theirs]).sum()
        optimizers[1].zero_grad()
        torch.autograd.backward(expected)
        assert optimizers[0].step(closure) == expected.detach()
        optimizers[1].step()
        assert_equal(ours, theirs)
        assert called == step + 1
    assert long.steps == 2 * 2


def _closure(optimizer: Any, params: list[nn.Parameter]) -> None:
    give_gradients(9, params)
    assert optimizer.step(lambda: 3.5) == 3.5


def _group(optimizer: Any, params: list[nn.Parameter]) -> None:
    params.append(nn.Parameter(torch.ones(7)))
    optimizer.add_param_group({"params": params[-1:], "lr": 0.5})


def _write_state(optimizer: Any, params: list[nn.Parameter]) -> None:
    optimizer.state[params[0]]["exp_avg"] = torch.ones(3, 4)


def _fill_state(optimizer: Any, params: list[nn.Parameter]) -> None:
    optimizer.state[params[0]]["exp_avg"].fill_(2.0)
    optimizer.state[params[0]]["step"].fill_(7.0)


def _exchange_memory(optimizer: Any, params: list[nn.Parameter]) -> None:
    params[0].data = params[0].data.clone()
    state = optimizer.state[params[3]]["exp_avg"]
    state.data = state.data.clone()


def _reload(optimizer: Any, params: list[nn.Parameter]) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def _freeze(optimizer: Any, params: list[nn.Parameter]) -> None:
    params[1].requires_grad_(False)
    params[1].grad = None


def _betas(optimizer: Any, params: list[nn.Parameter]) -> None:
    optimizer.param_groups[0]["betas"][0] = 0.5


def _set(key: str, value: Any) -> Callable[[Any, list[nn.Parameter]], None]:
    def change(optimizer: Any, params: list[nn.Parameter]) -> None:
        optimizer.param_groups[0][key] = value

    return change


def _reverse(optimizer: Any, params: list[nn.Parameter]) -> None:
    optimizer.param_groups[0]["params"].reverse()


def _release(optimizer: Any, params: list[nn.Parameter]) -> None:
    """And back; gradients from before are no backward pass of it."""
    give_gradients(9, [p for p in params if p.requires_grad])
    release = optc.release(optimizer)
    optimizer.step()
    release.remove()
    optimizer.zero_grad()


def _one_leaves(optimizer: Any, params: list[nn.Parameter]) -> None:
    optimizer.forget(params[1])
    params[1].requires_grad_(False)


CHANGES: dict[str, Callable[[Any, list[nn.Parameter]], None]] = {
    "a closure": _closure,
    "another group": _group,
    "a state put in": _write_state,
    "states written to": _fill_state,
    "other memory": _exchange_memory,
    "a state dict loaded": _reload,
    "no gradient": _freeze,
    "a list of hypers written to": _betas,
    "a hyper": _set("lr", 0.3),
    "a tensor as a hyper": _set("lr", torch.tensor(0.3)),
    "the direction": _set("maximize", True),
    "a variant": _set("amsgrad", True),
    "another order": _reverse,
    "steps in the backward pass": _release,
    "one less": _one_leaves,
}


def test_hypers_that_are_refused_are_refused_on_the_short_way() -> None:
    """A value out of range, and one that all groups must share."""
    text = (
        "optimizer Alike:\n    hyper:\n        lr = 0.1 in [0, ∞)\n        μ = 0.5 as momentum shared in [0, 1)\n"
        "    state:\n        m = 0\n    step:\n        m ← μ·m + g\n        θ ← θ - lr·m\n"
    )
    for key, value, message in (("lr", -1.0, r"lr = -1\.0"), ("momentum", 0.75, "must be the same in all parameter groups")):
        params = parameters(SHAPES)
        optimizer = optc.compile(text)([{"params": params[:3]}, {"params": params[3:]}])
        train(range(3), (optimizer, params))
        before = [p.detach().clone() for p in params]
        optimizer.param_groups[1][key] = value
        with pytest.raises(ValueError, match=message):
            optimizer.step()
        assert_equal(params, before)


def test_gradients_are_let_go() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = generated.AdamW([p])
    for _ in range(4):
        p.grad = torch.ones(3)
        taken = weakref.ref(p.grad)
        optimizer.step()
        p.grad = None
        assert taken() is None


def test_plans_that_were_dropped_are_not_gone_by(long: Long) -> None:
    """Whoever takes over the steps of an optimizer drops its plans."""
    pair = Pair()
    for _ in range(4):
        pair.step()
    before = long.steps
    pair.optimizers[0]._plans.clear()
    pair.step()
    assert long.steps - before == 2


def test_capturable_is_looked_at() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = generated.AdamW([p], backend="native")
    for _ in range(3):
        p.grad = torch.ones(3)
        optimizer.step()
    optimizer.param_groups[0]["capturable"] = True
    with pytest.raises(BackendUnavailable):
        optimizer.step()


def test_hypers_are_read_live() -> None:
    """A list that is written to is another value, and so is a tensor; numbers and tuples of them cannot be written to."""
    reader = Reader(generated.AdamW.schema)
    betas, lr = [0.9, 0.99], torch.tensor(0.5)
    group = {**generated.AdamW([nn.Parameter(torch.ones(1))]).param_groups[0], "betas": betas, "lr": lr}
    first = reader.read(group)
    assert reader.read(group) is first
    betas[0] = 0.8
    assert reader.read(group)["beta1"] == 0.8
    lr.fill_(0.25)
    assert reader.read(group)["lr"] == 0.25
    group |= {"betas": (0.7, 0.99), "lr": 0.5}
    second = reader.read(group)
    assert (second["beta1"], second["lr"], reader.read(group) is second) == (0.7, 0.5, True)
    for wrong in (-1.0, float("nan"), float("inf"), True, "0.5"):
        group["lr"] = wrong
        for _ in range(2):
            with pytest.raises(ValueError, match="lr = "):
                reader.read(group)
    group["lr"] = 0.5
    assert reader.read(group) == second
    for right in (0.125, 0.0, 2, np.float64(0.75)):
        group["lr"] = right
        third = reader.read(group)
        assert third == {**second, "lr": float(right)} and type(third["lr"]) is float
    assert second["lr"] == 0.5


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_changes_the_step_is_the_same(what: str) -> None:
    pair = Pair(betas=[0.9, 0.99])
    for _ in range(3):
        pair.step()
    values = [p.detach().clone() for p in pair.models[0]]
    pair.both(CHANGES[what])
    for _ in range(3):
        pair.step()
    assert all(not torch.equal(p, q) for p, q in zip(pair.models[0], values, strict=False) if p.requires_grad)


def test_any_changes_in_any_order() -> None:
    chance = random.Random(3)
    for name in ("AdamW", "NAdam"):
        pair = Pair(name, betas=[0.9, 0.99])
        repeatable = [
            change for what, change in CHANGES.items() if what != "one less" and (name == "AdamW" or what != "a variant")
        ]
        for _ in range(40):
            for _ in range(chance.randrange(4)):
                pair.step()
            pair.both(chance.choice(repeatable))
            if not pair.models[0][1].requires_grad and chance.random() < 0.3:
                for params in pair.models:
                    params[1].requires_grad_(True)


def test_a_refused_step_changes_nothing_and_is_told(long: Long) -> None:
    params = parameters(SHAPES)
    optimizer = generated.AdamW(params, lr=0.1)
    train(range(3), (optimizer, params))
    assert long.steps < 3
    before = [p.detach().clone() for p in params]
    optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match=r"lr = -1\.0"):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.1
    params[1].grad = torch.ones(5).to_sparse()
    with pytest.raises((ValueError, TypeError), match="sparse"):
        optimizer.step()
    assert_equal(params, before)
    assert {float(slot["step"]) for slot in optimizer.state.values()} == {3.0}


def test_hooks_are_called_on_the_short_way_and_copies_go_their_own(long: Long) -> None:
    params = parameters(SHAPES)
    optimizer = generated.AdamW(params, lr=0.1)
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    train(range(4), (optimizer, params))
    assert seen == ["before", "after"] * 4
    assert long.steps == 2
    values = [p.detach().clone() for p in params]
    twin = copy.deepcopy(optimizer)
    twin = pickle.loads(pickle.dumps(twin))
    for p in (p for group in twin.param_groups for p in group["params"]):
        p.grad = torch.ones_like(p)
    twin.step()
    assert_equal(params, values)


def test_autograd_is_told_on_the_short_way() -> None:
    """What a graph has kept of a parameter must not be used after the step."""
    p = nn.Parameter(torch.ones(3))
    optimizer = generated.AdamW([p])
    for _ in range(3):
        version = p._version
        p.grad = torch.ones(3)
        optimizer.step()
        assert p._version > version
    kept: Tensor = (p**2).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(kept)


def test_what_needs_more_than_kernels_never_goes_it(long: Long) -> None:
    """Bounds of the whole gradient, watched gradients, scaled ones, and kernels of PyTorch's operations."""
    clipped = optc.compile("adamw", modifiers=["clip_global_norm"])
    makers: list[Callable[[list[nn.Parameter]], Any]] = [
        clipped,
        lambda params: generated.AdamW(params, nonfinite="skip"),
        lambda params: generated.AdamW(params, amp=True),
        lambda params: generated.AdamW(params, backend="torch"),
    ]
    for make in makers:
        params, before = parameters(SHAPES), long.steps
        optimizer = make(params)
        train(range(3), (optimizer, params))
        assert long.steps - before == 3
