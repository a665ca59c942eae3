"""The update: the program with its early ends resolved, as the passes rewrite it.

`lower` makes it, `simplify` rewrites expressions in it, `hoist` splits it into host code and element code. Statements and
expressions are those of `dsl/program.py`; there is no `Stop` left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from optc.dsl.program import REDUCTIONS, Apply, Branch, Constant, Expression, Let, Program, Read, Statement, Stop, Store, Symbol


@dataclass(frozen=True, slots=True)
class UpdateProcedure:
    """`step` or an entry, without `Stop`."""

    name: str
    inputs: tuple[str, ...]
    every: int | None
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """What every pass between `lower` and `schedule` takes and returns."""

    program: Program
    procedures: tuple[UpdateProcedure, ...]


class InternalError(Exception):
    """A stage broke a promise to the next one: a bug in optc, never the user's mistake."""


def map_expression(expression: Expression, function: Callable[[Expression], Expression]) -> Expression:
    """Rebuild bottom-up: `function` sees every node after its arguments were mapped."""
    if isinstance(expression, Apply):
        arguments = tuple(map_expression(a, function) for a in expression.arguments)
        if any(new is not old for new, old in zip(arguments, expression.arguments, strict=True)):
            expression = replace(expression, arguments=arguments)
    return function(expression)


def map_statements(body: tuple[Statement, ...], function: Callable[[Expression], Expression]) -> tuple[Statement, ...]:
    """Apply `function` to every value and condition of a block."""
    result: list[Statement] = []
    for statement in body:
        match statement:
            case Let():
                result.append(replace(statement, value=function(statement.value)))
            case Store(dither=dither):
                changed = None if dither is None else function(dither)
                result.append(replace(statement, value=function(statement.value), dither=changed))
            case Branch():
                result.append(
                    replace(
                        statement,
                        condition=function(statement.condition),
                        then=map_statements(statement.then, function),
                        otherwise=map_statements(statement.otherwise, function),
                    )
                )
            case Stop():
                result.append(statement)
    return tuple(result)


def map_symbols(body: tuple[Statement, ...], function: Callable[[Symbol], Symbol]) -> tuple[Statement, ...]:
    """Apply `function` to every name that a block reads or gives a value."""

    def renamed(expression: Expression) -> Expression:
        return replace(expression, symbol=function(expression.symbol)) if isinstance(expression, Read) else expression

    def retargeted(lines: tuple[Statement, ...]) -> Iterator[Statement]:
        for statement in lines:
            match statement:
                case Let() | Store():
                    yield replace(statement, target=function(statement.target))
                case Branch(then=then, otherwise=otherwise):
                    yield replace(statement, then=tuple(retargeted(then)), otherwise=tuple(retargeted(otherwise)))
                case Stop():
                    yield statement

    return tuple(retargeted(map_statements(body, lambda value: map_expression(value, renamed))))


def walk(expression: Expression) -> Iterator[Expression]:
    """The expression and everything in it."""
    yield expression
    if isinstance(expression, Apply):
        for argument in expression.arguments:
            yield from walk(argument)


def statements(body: tuple[Statement, ...]) -> Iterator[Statement]:
    """Every statement of a block, nested ones included, in the order of the text."""
    for statement in body:
        yield statement
        if isinstance(statement, Branch):
            yield from statements(statement.then)
            yield from statements(statement.otherwise)


def expressions(body: tuple[Statement, ...]) -> Iterator[Expression]:
    """Every value and condition of a block."""
    for statement in statements(body):
        match statement:
            case Let():
                yield statement.value
            case Store(value=value, dither=dither):
                yield value
                if dither is not None:
                    yield dither
            case Branch():
                yield statement.condition


def reads(expression: Expression) -> Iterator[Read]:
    """Every read in an expression."""
    return (e for e in walk(expression) if isinstance(e, Read))


def value_number(expression: Expression, version_of: Callable[[Symbol], int]) -> object:
    """A key that two expressions share exactly when they are the same one of the same versions of the same names."""
    match expression:
        case Constant(value=value):
            return ("constant", type(value).__name__, repr(value))
        case Read(symbol=symbol):
            return (symbol, version_of(symbol))
        case Apply(operation=operation, arguments=arguments):
            kind = expression.type.extent if operation in REDUCTIONS else None  # a mean of rows is no mean of columns
            return (operation, kind, *(value_number(a, version_of) for a in arguments))
    raise InternalError(f"no value number for {expression!r}")


def fresh_name(wish: str, taken: set[str]) -> str:
    """The wish, with a number if it is taken; it is taken from now on."""
    name, index = wish, 2
    while name in taken:
        name, index = f"{wish}_{index}", index + 1
    taken.add(name)
    return name
