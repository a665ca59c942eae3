"""Schedules compiled into a step: the same bits as a scheduler outside, counted by the optimizer itself."""

from __future__ import annotations

import copy
import gc
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import optc
from optc.compiler.compose.expand import with_modifiers
from optc.compiler.compose.library import named, shipped
from optc.compiler.interpret import Oracle
from optc.dsl.check import check
from tests.runtime.training import give_gradients, parameters, train, twins

SHAPES = ((4, 3), (5,), ())
SETTINGS: dict[str, dict[str, Any]] = {
    "constant": {"warmup": 3},
    "cosine": {"T": 20, "warmup": 3, "ratio": 0.1},
    "cyclic": {"up": 3, "down": 5, "momentum_low": 0.5},
    "exponential": {"gamma": 0.9},
    "hard_restarts": {"T": 20, "warmup": 2, "cycles": 3},
    "inverse_sqrt": {"warmup": 4},
    "linear": {"T": 18, "warmup": 3},
    "multi_step": {"milestones": (4, 9)},
    "one_cycle": {"T": 20},
    "polynomial": {"T": 20, "power": 2},
    "ramp": {"T": 6},
    "restarts": {"T": 3, "multiplier": 2, "decay": 0.8},
    "step_decay": {"period": 4},
    "warmup_stable_decay": {"T": 20, "warmup": 4, "decay": 7},
}
"""For every shipped schedule, something that happens within 25 steps."""


def written(name: str) -> str:
    """The schedule with its setting, as a composition has it."""
    return f"{name}({', '.join(f'{key} = {value}' for key, value in SETTINGS[name].items())})"


def test_every_shipped_schedule_has_a_setting() -> None:
    assert len(SETTINGS) == len(optc.schedules.available())


CELLS = [
    *((name, "adamw", backend) for name in SETTINGS for backend in ("torch", "native")),
    *((name, "sgd", backend) for name in ("cyclic", "one_cycle", "restarts") for backend in ("torch", "native")),
]


@pytest.mark.parametrize(("name", "base", "backend"), CELLS)
def test_a_step_takes_what_a_scheduler_outside_would_set(name: str, base: str, backend: str) -> None:
    params = parameters(SHAPES)
    others = twins(params)
    options: dict[str, Any] = {"momentum": 0.7} if base == "sgd" else {}
    inside = optc.compile(base, modifiers=[written(name)])(params, lr=0.1, backend=backend, **options)
    outside = optc.compile(base)(others, lr=0.1, backend=backend, **options)
    scheduler = optc.schedule(name, **SETTINGS[name]).on(outside)
    for t in range(25):
        train(range(t, t + 1), (inside, params), (outside, others))
        scheduler.step()
        assert all(map(torch.equal, params, others)), t
    assert inside.param_groups[0]["lr"] == 0.1
    assert inside.param_groups[0]["steps_done"] == 25


@pytest.mark.parametrize("name", ["cosine", "one_cycle", "restarts"])
def test_the_oracle_says_the_same(name: str) -> None:
    expanded = with_modifiers(named(shipped()["adamw"]), [written(name)])
    oracle = Oracle(check(expanded.spec, expanded.source), {"lr": 0.1})
    params = [nn.Parameter(torch.randn(4, 3, dtype=torch.float64)) for _ in range(2)]
    optimizer = optc.compile("adamw", modifiers=[written(name)])(params, lr=0.1, backend="torch")
    thetas = oracle.new_parameters([p.detach().numpy() for p in params])
    for t in range(25):
        gradients = [torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(t)) for _ in params]
        taking = [0] if t in (3, 4, 9) else [0, 1]  # the other one comes back, and the schedule has gone on
        for index, p in enumerate(params):
            p.grad = gradients[index] if index in taking else None
        optimizer.step()
        oracle.step_together([thetas[i] for i in taking], [gradients[i].numpy() for i in taking])
        for p, expected in zip(params, thetas, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), expected.theta, rtol=1e-12, atol=1e-14)


def scheduled(params: Any, **options: Any) -> Any:
    return optc.compile("adamw", modifiers=["cosine(T = 20, warmup = 3)"])(params, lr=0.1, **options)


