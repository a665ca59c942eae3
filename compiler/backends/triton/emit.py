"""Kernels of a plan as Triton: a tile (load, the spec's lines, store) and the loops over all tensors that call it.

One launch covers every tensor of a batch. A program takes one chunk of one tensor, found through a table of pointers; whole
blocks go through an unmasked loop whose 16-byte accesses the alignment hint allows, the rest through a masked one.

A kernel that reduces is such a pair for every pass, and one program per tensor for every stage (`stage.py`). What is measured
is kept by lane and leaves one partial per chunk. Chunks have one extent there, and the masked loop the lanes of the unmasked
one: a result depends on the elements of its tensor, not on where they lie or what else is in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from optc.compiler.backends.names import Namer
from optc.compiler.backends.triton import flow
from optc.compiler.backends.triton.columns import TableColumns, sort_of
from optc.compiler.backends.triton.environment import ENVIRONMENT
from optc.compiler.backends.triton.lines import COMBINED, NEUTRAL
from optc.compiler.backends.triton.scalars import emit_scalars
from optc.compiler.backends.triton.spelling import RESERVED, Spelling
from optc.compiler.backends.triton.stage import emit_stage
from optc.compiler.backends.triton.tile import Tile
from optc.compiler.ir import reads
from optc.compiler.layout import Call, filled, laid_out
from optc.compiler.plan import Kernel, Pass
from optc.dsl.kinds import Sort
from optc.dsl.program import Expression, Role
from optc.dsl.source import Source

TABLES = (
    "residents", "varying", "chunk_tensors", "chunk_offsets", "chunk", "gradient_factor", "found_inf", "scalars", "scalar_rows",
)  # fmt: skip
"""The first parameters of every pass, before its scalars."""
NEEDING = ("statistics",)
"""The next ones of a pass that reads statistics: float64 [tensors][statistics]."""
MEASURING = ("partials", "partials_each", "first_partials")
"""The next ones of a pass that measures: a row for each measure, its length, and where a tensor's partials begin in it."""
GEOMETRY = ("real", "LANES", "BLOCK", "TAIL", "SCALARS_IN_MEMORY", "HAS_FOUND_INF")
"""The last parameters of every pass, after the dtypes of its streams and its flags."""
__all__ = ["GEOMETRY", "MEASURING", "NEEDING", "TABLES", "emit_kernel", "emit_scalars"]
_LOCALS = frozenset({"program", "tensor", "base", "resident", "changing", "n", "i", "j", "whole", "factor"})
_LOCALS_REDUCING = frozenset({*NEEDING, *MEASURING, "row", "place"})
_CALL_INDENT = 12  # of the arguments of a call within a loop of a kernel


@dataclass(frozen=True, slots=True)
class _Names:
    """Names in one pass: of values; of each stream's pointer, of the same pointer where it is aligned, of its dtype."""

    value: Namer
    pointer: dict[str, str]
    aligned: dict[str, str]
    dtype: dict[str, str]


def emit_kernel(kernel: Kernel, source: Source) -> str:
    """Triton functions, two blank lines apart, with a final newline.

    An elementwise kernel is `{kernel.name}_tile` and `{kernel.name}_triton`. Of one that reduces, pass k is
    `{kernel.name}_pass_{k}_tile` and `…_triton`, and stage k, where there is one, `{kernel.name}_stage_{k}_triton`.
    """
    if not kernel.passes:
        return _emit_pass(kernel.name, kernel.sweeps[0], kernel, source)
    parts = []
    for index in range(len(kernel.passes) + 1):
        if kernel.has_stage(index):
            parts.append(emit_stage(kernel, index, source))
        if index < len(kernel.passes):
            parts.append(_emit_pass(f"{kernel.name}_pass_{index}", kernel.passes[index], kernel, source))
    return "\n\n".join(parts)


