"""Where values per row, column and matrix, and the partials of them, lie: what passes and stages must agree on.

All values of one extent lie in one float64 table, tensor after tensor; of a tensor, statistic after statistic. Partials lie
alike: of a row one per strip of panels across, of a column one per panel down, of a matrix or tensor one per panel, those of
one column of panels after another. A row of `shapes` says what belongs to a tensor.
"""

from __future__ import annotations

from collections.abc import Mapping

from optc.compiler.plan import Kernel, Pass
from optc.dsl.kinds import Extent

SHAPE = (
    "height", "width", "matrices", "row_panels", "col_panels", "strips",
    "first_matrix", "first_row", "first_col", "first_panel", "first_row_partial", "first_col_partial",
)  # fmt: skip
"""The columns of `shapes`, int64: rows and columns of a matrix, matrices; panels down and across a matrix, strips of panels
across it; what lies before this tensor in the tables: matrices, rows, columns, panels, partials of rows and of columns."""
COUNT = {Extent.ROW: "matrices * height", Extent.COL: "matrices * width", Extent.MATRIX: "matrices"}
"""How many values a tensor has."""
NAMES = {Extent.ROW: "row", Extent.COL: "col", Extent.MATRIX: "matrix"}


def from_shape(name: str) -> str:
    """A column of the tensor's row of `shapes`."""
    return f"tl.load(shape + {SHAPE.index(name)})"


def values_of(kernel: Kernel, extents: Mapping[str, Extent], extent: Extent) -> list[str]:
    """The statistics in the table of an extent, in order."""
    return [s for s in kernel.statistics if extents[s] is extent]


def partials_of(sweep: Pass, extents: Mapping[str, Extent], extent: Extent) -> list[tuple[str, str]]:
    """What a pass measures of an extent."""
    return [(m, operation) for m, operation in sweep.measures if extents.get(m, Extent.TENSOR) is extent]


def value_place(kernel: Kernel, extents: Mapping[str, Extent], statistic: str) -> str:
    """Where the values of a statistic of this tensor begin."""
    extent = extents[statistic]
    every = values_of(kernel, extents, extent)
    return _place(f"{NAMES[extent]}_values", f"first_{NAMES[extent]}", len(every), every.index(statistic), COUNT[extent])


def partial_place(sweep: Pass, extents: Mapping[str, Extent], measure: str) -> str:
    """Where the partials of a measure of this tensor begin."""
    extent = extents.get(measure, Extent.TENSOR)
    every = [m for m, _ in partials_of(sweep, extents, extent)]
    if extent in (Extent.ROW, Extent.COL):
        size = {Extent.ROW: "strips * matrices * height", Extent.COL: "row_panels * matrices * width"}[extent]
        first = f"first_{NAMES[extent]}_partial"
        return _place(f"{NAMES[extent]}_partials", first, len(every), every.index(measure), size)
    before = len(partials_of(sweep, extents, Extent.TENSOR)) if extent is Extent.MATRIX else 0
    return f"partials + {before + every.index(measure)} * partials_each + {from_shape('first_panel')}"


def _place(table: str, first: str, columns: int, index: int, size: str) -> str:
    begins = f"{from_shape(first)} * {columns}" if columns > 1 else from_shape(first)
    return f"{table} + {begins}" + (f" + {index} * ({size})" if index else "")
