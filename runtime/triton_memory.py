"""How much memory the partials of a step may take: less than 1 MiB with all tables, beside vectors of rows and columns.

A program leaves a partial of everything that it measures, and programs may take pieces of any size. So the pieces are chosen
for the batch: as small as the memory allows, since many programs keep a GPU busy. A partial for every tensor is the least
there can be; with its rows in the tables that is 100 to 250 bytes per tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

from optc.runtime.schema import Kernel

MEMORY = (1 << 20) - (1 << 17)
"""Bytes of tables and partials; the rest of a MiB is for kernels without reductions, and bounds of the allocator's blocks."""
LEAST = 1 << 16
"""Bytes for partials where tables of thousands of tensors take the rest."""
MOST_PROGRAMS = 16384
"""Of a launch, beyond one per tensor; more of them keep no GPU busier."""


def levels(leaves: int) -> int:
    """Entries of the stack in which a program joins so many leaves, a power of two: one per level of their tree, rounded up."""
    return 1 << (leaves.bit_length() - 1).bit_length()


def most_measured(kernels: Sequence[Kernel]) -> int:
    """The measures of the pass that has most of them."""
    return max(len(p.measures) for k in kernels for p in k.passes)


def left_for_partials(kernels: Sequence[Kernel], tensors: int) -> int:
    """Bytes that tables leave: pointers and a length of each tensor for every kernel, numbers of it (int32), statistics."""
    columns = sum(len(k.streams) + 2 for k in kernels) + max(len(k.statistics) for k in kernels)
    return max(LEAST, MEMORY - tensors * (8 * columns + 4 * (4 + len(kernels))))


def most_programs(kernels: Sequence[Kernel], tensors: int, memory: int) -> int:
    """How many programs a pass may have beyond one per tensor: 4 bytes in a table, and 8 for each of its measures."""
    each = 4 + 8 * most_measured(kernels)
    return max(1, min(MOST_PROGRAMS, (memory - each * tensors) // each))
