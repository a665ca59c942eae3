"""Faults in what a line sees of the lines before it: an old value, a line left out, a line of a modifier elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from optc.dsl.program import GRADIENT, THETA, Branch, Expression, Let, Program, Read, Role, Statement, Stop, Symbol
from optc.dsl.source import Span
from tests.faults.in_lines import Changed
from tests.faults.rewrite import map_reads, names_read, names_written

_OLD = "value_before"


def value_before(body: tuple[Statement, ...]) -> Changed:
    """One line reads the value that a name had before it was changed: the gradient before decay, the state before its write."""
    for i, statement in enumerate(body):
        for symbol in sorted(names_written(statement), key=lambda s: s.name):
            if symbol.role is Role.LOCAL and symbol not in names_written(*body[:i]):
                continue
            for j in range(i + 1, len(body)):
                read = next((r for r in _reads(body[j]) if r.symbol == symbol), None)
                if read is not None:
                    old = Symbol(Role.LOCAL, _OLD)

                    def change(one: Read, symbol: Symbol = symbol, old: Symbol = old) -> Expression:
                        return replace(one, symbol=old) if one.symbol == symbol else one

                    seen = map_reads((body[j],), change)
                    yield (*body[:i], Let(old, read), *body[i:j], *seen, *body[j + 1 :]), body[j].span


def _reads(statement: Statement) -> list[Read]:
    found: list[Read] = []

    def note(read: Read) -> Expression:
        found.append(read)
        return read

    map_reads((statement,), note)
    return found


def forget_change(body: tuple[Statement, ...]) -> Changed:
    """A line that changes what has a value already: `u = u/max(1, rms(u))`."""
    for i, statement in enumerate(body):
        if isinstance(statement, Let) and (statement.target == GRADIENT or statement.target in names_written(*body[:i])):
            yield (*body[:i], *body[i + 1 :]), statement.span


def stop_moved(body: tuple[Statement, ...]) -> Changed:
    """A `stop` one line too early or too late."""
    for i, statement in enumerate(body):
        if not isinstance(statement, Branch) or not any(isinstance(s, Stop) for s in statement.then):
            continue
        if i > 0 and not names_read(statement) & names_written(body[i - 1]):
            yield (*body[: i - 1], statement, body[i - 1], *body[i + 1 :]), statement.span
        if i + 1 < len(body):
            yield (*body[:i], body[i + 1], statement, *body[i + 2 :]), statement.span


# --- compositions -------------------------------------------------------------------------------------------------------------


def modifier_of(program: Program, statement: Statement) -> str | None:
    """The modifier that has brought a line of a composition: its name stands behind it."""
    line = program.source.position(statement.span.start)[0]
    text = program.source.text.splitlines()[line - 1]
    return text.partition("  # ")[2] or None if program.source.name.startswith("<composed") else None


def modifier_lines(program: Program) -> frozenset[int]:
    """The lines of a composition that modifiers have brought."""
    found: set[int] = set()
    for statement in program.procedures[0].body:
        if modifier_of(program, statement) is not None:
            first, last = (program.source.position(place)[0] for place in (statement.span.start, statement.span.end))
            found |= set(range(first, last + 1))
    return frozenset(found)


def other_stage(program: Program) -> Iterator[tuple[Program, Span]]:
    """The lines of a modifier elsewhere: before or behind a line of the base, at the beginning or at the end."""
    step = program.procedures[0]
    for i, j in _runs(program):
        run, rest = step.body[i:j], (*step.body[:i], *step.body[j:])
        for place in (i + 1, i - 1, i + 2, i - 2, len(rest), 0):
            body = (*rest[:place], *run, *rest[place:])
            if 0 <= place <= len(rest) and _bound(body):
                yield replace(program, procedures=(replace(step, body=body), *program.procedures[1:])), run[0].span


def _runs(program: Program) -> Iterator[tuple[int, int]]:
    """Where the lines of each modifier stand together."""
    names = [modifier_of(program, statement) for statement in program.procedures[0].body]
    i = 0
    while i < len(names):
        j = i + 1
        while j < len(names) and names[j] == names[i]:
            j += 1
        if names[i] is not None:
            yield i, j
        i = j


def _bound(body: tuple[Statement, ...]) -> bool:
    """Whether every local name has a value where it is read, and what writes θ is still the last to do so."""
    known: set[Symbol] = set()
    for statement in body:
        if any(s.role is Role.LOCAL and s not in known for s in names_read(statement) - names_written(statement)):
            return False
        known |= names_written(statement)
    return THETA in known
