"""States of one number per tensor that live on the parameter's device: created, saved, loaded and refused like others."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch

from optc.generated import LAMB, AdaNorm, NovoGrad

BACKENDS = pytest.mark.parametrize("backend", ["torch", "native", "triton"])
SHAPES = ((4, 3), (7,), (), (0, 2))


def parameters(seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in SHAPES]


def give_gradients(params: list[torch.nn.Parameter], step: int, skip: frozenset[int] = frozenset()) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for index, p in enumerate(params):
        g = torch.randn(p.shape, generator=generator)
        p.grad = None if index in skip else g


def train(optimizer: torch.optim.Optimizer, params: list[torch.nn.Parameter], steps: range) -> None:
    for step in steps:
        give_gradients(params, step)
        optimizer.step()


def same(left: list[torch.nn.Parameter], right: list[torch.nn.Parameter]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@BACKENDS
def test_they_are_0_dim_float64_tensors(backend: str) -> None:
    params = parameters()
    optimizer = NovoGrad(params, backend=backend)
    train(optimizer, params, range(2))
    for p in params:
        number = optimizer.state[p]["grads_ema"]
        assert number.dtype == torch.float64 and number.shape == () and number.device == p.device
    assert optimizer.state[params[3]]["grads_ema"] == 0, "of no elements"


@BACKENDS
def test_resuming_changes_no_bit(backend: str) -> None:
    straight, resumed = parameters(), parameters()
    one = AdaNorm(straight, lr=0.01, backend=backend)
    train(one, straight, range(6))
    first = AdaNorm(resumed, lr=0.01, backend=backend)
    train(first, resumed, range(3))
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = AdaNorm(resumed, lr=0.5, backend=backend)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    train(second, resumed, range(3, 6))
    assert same(straight, resumed)


def test_a_saved_state_does_not_change_with_training() -> None:
    params = parameters()
    optimizer = NovoGrad(params, backend="native")
    train(optimizer, params, range(2))
    saved = copy.deepcopy(optimizer.state_dict())
    kept = saved["state"][0]["grads_ema"].clone()
    train(optimizer, params, range(2, 4))
    assert torch.equal(saved["state"][0]["grads_ema"], kept)
    assert optimizer.state[params[0]]["grads_ema"] != kept


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
def test_copies_go_on_alike(copied: Any) -> None:
    params = parameters()
    optimizer = NovoGrad(params, backend="native")
    train(optimizer, params, range(2))
    twin = copied(optimizer)
    twins = twin.param_groups[0]["params"]
    train(optimizer, params, range(2, 4))
    train(twin, twins, range(2, 4))
    assert same(params, twins)


FORMS = [2.5, torch.tensor(2.5), torch.tensor([2.5]), torch.tensor(2.5, dtype=torch.bfloat16)]


@pytest.mark.parametrize("entry", FORMS, ids=str)
def test_a_number_is_loaded_in_any_form(entry: Any) -> None:
    params = parameters()
    optimizer = NovoGrad(params, backend="native")
    train(optimizer, params, range(1))
    state = optimizer.state_dict()
    state["state"][0]["grads_ema"] = entry
    optimizer.load_state_dict(state)
    loaded = optimizer.state[params[0]]["grads_ema"]
    assert loaded.item() == 2.5 and loaded.dtype == torch.float64 and loaded.shape == ()
    train(optimizer, params, range(1, 2))


@pytest.mark.parametrize("entry", [torch.zeros(2), "much", None], ids=["a vector", "a text", "nothing"])
def test_what_is_no_number_is_refused_and_nothing_changes(entry: Any) -> None:
    params = parameters()
    optimizer = NovoGrad(params, backend="native")
    train(optimizer, params, range(1))
    before = optimizer.state[params[0]]["grads_ema"].clone()
    state = optimizer.state_dict()
    state["state"][0]["grads_ema"] = entry
    with pytest.raises(ValueError, match="'grads_ema'"):
        optimizer.load_state_dict(state)
    assert torch.equal(optimizer.state[params[0]]["grads_ema"], before)


@BACKENDS
def test_gradients_that_come_and_go(backend: str) -> None:
    """Every parameter moves as if it were alone: a missing gradient leaves its number as it is."""
    skips = [frozenset({1}), frozenset(), frozenset({0, 2}), frozenset({1, 3}), frozenset()]
    together = parameters()
    optimizer = NovoGrad(together, lr=0.1, backend=backend)
    alone = parameters()
    each = [NovoGrad([p], lr=0.1, backend=backend) for p in alone]
    for step, skip in enumerate(skips):
        give_gradients(together, step, skip)
        give_gradients(alone, step, skip)
        optimizer.step()
        for one in each:
            one.step()
    assert same(together, alone)


@BACKENDS
def test_groups_and_maximize(backend: str) -> None:
    params, mirrored = parameters(), parameters()

    def groups(of: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
        return [{"params": of[:2]}, {"params": of[2:], "lr": 0.1}]

    one = LAMB(groups(params), backend=backend)
    other = LAMB(groups(mirrored), backend=backend, maximize=True)
    for step in range(3):
        give_gradients(params, step)
        for p, q in zip(params, mirrored, strict=True):
            assert p.grad is not None
            q.grad = -p.grad
        one.step()
        other.step()
    assert same(params, mirrored)


def test_an_edited_number_counts_at_the_next_step() -> None:
    params, others = parameters(), parameters()
    one, other = NovoGrad(params, lr=0.1, backend="native"), NovoGrad(others, lr=0.1, backend="native")
    train(one, params, range(2))
    train(other, others, range(2))
    one.state[params[0]]["grads_ema"].fill_(9.0)  # in place
    other.state[others[0]]["grads_ema"] = torch.tensor(9.0)  # another tensor, of another dtype
    train(one, params, range(2, 4))
    train(other, others, range(2, 4))
    assert same(params, others)
