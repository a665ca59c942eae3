"""One collective of a step: what all parameters that are divided among the same processes have measured in one pass.

What is added up and what the largest is taken of go in one message. If anything is added up, that is a sum, in which every
process has its own places for its largest numbers and leaves the others' 0: exact, and still of a size that does not grow with
what is added up. If nothing is, it is a maximum of whole numbers, which are in the order of the numbers, with NaN on top:
collectives need not pass NaN through a maximum of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optc.runtime import collectives, presence
from optc.runtime.hypers import Facts
from optc.runtime.schema import Kernel, Schema
from optc.runtime.shapes import count_of
from optc.runtime.sharding import Group, Shard

_MAGNITUDE = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Member:
    """A parameter that is divided: its number in the optimizer, what errors call it, and what its conditions read."""

    number: int
    label: str
    shard: Shard
    facts: Facts


@dataclass(frozen=True, slots=True)
class Buffers:
    """Numbers in float64, in the memory of a message: who takes part (1 or 0), what is added up, and what is compared."""

    message: Tensor
    present: Tensor
    sums: Tensor
    largest: Tensor

    def of(self, operation: str) -> Tensor:
        """Those of one operation, "sum" or "largest"."""
        return self.sums if operation == "sum" else self.largest


@dataclass(frozen=True, slots=True)
class Round:
    """What one set of processes joins after one pass, of `members`.

    `numbers`: the places of measures that are numbers among all such, by operation, `signs` -1 where the least is wanted.
    `vectors`: all others, each with the place of every member's values among those of its operation. `sizes`: how many numbers
    an operation joins. `told`: of which parameters it is told first who takes part. `processes`: how many the groups have.
    """

    members: Sequence[Member]
    numbers: Mapping[str, Sequence[int]]
    signs: Sequence[int]
    vectors: Sequence[tuple[str, int, Sequence[tuple[int, int]]]]
    sizes: Mapping[str, int]
    groups: Sequence[Group]
    processes: int
    device: str
    told: Sequence[Member]

    @staticmethod
    def of(kernel: Kernel, k: int, schema: Schema, members: Sequence[Member], told: Sequence[Member], processes: int) -> Round:
        """Of parameters that are divided among the same processes."""
        numbers: dict[str, list[int]] = {"sum": [], "largest": []}
        operations = [operation for _, operation in kernel.numbers(k)]
        for at, operation in enumerate(operations):
            numbers[_joined(operation)].append(at)
        sizes = {name: len(members) * len(found) for name, found in numbers.items()}
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
        return Round(members, numbers, signs, vectors, sizes, first.groups, processes, first.device, told)

    @property
    def operation(self) -> str:
        """The operation of its messages."""
        return "sum" if self.sizes["sum"] else "largest"

    @property
    def length(self) -> int:
        """The length of its message along each dimension of a mesh that divides the members, in numbers of 8 bytes."""
        return self._compared_at + self.sizes["largest"] * (self.processes if self.operation == "sum" else 1)

    @property
    def _compared_at(self) -> int:
        """Where in a message the numbers are that are compared: behind those that are added up, or behind who takes part."""
        told = len(self.told)
        return told + self.sizes["sum"] if self.operation == "sum" else 2 * told

    def buffers(self) -> Buffers:
        """Of one process that takes no part and has measured nothing."""
        message = torch.zeros(self.length, dtype=torch.float64)
        told, added, compared, start = len(self.told), self.sizes["sum"], self.sizes["largest"], self._compared_at
        if added and compared:
            message[start:] = -0.0  # whatever is added to it stays what it is
            start += collectives.rank_among(self.groups) * compared
        largest = message[start : start + compared].fill_(-math.inf)
        return Buffers(message, message[:told], message[told : told + added], largest)

    def fill(self, buffers: Buffers, rows: Tensor, numbers: Tensor) -> None:
        """Puts numbers [rows, measures] of the members at `rows` to their places."""
        for name, places in self.numbers.items():
            if places:
                self._block(buffers, name)[rows] = numbers[:, list(places)] * self._signs_of(name)

    def numbers_of(self, buffers: Buffers, rows: Tensor) -> Tensor:
        """The numbers [rows, measures] of the members at `rows`."""
        numbers = torch.empty(len(rows), len(self.signs), dtype=torch.float64)
        for name, places in self.numbers.items():
            if places:
                numbers[:, list(places)] = self._block(buffers, name)[rows] * self._signs_of(name)
        return numbers

    def _block(self, buffers: Buffers, name: str) -> Tensor:
        count, width = len(self.members), len(self.numbers[name])
        return buffers.of(name)[: count * width].view(count, width)

    def _signs_of(self, name: str) -> Tensor:
        return torch.tensor([self.signs[place] for place in self.numbers[name]], dtype=torch.float64)

    def joined(self, here: Buffers) -> Buffers:
        """What all processes have measured together, in the memory of `here`. Raises what `presence.require` does."""
        message, compared = here.message, self.sizes["largest"]
        if self.operation == "sum":
            collectives.over_groups(message, "sum", self.groups, self.device)
            self._agree(here.present)
            if compared:
                here.largest.copy_(message[self._compared_at :].view(self.processes, compared).amax(0))
            return here
        absent = message[len(self.told) : self._compared_at].copy_(1.0 - here.present)
        keys = _ordered(message)
        collectives.over_groups(keys, "largest", self.groups, self.device)
        message.copy_(_ordered_back(keys))
        self._agree(here.present * (self.processes + absent * (presence.SOME - self.processes)))
        return here

    def refuse(self) -> None:
        """Tells the others, without waiting for them, that this process cannot do what they wait for it to do."""
        message = torch.full((self.length,), presence.UNABLE, dtype=torch.float64)
        for group in self.groups:
            collectives.send(message if self.operation == "sum" else _ordered(message), self.operation, group, self.device)

    def _agree(self, taking: Tensor) -> None:
        presence.require(taking, self.processes, lambda place: self.told[place].label)


def _joined(operation: str) -> str:
    """How a measure is joined: sums are added up, of the largest the largest is taken, of the smallest the one below all."""
    return "sum" if operation in ("sum", "mean") else "largest"


def _ordered(numbers: Tensor) -> Tensor:
    """Whole numbers in the order of these in float64: NaN above all."""
    bits = numbers.masked_fill(numbers.isnan(), math.nan).view(torch.int64)
    return bits ^ ((bits >> 63) & _MAGNITUDE)


def _ordered_back(keys: Tensor) -> Tensor:
    """The numbers of `_ordered`, whose bits it turns into themselves when it is done twice."""
    return (keys ^ ((keys >> 63) & _MAGNITUDE)).view(torch.float64)
