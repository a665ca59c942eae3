"""Kernels of a plan as Triton: a tile (load, the spec's lines, store) and the loops over all tensors that call it.

One launch covers every tensor of a batch. A program takes one chunk of one tensor, found through a table of pointers; whole
blocks go through an unmasked loop whose 16-byte accesses the alignment hint allows, the rest through a masked one.
"""

from __future__ import annotations

from dataclasses import dataclass

from optc.compiler.backends.names import Namer
from optc.compiler.backends.triton import flow
from optc.compiler.backends.triton.environment import ENVIRONMENT
from optc.compiler.backends.triton.scalars import emit_scalars
from optc.compiler.backends.triton.spelling import RESERVED, Spelling
from optc.compiler.backends.triton.tile import Tile
from optc.compiler.ir import reads
from optc.compiler.layout import Call, filled, laid_out
from optc.compiler.plan import Kernel
from optc.dsl.program import Expression, Role
from optc.dsl.source import Source

TABLES = (
    "residents", "varying", "chunk_tensors", "chunk_offsets", "chunk", "gradient_factor", "found_inf", "scalars", "scalar_rows",
)  # fmt: skip
"""The first parameters of every kernel, before its scalars."""
GEOMETRY = ("real", "LANES", "BLOCK", "TAIL", "SCALARS_IN_MEMORY", "HAS_FOUND_INF")
"""The last parameters of every kernel, after the dtypes of its streams and its flags."""
__all__ = ["GEOMETRY", "TABLES", "emit_kernel", "emit_scalars"]
_LOCALS = frozenset({"program", "tensor", "base", "resident", "changing", "n", "i", "j", "whole", "factor"})
_CALL_INDENT = 12  # of the arguments of a call within a loop of a kernel


@dataclass(frozen=True, slots=True)
class _Names:
    """Names in one kernel: of values; of each stream's pointer, of the same pointer where it is aligned, of its dtype."""

    value: Namer
    pointer: dict[str, str]
    aligned: dict[str, str]
    dtype: dict[str, str]


def emit_kernel(kernel: Kernel, source: Source) -> str:
    """Two Triton functions, `{kernel.name}_tile` and `{kernel.name}_triton`, two blank lines apart, with a final newline."""
    names = _names(kernel)
    resident = [s.name for s in kernel.streams if s.role in (Role.THETA, Role.STATE)]
    varying = [s.name for s in kernel.streams if s.role not in (Role.THETA, Role.STATE)]
    streams = [s.name for s in kernel.streams]
    scalars = [names.value(s) for s in kernel.scalars]
    static_flags = [names.value(f) for f in kernel.static_flags]
    host_flags = [names.value(f) for f in kernel.host_flags]
    last = filled((*scalars, *static_flags, *host_flags, "factor", "real"), _CALL_INDENT)
    rows = [("resident", i, s) for i, s in enumerate(resident)] + [("changing", i, s) for i, s in enumerate(varying)]
    return ENVIRONMENT.get_template("kernel.py.j2").render(
        name=kernel.name,
        tile_parameters=[
            *(f"{names.pointer[s]}: tl.tensor" for s in streams),
            "mask: tl.tensor",
            *(f"{s}: tl.tensor" for s in scalars),
            *(f"{f}: tl.constexpr" for f in static_flags),
            *(f"{f}: tl.tensor" for f in host_flags),
            "factor: tl.tensor",
            "real: tl.constexpr",
        ],
        tile_lines=list(Tile(kernel, _spelling(kernel, names.value), names.pointer, source).lines()),
        parameters=[
            *(f"{p}: tl.tensor" for p in (*TABLES, *scalars)),
            *(f"{p}: tl.constexpr" for p in (*(names.dtype[s] for s in streams), *static_flags, *host_flags, *GEOMETRY)),
        ],
        n_resident=len(resident),
        n_varying=len(varying),
        width=len(scalars) + len(host_flags),
        scalar_lines=[_read_scalar(s, i) for i, s in enumerate(scalars)],
        flag_lines=[f"{f} = tl.load(scalars + {len(scalars) + i}) != 0" for i, f in enumerate(host_flags)],
        pointer_lines=[
            f"{names.pointer[s]} = tl.load({table} + {i}).to(tl.pointer_type({names.dtype[s]}))" for table, i, s in rows
        ],
        aligned_lines=[_hint(names.aligned[s], names.pointer[s]) for s in streams],
        offset_lines=[f"{names.pointer[s]} = {names.pointer[s]} + base" for s in streams],
        whole_call=[*filled((*(f"{names.aligned[s]} + i" for s in streams), "None"), _CALL_INDENT), *last],
        tail_call=[*filled((*(f"{names.pointer[s]} + i" for s in streams), "i < n"), _CALL_INDENT), *last],
    )


def _read_scalar(name: str, index: int) -> str:
    return laid_out(Call(f"{name} = gpu.read_scalar", (name, "scalars", str(index), "SCALARS_IN_MEMORY", "real")), 4)


def _hint(aligned: str, pointer: str) -> str:
    return f"{aligned} = tl.multiple_of({pointer} + base, LANES * {pointer}.dtype.element_ty.primitive_bitwidth // 8)"


def _spelling(kernel: Kernel, spell: Namer) -> Spelling:
    def static(condition: Expression) -> bool:
        return all(r.symbol.role is Role.FLAG and r.symbol.name in kernel.static_flags for r in reads(condition))

    return Spelling(spell, "real", static)


def _names(kernel: Kernel) -> _Names:
    value = Namer(RESERVED | _LOCALS | set(TABLES) | set(GEOMETRY))
    spec = {*(s.name for s in kernel.streams), *kernel.scalars, *kernel.static_flags, *kernel.host_flags}
    spec |= flow.bound_by(kernel.body)[1] | flow.count_reads(kernel.body).keys()
    derived = Namer({value(name) for name in sorted(spec)} | RESERVED | _LOCALS | set(TABLES) | set(GEOMETRY))
    pointer, aligned, dtype = ({s.name: derived(s.name + ending) for s in kernel.streams} for ending in ("_at", "_by", "_type"))
    return _Names(value, pointer, aligned, dtype)
