"""Where values are known: on the host before the step, or only once the tensors have been looked at.

Conditions of the second kind select values, not code: `if n == 0: a else: b` becomes one `where` for every line of the
branches, so that whatever branches are left in an update depend on flags that the host knows.

Every name is typed anew from the lines that bind it. A name that holds values of several kinds by turns (`n = ‖g‖`, later
`n = n*g`) gets a second one for those that are known earlier, so that lines of their kind can read them. Where an update
reduces, `numel` counts as measured: tensors of different sizes then still share their launches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum

from optc.compiler.describe import describe
from optc.compiler.ir import expressions, reads, statements, walk
from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.program import REDUCTIONS, Apply, Branch, Expression, Let, Program, Read, Role, Statement, Stop, Store, Symbol
from optc.dsl.typing_rules import joined


def place(body: tuple[Statement, ...], program: Program) -> tuple[Statement, ...]:
    """The body, typed anew, with branches on flags only."""
    reduces = any(isinstance(e, Apply) and e.operation in REDUCTIONS for value in expressions(body) for e in walk(value))
    writes = [s.target for s in statements(body) if isinstance(s, Store)]
    carries = any(t.role is Role.STATE and program.state(t.name).host for t in writes)
    first = _Placer(program, reduces and not carries, _names(body, program), {})
    first.block(body, {}, None)
    second = _Placer(program, reduces and not carries, _names(body, program), first.found)
    return tuple(second.block(body, {}, None))


class _Kind(IntEnum):
    """When a value is known: before the step, after a look at the tensor, for every element by itself."""

    HOST = 0
    TENSOR = 1
    ELEMENT = 2

    @staticmethod
    def of(kind: Type) -> _Kind:
        """The kind of a type."""
        return _Kind.HOST if kind.host else _Kind.TENSOR if kind.extent.within(Extent.TENSOR) else _Kind.ELEMENT


def _names(body: tuple[Statement, ...], program: Program) -> set[str]:
    found = {s.target.name for s in statements(body) if isinstance(s, Let | Store)}
    found |= {r.symbol.name for e in expressions(body) for r in reads(e)}
    return found | {s.name for s in program.states} | {n for h in program.hypers for n in h.names}


@dataclass
class _Placer:
    """`latest`: the latest kind of every local, where that is known from an earlier look; `found`: what this look finds."""

    program: Program
    measures_size: bool
    taken: set[str]
    latest: Mapping[str, _Kind]
    found: dict[str, _Kind] = field(default_factory=dict)

    def block(self, body: tuple[Statement, ...], known: dict[str, Read], mask: Expression | None) -> list[Statement]:
        """`known`: what locals bound so far are read as, changed in place; `mask`: the condition under which lines count."""
        result: list[Statement] = []
        for statement in body:
            match statement:
                case Let() | Store():
                    value = self.expression(statement.value, known)
                    if mask is not None:
                        value = self._masked(statement.target, value, known, mask)
                    if statement.target.role is Role.LOCAL:
                        value = self._bound(statement.target.name, value, known, result)
                    result.append(replace(statement, value=value))
                case Branch():
                    condition = self.expression(statement.condition, known)
                    if condition.type.host:
                        result.append(self._uniform(replace(statement, condition=condition), known, mask))
                    else:
                        result += self._selected(replace(statement, condition=condition), known, mask)
                case Stop():
                    result.append(statement)
        return result

    def _bound(self, name: str, value: Expression, known: dict[str, Read], result: list[Statement]) -> Expression:
        """What to bind a local to; values of an earlier kind than its latest are bound to a name of their own first."""
        kind = replace(value.type, static=False)
        self.found[name] = max(_Kind.of(kind), self.found.get(name, _Kind.HOST))
        known[name] = Read(Symbol(Role.LOCAL, name), kind, value.span)
        if _Kind.of(kind) < self.latest.get(name, _Kind.HOST):
            known[name] = replace(known[name], symbol=Symbol(Role.LOCAL, self._fresh(name)))
            result.append(Let(known[name].symbol, value, value.span))
            return known[name]
        return value

    def _uniform(self, branch: Branch, known: dict[str, Read], mask: Expression | None) -> Branch:
        sides = dict(known), dict(known)
        bodies = [self.block(body, side, mask) for body, side in zip((branch.then, branch.otherwise), sides, strict=True)]
        known.clear()
        for name in sorted(sides[0].keys() & sides[1].keys()):
            reads_ = sides[0][name], sides[1][name]
            kind = _either(reads_[0].type, reads_[1].type)
            if reads_[0].symbol == reads_[1].symbol:
                known[name] = replace(reads_[0], type=kind)
            elif _Kind.of(kind) < self.latest.get(name, _Kind.HOST):  # each side has a name of its own for it
                symbol = Symbol(Role.LOCAL, self._fresh(name))
                for body, read in zip(bodies, reads_, strict=True):
                    body.append(Let(symbol, read, branch.span))
                known[name] = Read(symbol, kind, branch.span)
            else:
                known[name] = Read(Symbol(Role.LOCAL, name), kind, branch.span)
        return replace(branch, then=tuple(bodies[0]), otherwise=tuple(bodies[1]))

    def _selected(self, branch: Branch, known: dict[str, Read], mask: Expression | None) -> list[Statement]:
        result: list[Statement] = []
        condition = self._named(branch.condition, result)
        bound: list[set[str]] = []
        before = set(known)
        opposite = Apply("not", (condition,), condition.type, branch.span)
        for side, test in ((branch.then, condition), (branch.otherwise, opposite)):
            if side:
                whole = test if mask is None else Apply("and", (mask, test), joined(Sort.BOOL, (mask, test)), branch.span)
                result += self.block(side, known, self._named(whole, result))
            bound.append({s.target.name for s in statements(side) if isinstance(s, Let)})
        for name in known.keys() - before - (bound[0] & bound[1]):
            del known[name]
        return result

    def _fresh(self, wish: str) -> str:
        name, index = wish, 2
        while name in self.taken:
            name, index = f"{wish}_{index}", index + 1
        self.taken.add(name)
        return name

    def _named(self, condition: Expression, result: list[Statement]) -> Expression:
        if isinstance(condition, Read):
            return condition
        symbol = Symbol(Role.LOCAL, self._fresh(describe(condition, "condition")))
        result.append(Let(symbol, condition, condition.span))
        return Read(symbol, condition.type, condition.span)

    def _masked(self, target: Symbol, value: Expression, known: dict[str, Read], mask: Expression) -> Expression:
        """The value where the line counts, else what the name had; a name that had nothing is read under the mask only."""
        if target.role is Role.LOCAL and target.name not in known:
            return value
        old = Read(target, Type(value.type.sort, Extent.ELEM), value.span)
        if target.role is Role.LOCAL:
            old = replace(known[target.name], span=value.span)
        elif target.role is Role.STATE:
            old = replace(old, type=Type(Sort.REAL, self.program.state(target.name).extent))
        return Apply("where", (mask, value, old), joined(value.type.sort, (mask, value, old)), value.span)

    def expression(self, expression: Expression, known: dict[str, Read]) -> Expression:
        """The expression with types that follow from where its names are known."""
        if expression.type.static and (expression.type.sort is not Sort.REAL or not self.measures_size):
            return expression
        match expression:
            case Read(symbol=Symbol(role=Role.LOCAL, name=name)) if name in known:
                return replace(known[name], span=expression.span)
            case Read(symbol=Symbol(role=Role.STATE, name=name)):
                state = self.program.state(name)
                return replace(expression, type=Type(Sort.REAL, state.extent, host=state.host))
            case Apply(operation=operation, arguments=arguments):
                parts = tuple(self._argument(a, known) for a in arguments)
                kind = expression.type if operation in REDUCTIONS else joined(expression.type.sort, parts)
                return replace(expression, arguments=parts, type=replace(kind, static=False))
        return expression

    def _argument(self, expression: Expression, known: dict[str, Read]) -> Expression:
        if isinstance(expression, Read) and expression.symbol == Symbol(Role.SHAPE, "numel") and self.measures_size:
            return replace(expression, type=Type(Sort.REAL, Extent.TENSOR))
        return self.expression(expression, known)


def _either(one: Type, other: Type) -> Type:
    return Type(one.sort, one.extent.join(other.extent), one.host and other.host)
