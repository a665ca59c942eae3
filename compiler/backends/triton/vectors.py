"""Values per row, column and matrix in a kernel: which names hold them, and what is left of a body where there are none.

Their lines stand under static flags that no tensor of fewer than two dimensions has. So a kernel with such lines has two forms:
one for tensors seen as matrices, and the plain one, which leaves these lines out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from optc.compiler.ir import reads, statements
from optc.compiler.plan import Kernel, Pass
from optc.dsl.kinds import IN_MATRICES, PER_ELEMENT, Extent
from optc.dsl.program import REDUCTIONS, Apply, Branch, Let, Statement, Store


def extents_of(kernel: Kernel) -> dict[str, Extent]:
    """Where the statistics of a kernel, its states that are not like θ, and the names on its stages vary."""
    known = dict(zip(kernel.statistics, kernel.extents or (Extent.TENSOR,) * len(kernel.statistics), strict=True))
    known |= {s.name: s.extent for s in kernel.streams if s.extent not in PER_ELEMENT}
    fixed = frozenset(known)
    lines = [s for body in stages_of(kernel) for s in statements(body) if isinstance(s, Let | Store)]
    while True:
        before = dict(known)
        for line in lines:
            if line.target.name not in fixed:
                found = known.get(line.target.name, Extent.TENSOR)
                known[line.target.name] = found.join(_extent(line, known))
        if known == before:
            return known


def _extent(line: Let | Store, known: Mapping[str, Extent]) -> Extent:
    if reduction_of(line) is not None:
        return line.value.type.extent.join(Extent.TENSOR)
    extent = Extent.TENSOR
    for read in reads(line.value):
        extent = extent.join(known.get(read.symbol.name, Extent.TENSOR))
    return extent


def reduction_of(line: Statement) -> Apply | None:
    """What a line on statistics reduces: rows, columns or matrices."""
    if isinstance(line, Let) and isinstance(line.value, Apply) and line.value.operation in REDUCTIONS:
        return line.value
    return None


def stages_of(kernel: Kernel) -> list[tuple[Statement, ...]]:
    """The bodies of all stages."""
    return [*(p.prepare for p in kernel.passes), kernel.finish]


def in_panels(sweep: Pass, kernel: Kernel, extents: Mapping[str, Extent]) -> bool:
    """Whether a pass has to know where rows and columns begin, or the stage after it does and joins what panels leave."""
    if any(extents.get(n) in IN_MATRICES for n in (*sweep.needs, *(m for m, _ in sweep.measures))):
        return True
    index = next((index for index, one in enumerate(kernel.passes) if one is sweep), None)
    return index is not None and bool(sweep.measures) and _in_matrices(kernel, index + 1, extents)


def in_steps(kernel: Kernel, index: int, extents: Mapping[str, Extent]) -> bool:
    """Whether a stage does more than code per tensor, or joins what panels have left."""
    return (index > 0 and in_panels(kernel.passes[index - 1], kernel, extents)) or _in_matrices(kernel, index, extents)


def _in_matrices(kernel: Kernel, index: int, extents: Mapping[str, Extent]) -> bool:
    """Whether a stage has lines on rows, columns or matrices, or what the pass before has measured of them."""
    measures = kernel.passes[index - 1].measures if index else ()
    lines = [s for s in statements(stages_of(kernel)[index]) if isinstance(s, Let | Store)]
    names = {m for m, _ in measures} | {line.target.name for line in lines}
    return any(extents.get(n) in IN_MATRICES for n in names) or any(map(reduction_of, lines))


def per_tensor(body: tuple[Statement, ...], extents: Mapping[str, Extent]) -> tuple[Statement, ...]:
    """What is left of a stage for tensors that are no matrices: lines per tensor that depend on nothing else."""
    lines = [s for s in statements(body) if isinstance(s, Let | Store)]
    bound = {line.target.name for line in lines}
    lost: set[str] = {n for n, e in extents.items() if e in IN_MATRICES}
    while True:
        kept = {line.target.name for line in lines if _stays(line, lost)}
        if not bound - kept - lost:
            return _filtered(body, lost)
        lost |= bound - kept


def _stays(line: Let | Store, lost: Collection[str]) -> bool:
    return reduction_of(line) is None and not {line.target.name, *(r.symbol.name for r in reads(line.value))} & {*lost}


def _filtered(body: tuple[Statement, ...], lost: Collection[str]) -> tuple[Statement, ...]:
    kept: list[Statement] = []
    for line in body:
        if isinstance(line, Branch):
            then, otherwise = _filtered(line.then, lost), _filtered(line.otherwise, lost)
            if then or otherwise:
                kept.append(replace(line, then=then, otherwise=otherwise))
        elif isinstance(line, Let | Store) and _stays(line, lost):
            kept.append(line)
    return tuple(kept)
