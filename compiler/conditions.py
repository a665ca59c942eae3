"""Conditions over flags, kept short, and those under which a body reaches a line."""

from __future__ import annotations

from collections.abc import Callable, Container

from optc.compiler.ir import reads
from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.program import TRUE, Apply, Branch, Constant, Expression, Let, Read, Role, Statement, Store, Symbol

FALSE = Constant(False, TRUE.type)
_HOST_BOOL = Type(Sort.BOOL, Extent.TENSOR, host=True)


def flag(name: str) -> Expression:
    """The read of a flag."""
    return Read(Symbol(Role.FLAG, name), _HOST_BOOL)


def both(a: Expression, b: Expression) -> Expression:
    """`a and b`."""
    if FALSE in (a, b):
        return FALSE
    if a in (TRUE, b):
        return b
    return a if b == TRUE else Apply("and", (a, b), _HOST_BOOL)


def either(a: Expression, b: Expression) -> Expression:
    """`a or b`."""
    if TRUE in (a, b):
        return TRUE
    if a in (FALSE, b):
        return b
    return a if b == FALSE else Apply("or", (a, b), _HOST_BOOL)


def opposite(a: Expression) -> Expression:
    """`not a`."""
    if isinstance(a, Apply) and a.operation == "not":
        return a.arguments[0]
    return Apply("not", (a,), _HOST_BOOL)


def needed_when(
    body: tuple[Statement, ...], needed_by: Callable[[Let | Store], Expression], flags: Container[str] | None = None
) -> Expression:
    """The condition under which a body needs what its lines need under conditions of theirs; TRUE for always, FALSE for never.

    With `flags` it is one over these alone: branches on others count as taken both ways.
    """
    condition: Expression = FALSE
    for statement in body:
        match statement:
            case Let() | Store():
                condition = either(condition, needed_by(statement))
            case Branch(condition=test):
                then, otherwise = (needed_when(side, needed_by, flags) for side in (statement.then, statement.otherwise))
                condition = either(condition, of_sides(test, then, otherwise, flags))
    return condition


def of_sides(test: Expression, then: Expression, otherwise: Expression, flags: Container[str] | None = None) -> Expression:
    """The condition of a choice whose sides have these; see `needed_when`."""
    known = flags is None or all(read.symbol.name in flags for read in reads(test))
    if known and then != otherwise:
        then, otherwise = both(test, then), both(opposite(test), otherwise)
    return either(then, otherwise)


def reached_when(
    body: tuple[Statement, ...], wanted: Callable[[Let | Store], bool], flags: Container[str] | None = None
) -> Expression:
    """The condition under which a body reaches a line that is `wanted`; see `needed_when`."""
    return needed_when(body, lambda line: TRUE if wanted(line) else FALSE, flags)


def written_when(body: tuple[Statement, ...], name: str) -> Expression:
    """The condition under which a body stores a stream."""
    return reached_when(body, lambda line: isinstance(line, Store) and line.target.name == name)


def bound_when(body: tuple[Statement, ...], symbol: Symbol) -> Expression:
    """The same for a name that it binds."""
    return reached_when(body, lambda line: isinstance(line, Let) and line.target == symbol)
