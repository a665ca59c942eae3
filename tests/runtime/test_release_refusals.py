"""Gradient release: what cannot be done parameter by parameter says why, misuse is told, nothing is silently different."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import optc
from optc import generated
from tests.runtime.releasing import SHAPES, backward, hook_on, same
from tests.runtime.training import assert_equal, parameters

LATE = "whether a step is skipped is known only when all gradients are there"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Prodigy", {}, r"Prodigy cannot .* adds up d_over_d0_eta_sum_g_x0_minus_theta, sum_abs_s over all parameters"),
        ("adamw + clip_global_norm", {}, r"cannot update one parameter before the others .* sum_g_pow_two over all"),
        ("LOMO", {"clip_grad_norm": 1.0}, r"LOMO cannot .* adds up sum_g_pow_two over all parameters"),
        ("AliG", {}, r"it reads the loss, which only step\(closure\) is given; it adds up sum_g_pow_two"),
        ("AdamW", {"amp": True}, f"AdamW has amp=True: {LATE}; leave out optc.release"),
        ("AdamW", {"nonfinite": "skip"}, f"AdamW has nonfinite='skip': {LATE}"),
        ("AdamW", {"loss_scale": optc.LossScale()}, f"AdamW has a loss_scale: {LATE}"),
        ("AdamW", {"capturable": True}, "AdamW has capturable=True: it counts on the device"),
    ],
)
def test_what_needs_all_gradients_says_so(name: str, options: dict[str, Any], message: str) -> None:
    params = parameters()
    optimizer = optc.create(name, params, **options)
    with pytest.raises(ValueError, match=message):
        optc.release(optimizer)
    torch.autograd.backward([p.sum() for p in params])
    assert all(p.grad is not None for p in params)  # there are no hooks


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = optc.create("AdamW", parameters())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="cannot be released among 2 processes: DistributedDataParallel"):
        optc.release(optimizer)
    optc.release(optimizer, local=True)


def test_misuse_is_told() -> None:
    params = parameters()
    with pytest.raises(TypeError, match=r"^optc\.release needs an optimizer of optc, not torch\.optim\.AdamW: make it with"):
        optc.release(torch.optim.AdamW(params))  # type: ignore[arg-type]
    optimizer = optc.create("AdamW", params)
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=r"accumulate = .*, but it must be a whole number of backward passes"):
            optc.release(optimizer, wrong)  # type: ignore[arg-type]
    with optc.release(optimizer, 3) as release:
        with pytest.raises(ValueError, match="released already"):
            optc.release(optimizer)
        backward(params, 0)
        backward(params, 1)
        kept = [p.detach().clone() for p in params]
        with pytest.raises(RuntimeError, match=r"step\(\) after 2 of 3 backward passes: call it after the last one"):
            optimizer.step()
        with pytest.raises(ValueError, match="accumulate = 1, but there were 2 backward passes"):
            release.accumulate = 1
        assert_equal(params, kept)
        release.accumulate = 2  # the last batches of an epoch may be fewer
        optimizer.step()
        assert not torch.equal(params[0], kept[0]) and all(p.grad is None for p in params)
        backward(params, 2)
        optimizer.zero_grad()  # starts over
        backward(params, 3)
        assert all(p.grad is not None for p in params)
        backward(params, 4)
        assert all(p.grad is None for p in params)
        with pytest.raises(RuntimeError, match="accumulate cannot change now"):
            release.accumulate = 5
        kept = [p.detach().clone() for p in params]
        with pytest.raises(RuntimeError, match="backward pass 3 since the last step"):
            backward(params, 5)
        assert_equal(params, kept)
        optimizer.zero_grad()
        optimizer.step()
    backward(params, 6)
    assert all(p.grad is not None for p in params)
    optimizer.step()
    assert float(optimizer.state[params[0]]["step"]) == 3


def test_a_second_gradient_in_a_pass_is_told() -> None:
    """Reentrant checkpoints of the same layer hand out its gradient twice."""
    layer, last = nn.Linear(4, 4), nn.Linear(4, 4)
    optimizer = optc.create("AdamW", [*layer.parameters(), *last.parameters()])
    optc.release(optimizer)
    x = torch.ones(2, 4, requires_grad=True)
    for _ in range(2):
        x = checkpoint(layer, x, use_reentrant=True)
    with pytest.raises(RuntimeError, match=r"got a second gradient in a step, .*use_reentrant=False"):
        last(x).sum().backward()


def test_hypers_are_checked_before_anything_changes() -> None:
    params = parameters()
    optimizer = optc.create("AdamW", [{"params": params[:2]}, {"params": params[2:]}])
    release = optc.release(optimizer)
    backward(params, 0)
    optimizer.step()
    kept = [p.detach().clone() for p in params]
    optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match=r"lr = -1.0, but it must be .*group 0"):
        backward(params, 1)
    assert_equal(params, kept)
    optimizer.zero_grad()
    optimizer.param_groups[0]["lr"] = 0.1
    backward(params, 2)
    optimizer.param_groups[0]["lr"] = 0.2
    with pytest.raises(RuntimeError, match="hypers of group 0 changed after the backward pass had updated parameters"):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    release.remove()
    lomo = optc.create("LOMO", params)
    optc.release(lomo)
    lomo.param_groups[0]["clip_grad_norm"] = 1.0
    with pytest.raises(ValueError, match="adds up sum_g_pow_two over all parameters"):
        backward(params, 3)


def test_a_bad_gradient_leaves_its_parameter_alone() -> None:
    weight = nn.Parameter(torch.ones(4, 2))
    optimizer = optc.create("AdamW", [weight])
    optc.release(optimizer)
    with pytest.raises(ValueError, match="parameter 0 of group 0: its gradient is sparse"):
        nn.functional.embedding(torch.tensor([1]), weight, sparse=True).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(weight, torch.ones(4, 2)) and not optimizer.state


@pytest.mark.parametrize("removed", [False, True])
def test_a_step_that_broke_off_is_ended_by_step(removed: bool) -> None:
    """With the gradients that are there, as if the normal step had been made in two parts."""
    ours, theirs = parameters(SHAPES), parameters(SHAPES)
    cls = optc.compile("adamw", modifiers=["cosine(T = 20)"])
    one, other = cls(ours), cls(theirs)
    release = optc.release(one)
    backward(ours, 0)
    one.step()
    backward(theirs, 0)
    other.step()
    other.zero_grad()

    def fails(p: Tensor) -> None:
        raise ArithmeticError

    (handle,) = hook_on(ours[2:3], fails)
    with pytest.raises(ArithmeticError):
        backward(ours, 1)
    handle.remove()
    assert any(p.grad is None for p in ours)
    if removed:
        release.remove()
    one.step()
    one.zero_grad()
    kept = [float(one.state[p]["step"]) for p in ours]
    backward(theirs, 1, [place for place, count in enumerate(kept) if count < 2])
    other.step()
    other.zero_grad()
    assert 2 in kept
    backward(ours, 2)
    backward(theirs, 2)
    one.step()
    other.step()
    assert_equal(ours, theirs)
    assert same(one.state_dict(), other.state_dict())


def test_entries_wait_for_the_end_of_a_step() -> None:
    ours, theirs = parameters(SHAPES), parameters(SHAPES)
    one, other = generated.SophiaG(ours), generated.SophiaG(theirs)
    optc.release(one)
    for step in range(4):
        for params, optimizer in ((ours, one), (theirs, other)):
            backward(params, step)
            optimizer.step()
            optimizer.zero_grad()
            if step % 2 == 0:
                optimizer.update_hessian([torch.full_like(p, 0.1) for p in params])
    assert_equal(ours, theirs)
    assert same(one.state_dict(), other.state_dict())
    backward(ours, 4)
    with pytest.raises(RuntimeError, match=r"update_hessian\(\) after a backward pass that released its gradients"):
        one.update_hessian([torch.ones_like(p) for p in ours])


def test_copies_are_not_released_and_lost_optimizers_do_nothing() -> None:
    params = parameters()
    optimizer = optc.create("AdamW", params)
    release = weakref.ref(optc.release(optimizer))
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        others = twin.param_groups[0]["params"]
        backward(others, 0)
        assert all(p.grad is not None for p in others) and twin._released is None
    del optimizer, twin
    gc.collect()
    assert release() is None
    backward(params, 1)
    assert all(p.grad is not None for p in params)
