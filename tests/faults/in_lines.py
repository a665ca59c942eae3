"""Faults in the order of the lines, and in a program as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeAlias

from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.program import (
    GRADIENT,
    THETA,
    Apply,
    Branch,
    Constant,
    Expression,
    Hyper,
    Let,
    Program,
    Read,
    Role,
    Statement,
    Stop,
    Store,
    Symbol,
)
from optc.dsl.source import Span
from tests.faults.rewrite import map_reads, names_read, names_written, programs

_LITERAL = Type(Sort.REAL, Extent.MODEL, host=True, static=True)

Changed: TypeAlias = Iterator[tuple[tuple[Statement, ...], Span]]


def forget_write(body: tuple[Statement, ...]) -> Changed:
    for i, statement in enumerate(body):
        if isinstance(statement, Store) and statement.target != THETA:
            yield (*body[:i], *body[i + 1 :]), statement.span


def late_write(body: tuple[Statement, ...]) -> Changed:
    """The old state where the new one is meant: the write moves behind the line that reads it."""
    for i, statement in enumerate(body):
        if not isinstance(statement, Store) or statement.target == THETA:
            continue
        for j in range(i + 1, len(body)):
            if statement.target in names_written(body[j]):
                break
            if statement.target in names_read(body[j]):
                yield (*body[:i], *body[i + 1 : j + 1], statement, *body[j + 1 :]), statement.span
                break


def early_write(body: tuple[Statement, ...]) -> Changed:
    """The new state where the old one is meant: the write moves before the line that reads it."""
    for i, statement in enumerate(body):
        if not isinstance(statement, Store) or statement.target == THETA:
            continue
        for j in range(i - 1, -1, -1):
            if statement.target in names_written(body[j]) or names_read(statement) & names_written(body[j]):
                break
            if statement.target in names_read(body[j]):
                yield (*body[:j], statement, *body[j:i], *body[i + 1 :]), statement.span
                break


def theta_before(body: tuple[Statement, ...]) -> Changed:
    """θ is written before the line above it has had its effect."""
    for i, statement in enumerate(body):
        if isinstance(statement, Store) and statement.target == THETA and i > 0 and THETA in names_read(body[i - 1]):
            yield (*body[: i - 1], statement, body[i - 1], *body[i + 1 :]), statement.span


def drop_branch(body: tuple[Statement, ...]) -> Changed:
    for i, statement in enumerate(body):
        if not isinstance(statement, Branch):
            continue
        needed = names_written(statement) & names_read(*body[i + 1 :])
        if not needed - names_written(*body[:i]):
            yield (*body[:i], *body[i + 1 :]), statement.span


def always_branch(body: tuple[Statement, ...]) -> Changed:
    """A branch that is taken always, or never."""
    for i, statement in enumerate(body):
        if isinstance(statement, Branch):
            yield (*body[:i], *statement.then, *body[i + 1 :]), statement.span
            if statement.otherwise:
                yield (*body[:i], *statement.otherwise, *body[i + 1 :]), statement.span


def drop_stop(body: tuple[Statement, ...]) -> Changed:
    for i, statement in enumerate(body):
        if isinstance(statement, Stop):
            yield (*body[:i], *body[i + 1 :]), statement.span


def nothing(_: Expression) -> Iterable[Expression]:
    return ()


def no_block(_: tuple[Statement, ...]) -> Changed:
    yield from ()


def swap_tuple(program: Program) -> Iterator[tuple[Program, Span]]:
    """Two elements of a tuple (β1 and β2) in each other's place, everywhere."""
    for hyper in program.hypers:
        for a, b in zip(hyper.names, hyper.names[1:], strict=False):
            other = {Symbol(Role.HYPER, a): Symbol(Role.HYPER, b), Symbol(Role.HYPER, b): Symbol(Role.HYPER, a)}

            def change(read: Read, other: dict[Symbol, Symbol] = other) -> Expression:
                return replace(read, symbol=other.get(read.symbol, read.symbol))

            procedures = tuple(replace(p, body=map_reads(p.body, change)) for p in program.procedures)
            yield replace(program, procedures=procedures), hyper.span


def wrong_beta(program: Program) -> Iterator[tuple[Program, Span]]:
    """One element of a tuple taken for its neighbour, on one line."""
    tuples: list[Hyper] = [h for h in program.hypers if h.is_tuple]

    def rule(value: Expression) -> Iterator[Expression]:
        for hyper in tuples:
            if isinstance(value, Read) and value.symbol.role is Role.HYPER and value.symbol.name in hyper.names:
                place = hyper.names.index(value.symbol.name)
                name = hyper.names[(place + 1) % len(hyper.names)]
                yield replace(value, symbol=Symbol(Role.HYPER, name))

    yield from programs(program, rule, no_block)


def wrong_initial(program: Program) -> Iterator[tuple[Program, Span]]:
    for i, state in enumerate(program.states):
        zero = isinstance(state.initial, Constant) and state.initial.value == 0
        other = replace(state, initial=Constant(1.0 if zero else 0.0, state.initial.type))
        yield replace(program, states=(*program.states[:i], other, *program.states[i + 1 :])), state.span


def coupled_decay(program: Program) -> Iterator[tuple[Program, Span]]:
    """Decoupled decay made an L2 penalty."""
    decay = Symbol(Role.HYPER, "weight_decay")
    step = program.procedures[0]
    for i, statement in enumerate(step.body):
        if isinstance(statement, Store) and statement.target == THETA and decay in names_read(statement):

            def without(read: Read) -> Expression:
                return Constant(0.0, _LITERAL) if read.symbol == decay else read

            elem = statement.value.type
            penalty = Apply("mul", (Read(decay, _LITERAL), Read(THETA, elem)), elem)
            first = Let(GRADIENT, Apply("add", (Read(GRADIENT, elem), penalty), elem))
            body = (first, *step.body[:i], *map_reads((statement,), without), *step.body[i + 1 :])
            yield replace(program, procedures=(replace(step, body=body), *program.procedures[1:])), statement.span


def decoupled_decay(program: Program) -> Iterator[tuple[Program, Span]]:
    """An L2 penalty made decoupled decay."""
    decay, lr = Symbol(Role.HYPER, "weight_decay"), Symbol(Role.HYPER, "lr")
    step = program.procedures[0]
    first = step.body[0]
    if not isinstance(first, Branch) or GRADIENT not in names_written(first):
        return
    for i, statement in enumerate(step.body):
        if isinstance(statement, Store) and statement.target == THETA:
            elem = statement.value.type
            factor = Apply("mul", (Read(lr, _LITERAL), Read(decay, _LITERAL)), _LITERAL)
            shrunk = Apply("sub", (statement.value, Apply("mul", (factor, Read(THETA, elem)), elem)), elem)
            body = (*step.body[1:i], replace(statement, value=shrunk), *step.body[i + 1 :])
            yield replace(program, procedures=(replace(step, body=body), *program.procedures[1:])), statement.span