def _emit_pass(name: str, sweep: Pass, kernel: Kernel, source: Source) -> str:
    names = _names(sweep, kernel)
    columns = TableColumns.of(kernel)
    streams = [s.name for s in sweep.streams]
    used = _used(sweep, kernel)
    scalars = [names.value(s) for s in kernel.scalars]
    static_flags = [names.value(f) for f in kernel.static_flags]
    host_flags = [names.value(f) for f in kernel.host_flags]
    given = [names.value(s) for s in kernel.scalars if s in used]
    flags_given = [names.value(f) for f in (*kernel.static_flags, *kernel.host_flags) if f in used]
    totals = [names.value(m) for m, _ in sweep.measures]
    needs = [names.value(s) for s in sweep.needs]
    conditions = tuple(s for s in sweep.needs if sort_of(s, kernel) is Sort.BOOL)
    spelling = _spelling(kernel, names.value)
    last = filled((*totals, *given, *flags_given, *needs, "factor", "real"), _CALL_INDENT)
    rows = [("resident", i, s) for i, s in enumerate(columns.resident) if s in streams]
    rows += [("changing", i, s) for i, s in enumerate(columns.varying) if s in streams]
    return ENVIRONMENT.get_template("kernel.py.j2").render(
        name=name,
        tile_parameters=[
            *(f"{names.pointer[s]}: tl.tensor" for s in streams),
            "mask: tl.tensor",
            *(f"{s}: tl.tensor" for s in (*totals, *given)),
            *(f"{names.value(f)}: tl.constexpr" for f in kernel.static_flags if f in used),
            *(f"{names.value(f)}: tl.tensor" for f in kernel.host_flags if f in used),
            *(f"{s}: tl.tensor" for s in (*needs, "factor")),
            "real: tl.constexpr",
        ],
        tile_lines=list(Tile(sweep, conditions, kernel.static_flags, spelling, names.pointer, source).lines()),
        parameters=[
            *(f"{p}: tl.tensor" for p in (*TABLES, *scalars)),
            *(f"{p}: tl.tensor" for p in (*(NEEDING if needs else ()), *(MEASURING if totals else ()))),
            *(f"{p}: tl.constexpr" for p in (*(names.dtype[s] for s in streams), *static_flags, *host_flags, *GEOMETRY)),
        ],
        n_resident=len(columns.resident),
        n_varying=len(columns.varying),
        width=len(scalars) + len(host_flags),
        scalar_lines=[_read_scalar(names.value(s), i) for i, s in enumerate(kernel.scalars) if s in used],
        flag_lines=[
            f"{f} = tl.load(scalars + {len(scalars) + i}) != 0"
            for i, (f, name) in enumerate(zip(host_flags, kernel.host_flags, strict=True))
            if name in used
        ],
        pointer_lines=[
            f"{names.pointer[s]} = tl.load({table} + {i}).to(tl.pointer_type({names.dtype[s]}))" for table, i, s in rows
        ],
        aligned_lines=[_hint(names.aligned[s], names.pointer[s]) for s in streams],
        offset_lines=[f"{names.pointer[s]} = {names.pointer[s]} + base" for s in streams],
        whole_call=[*filled((*(f"{names.aligned[s]} + i" for s in streams), "None"), _CALL_INDENT), *last],
        tail_call=[*filled((*(f"{names.pointer[s]} + i" for s in streams), "i < n"), _CALL_INDENT), *last],
        row=f"statistics + {len(kernel.statistics)} * tensor",
        need_lines=[_read_need(names.value(s), s, kernel) for s in sweep.needs],
        results=", ".join(totals) + " = " if totals else "",
        returned={0: "None", 1: "tl.tensor"}.get(len(totals), "tuple[tl.tensor, ...]"),
        total_lines=[f"{t} = tl.full((BLOCK,), {NEUTRAL[o]}, real)" for t, (_, o) in zip(totals, sweep.measures, strict=True)],
        partial_lines=[
            f"tl.store(place + {i} * partials_each, gpu.{COMBINED[o]}_of({t}))"
            for i, (t, (_, o)) in enumerate(zip(totals, sweep.measures, strict=True))
        ],
    )


def _used(sweep: Pass, kernel: Kernel) -> set[str]:
    """The scalars and flags that a pass reads; an elementwise kernel's own are all there for it."""
    if not kernel.passes:
        return {*kernel.scalars, *kernel.static_flags, *kernel.host_flags}
    return flow.count_reads(sweep.body).keys() | {r.symbol.name for s in sweep.streams for r in reads(s.exists)}


def _read_scalar(name: str, index: int) -> str:
    return laid_out(Call(f"{name} = gpu.read_scalar", (name, "scalars", str(index), "SCALARS_IN_MEMORY", "real")), 4)


def _read_need(name: str, statistic: str, kernel: Kernel) -> str:
    return f"{name} = tl.load(row + {kernel.statistics.index(statistic)}).to(real)"


def _hint(aligned: str, pointer: str) -> str:
    return f"{aligned} = tl.multiple_of({pointer} + base, LANES * {pointer}.dtype.element_ty.primitive_bitwidth // 8)"


def _spelling(kernel: Kernel, spell: Namer) -> Spelling:
    def static(condition: Expression) -> bool:
        return all(r.symbol.role is Role.FLAG and r.symbol.name in kernel.static_flags for r in reads(condition))

    return Spelling(spell, "real", static)


def _names(sweep: Pass, kernel: Kernel) -> _Names:
    taken = RESERVED | _LOCALS | set(TABLES) | set(GEOMETRY)
    if kernel.passes:
        taken |= _LOCALS_REDUCING
    value = Namer(taken)
    spec = {*(s.name for s in sweep.streams), *kernel.scalars, *kernel.static_flags, *kernel.host_flags}
    spec |= flow.bound_by(sweep.body)[1] | flow.count_reads(sweep.body).keys()
    derived = Namer({value(name) for name in sorted(spec)} | taken)
    pointer, aligned, dtype = ({s.name: derived(s.name + ending) for s in sweep.streams} for ending in ("_at", "_by", "_type"))
    return _Names(value, pointer, aligned, dtype)