def test_groups_added_later_go_on_where_the_others_are() -> None:
    params, late = parameters(SHAPES), parameters(((3,),))
    optimizer = scheduled(params)
    train(range(4), (optimizer, params))
    optimizer.add_param_group({"params": late, "lr": 0.5})
    assert [group["steps_done"] for group in optimizer.param_groups] == [4, 4]
    optimizer.add_param_group({"params": parameters(((2,),)), "steps_done": 0})
    assert [group["steps_done"] for group in optimizer.param_groups] == [4, 4, 0]
    train(range(4, 5), (optimizer, params + late))
    assert [group["steps_done"] for group in optimizer.param_groups] == [5, 5, 1]


def test_a_checkpoint_says_how_far_the_schedule_has_come(tmp_path: Path) -> None:
    params = parameters(SHAPES)
    optimizer = scheduled(params)
    train(range(7), (optimizer, params))
    torch.save(optimizer.state_dict(), tmp_path / "file.pt")
    others = twins(params)
    resumed = scheduled(others)
    resumed.load_state_dict(torch.load(tmp_path / "file.pt", weights_only=True))
    copied = copy.deepcopy(optimizer)
    assert copied.param_groups[0]["steps_done"] == 7
    train(range(7, 12), (optimizer, params), (resumed, others))
    assert all(map(torch.equal, params, others))
    plain = optc.create("adamw", twins(params), lr=0.1)
    fresh = scheduled(twins(params))
    fresh.load_state_dict(plain.state_dict())
    assert fresh.param_groups[0]["steps_done"] == 0


def test_a_skipped_step_does_not_count() -> None:
    params = parameters(SHAPES)
    optimizer = scheduled(params, amp=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for bad in (False, True, False):
        give_gradients(0, params)
        scaler.scale(torch.zeros((), requires_grad=True))
        if bad:
            params[0].grad = torch.full_like(params[0], torch.inf)
        scaler.step(optimizer)
        scaler.update()
    assert optimizer.param_groups[0]["steps_done"] == 2


def test_the_count_is_no_number_of_steps_that_failed() -> None:
    params = parameters(SHAPES)
    optimizer = scheduled(params)
    optimizer.param_groups[0]["lr"] = -1.0
    give_gradients(0, params)
    with pytest.raises(ValueError, match=r"lr = -1\.0"):
        optimizer.step()
    assert optimizer.param_groups[0]["steps_done"] == 0
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.param_groups[0]["steps_done"] = 2.5
    with pytest.raises(ValueError, match=r"steps_done = 2\.5, but it must be a whole number"):
        optimizer.step()


def test_ten_thousand_steps_compile_once_and_keep_no_memory() -> None:
    params = parameters(SHAPES)
    optimizer = optc.compile("adamw", modifiers=["one_cycle(T = 10000)"])(params, lr=0.01)
    train(range(3), (optimizer, params))
    plans = [id(plan) for group in optimizer._plans.values() for plan in group.values()]
    give_gradients(0, params)
    for _ in range(500):
        optimizer.step()
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    resident = resident_bytes()
    for _ in range(9_497):
        optimizer.step()
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    grown = resident_bytes() - resident
    tracemalloc.stop()
    assert optimizer.param_groups[0]["steps_done"] == 10_000
    assert [id(plan) for group in optimizer._plans.values() for plan in group.values()] == plans
    assert after - before < 20_000
    assert grown < 8 << 20  # what is allocated outside of Python, too: 850 bytes per step


def resident_bytes() -> int:
    """Of this process, in memory; 0 where the system does not tell as Linux does."""
    told = Path("/proc/self/statm")
    return int(told.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if told.is_file() else 0


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="runs in Triton's interpreter")
def test_counted_on_the_device() -> None:
    pytest.importorskip("triton")
    params = parameters(SHAPES)
    others = twins(params)
    device, host = scheduled(params, backend="triton", capturable=True), scheduled(others, backend="torch")
    train(range(9), (device, params), (host, others))
    torch.testing.assert_close(params, others, rtol=2e-6, atol=2e-7)
    count = device.param_groups[0]["steps_done"]
    assert isinstance(count, torch.Tensor) and count.dtype == torch.float64 and count == 9
    resumed = scheduled(twins(params), backend="triton", capturable=True)
    resumed.load_state_dict(device.state_dict())
    assert resumed.param_groups[0]["steps_done"] == 9
    assert resumed.param_groups[0]["steps_done"] is not count
