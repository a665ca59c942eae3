"""Numbers of a parameter group: each group as if it were a model for itself, with its own hypers."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import optc
from optc.compiler.interpret import Oracle
from optc.dsl.check import check
from optc.dsl.parse import parse
from optc.dsl.source import Source
from tests.runtime.training import assert_equal, give_gradients, parameters, twins

SHAPES = ((4, 3), (5,), (), (2, 3), (7,), (0, 2))
SPLIT = ((0, 1), (2, 3, 4), (5,))
BACKENDS = ("torch", "native")
NEEDS_INTERPRETER = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="runs in Triton's interpreter")

KEEPING = """\
optimizer Keeping:
    "Steps of one size for a group, relative to the largest norm that its gradient had; spikes of a group are skipped."
    hyper:
        lr = 0.1 in [0, inf)
        most = 3.0 in (0, inf)
        momentum = 0.9 in [0, 1)
    state:
        m = 0
        k = 0 per group
        largest = 0 per group as largest_norm
        rate = lr per group as first_lr
    step:
        n = group_norm(g)
        if k > 1 and n > most*largest: stop
        k <- k + 1
        largest <- max(largest, n)
        share = group_total(count(g > 0))/max(1, group_total(numel))
        if momentum != 0: m <- ema(m, g, momentum)
        else: m <- g
        θ <- θ - (lr + rate/k)*share*m/(largest + 1e-12)
