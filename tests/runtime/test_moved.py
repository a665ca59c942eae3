"""What users do between two steps: states and parameters get other memory, lists another order, groups other members."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optc.generated import ASGD, AdamW, NAdam
from optc.runtime import survey
from optc.runtime.survey import Survey
from tests.runtime.training import assert_equal, twins


@pytest.fixture(params=["surveyed", "in Python"], autouse=True)
def looking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both ways of looking must see it."""
    if request.param == "in Python":
        monkeypatch.setattr(survey, "_native", lambda: None)
    yield


def model(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def step(optimizer: torch.optim.Optimizer, seed: int, *taking: nn.Parameter) -> None:
    generator = torch.Generator().manual_seed(seed)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = None
    for p in taking:
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer.step()


def _swap(state: Tensor) -> None:
    torch.utils.swap_tensors(state, state.clone())  # type: ignore[no-untyped-call]


def _set(state: Tensor) -> None:
    state.set_(state.clone())  # type: ignore[call-overload]


def _data(state: Tensor) -> None:
    state.data = state.data.clone()


MOVES: dict[str, Callable[[Tensor], object]] = {
    "data": _data,
    "set_": _set,
    "swap_tensors": _swap,
    "share_memory_": lambda state: state.share_memory_(),  # type: ignore[no-untyped-call]
}


@pytest.mark.parametrize("backend", ["native", "torch", "triton"])
@pytest.mark.parametrize("move", MOVES)
def test_states_that_got_other_memory_are_followed(move: str, backend: str) -> None:
    params = model((40,), (7, 3))
    others = twins(params)
    moved, still = AdamW(params, lr=0.1, backend=backend), AdamW(others, lr=0.1, backend=backend)
    for seed in range(4):
        step(moved, seed, *params)
        step(still, seed, *others)
        for p in params:
            MOVES[move](moved.state[p]["exp_avg"])
    assert_equal(params, others)
    for p, q in zip(params, others, strict=True):
        assert_equal([moved.state[p]["exp_avg"]], [still.state[q]["exp_avg"]])


def reverse(optimizer: Any) -> None:
    optimizer.param_groups[0]["params"].reverse()


def shorten(optimizer: Any) -> None:
    optimizer.param_groups[0]["params"].pop(0)


def another_list(optimizer: Any) -> None:
    old = optimizer.param_groups[0]["params"]
    optimizer.param_groups[0]["params"] = list(old)
    old.clear()


def two_groups(optimizer: Any) -> None:
    last = optimizer.param_groups[0]["params"].pop()
    optimizer.add_param_group({"params": [last]})


EDITS: dict[str, Callable[[Any], None]] = {f.__name__: f for f in (reverse, shorten, another_list, two_groups)}


@pytest.mark.parametrize("hypers", [{"backend": "native"}, {"backend": "triton", "capturable": True}], ids=["host", "device"])
@pytest.mark.parametrize("edit", EDITS)
def test_lists_of_parameters_may_be_edited(edit: str, hypers: dict[str, Any]) -> None:
    """Sizes differ, so that what belongs to another parameter is seen."""
    params = model((3,), (4096,), (5,))
    alone = twins(params)
    optimizer = AdamW(params, lr=0.1, **hypers)
    singles = [AdamW([p], lr=0.1, **hypers) for p in alone]
    for seed in range(5):
        if seed == 2:
            EDITS[edit](optimizer)
        in_it = {id(p) for group in optimizer.param_groups for p in group["params"]}
        generator = torch.Generator().manual_seed(seed)
        for p, q, single in zip(params, alone, singles, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
            if id(p) in in_it:
                single.step()
        optimizer.step()
    assert_equal(params, alone)
    for p, q, single in zip(params, alone, singles, strict=True):
        assert float(optimizer.state[p]["step"]) == float(single.state[q]["step"])


def test_counts_are_not_shared_beyond_a_group() -> None:
    a, b = params = model((3,), (4,))
    optimizer = AdamW(params)
    step(optimizer, 0, a, b)
    optimizer.param_groups[0]["params"].pop()
    step(optimizer, 1, a)
    assert float(optimizer.state[b]["step"]) == 1  # it has left, its state is still there
    optimizer.add_param_group({"params": [b]})
    for seed in range(3):
        step(optimizer, seed, a, b)
    assert [float(optimizer.state[p]["step"]) for p in params] == [5, 4]


@pytest.mark.parametrize(("cls", "key"), [(NAdam, "mu_product"), (ASGD, "eta"), (NAdam, "step")])
def test_one_replaced_number_stays_its_parameters_own(cls: Any, key: str) -> None:
    params = model((3,), (4,), (5,))
    alone = twins(params)
    optimizer, singles = cls(params), [cls([p]) for p in alone]
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        for p, q in zip(params, alone, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        if seed == 1:
            for state in (optimizer.state[params[0]], singles[0].state[alone[0]]):
                state[key] = torch.tensor(0.5 if key != "step" else 5.0, dtype=state[key].dtype)
        optimizer.step()
        for single in singles:
            single.step()
    assert_equal(params, alone)
    for p, q, single in zip(params, alone, singles, strict=True):
        assert {k: float(optimizer.state[p][k]) for k in ("step", key)} == {k: float(single.state[q][k]) for k in ("step", key)}


def test_another_state_is_another_state() -> None:
    (p,) = params = model((3,))
    optimizer = AdamW(params, lr=0.1)
    step(optimizer, 0, p)
    first = optimizer.state
    optimizer.state = defaultdict(dict)
    step(optimizer, 1, p)
    assert [float(first[p]["step"]), float(optimizer.state[p]["step"])] == [1, 1]
    optimizer.state = first
    step(optimizer, 2, p)
    assert float(first[p]["step"]) == 2
    optimizer.load_state_dict(optimizer.state_dict())
    step(optimizer, 3, p)
    optimizer.state = defaultdict(dict)
    step(optimizer, 4, p)
    assert float(optimizer.state[p]["step"]) == 1


def test_a_gradient_without_memory_is_refused_at_any_step() -> None:
    a, b = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(4, 8)[:, ::2])
    optimizer = AdamW([a, b], backend="native")
    step(optimizer, 0, a, b)
    a.grad = torch._efficientzerotensor((5,))
    with pytest.raises(ValueError, match="stand-in for zeros"):
        optimizer.step()


def test_a_parameter_reshaped_in_place_is_refused_as_in_the_first_step() -> None:
    (p,) = params = model((2, 3))
    optimizer = AdamW(params)
    step(optimizer, 0, p)
    p.grad = None
    p.data = p.data.view(3, 2)
    p.grad = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"shape \(2, 3\), for its parameter \(3, 2\)"):
        optimizer.step()


@pytest.mark.parametrize("first", [False, True])
def test_capturable_counts_from_the_next_step_on(first: bool) -> None:
    params = model((3,))
    optimizer = AdamW(params, backend="native", capturable=False)
    if not first:
        step(optimizer, 0, *params)
    optimizer.param_groups[0]["capturable"] = True
    with pytest.raises(RuntimeError, match="capturable=True needs the triton backend"):
        step(optimizer, 1, *params)


def test_the_survey_comes_back() -> None:
    if survey._native() is None:
        pytest.skip("there is none")
    params = model((3,), (4,), (5,))
    optimizer = AdamW(params, backend="native")
    step(optimizer, 0, *params)
    optimizer.param_groups[0]["params"].pop(1)
    taking = [params[0], params[2]]
    step(optimizer, 1, *taking)
    found = optimizer._plans[0]["step"].survey
    assert isinstance(found, Survey)
    assert found.look(optimizer.param_groups[0]["params"]) is not None
    found.release()


def test_who_moves_while_away_is_followed() -> None:
    """The survey is renewed while b is away; b's new memory must not pass for the one that the kernels know."""
    params = model((3,), (4,), (5,))
    alone = twins(params)
    optimizer, singles = AdamW(params, lr=0.1, backend="native"), [AdamW([p], lr=0.1, backend="native") for p in alone]
    for seed in range(8):
        away = seed in (2, 3, 4)
        generator = torch.Generator().manual_seed(seed)
        for index, (p, q) in enumerate(zip(params, alone, strict=True)):
            p.grad = None if away and index == 1 else torch.randn(p.shape, generator=generator)
            q.grad = None if p.grad is None else p.grad.clone()
        if seed == 2:
            params[1].data = params[1].data.clone()
            optimizer.param_groups[0]["params"].reverse()
        optimizer.step()
        for single in singles:
            single.step()
    assert_equal(params, alone)
