"""One precedence printer for every target.

A `Dialect` says how a target spells operations, constants and names; brackets, associativity and the order of evaluation are
settled here once, so that all backends print the same maths in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from optc.dsl.program import Apply, Constant, Expression, Read, Symbol

ATOM = 100

_INFIX: dict[str, tuple[str, int]] = {
    # operation: (C and Python spelling, precedence); `and`, `or`, `not`, `where` differ by dialect
    "lt": ("<", 30), "le": ("<=", 30), "gt": (">", 30), "ge": (">=", 30), "eq": ("==", 30), "ne": ("!=", 30),
    "add": ("+", 50), "sub": ("-", 50), "mul": ("*", 60), "div": ("/", 60),
}  # fmt: skip
COMPARISON = 30
UNARY_MINUS = 70


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one target spells an expression.

    `call[operation]` formats an operation from its printed arguments and wins over the infix form; `name` spells a symbol;
    `number` spells a float; `logic` spells and, or, not with their precedence (looser than comparisons). `fused` formats
    a·b + c, where the target has such an operation that must be asked for.
    """

    call: Mapping[str, Callable[..., str]]
    name: Callable[[Symbol], str]
    number: Callable[[float], str]
    boolean: Callable[[bool], str]
    logic: Mapping[str, tuple[str, int]]
    fused: Callable[[str, str, str], str] | None = None


def print_expression(expression: Expression, dialect: Dialect, outer: int = 0) -> str:
    """The text of an expression, in brackets if it binds more loosely than `outer`."""
    text, precedence = _print(expression, dialect)
    return f"({text})" if precedence < outer else text


def _print(expression: Expression, dialect: Dialect) -> tuple[str, int]:
    match expression:
        case Constant(value=bool() as value):
            return dialect.boolean(value), ATOM
        case Constant(value=int() | float() as value):
            text = dialect.number(float(value))
            return text, UNARY_MINUS if text.startswith("-") else ATOM
        case Constant(value=value):
            return repr(value), ATOM
        case Read(symbol=symbol):
            return dialect.name(symbol), ATOM
        case Apply(operation=operation, arguments=arguments):
            return _apply(operation, arguments, dialect)
    raise TypeError(f"not an expression: {expression!r}")


def _apply(operation: str, arguments: tuple[Expression, ...], dialect: Dialect) -> tuple[str, int]:
    if operation in dialect.call:
        return dialect.call[operation](*(print_expression(a, dialect) for a in arguments)), ATOM
    if operation == "neg":
        return "-" + print_expression(arguments[0], dialect, UNARY_MINUS + 1), UNARY_MINUS
    if operation == "not":
        word, precedence = dialect.logic["not"]
        return word + print_expression(arguments[0], dialect, precedence), precedence
    if operation in dialect.logic:
        word, precedence = dialect.logic[operation]
        # `a and b and c` needs no brackets, `a or (b and c)` has them for the reader
        parts = [print_expression(a, dialect, ATOM if _mixes(operation, a) else precedence) for a in arguments]
        return f" {word} ".join(parts), precedence
    if dialect.fused and operation in ("add", "sub") and (terms := _product_and_rest(operation, arguments)):
        return dialect.fused(*(print_expression(term, dialect) for term in terms)), ATOM
    word, precedence = _INFIX[operation]
    # never chained and never re-associated: the right operand is bracketed at equal precedence
    left = precedence + 1 if precedence == COMPARISON else precedence
    joint = word if operation in ("mul", "div") else f" {word} "
    first = print_expression(arguments[0], dialect, left)
    return first + joint + print_expression(arguments[1], dialect, precedence + 1), precedence


def _product_and_rest(operation: str, arguments: tuple[Expression, ...]) -> tuple[Expression, Expression, Expression] | None:
    """(a, b, c) where a sum or difference is a·b + c; of two products the first is taken."""

    def signed(term: Expression) -> Expression:
        return Apply("neg", (term,), term.type) if operation == "sub" else term

    first, second = arguments
    match first, second:
        case Apply("mul", (a, b)), _:
            return a, b, signed(second)
        case _, Apply("mul", (a, b)):
            return signed(a), b, first
        case Apply("pow", (Read() as a, Constant(2))), _:
            return a, a, signed(second)
        case _, Apply("pow", (Read() as a, Constant(2))):
            return signed(a), a, first
    return None


def _mixes(operation: str, argument: Expression) -> bool:
    """Whether an `and` stands in an `or` or the other way round."""
    return isinstance(argument, Apply) and {operation, argument.operation} == {"and", "or"}


def python_number(value: float) -> str:
    """A float as Python source, inf and nan included."""
    if math.isnan(value):
        return 'float("nan")'
    if math.isinf(value):
        return 'float("inf")' if value > 0 else '-float("inf")'
    return repr(value)
