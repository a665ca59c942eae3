"""What processes tell each other during a step: the measures of a pass, of all parameters together, in one collective.

A kernel that reduces measures, in each pass, sums over what lies here of its parameters. Between two passes these are joined
over the processes, which then all have the same numbers, and go on alike. What is sent depends on the parameters of the
optimizer and its hypers alone, not on who has a gradient: so no process waits for another's message in vain, and it is
noticed that a gradient is missing on some of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from optc.runtime import names
from optc.runtime.hypers import Facts, Values, holds
from optc.runtime.schema import Kernel, Procedure, Schema
from optc.runtime.shapes import Integers, count_of
from optc.runtime.sharding import Group, Shard, Shards

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
class Member:
    """A parameter that is divided: its number in the optimizer, what errors call it, and what its conditions read."""

    number: int
    label: str
    shard: Shard
    facts: Facts


@dataclass(frozen=True, slots=True)
class Round:
    """What one set of processes joins after one pass, of `members`: for the operations "sum" and "largest" a buffer each.

    `numbers`: the places of measures that are numbers among all such, by operation, `signs` -1 where the least is wanted.
    `vectors`: all others, each with the place of every member's values in its buffer. `presence`: who takes part is told first.
    """

    members: Sequence[Member]
    numbers: Mapping[str, Sequence[int]]
    signs: Sequence[int]
    vectors: Sequence[tuple[str, int, Sequence[tuple[int, int]]]]
    sizes: Mapping[str, int]
    groups: Sequence[Group]
    device: str
    presence: bool

    @property
    def messages(self) -> list[tuple[str, int]]:
        """The operation and length, in numbers of 8 bytes, of each message: NaN travels beside what a maximum is taken of."""
        of_sums, of_largest = self.sizes["sum"] + self.sizes["largest"], self.sizes["largest"]
        every = [("sum", of_sums)] * len(self.groups) + [("largest", of_largest)] * len(self.groups)
        return [(operation, size) for operation, size in every if size]

    def signs_of(self, name: str) -> Tensor:
        """Those of the numbers of one operation."""
        return torch.tensor([self.signs[place] for place in self.numbers[name]], dtype=torch.float64)

    @staticmethod
    def of(kernel: Kernel, k: int, schema: Schema, members: Sequence[Member], presence: bool) -> Round:
        """Of parameters that are divided among the same processes."""
        numbers: dict[str, list[int]] = {"sum": [], "largest": []}
        operations = [operation for _, operation in kernel.numbers(k)]
        for at, operation in enumerate(operations):
            numbers[_joined(operation)].append(at)
        sizes = {name: len(members) * len(found) for name, found in numbers.items()}
        sizes["sum"] += len(members) * presence
        vectors = []
        for name, operation in kernel.vectors(k):
            places = []
            for member in members:
                shape = member.shard.shape
                length = count_of(kernel.extent(name), shape, schema.seen) if len(shape) >= 2 else 0
                places.append((sizes[_joined(operation)], length))
                sizes[_joined(operation)] += length
            vectors.append((_joined(operation), -1 if operation == "smallest" else 1, places))
        signs = [-1 if operation == "smallest" else 1 for operation in operations]
        first = members[0].shard
        return Round(members, numbers, signs, vectors, sizes, first.groups, first.device, presence)


def _joined(operation: str) -> str:
    """How a measure is joined: sums are added up, of the largest the largest is taken, of the smallest the one below all."""
    return "sum" if operation in ("sum", "mean") else "largest"


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

    def __init__(self, schema: Schema, procedure: Procedure, members: Sequence[tuple[Member, Values]]) -> None:
        self.rounds: dict[tuple[int, int], list[Round]] = {}
        self._known: dict[tuple[int, int, int, int], _Placed] = {}
        presence = True
        for at, kernel in enumerate(procedure.kernels):
            for k, one in enumerate(kernel.passes):
                domains: dict[tuple[Group, ...], list[Member]] = {}
                for member, values in members:
                    variant = {name: holds(condition, values, member.facts) for name, condition in schema.flags}
                    if one.measures and one.runs(variant):
                        domains.setdefault(member.shard.groups, []).append(member)
                if domains:
                    self.rounds[at, k] = [Round.of(kernel, k, schema, found, presence) for found in domains.values()]
                    presence = False

    def run(self, at: int, kernel: Kernel, launches: Sequence[Divided]) -> None:
        """Runs the kernel with this number. Raises RuntimeError where a gradient is missing on some processes only."""
        for k in range(len(kernel.passes) + 1):
            for launch in launches:
                launch.advance(k)
            for number, one in enumerate(self.rounds.get((at, k), ())):
                self._join(one, k, launches, (at, k, number))

    def _join(self, one: Round, k: int, launches: Sequence[Divided], key: tuple[int, int, int]) -> None:
        """Fills the buffers of a round, joins them with those of the other processes, and hands out what they are then."""
        wide = torch.zeros(one.sizes["sum"] + one.sizes["largest"], dtype=torch.float64)
        high = torch.full((one.sizes["largest"],), -math.inf, dtype=torch.float64)
        buffers = {"sum": wide[: one.sizes["sum"]], "largest": high}
        here, count = wide[: len(one.members)], len(one.members)
        blocks = {
            name: buffers[name][count * (one.presence and name == "sum") :][: count * len(places)].view(count, len(places))
            for name, places in one.numbers.items()
        }
        mine = [(launch, place) for launch in launches if len((place := self._placed(one, k, launch, key)).rows)]
        for launch, place in mine:
            found = launch.measured(k)
            if one.presence:
                here[place.rows] = 1.0
            if found is None:
                continue
            for name, places in one.numbers.items():
                if places:
                    blocks[name][place.rows] = found.numbers.cpu()[:, list(places)] * one.signs_of(name)
            for (name, sign, _), values, at in zip(one.vectors, found.vectors, place.here, strict=True):
                if len(at):
                    buffers[name][at] = (values * sign).cpu()
        # collectives need not pass NaN through a maximum: it travels beside, in what is added up
        odd = wide[one.sizes["sum"] :]
        odd.copy_(torch.where(high.isnan(), high, 0.0))
        high.nan_to_num_(-math.inf, math.inf, -math.inf)
        over_groups(wide, "sum", one.groups, one.device)
        over_groups(high, "largest", one.groups, one.device)
        high += odd
        if one.presence:
            _agree(one, here)
        for launch, place in mine:
            numbers = torch.empty(len(place.rows), len(one.signs), dtype=torch.float64)
            for name, places in one.numbers.items():
                if places:
                    numbers[:, list(places)] = blocks[name][place.rows] * one.signs_of(name)
            launch.take(
                k, numbers, [buffers[name][at] * sign for (name, sign, _), at in zip(one.vectors, place.whole, strict=True)]
            )

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


def any_of(found: Tensor, groups: Sequence[Mapping[str, Any]], shards: Shards) -> Tensor:
    """1 where it is above 0 on any of the processes that have parts of these parameters."""
    found_here = (shards.shard(p) for group in groups for p in group["params"])
    there = {group: shard.device for shard in found_here if shard is not None for group in shard.groups}
    for group, device in there.items():
        found = found.to(device)
        _all_reduce(found, "largest", group)
    return found


def _agree(one: Round, here: Tensor) -> None:
    """Raises RuntimeError unless each parameter takes part everywhere or nowhere."""
    everywhere = math.prod(processes(group) for group in one.groups)
    torn = ((here != 0) & (here != everywhere)).nonzero().flatten().tolist()
    if torn:
        place = torn[0]
        raise RuntimeError(
            f"{one.members[place].label} takes part in this step on {int(here[place])} of {everywhere} processes"
            f"{f', and so do {len(torn) - 1} others' if len(torn) > 1 else ''}: all must have its gradient, or none. Processes "
            "may have updated their states differently: go on from a checkpoint"
        )


def processes(group: Group) -> int:
    """How many processes a group has."""
    import torch.distributed as dist

    return dist.get_world_size(group)


def _all_reduce(tensor: Tensor, operation: str, group: Group) -> None:
    import torch.distributed as dist

    dist.all_reduce(tensor, dist.ReduceOp.SUM if operation == "sum" else dist.ReduceOp.MAX, group=group)


def gathered(
    shape: Sequence[int], parts: Iterable[tuple[tuple[slice, ...], Tensor]], like: Tensor, groups: Sequence[Group], device: str
) -> Tensor:
    """The whole of a tensor of this shape: all processes add the bytes that they have of it, at their places, to zeros."""
    whole = torch.zeros(tuple(shape), dtype=like.dtype, device=like.device)
    for box, part in parts:
        whole[box] = part
    over_groups(whole.view(-1).view(torch.uint8), "sum", groups, device)
    return whole


def over_groups(tensor: Tensor, operation: str, groups: Sequence[Group], device: str) -> None:
    """Joins a tensor over the processes of all groups, in place; they talk through memory of `device`."""
    if not tensor.numel():
        return
    there = tensor.to(device)
    for group in groups:
        _all_reduce(there, operation, group)
    if there is not tensor:
        tensor.copy_(there)
