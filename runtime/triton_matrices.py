"""Tensors seen as matrices, on Triton: tables that say where panels, rows, columns and matrices are, and what is kept of them.

A pass runs over panels of `PANEL` columns. A program takes one column of panels, or a strip of them where rows are measured,
and goes `tall` rows down. Of each column it leaves a partial; so down a matrix there are as many programs as the memory allows,
and whatever their number, they build the same trees. Of each row a strip leaves one; how many strips there are follows from the
width alone: at most four up to 32,768 columns, beyond them one for every 8,192, as a strip adds up one panel after another.

So what is kept are vectors: 8 bytes for every statistic of a row, a column or a matrix; up to 16 (float32) for every measure of
a row; 8 for every measure of a matrix or tensor in a column of panels; as many bytes as values of columns have for the partials
of columns, and what `triton_memory.py` allows beside. The sizes here are part of what a sum means to the last bit; `tall` is
not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from optc.runtime.backend import BackendUnavailable
from optc.runtime.schema import Extent, Kernel, Pass
from optc.runtime.shapes import keeps_rows, matrices
from optc.runtime.triton_device import WARPS, Geometry
from optc.runtime.triton_kernel import LazyKernel
from optc.runtime.triton_memory import MOST_PROGRAMS, most_measured
from optc.runtime.triton_tables import Chunks, choose_chunk, upload

Integers: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

PANEL = 128
"""Rows, and columns, of a panel."""
STRIPS, STRIP_PANELS = 4, (8, 64)
"""Most strips across a matrix, unless they would be wider than so many panels; they are no narrower than so few."""
LANES = {"row": 128, "col": 128, "matrix": 1, "tensor": 512}
"""Values that one program of a stage works on; of `tensor`, lanes in which it adds up."""
DEPTH = {"row": 8, "col": 8, "matrix": 1024, "tensor": 1}
"""Lanes in which each of them is added up."""
MOST_CHUNKS = 1024
"""Entries beyond one per tensor in the tables of stages; a launch covers what is longer in its second dimension."""
MOST_TALL = 1 << 30
MOST_IN_TILE = 1 << 31
"""Elements that offsets within a tile can span."""


def in_matrices(kernels: Sequence[Kernel], shapes: Sequence[torch.Size]) -> bool:
    """Whether kernels run over panels: they keep values of rows, columns or matrices, and all tensors have some."""
    return any(map(keeps_rows, kernels)) and all(len(shape) > 1 for shape in shapes)


@dataclass(frozen=True, slots=True)
class Matrices:
    """The tables of a batch; all launchers of a procedure share what they keep.

    `shapes`: a row per tensor, in the order of `optc.compiler.backends.triton.places.SHAPE`. A program has `tall` rows of a
    panel; `panel_count` are the panels of that height. `over[extent]`: where the programs of a launch over rows, columns,
    matrices begin; the same for `panels`, and for `strips` of them. Values are float64, partials of rows and columns have the
    arithmetic dtype.
    """

    shapes: Tensor
    tall: int
    panel_count: int
    panels: Chunks
    strips: Chunks
    over: dict[str, Chunks]
    row_partials: Tensor
    col_partials: Tensor
    values: dict[Extent, Tensor]
    reduced: Tensor

    @staticmethod
    def of(
        kernels: Sequence[Kernel], shapes: Sequence[torch.Size], real: torch.dtype, device: torch.device, memory: int
    ) -> Matrices:
        """For tensors of these shapes. Raises BackendUnavailable for one whose rows are too long.

        `memory`: the bytes that partials of columns and panels may take beside as many as values of columns take.
        """
        seen = np.array([matrices(shape, kernels[0].seen) for shape in shapes], dtype=np.int64).reshape(-1, 3)
        count, height, width = seen.T
        if any(int(w) * _most_rows(real) >= MOST_IN_TILE for w, h in zip(width, height, strict=True) if h > 1):
            raise BackendUnavailable("a row has too many elements for the panels of the Triton backend")
        sizes: dict[Extent, Integers] = {"matrix": count, "row": count * height, "col": count * width}
        most = {n: max((kernel.most_measured(n) for kernel in kernels), default=0) for n in ("row", "col")}
        across = -(-width // PANEL)
        strips = np.maximum(np.minimum(-(-across // STRIP_PANELS[0]), STRIPS), -(-across // STRIP_PANELS[1]))
        each = sizes["col"] * most["col"] * real.itemsize + 8 * count * across * most_measured(kernels)
        allowed = memory + 8 * int(sizes["col"].sum()) * _kept(kernels, "col")
        tall = PANEL
        while int((each * -(-height // tall)).sum()) > allowed and tall < min(MOST_TALL, int(height.max(initial=0))):
            tall *= 2
        down = -(-height // tall)
        panels = count * down * across
        partials: dict[Extent, Integers] = {"row": count * height * strips, "col": count * width * down}
        before = [_before(x) for x in (*sizes.values(), panels, *partials.values())]
        table = np.stack([height, width, count, down, across, strips, *(b[:-1] for b in before)], axis=1)
        over: dict[str, Chunks] = {n: _chunks(size, LANES[n], device, MOST_CHUNKS) for n, size in sizes.items()}
        values = {n: _empty(int(size.sum()) * _kept(kernels, n), torch.float64, device) for n, size in sizes.items()}
        places = int((count + 1).sum()) * max((f.reduced for k in kernels for f in _stages(k)), default=0)
        return Matrices(
            upload(torch.from_numpy(table), device),
            tall,
            int(panels.sum()),
            _chunks(panels, 1, device, MOST_PROGRAMS),
            _chunks(count * down * strips, 1, device, MOST_PROGRAMS),
            over,
            _empty(int(partials["row"].sum()) * most["row"], real, device),
            _empty(int(partials["col"].sum()) * most["col"], real, device),
            values,
            _empty(places, torch.float64, device),
        )

    def launched(self, kernel: Kernel, one: Pass) -> Chunks:
        """The programs of a pass."""
        return self.strips if kernel.measured(one, "row") else self.panels

    def only(self, members: Sequence[int]) -> Matrices:
        """The launches for some tensors; what is kept stays where it is."""
        over = {n: c.only(members) for n, c in self.over.items()}
        return replace(self, panels=self.panels.only(members), strips=self.strips.only(members), over=over)


def tile_rows(shape: Geometry, warp: int) -> int:
    """Rows of a block of `PANEL` columns with one access per thread."""
    return max(1, WARPS * warp * shape.lanes // PANEL)


def _most_rows(real: torch.dtype) -> int:
    """Rows of the largest block: 64 threads a warp with 8 elements of 2 bytes each, or 2 of 8 bytes."""
    return WARPS * 64 * (2 if real == torch.float64 else 8) // PANEL


def _before(sizes: Integers) -> Integers:
    """How many come before each, and all together."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])


def _kept(kernels: Sequence[Kernel], extent: Extent) -> int:
    return max(k.extents.count(extent) for k in kernels)


def _stages(kernel: Kernel) -> list[LazyKernel]:
    return [f for f in (*(p.stage for p in kernel.passes), kernel.finish) if f is not None]


def _chunks(sizes: Integers, least: int, device: torch.device, most: int) -> Chunks:
    values: list[int] = sizes.tolist()
    return Chunks.of_length(values, choose_chunk(values, least, most), device)


def _empty(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(max(1, size), dtype=dtype, device=device)
