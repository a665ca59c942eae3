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

    def lines(self, k: int) -> Sequence[Sequence[Integers]]:
        """Which rows, columns or matrices are here: for each measure of pass k that is not a number, of each parameter."""

    def take(self, k: int, numbers: Tensor, vectors: Sequence[Tensor]) -> None:
        """What pass k has measured everywhere: as in `Measured`, of all rows, columns and matrices."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """Where what a launcher measures is in the buffers of a round: rows of numbers, and for each other measure the places of
    what is here, and of the whole.
    """

    launch: Divided
    rows: Tensor
    here: Sequence[Tensor]
    whole: Sequence[Tensor]


def _index(parts: Sequence[Integers]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *parts]))


class Exchange:
    """All rounds of a procedure, for parameters and hypers as they are."""

    def __init__(
        self,
        schema: Schema,
        procedure: Procedure,
        members: Sequence[tuple[Member, Values]],
        processes: Callable[[Sequence[Group]], int] = collectives.processes,
    ) -> None:
        self.rounds: dict[tuple[int, int], list[Round]] = {}
        self._known: dict[tuple[int, int, int, int], _Placed] = {}
        presence = True  # told in the first round
        for at, kernel in enumerate(procedure.kernels):
            for k, one in enumerate(kernel.passes):
                domains: dict[tuple[Group, ...], list[Member]] = {}
                for member, values in members:
                    variant = {name: holds(condition, values, member.facts) for name, condition in schema.flags}
                    if one.measures and one.runs(variant):
                        domains.setdefault(member.shard.groups, []).append(member)
                if domains:
                    self.rounds[at, k] = [
                        Round.of(kernel, k, schema, found, presence, processes(groups)) for groups, found in domains.items()
                    ]
                    presence = False

    def run(self, at: int, kernel: Kernel, launches: Sequence[Divided]) -> None:
        """Runs the kernel with this number. Raises RuntimeError where a gradient is missing on some processes only, or
        some cannot do the step."""
        for k in range(len(kernel.passes) + 1):
            for launch in launches:
                launch.advance(k)
            for number, one in enumerate(self.rounds.get((at, k), ())):
                self._join(one, k, launches, (at, k, number))

    def refuse(self) -> bool:
        """Tells the others that this process cannot do a step; False if they do not wait for anything in it."""
        if not self.rounds:
            return False
        self.rounds[min(self.rounds)][0].refuse()
        return True

    def _join(self, one: Round, k: int, launches: Sequence[Divided], key: tuple[int, int, int]) -> None:
        """Fills the buffers of a round, joins them with those of the other processes, and hands out what they are then."""
        here = one.buffers()
        mine = [(launch, place) for launch in launches if len((place := self._placed(one, k, launch, key)).rows)]
        for launch, place in mine:
            found = launch.measured(k)
            if one.presence:
                here.present[place.rows] = 1.0
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
            lines = launch.lines(k) if rows and one.vectors else []
            here, whole = [], []
            for (_, _, spans), own in zip(one.vectors if rows else (), lines, strict=True):
                wanted = [spans[index] for index in rows]
                starts = [start + of for (start, length), of in zip(wanted, own, strict=True) if length]
                here.append(_index(starts))
                whole.append(_index([np.arange(start, start + length) for start, length in wanted]))
            if len(self._known) >= _MOST_KEPT:  # others take part in every step
                self._known.clear()
            known = self._known[*key, id(launch)] = _Placed(launch, torch.tensor(rows, dtype=torch.int64), here, whole)
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
