"""Native kernels that reduce, over tensors of which other processes have parts.

Passes run over what lies here; what they measure is joined over the processes; stages, which see nothing per element, then run
on all processes alike, for the whole tensors. So there are two launchers of one kernel: one has the local elements, the other
the shapes, rows and columns of the whole parameters. They share the statistics that are numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from optc.runtime.backend import Launcher, Residents
from optc.runtime.columns import Columns
from optc.runtime.exchange import Measured
from optc.runtime.native import ChunkTable, NativeLauncher, Shared, vectors_of
from optc.runtime.native_matrices import Vectors
from optc.runtime.schema import Kernel
from optc.runtime.shapes import Integers, lines_of

_JOIN = {"sum": np.add, "mean": np.add, "largest": np.maximum, "smallest": np.minimum}


@dataclass(frozen=True, slots=True)
class _Common:
    """What the kernels of a procedure have in common, beside their statistics: where the local rows and columns are."""

    part: Shared
    whole: Shared
    lines: Sequence[dict[str, Integers]]


class DividedNative:
    """One kernel, one batch: see `optc.runtime.exchange.Divided`."""

    def __init__(self, kernel: Kernel, residents: Residents, common: _Common) -> None:
        whole = replace(residents, shapes=[shard.shape for shard in residents.shards], shards=())
        self._kernel, self._common, self._numbers = kernel, common, residents.numbers
        self._part = NativeLauncher(kernel, replace(residents, shards=()), common.part)
        self._whole = NativeLauncher(kernel, whole, common.whole)
        self._members: list[int] = list(range(len(residents.shards)))
        self._factor = 1.0
        self._at: dict[tuple[str, str], Integers] = {}

    @property
    def places(self) -> Sequence[int]:
        """See `Divided.places`."""
        return [self._numbers[member] for member in self._members]

    def only(self, members: Sequence[int]) -> DividedNative:
        """See `optc.runtime.backend.Launcher`."""
        fewer = object.__new__(DividedNative)
        fewer.__dict__ |= self.__dict__
        fewer._part, fewer._whole = self._part.only(members), self._whole.only(members)
        fewer._members, fewer._at = list(members), {}
        return fewer

    def launch(
        self, varying: Columns, scalars: Sequence[float | Tensor], flags: Sequence[bool], gradient_factor: float
    ) -> None:
        """Makes everything ready; `advance` runs it."""
        self._part.arm(varying, scalars, flags)
        self._whole.arm(varying, scalars, flags)
        self._factor = gradient_factor

    def parts(self) -> Tensor:
        """See `optc.runtime.backend.Launcher`."""
        return self._whole.parts()

    def advance(self, k: int) -> None:
        """See `Divided.advance`."""
        self._whole.run(self._factor, 2 * k)
        if k == len(self._kernel.passes):
            return
        if self._common.part.vectors is not None:
            for name in self._kernel.passes[k].needs:
                if self._kernel.extent(name) != "tensor":
                    self._localise(name)
        self._part.run(self._factor, 2 * k + 1)

    def _localise(self, name: str) -> None:
        """What a pass reads of the rows and columns that are here."""
        slot = self._kernel.statistics.index(name)
        here, there = self._places(name, "needed"), self._places(name, "needed of the whole")
        self._vectors(self._common.part).rounded(slot)[here] = self._vectors(self._common.whole).rounded(slot)[there]

    @staticmethod
    def _vectors(shared: Shared) -> Vectors:
        return cast(Vectors, shared.vectors)

    def _places(self, name: str, which: str) -> Integers:
        """Where the members' values of a statistic are; found once."""
        if (name, which) not in self._at:
            slot, needed = self._kernel.statistics.index(name), which.startswith("needed")
            vectors = self._vectors(self._common.whole if which.endswith("whole") else self._common.part)
            lines = self._lines_here(name) if which == "needed of the whole" else None
            self._at[name, which] = vectors.places(slot, needed, self._members, lines)
        return self._at[name, which]

    def _lines_here(self, name: str) -> list[Integers]:
        return [self._common.lines[tensor][self._kernel.extent(name)] for tensor in self._members]

    def measured(self, k: int) -> Measured:
        """See `Divided.measured`."""
        numbers = self._kernel.numbers(k)
        found = np.empty((len(self._members), len(numbers)))
        chunks, partials = self._part.chunks, self._part.partials
        order = self._order(chunks)
        for at, (_, operation) in enumerate(numbers):
            found[order, at] = _JOIN[operation].reduceat(partials[: len(chunks), at], chunks.member_begin[:-1])
        vectors = [torch.from_numpy(self._measured_lines(name)) for name, _ in self._kernel.vectors(k)]
        return Measured(torch.from_numpy(found), vectors)

    def _measured_lines(self, name: str) -> np.ndarray[Any, Any]:
        """What is measured here of the rows or columns of all members."""
        if self._common.part.vectors is None:
            return np.zeros(0)
        exact = self._common.part.vectors.exact(self._kernel.statistics.index(name))
        found: np.ndarray[Any, Any] = exact[self._places(name, "part")]
        return found

    def gathers(self) -> list[tuple[int, int]]:
        """See `Divided.gathers`."""
        return []

    def lines(self, k: int) -> list[list[Integers]]:
        """See `Divided.lines`."""
        return [self._lines_here(name) for name, _ in self._kernel.vectors(k)]

    def _order(self, chunks: ChunkTable) -> Integers:
        """The member of each tensor of a chunk table: small ones stand first there."""
        found: Integers = np.searchsorted(self._members, chunks.tensor[chunks.member_begin[:-1]])
        return found

    def take(self, k: int, numbers: Tensor, vectors: Sequence[Tensor]) -> None:
        """See `Divided.take`."""
        chunks = self._whole.chunks
        self._whole.partials[chunks.member_begin[:-1], : numbers.shape[1]] = numbers.numpy()[self._order(chunks)]
        for (name, _), values in zip(self._kernel.vectors(k), vectors, strict=True):
            if len(values):
                slot = self._kernel.statistics.index(name)
                self._vectors(self._common.whole).exact(slot)[self._places(name, "whole")] = values.numpy()


def divided(
    kernels: Sequence[Kernel], residents: Sequence[Residents], real: torch.dtype, numbers: np.ndarray[Any, Any]
) -> list[Launcher]:
    """Binds the kernels of a procedure to a batch of tensors that are divided; see `NativeBackend.prepare`."""
    shards = next(r.shards for r in residents if r.shards)
    local = [torch.Size(shard.size) for shard in shards]
    part = Shared(real, numbers, vectors_of(kernels, local, real), whole=True)
    all_of = Shared(real, numbers, vectors_of(kernels, [shard.shape for shard in shards], real), whole=True, single=True)
    by_rows = part.vectors is not None
    lines = [lines_of(shard.shape, shard.offset, shard.size, kernels[0].seen) if by_rows else {} for shard in shards]
    common = _Common(part, all_of, lines)
    return [
        DividedNative(k, r, common) if k.passes else NativeLauncher(k, replace(r, shards=()), part)
        for k, r in zip(kernels, residents, strict=True)
    ]
