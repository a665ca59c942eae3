"""What a kernel body does to its names, as Triton needs to know it.

A run-time `if` must give a name the same shape in both of its branches, and keeps no name that only one of them binds; so
scalars that meet tensors are spread over the block, and names bound on one path only are defined before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from optc.compiler.ir import expressions, reads, statements
from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.program import TRUE, Apply, Branch, Constant, Expression, Let, Role, Statement, Store

FALSE = Constant(False, TRUE.type)
_BOOL = Type(Sort.BOOL, Extent.MODEL, host=True)


def elementwise_names(body: tuple[Statement, ...], streams: Iterable[str]) -> frozenset[str]:
    """Names that hold a tensor somewhere in the body: streams, and locals computed from them."""
    found = set(streams)
    size = -1
    while size != len(found):
        size = len(found)
        for statement in statements(body):
            if isinstance(statement, Let | Store) and is_elementwise(statement.value, found):
                found.add(statement.target.name)
    return frozenset(found)


def is_elementwise(expression: Expression, names: Iterable[str]) -> bool:
    """Whether the value varies over elements."""
    return any(r.symbol.name in names for r in reads(expression))


def bound_by(body: tuple[Statement, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """(names bound on every path, names bound on some path)."""
    always: set[str] = set()
    ever: set[str] = set()
    for statement in body:
        match statement:
            case Let(target=target) | Store(target=target):
                always.add(target.name)
                ever.add(target.name)
            case Branch(then=then, otherwise=otherwise):
                first, second = bound_by(then), bound_by(otherwise)
                always |= first[0] & second[0]
                ever |= first[1] | second[1]
    return frozenset(always), frozenset(ever)


def count_reads(body: tuple[Statement, ...]) -> Counter[str]:
    """How often each name is read."""
    return Counter(r.symbol.name for e in expressions(body) for r in reads(e))


def written_when(body: tuple[Statement, ...], name: str) -> Expression:
    """The condition over flags under which the body stores a stream."""
    condition: Expression = FALSE
    for statement in body:
        match statement:
            case Store(target=target) if target.name == name:
                return TRUE
            case Branch():
                then, otherwise = written_when(statement.then, name), written_when(statement.otherwise, name)
                if then == otherwise:
                    side: Expression = then
                else:
                    side = _or(_and(statement.condition, then), _and(_not(statement.condition), otherwise))
                condition = _or(condition, side)
    return condition


def both(a: Expression, b: Expression) -> Expression:
    """a and b, simplified where one is constant or they are equal."""
    return a if a == b else _and(a, b)


def reads_host_flags(expression: Expression, static: Iterable[str]) -> bool:
    """Whether a condition depends on more than static flags."""
    known = set(static)
    return any(r.symbol.role is Role.FLAG and r.symbol.name not in known for r in reads(expression))


def _and(a: Expression, b: Expression) -> Expression:
    if a == FALSE or b == FALSE:
        return FALSE
    if a == TRUE or b == TRUE:
        return b if a == TRUE else a
    return Apply("and", (a, b), _BOOL)


def _or(a: Expression, b: Expression) -> Expression:
    if a == TRUE or b == TRUE:
        return TRUE
    if a == FALSE or b == FALSE:
        return b if a == FALSE else a
    return a if a == b else Apply("or", (a, b), _BOOL)


def _not(a: Expression) -> Expression:
    if isinstance(a, Apply) and a.operation == "not":
        return a.arguments[0]
    return Apply("not", (a,), _BOOL)
