"""Gradient release: the bits of the normal step for every optimizer that can, the reason for every one that cannot."""

from __future__ import annotations

import copy
import functools
import re
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import optc
from optc.runtime import counter, locality, registry
from tests.runtime.releasing import SHAPES, assert_same_training, backward, hook_on, leaving_out, model, same
from tests.runtime.training import assert_equal, parameters

# --- the same bits -----------------------------------------------------------------------------------------------------------

NAMES = ("AdamW", "LAMB", "Adafactor", "AdamW8bit", "NAdam", "AdaGC", "LOMO")


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits(name: str, backend: str, passes: int) -> None:
    assert_same_training(functools.partial(optc.create, name, backend=backend), passes=passes, missing=leaving_out)


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("name", ["AdamWBf16Stochastic", "AdamW"])
def test_the_same_bits_in_bfloat16(name: str, backend: str) -> None:
    """Random numbers are drawn by a parameter's place among all of them."""
    assert_same_training(functools.partial(optc.create, name, backend=backend), dtype=torch.bfloat16, missing=leaving_out)


def test_the_same_bits_in_the_triton_interpreter() -> None:
    assert_same_training(functools.partial(optc.create, "AdamW", backend="triton"), steps=2)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_what_is_created_at_the_first_gradient(backend: str) -> None:
    """SGD's first momentum is the gradient itself, also for who comes later."""
    make = functools.partial(optc.create, "SGD", lr=0.1, momentum=0.9, dampening=0.5, backend=backend)
    assert_same_training(make, missing=lambda step: (0, 2) if step < 2 else (1,))


@pytest.mark.parametrize("name", optc.available())
def test_every_optimizer_steps_as_usual_or_says_why_not(name: str) -> None:
    make = functools.partial(optc.create, name, backend="torch")
    cls = registry.of_type(name)[1]
    reason = cls.refuses_release()
    if reason is None:
        assert_same_training(make, steps=3, missing=leaving_out)
        return
    with pytest.raises(ValueError, match=re.escape(reason)):
        optc.release(make(parameters(SHAPES)))
    asked = [part for kernel in cls.schema.procedure("step").kernels for part in kernel.parts]
    assert all(part in reason for part in asked) or "reads the loss" in reason


def test_hypers_may_ask_for_a_norm_of_all_gradients() -> None:
    assert [name for name in ("LOMO", "AdaGC") if locality.refusal(registry.of_type(name)[1].schema) is None] == []


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("name", ["AdamWKahan", "AdamWMaster", "AdamW8bitSplit"])
def test_parameters_of_16_bits_with_what_they_lack(name: str, backend: str) -> None:
    make = functools.partial(optc.create, name, backend=backend)
    assert_same_training(make, dtype=torch.bfloat16, passes=2, missing=leaving_out)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_parameters_with_gaps_in_memory_and_learning_rates_in_tensors(backend: str) -> None:
    found = []
    for released in (True, False):
        torch.manual_seed(1)
        params = [nn.Parameter(torch.randn(6, 8)[:, ::2]), nn.Parameter(torch.randn(4, 3).t()), nn.Parameter(torch.randn(3))]
        optimizer = optc.create("Adafactor", params, lr=torch.tensor(0.1), backend=backend)
        if released:
            optc.release(optimizer, 2)
        for step in range(3):
            backward(params, 2 * step)
            backward(params, 2 * step + 1)
            optimizer.step()
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"].mul_(0.5)
        found.append(params)
    assert_equal(*found)


def test_torchs_way_to_step_in_the_backward_pass() -> None:
    """An optimizer for each parameter, stepped in its hook, in float64."""
    ours, theirs = parameters(SHAPES, torch.float64), parameters(SHAPES, torch.float64)
    single = {id(q): torch.optim.AdamW([q], lr=0.1) for q in theirs}

    def hook(q: Tensor) -> None:
        single[id(q)].step()
        single[id(q)].zero_grad()

    hook_on(theirs, hook)
    optimizer = optc.create("AdamW", ours, lr=0.1)
    optc.release(optimizer)
    for step in range(5):
        backward(ours, step, leaving_out(step))
        backward(theirs, step, leaving_out(step))
        optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)  # torch rounds 1 - β to float32


def test_steps_are_counted_once() -> None:
    cls = optc.compile("adamw", modifiers=["cosine(T = 20)"])
    made = []

    def make(params: Sequence[nn.Parameter]) -> Any:
        made.append(cls([{"params": params[:2]}, {"params": params[2:], "lr": 0.01}], lr=0.1))
        return made[-1]

    assert_same_training(make, steps=5, missing=leaving_out)
    counting = counter.of(cls.schema)
    assert counting is not None and [group[counting.key] for group in made[0].param_groups] == [5, 5]


def test_groups_schedulers_and_maximize() -> None:
    def make(params: Sequence[nn.Parameter]) -> Any:
        own = [{"params": params[:2], "maximize": True}, {"params": params[2:], "lr": 0.01, "weight_decay": 0.3}]
        return optc.create("LAMB", own, lr=0.1)

    def between(step: int, optimizer: Any, params: list[nn.Parameter]) -> None:
        for group in optimizer.param_groups:
            group["lr"] *= 0.7

    assert_same_training(make, between=between)


