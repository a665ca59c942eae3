"""A pass over matrices: one panel of rows and columns of one matrix per program.

Statistics of a row are loaded with the row, those of a column once per panel. What is measured of columns, matrices and tensors
is kept by lane while the program goes down its panel; of rows it is complete with each block. All of it goes to fixed places,
one per panel, where the stage after it adds it up: nothing depends on the launch, and there are no atomics.
"""

from __future__ import annotations

from collections.abc import Iterator

from optc.compiler.backends.triton.environment import ENVIRONMENT
from optc.compiler.backends.triton.lines import COMBINED, NEUTRAL
from optc.compiler.backends.triton.places import SHAPE, partial_place, partials_of, value_place
from optc.compiler.backends.triton.sweep import GEOMETRY_OF_PANELS, TABLES, TABLES_OF_PANELS, Sweep
from optc.compiler.layout import Call, laid_out
from optc.dsl.kinds import Extent

_CALL_INDENT = 12


def emit_panels(one: Sweep) -> str:
    """The function `{name}_panels_triton`, registered with `{name}_triton`; it calls the same tile. With a final newline."""
    streams = one.streams
    measured = partials_of(one.sweep, one.extents, Extent.ROW)
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
        reads_resident=any(s in one.columns.resident for s in streams),
        width=one.width,
        scalar_lines=one.scalar_lines(),
        flag_lines=one.flag_lines(),
        pointer_lines=one.pointer_lines(),
        aligned_lines=[one.hint(s, "at") for s in streams],
        need_lines=list(_needs(one)),
        row_needs=list(_row_needs(one)),
        total_lines=list(_totals(one, in_rows=False)),
        fresh_lines=list(_totals(one, in_rows=True)),
        row_outs=[
            (
                one.row_out[m],
                f"{partial_place(one.sweep, one.extents, m)} + heading",
                f"gpu.{COMBINED[o]}_in_row({one.value(m)})",
            )
            for m, o in measured
        ],
        whole_call=one.call([f"{one.aligned[s]} + i_by" for s in streams], "None", _CALL_INDENT),
        tail_call=one.call([f"{one.pointer[s]} + at + i" for s in streams], "mask", _CALL_INDENT),
        results=", ".join(one.totals) + " = " if one.totals else "",
        partial_lines=list(_partials(one)),
    )


def _needs(one: Sweep) -> Iterator[str]:
    """What all rows of the panel share."""
    for statistic in one.sweep.needs:
        name, extent = one.value(statistic), one.extents.get(statistic, Extent.TENSOR)
        if extent is Extent.TENSOR:
            place = f"statistics + {len(one.kernel.statistics)} * tensor + {one.kernel.statistics.index(statistic)}"
            yield f"{name} = tl.load({place}).to(real)"
        elif extent is Extent.MATRIX:
            yield f"{name} = tl.load({value_place(one.kernel, one.extents, statistic)} + matrix, matrix < matrices).to(real)"
        elif extent is Extent.COL:
            place = f"{value_place(one.kernel, one.extents, statistic)} + matrix * width + left"
            yield f"{name} = tl.load({place} + columns, columns < rest).to(real)"


def _row_needs(one: Sweep) -> Iterator[tuple[str, str, str]]:
    """Names of the value and of its place in the first row of the panel, and that place."""
    for statistic in one.sweep.needs:
        if one.extents.get(statistic) is Extent.ROW:
            place = value_place(one.kernel, one.extents, statistic)
            yield one.value(statistic), one.row_in[statistic], f"{place} + matrix * height + top"


def _totals(one: Sweep, in_rows: bool) -> Iterator[str]:
    for total, (measure, operation) in zip(one.totals, one.sweep.measures, strict=True):
        if (one.extents.get(measure) is Extent.ROW) is in_rows:
            yield f"{total} = tl.full((ROWS, COLUMNS), {NEUTRAL[operation]}, real)"


def _partials(one: Sweep) -> Iterator[str]:
    """What is kept of a panel once it is done."""
    for measure, operation in partials_of(one.sweep, one.extents, Extent.COL):
        place = partial_place(one.sweep, one.extents, measure)
        offset = "(matrix * row_panels + top // PANEL) * width + left + lanes"
        value = f"gpu.{COMBINED[operation]}_of({one.value(measure)})"
        yield _store(f"{place} + {offset}", value, "lanes < rest")
    for extent in (Extent.TENSOR, Extent.MATRIX):
        for measure, operation in partials_of(one.sweep, one.extents, extent):
            kept = f"gpu.{COMBINED[operation]}_of"
            place = partial_place(one.sweep, one.extents, measure)
            yield _store(f"{place} + panel", f"{kept}({kept}({one.value(measure)}))", "matrix < matrices")


def _store(place: str, value: str, mask: str) -> str:
    return laid_out(Call("tl.store", (place, value, mask)), 4)
