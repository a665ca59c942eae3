"""Which tensors a body moves through, and what its flags decide."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from optc.compiler.ir import reads, statements
from optc.compiler.plan import Flag, Stream
from optc.compiler.storing import coded_when
from optc.dsl.program import (
    ELEMENT,
    LOGIC,
    REDUCTIONS,
    THETA,
    TRUE,
    Apply,
    Branch,
    Constant,
    Expression,
    Let,
    Program,
    Read,
    Role,
    State,
    Statement,
    Store,
    Symbol,
)
from optc.dsl.storages import REST

STREAMED = (Role.THETA, Role.GRADIENT, Role.INPUT, Role.STATE, Role.ELEMENT)


def streams_of(
    body: tuple[Statement, ...], program: Program, inputs: tuple[str, ...], flags: tuple[Flag, ...]
) -> tuple[Stream, ...]:
    """The streams of a body: θ first, then the gradient, inputs, states and the numbers of the elements.

    Where these are, θ is: random numbers are drawn in its shape and dtype.
    """
    read = reads_first(body)
    needed = {THETA.name} if ELEMENT.name in read else set()
    written = {s.target.name for s in statements(body) if isinstance(s, Store)}
    dithers = {s.target.name: s.dither for s in statements(body) if isinstance(s, Store) and s.dither is not None}
    order = [Symbol(Role.THETA, "theta"), Symbol(Role.GRADIENT, "g"), *(Symbol(Role.INPUT, n) for n in inputs)]
    order += [Symbol(Role.STATE, s.name) for s in program.states if not s.host] + [ELEMENT]
    states = {s.name: s for s in program.states}
    found = [
        _stream(s, s.name in read, s.name in written, states.get(s.name), flags, dithers.get(s.name))
        for s in order
        if s.name in read | written | needed
    ]
    if program.pair is not None and found and found[0].role is Role.THETA:
        theta = found[0]
        rest = Stream(REST, Role.REST, theta.reads, theta.writes, TRUE, pair=program.pair)
        found[:1] = [replace(theta, pair=program.pair), rest]
    return tuple(found)


def _stream(
    symbol: Symbol, reads: bool, writes: bool, state: State | None, flags: tuple[Flag, ...], dither: Expression | None
) -> Stream:
    if state is None:
        return Stream(symbol.name, symbol.role, reads, writes, TRUE)
    coded = coded_when(state)
    exists, coded = over_flags(state.exists, flags), None if coded is None else over_flags(coded, flags)
    return Stream(symbol.name, symbol.role, reads, writes, exists, state.extent, state.storage, coded, dither=dither)


def reads_first(body: tuple[Statement, ...], variant: dict[str, bool] | None = None) -> set[str]:
    """Streams whose old value some path reads; with `variant`, only what its static flags leave of the body."""
    found: set[str] = set()
    _scan(body if variant is None else left_in(body, variant), set(), found, variant or {})
    return found


def left_in(body: tuple[Statement, ...], variant: dict[str, bool]) -> tuple[Statement, ...]:
    """What a variant leaves of a body: no branch that it decides, and no line that nothing depends on any more."""
    return _left(body, set(), variant)[0]


def _left(body: tuple[Statement, ...], live: set[str], variant: dict[str, bool]) -> tuple[tuple[Statement, ...], set[str]]:
    kept: list[Statement] = []
    for statement in reversed(body):
        match statement:
            case Let() | Store():
                measures = isinstance(statement.value, Apply) and statement.value.operation in REDUCTIONS
                if isinstance(statement, Store) or measures or statement.target.name in live:
                    kept.append(statement)
                    live = live - {statement.target.name} | _names(statement.value, variant)
            case Branch():
                decided = decide(statement.condition, variant)
                if decided is not None:
                    side, live = _left(statement.then if decided else statement.otherwise, live, variant)
                    kept += reversed(side)
                else:
                    then, otherwise = _left(statement.then, live, variant), _left(statement.otherwise, live, variant)
                    live = then[1] | otherwise[1]
                    if then[0] or otherwise[0]:
                        kept.append(replace(statement, then=then[0], otherwise=otherwise[0]))
    return tuple(reversed(kept)), live


def _names(expression: Expression, variant: dict[str, bool]) -> set[str]:
    match expression:
        case Read(symbol=symbol):
            return {symbol.name}
        case Apply(operation="where", arguments=(condition, then, otherwise)):
            decided = decide(condition, variant)
            if decided is not None:
                return _names(then if decided else otherwise, variant)
            return _names(condition, variant) | _names(then, variant) | _names(otherwise, variant)
        case Apply(arguments=arguments):
            return set().union(*(_names(a, variant) for a in arguments))
    return set()


def _scan(body: Iterable[Statement], written: set[str], found: set[str], variant: dict[str, bool]) -> set[str]:
    """Add to `found` what is read before it is written; return what is surely written afterwards."""
    for statement in body:
        match statement:
            case Let() | Store():
                names = _names(statement.value, variant)
                streams = {r.symbol.name for r in reads(statement.value) if r.symbol.role in STREAMED}
                if isinstance(statement, Store) and statement.dither is not None:
                    names, streams = names | {ELEMENT.name}, streams | {ELEMENT.name}
                found |= names & streams - written
                written = written | {statement.target.name}
            case Branch():
                then = _scan(statement.then, written, found, variant)
                written = then & _scan(statement.otherwise, written, found, variant)
    return written


def decide(condition: Expression, variant: dict[str, bool]) -> bool | None:
    """The value of a condition over FLAGs in a variant; None where it depends on flags the variant does not give."""
    match condition:
        case Constant(value=bool() as value):
            return value
        case Read(symbol=Symbol(role=Role.FLAG, name=name)):
            return variant.get(name)
        case Apply(operation="not", arguments=(inner,)):
            negated = decide(inner, variant)
            return None if negated is None else not negated
        case Apply(operation="and" | "or" as operation, arguments=(left, right)):
            first, second = decide(left, variant), decide(right, variant)
            absorbing = operation == "or"
            if absorbing in (first, second):
                return absorbing
            return None if first is None or second is None else not absorbing
    return None


def over_flags(condition: Expression, flags: tuple[Flag, ...]) -> Expression:
    """A static condition rewritten over FLAG reads."""
    for flag in flags:
        if flag.condition == condition:
            return Read(Symbol(Role.FLAG, flag.name), condition.type, condition.span)
    if isinstance(condition, Apply) and condition.operation in LOGIC:
        arguments = tuple(over_flags(a, flags) for a in condition.arguments)
        return Apply(condition.operation, arguments, condition.type, condition.span)
    return condition


def flag_names(condition: Expression) -> set[str]:
    """The flags a condition or value reads."""
    return {r.symbol.name for r in reads(condition) if r.symbol.role is Role.FLAG}
