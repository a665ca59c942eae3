"""Rows: parameters with the same history share one step count, one set of host states and one run of the host program."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from operator import methodcaller
from typing import Any, TypeAlias

import torch
from torch import Tensor

from optc.runtime import state as states
from optc.runtime.host_number import HostNumber
from optc.runtime.hypers import Values
from optc.runtime.schema import Procedure, Schema, Value

Outcome: TypeAlias = tuple[tuple[float, ...], tuple[bool, ...], tuple[float, ...]]
"""Scalars, flags and carried values, as the host program returns them."""


@dataclass(slots=True)
class Row:
    """One cohort. `counter` and `carried` lie in the tensors that all its members have in their state."""

    counter: HostNumber
    carried: dict[str, HostNumber]
    constants: dict[str, Value]
    members: list[int]

    def evaluate(self, procedure: Procedure, values: Values) -> Outcome:
        """Runs the host program for the coming step (an entry: for the last one)."""
        names: dict[str, Value] = {**values, **self.constants, "t": self.counter.read() + (procedure.name == "step")}
        for name, number in self.carried.items():
            names[name] = number.read()
        return procedure.host(*[names[argument] for argument in procedure.arguments])

    def commit(self, procedure: Procedure, outcome: Outcome) -> None:
        """Writes the step count and the host states."""
        if procedure.name == "step":
            self.counter.write(self.counter.read() + 1.0)
        for name, value in zip(procedure.carried, outcome[2], strict=True):
            if name in self.carried:  # a host state that the variant lacks is computed with, and dropped
                self.carried[name].write(value)


def same_launch(outcome: Outcome) -> tuple[bytes, tuple[bool, ...]]:
    """A key that is equal where a kernel gets equal arguments, to the bit (NaN included)."""
    return array("d", outcome[0]).tobytes(), outcome[1]


def sort(
    schema: Schema,
    procedure: Procedure,
    edits: states.Edits,
    members: Sequence[Tensor],
    created: Sequence[frozenset[str]],
) -> list[Row]:
    """Sorts `members` (the parameters that take part) into rows and lets each row share its tensors.

    `created[i]` names the states that member i got just now. A row's tensors are nobody else's: who left it gets a copy.
    """
    used = set(procedure.arguments)
    kept = [s for s in schema.states if s.host and (s.name in used or s.name in procedure.carried)]
    keys = [states.STEP, *(s.key for s in kept)]
    news = news_read(schema, procedure)
    slots = [edits.states[p] for p in members]
    # Most parameters share their tensors already, so they are sorted by identity first, and what is alike by value then.
    columns: list[list[Any]] = [list(map(id, map(methodcaller("get", key), slots))) for key in keys]
    columns += [[name in new for new in created] for name in news]
    if "numel" in used:
        columns.append([float(p.numel()) for p in members])
    if "ndim" in used:
        columns.append([float(p.ndim) for p in members])
    if "bf16" in used:
        columns.append([p.dtype == torch.bfloat16 for p in members])
    alike: dict[tuple[Any, ...], list[int]] = {}
    for index, identity in enumerate(zip(*columns, strict=True)):
        alike.setdefault(identity, []).append(index)
    cohorts: dict[tuple[Any, ...], tuple[dict[str, Value], list[int]]] = {}
    for identity, places in alike.items():
        slot, rest = slots[places[0]], iter(identity[len(keys) :])
        constants: dict[str, Value] = {f"new_{name}": next(rest) for name in news}
        constants |= {name: next(rest) for name in ("numel", "ndim", "bf16") if name in used}
        history = [repr(states.number(slot[key])) if key in slot else None for key in keys]
        constants |= {s.name: math.nan for s in kept if s.key not in slot}
        cohorts.setdefault((*history, *constants.values()), (constants, []))[1].extend(places)
    sharing = _Sharing(edits, keys)
    rows = []
    for constants, places in cohorts.values():
        places.sort()
        parameters = [members[i] for i in places]
        counter = HostNumber(sharing.one(parameters, states.STEP, None))
        carried = {s.name: HostNumber(sharing.one(parameters, s.key, torch.float64)) for s in kept if s.name not in constants}
        rows.append(Row(counter, carried, constants, places))
    return rows


def news_read(schema: Schema, procedure: Procedure) -> list[str]:
    """The states whose creation the host program asks about, `new(b)`."""
    return [state.name for state in schema.states if f"new_{state.name}" in procedure.arguments]


class _Sharing:
    """Who has which host tensor, over the whole state: parameters move between groups, and leave them."""

    def __init__(self, edits: states.Edits, keys: Sequence[str]) -> None:
        self._edits = edits
        self._holders: defaultdict[tuple[str, int], dict[int, Tensor]] = defaultdict(dict)
        for p, slot in edits.states.items():
            for key in keys:
                if key in slot:
                    self._holders[key, id(slot[key])][id(p)] = p

    def one(self, parameters: Sequence[Tensor], key: str, dtype: torch.dtype | None) -> Tensor:
        """One tensor for this entry of all `parameters` and of nobody else: the one that most have, or a new one."""
        entries = {id(entry): entry for entry in (self._edits.states[p][key] for p in parameters)}
        found: Any = max(entries.values(), key=lambda entry: len(self._holders[key, id(entry)]))
        inside = set(map(id, parameters))
        strangers = [p for at, p in self._holders[key, id(found)].items() if at not in inside]
        value = states.number(found)
        if not _fits(found, dtype) or len(strangers) > len(parameters):
            found, strangers = _new(value, dtype), []
        entry: Tensor = found
        self._put(strangers, key, _new(value, dtype))
        self._put(parameters, key, entry)
        return entry

    def _put(self, parameters: Sequence[Tensor], key: str, entry: Tensor) -> None:
        for p in parameters:
            before = self._edits.states[p][key]
            if before is not entry:
                del self._holders[key, id(before)][id(p)]
                self._holders[key, id(entry)][id(p)] = p
                self._edits.put(p, key, entry)


def _new(value: float, dtype: torch.dtype | None) -> Tensor:
    return states.counter(value) if dtype is None else states.scalar(value)


def _fits(entry: Any, dtype: torch.dtype | None) -> bool:
    if not isinstance(entry, Tensor) or entry.device.type != "cpu" or entry.ndim:
        return False
    return entry.dtype == dtype if dtype is not None else entry.dtype in (torch.float32, torch.float64)
