"""Where the values and lines of an update vary, told by the names that they read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optc.compiler.ir import reads
from optc.dsl.kinds import IN_MATRICES, Extent
from optc.dsl.program import (
    GATHERING,
    PICK,
    REDUCTIONS,
    TOTAL,
    Apply,
    Branch,
    Expression,
    Let,
    Program,
    Read,
    Role,
    Statement,
    Store,
    Symbol,
)

ON_STATISTICS = IN_MATRICES | {Extent.TENSOR}
"""Where code on statistics runs: beside code per element, and that of the whole model."""

_GIVEN = (Role.SCALAR, Role.FLAG, Role.STATISTIC)
_STREAMS = (Role.THETA, Role.GRADIENT, Role.INPUT, Role.ELEMENT)


@dataclass(frozen=True, slots=True)
class Extents:
    """The extents of a body that has been placed. `locals`: the widest extent that each local name ever has."""

    program: Program
    locals: Mapping[str, Extent]

    def of(self, expression: Expression) -> Extent:
        """Where a value varies. What differs between groups counts as `tensor`, a constant as `model`."""
        match expression:
            case Read(symbol=symbol, type=kind):
                extent = kind.extent if symbol.role in _GIVEN else self._named(symbol)
                return Extent.TENSOR if extent is Extent.GROUP else extent
            case Apply(operation=operation, type=kind) if operation in GATHERING or operation == PICK:
                return kind.extent
            case Apply(arguments=arguments):
                extent = Extent.MODEL
                for argument in arguments:
                    extent = extent.join(self.of(argument))
                return extent
        return Extent.MODEL

    def line(self, statement: Let | Store) -> Extent:
        """Where a line runs: once for the model, per tensor, …, per element. Elements are reduced where they are."""
        if is_measure(statement):
            return Extent.PICK if of_picked(statement) else Extent.ELEM
        if statement.target.role is Role.STATISTIC:
            return self.of(statement.value)
        return Extent.MODEL if statement.target.role is Role.SCALAR else self._named(statement.target)

    def _named(self, symbol: Symbol) -> Extent:
        if symbol.role is Role.STATE:
            return self.program.state(symbol.name).extent
        if symbol.role is Role.LOCAL:
            return self.locals.get(symbol.name, Extent.MODEL)
        if symbol.role is Role.LOSS:
            return Extent.MODEL
        return Extent.ELEM if symbol.role in _STREAMS else Extent.TENSOR


def extents_of(body: tuple[Statement, ...], program: Program) -> Extents:
    """The extents of a body's names."""
    found: dict[str, Extent] = {}
    while True:
        before = dict(found)
        _widen(body, Extents(program, before), found, Extent.MODEL)
        if found == before:
            return Extents(program, found)


def _widen(body: tuple[Statement, ...], extents: Extents, found: dict[str, Extent], around: Extent) -> None:
    for statement in body:
        match statement:
            case Let(target=Symbol(role=Role.LOCAL, name=name), value=value):
                # `place.py` calls per element what is per row for some tensors, and more for others
                wide = Extent.ELEM if value.type.extent is Extent.ELEM else around
                found[name] = found.get(name, Extent.MODEL).join(extents.of(value)).join(wide)
            case Branch():
                inside = Extent.TENSOR if is_narrow(statement) else around
                _widen(statement.then, extents, found, inside)
                _widen(statement.otherwise, extents, found, inside)


def is_narrow(branch: Branch) -> bool:
    """Whether parameters of one model may take different sides."""
    return any(r.type.extent is not Extent.MODEL for r in reads(branch.condition))


def is_measure(statement: Statement) -> bool:
    """Whether a line reduces a value per element."""
    if not isinstance(statement, Let) or not isinstance(statement.value, Apply) or statement.value.operation not in REDUCTIONS:
        return False
    return statement.value.arguments[0].type.extent not in IN_MATRICES


def of_picked(statement: Statement) -> bool:
    """Whether a line reduces a value of picked elements."""
    match statement:
        case Let(value=Apply(arguments=(value, *_))) if is_measure(statement):
            return value.type.extent is Extent.PICK
    return False


def is_total(statement: Statement) -> bool:
    """Whether a line adds up one number per parameter."""
    return isinstance(statement, Let) and isinstance(statement.value, Apply) and statement.value.operation == TOTAL
