"""Update -> Plan: which kernels, and what each of them streams.

Elementwise procedures are one kernel, one pass over memory: everything is read once before it is written once.
"""

from __future__ import annotations

from collections.abc import Iterable

from optc.compiler.hoist import hoist, static_flags
from optc.compiler.ir import Update, UpdateProcedure, expressions, reads, statements
from optc.compiler.plan import Flag, Kernel, Plan, ProcedurePlan, Stream
from optc.dsl.program import (
    LOGIC,
    TRUE,
    Apply,
    Branch,
    Constant,
    Expression,
    Let,
    Program,
    Read,
    Role,
    Statement,
    Store,
    Symbol,
)

STREAMED = (Role.THETA, Role.GRADIENT, Role.INPUT, Role.STATE)


def schedule(update: Update) -> Plan:
    """The plan of every procedure."""
    flags = static_flags(update.program, tuple(p.body for p in update.procedures))
    procedures = tuple(_procedure(p, update.program, flags) for p in update.procedures)
    used = {name for p in procedures for k in p.kernels for name in k.static_flags}
    used |= {n for s in update.program.states for n in flag_names(over_flags(s.exists, flags))}
    return Plan(update.program, tuple(f for f in flags if f.name in used), procedures)


def _procedure(procedure: UpdateProcedure, program: Program, flags: tuple[Flag, ...]) -> ProcedurePlan:
    hoisted = hoist(procedure, program, flags)
    streams = _streams(hoisted.body, program, procedure.inputs, flags)
    named = {n for e in expressions(hoisted.body) for n in flag_names(e)}
    named |= {n for s in streams for n in flag_names(s.exists)}
    static = tuple(f.name for f in flags if f.name in named)
    kernel = Kernel(
        name=procedure.name,
        streams=streams,
        scalars=hoisted.host.scalars,
        static_flags=static,
        host_flags=tuple(n for n in hoisted.host.flags if n in named),
        body=hoisted.body,
    )
    return ProcedurePlan(procedure.name, procedure.inputs, procedure.every, hoisted.host, (kernel,))


def _streams(
    body: tuple[Statement, ...], program: Program, inputs: tuple[str, ...], flags: tuple[Flag, ...]
) -> tuple[Stream, ...]:
    read = reads_first(body)
    written = {s.target.name for s in statements(body) if isinstance(s, Store)}
    order = [Symbol(Role.THETA, "theta"), Symbol(Role.GRADIENT, "g"), *(Symbol(Role.INPUT, n) for n in inputs)]
    order += [Symbol(Role.STATE, s.name) for s in program.states if not s.host]
    exists = {s.name: over_flags(s.exists, flags) for s in program.states}
    return tuple(
        Stream(s.name, s.role, s.name in read, s.name in written, exists.get(s.name, TRUE))
        for s in order
        if s.name in read | written
    )


def reads_first(body: Iterable[Statement], variant: dict[str, bool] | None = None) -> set[str]:
    """Streams whose old value some path reads; with `variant`, only paths that its static flags allow."""
    found: set[str] = set()
    _scan(body, set(), found, variant or {})
    return found


def _scan(body: Iterable[Statement], written: set[str], found: set[str], variant: dict[str, bool]) -> set[str]:
    """Add to `found` what is read before it is written; return what is surely written afterwards."""
    for statement in body:
        match statement:
            case Let() | Store():
                _note(statement.value, written, found, variant)
                written = written | {statement.target.name}
            case Branch():
                decided = decide(statement.condition, variant)
                if decided is not None:
                    written = _scan(statement.then if decided else statement.otherwise, written, found, variant)
                else:
                    then = _scan(statement.then, written, found, variant)
                    written = then & _scan(statement.otherwise, written, found, variant)
    return written


def _note(expression: Expression, written: set[str], found: set[str], variant: dict[str, bool]) -> None:
    if isinstance(expression, Apply):
        if expression.operation == "where":
            decided = decide(expression.arguments[0], variant)
            if decided is not None:
                return _note(expression.arguments[1 if decided else 2], written, found, variant)
        for argument in expression.arguments:
            _note(argument, written, found, variant)
    elif isinstance(expression, Read) and expression.symbol.role in STREAMED and expression.symbol.name not in written:
        found.add(expression.symbol.name)


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
