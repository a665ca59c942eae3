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
from optc.runtime.native import NativeLauncher, Shared, vectors_of
from optc.runtime.native_matrices import Vectors
from optc.runtime.schema import Kernel
from optc.runtime.shapes import IN_MATRICES, Integers, lines_of

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
        self._at: dict[tuple[str, str], tuple[Integers, Integers]] = {}  # where values are
        self._extents = dict(zip(kernel.statistics, kernel.extents, strict=bool(kernel.extents)))

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
        for name in self._kernel.passes[k].needs:
            if self._extent(name) in IN_MATRICES and self._common.part.vectors is not None:
                self._localise(name)
        self._part.run(self._factor, 2 * k + 1)

    def _localise(self, name: str) -> None:
        """What a pass reads of the rows and columns that are here."""
        part, whole, slot = self._part_vectors, self._whole_vectors, self._kernel.statistics.index(name)
        if ("needs", name) not in self._at:
            lines = [self._common.lines[tensor][self._extent(name)] for tensor in self._members]
            at = part.places(slot, True, self._members), whole.places(slot, True, self._members, lines)
            self._at["needs", name] = at
        here, there = self._at["needs", name]
        part.rounded(slot)[here] = whole.rounded(slot)[there]

    @property
    def _part_vectors(self) -> Vectors:
        return cast(Vectors, self._common.part.vectors)

    @property
    def _whole_vectors(self) -> Vectors:
        return cast(Vectors, self._common.whole.vectors)

    def _extent(self, name: str) -> str:
        return self._extents.get(name, "tensor")

    def measured(self, k: int) -> Measured:
        """See `Divided.measured`."""
        measures = self._kernel.passes[k].measures
        numbers = [operation for name, operation in measures if self._extent(name) == "tensor"]
        found = np.empty((len(self._members), len(numbers)))
        chunks, partials = self._part.chunks, self._part.partials
        order = self._order()
        for at, operation in enumerate(numbers):
            found[order, at] = _JOIN[operation].reduceat(partials[: len(chunks), at], chunks.member_begin[:-1])
        vectors = [torch.from_numpy(self._vector(name)) for name in self._vectors_of(k)]
        return Measured(torch.from_numpy(found), vectors)

    def _vectors_of(self, k: int) -> list[str]:
        return [name for name, _ in self._kernel.passes[k].measures if self._extent(name) in IN_MATRICES]

    def _vector(self, name: str) -> np.ndarray[Any, Any]:
        """What is measured here of the rows or columns of all members."""
        if self._common.part.vectors is None:
            return np.zeros(0)
        slot = self._kernel.statistics.index(name)
        if ("part", name) not in self._at:
            self._at["part", name] = (self._part_vectors.places(slot, False, self._members),) * 2
        found: np.ndarray[Any, Any] = self._part_vectors.exact(slot)[self._at["part", name][0]]
        return found

    def lines(self, k: int) -> list[list[Integers]]:
        """See `Divided.lines`."""
        return [[self._common.lines[tensor][self._extent(name)] for tensor in self._members] for name in self._vectors_of(k)]

    def _order(self) -> Integers:
        """The member of each tensor of the chunk table: small ones stand first there."""
        chunks = self._part.chunks
        tensors = chunks.tensor[chunks.member_begin[:-1]]
        found: Integers = np.searchsorted(self._members, tensors)
        return found

    def take(self, k: int, numbers: Tensor, vectors: Sequence[Tensor]) -> None:
        """See `Divided.take`."""
        chunks = self._whole.chunks
        order = np.searchsorted(self._members, chunks.tensor[chunks.member_begin[:-1]])
        self._whole.partials[chunks.member_begin[:-1], : numbers.shape[1]] = numbers.numpy()[order]
        for name, values in zip(self._vectors_of(k), vectors, strict=True):
            if len(values):
                slot = self._kernel.statistics.index(name)
                if ("whole", name) not in self._at:
                    self._at["whole", name] = (self._whole_vectors.places(slot, False, self._members),) * 2
                self._whole_vectors.exact(slot)[self._at["whole", name][0]] = values.numpy()


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
