"""Rows and columns for native kernels: how matrices are cut, and the memory of values per row, column and matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from optc.runtime.schema import Kernel
from optc.runtime.shapes import Integers, keeps_rows, matrices

SMALLEST_TILE = 1 << 16
MOST_CUTS = 16
"""Parts of a tensor that threads share have 64 Ki elements or more. Matrices are cut where there are fewer than 16, into powers
of two, whatever the machine."""

SCRATCH = 3 << 15
"""Numbers (768 KiB) that parts of matrices leave for each other. The tensors of a wave share them; a matrix is cut into no more
parts than leave so many."""

LEFT_BEHIND = 1 << 16
"""Of how many numbers per measure parts that are whole rows may leave, rather than parts that leave the fewest."""

_MATRICES, _ROWS, _COLUMNS, _ROW_CUTS, _COLUMN_CUTS, _PER_TILE, _SCRATCH, _ROW_MEASURES = range(8)  # as `Grid` in matrices.hpp


def knows_matrices(kernel: Kernel) -> bool:
    """Whether a kernel's text is one for `load_matrices`."""
    return bool(kernel.passes) and keeps_rows(kernel)


def grids(shapes: Sequence[torch.Size], kernel: Kernel, block: int = 1, whole: bool = False) -> Integers:
    """A row for each tensor, as the kernel sees it: its shape and its cuts, which depend on the shape alone.

    `block`: elements that are encoded together. Where they are more than one, all tiles are whole rows and begin with a block.
    `whole`: nothing is cut; a tensor is one tile.
    """
    found = np.zeros((len(shapes), 8), dtype=np.int64)
    for row, shape in zip(found, shapes, strict=True):
        row[:3] = matrices(shape, kernel.seen) if len(shape) >= 2 else (1, 1, shape.numel())
    count, rows, columns = found[:, _MATRICES], found[:, _ROWS], found[:, _COLUMNS]
    elements = rows * columns
    of_rows, of_columns = kernel.most_measured("row"), kernel.most_measured("col")
    found[:, _ROW_CUTS] = found[:, _COLUMN_CUTS] = 1
    found[:, _ROW_MEASURES] = of_rows
    if whole:
        found[:, _PER_TILE] = np.maximum(count, 1)
        return found
    cuts = 2
    while cuts <= MOST_CUTS:
        # whole rows are read fastest; parts of rows leave less where there are many columns
        least = np.full(len(shapes), np.inf)
        worth = (elements >= cuts * SMALLEST_TILE) & (count * cuts < 2 * MOST_CUTS)
        for across in (1 << at for at in range(cuts.bit_length())):
            left = count * ((across - 1) * columns + (cuts // across - 1) * rows)
            asked = count * ((across - 1) * columns * of_columns + (cuts // across - 1) * rows * of_rows)
            possible = worth & (across <= np.maximum(rows, 1)) & (asked <= SCRATCH)
            if block > 1:
                possible &= (rows % across == 0) & (rows // across * columns % block == 0) & (across == cuts)
            better = possible & ((left < least) | (left <= LEFT_BEHIND))
            least[better], found[better, _ROW_CUTS], found[better, _COLUMN_CUTS] = left[better], across, cuts // across
        cuts *= 2
    whole = found[:, _ROW_CUTS] * found[:, _COLUMN_CUTS] == 1
    per_tile = np.clip(-(-SMALLEST_TILE // np.maximum(elements, 1)), 1, np.maximum(count, 1))
    together = block // np.gcd(block, np.maximum(elements, 1))
    per_tile = np.minimum(-(-per_tile // together) * together, np.maximum(count, 1))
    found[:, _PER_TILE] = np.where(whole, per_tile, 1)
    found[elements * count == 0, _PER_TILE] = np.maximum(count[elements * count == 0], 1)
    return found


@dataclass(frozen=True, slots=True)
class Tiles:
    """The tiles of some tensors, tensors of one tile first: the tensors, how many tiles each has, tiles' numbers and elements.

    `grids` has a row for each tensor of the batch; `waves` are the members before which the earlier ones must have ended, and
    `scratch` is how many numbers each wave needs at most.
    """

    chosen: Integers
    counts: Integers
    number: Integers
    elements: Integers
    grids: Integers
    waves: Integers
    scratch: int


def tile(all_grids: Integers, kernel: Kernel, members: Integers) -> Tiles:
    """The tiles of members."""
    table = all_grids.copy()
    per_matrix = table[:, _ROW_CUTS] * table[:, _COLUMN_CUTS]
    groups = -(-table[:, _MATRICES] // table[:, _PER_TILE])
    all_counts = np.maximum(groups, 1) * per_matrix
    chosen = np.concatenate([members[all_counts[members] <= 1], members[all_counts[members] > 1]])
    counts = all_counts[chosen]
    rows, columns = kernel.most_measured("row"), kernel.most_measured("col")
    lengths = table[:, _MATRICES]
    sizes = rows * (table[:, _COLUMN_CUTS] - 1) * lengths * table[:, _ROWS]
    sizes = sizes + columns * (table[:, _ROW_CUTS] - 1) * lengths * table[:, _COLUMNS]
    waves, used, most = [], 0, 0
    for at, size in enumerate(sizes[chosen].tolist()):
        if used and used + size > SCRATCH:
            waves.append(at)
            used = 0
        table[chosen[at], _SCRATCH] = used
        used += size
        most = max(most, used)
    number = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    elements = _elements(table[np.repeat(chosen, counts)], number)
    return Tiles(chosen, counts, number, elements, table, np.array(waves, dtype=np.int64), most)


def _elements(table: Integers, number: Integers) -> Integers:
    """The elements of each tile, by the row of its tensor and its number there: as `Tile` in matrices.hpp cuts."""
    per_matrix = table[:, _ROW_CUTS] * table[:, _COLUMN_CUTS]
    first = number // per_matrix * table[:, _PER_TILE]
    matrices = np.minimum(first + table[:, _PER_TILE], table[:, _MATRICES]) - first
    p, q = number % per_matrix // table[:, _COLUMN_CUTS], number % table[:, _COLUMN_CUTS]
    rows = table[:, _ROWS] * (p + 1) // table[:, _ROW_CUTS] - table[:, _ROWS] * p // table[:, _ROW_CUTS]
    begin, end = (table[:, _COLUMNS] // 16 * at // table[:, _COLUMN_CUTS] * 16 for at in (q, q + 1))
    end = np.where(q + 1 == table[:, _COLUMN_CUTS], table[:, _COLUMNS], end)
    found: Integers = matrices * rows * (end - begin)
    return found


class Vectors:
    """Memory of a procedure's statistics that are more than numbers: in float64, and rounded for passes that need them."""

    def __init__(self, kernels: Sequence[Kernel], shapes: Sequence[torch.Size], real: torch.dtype) -> None:
        first = kernels[0]
        size = {torch.float32: np.float32, torch.float64: np.float64}[real]
        needed = {name for kernel in kernels for one in kernel.passes for name in one.needs}
        shape = grids(shapes, first)
        lengths = {
            "row": shape[:, _MATRICES] * shape[:, _ROWS],
            "col": shape[:, _MATRICES] * shape[:, _COLUMNS],
            "matrix": shape[:, _MATRICES],
        }
        self._places: dict[
            int, tuple[np.ndarray[Any, Any], Integers, Integers]
        ] = {}  # memory, and where each tensor's begins, ends
        self.table = np.zeros((2 * len(first.statistics), len(shapes)), dtype=np.int64)
        for slot, (name, extent) in enumerate(zip(first.statistics, first.extents, strict=True)):
            if extent in lengths:
                self._place(2 * slot, lengths[extent], np.float64)
                if name in needed:
                    self._place(2 * slot + 1, lengths[extent], size)

    def _place(self, row: int, lengths: Integers, kind: type[Any]) -> None:
        """Memory for one value of every tensor, on lines of the cache of their own."""
        width = 64 // np.dtype(kind).itemsize
        padded = -(-lengths // width) * width
        memory = np.zeros(int(padded.sum()), dtype=kind)
        starts = np.cumsum(padded) - padded
        self._places[row] = memory, starts, starts + lengths
        self.table[row] = memory.ctypes.data + starts * memory.itemsize

    def exact(self, slot: int) -> np.ndarray[Any, Any]:
        """The values of a statistic for all tensors, in float64: where they are, `places` says."""
        return self._places[2 * slot][0]

    def rounded(self, slot: int) -> np.ndarray[Any, Any]:
        """As passes read them."""
        return self._places[2 * slot + 1][0]

    def places(self, slot: int, rounded: bool, tensors: Sequence[int], lines: Sequence[Integers] | None = None) -> Integers:
        """Where values of some tensors are, one tensor after the other: all of them, or those of some `lines` of each."""
        _, starts, ends = self._places[2 * slot + rounded]
        own = [np.arange(ends[t] - starts[t]) for t in tensors] if lines is None else lines
        return np.concatenate([np.zeros(0, dtype=np.int64), *(starts[t] + of for t, of in zip(tensors, own, strict=True))])
