"""Rows, columns and matrices of a parameter, and the shapes of what is kept for them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optc.runtime.schema import Extent, Kernel, Schema

IN_MATRICES: dict[Extent, tuple[bool, bool]] = {"matrix": (False, False), "row": (True, False), "col": (False, True)}
"""Whether a value varies along the last two dimensions: rows lie along the last."""


def view(shape: Sequence[int], matrix: bool) -> tuple[int, ...]:
    """The shape in which a program sees a parameter; `matrix`: as (first dimension, all others)."""
    return (shape[0], math.prod(shape[1:])) if matrix and len(shape) > 2 else tuple(shape)


def matrices(shape: Sequence[int], matrix: bool) -> tuple[int, int, int]:
    """How many matrices a parameter of two dimensions or more is, and their rows and columns."""
    *stack, rows, columns = view(shape, matrix)
    return math.prod(stack), rows, columns


def of_extent(extent: Extent, shape: Sequence[int], matrix: bool) -> tuple[int, ...]:
    """The shape of a value of this extent for a parameter of this shape (of two dimensions or more for rows and columns)."""
    if extent == "elem":
        return tuple(shape)
    if extent not in IN_MATRICES:
        return ()
    seen = view(shape, matrix)
    last = tuple(size if varies else 1 for size, varies in zip(seen[-2:], IN_MATRICES[extent], strict=True))
    return (*seen[:-2], *last)


def has_rows(schema: Schema) -> bool:
    """Whether the program looks at rows, columns or matrices: then its tensors lie in memory row by row."""
    return any(keeps_rows(kernel) for procedure in schema.procedures for kernel in procedure.kernels)


def keeps_rows(kernel: Kernel) -> bool:
    """Whether a kernel, or another of its procedure, has values per row, column or matrix."""
    return any(extent in IN_MATRICES for extent in (*kernel.extents, *(stream.extent for stream in kernel.streams)))