"""


@cache
def keeping() -> Any:
    return optc.compile(KEEPING)


def groups_of(params: Sequence[Tensor], options: Sequence[Mapping[str, Any]] = ({}, {}, {})) -> list[dict[str, Any]]:
    return [{"params": [params[i] for i in places], **own} for places, own in zip(SPLIT, options, strict=True)]


def clipped(params: Sequence[Tensor], **options: Any) -> Any:
    own = ({"max_norm": 0.3}, {"max_norm": 2.0, "lr": 0.02}, {"max_norm": 1e-3})
    return optc.compile("adamw", modifiers=["clip_group_norm"])(groups_of(params, own), lr=0.05, **options)


def scale(params: Sequence[nn.Parameter], factor: float) -> None:
    for p in params:
        assert p.grad is not None
        p.grad = p.grad * factor


@pytest.mark.parametrize("backend", [*BACKENDS, pytest.param("triton", marks=NEEDS_INTERPRETER)])
def test_clipping_is_that_of_torch_group_by_group(backend: str) -> None:
    params = parameters(SHAPES)
    others = twins(params)
    ours, theirs = clipped(params, backend=backend), torch.optim.AdamW(groups_of(others, ({}, {"lr": 0.02}, {})), lr=0.05)
    for t, missing in enumerate(([], [1], [2, 3, 4], [])):
        give_gradients(t, params, others)
        for index in missing:
            params[index].grad = others[index].grad = None
        squares = 0.0
        for group, most in zip(theirs.param_groups, (0.3, 2.0, 1e-3), strict=True):
            squares += float(nn.utils.clip_grad_norm_(group["params"], most)) ** 2
        ours.step()
        theirs.step()
        assert ours.gradient_norm is not None and math.isclose(float(ours.gradient_norm), squares**0.5, rel_tol=1e-6)
    torch.testing.assert_close(params, others, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_each_group_is_a_model_for_itself(backend: str, momentum: float) -> None:
    """Beside the oracle, which is given one group at a time."""
    source = Source("<test>", KEEPING)
    program = check(parse(source), source)
    options = [{"lr": 0.1, "most": 3.0, "momentum": momentum}, {"lr": 0.3, "most": 1.0, "momentum": 0.5}, {"lr": 0.2}]
    params = parameters(SHAPES, torch.float64)
    optimizer = keeping()(groups_of(params, options), backend=backend)
    oracles = [Oracle(program, own) for own in options]
    kept = [
        oracle.new_parameters([params[i].detach().numpy() for i in places])
        for oracle, places in zip(oracles, SPLIT, strict=True)
    ]
    for t in range(7):
        give_gradients(t, params)
        if t == 3:
            for i in SPLIT[1]:
                params[i].grad = None
        if t == 5:
            scale([params[0]], 100)  # a spike, in this group only
        for oracle, own, places in zip(oracles, kept, SPLIT, strict=True):
            taking = [(state, params[i].grad) for state, i in zip(own, places, strict=True) if params[i].grad is not None]
            if taking:
                oracle.step_together([state for state, _ in taking], [np.asarray(g) for _, g in taking])
        optimizer.step()
    for own, places, group in zip(kept, SPLIT, optimizer.param_groups, strict=True):
        for state, i in zip(own, places, strict=True):
            np.testing.assert_allclose(params[i].detach().numpy(), state.theta, rtol=1e-12, atol=1e-12)
        for name, key in (("k", "k"), ("largest", "largest_norm"), ("rate", "first_lr")):
            assert math.isclose(float(group[key]), float(own[0].model[name]), rel_tol=1e-12)
    assert [float(group["k"]) for group in optimizer.param_groups] == [6.0, 6.0, 7.0], "one spike, one step without gradients"


def test_states_of_groups_are_saved_and_resumed() -> None:
    params = parameters(SHAPES)
    options = ({"lr": 0.1}, {"lr": 0.3}, {"lr": 0.2})
    optimizer = keeping()(groups_of(params, options))
    for t in range(3):
        give_gradients(t, params)
        optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    numbers = [float(group["largest_norm"]) for group in saved["param_groups"]]
    assert len(set(numbers)) == 3, "each group has its own"
    others = twins(params)
    resumed = keeping()(groups_of(others, options))
    resumed.load_state_dict(saved)
    for t in range(3, 6):
        give_gradients(t, params, others)
        optimizer.step()
        resumed.step()
    assert_equal(params, others)


def test_files_keep_the_numbers_of_each_group(tmp_path: Path) -> None:
    model, other = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    other.load_state_dict(model.state_dict())
    optimizers = [
        keeping()([{"params": named[:2]}, {"params": named[2:], "lr": 0.3}])
        for named in (list(m.named_parameters()) for m in (model, other))
    ]
    sides = [list(m.parameters()) for m in (model, other)]
    for t in range(3):
        give_gradients(t, sides[0])
        optimizers[0].step()
    optc.dist.save(tmp_path, optimizers[0], model)
    optc.dist.load(tmp_path, optimizers[1], other)
    numbers = [[float(group["largest_norm"]) for group in optimizer.param_groups] for optimizer in optimizers]
    assert numbers[0] == numbers[1] and len(set(numbers[0])) == 2
    for t in range(3, 5):
        give_gradients(t, *sides)
        for optimizer in optimizers:
            optimizer.step()
    assert_equal(*sides)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_that_is_not_finite_stops_all_groups(backend: str) -> None:
    params = parameters(SHAPES)
    optimizer = clipped(params, backend=backend, nonfinite="skip")
    give_gradients(0, params)
    optimizer.step()
    before = [p.detach().clone() for p in params]
    give_gradients(1, params)
    params[3].grad[0, 0] = math.nan  # type: ignore[index]
    optimizer.step()
    assert optimizer.last_step_skipped is True
    assert_equal(params, before)


def test_a_late_group_and_a_loss_scale() -> None:
    params = parameters(SHAPES)
    others = twins(params)
    ours = optc.create("AdamW + clip_group_norm(0.3)", params[:2], lr=0.05, loss_scale=optc.LossScale(init=8.0))
    theirs = torch.optim.AdamW(others[:2], lr=0.05)
    for t in range(4):
        if t == 2:
            ours.add_param_group({"params": params[2:], "max_norm": 0.7})
            theirs.add_param_group({"params": others[2:]})
        give_gradients(t, params, others)
        scale(params, 8)
        for group, most in zip(theirs.param_groups, (0.3, 0.7), strict=False):
            nn.utils.clip_grad_norm_(group["params"], most)
        ours.step()
        theirs.step()
    torch.testing.assert_close(params, others, rtol=2e-5, atol=2e-6)


def test_groups_wait_for_their_parameters_so_release_is_refused() -> None:
    reason = optc.compile("adamw", modifiers=["clip_group_norm"]).refuses_release()
    assert reason is not None and "sum_g_pow_two" in reason


@NEEDS_INTERPRETER
def test_devices_count_groups_as_the_host_does() -> None:
    pytest.importorskip("triton")
    params = parameters(SHAPES[:4])
    others = twins(params)
    make = optc.compile("adamw", modifiers=["clip_group_norm"])
    split = [[{"params": some[:2], "max_norm": 0.3}, {"params": some[2:], "max_norm": 1.0}] for some in (params, others)]
    device, host = make(split[0], backend="triton", capturable=True), make(split[1], backend="torch")
    for t in range(3):
        give_gradients(t, params, others)
        device.step()
        host.step()
    torch.testing.assert_close(params, others, rtol=2e-5, atol=2e-6)
