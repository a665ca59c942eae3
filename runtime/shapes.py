"""Rows, columns, matrices and picked elements of a parameter, and the shapes of what is kept for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from optc.runtime.hypers import Values
from optc.runtime.schema import Extent, Kernel, Schema, Seen, State

Integers: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

IN_MATRICES: dict[Extent, tuple[bool, bool]] = {"matrix": (False, False), "row": (True, False), "col": (False, True)}
"""Whether a value varies along the last two dimensions: rows lie along the last."""


def view(shape: Sequence[int], seen: Seen | None) -> tuple[int, ...]:
    """The shape in which a program sees a parameter: see `Schema.seen`."""
    if seen == "matrix" and len(shape) > 2:
        return shape[0], math.prod(shape[1:])
    return _squarest(math.prod(shape)) if seen == "square" and len(shape) >= 2 else tuple(shape)


@cache
def _squarest(size: int) -> tuple[int, int]:
    """(rows, columns): the factors of a size that are nearest to each other, more rows than columns where they differ."""
    columns = next((k for k in range(math.isqrt(size), 0, -1) if size % k == 0), 1)
    return size // columns, columns


def matrices(shape: Sequence[int], seen: Seen | None) -> tuple[int, int, int]:
    """How many matrices a parameter of two dimensions or more is, and their rows and columns."""
    *stack, rows, columns = view(shape, seen)
    return math.prod(stack), rows, columns


def count_of(extent: Extent, shape: Sequence[int], seen: Seen | None) -> int:
    """How many rows, columns or matrices a parameter of two dimensions or more has."""
    count, rows, columns = matrices(shape, seen)
    return {"row": count * rows, "col": count * columns, "matrix": count}[extent]


def of_state(state: State, schema: Schema, shape: Sequence[int], values: Values) -> tuple[int, ...]:
    """The shape of a state for a parameter of this shape (of two dimensions or more for rows and columns)."""
    if state.extent == "elem":
        return tuple(shape)
    if state.extent == "pick":
        return (-(-math.prod(shape) // period(schema, values)),)
    if state.extent not in IN_MATRICES:
        return ()
    seen = view(shape, schema.seen)
    last = tuple(size if varies else 1 for size, varies in zip(seen[-2:], IN_MATRICES[state.extent], strict=True))
    return (*seen[:-2], *last)


def period(schema: Schema, values: Values) -> int:
    """Every how many elements one is picked; 1 where none are."""
    p = None if schema.pick is None else values[schema.pick]
    return int(p) if isinstance(p, float | int) else 1


def needs_order(schema: Schema) -> bool:
    """Whether the program looks at rows, columns, matrices or picked elements: then memory has the order of the indices."""
    return schema.pick is not None or has_rows(schema)


def has_rows(schema: Schema) -> bool:
    """Whether the program has values per row, column or matrix."""
    return any(keeps_rows(kernel) for procedure in schema.procedures for kernel in procedure.kernels)


def keeps_rows(kernel: Kernel) -> bool:
    """Whether a kernel, or another of its procedure, has values per row, column or matrix."""
    return any(extent in IN_MATRICES for extent in (*kernel.extents, *(stream.extent for stream in kernel.streams)))


def lines_of(shape: Sequence[int], offset: Sequence[int], size: Sequence[int], seen: Seen | None) -> dict[str, Integers]:
    """Which rows, columns and matrices of a parameter are in a box of it, by their numbers, in the order of the box.

    The last two dimensions are rows and columns or, with "matrix", the first and all others.
    """
    box = [np.arange(at, at + length) for at, length in zip(offset, size, strict=True)]
    if len(shape) < 2:
        one = np.zeros(1, dtype=np.int64)
        return {"matrix": one, "row": one, "col": box[0] if box else one}
    at = 0 if seen == "matrix" else len(shape) - 2
    stack, rows, columns = (_numbers(shape[span], box[span]) for span in (slice(at), slice(at, at + 1), slice(at + 1, None)))
    return {
        "matrix": stack,
        "row": (stack[:, None] * shape[at] + rows).reshape(-1),
        "col": (stack[:, None] * math.prod(shape[at + 1 :]) + columns).reshape(-1),
    }


def _numbers(shape: Sequence[int], box: Sequence[Integers]) -> Integers:
    """The places of a box in memory of this shape, in order."""
    found = np.zeros(1, dtype=np.int64)
    for length, places in zip(shape, box, strict=True):
        found = (found[:, None] * length + places).reshape(-1)
    return found
