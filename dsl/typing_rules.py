"""Types of literals and operations."""

from __future__ import annotations

from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.program import Apply, Constant, Expression, Scalar
from optc.dsl.source import Span


def constant(value: Scalar, span: Span) -> Constant:
    """A typed literal."""
    sort = Sort.BOOL if isinstance(value, bool) else Sort.REAL if isinstance(value, (int, float)) else Sort.CHOICE
    return Constant(value, Type(sort, Extent.MODEL, host=True, static=True), span)


def joined(sort: Sort, arguments: tuple[Expression, ...]) -> Type:
    """The type of an operation: the smallest extent that holds all arguments; host and static if all of them are."""
    extent = Extent.MODEL
    for a in arguments:
        extent = extent.join(a.type.extent)
    return Type(sort, extent, all(a.type.host for a in arguments), all(a.type.static for a in arguments))


def varying(expression: Expression) -> Expression:
    """The innermost sub-expression that makes a value as wide as it is."""
    extent = expression.type.extent
    while isinstance(expression, Apply):
        parts = [a for a in expression.arguments if a.type.extent is extent]
        if len(parts) != 1:
            return expression
        expression = parts[0]
    return expression
