"""Programs that differ from a given one in exactly one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TypeAlias

from optc.dsl.program import Apply, Branch, Expression, Let, Program, Read, Statement, Stop, Store, Symbol
from optc.dsl.source import Span

Rule: TypeAlias = Callable[[Expression], Iterable[Expression]]
"""What may stand in the place of an expression."""

BlockRule: TypeAlias = Callable[[tuple[Statement, ...]], Iterable[tuple[tuple[Statement, ...], Span]]]
"""What may stand in the place of a block of statements, and where the difference is."""


def expressions(value: Expression, rule: Rule) -> Iterator[tuple[Expression, Span]]:
    """Copies of `value` with one sub-expression replaced, and its place."""
    for other in rule(value):
        yield other, value.span
    if isinstance(value, Apply):
        for i, argument in enumerate(value.arguments):
            for other, span in expressions(argument, rule):
                yield replace(value, arguments=(*value.arguments[:i], other, *value.arguments[i + 1 :])), span


def blocks(body: tuple[Statement, ...], rule: Rule, block_rule: BlockRule) -> Iterator[tuple[tuple[Statement, ...], Span]]:
    """Copies of a block with one difference, in an expression of it or in its statements, at any depth."""
    yield from block_rule(body)
    for i, statement in enumerate(body):
        for other, span in _statements(statement, rule, block_rule):
            yield (*body[:i], other, *body[i + 1 :]), span


def _statements(statement: Statement, rule: Rule, block_rule: BlockRule) -> Iterator[tuple[Statement, Span]]:
    match statement:
        case Let(value=value) | Store(value=value):
            for other, span in expressions(value, rule):
                yield replace(statement, value=other), span
        case Branch():
            for condition, span in expressions(statement.condition, rule):
                yield replace(statement, condition=condition), span
            for then, span in blocks(statement.then, rule, block_rule):
                yield replace(statement, then=then), span
            for otherwise, span in blocks(statement.otherwise, rule, block_rule):
                yield replace(statement, otherwise=otherwise), span
        case Stop():
            pass


def programs(program: Program, rule: Rule, block_rule: BlockRule) -> Iterator[tuple[Program, Span]]:
    """Copies of a program with one difference in one of its procedures."""
    for i, procedure in enumerate(program.procedures):
        for body, span in blocks(procedure.body, rule, block_rule):
            changed = replace(procedure, body=body)
            yield replace(program, procedures=(*program.procedures[:i], changed, *program.procedures[i + 1 :])), span


def everywhere(value: Expression, change: Callable[[Read], Expression]) -> Expression:
    """`value` with every read of a name replaced by `change` of it."""
    match value:
        case Read():
            return change(value)
        case Apply(arguments=arguments):
            return replace(value, arguments=tuple(everywhere(a, change) for a in arguments))
    return value


def map_reads(body: tuple[Statement, ...], change: Callable[[Read], Expression]) -> tuple[Statement, ...]:
    """A block with every read of a name replaced by `change` of it."""
    changed: list[Statement] = []
    for statement in body:
        match statement:
            case Let(value=value) | Store(value=value):
                changed.append(replace(statement, value=everywhere(value, change)))
            case Branch(condition=condition, then=then, otherwise=otherwise):
                branch = replace(statement, then=map_reads(then, change), otherwise=map_reads(otherwise, change))
                changed.append(replace(branch, condition=everywhere(condition, change)))
            case Stop():
                changed.append(statement)
    return tuple(changed)


def names_read(*statements: Statement) -> set[Symbol]:
    """Every name that the statements read."""
    found: set[Symbol] = set()

    def note(read: Read) -> Expression:
        found.add(read.symbol)
        return read

    map_reads(statements, note)
    return found


def names_written(*statements: Statement) -> set[Symbol]:
    """Every name that the statements bind or write."""
    found: set[Symbol] = set()
    for statement in statements:
        match statement:
            case Let(target=target) | Store(target=target):
                found.add(target)
            case Branch(then=then, otherwise=otherwise):
                found |= names_written(*then, *otherwise)
    return found
