"""Rows, columns and matrices of a parameter, and the shapes of what is kept for them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optc.runtime.schema import Extent, Schema

_LAST = {"matrix": (False, False), "row": (True, False), "col": (False, True)}
"""Whether a value varies along the last two dimensions: rows lie along the last."""


def view(shape: Sequence[int], matrix: bool) -> tuple[int, ...]:
    """The shape in which a program sees a parameter; `matrix`: as (first dimension, all others)."""
    return (shape[0], math.prod(shape[1:])) if matrix and len(shape) > 2 else tuple(shape)


def of_extent(extent: Extent, shape: Sequence[int], matrix: bool) -> tuple[int, ...]:
    """The shape of a value of this extent for a parameter of this shape (of two dimensions or more for rows and columns)."""
    if extent == "elem":
        return tuple(shape)
    if extent not in _LAST:
        return ()
    seen = view(shape, matrix)
    last = tuple(size if varies else 1 for size, varies in zip(seen[-2:], _LAST[extent], strict=True))
    return (*seen[:-2], *last)


def has_rows(schema: Schema) -> bool:
    """Whether the program looks at rows, columns or matrices: then its tensors lie in memory row by row."""
    of_states = (state.extent for state in schema.states)
    of_kernels = (extent for procedure in schema.procedures for kernel in procedure.kernels for extent in kernel.extents)
    return any(extent in _LAST for extent in (*of_states, *of_kernels))
