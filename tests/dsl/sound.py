"""What holds in every checked program, found out again from the program alone."""

from __future__ import annotations

from collections.abc import Iterable

from optc.dsl.kinds import IN_MATRICES, SCALARS, Extent
from optc.dsl.program import (
    PICK,
    REDUCTIONS,
    TOTAL,
    Apply,
    Branch,
    Constant,
    Expression,
    Let,
    Program,
    Read,
    Role,
    Statement,
    Stop,
    Store,
    Symbol,
)


def parts(expression: Expression) -> list[Expression]:
    """An expression and all in it."""
    found, stack = [], [expression]
    while stack:
        part = stack.pop()
        found.append(part)
        stack += part.arguments if isinstance(part, Apply) else ()
    return found


def expressions(body: Iterable[Statement]) -> list[Expression]:
    """All expressions of statements, inner ones included."""
    found: list[Expression] = []
    for statement in body:
        match statement:
            case Let(value=value) | Store(value=value):
                found += parts(value)
            case Branch(condition=condition, then=then, otherwise=otherwise):
                found += [*parts(condition), *expressions((*then, *otherwise))]
    return found


def check_types(program: Program) -> None:
    """Extents are the join of what is combined; only reductions and totals narrow them; writes go outward."""
    shared = {name: hyper.shared for hyper in program.hypers for name in hyper.names}
    states = {state.name: state for state in program.states}
    for procedure in program.procedures:
        for part in expressions(procedure.body):
            extent = part.type.extent
            match part:
                case Constant():
                    assert extent is Extent.MODEL
                case Read(symbol=symbol) if symbol.role is Role.HYPER:
                    assert extent is (Extent.MODEL if shared[symbol.name] else Extent.GROUP)
                case Read(symbol=symbol) if symbol.role is Role.STATE:
                    assert extent is states[symbol.name].extent
                case Read(symbol=symbol) if symbol.role in (Role.STEP, Role.SHAPE, Role.NEW):
                    assert extent is Extent.TENSOR
                case Read(symbol=symbol) if symbol.role is Role.LOSS:
                    assert extent is Extent.MODEL and not part.type.host
                case Read(symbol=symbol) if symbol.role in (Role.THETA, Role.GRADIENT, Role.INPUT):
                    assert extent is Extent.ELEM
                case Apply(operation=operation, arguments=(value,)) if operation == TOTAL:
                    assert extent is Extent.MODEL
                    assert value.type.extent in (Extent.TENSOR, Extent.GROUP)
                case Apply(operation=operation, arguments=(value,)) if operation in REDUCTIONS:
                    assert extent.within(value.type.extent) and extent is not value.type.extent
                    assert extent is Extent.TENSOR or extent in IN_MATRICES
                case Apply(operation=operation, arguments=(value, Read(symbol=symbol))) if operation == PICK:
                    assert extent is Extent.PICK and value.type.extent is Extent.ELEM
                    assert symbol == Symbol(Role.HYPER, program.pick or "")
                case Apply(arguments=arguments):
                    joined = Extent.MODEL
                    for argument in arguments:
                        assert joined.combines(argument.type.extent)
                        joined = joined.join(argument.type.extent)
                    assert extent is joined
        _check_stores(program, procedure.body)


def _check_stores(program: Program, body: Iterable[Statement]) -> None:
    for statement in body:
        match statement:
            case Store(target=target, value=value) if target.role is Role.STATE:
                assert value.type.extent.within(program.state(target.name).extent)
            case Branch(condition=condition, then=then, otherwise=otherwise):
                assert condition.type.extent in SCALARS
                _check_stores(program, (*then, *otherwise))


def check_totals(program: Program) -> None:
    """All parameters of a step come to the same totals and the same writes of the model's states."""
    for number, procedure in enumerate(program.procedures):
        if number:
            assert not any(_is_total(part) for part in expressions(procedure.body))
        _check_totals(program, procedure.body, everyone=number == 0)
    for state in program.states:
        assert not any(_is_total(part) for e in (state.initial, state.exists) for part in parts(e))
        if state.extent is Extent.MODEL:
            assert state.initial.type.extent is state.exists.type.extent is Extent.MODEL


def _check_totals(program: Program, body: Iterable[Statement], everyone: bool) -> bool:
    """Whether those who came to the body all come to what follows it."""
    for statement in body:
        match statement:
            case Let(value=value):
                _check_waits(value, everyone)
            case Store(target=target, value=value):
                _check_waits(value, everyone)
                if target.role is Role.STATE and program.state(target.name).extent is Extent.MODEL:
                    assert everyone
            case Branch(condition=condition, then=then, otherwise=otherwise):
                _check_waits(condition, everyone)
                inside = everyone and condition.type.extent is Extent.MODEL
                sides = [_check_totals(program, side, inside) for side in (then, otherwise)]
                stops = any(_stops(side) for side in (then, otherwise))
                everyone = everyone and (not stops or (inside and all(sides)))
    return everyone


def _stops(body: Iterable[Statement]) -> bool:
    return any(isinstance(s, Stop) or (isinstance(s, Branch) and _stops((*s.then, *s.otherwise))) for s in body)


def _check_waits(expression: Expression, everyone: bool) -> None:
    """Totals stand where everyone comes: static conditions select one side of a `where`, an `and`, an `or`."""
    if not isinstance(expression, Apply):
        return
    if _is_total(expression):
        assert everyone
    first, *others = expression.arguments
    _check_waits(first, everyone)
    chosen = expression.operation in ("where", "and", "or") and first.type.static and first.type.extent is not Extent.MODEL
    for other in others:
        _check_waits(other, everyone and not chosen)


def _is_total(expression: Expression) -> bool:
    return isinstance(expression, Apply) and expression.operation == TOTAL
