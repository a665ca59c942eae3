"""Code per element and code per tensor told apart: reductions, and what follows from them, get lines and names of their own.

Afterwards a body has two kinds of lines, in the order of the text:

- **per element**: `Let` and `Store` of values per element, and `Let STATISTIC r = reduction(value per element)`;
- **per tensor**: `Let` and `Store` of one number per tensor. What lines per element need of them are STATISTICs, each bound by
  one line only.

Two uses share a statistic exactly when they are the same expression of the same versions of the same names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from optc.compiler.describe import describe
from optc.compiler.ir import InternalError, expressions, map_statements, reads, statements, walk
from optc.dsl.kinds import Extent, Type
from optc.dsl.program import REDUCTIONS, Apply, Branch, Constant, Expression, Let, Program, Read, Role, Statement, Store, Symbol

_STREAMS = (Role.THETA, Role.GRADIENT, Role.INPUT)
_GIVEN = (Role.SCALAR, Role.FLAG)


def reduces(body: tuple[Statement, ...], program: Program) -> bool:
    """Whether a body needs more than code per element: it reduces, or has numbers per tensor that only the device knows."""
    applied = any(isinstance(e, Apply) and e.operation in REDUCTIONS for value in expressions(body) for e in walk(value))
    used = {r.symbol for e in expressions(body) for r in reads(e)}
    used |= {s.target for s in statements(body) if isinstance(s, Store)}
    return applied or any(s.role is Role.STATE and program.state(s.name).extent is Extent.TENSOR for s in used)


def separate(body: tuple[Statement, ...], program: Program, taken: frozenset[str]) -> tuple[Statement, ...]:
    """The body in the form that this module describes. `taken`: names that no new statistic may have."""
    elemental = elemental_locals(body, program)
    promoted = _promoted(body, elemental)
    if promoted:
        body = map_statements(body, lambda value: _renamed(value, promoted))
        body = _retargeted(body, promoted)
    names = taken | {s.target.name for s in statements(body) if isinstance(s, Let | Store)}
    return tuple(_Separator(program, elemental, set(names)).block(body))


def elemental_locals(body: tuple[Statement, ...], program: Program) -> frozenset[str]:
    """Locals that hold a value per element at some point."""
    found: set[str] = set()
    size = -1
    while size != len(found):
        size = len(found)
        for statement in statements(body):
            local = isinstance(statement, Let) and statement.target.role is Role.LOCAL
            if local and isinstance(statement, Let) and is_elemental(statement.value, found, program):
                found.add(statement.target.name)
    return frozenset(found)


def is_elemental(expression: Expression, locals_: frozenset[str] | set[str], program: Program) -> bool:
    """Whether a value varies over elements; a reduction does not."""
    match expression:
        case Read(symbol=Symbol(role=role, name=name)):
            if role is Role.STATE:
                return program.state(name).extent is Extent.ELEM
            return role in _STREAMS or (role is Role.LOCAL and name in locals_)
        case Apply(operation=operation, arguments=arguments):
            return operation not in REDUCTIONS and any(is_elemental(a, locals_, program) for a in arguments)
    return False


def is_per_tensor(statement: Let | Store, elemental: frozenset[str], program: Program) -> bool:
    """Whether a line (of a separated body) is code per tensor."""
    target = statement.target
    match target.role:
        case Role.LOCAL:
            return target.name not in elemental
        case Role.STATE:
            return program.state(target.name).extent is Extent.TENSOR
        case Role.STATISTIC:
            return not is_measure(statement)
    return False


def is_measure(statement: Statement) -> bool:
    """Whether a line reduces a value per element."""
    return isinstance(statement, Let) and isinstance(statement.value, Apply) and statement.value.operation in REDUCTIONS


def _promoted(body: tuple[Statement, ...], elemental: frozenset[str]) -> frozenset[str]:
    """Numbers per tensor that get their value in one line: they can be statistics themselves."""
    bound = Counter(s.target.name for s in statements(body) if isinstance(s, Let) and s.target.role is Role.LOCAL)
    return frozenset(name for name, count in bound.items() if count == 1 and name not in elemental)


def _renamed(value: Expression, promoted: frozenset[str]) -> Expression:
    match value:
        case Read(symbol=Symbol(role=Role.LOCAL, name=name)) if name in promoted:
            return replace(value, symbol=Symbol(Role.STATISTIC, name))
        case Apply(arguments=arguments):
            return replace(value, arguments=tuple(_renamed(a, promoted) for a in arguments))
    return value


def _retargeted(body: tuple[Statement, ...], promoted: frozenset[str]) -> tuple[Statement, ...]:
    result: list[Statement] = []
    for statement in body:
        match statement:
            case Let(target=Symbol(role=Role.LOCAL, name=name)) if name in promoted:
                statement = replace(statement, target=Symbol(Role.STATISTIC, name))
            case Branch(then=then, otherwise=otherwise):
                statement = replace(statement, then=_retargeted(then, promoted), otherwise=_retargeted(otherwise, promoted))
        result.append(statement)
    return tuple(result)


@dataclass
class _Separator:
    program: Program
    elemental: frozenset[str]
    taken: set[str]
    versions: Counter[str] = field(default_factory=Counter)
    counter: int = 0
    known: list[dict[object, Read]] = field(default_factory=lambda: [{}])  # statistics bound so far, scoped by branch

    def block(self, body: tuple[Statement, ...]) -> list[Statement]:
        result: list[Statement] = []
        for statement in body:
            match statement:
                case Let() | Store():
                    value = self._value(statement, result)
                    result.append(replace(statement, value=value))
                    self._renew(statement.target.name)
                case Branch():
                    before = Counter(self.versions)
                    sides, changed = [], set()
                    for side in (statement.then, statement.otherwise):
                        self.versions = Counter(before)
                        with self._scope():
                            sides.append(tuple(self.block(side)))
                        changed |= {n for n, v in self.versions.items() if before.get(n) != v}
                    self.versions = before
                    for name in sorted(changed):
                        self._renew(name)
                    result.append(replace(statement, then=sides[0], otherwise=sides[1]))
        return result

    @contextmanager
    def _scope(self) -> Iterator[None]:
        self.known.append({})
        yield
        self.known.pop()

    def _renew(self, name: str) -> None:
        self.counter += 1
        self.versions[name] = self.counter

    def _value(self, statement: Let | Store, result: list[Statement]) -> Expression:
        """The statement's value with its reductions, and what else is per tensor in a line per element, taken out."""
        value, name = statement.value, statement.target.name
        if is_per_tensor(replace(statement, value=Constant(0, value.type)), self.elemental, self.program):
            direct = isinstance(value, Apply) and value.operation in REDUCTIONS and statement.target.role is Role.STATISTIC
            if direct and isinstance(value, Apply):  # `n = sum(g)` is a measure itself
                return replace(value, arguments=(self._per_element(value.arguments[0], name, result),))
            return self._measured(value, name, result)
        return self._per_element(value, name, result)

    def _per_element(self, expression: Expression, name: str, result: list[Statement]) -> Expression:
        if isinstance(expression, Constant):
            return expression
        if isinstance(expression, Read) and expression.symbol.role in (*_GIVEN, Role.STATISTIC):
            return expression
        if is_elemental(expression, self.elemental, self.program):
            if isinstance(expression, Apply):
                arguments = tuple(self._per_element(a, name, result) for a in expression.arguments)
                return replace(expression, arguments=arguments)
            return expression
        if all(r.symbol.role in _GIVEN for r in reads(expression)) and not _any_reduction(expression):
            return expression
        return self._bound(self._measured(expression, name, result), f"{name}_factor", result)

    def _measured(self, expression: Expression, name: str, result: list[Statement]) -> Expression:
        """A value per tensor whose reductions are reads of statistics."""
        if not isinstance(expression, Apply):
            return expression
        if expression.operation in REDUCTIONS:
            inner = self._per_element(expression.arguments[0], name, result)
            return self._bound(replace(expression, arguments=(inner,)), f"{name}_{expression.operation}", result)
        return replace(expression, arguments=tuple(self._measured(a, name, result) for a in expression.arguments))

    def _bound(self, expression: Expression, fallback: str, result: list[Statement]) -> Expression:
        if isinstance(expression, Read) and expression.symbol.role is Role.STATISTIC:
            return expression
        key = self._key(expression)
        for scope in self.known:
            if key in scope:
                return scope[key]
        name = wish = describe(expression, fallback)
        index = 2
        while name in self.taken:
            name, index = f"{wish}_{index}", index + 1
        self.taken.add(name)
        read = Read(Symbol(Role.STATISTIC, name), Type(expression.type.sort, Extent.TENSOR), expression.span)
        result.append(Let(read.symbol, expression, expression.span))
        self.known[-1][key] = read
        return read

    def _key(self, expression: Expression) -> object:
        match expression:
            case Constant(value=value):
                return ("constant", type(value).__name__, repr(value))
            case Read(symbol=symbol):
                return (symbol, self.versions[symbol.name])
            case Apply(operation=operation, arguments=arguments):
                return (operation, *(self._key(a) for a in arguments))
        raise InternalError(f"no value number for {expression!r}")


def _any_reduction(expression: Expression) -> bool:
    return any(isinstance(e, Apply) and e.operation in REDUCTIONS for e in walk(expression))
