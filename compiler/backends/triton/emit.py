"""Kernels of a plan as Triton: a tile (load, the spec's lines, store) and the loops over all tensors that call it.

One launch covers every tensor of a batch. A program takes one chunk of one tensor, found through a table of pointers; whole
blocks go through an unmasked loop whose 16-byte accesses the alignment hint allows, the rest through a masked one.

A kernel that reduces is such a pair for every pass, and one program per tensor for every stage (`stage.py`). What is measured
is kept by lane and leaves one partial per chunk. Chunks have one extent there, and the masked loop the lanes of the unmasked
one: a result depends on the elements of its tensor, not on where they lie or what else is in the batch.

What depends on rows, columns or matrices has a second form for tensors that are matrices: panels of a pass (`panels.py`) and
launches over rows, columns and matrices of a stage (`steps.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from optc.compiler.backends.triton.environment import ENVIRONMENT
from optc.compiler.backends.triton.kept import tile_arguments
from optc.compiler.backends.triton.lines import NEUTRAL
from optc.compiler.backends.triton.panels import emit_panels
from optc.compiler.backends.triton.scalars import emit_scalars
from optc.compiler.backends.triton.signs import in_chunk
from optc.compiler.backends.triton.stage import emit_stage
from optc.compiler.backends.triton.steps import emit_steps
from optc.compiler.backends.triton.sweep import GEOMETRY, MEASURING, NEEDING, PICKING, TABLES, TREE, Sweep
from optc.compiler.backends.triton.trees import trees_of
from optc.compiler.backends.triton.vectors import extents_of, in_steps
from optc.compiler.picking import looked_up
from optc.compiler.plan import Kernel
from optc.dsl.kinds import IN_MATRICES, Extent
from optc.dsl.source import Source

__all__ = ["GEOMETRY", "MEASURING", "NEEDING", "PICKING", "TABLES", "emit_kernel", "emit_scalars"]
_CALL_INDENT = 12  # of the arguments of a call within a loop of a kernel


def emit_kernel(kernel: Kernel, source: Source) -> str:
    """Triton functions, two blank lines apart, with a final newline.

    An elementwise kernel is `{kernel.name}_tile` and `{kernel.name}_triton`. Of one that reduces, pass k is
    `{kernel.name}_pass_{k}_tile` and `…_triton`, and stage k, where there is one, `{kernel.name}_stage_{k}_triton`; what such a
    function is for tensors that are matrices follows it.
    """
    return "\n\n".join(_parts(kernel, source))


def _parts(kernel: Kernel, source: Source) -> Iterator[str]:
    kernel = looked_up(kernel)
    extents = extents_of(kernel)
    if not kernel.passes:
        yield _emit_pass(Sweep(kernel.name, kernel.sweeps[0], kernel, source, extents))
        return
    for index in range(len(kernel.passes) + 1):
        if kernel.has_stage(index):
            yield emit_stage(kernel, index, source, extents)
            if in_steps(kernel, index, extents):
                yield from emit_steps(kernel, index, source, extents)
        if index < len(kernel.passes):
            sweep = Sweep(f"{kernel.name}_pass_{index}", kernel.passes[index], kernel, source, extents)
            yield _emit_pass(sweep)
            if sweep.panelled:
                yield emit_panels(sweep)


def _emit_pass(one: Sweep) -> str:
    kernel, totals = one.kernel, one.totals
    every, picked, together = one.parts()
    parts = {part.name: part for part in (together, picked, every) if part is not None}
    per_tensor = [s for s in one.sweep.needs if one.extents.get(s) not in IN_MATRICES]
    trees = trees_of(one, Extent.TENSOR)  # rows, columns and matrices have nothing measured here
    end = "end" if trees else "n"
    return ENVIRONMENT.get_template("kernel.py.j2").render(
        name=one.name,
        tiles=[{"name": part.name, **part.tile()} for part in parts.values()],
        parameters=[
            *(f"{p}: tl.tensor" for p in (*TABLES, *one.scalars, *(PICKING if picked is not None else ()))),
            *(f"{p}: tl.tensor" for p in (*(NEEDING if one.needs else ()), *(MEASURING if totals else ()))),
            *(f"{one.dtype[s]}: tl.constexpr" for s in one.pointed),
            *(f"{p}: tl.constexpr" for p in (*one.static_flags, *one.host_flags)),
            *(f"{p}: tl.constexpr" for p in (*GEOMETRY, *(TREE if totals else ()))),
        ],
        n_resident=len(one.columns.resident),
        n_varying=len(one.columns.varying),
        width=one.width,
        scalar_lines=one.scalar_lines(),
        flag_lines=one.flag_lines(),
        pointer_lines=one.pointer_lines(),
        aligned_lines=one.aligned_lines(),
        # picked elements are looked up from the first of the tensor on
        offset_lines=one.chunk_lines() if picked is None else [],
        picked={} if picked is None or together is None else _picked(picked, together, end),
        every={} if every is None else _calls(every, " + base" if picked is not None else "", end, "start" if trees else ""),
        row=f"statistics + {len(kernel.statistics)} * tensor" if per_tensor else "",
        need_lines=[_read_need(one, s) for s in one.sweep.needs],
        total_lines=[
            f"{t} = tl.full((BLOCK,), {NEUTRAL[o]}, real)" for t, (_, o) in zip(totals, one.sweep.measures, strict=True)
        ],
        tree_lines=[tree.begun("(LEVELS,)") for tree in trees],
        push_lines=[tree.pushed("start // LEAF", 8) for tree in trees],
        partial_lines=[f"tl.store(place + {i} * partials_each, {tree.folded()})" for i, tree in enumerate(trees)],
    )


def _calls(part: Sweep, offset: str, end: str, start: str = "") -> dict[str, Any]:
    """The calls of a tile for whole blocks from `start` on, and for what is left before `end`.

    `offset`: from a stream to the chunk.
    """
    block = f"{start} + j * BLOCK" if start else "j * BLOCK"

    def beside(first: str, size: str) -> list[str]:
        return [*tile_arguments(part.codes, first, end, size), *in_chunk(part.signs, first, size)]

    return {
        "tile": part.name,
        "results": _results(part),
        "whole_call": part.call(part.places(part.aligned, " + i", "base + i"), "None", _CALL_INDENT, beside(block, "BLOCK")),
        "tail_call": part.call(
            part.places(part.pointer, f"{offset} + i", "base + i"), f"i < {end}", _CALL_INDENT, beside("j", "TAIL")
        ),
    }


def _results(part: Sweep) -> str:
    return ", ".join(part.totals) + " = " if part.totals else ""


def _picked(part: Sweep, together: Sweep, end: str) -> dict[str, Any]:
    """What a kernel does at every `stride`-th element, and what instead where all are picked."""
    kernel, of_picked = part.kernel, {s.name for s in part.sweep.streams if s.extent is Extent.PICK}
    p, all_picked = kernel.pick or ("", "")
    places = part.places(part.pointer, " + at * stride", "at * stride")
    places = [f"{part.pointer[s]} + at" if s in of_picked else place for s, place in zip(part.streams, places, strict=True)]
    return {
        "flag": part.value(all_picked),
        "column": kernel.scalars.index(p),
        "together": _calls(together, " + base", end),
        "tile": part.name,
        "results": _results(part),
        "call": part.call(places, "i < many", _CALL_INDENT),
    }


def _read_need(one: Sweep, statistic: str) -> str:
    if one.extents.get(statistic) in IN_MATRICES:
        return f"{one.value(statistic)} = tl.full((), 0.0, real)"
    return f"{one.value(statistic)} = tl.load(row + {one.kernel.statistics.index(statistic)}).to(real)"
