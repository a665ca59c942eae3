"""Rows: parameters with the same history share one step count, one set of host states and one run of the host program."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from optc.runtime import state as states
from optc.runtime.hypers import Values
from optc.runtime.schema import Procedure, Schema, Value

Outcome: TypeAlias = tuple[tuple[float, ...], tuple[bool, ...], tuple[float, ...]]
"""Scalars, flags and carried values, as the host program returns them."""


@dataclass(slots=True)
class Row:
    """One cohort. `counter` and `carried` are the tensors that all its members have in their state."""

    counter: Tensor
    carried: dict[str, Tensor]
    constants: dict[str, Value]
    members: list[int] = field(default_factory=list)

    def evaluate(self, procedure: Procedure, values: Values) -> Outcome:
        """Runs the host program for the coming step (an entry: for the last one)."""
        names: dict[str, Value] = {**values, **self.constants, "t": self.counter.item() + (procedure.name == "step")}
        for name, tensor in self.carried.items():
            names[name] = tensor.item()
        return procedure.host(*[names[argument] for argument in procedure.arguments])

    def commit(self, procedure: Procedure, outcome: Outcome) -> None:
        """Writes the step count and the host states."""
        if procedure.name == "step":
            self.counter.add_(1.0)
        for name, value in zip(procedure.carried, outcome[2], strict=True):
            if name in self.carried:  # a host state that the variant lacks is computed with, and dropped
                self.carried[name].fill_(value)


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
    rows: dict[tuple[Value, ...], Row] = {}
    for index, p in enumerate(members):
        slot = edits.states[p]
        constants: dict[str, Value] = {f"new_{name}": name in created[index] for name in news}
        if "numel" in used:
            constants["numel"] = float(p.numel())
        if "ndim" in used:
            constants["ndim"] = float(p.ndim)
        constants |= {s.name: math.nan for s in kept if s.key not in slot}
        history = [states.number(slot[states.STEP]), *(states.number(slot[s.key]) for s in kept if s.key in slot)]
        key = (*map(repr, history), *(s.key in slot for s in kept), *constants.values())
        row = rows.get(key)
        if row is None:
            row = rows[key] = Row(slot[states.STEP], {s.name: slot[s.key] for s in kept if s.key in slot}, constants)
        row.members.append(index)
    for row in rows.values():
        parameters = [members[i] for i in row.members]
        row.counter = _shared(edits, parameters, states.STEP, holders, None)
        row.carried = {s.name: _shared(edits, parameters, s.key, holders, torch.float64) for s in kept if s.name in row.carried}
    return list(rows.values())


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
