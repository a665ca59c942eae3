"""Kernels that reduce, on Triton: a launch for every pass and for every stage between them, whatever the number of tensors.

A pass leaves partials, each of `EXTENT` elements of one tensor; the stage after it adds them up in float64, one program per
tensor. So what a tensor measures depends neither on the launch nor on the rest of the batch, and there are no atomics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optc.runtime.backend import Residents, arithmetic_dtype
from optc.runtime.columns import Columns
from optc.runtime.schema import Kernel, Pass
from optc.runtime.triton_device import (
    WARPS,
    Geometry,
    geometry,
    on_device,
    require_triton,
    stream_dtypes,
    triton_dtype,
    warp_size,
)
from optc.runtime.triton_tables import Chunks, VaryingTable, resident_table, upload

EXTENT = 8192
"""Elements of a chunk, and so of a partial: a multiple of every block. It is part of what a sum means to the last bit."""
PARTIALS_PER_TURN = 512
"""Lanes of the block in which a stage adds up partials: their order is fixed by it, too."""


@dataclass(frozen=True, slots=True)
class Reductions:
    """What one pass leaves for the next, kept for all tensors of a batch; passes and steps overwrite it.

    `partials`: [most measures of a pass][each], in the arithmetic dtype; tensor i has those from `first[i]` to `first[i + 1]`.
    `none` is such a table in which no tensor has any. `statistics`: float64 [tensors][statistics].
    """

    partials: Tensor
    each: int
    first: Tensor
    none: Tensor
    statistics: Tensor

    @staticmethod
    def of(kernel: Kernel, sizes: Sequence[int], real: torch.dtype, device: torch.device) -> Reductions:
        """For tensors of these sizes."""
        first = np.zeros(len(sizes) + 1, dtype=np.int32)
        np.cumsum([-(-size // EXTENT) for size in sizes], out=first[1:])
        each, rows = int(first[-1]), max(len(p.measures) for p in kernel.passes)
        partials = torch.empty(max(1, rows * each), dtype=real, device=device)
        statistics = torch.empty(max(1, len(sizes) * len(kernel.statistics)), dtype=torch.float64, device=device)
        table = upload(torch.from_numpy(first), device)
        return Reductions(partials, each, table, torch.zeros_like(table), statistics)


@dataclass(slots=True)
class ReducingLauncher:
    """A kernel that reduces, bound to a batch."""

    kernel: Kernel
    device: torch.device
    real: torch.dtype
    variant: Mapping[str, bool]
    dtypes: dict[str, torch.dtype]
    geometries: tuple[Geometry, ...]
    table: Tensor
    varying: VaryingTable
    chunks: Chunks
    members: Tensor
    reductions: Reductions

    def only(self, members: Sequence[int]) -> ReducingLauncher:
        """See `optc.runtime.backend.Launcher`."""
        with on_device(self.device):
            varying, chunks = self.varying.only(members), self.chunks.only(members)
            numbers = upload(torch.tensor(members, dtype=torch.int32), self.device)
        return replace(self, dtypes=dict(self.dtypes), varying=varying, chunks=chunks, members=numbers)

    def launch(self, varying: Columns, scalars: Sequence[float], flags: Sequence[bool], gradient_factor: float) -> None:
        """See `optc.runtime.backend.Launcher`. Stages read scalars as float64 from memory; passes, if they are float64, too."""
        row = torch.tensor([*scalars, *map(float, flags), gradient_factor], dtype=torch.float64)
        memory = upload(row, self.device)
        if self.real == torch.float64:
            self._run(varying, memory[-1:], None, memory, 1, None)
        else:
            self._run(varying, gradient_factor, None, memory, 1, (scalars, flags))

    def run(
        self,
        varying: Columns,
        gradient_factor: float | Tensor,
        found_inf: Tensor | None,
        memory: Tensor | None,
        rows: int,
        scalars: Sequence[float],
        flags: Sequence[bool],
    ) -> None:
        """One step with scalars, flags and g's factor in `memory` (float64 [rows][scalars + flags])."""
        self._run(varying, gradient_factor, found_inf, memory, rows, None)

    def _run(
        self,
        varying: Columns,
        factor: float | Tensor,
        found_inf: Tensor | None,
        memory: Tensor | None,
        rows: int,
        given: tuple[Sequence[float], Sequence[bool]] | None,
    ) -> None:
        """`given`: scalars and flags that passes get as arguments."""
        moving = [s.name for s in self.kernel.streams if s.role in ("gradient", "input")]
        columns = [varying[name] for name in moving]
        if self.members.numel():
            self.dtypes |= {name: column[0].dtype for name, column in zip(moving, columns, strict=True)}
        with on_device(self.device):
            table = self.varying.of(columns)
            measured = True
            for one, shape in zip(self.kernel.passes, self.geometries, strict=True):
                self._stage(one.stage, measured, found_inf, memory, rows)
                measured = one.runs(self.variant)
                if measured and self.chunks.count and (one.streams or one.measures):
                    self._pass(one, shape, table, factor, found_inf, memory, rows, given)
            self._stage(self.kernel.finish, measured, found_inf, memory, rows)

    def _pass(
        self,
        one: Pass,
        shape: Geometry,
        table: Tensor,
        factor: float | Tensor,
        found_inf: Tensor | None,
        memory: Tensor | None,
        rows: int,
        given: tuple[Sequence[float], Sequence[bool]] | None,
    ) -> None:
        kernel, kept = self.kernel, self.reductions
        scalars, flags = given or ([0.0] * len(kernel.scalars), [False] * len(kernel.host_flags))
        one.triton.jit[(self.chunks.count,)](
            self.table,
            table,
            self.chunks.tensors,
            self.chunks.offsets,
            self.chunks.length,
            factor,
            found_inf,
            None if given else memory,
            rows,
            *scalars,
            *((kept.statistics,) if one.needs else ()),
            *((kept.partials, kept.each, kept.first) if one.measures else ()),
            *stream_dtypes(one.streams, self.dtypes),
            *self._static_flags(),
            *flags,
            triton_dtype(self.real),
            shape.lanes,
            shape.block,
            shape.tail,
            given is None,
            found_inf is not None,
            num_warps=WARPS,
        )

    def _stage(self, function: Any, measured: bool, found_inf: Tensor | None, memory: Tensor | None, rows: int) -> None:
        """`measured`: the pass before has left partials; otherwise its measures are those of no elements."""
        if function is None or not self.members.numel():
            return
        function.jit[(self.members.numel(),)](
            self.table,
            self.members,
            self.reductions.first if measured else self.reductions.none,
            self.reductions.partials,
            self.reductions.each,
            self.reductions.statistics,
            found_inf,
            memory,
            rows,
            *self._static_flags(),
            PARTIALS_PER_TURN,
            found_inf is not None,
            num_warps=WARPS,
        )

    def _static_flags(self) -> list[bool]:
        return [bool(self.variant[f]) for f in self.kernel.static_flags]


