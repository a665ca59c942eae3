"""A pass over matrices: a program takes some panels of rows and columns of one matrix, one column of panels after another.

Statistics of a row are loaded with the row, those of a column once per column of panels. What is measured of columns, matrices
and tensors is kept by lane within a panel, and joined to a tree down the panels, so that as many of them can be one program's
as the launch likes; of rows a strip of panels across is added up, block by block, where its partial lies. There are no atomics.
"""

from __future__ import annotations

from collections.abc import Iterator

from optc.compiler.backends.triton.environment import ENVIRONMENT
from optc.compiler.backends.triton.lines import COMBINED, NEUTRAL
from optc.compiler.backends.triton.places import SHAPE, partial_place, partials_of, value_place
from optc.compiler.backends.triton.signs import in_panel
from optc.compiler.backends.triton.sweep import GEOMETRY_OF_PANELS, TABLES, TABLES_OF_PANELS, Sweep
from optc.compiler.backends.triton.trees import Tree, trees_of
from optc.compiler.layout import Call, laid_out
from optc.dsl.kinds import Extent

_CALL_INDENT = 12


def emit_panels(one: Sweep) -> str:
    """The function `{name}_panels_triton`, registered with `{name}_triton`; it calls the same tile. With a final newline."""
    streams = one.streams
    rows = partials_of(one.sweep, one.extents, Extent.ROW)
    columns = trees_of(one, Extent.COL)
    numbers = [tree for extent in (Extent.TENSOR, Extent.MATRIX) for tree in trees_of(one, extent)]
    return ENVIRONMENT.get_template("panels.py.j2").render(
        name=one.name,
        parameters=[
            *(f"{p}: tl.tensor" for p in (*TABLES, *one.scalars, *TABLES_OF_PANELS)),
            *(f"{one.dtype[s]}: tl.constexpr" for s in one.pointed),
            *(f"{p}: tl.constexpr" for p in (*one.static_flags, *one.host_flags, *GEOMETRY_OF_PANELS)),
        ],
        n_resident=len(one.columns.resident),
        n_varying=len(one.columns.varying),
        shape=SHAPE,
        strips="tl.load(shape + 5)" if rows else "col_panels",
        reads_resident=any(s in one.columns.resident for s in streams),
        width=one.width,
        scalar_lines=one.scalar_lines(),
        flag_lines=one.flag_lines(),
        pointer_lines=one.pointer_lines(),
        aligned_lines=[one.hint(s, "at") for s in one.pointed if s not in one.signs],
        also_aligned=" & (width % 8 == 0)" if one.signs else "",
        matrix_needs=list(_needs(one, Extent.TENSOR, Extent.MATRIX)),
        col_needs=list(_needs(one, Extent.COL)),
        row_needs=list(_row_needs(one)),
        total_lines=list(_totals(one, in_rows=False)),
        fresh_lines=list(_totals(one, in_rows=True)),
        row_outs=[_row_out(one, m, o) for m, o in rows],
        whole_call=one.call(one.places(one.aligned, " + i_by", "at + i_by"), "None", _CALL_INDENT, in_panel(one.signs)),
        tail_call=one.call(one.places(one.pointer, " + at + i", "at + i"), "mask", _CALL_INDENT, in_panel(one.signs)),
        results=", ".join(one.totals) + " = " if one.totals else "",
        tree_lines=[*(t.begun("(LEVELS, COLUMNS)") for t in columns), *(t.begun("(LEVELS,)") for t in numbers)],
        push_lines=[tree.pushed("down", 8, 2) for tree in (*columns, *numbers)],
        partial_lines=[
            *(_left(one, tree, "(matrix * row_panels + panel) * width + left + lanes", "lanes < rest") for tree in columns),
            *(_left(one, tree, "(matrix * col_panels + across) * row_panels + panel", "matrix < matrices") for tree in numbers),
        ],
    )


def _needs(one: Sweep, *wanted: Extent) -> Iterator[str]:
    """What all rows of a panel share."""
    for statistic in one.sweep.needs:
        name, extent = one.value(statistic), one.extents.get(statistic, Extent.TENSOR)
        if extent not in wanted:
            continue
        if extent is Extent.TENSOR:
            place = f"statistics + {len(one.kernel.statistics)} * tensor + {one.kernel.statistics.index(statistic)}"
            yield f"{name} = tl.load({place}).to(real)"
        elif extent is Extent.MATRIX:
            yield f"{name} = tl.load({value_place(one.kernel, one.extents, statistic)} + matrix, matrix < matrices).to(real)"
        elif extent is Extent.COL:
            place = f"{value_place(one.kernel, one.extents, statistic)} + matrix * width + left"
            yield f"{name} = tl.load({place} + columns, columns < rest).to(real)"


def _row_needs(one: Sweep) -> Iterator[tuple[str, str, str]]:
    """Names of the value and of its place in the first row of the panels, and that place."""
    for statistic in one.sweep.needs:
        if one.extents.get(statistic) is Extent.ROW:
            place = value_place(one.kernel, one.extents, statistic)
            yield one.value(statistic), one.row_in[statistic], f"{place} + matrix * height + top"


def _row_out(one: Sweep, measure: str, operation: str) -> tuple[str, str, str, str, str]:
    """The name of the place of the first row, that place, what a block adds, how, and to what in the first panel of a strip."""
    kind, place = COMBINED[operation], partial_place(one.sweep, one.extents, measure)
    return one.row_out[measure], f"{place} + heading", f"gpu.{kind}_in_row({one.value(measure)})", kind, NEUTRAL[operation]


def _totals(one: Sweep, in_rows: bool) -> Iterator[str]:
    for total, (measure, operation) in zip(one.totals, one.sweep.measures, strict=True):
        if (one.extents.get(measure) is Extent.ROW) is in_rows:
            yield f"{total} = tl.full((ROWS, COLUMNS), {NEUTRAL[operation]}, real)"


def _left(one: Sweep, tree: Tree, offset: str, mask: str) -> str:
    """What is kept of the panels of a column once they are done."""
    place = partial_place(one.sweep, one.extents, tree.measure)
    return laid_out(Call("tl.store", (f"{place} + {offset}", tree.folded(), mask)), 4)
