"""A schedule as a torch scheduler: what `torch.optim.lr_scheduler` asks of one."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import ChainedScheduler, ExponentialLR, LambdaLR, LRScheduler, SequentialLR

import optc
from optc import schedules
from optc.runtime.schedules import Chain


def sgd(*rates: float, **options: Any) -> torch.optim.SGD:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates or (0.1,)]
    return torch.optim.SGD(groups, lr=0.1, **options)


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def advance(optimizer: torch.optim.Optimizer, scheduler: Any, steps: int) -> None:
    for _ in range(steps):
        optimizer.step()
        scheduler.step()


def test_every_group_has_its_own_rate() -> None:
    schedule = schedules.Cosine(T=10, warmup=2)
    optimizer = sgd(0.1, 0.02)
    scheduler = schedule.on(optimizer)
    assert isinstance(scheduler, LRScheduler)
    advance(optimizer, scheduler, 5)
    assert rates(optimizer) == scheduler.get_last_lr() == [schedule(5, 0.1), schedule(5, 0.02)]


def test_a_tensor_rate_stays_the_same_tensor() -> None:
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = schedules.Exponential(gamma=0.5).on(optimizer)
    advance(optimizer, scheduler, 2)
    assert optimizer.param_groups[0]["lr"] is rate and rate.item() == pytest.approx(0.025)


def test_betas_stay_one_tuple() -> None:
    optimizer = optc.create("adamw", [torch.nn.Parameter(torch.zeros(1))], lr=0.1, betas=(0.95, 0.99))
    schedule = schedules.OneCycle(T=20)
    scheduler = schedule.on(optimizer)
    advance(optimizer, scheduler, 6)
    assert optimizer.param_groups[0]["betas"] == (schedule.momentum(6, 0.95), 0.99)
    assert 0.85 <= optimizer.param_groups[0]["betas"][0] < 0.95


def test_resumes_exactly(tmp_path: Path) -> None:
    schedule = schedules.Cyclic(up=7, down=3, momentum_low=0.6)
    one, other = sgd(0.1, 0.02, momentum=0.9), sgd(0.1, 0.02, momentum=0.9)
    scheduler = schedule.on(one)
    advance(one, scheduler, 13)
    torch.save({"o": one.state_dict(), "s": scheduler.state_dict()}, tmp_path / "file.pt")
    saved = torch.load(tmp_path / "file.pt", weights_only=True)
    again = schedule.on(other)
    other.load_state_dict(saved["o"])
    again.load_state_dict(saved["s"])
    for _ in range(9):
        advance(one, scheduler, 1)
        advance(other, again, 1)
        assert rates(one) == rates(other)
        assert one.param_groups[0]["momentum"] == other.param_groups[0]["momentum"] == schedule.momentum(again.last_epoch, 0.9)


def test_goes_on_from_a_number_of_steps() -> None:
    schedule = schedules.Linear(T=10)
    optimizer = sgd()
    optimizer.param_groups[0]["initial_lr"] = 0.1
    scheduler = schedule.on(optimizer, last_epoch=3)
    assert rates(optimizer) == [schedule(4, 0.1)]
    advance(optimizer, scheduler, 2)
    assert rates(optimizer) == [schedule(6, 0.1)]


def test_in_a_row_as_torch_does_it() -> None:
    first, second = schedules.Ramp(T=5, first=0.1), schedules.Cosine(T=12)
    one, other = sgd(), sgd()
    theirs = SequentialLR(one, [first.on(one), second.on(one)], [5])
    ours = first.then(second, 5).on(other)
    for n in range(20):
        assert rates(one) == rates(other) == [first(n, 0.1) if n < 5 else second(n - 5, 0.1)]
        advance(one, theirs, 1)
        advance(other, ours, 1)


def test_side_by_side_with_others() -> None:
    schedule = schedules.Linear(T=40, ratio=0.1)
    optimizer = sgd(0.1, 0.3)
    scheduler = ChainedScheduler([schedule.on(optimizer), ExponentialLR(optimizer, gamma=0.9)])
    for n in range(30):
        assert rates(optimizer) == pytest.approx([schedule(n, base) * 0.9**n for base in (0.1, 0.3)], rel=1e-12)
        advance(optimizer, scheduler, 1)


def test_a_group_that_is_added_later_has_its_own_base() -> None:
    schedule = schedules.Linear(T=10)
    optimizer = sgd()
    scheduler = schedule.on(optimizer)
    advance(optimizer, scheduler, 3)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.7, "initial_lr": 0.7})
    scheduler.base_lrs.append(0.7)  # what torch's own schedulers need as well
    advance(optimizer, scheduler, 1)
    assert rates(optimizer) == [schedule(4, 0.1), schedule(4, 0.7)]


def test_a_factor_of_the_user_stays() -> None:
    schedule = schedules.Linear(T=10)
    optimizer = sgd()
    scheduler = schedule.on(optimizer)
    advance(optimizer, scheduler, 3)
    optimizer.param_groups[0]["lr"] *= 0.5
    advance(optimizer, scheduler, 2)
    assert rates(optimizer) == pytest.approx([schedule(5, 0.1) / 2])


def test_as_a_plain_function() -> None:
    schedule = schedules.InverseSqrt(warmup=4)
    optimizer = sgd()
    scheduler = LambdaLR(optimizer, schedule)
    advance(optimizer, scheduler, 9)
    assert rates(optimizer) == [0.1 * schedule(9)]
    assert schedule.momentum(3) is None and not schedule.has_momentum


def test_a_schedule_is_a_value() -> None:
    schedule = schedules.WarmupStableDecay(T=10, shape="linear")
    assert schedule == schedules.WarmupStableDecay(T=10, shape="linear") != schedules.WarmupStableDecay(T=11, shape="linear")
    assert hash(schedule) == hash(copy.deepcopy(schedule))
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert repr(schedule).startswith("WarmupStableDecay(T=10, warmup=0, decay=100, shape='linear'")
    assert (schedule.T, schedule.shape) == (10, "linear")
    with pytest.raises(AttributeError, match="a schedule does not change: make another WarmupStableDecay with T = 3"):
        schedule.T = 3
    chain = schedule.then(schedules.Constant(), 3)
    assert pickle.loads(pickle.dumps(chain)) == chain == Chain((schedule, 3), (schedules.Constant(), None))


def test_chains_of_chains() -> None:
    a, b, c = schedules.Ramp(T=4, first=0.5), schedules.Exponential(gamma=0.9), schedules.Linear(T=9)
    nested = a.then(b, 4).then(c, 10)
    assert nested == Chain((a, 4), (b, 6), (c, None))
    assert a.then(b, 4).then(c, 3) == Chain((a, 3), (c, None))
    assert a.then(b.then(c, 2), 4) == Chain((a, 4), (b, 2), (c, None))
    assert [nested(n) for n in range(25)] == [a(n) if n < 4 else b(n - 4) if n < 10 else c(n - 10) for n in range(25)]


CHAIN = schedules.Constant().then(schedules.Cosine(T=5), 3)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: schedules.Cosine(T=0), ValueError, r"Cosine: T = 0, but it must be a whole number in \[1, inf\)"),
        (
            lambda: optc.schedule("cosine", warmpu=3),
            TypeError,
            r"Cosine\(\) has no keyword argument 'warmpu': did you mean 'warmup'",
        ),
        (lambda: schedules.Cosine(T=5)(-1), ValueError, "Cosine: n = -1, but the steps done are a number of 0 or above"),
        (lambda: schedules.Cosine(T=5)(float("nan")), ValueError, "the steps done are a number"),
        (lambda: schedules.OneCycle(shape="line"), ValueError, r"one of 'cosine', 'linear' \(did you mean 'linear'\?\)"),
        (lambda: optc.schedule("cosin"), ValueError, "no schedule is called 'cosin': did you mean Cosine"),
        (lambda: schedules.Constant().then(schedules.Constant(), 0), ValueError, "a whole number of steps, at least 1, not 0"),
        (lambda: schedules.Constant().then(len, 3), TypeError, "a chain is made of schedules, not of builtin_function"),  # type: ignore[arg-type]
        (lambda: Chain((schedules.Constant(), 5)), ValueError, "the last schedule of a chain lasts for good"),
        (lambda: Chain(), ValueError, "a chain has at least one schedule"),
        (lambda: schedules.MultiStep(milestones=(1,) * 9), ValueError, "a tuple of 8 numbers"),
        (
            lambda: optc.schedule("cosine(T=5)", T=4),
            TypeError,
            r"^T is given in 'cosine\(T=5\)' and again as a keyword: leave out the keyword, or change what stands there$",
        ),
        (
            lambda: optc.schedule("cosine(T = 5) for 3, exponential", gamma=0.5),
            TypeError,
            r"^gamma is given as a keyword, but '.*' has hypers in brackets: write \(gamma = 0.5\) behind a name there$",
        ),
        (lambda: Chain(T=4), TypeError, r"^Chain\(\) has no keyword argument 'T': it has none$"),  # type: ignore[call-arg]
        (lambda: optc.schedule(3), TypeError, r"^a schedule is a name, a path to an \.opt file, .* or a chain, not 3$"),  # type: ignore[arg-type]
        (lambda: schedules.Cosine(T=5)("3"), ValueError, "^Cosine: n = '3', but the steps done are a number"),  # type: ignore[arg-type]
        (lambda: CHAIN(None), ValueError, "^Chain: n = None, but the steps done are a number"),  # type: ignore[arg-type]
        (lambda: CHAIN(2, "0.1"), ValueError, "^Chain: base = '0.1', but it must be a number$"),  # type: ignore[arg-type]
        (lambda: schedules.OneCycle().momentum("3"), ValueError, "^OneCycle: n = '3', but"),  # type: ignore[arg-type]
        (lambda: schedules.Consine, AttributeError, "Consine"),
    ],
)
def test_mistakes_are_told(make: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()
