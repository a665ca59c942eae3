"""The dicts of the state count every way of changing them, and leave the process as plain ones."""

from __future__ import annotations

import copy
import pickle
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optc.generated import AdamW
from optc.runtime.watched import State

WRITES: dict[str, Callable[[dict[Any, Any], Any, Any], object]] = {
    "assignment": lambda d, k, v: d.__setitem__(k, v),
    "deletion": lambda d, k, v: d.__delitem__(k),
    "update": lambda d, k, v: d.update({k: v}),
    "|=": lambda d, k, v: d.__ior__({k: v}),
    "pop": lambda d, k, v: d.pop(k),
    "popitem": lambda d, k, v: d.popitem(),
    "setdefault": lambda d, k, v: d.setdefault(k, v),
    "clear": lambda d, k, v: d.clear(),
}


@pytest.mark.parametrize("name", WRITES)
def test_every_write_counts(name: str) -> None:
    p = nn.Parameter(torch.zeros(1))
    state = State({p: {"m": torch.zeros(1)}})
    seen = state.changes.count
    WRITES[name](state[p], "m", torch.ones(1))
    assert state.changes.count > seen
    seen = state.changes.count
    WRITES[name](state, p, {})
    assert state.changes.count > seen


def test_no_way_of_writing_to_a_dict_is_forgotten() -> None:
    reading = {"get", "items", "keys", "values", "copy", "fromkeys"}
    names = {name for name in vars(dict) if not name.startswith("_")} - reading
    dunder = {"__setitem__", "__delitem__", "__ior__"}
    assert names | dunder == set(State.__dict__) & (names | dunder)


def test_a_missing_slot_is_made_and_watched() -> None:
    state = State()
    slot = state[nn.Parameter(torch.zeros(1))]
    seen = state.changes.count
    slot["m"] = torch.zeros(1)
    assert state.watched
    assert state.changes.count > seen


def test_a_plain_slot_stays_the_same_object_and_is_not_watched() -> None:
    p = nn.Parameter(torch.zeros(1))
    state = State()
    mine: dict[str, Any] = {}
    state[p] = mine
    assert state[p] is mine
    assert not state.watched


def trained() -> tuple[nn.Parameter, AdamW]:
    p = nn.Parameter(torch.ones(4))
    optimizer = AdamW([p], lr=0.1)
    for _ in range(2):
        p.grad = torch.ones(4)
        optimizer.step()
    return p, optimizer


def _plain_slot(optimizer: AdamW, p: Tensor, entry: Tensor) -> None:
    mine = dict(optimizer.state[p])
    optimizer.state[p] = mine
    optimizer.step()
    mine["exp_avg"] = entry  # nothing counts this


def _plain_state(optimizer: AdamW, p: Tensor, entry: Tensor) -> None:
    optimizer.state = defaultdict(dict, {p: {**optimizer.state[p], "exp_avg": entry}})


REPLACEMENTS: dict[str, Callable[[AdamW, Tensor, Tensor], object]] = {
    "an entry": lambda optimizer, p, entry: optimizer.state[p].update(exp_avg=entry),
    "a slot": lambda optimizer, p, entry: optimizer.state.__setitem__(p, {**optimizer.state[p], "exp_avg": entry}),
    "an entry of a plain slot": _plain_slot,
    "the state": _plain_state,
}


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_steps_use_what_was_put_in(name: str) -> None:
    p, optimizer = trained()
    entry = torch.full((4,), 3.0)
    REPLACEMENTS[name](optimizer, p, entry)
    p.grad = torch.zeros(4)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[p]["exp_avg"], torch.full((4,), 2.7))


def test_pickles_and_copies_are_plain() -> None:
    p, optimizer = trained()
    state = optimizer.state
    assert type(state) is State
    for one in (pickle.loads(pickle.dumps(state)), copy.deepcopy(state)):
        assert type(one) is defaultdict
        assert one.default_factory is dict
        assert [type(slot) for slot in one.values()] == [dict]
    assert type(optimizer.state_dict()["state"][0]) is dict
    assert type(state[p].copy()) is dict
    assert state.copy()[p] == state[p]
    restored = copy.deepcopy(optimizer)
    assert type(restored.state) is State
    assert restored.state.watched
