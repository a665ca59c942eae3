"""Faults in what is measured: over which tensor, which entries, which parameters, and in which step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from optc.dsl.kinds import IN_MATRICES, Extent, Sort, Type
from optc.dsl.program import (
    GATHERING,
    GRADIENT,
    REDUCTIONS,
    THETA,
    TOTAL,
    Apply,
    Branch,
    Constant,
    Expression,
    Let,
    Program,
    Read,
    Role,
    State,
    Statement,
    Store,
    Symbol,
)
from optc.dsl.source import Span
from tests.faults.in_lines import Changed, nothing
from tests.faults.rewrite import everywhere, expressions, programs

_TENSORS = (Role.THETA, Role.GRADIENT, Role.STATE, Role.LOCAL)
_OTHER_WAY = {Extent.ROW: Extent.COL, Extent.COL: Extent.ROW}
_LITERAL = Type(Sort.REAL, Extent.MODEL, host=True, static=True)


def _reduces(value: Expression) -> bool:
    return isinstance(value, Apply) and value.operation in REDUCTIONS


def other_tensor(value: Expression) -> Iterator[Expression]:
    """The norm of θ for that of the gradient, and the reverse."""
    if not isinstance(value, Apply) or not _reduces(value):
        return
    read: dict[Symbol, None] = {}

    def note(one: Read) -> Expression:
        if one.symbol.role in _TENSORS and one.type.extent is Extent.ELEM and one.type.sort is Sort.REAL:
            read[one.symbol] = None
        return one

    everywhere(value, note)
    for symbol in read:
        other = GRADIENT if symbol == THETA else THETA

        def change(one: Read, symbol: Symbol = symbol, other: Symbol = other) -> Expression:
            return replace(one, symbol=other) if one.symbol == symbol else one

        yield everywhere(value, change)


def other_direction(value: Expression) -> Iterator[Expression]:
    """One number of each column for one of each row, and the reverse."""
    if isinstance(value, Apply) and _reduces(value) and value.arguments[0].type.extent is Extent.ELEM:
        extent = _OTHER_WAY.get(value.type.extent)
        if extent is not None:
            yield replace(value, type=replace(value.type, extent=extent))


def whole_tensor(value: Expression) -> Iterator[Expression]:
    """One number of the tensor for one of each row, column or matrix."""
    if isinstance(value, Apply) and _reduces(value) and value.type.extent in IN_MATRICES:
        yield replace(value, type=replace(value.type, extent=Extent.TENSOR))


def drop_total(value: Expression) -> Iterator[Expression]:
    """A parameter's own number for that of the model."""
    if isinstance(value, Apply) and value.operation == TOTAL:
        yield value.arguments[0]


def drop_guard(value: Expression) -> Iterator[Expression]:
    """`max(x, ε)` to `x`, and `where(n > 0, a/n, 1)` to `a/n`."""
    match value:
        case Apply(operation="min" | "max", arguments=arguments):
            yield from (a for a in arguments if not isinstance(a, Constant))
        case Apply(operation="where", arguments=(_, a, Constant())) if not isinstance(a, Constant):
            yield a
        case Apply(operation="where", arguments=(_, Constant(), b)) if not isinstance(b, Constant):
            yield b


def other_shape(program: Program) -> Iterator[tuple[Program, Span]]:
    """Rows and columns of another view of θ: that of its last two dimensions for (first, all others), and the reverse."""
    marked = next(programs(program, lambda value: [value] if value.type.extent in IN_MATRICES else [], lambda _: ()), None)
    if marked is not None:
        yield replace(program, seen=None if program.seen else "matrix"), marked[1]


def own_number(program: Program) -> Iterator[tuple[Program, Span]]:
    """A state of the model that every parameter keeps for itself."""
    for i, state in enumerate(program.states):
        if state.extent is Extent.MODEL:
            other = replace(state, extent=Extent.TENSOR)
            yield replace(program, states=(*program.states[:i], other, *program.states[i + 1 :])), state.span


def previous_statistic(program: Program) -> Iterator[tuple[Program, Span]]:
    """What was measured in the step before, instead of in this one. The first step has its own."""
    for extent in Extent:
        state = State("statistic_before", "statistic_before", Constant(0.0, _LITERAL), extent, host=False)
        step = replace(program, procedures=program.procedures[:1])
        for changed, span in programs(step, nothing, lambda body, extent=extent: _measured_before(body, extent)):  # type: ignore[misc]
            procedures = (*changed.procedures, *program.procedures[1:])
            yield replace(changed, states=(*program.states, state), procedures=procedures), span


def _measured_before(body: tuple[Statement, ...], extent: Extent) -> Changed:
    for i, statement in enumerate(body):
        for measured in _measurements(statement):
            if measured.type.extent is extent:
                yield (*body[:i], *_lagging(statement, measured), *body[i + 1 :]), measured.span


def _measurements(statement: Statement) -> Iterator[Apply]:
    match statement:
        case Let(value=value) | Store(value=value) | Branch(condition=value):
            yield from (e for e in _parts(value) if isinstance(e, Apply) and e.operation in GATHERING)


def _parts(value: Expression) -> Iterator[Expression]:
    yield value
    if isinstance(value, Apply):
        for argument in value.arguments:
            yield from _parts(argument)


def _lagging(statement: Statement, measured: Apply) -> Iterator[Statement]:
    """The statement with a measurement of the step before, which is kept in a state."""
    now, seen = Symbol(Role.LOCAL, "statistic_now"), Symbol(Role.LOCAL, "statistic_seen")
    before = Symbol(Role.STATE, "statistic_before")
    first = Read(Symbol(Role.NEW, before.name), Type(Sort.BOOL, Extent.TENSOR, host=True))
    kind = measured.type
    yield Let(now, measured)
    yield Let(seen, Apply("where", (first, Read(now, kind), Read(before, kind)), kind))

    def rule(value: Expression) -> Iterator[Expression]:
        if value is measured:
            yield Read(seen, kind)

    match statement:
        case Let(value=value) | Store(value=value):
            yield replace(statement, value=next(expressions(value, rule))[0])
        case Branch(condition=condition):
            yield replace(statement, condition=next(expressions(condition, rule))[0])
    yield Store(before, Read(now, kind))
