"""Kernels that reduce, on Triton: a launch for every pass and for every stage between them, whatever the number of tensors.

What a tensor measures is a binary tree over leaves of `LEAF` elements, in float64. A program of a pass builds a whole piece of
it, 2^k leaves, and leaves one partial; the stage after it joins the pieces, one program per tensor. So k is free, and follows
from how much memory partials may take; what is measured depends neither on it nor on the rest of the batch, and there are no
atomics. Where kernels know rows and columns, passes run over panels and stages over rows, columns and matrices
(`triton_matrices.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optc.runtime.backend import BackendUnavailable, Residents
from optc.runtime.columns import Columns
from optc.runtime.draws import draws_for
from optc.runtime.schema import Kernel, Pass
from optc.runtime.shapes import keeps_rows
from optc.runtime.triton_device import (
    WARPS,
    Geometry,
    geometry,
    largest_block,
    on_device,
    require_triton,
    stream_dtypes,
    triton_dtype,
    warp_size,
)
from optc.runtime.triton_kernel import LazyKernel
from optc.runtime.triton_matrices import DEPTH, LANES, PANEL, Matrices, tile_rows
from optc.runtime.triton_memory import levels
from optc.runtime.triton_reductions import LEAF, Reductions
from optc.runtime.triton_tables import VaryingTable, in_memory, on_host, resident_table, upload

LONGEST_STRIDE = 1 << 62
"""Stands for all longer ones: products with the number of a picked element fit into 64 bits."""
PARTIALS_PER_TURN = 256
"""Partials that a stage joins at a time; a power of two."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a launch is given: where gradients are, g's factor, scalars in `memory` and, where passes get them so, as
    `arguments`.
    """

    table: Tensor
    factor: float | Tensor
    found_inf: Tensor | None
    memory: Tensor | None
    rows: int
    arguments: tuple[Sequence[float], Sequence[bool]] | None


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
    members: Tensor
    parts_at: Tensor
    reductions: Reductions

    def only(self, members: Sequence[int]) -> ReducingLauncher:
        """See `optc.runtime.backend.Launcher`."""
        with on_device(self.device):
            varying = self.varying.only(members)
            numbers = upload(torch.tensor(members, dtype=torch.int32), self.device)
            kept = self.reductions.only(members)
        return replace(self, dtypes=dict(self.dtypes), varying=varying, members=numbers, reductions=kept)

    def parts(self) -> Tensor:
        """See `optc.runtime.backend.Launcher`."""
        return self.reductions.statistics.index_select(0, self.members).index_select(1, self.parts_at)

    def launch(
        self, varying: Columns, scalars: Sequence[float | Tensor], flags: Sequence[bool], gradient_factor: float
    ) -> None:
        """See `optc.runtime.backend.Launcher`."""
        self._run(self.given(varying, scalars, flags, gradient_factor))

    def given(
        self, varying: Columns, scalars: Sequence[float | Tensor], flags: Sequence[bool], gradient_factor: float
    ) -> Given:
        """What a launch is given. Stages read scalars as float64 from memory.

        Passes do, too, if they are float64 or a scalar is on the device.
        """
        memory, known = in_memory(scalars, flags, gradient_factor, self.device), on_host(scalars)
        if self.real == torch.float64 or known is None:
            return Given(self._table(varying), memory[-1:], None, memory, 1, None)
        return Given(self._table(varying), gradient_factor, None, memory, 1, (known, flags))

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
        self._run(Given(self._table(varying), gradient_factor, found_inf, memory, rows, None))

    def _table(self, varying: Columns) -> Tensor:
        """Where gradients and inputs are."""
        moving = [s.name for s in self.kernel.streams if not s.stays]
        columns = [varying[name] for name in moving]
        if self.members.numel():
            self.dtypes |= {name: column[0].dtype for name, column in zip(moving, columns, strict=True)}
        with on_device(self.device):
            return self.varying.of(columns)

    def _run(self, given: Given) -> None:
        for k in range(len(self.kernel.passes)):
            self.stage(k, given)
            self.sweep(k, given)
        self.stage(len(self.kernel.passes), given)

    def runs(self, k: int) -> bool:
        """Whether pass k has something to do; what is before the first has."""
        return k < 0 or self.kernel.passes[k].runs(self.variant)

    def stage_before(self, k: int) -> LazyKernel | None:
        """The stage before pass k, or after the last."""
        passes = self.kernel.passes
        found: LazyKernel | None = passes[k].stage if k < len(passes) else self.kernel.finish
        return found

    def stage(self, k: int, given: Given, steps: slice = slice(None)) -> None:
        """Runs the stage before pass k, or after the last; of one that is several launches, some `steps`."""
        with on_device(self.device):
            self._stage(self.stage_before(k), self.runs(k - 1), given, steps)

    def sweep(self, k: int, given: Given) -> None:
        """Runs pass k."""
        one = self.kernel.passes[k]
        if self.runs(k) and (one.streams or one.measures):
            with on_device(self.device):
                self._pass(one, self.geometries[k], given)

    def _in_panels(self, one: Pass) -> Matrices | None:
        """The panels that a pass runs over, if it does."""
        return self.reductions.matrices if one.triton.panels is not None else None

    def _pass(
        self,
        one: Pass,
        shape: Geometry,
        found: Given,
    ) -> None:
        kernel, kept, matrices = self.kernel, self.reductions, self._in_panels(one)
        chunks = kept.chunks if matrices is None else matrices.launched(kernel, one)
        if not chunks.count:
            return
        given, found_inf = found.arguments, found.found_inf
        scalars, flags = given or ([0.0] * len(kernel.scalars), [False] * len(kernel.host_flags))
        first = (
            self.table,
            found.table,
            chunks.tensors,
            chunks.first,
            chunks.length,
            found.factor,
            found_inf,
            None if given else found.memory,
            found.rows,
            *scalars,
        )
        constants = (*stream_dtypes(one.streams, self.dtypes), *self._static_flags(), *flags, triton_dtype(self.real))
        last = given is None, found_inf is not None
        if matrices is None:
            one.triton.jit[(chunks.count,)](
                *first,
                *self._stride(one, given),
                *((kept.statistics,) if one.needs else ()),
                *((kept.partials, kept.each, kept.first) if one.measures else ()),
                *constants,
                shape.lanes,
                shape.block,
                shape.tail,
                *last,
                *((LEAF, levels(chunks.length // LEAF)) if one.measures else ()),
                num_warps=shape.warps,
            )
            return
        one.triton.panels.jit[(chunks.count, chunks.length)](
            *first,
            kept.statistics,
            kept.partials,
            matrices.panel_count,
            matrices.shapes,
            matrices.row_partials,
            matrices.col_partials,
            *(matrices.values[extent] for extent in ("row", "col", "matrix")),
            matrices.tall,
            *constants,
            shape.lanes,
            tile_rows(shape, warp_size(self.device)),
            PANEL,
            PANEL,
            *last,
            levels(matrices.tall // PANEL),
            num_warps=WARPS,
        )

    def _stride(self, one: Pass, given: tuple[Sequence[float], Sequence[bool]] | None) -> tuple[int, ...]:
        """Every how many elements one is picked; not looked at where scalars are in memory."""
        if self.kernel.pick is None or not one.picks:
            return ()
        return (1 if given is None else min(int(given[0][self.kernel.scalars.index(self.kernel.pick)]), LONGEST_STRIDE),)

    def _stage(
        self,
        function: LazyKernel | None,
        measured: bool,
        given: Given,
        steps: slice,
    ) -> None:
        """`measured`: the pass before has left partials; otherwise it measured no elements."""
        if function is None or not self.members.numel():
            return
        kept = self.reductions
        if kept.matrices is None or not function.steps:
            function.jit[(self.members.numel(),)](
                self.table,
                self.members,
                kept.first if measured else kept.none,
                kept.partials,
                kept.each,
                kept.statistics,
                given.found_inf,
                given.memory,
                given.rows,
                *self._static_flags(),
                PARTIALS_PER_TURN,
                given.found_inf is not None,
                num_warps=WARPS,
            )
            return
        for step in function.steps[steps]:
            self._step(step, kept.matrices, measured, given)

    def _step(
        self,
        step: LazyKernel,
        matrices: Matrices,
        measured: bool,
        given: Given,
    ) -> None:
        """One launch of a stage."""
        extent = step.over
        chunks = matrices.over.get(extent)
        grid = (self.members.numel(),) if chunks is None else (chunks.count, -(-chunks.length // LANES[extent]))
        if not grid[0]:
            return
        step.jit[grid](
            self.table,
            self.members,
            None if chunks is None else chunks.tensors,
            None if chunks is None else chunks.first,
            matrices.shapes,
            self.reductions.partials,
            matrices.panel_count,
            matrices.row_partials,
            matrices.col_partials,
            int(measured),
            self.reductions.statistics,
            *(matrices.values[name] for name in ("row", "col", "matrix")),
            matrices.reduced,
            given.found_inf,
            given.memory,
            given.rows,
            *self._static_flags(),
            triton_dtype(self.real),
            LANES[extent],
            DEPTH[extent],
            given.found_inf is not None,
            num_warps=WARPS,
        )

    def _static_flags(self) -> list[bool]:
        return [bool(self.variant[f]) for f in self.kernel.static_flags]


def prepare_reducing(
    kernels: Sequence[Kernel], residents: Sequence[Residents], real: torch.dtype, device: torch.device
) -> list[ReducingLauncher]:
    """Binds the kernels of a procedure that reduce to a batch; see `TritonBackend.prepare`."""
    if not kernels:
        return []
    for function in (f for k in kernels for f in (*(f for p in k.passes for f in (p.stage, p.triton)), k.finish)):
        if function is not None:
            require_triton(function, device)
    sizes = max((r.sizes(k) for k, r in zip(kernels, residents, strict=True)), key=len)
    shapes = next((r.shapes for r in residents if r.shapes), None) or _shapes(kernels, residents)
    with on_device(device):
        kept = Reductions.of(kernels, shapes, sizes, real, device)
        return [_bound(kernel, r, sizes, real, device, kept) for kernel, r in zip(kernels, residents, strict=True)]


def _shapes(kernels: Sequence[Kernel], residents: Sequence[Residents]) -> list[torch.Size]:
    """Those of the tensors per element."""
    for kernel, one in zip(kernels, residents, strict=True):
        for stream in kernel.streams:
            if stream.extent == "elem" and stream.name in one.tensors:
                return [tensor.shape for tensor in one.tensors[stream.name]]
    return []


def _bound(
    kernel: Kernel, residents: Residents, sizes: Sequence[int], real: torch.dtype, device: torch.device, kept: Reductions
) -> ReducingLauncher:
    stays = [s for s in kernel.streams if s.stays]
    present = [s for s in stays if s.per_element or s.numbering]
    others = [residents.column(s, len(sizes)) for s in stays if not (s.per_element or s.numbering)]
    books = [s.codebook(residents.variant) for s in kernel.streams if not s.beside]
    of_numbers = any(book is not None and book.bits > 1 for book in books)
    if (of_numbers and keeps_rows(kernel)) or (any(books) and kernel.pick is not None):
        raise BackendUnavailable("Triton kernels with rows, columns or picked elements do not keep states as codes")
    varying = [s.name for s in kernel.streams if not s.stays]
    dtypes = {s.name: column[0].dtype for s in present if (column := residents.tensors.get(s.name))}
    dtypes |= dict.fromkeys(varying, residents.gradient_dtype)
    table, aligned = resident_table([residents.column(s, len(sizes)) for s in present], sizes, device, others)
    return ReducingLauncher(
        kernel,
        device,
        real,
        residents.variant,
        dtypes,
        tuple(_geometry(p, dtypes, real, warp_size(device), residents.variant) for p in kernel.passes),
        table,
        VaryingTable(aligned, len(varying), device),
        upload(torch.arange(len(sizes), dtype=torch.int32), device),
        upload(torch.tensor([kernel.statistics.index(name) for name in kernel.parts], dtype=torch.int32), device),
        kept,
    )


def with_equal_lanes(shape: Geometry) -> Geometry:
    """The shape of a pass that measures: the masked loop has the lanes of the unmasked one; alignment changes no bit."""
    return replace(shape, tail=shape.block)


def _geometry(
    one: Pass, dtypes: Mapping[str, torch.dtype], real: torch.dtype, warp: int, variant: Mapping[str, bool]
) -> Geometry:
    numbers = [dtypes[s.name] for s in one.streams if dtypes.get(s.name, torch.uint8) != torch.uint8]
    shape = geometry(numbers or [real], warp, largest_block(one.streams, variant), draws_for(one.streams))
    return with_equal_lanes(shape) if one.measures else shape
