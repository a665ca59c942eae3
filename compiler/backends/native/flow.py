"""What the statements of a kernel bind, read and write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optc.compiler.extents import is_measure
from optc.compiler.ir import expressions
from optc.compiler.ir import reads as reads_of
from optc.dsl.kinds import Sort
from optc.dsl.program import Apply, Branch, Expression, Let, Read, Role, Statement, Store, Symbol


def locals_bound(statements: Sequence[Statement]) -> dict[Symbol, Sort]:
    """Locals and statistics bound anywhere in the statements."""
    found: dict[Symbol, Sort] = {}
    for statement in statements:
        match statement:
            case Let(target=Symbol(role=Role.LOCAL | Role.STATISTIC) as target, value=value):
                found[target] = value.type.sort
            case Branch(then=then, otherwise=otherwise):
                found |= locals_bound(then) | locals_bound(otherwise)
    return found


def bound_in(statements: Sequence[Statement], name: str) -> bool:
    """Whether `name` is given a value anywhere in the statements."""
    for statement in statements:
        match statement:
            case Let(target=target) | Store(target=target):
                if target.name == name:
                    return True
            case Branch(then=then, otherwise=otherwise):
                if bound_in(then, name) or bound_in(otherwise, name):
                    return True
    return False


def names_in(statements: Sequence[Statement]) -> set[str]:
    """Every name that is read or bound in the statements."""
    names: set[str] = set()
    for statement in statements:
        match statement:
            case Let(target=target, value=value) | Store(target=target, value=value):
                names |= {target.name} | _reads(value)
            case Branch(condition=condition, then=then, otherwise=otherwise):
                names |= _reads(condition) | names_in(then) | names_in(otherwise)
    return names


def shared_terms(statements: Sequence[Statement]) -> dict[str, str]:
    """The measures that reduce the same values as an earlier one, under the same conditions, and that one."""
    found: dict[str, str] = {}
    first: dict[Expression, str] = {}
    for statement in statements:
        match statement:
            case Let(target=target, value=Apply(arguments=(term,))) if is_measure(statement):
                if term in first:
                    found[target.name] = first[term]
                first.setdefault(term, target.name)
            case Let(target=target) | Store(target=target):
                first = {term: name for term, name in first.items() if target.name not in _reads(term)}
            case Branch(then=then, otherwise=otherwise):
                found |= shared_terms(then) | shared_terms(otherwise)
                changed = {s for side in (then, otherwise) for s in bound_names(side)}
                first = {term: name for term, name in first.items() if not changed & _reads(term)}
    return found


def bound_names(statements: Sequence[Statement]) -> set[str]:
    """Every name that the statements give a value."""
    names: set[str] = set()
    for statement in statements:
        match statement:
            case Let(target=target) | Store(target=target):
                names.add(target.name)
            case Branch(then=then, otherwise=otherwise):
                names |= bound_names(then) | bound_names(otherwise)
    return names


def reads_in(statements: tuple[Statement, ...]) -> Iterator[Read]:
    """Every read in the statements, in the order of the text."""
    for expression in expressions(statements):
        yield from reads_of(expression)


def _reads(expression: Expression) -> set[str]:
    return {read.symbol.name for read in reads_of(expression)}
