"""What processes tell each other during a step: the measures of a pass, of all parameters together, in one collective.

A kernel that reduces measures, in each pass, sums over what lies here of its parameters. Between two passes these are joined
over the processes, which then all have the same numbers, and go on alike. What is sent depends on the parameters of the
optimizer and its hypers alone, not on who has a gradient: so no process waits for another's message in vain, and it is
noticed that a gradient is missing on some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from optc.runtime import collectives, names
from optc.runtime.hypers import Facts, Values, holds
from optc.runtime.rounds import Member, Round
from optc.runtime.schema import Kernel, Procedure, Schema
from optc.runtime.shapes import Integers
from optc.runtime.sharding import Group, Shards

_MOST_KEPT = 256


@dataclass(frozen=True, slots=True)
class Measured:
    """What a pass measures of some parameters, in float64: `numbers` [parameters, measures], and of all other measures the
    values of rows, columns or matrices that are here, one parameter after the other.
    """

    numbers: Tensor
    vectors: Sequence[Tensor]


@runtime_checkable
class Divided(Protocol):
    """A launcher of a kernel that reduces over parameters of which other processes have parts. `launch` starts nothing.

    `places`: the numbers of the parameters in the optimizer.
    """

    @property
    def places(self) -> Sequence[int]: ...

    def advance(self, k: int) -> None:
        """Runs stage k, for the whole tensors, then pass k, over what lies here, if there is such a pass."""

    def measured(self, k: int) -> Measured | None:
        """What pass k has measured here; None where the launcher finds out in another way."""

    def gathers(self) -> Sequence[tuple[int, int]]:
        """What it has sent by itself when it last ran: of how many parameters, and bytes."""

    def lines(self, k: int) -> Sequence[Sequence[Integers]]:
        """Which rows, columns or matrices are here: for each measure of pass k that is not a number, of each parameter."""

    def take(self, k: int, numbers: Tensor, vectors: Sequence[Tensor]) -> None:
        """What pass k has measured everywhere: as in `Measured`, of all rows, columns and matrices."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """Where what a launcher measures is in the buffers of a round: which of its parameters are told of, rows of numbers, and
    for each other measure the places of what is here, and of the whole.
    """

    launch: Divided
    told: Tensor
    rows: Tensor
    here: Sequence[Tensor]
    whole: Sequence[Tensor]


def _places(numbers: Sequence[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def _index(parts: Sequence[Integers]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *parts]))


class Exchange:
    """All rounds of a procedure, for parameters and hypers as they are.

    `gathers`: what kernels have sent beside them, by their numbers, when they last ran.
    """

    def __init__(
        self,
        schema: Schema,
        procedure: Procedure,
        members: Sequence[tuple[Member, Values]],
        processes: Callable[[Sequence[Group]], int] = collectives.processes,
    ) -> None:
        self.rounds: dict[tuple[int, int], list[Round]] = {}
        self.gathers: dict[int, list[tuple[int, int]]] = {}
        self._known: dict[tuple[int, int, int, int], _Placed] = {}
        untold: dict[tuple[Group, ...], list[Member]] = {}
        for member, _ in members:
            untold.setdefault(member.shard.groups, []).append(member)
        for at, kernel in enumerate(procedure.kernels):
            for k, one in enumerate(kernel.passes):
                domains: dict[tuple[Group, ...], list[Member]] = {}
                for member, values in members:
                    variant = {name: holds(condition, values, member.facts) for name, condition in schema.flags}
                    if one.measures and one.runs(variant):
                        domains.setdefault(member.shard.groups, []).append(member)
                if domains:
                    self.rounds[at, k] = [
                        Round.of(kernel, k, schema, found, untold.pop(groups, []), processes(groups))
                        for groups, found in domains.items()
                    ]

    def run(self, at: int, kernel: Kernel, launches: Sequence[Divided]) -> None:
        """Runs the kernel with this number. Raises RuntimeError where a gradient is missing on some processes only, or
        some cannot do the step."""
        for k in range(len(kernel.passes) + 1):
            for launch in launches:
                launch.advance(k)
            for number, one in enumerate(self.rounds.get((at, k), ())):
                self._join(one, k, launches, (at, k, number))
        self.gathers[at] = [one for launch in launches for one in launch.gathers()]

    def refuse(self) -> bool:
        """Tells the others that this process cannot do a step; False if they do not wait for anything in it."""
        if not self.rounds:
            return False
        self.rounds[min(self.rounds)][0].refuse()
        return True

    def _join(self, one: Round, k: int, launches: Sequence[Divided], key: tuple[int, int, int]) -> None:
        """Fills the buffers of a round, joins them with those of the other processes, and hands out what they are then."""
        here = one.buffers()
        placed = [(launch, self._placed(one, k, launch, key)) for launch in launches]
        mine = [(launch, place) for launch, place in placed if len(place.rows)]
        for _, place in placed:
            here.present[place.told] = 1.0
        for launch, place in mine:
            found = launch.measured(k)
            if found is None:
                continue
            one.fill(here, place.rows, found.numbers.cpu())
            for (name, sign, _), values, at in zip(one.vectors, found.vectors, place.here, strict=True):
                if len(at):
                    here.of(name)[at] = (values * sign).cpu()
        joined = one.joined(here)
        for launch, place in mine:
            vectors = [joined.of(name)[at] * sign for (name, sign, _), at in zip(one.vectors, place.whole, strict=True)]
            launch.take(k, one.numbers_of(joined, place.rows), vectors)

    def _placed(self, one: Round, k: int, launch: Divided, key: tuple[int, int, int]) -> _Placed:
        """Where the values of a launcher's parameters are in the buffers of a round; found once."""
        known = self._known.get((*key, id(launch)))
        if known is None or known.launch is not launch:
            row = {member.number: at for at, member in enumerate(one.members)}
            rows = [row[number] for number in launch.places if number in row]
            own = set(launch.places)
            told = [at for at, member in enumerate(one.told) if member.number in own]
            lines = launch.lines(k) if rows and one.vectors else []
            here, whole = [], []
            for (_, _, spans), lying in zip(one.vectors if rows else (), lines, strict=True):
                wanted = [spans[index] for index in rows]
                starts = [start + of for (start, length), of in zip(wanted, lying, strict=True) if length]
                here.append(_index(starts))
                whole.append(_index([np.arange(start, start + length) for start, length in wanted]))
            if len(self._known) >= _MOST_KEPT:  # others take part in every step
                self._known.clear()
            known = self._known[*key, id(launch)] = _Placed(launch, _places(told), _places(rows), here, whole)
        return known


def of(
    schema: Schema, procedure: Procedure, groups: Sequence[Mapping[str, Any]], values: Sequence[Values], shards: Shards
) -> Exchange | None:
    """What processes tell each other in a procedure; None where they need not, or have no parts of one parameter."""
    found = [(member, read) for group, read in zip(members_of(groups, shards), values, strict=True) for member in group]
    exchange = Exchange(schema, procedure, found) if found else None
    return exchange if exchange is not None and any(kernel.passes for kernel in procedure.kernels) else None


def members_of(groups: Sequence[Mapping[str, Any]], shards: Shards) -> list[list[Member]]:
    """The parameters of each group that are divided."""
    found: list[list[Member]] = []
    before = 0
    for number, group in enumerate(groups):
        own = []
        for place, p in enumerate(group["params"]):
            shard = shards.shard(p)
            if shard is not None:
                label = names.parameter(group, place, f"group {number}")
                own.append(Member(before + place, label, shard, Facts.of(p)))
        before += len(group["params"])
        found.append(own)
    return found
