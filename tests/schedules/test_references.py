"""Every schedule against the one of PyTorch or transformers, over 10,000 steps: equal to 1e-12 of the rate that is given."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

import optc
from optc import schedules
from optc.runtime.schedules import Schedule

hf = pytest.importorskip("transformers.optimization")

STEPS = 10_000
BASE = 0.3

Make = Callable[[torch.optim.Optimizer], Any]


@dataclass(frozen=True)
class Case:
    """`ours` should be what `theirs` makes of an optimizer; `steps`: theirs has no more of them; `highest`: its momentum."""

    ours: Schedule
    theirs: Make
    steps: int = STEPS
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    highest: float = 0.0


def _hf(name: str, **given: Any) -> Make:
    return lambda optimizer: getattr(hf, name)(optimizer, **given)


def _torch(name: str, **given: Any) -> Make:
    return lambda optimizer: getattr(lr_scheduler, name)(optimizer, **given)


def _sequence(at: list[int], *makes: Make) -> Make:
    return lambda optimizer: lr_scheduler.SequentialLR(optimizer, [make(optimizer) for make in makes], at)


S = schedules
CASES = {
    "constant": Case(S.Constant(), _hf("get_constant_schedule")),
    "constant, warm-up": Case(S.Constant(warmup=700), _hf("get_constant_schedule_with_warmup", num_warmup_steps=700)),
    "linear": Case(S.Linear(T=9000), _hf("get_linear_schedule_with_warmup", num_warmup_steps=0, num_training_steps=9000)),
    "linear, warm-up": Case(
        S.Linear(T=9000, warmup=100), _hf("get_linear_schedule_with_warmup", num_warmup_steps=100, num_training_steps=9000)
    ),
    "ramp": Case(S.Ramp(), _torch("LinearLR")),
    "ramp, down": Case(
        S.Ramp(T=4000, first=0.9, final=0.1), _torch("LinearLR", start_factor=0.9, end_factor=0.1, total_iters=4000)
    ),
    "cosine": Case(S.Cosine(T=STEPS), _torch("CosineAnnealingLR", T_max=STEPS)),
    "cosine, last": Case(S.Cosine(T=3000, last=0.01, stay=False), _torch("CosineAnnealingLR", T_max=3000, eta_min=0.01)),
    "cosine, warm-up": Case(
        S.Cosine(T=9000, warmup=500), _hf("get_cosine_schedule_with_warmup", num_warmup_steps=500, num_training_steps=9000),
        steps=9000,
    ),
    "cosine, rising again": Case(
        S.Cosine(T=7000, warmup=500, stay=False),
        _hf("get_cosine_schedule_with_warmup", num_warmup_steps=500, num_training_steps=7000),
    ),
    "cosine, ratio": Case(
        S.Cosine(T=9999, warmup=10, ratio=0.1, stay=False),
        _hf("get_cosine_with_min_lr_schedule_with_warmup", num_warmup_steps=10, num_training_steps=9999, min_lr_rate=0.1),
    ),
    "cosine, turns": Case(
        S.Cosine(T=9000, warmup=50, cycles=2.5, stay=False),
        _hf("get_cosine_schedule_with_warmup", num_warmup_steps=50, num_training_steps=9000, num_cycles=2.5),
    ),
    "hard restarts": Case(
        S.HardRestarts(T=9000, warmup=300, cycles=4),
        _hf("get_cosine_with_hard_restarts_schedule_with_warmup", num_warmup_steps=300, num_training_steps=9000, num_cycles=4),
    ),
    "restarts": Case(S.Restarts(T=700, last=0.02), _torch("CosineAnnealingWarmRestarts", T_0=700, eta_min=0.02)),
    "restarts, twice": Case(S.Restarts(T=13, multiplier=2), _torch("CosineAnnealingWarmRestarts", T_0=13, T_mult=2)),
    "restarts, three times": Case(S.Restarts(T=1, multiplier=3), _torch("CosineAnnealingWarmRestarts", T_0=1, T_mult=3)),
    "polynomial": Case(S.Polynomial(T=8000, power=2.5), _torch("PolynomialLR", total_iters=8000, power=2.5)),
    "polynomial, warm-up": Case(
        S.Polynomial(T=8000, power=2, warmup=200, last=1e-7),
        _hf("get_polynomial_decay_schedule_with_warmup", num_warmup_steps=200, num_training_steps=8000, power=2.0),
    ),
    "step": Case(S.StepDecay(period=900, gamma=0.3), _torch("StepLR", step_size=900, gamma=0.3)),
    "multi-step": Case(
        S.MultiStep(milestones=(100, 4000, 7), gamma=0.5), _torch("MultiStepLR", milestones=[7, 100, 4000], gamma=0.5)
    ),
    "exponential": Case(S.Exponential(gamma=0.9995), _torch("ExponentialLR", gamma=0.9995)),
    "inverse root": Case(S.InverseSqrt(warmup=400), _hf("get_inverse_sqrt_schedule", num_warmup_steps=400)),
    "inverse root, no warm-up": Case(S.InverseSqrt(), _hf("get_inverse_sqrt_schedule", num_warmup_steps=0)),
    "inverse root, timescale": Case(
        S.InverseSqrt(warmup=40, timescale=77), _hf("get_inverse_sqrt_schedule", num_warmup_steps=40, timescale=77)
    ),
    **{
        f"stable, {shape}, {ratio}": Case(
            S.WarmupStableDecay(T=9000, warmup=300, decay=2000, shape=shape, ratio=ratio, first=ratio),
            _hf(
                "get_wsd_schedule", num_warmup_steps=300, num_stable_steps=6700, num_decay_steps=2000,
                min_lr_ratio=ratio, decay_type=shape,
            ),
        )
        for shape in ("linear", "cosine", "1-sqrt")
        for ratio in (0.0, 0.25)
    },
    **{
        f"one cycle, {shape}, {phases} phases": Case(
            S.OneCycle(T=STEPS, rise=0.23, shape=shape, three_phase=phases == 3),
            _torch(
                "OneCycleLR", max_lr=BASE, total_steps=STEPS, pct_start=0.23, three_phase=phases == 3,
                anneal_strategy="cos" if shape == "cosine" else "linear",
            ),
            steps=STEPS - 1,
            optimizer={"momentum": 0.9},
            highest=0.95,
        )
        for shape in ("cosine", "linear")
        for phases in (2, 3)
    },
    **{
        f"cyclic, {scaling}": Case(
            S.Cyclic(up=130, down=down, last=0.01, ratio=0.0, scaling=scaling, gamma=0.999),
            _torch(
                "CyclicLR", base_lr=0.01, max_lr=BASE, step_size_up=130, step_size_down=down, mode=scaling, gamma=0.999,
            ),
            optimizer={"momentum": 0.9},
            highest=0.9,
        )
        for scaling, down in (("triangular", None), ("triangular2", 400), ("exp_range", 77))
    },
    "ramp, then restarts": Case(
        S.Ramp(T=50, first=0.02).then(S.Restarts(T=1000), 50),
        _sequence(
            [50], _torch("LinearLR", start_factor=0.02, total_iters=50), _torch("CosineAnnealingWarmRestarts", T_0=1000)
        ),
    ),
    "three in a row": Case(
        S.Ramp(T=50, first=0.02).then(S.Constant(), 50).then(S.Exponential(gamma=0.999), 3000),
        _sequence(
            [50, 3000],
            _torch("LinearLR", start_factor=0.02, total_iters=50),
            _torch("ConstantLR", factor=1.0),
            _torch("ExponentialLR", gamma=0.999),
        ),
    ),
}  # fmt: skip


def walk(make: Make, **given: Any) -> Iterator[tuple[float, float | None]]:
    """Rate and momentum of a group before each step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE, **given)
    scheduler = make(optimizer)
    while True:
        group = optimizer.param_groups[0]
        yield float(group["lr"]), group["momentum"] if given else None
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_equals_the_reference(name: str) -> None:
    case = CASES[name]
    for n, (rate, momentum) in enumerate(islice(walk(case.theirs, **case.optimizer), case.steps)):
        assert abs(case.ours(n, BASE) - rate) <= 1e-12 * BASE, n
        if momentum is not None:
            assert abs((case.ours.momentum(n, case.highest) or 0.0) - momentum) <= 1e-12, n


@pytest.mark.parametrize("name", CASES)
def test_the_scheduler_sets_what_the_function_gives(name: str) -> None:
    case = CASES[name]
    steps = 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = list(islice(walk(case.ours.on, momentum=0.5), steps))
    assert [rate for rate, _ in found] == [case.ours(n, BASE) for n in range(steps)]
    expected = [case.ours.momentum(n, 0.5) for n in range(steps)]
    assert [momentum for _, momentum in found] == [0.5 if m is None else m for m in expected]


def test_every_shipped_schedule_is_compared() -> None:
    compared = {part for case in CASES.values() for part, _ in getattr(case.ours, "links", [(case.ours, None)])}
    assert {type(part).__name__ for part in compared} == set(schedules.available())
    assert len(schedules.available()) == len(set(optc.schedules.available())) >= 14
