"""A separated body -> phases: kernels with passes over memory, and programs of the whole model before them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from optc.compiler.extents import Extents, extents_of, is_total
from optc.compiler.ir import expressions, map_symbols, reads, statements
from optc.compiler.passes import Passes, StreamsOf, split
from optc.compiler.plan import Kernel, ModelProgram, Phase
from optc.compiler.slices import Slice
from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.program import LOSS, Apply, Constant, Let, Program, Read, Role, Statement, Store, Symbol

KernelOf: TypeAlias = Callable[[int, tuple[Statement, ...], tuple[str, ...]], Kernel]
"""(number of the phase, its body as one program, the scalars it reads) -> a kernel of one pass"""

_NAN = Constant(math.nan, Type(Sort.REAL, Extent.MODEL))


def phases_of(
    body: tuple[Statement, ...],
    program: Program,
    streams_of: StreamsOf,
    static_flags: frozenset[str],
    kernel_of: KernelOf,
) -> tuple[Phase, ...]:
    """The phases of a separated body."""
    extents = extents_of(body, program)
    parts = split(body, program, streams_of, static_flags)
    statistics = _kept(parts)
    found = _statistic_extents(body)
    kernels: list[Kernel | None] = []
    for k, part in enumerate(parts):
        if part is None:
            kernels.append(None)
            continue
        lines = (part.whole, part.finish, *(body for p in part.passes for body in (p.prepare, p.body, p.picked)))
        kernel = kernel_of(k, _named_locally(part.whole), _scalars_read(lines))
        if not _is_one_pass(part):
            kernel = replace(kernel, passes=part.passes, finish=part.finish, parts=part.parts)
            kernel = replace(kernel, statistics=statistics, extents=tuple(found[n] for n in statistics))
        kernels.append(kernel)
    linked = _linked(kernels, [() if part is None else part.whole for part in parts])
    return tuple(Phase(_model(body, extents, kernel, k == len(parts) - 1), kernel) for k, kernel in enumerate(linked))


def _kept(parts: Sequence[Passes | None]) -> tuple[str, ...]:
    """The statistics of all phases: what passes measure, what they need, what is left for totals."""
    present = [part for part in parts if part is not None]
    measured = [name for part in present for p in part.passes for name, _ in p.measures]
    needed = [name for part in present for p in part.passes for name in p.needs]
    return tuple(dict.fromkeys((*measured, *needed, *(name for part in present for name in part.parts))))


def _statistic_extents(body: tuple[Statement, ...]) -> dict[str, Extent]:
    """Where each statistic varies: it is read as such everywhere."""
    return {s.target.name: s.value.type.extent.join(Extent.TENSOR) for s in statements(body) if isinstance(s, Let)}


def _is_one_pass(part: Passes) -> bool:
    """Whether it is plain code per element."""
    first = part.passes[0]
    more = first.prepare or first.needs or first.measures or first.picked or part.finish or part.parts
    return len(part.passes) == 1 and not more


def _scalars_read(bodies: Iterable[tuple[Statement, ...]]) -> tuple[str, ...]:
    found = (r.symbol for body in bodies for e in expressions(body) for r in reads(e))
    return tuple(dict.fromkeys(s.name for s in found if s.role is Role.SCALAR))


def _named_locally(body: tuple[Statement, ...]) -> tuple[Statement, ...]:
    """Statistics are names like others where a body is one program."""
    return map_symbols(body, lambda s: Symbol(Role.LOCAL, s.name) if s.role is Role.STATISTIC else s)


def _linked(kernels: Sequence[Kernel | None], wholes: Sequence[tuple[Statement, ...]]) -> Iterator[Kernel | None]:
    """The kernels with what each is given by earlier ones, and leaves for later ones."""
    bound = [_bound(whole) for whole in wholes]
    given = [tuple(n for n in _statistics_read(w) if n not in b) for w, b in zip(wholes, bound, strict=True)]
    for k, kernel in enumerate(kernels):
        later = dict.fromkeys(n for names in given[k + 1 :] for n in names if n in bound[k])
        yield kernel and replace(kernel, given=given[k], leaves=tuple(dict.fromkeys((*later, *kernel.parts))))


def _bound(body: tuple[Statement, ...]) -> set[str]:
    return {s.target.name for s in statements(body) if isinstance(s, Let)}


def _statistics_read(body: tuple[Statement, ...]) -> dict[str, None]:
    return dict.fromkeys(r.symbol.name for e in expressions(body) for r in reads(e) if r.symbol.role is Role.STATISTIC)


def _model(body: tuple[Statement, ...], extents: Extents, kernel: Kernel | None, last: bool) -> ModelProgram | None:
    """What runs before a kernel once for all parameters; before the last one, or after it, the model's states are written."""
    lines = [s for s in statements(body) if isinstance(s, Let | Store) and extents.line(s) is Extent.MODEL]
    exported = {s.target.name for s in lines if s.target.role is Role.SCALAR}
    exports = tuple(n for n in (kernel.scalars if kernel is not None else ()) if n in exported)

    def in_scope(line: Let | Store) -> bool:
        return extents.line(line) is Extent.MODEL and not is_total(line)

    found = Slice(in_scope, lambda line: last and isinstance(line, Store)).of(body, frozenset(exports))
    if not found:
        return None
    always = {s.target.name for s in found if isinstance(s, Let)}
    unsure = tuple(Let(Symbol(Role.SCALAR, n), _NAN) for n in exports if n not in always)
    read = dict.fromkeys((r.symbol.role, r.symbol.name) for e in expressions(found) for r in reads(e))
    wanted = {n for role, n in read if role is Role.STATISTIC}
    own = {s.target for s in statements(found) if isinstance(s, Let)}
    stored = dict.fromkeys(s.target.name for s in statements(found) if isinstance(s, Store))
    totals = {
        s.target.name: s.value.arguments[0].symbol.name
        for s in lines
        if is_total(s) and isinstance(s.value, Apply) and isinstance(s.value.arguments[0], Read) and s.target.name in wanted
    }
    return ModelProgram(
        body=(*unsure, *found),
        scalars=tuple(n for role, n in read if role is Role.SCALAR and Symbol(role, n) not in own),
        flags=tuple(n for role, n in read if role is Role.FLAG),
        totals=tuple(totals.items()),
        loss=(Role.LOSS, LOSS.name) in read,
        states=tuple(dict.fromkeys((*(n for role, n in read if role is Role.STATE), *stored))),
        exports=exports,
        carried=tuple(stored),
    )
