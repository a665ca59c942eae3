"""Picked elements, as the stages after the checker see them: `pick` stands at the names of values per element only.

`pick(a*b, p)` is `pick(a, p)*pick(b, p)`. So code on picked elements is code per element, run at every p-th of them: a `pick`
says no more than where the name it stands at is looked up.
"""

from __future__ import annotations

from dataclasses import replace

from optc.compiler.ir import expressions, map_expression, map_statements, statements, walk
from optc.compiler.plan import Kernel, Pass
from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.program import GATHERING, PICK, Apply, Constant, Expression, Program, Read, Role, Statement, Store, Symbol
from optc.dsl.typing_rules import constant, joined


def period(program: Program) -> Read | None:
    """p, if the program picks."""
    hyper = next((h for h in program.hypers if program.pick in h.names), None)
    if hyper is None or program.pick is None:
        return None
    extent = Extent.MODEL if hyper.shared or program.by_group else Extent.GROUP
    return Read(Symbol(Role.HYPER, program.pick), Type(Sort.REAL, extent, host=True))


def is_one(p: Read) -> Apply:
    """The static condition under which every element is picked."""
    return Apply("eq", (p, constant(1, p.span)), Type(Sort.BOOL, p.type.extent, host=True, static=True))


def picked(value: Expression, p: Expression) -> Expression:
    """`pick(value, p)` with `pick` at names only; what is one number stays as it is."""
    match value:
        case Apply(operation=operation, arguments=arguments) if value.type.extent is Extent.ELEM and operation not in GATHERING:
            return replace(value, arguments=tuple(picked(a, p) for a in arguments), type=_picked(value.type))
        case Read() if value.type.extent is Extent.ELEM:
            return Apply(PICK, (value, p), _picked(value.type), value.span)
    return value


def mean(total: Apply, numel: Expression, p: Expression) -> Expression:
    """The mean over picked elements: their sum over their number, numel/p rounded up."""

    def apply(operation: str, *arguments: Expression) -> Expression:
        return Apply(operation, arguments, replace(joined(Sort.REAL, arguments), static=False), total.span)

    count = apply("neg", apply("floor", apply("neg", apply("div", numel, p))))
    return apply("div", replace(total, operation="sum"), count)


def looked_up(kernel: Kernel) -> Kernel:
    """The kernel for code that looks up elements at picked places itself: no `pick` is left in its passes."""

    def plain(value: Expression) -> Expression:
        return value.arguments[0] if isinstance(value, Apply) and value.operation == PICK else value

    def of(one: Pass) -> Pass:
        picked, together = (map_statements(b, lambda value: map_expression(value, plain)) for b in (one.picked, one.together))
        return replace(one, picked=picked, together=together)

    return kernel if kernel.pick is None else replace(kernel, passes=tuple(map(of, kernel.passes)))


def picks(body: tuple[Statement, ...], program: Program) -> bool:
    """Whether a body has anything to do with picked elements."""
    if program.pick is None:
        return False
    stored = (s.target for s in statements(body) if isinstance(s, Store) and s.target.role is Role.STATE)
    found = (e.type.extent is Extent.PICK for value in expressions(body) for e in walk(value) if not isinstance(e, Constant))
    return any(found) or any(program.state(t.name).extent is Extent.PICK for t in stored)


def _picked(kind: Type) -> Type:
    return replace(kind, extent=Extent.PICK)
