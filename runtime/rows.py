"""Rows: parameters with the same history share one step count, one set of host states and one run of the host program."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

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
    group: Sequence[Tensor],
    members: Sequence[Tensor],
    created: Sequence[frozenset[str]],
) -> list[Row]:
    """Sorts `members` (parameters of `group` that take part) into rows and lets each row share its tensors.

    `created[i]` names the states that member i got just now. Members that leave a row get tensors of their own.
    """
    used = set(procedure.arguments)
    holders = Counter(id(entry) for p in group if p in edits.states for entry in edits.states[p].values())
    kept = [s for s in schema.states if s.host and (s.name in used or s.name in procedure.carried)]
    news = news_read(schema, procedure)
    cohorts: dict[tuple[Value, ...], tuple[dict[str, Value], list[int]]] = {}
    shown: dict[int, str] = {}  # by id of an entry: most parameters share theirs
    for index, p in enumerate(members):
        slot = edits.states[p]
        constants: dict[str, Value] = {f"new_{name}": name in created[index] for name in news}
        if "numel" in used:
            constants["numel"] = float(p.numel())
        if "ndim" in used:
            constants["ndim"] = float(p.ndim)
        present = [s for s in kept if s.key in slot]
        constants |= {s.name: math.nan for s in kept if s.key not in slot}
        history = [slot[states.STEP], *(slot[s.key] for s in present)]
        for entry in history:
            if id(entry) not in shown:
                shown[id(entry)] = repr(states.number(entry))
        key = (*(shown[id(entry)] for entry in history), *(s.name for s in present), *constants.values())
        cohorts.setdefault(key, (constants, []))[1].append(index)
    rows = []
    for constants, places in cohorts.values():
        parameters = [members[i] for i in places]
        counter = HostNumber(_shared(edits, parameters, states.STEP, holders, None))
        carried = {
            s.name: HostNumber(_shared(edits, parameters, s.key, holders, torch.float64))
            for s in kept
            if s.name not in constants
        }
        rows.append(Row(counter, carried, constants, places))
    return rows


def news_read(schema: Schema, procedure: Procedure) -> list[str]:
    """The states whose creation the host program asks about, `new(b)`."""
    return [state.name for state in schema.states if f"new_{state.name}" in procedure.arguments]


def _shared(
    edits: states.Edits, parameters: list[Tensor], key: str, holders: Counter[int], dtype: torch.dtype | None
) -> Tensor:
    """One host tensor for this entry of all `parameters`: the present one, if they and nobody else have it, or a new one."""
    entry = edits.states[parameters[0]][key]
    if (
        isinstance(entry, Tensor)
        and entry.device.type == "cpu"
        and entry.ndim == 0
        and (entry.dtype == dtype if dtype is not None else entry.dtype in (torch.float32, torch.float64))
        and holders[id(entry)] == len(parameters)
        and all(edits.states[p][key] is entry for p in parameters)
    ):
        return entry
    value = states.number(entry)
    entry = states.counter(value) if dtype is None else states.host_scalar(value)
    for p in parameters:
        edits.put(p, key, entry)
    return entry
