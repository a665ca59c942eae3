"""Tensors seen as matrices, on Triton: tables that say where panels, rows, columns and matrices are, and what is kept of them.

A pass runs over panels of `PANEL` rows and as many columns; of each it leaves a partial per row, per column and per panel in a
place of its own. So scratch is one number for every 128 elements, for each measure of rows and for each of columns of one pass
(of matrices narrower than a panel, one for each of their rows and columns), in the arithmetic dtype, and 8 bytes for every
statistic of a row, a column or a matrix. The sizes here are part of what a sum means to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from optc.runtime.backend import BackendUnavailable
from optc.runtime.schema import Extent, Kernel
from optc.runtime.shapes import keeps_rows, matrices
from optc.runtime.triton_device import WARPS, Geometry
from optc.runtime.triton_kernel import LazyKernel
from optc.runtime.triton_tables import Chunks, upload

Integers: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

PANEL = 128
"""Rows, and columns, of a panel."""
LANES = {"row": 128, "col": 128, "matrix": 1, "tensor": 512}
"""Values that one program of a stage works on; of `tensor`, lanes in which it adds up."""
DEPTH = {"row": 8, "col": 8, "matrix": 1024, "tensor": 1}
"""Lanes in which each of them is added up."""
MOST_IN_TILE = 1 << 31
"""Elements that offsets within a tile can span."""


def in_matrices(kernels: Sequence[Kernel], shapes: Sequence[torch.Size]) -> bool:
    """Whether kernels run over panels: they keep values of rows, columns or matrices, and all tensors have some."""
    return any(map(keeps_rows, kernels)) and all(len(shape) > 1 for shape in shapes)


@dataclass(frozen=True, slots=True)
class Matrices:
    """The tables of a batch; all launchers of a procedure share what they keep.

    `shapes`: a row per tensor, in the order of `optc.compiler.backends.triton.places.SHAPE`. `first_panels`: int32, the panels
    before each tensor, and their number. `over[extent]`: where the programs of a launch over rows, columns, matrices begin;
    `panels`: the same for panels. Values are float64, partials have the arithmetic dtype.
    """

    shapes: Tensor
    first_panels: Tensor
    panels: Chunks
    over: dict[str, Chunks]
    row_partials: Tensor
    col_partials: Tensor
    values: dict[Extent, Tensor]
    reduced: Tensor

    @staticmethod
    def of(kernels: Sequence[Kernel], shapes: Sequence[torch.Size], real: torch.dtype, device: torch.device) -> Matrices:
        """For tensors of these shapes. Raises BackendUnavailable for one whose rows are too long."""
        seen = np.array([matrices(shape, kernels[0].matrix) for shape in shapes], dtype=np.int64).reshape(-1, 3)
        count, height, width = seen.T
        if any(int(w) * _most_rows(real) >= MOST_IN_TILE for w, h in zip(width, height, strict=True) if h > 1):
            raise BackendUnavailable("a row has too many elements for the panels of the Triton backend")
        down, across = -(-height // PANEL), -(-width // PANEL)
        panels = count * down * across
        sizes: dict[Extent, Integers] = {"matrix": count, "row": count * height, "col": count * width}
        partials: dict[Extent, Integers] = {"row": count * height * across, "col": count * width * down}
        before = [_before(x) for x in (*sizes.values(), panels, *partials.values())]
        table = np.stack([height, width, count, down, across, *(b[:-1] for b in before)], axis=1)
        over: dict[str, Chunks] = {name: Chunks.of(size.tolist(), LANES[name], device) for name, size in sizes.items()}
        values = {n: _empty(int(size.sum()) * _kept(kernels, n), torch.float64, device) for n, size in sizes.items()}
        most = {n: max((kernel.most_measured(n) for kernel in kernels), default=0) for n in partials}
        places = int((count + 1).sum()) * max((f.reduced for k in kernels for f in _stages(k)), default=0)
        return Matrices(
            upload(torch.from_numpy(table), device),
            upload(torch.from_numpy(before[3].astype(np.int32)), device),
            Chunks.of(panels.tolist(), 1, device),
            over,
            _empty(int(partials["row"].sum()) * most["row"], real, device),
            _empty(int(partials["col"].sum()) * most["col"], real, device),
            values,
            _empty(places, torch.float64, device),
        )

    def only(self, members: Sequence[int]) -> Matrices:
        """The launches for some tensors; what is kept stays where it is."""
        return replace(self, panels=self.panels.only(members), over={n: c.only(members) for n, c in self.over.items()})

    @property
    def panel_count(self) -> int:
        """All panels of the batch, members or not."""
        return sum(self.panels.sizes)


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


def _empty(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(max(1, size), dtype=dtype, device=device)
