"""Triton kernels that reduce, over tensors of which other processes have parts: as `native_divided.py`, on a device.

One launcher has the local elements, the other the shapes, rows and columns of the whole parameters; statistics that are numbers
of a tensor lie in one table for both. What a pass leaves of rows, columns and matrices is first added up here, by the launches
that begin the stage after it; that stage then runs without them, on what all processes have together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from optc.runtime.backend import Residents
from optc.runtime.columns import Columns
from optc.runtime.exchange import Measured
from optc.runtime.schema import Kernel
from optc.runtime.shapes import IN_MATRICES, Integers, count_of, lines_of, matrices
from optc.runtime.sharding import Shard
from optc.runtime.triton_matrices import Matrices
from optc.runtime.triton_passes import Given, ReducingLauncher, prepare_reducing


@dataclass(slots=True)
class DividedTriton:
    """One kernel, one batch: see `optc.runtime.exchange.Divided`."""

    part: ReducingLauncher
    whole: ReducingLauncher
    shards: Sequence[Shard]
    numbers: Sequence[int]
    lines_of: Sequence[dict[str, Integers]]
    members: Sequence[int]
    _given: tuple[Given, Given] | None = None
    _places: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    @property
    def places(self) -> Sequence[int]:
        """See `Divided.places`."""
        return [self.numbers[member] for member in self.members]

    @property
    def kernel(self) -> Kernel:
        """The kernel."""
        return self.part.kernel

    def only(self, members: Sequence[int]) -> DividedTriton:
        """See `optc.runtime.backend.Launcher`."""
        return replace(self, part=self.part.only(members), whole=self.whole.only(members), members=list(members), _places={})

    def launch(
        self, varying: Columns, scalars: Sequence[float | Tensor], flags: Sequence[bool], gradient_factor: float
    ) -> None:
        """Makes everything ready; `advance` runs it."""
        arguments = varying, scalars, flags, gradient_factor
        self._given = self.part.given(*arguments), self.whole.given(*arguments)

    def parts(self) -> Tensor:
        """See `optc.runtime.backend.Launcher`."""
        return self.whole.parts()

    def advance(self, k: int) -> None:
        """See `Divided.advance`."""
        if self._given is None:
            return
        self.whole.stage(k, self._given[1], slice(self._joins(k) if self.whole.runs(k - 1) else 0, None))
        if k < len(self.kernel.passes):
            for name in self.kernel.passes[k].needs:
                if self.kernel.extent(name) != "tensor" and self.part.reductions.matrices is not None:
                    self._table(self.part, name)[self._at(name, "part")] = self._table(self.whole, name)[self._at(name, "here")]
            self.part.sweep(k, self._given[0])

    def _joins(self, k: int) -> int:
        """How many launches of the stage before pass k join partials: one for each extent that has some."""
        return len({self.kernel.extent(name) for name, _ in self.kernel.passes[k - 1].measures}) if k else 0

    def _in_steps(self, k: int) -> bool:
        """Whether the stage after pass k is several launches, of which the first join what the pass has left."""
        function = self.part.stage_before(k + 1)
        return self.part.reductions.matrices is not None and function is not None and bool(function.steps)

    def measured(self, k: int) -> Measured:
        """See `Divided.measured`."""
        in_steps = self._in_steps(k)
        if in_steps and self._given is not None:
            self.part.stage(k + 1, self._given[0], slice(0, self._joins(k + 1)))
        columns = [self._number(name, operation, at, in_steps) for at, (name, operation) in enumerate(self.kernel.numbers(k))]
        found = torch.stack(columns, 1) if columns else torch.zeros(len(self.members), 0, dtype=torch.float64)
        return Measured(found, [self._vector(name, operation) for name, operation in self.kernel.vectors(k)])

    def gathers(self) -> list[tuple[int, int]]:
        """See `Divided.gathers`."""
        return []

    def lines(self, k: int) -> list[list[Integers]]:
        """See `Divided.lines`."""
        none = dict.fromkeys(IN_MATRICES, np.zeros(0, dtype=np.int64))
        every = self.lines_of if self.lines_of else [none] * len(self.shards)
        return [[every[member][self.kernel.extent(name)] for member in self.members] for name, _ in self.kernel.vectors(k)]

    def take(self, k: int, numbers: Tensor, vectors: Sequence[Tensor]) -> None:
        """See `Divided.take`."""
        kept, in_steps = self.whole.reductions, self._in_steps(k)
        members = torch.tensor(self.members, device=kept.statistics.device)
        for at, (name, operation) in enumerate(self.kernel.numbers(k)):
            values = numbers[:, at].to(kept.statistics.device)
            if not in_steps:
                kept.partials.view(-1)[at * kept.each + members] = values
                continue
            if operation == "mean":
                sizes = [self.shards[member].shape.numel() for member in self.members]
                values = values / torch.tensor(sizes, dtype=torch.float64, device=values.device)
            kept.statistics[members, self.kernel.statistics.index(name)] = values
        for (name, operation), values in zip(self.kernel.vectors(k) if in_steps else (), vectors, strict=in_steps):
            there = self._at(name, "whole")
            entries = self._entries(name, "whole") if operation == "mean" else 1.0
            self._table(self.whole, name)[there] = values.to(there.device) / entries

    # --- what passes measure --------------------------------------------------------------------------------------------------

    def _number(self, name: str, operation: str, at: int, in_steps: bool) -> Tensor:
        """What is measured of each tensor: where stages are one launch, its partials are there still."""
        kept = self.part.reductions
        if in_steps:
            found = kept.statistics[self.members, self.kernel.statistics.index(name)]
            sizes = torch.tensor([self.shards[m].numel for m in self.members], dtype=torch.float64, device=found.device)
            return torch.where(sizes > 0, found * sizes, 0.0) if operation == "mean" else found
        first = kept.first.tolist()
        spans = [kept.partials[at * kept.each + first[m] : at * kept.each + first[m + 1]] for m in self.members]
        return torch.stack([_joined(span, operation) for span in spans])

    def _vector(self, name: str, operation: str) -> Tensor:
        """What is measured of the rows or columns that are here."""
        if self.part.reductions.matrices is None:
            return torch.zeros(0, dtype=torch.float64)
        values = self._table(self.part, name)[self._at(name, "part")]
        if operation != "mean":
            return values
        entries = self._entries(name, "part")
        return torch.where(entries > 0, values * entries, 0.0)

    # --- where values are -----------------------------------------------------------------------------------------------------

    def _table(self, launcher: ReducingLauncher, name: str) -> Tensor:
        """All values of the extent of a statistic."""
        return cast(Matrices, launcher.reductions.matrices).values[self.kernel.extent(name)]

    def _at(self, name: str, which: str) -> Tensor:
        """Where the members' values of a statistic are, as `places.value_place` says: those of the "whole", of what is "here"
        of it, and of the "part".
        """
        if (which, name) not in self._places:
            extent = self.kernel.extent(name)
            every = [n for n in self.kernel.statistics if self.kernel.extent(n) == extent]
            lengths = [count_of(extent, shape, self.kernel.seen) for shape in self._shapes(which)]
            starts = np.cumsum([0, *lengths]) * len(every)
            found = [np.zeros(0, dtype=np.int64)]
            for member in self.members:
                own = self.lines_of[member][extent] if which == "here" else np.arange(lengths[member])
                found.append(starts[member] + every.index(name) * lengths[member] + own)
            self._places[which, name] = torch.from_numpy(np.concatenate(found)).to(self.part.device)
        return self._places[which, name]

    def _entries(self, name: str, which: str) -> Tensor:
        """The elements of each of these rows, columns or matrices."""
        extent, found = self.kernel.extent(name), []
        shapes = self._shapes(which)
        for member in self.members:
            _, height, width = matrices(shapes[member], self.kernel.seen)
            of_each = {"row": width, "col": height, "matrix": height * width}[extent]
            found += [float(of_each)] * count_of(extent, shapes[member], self.kernel.seen)
        return torch.tensor(found, dtype=torch.float64, device=self.part.device)

    def _shapes(self, which: str) -> list[torch.Size]:
        return [torch.Size(shard.size) if which == "part" else shard.shape for shard in self.shards]


def _joined(span: Tensor, operation: str) -> Tensor:
    """What the programs of a pass have left of a tensor, together."""
    if operation in ("sum", "mean"):
        return span.sum()
    least = span.new_full((1,), -torch.inf if operation == "largest" else torch.inf)
    every = torch.cat([span, least])
    return every.amax() if operation == "largest" else every.amin()


def divided(
    kernels: Sequence[Kernel], residents: Sequence[Residents], real: torch.dtype, device: torch.device
) -> list[DividedTriton]:
    """Binds the kernels of a procedure that reduce to a batch of tensors that are divided."""
    if not kernels:
        return []
    shards, numbers = residents[0].shards, residents[0].numbers
    parts = prepare_reducing(kernels, [replace(r, shards=()) for r in residents], real, device)
    whole_shapes = [shard.shape for shard in shards]
    wholes = prepare_reducing(kernels, [replace(r, shards=(), shapes=whole_shapes) for r in residents], real, device)
    for part, whole in zip(parts, wholes, strict=True):
        one_each = torch.arange(len(shards) + 1, dtype=torch.int32, device=device)
        most = max(len(one.measures) for k in kernels for one in k.passes)
        partials = torch.zeros(max(1, most * len(shards)), dtype=torch.float64, device=device)
        if whole.reductions.matrices is None:
            whole.reductions = replace(whole.reductions, first=one_each, each=len(shards), partials=partials)
        whole.reductions = replace(whole.reductions, statistics=part.reductions.statistics)
    in_matrices = parts[0].reductions.matrices is not None
    lines = [lines_of(s.shape, s.offset, s.size, kernels[0].seen) for s in shards] if in_matrices else []
    members = range(len(shards))
    return [DividedTriton(p, w, shards, numbers, lines, members) for p, w in zip(parts, wholes, strict=True)]
