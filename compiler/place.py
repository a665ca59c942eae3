"""Where values are known: on the host before the step, or only once the tensors have been looked at.

Conditions of the second kind select values, not code: `if n == 0: a else: b` becomes one `where` for every line of the
branches, so that whatever branches are left in an update depend on flags that the host knows.

Every name is typed anew from the lines that bind it. A name that holds values of several kinds by turns (`n = ‖g‖`, later
`n = n*g`) gets a second one for those that are known earlier, so that lines of their kind can read them. Where an update
reduces, `numel` counts as measured: tensors of different sizes then still share their launches.

Rows, columns and matrices are for lines under conditions that imply `ndim >= 2`. A name that holds a value per row for
matrices and another one for vectors is a value per element for lines that run for both, and a static `where` on such values
becomes a branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from optc.compiler import picking
from optc.compiler.describe import describe
from optc.compiler.ir import expressions, fresh_name, map_expression, reads, statements, walk
from optc.dsl.implication import Implication, TooManyCases, negation, static_part
from optc.dsl.kinds import IN_MATRICES, Extent, Sort, Type
from optc.dsl.program import (
    GATHERING,
    REDUCTIONS,
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
    Stop,
    Store,
    Symbol,
)
from optc.dsl.scope import HAS_MATRIX
from optc.dsl.typing_rules import joined

_NUMEL = Read(Symbol(Role.SHAPE, "numel"), Type(Sort.REAL, Extent.TENSOR, host=True))


def place(body: tuple[Statement, ...], program: Program) -> tuple[Statement, ...]:
    """The body, typed anew, with branches on flags only."""
    reduces = any(isinstance(e, Apply) and e.operation in GATHERING for value in expressions(body) for e in walk(value))
    writes = [s.target for s in statements(body) if isinstance(s, Store)]
    carries = any(t.role is Role.STATE and program.state(t.name).host for t in writes)
    implied = Implication({n: h for h in program.hypers for n in h.names})
    first = _Placer(program, implied, reduces and not carries, _names(body, program), {})
    first.block(body, {}, None)
    second = _Placer(program, implied, reduces and not carries, _names(body, program), first.found)
    return tuple(second.block(body, {}, None))


def _kind(kind: Type) -> Extent | None:
    """Where a value varies that the tensors tell; None for what the host knows before the step."""
    if kind.host:
        return None
    return Extent.TENSOR if kind.extent is Extent.GROUP else kind.extent


def _widest(one: Extent | None, other: Extent | None) -> Extent | None:
    return other if one is None else one if other is None else one.join(other)


def _names(body: tuple[Statement, ...], program: Program) -> set[str]:
    found = {s.target.name for s in statements(body) if isinstance(s, Let | Store)}
    found |= {r.symbol.name for e in expressions(body) for r in reads(e)}
    return found | {s.name for s in program.states} | {n for h in program.hypers for n in h.names}


@dataclass
class _Placer:
    """`latest`: the widest kind of every local, where that is known from an earlier look; `found`: what this look finds."""

    program: Program
    implied: Implication
    measures_size: bool
    taken: set[str]
    latest: Mapping[str, Extent | None]
    found: dict[str, Extent | None] = field(default_factory=dict)
    narrow: bool = False  # inside a branch that not all parameters of the model take alike
    around: tuple[Expression, ...] = ()  # the static conditions that hold here

    def block(self, body: tuple[Statement, ...], known: dict[str, Read], mask: Expression | None) -> list[Statement]:
        """`known`: what locals bound so far are read as, changed in place; `mask`: the condition under which lines count."""
        result: list[Statement] = []
        for statement in body:
            match statement:
                case Let() | Store() if not self._has_matrix() and (choice := _choice_of_rows(statement.value)):
                    result += self.block(_by_cases(statement, choice), known, mask)
                case Let() | Store():
                    value = self.expression(statement.value, known)
                    if isinstance(statement, Store):
                        value = _as_wide(value, statement.value.type.extent)
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
        kind = self._here(replace(value.type, static=False))
        self.found[name] = _widest(_kind(kind), self.found.get(name))
        known[name] = Read(Symbol(Role.LOCAL, name), kind, value.span)
        if name in self.latest and _kind(kind) is not self.latest[name]:
            known[name] = replace(known[name], symbol=Symbol(Role.LOCAL, fresh_name(name, self.taken)))
            result.append(Let(known[name].symbol, value, value.span))
            widest = self.latest[name]
            return known[name] if widest is None else replace(known[name], type=replace(kind, extent=widest))
        return value

    def _has_matrix(self) -> bool:
        """Whether only tensors with rows and columns come here."""
        try:
            return self.implied.implied(self.around, HAS_MATRIX)
        except TooManyCases:
            return False

    def _here(self, kind: Type) -> Type:
        """The type of a value named here: one number of the whole model is one per parameter where not all of them name it."""
        return replace(kind, extent=kind.extent.join(Extent.TENSOR)) if self.narrow else kind

    def _uniform(self, branch: Branch, known: dict[str, Read], mask: Expression | None) -> Branch:
        sides = dict(known), dict(known)
        outside, around = self.narrow, self.around
        self.narrow = narrow = outside or branch.condition.type.extent is not Extent.MODEL
        bodies: list[list[Statement]] = []
        opposite = negation(branch.condition)
        for lines, side, test in zip((branch.then, branch.otherwise), sides, (branch.condition, opposite), strict=True):
            self.around = (*around, static_part(test))
            bodies.append(self.block(lines, side, mask))
        self.narrow, self.around = outside, around
        known.clear()
        for name in sorted(sides[0].keys() & sides[1].keys()):
            reads_ = sides[0][name], sides[1][name]
            kind = _either(reads_[0].type, reads_[1].type)
            if reads_[0] == reads_[1]:
                known[name] = reads_[0]
                continue
            if narrow:
                kind = replace(kind, extent=kind.extent.join(Extent.TENSOR))
            if kind.extent in IN_MATRICES and not self._has_matrix():
                kind = replace(kind, extent=Extent.ELEM)
                self.found[name] = Extent.ELEM
            if reads_[0].symbol == reads_[1].symbol:
                known[name] = replace(reads_[0], type=kind)
            elif name in self.latest and _kind(kind) is not self.latest[name]:  # each side has a name of its own for it
                symbol = Symbol(Role.LOCAL, fresh_name(name, self.taken))
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

    def _named(self, condition: Expression, result: list[Statement]) -> Expression:
        if isinstance(condition, Read):
            return condition
        symbol = Symbol(Role.LOCAL, fresh_name(describe(condition, "condition"), self.taken))
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
            case Apply(operation="pick", arguments=arguments):
                return picking.picked(*(self._argument(a, known) for a in arguments))
            case Apply(operation=operation, arguments=arguments):
                parts = tuple(self._argument(a, known) for a in arguments)
                if operation in REDUCTIONS:
                    parts = (_as_reduced(parts[0], arguments[0].type.extent),)
                    p = picking.period(self.program)
                    if operation == "mean" and arguments[0].type.extent is Extent.PICK and p is not None:
                        return picking.mean(replace(expression, arguments=parts), self._argument(_NUMEL, known), p)
                kind = expression.type if operation in GATHERING else joined(expression.type.sort, parts)
                return replace(expression, arguments=parts, type=replace(kind, static=False))
        return expression

    def _argument(self, expression: Expression, known: dict[str, Read]) -> Expression:
        if isinstance(expression, Read) and expression.symbol == Symbol(Role.SHAPE, "numel") and self.measures_size:
            return replace(expression, type=Type(Sort.REAL, Extent.TENSOR))
        return self.expression(expression, known)


def _either(one: Type, other: Type) -> Type:
    return Type(one.sort, one.extent.join(other.extent), one.host and other.host)


def _as_reduced(value: Expression, extent: Extent) -> Expression:
    """What a reduction takes, of the extent that it goes over: one number may stand for all that are picked."""
    if extent is Extent.PICK:
        return replace(value, type=replace(value.type, extent=extent))
    return _as_wide(value, extent)


def _as_wide(value: Expression, extent: Extent) -> Expression:
    """A value per row, column or matrix that has become one per element, as what it is."""
    if extent in IN_MATRICES and value.type.extent is Extent.ELEM:
        return Apply("largest", (value,), Type(Sort.REAL, extent), value.span)
    return value


def _choice_of_rows(value: Expression) -> Apply | None:
    """A selection by a static condition, with values in it that only tensors with rows and columns have."""
    for node in walk(value):
        if isinstance(node, Apply) and node.operation in ("where", "and", "or") and not node.type.static:
            selects = node.arguments[0].type.static
            if selects and any(e.type.extent in IN_MATRICES for e in walk(node)):
                return node
    return None


def _by_cases(statement: Let | Store, choice: Apply) -> tuple[Statement, ...]:
    """The line as a branch on the condition of a selection in it."""
    match choice:
        case Apply(operation="where", arguments=(condition, then, otherwise)):
            sides = then, otherwise
        case Apply(operation=operation, arguments=(condition, rest)):
            settled = Constant(operation == "or", TRUE.type, choice.span)
            sides = (rest, settled) if operation == "and" else (settled, rest)

    def of(side: Expression) -> Statement:
        return replace(statement, value=map_expression(statement.value, lambda e: side if e == choice else e))

    return (Branch(condition, (of(sides[0]),), (of(sides[1]),), statement.span),)
