"""Code per element, code on statistics and code of the whole model told apart: each gets lines and names of its own.

Afterwards a body has these lines, in the order of the text:

- **per element**, all or picked ones: `Let` and `Store` of such values, and measures: `Let STATISTIC r = reduction(value)`;
- **on statistics**: `Let` and `Store` of one value per tensor, matrix, row or column; a reduction of such a value is a line of
  its own. What lines per element need of them are STATISTICs, each bound by one line only;
- **of the model**: `Let` and `Store` of one number for all tensors, and `Let STATISTIC s = total(STATISTIC part)`. What the
  other lines need of them are SCALARs, each bound by one line only.

Two uses share a name exactly when they are the same expression of the same versions of the same names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from optc.compiler.describe import describe
from optc.compiler.extents import Extents, extents_of, is_narrow
from optc.compiler.ir import expressions, fresh_name, map_symbols, reads, statements, value_number, walk
from optc.compiler.picking import picks
from optc.dsl.kinds import IN_MATRICES, PER_ELEMENT, Extent, Sort, Type
from optc.dsl.program import (
    GATHERING,
    LOSS,
    REDUCTIONS,
    TOTAL,
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

_GIVEN = (Role.SCALAR, Role.FLAG)
_ZERO = Constant(0, Type(Sort.REAL, Extent.MODEL, host=True))
_ONE = replace(_ZERO, value=1)


def reduces(body: tuple[Statement, ...], program: Program) -> bool:
    """Whether a body needs more than code per element: it reduces, reads the loss, or has values on the device unlike θ."""
    applied = any(isinstance(e, Apply) and e.operation in GATHERING for value in expressions(body) for e in walk(value))
    used = {r.symbol for e in expressions(body) for r in reads(e)}
    used |= {s.target for s in statements(body) if isinstance(s, Store)}
    unlike = any(s.role is Role.STATE and program.state(s.name).extent is not Extent.ELEM for s in used)
    return applied or unlike or LOSS in used or picks(body, program)


def separate(body: tuple[Statement, ...], program: Program, taken: frozenset[str]) -> tuple[Statement, ...]:
    """The body in the form that this module describes. `taken`: names that no new statistic may have."""
    extents = extents_of(body, program)
    promoted = _promoted(body, extents)

    def given(symbol: Symbol) -> Symbol:
        return Symbol(promoted.get(symbol.name, symbol.role), symbol.name) if symbol.role is Role.LOCAL else symbol

    body = map_symbols(body, given)
    names = taken | {LOSS.name} | {s.target.name for s in statements(body) if isinstance(s, Let | Store)}
    return tuple(_Separator(extents, set(names)).block(body))


def _promoted(body: tuple[Statement, ...], extents: Extents) -> dict[str, Role]:
    """Names that get their value in one line, and no value per element: they can be statistics or scalars themselves.

    A number of the model that not all parameters name is neither: its line is on statistics, its value comes from outside.
    """
    lines = [s for s in statements(body) if isinstance(s, Let) and s.target.role is Role.LOCAL]
    bound = Counter(s.target.name for s in lines)
    roles: dict[str, Role] = {}
    for line in lines:
        name, extent = line.target.name, extents.locals[line.target.name]
        if bound[name] == 1 and extent not in PER_ELEMENT:
            if extent is not Extent.MODEL:
                if extents.of(line.value) is not Extent.MODEL:
                    roles[name] = Role.STATISTIC
            elif line.value.type.sort is Sort.REAL:
                roles[name] = Role.SCALAR
    return roles


@dataclass
class _Separator:
    extents: Extents
    taken: set[str]
    versions: Counter[str] = field(default_factory=Counter)
    counter: int = 0
    # per branch that we are in: names bound so far, the lines so far, and whether all parameters take it alike
    known: list[dict[object, Read]] = field(default_factory=lambda: [{}])
    lines: list[list[Statement]] = field(default_factory=list)
    narrow: list[bool] = field(default_factory=list)

    def block(self, body: tuple[Statement, ...], narrow: bool = False) -> list[Statement]:
        self.lines.append([])
        self.narrow.append(narrow)
        for statement in body:
            match statement:
                case Let() | Store():
                    value = self._value(statement)
                    self.lines[-1].append(replace(statement, value=value))
                    self._renew(statement.target.name)
                case Branch():
                    before = Counter(self.versions)
                    sides, changed = [], set()
                    for side in (statement.then, statement.otherwise):
                        self.versions = Counter(before)
                        with self._scope():
                            sides.append(tuple(self.block(side, narrow or is_narrow(statement))))
                        changed |= {n for n, v in self.versions.items() if before.get(n) != v}
                    self.versions = before
                    for name in sorted(changed):
                        self._renew(name)
                    self.lines[-1].append(replace(statement, then=sides[0], otherwise=sides[1]))
        self.narrow.pop()
        return self.lines.pop()

    @contextmanager
    def _scope(self) -> Iterator[None]:
        self.known.append({})
        yield
        self.known.pop()

    def _renew(self, name: str) -> None:
        self.counter += 1
        self.versions[name] = self.counter

    def _value(self, statement: Let | Store) -> Expression:
        """The statement's value; what runs elsewhere is taken out into lines of its own."""
        value, target = statement.value, statement.target
        gathers = isinstance(value, Apply) and value.operation in GATHERING
        if gathers and target.role is Role.STATISTIC and isinstance(value, Apply):  # `n = sum(g)` is a line of its own already
            return self._gathering(value, target.name)
        extent = self.extents.of(value) if target.role is Role.STATISTIC else self.extents.line(replace(statement, value=_ZERO))
        if extent in PER_ELEMENT:
            return self._per_element(value, target.name)
        return self._in_model(value, target.name) if extent is Extent.MODEL else self._on_statistics(value, target.name)

    # --- code per element -----------------------------------------------------------------------------------------------------

    def _per_element(self, expression: Expression, name: str) -> Expression:
        if isinstance(expression, Constant):
            return expression
        if isinstance(expression, Read) and expression.symbol.role in (*_GIVEN, Role.STATISTIC):
            return expression
        extent = self.extents.of(expression)
        if extent in PER_ELEMENT:
            if isinstance(expression, Apply):
                return replace(expression, arguments=tuple(self._per_element(a, name) for a in expression.arguments))
            return expression
        if self._is_given(expression):
            return expression
        if extent is Extent.MODEL:
            return self._exported(expression, name)
        return self._bound(self._on_statistics(expression, name), f"{name}_factor")

    def _is_given(self, expression: Expression) -> bool:
        plain = all(r.symbol.role in _GIVEN for r in reads(expression))
        return plain and not any(isinstance(e, Apply) and e.operation in GATHERING for e in walk(expression))

    # --- code on statistics ---------------------------------------------------------------------------------------------------

    def _on_statistics(self, expression: Expression, name: str) -> Expression:
        """A value per tensor, matrix, row or column whose reductions are reads of statistics."""
        if self.extents.of(expression) is Extent.MODEL and not self._is_given(expression):
            return self._exported(expression, name)
        if not isinstance(expression, Apply):
            return expression
        if expression.operation in REDUCTIONS:
            return self._bound(self._gathering(expression, name), f"{name}_{expression.operation}")
        return replace(expression, arguments=tuple(self._on_statistics(a, name) for a in expression.arguments))

    def _gathering(self, expression: Apply, name: str) -> Apply:
        """A reduction or total with an argument of the right kind."""
        argument = expression.arguments[0]
        if expression.operation == TOTAL:
            part: Expression = self._on_statistics(argument, name)
            return replace(expression, arguments=(self._bound(part, f"{name}_part"),))
        inner = self._on_statistics if self.extents.of(argument) in IN_MATRICES else self._per_element
        return replace(expression, arguments=(inner(argument, name),))

    # --- code of the model ----------------------------------------------------------------------------------------------------

    def _in_model(self, expression: Expression, name: str) -> Expression:
        """A number of the model whose totals are reads of statistics."""
        if not isinstance(expression, Apply):
            return expression
        if expression.operation == TOTAL:
            return self._bound(self._gathering(expression, name), f"{name}_total")
        return replace(expression, arguments=tuple(self._in_model(a, name) for a in expression.arguments))

    def _exported(self, expression: Expression, name: str) -> Expression:
        """A number of the model as a scalar that the other code is given; a condition becomes 0 or 1 on the way."""
        if expression.type.sort is Sort.BOOL:
            number = replace(_ZERO.type, host=False)
            as_number = Apply("where", (expression, _ONE, _ZERO), number, expression.span)
            return Apply("ne", (self._exported(as_number, name), _ZERO), expression.type, expression.span)
        return self._bound(self._in_model(expression, name), f"{name}_factor", Role.SCALAR)

    # --- names ----------------------------------------------------------------------------------------------------------------

    def _bound(self, expression: Expression, fallback: str, role: Role = Role.STATISTIC) -> Read:
        """The value under a name of its own.

        A number of the model that is needed where not all parameters come is bound outside: nothing it reads changes there.
        """
        if isinstance(expression, Read) and expression.symbol.role is role:
            return expression
        depth = self.narrow.index(True) - 1 if role is Role.SCALAR and True in self.narrow else len(self.lines) - 1
        key = (role, value_number(expression, lambda symbol: self.versions[symbol.name]))
        for scope in self.known[: depth + 1]:
            if key in scope:
                return scope[key]
        name = fresh_name(describe(expression, fallback), self.taken)
        read = Read(Symbol(role, name), Type(expression.type.sort, self._extent(expression, role)), expression.span)
        self.lines[depth].append(Let(read.symbol, expression, expression.span))
        self.known[depth][key] = read
        return read

    def _extent(self, expression: Expression, role: Role) -> Extent:
        if isinstance(expression, Apply) and expression.operation in GATHERING:
            return expression.type.extent
        return Extent.MODEL if role is Role.SCALAR else self.extents.of(expression).join(Extent.TENSOR)
