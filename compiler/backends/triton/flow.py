"""What a kernel body does to its names, as Triton needs to know it.

A run-time `if` must give a name the same shape in both of its branches, and keeps no name that only one of them binds; so
scalars that meet tensors are spread over the block, and names bound on one path only are defined before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from optc.compiler.ir import expressions, reads, statements
from optc.dsl.program import Branch, Expression, Let, Role, Statement, Store


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


def reads_host_flags(expression: Expression, static: Iterable[str]) -> bool:
    """Whether a condition depends on more than static flags."""
    known = set(static)
    return any(r.symbol.role is Role.FLAG and r.symbol.name not in known for r in reads(expression))