def prepare_reducing(kernel: Kernel, residents: Residents) -> ReducingLauncher:
    """Binds a kernel that reduces to a batch; see `TritonBackend.prepare`. Where only numbers stay, it needs their shapes."""
    stays = [s for s in kernel.streams if s.role in ("theta", "state")]
    present = [(s.name, residents.tensors.get(s.name)) for s in stays if not s.number]
    numbers = [residents.tensors.get(s.name) for s in stays if s.number]
    known = [column for _, column in present if column is not None]
    first = next(iter(residents.tensors.values()))
    device = first[0].device
    sizes = [shape.numel() for shape in residents.shapes] if residents.shapes else [tensor.numel() for tensor in known[0]]
    for function in (*(f for p in kernel.passes for f in (p.stage, p.triton)), kernel.finish):
        if function is not None:
            require_triton(function, device)
    varying = [s.name for s in kernel.streams if s.role in ("gradient", "input")]
    dtypes = {name: column[0].dtype for name, column in present if column is not None}
    dtypes |= dict.fromkeys(varying, residents.gradient_dtype)
    real = arithmetic_dtype(known[0][0].dtype if known else residents.gradient_dtype)
    with on_device(device):
        table, aligned = resident_table([column for _, column in present], sizes, device, numbers)
        return ReducingLauncher(
            kernel,
            device,
            real,
            residents.variant,
            dtypes,
            tuple(_geometry(p, dtypes, real, warp_size(device)) for p in kernel.passes),
            table,
            VaryingTable(aligned, len(varying), device),
            Chunks.of_length(sizes, EXTENT, device),
            upload(torch.arange(len(sizes), dtype=torch.int32), device),
            Reductions.of(kernel, sizes, real, device),
        )


def with_equal_lanes(shape: Geometry) -> Geometry:
    """The shape of a pass that measures: the masked loop has the lanes of the unmasked one; alignment changes no bit."""
    return replace(shape, tail=shape.block)


def _geometry(one: Pass, dtypes: Mapping[str, torch.dtype], real: torch.dtype, warp: int) -> Geometry:
    shape = geometry([dtypes[s.name] for s in one.streams if s.name in dtypes] or [real], warp)
    return with_equal_lanes(shape) if one.measures else shape