def test_who_comes_and_goes() -> None:
    def between(step: int, optimizer: Any, params: list[nn.Parameter]) -> None:
        if step == 0:
            optimizer.add_param_group({"params": params[2:], "lr": 0.02})
        elif step == 2:
            params[1].requires_grad_(False)
        elif step == 3:
            optimizer.forget(params[0])
        elif step == 4:
            params[1].requires_grad_(True)

    def make(params: Sequence[nn.Parameter]) -> Any:
        return optc.create("AdamWBf16Stochastic", params[:2])

    assert_same_training(make, steps=7, dtype=torch.bfloat16, missing=lambda step: (2, 3, 4) * (step < 1), between=between)


def test_a_parameter_that_is_thawed_gets_a_hook() -> None:
    params = parameters()
    params[0].requires_grad_(False)
    optimizer = optc.create("AdamW", params)
    optc.release(optimizer)
    params[0].requires_grad_(True)
    added = nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [added]})
    params.append(added)
    backward(params, 0)
    assert [p.grad is None for p in params] == [False, True, True, True, True, False]
    optimizer.step()
    backward(params, 1)
    assert all(p.grad is None for p in params)


def test_normal_steps_before_and_after() -> None:
    ours, theirs = parameters(SHAPES), parameters(SHAPES)
    one, other = optc.create("NAdam", ours), optc.create("NAdam", theirs)
    for step in range(9):
        if step == 2:
            release = optc.release(one)
        if step == 4:
            one.load_state_dict(copy.deepcopy(one.state_dict()))
        if step == 6:
            release.remove()
        backward(ours, step, leaving_out(step))
        backward(theirs, step, leaving_out(step))
        assert all(p.grad is None for p in ours) == (2 <= step < 6)
        for optimizer in (one, other):
            optimizer.step()
            optimizer.zero_grad()
    assert_equal(ours, theirs)
    assert same(one.state_dict(), other.state_dict())
    assert len({id(one.state[p]["step"]) for p in ours if float(one.state[p]["step"]) == 9}) <= 1


def test_gradients_that_no_backward_pass_gave() -> None:
    """`step` updates them, and what it has updated has none left."""
    ours, theirs = parameters(SHAPES), parameters(SHAPES)
    one, other = optc.create("Adafactor", ours), optc.create("Adafactor", theirs)
    optc.release(one)
    for step in range(3):
        for params, optimizer in ((ours, one), (theirs, other)):
            backward(params[:3], step)
            for p in params[3:]:
                p.grad = torch.full_like(p, 0.5)
            optimizer.step()
            optimizer.zero_grad()
    assert_equal(ours, theirs)


def test_routed_optimizers() -> None:
    def make(params: Sequence[nn.Parameter]) -> Any:
        named = [(f"p{i}", p) for i, p in enumerate(params)]
        return optc.route(named, [("p[03]", {"type": "LAMB"})], otherwise={"type": "AdamWBf16Stochastic"})

    assert_same_training(make, dtype=torch.bfloat16, passes=2, missing=leaving_out)
    bad = optc.route([("a", nn.Parameter(torch.ones(2)))], otherwise={"type": "Prodigy"})
    with pytest.raises(ValueError, match=r"^Prodigy cannot update one parameter before .* sum_abs_s over all parameters"):
        optc.release(bad)


def test_tied_parameters_and_closures() -> None:
    ours, theirs = model(), model()
    for net in (ours, theirs):
        net[8].weight = net[2].weight
    one, other = optc.create("AdamW", ours), optc.create("AdamW", theirs)
    optc.release(one)
    x = torch.randn(5, 8)
    for _ in range(3):
        for net, optimizer in ((ours, one), (theirs, other)):

            def closure(net: nn.Module = net, optimizer: Any = optimizer) -> Tensor:
                optimizer.zero_grad()
                loss: Tensor = net(x).square().sum()
                torch.autograd.backward(loss)
                return loss

            assert optimizer.step(closure) > 0
    assert_equal(list(ours.parameters()), list(theirs.parameters()))


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_one_gradient_is_alive_at_a_time(backend: str) -> None:
    net = model()
    params = list(net.parameters())
    alive: list[Any] = []
    counts: list[tuple[int, int]] = []

    def before(p: Tensor) -> None:
        assert p.grad is not None
        counts.append((sum(q.grad is not None for q in params), sum(grad() is not None for grad in alive)))
        alive.append(weakref.ref(p.grad.untyped_storage()))

    hook_on(params, before)
    optimizer = optc.create("LAMB", net, backend=backend)
    optc.release(optimizer)
    for _ in range(3):
        net(torch.ones(2, 8)).sum().backward()
        optimizer.step()
    assert counts == [(1, 0)] * (3 * len(params))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers(reentrant: bool) -> None:
    """The last layer is outside, so that its gradient comes first and tells of the pass."""
    ours, theirs = model(), model()
    one, other = optc.create("AdamW", ours), optc.create("AdamW", theirs)
    optc.release(one, 2)
    for step in range(6):
        for net, optimizer in ((ours, one), (theirs, other)):
            x = torch.randn(3, 8, generator=torch.Generator().manual_seed(step)).requires_grad_()
            for part in (net[:4], net[4:8]):
                x = checkpoint(part, x, use_reentrant=reentrant)
            net[8:](x).square().sum().backward()
            if step % 2:
                optimizer.step()
                optimizer.zero_grad()
    assert_equal(list(ours.parameters()), list(theirs.parameters()))
