"""Statements and expressions as C++ lines: the spec's names, its order of evaluation, its line numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from optc.compiler.backends.exprs import Dialect, print_expression
from optc.compiler.backends.names import CPP, Namer
from optc.compiler.backends.native.flow import bound_in, locals_bound, names_in
from optc.compiler.extents import is_measure
from optc.dsl.kinds import Sort
from optc.dsl.program import DRAW, Apply, Branch, Expression, Let, Role, Statement, Store, Symbol
from optc.dsl.source import NOWHERE, Source, Span


class Names:
    """The names of one C++ function: those of the spec, where nothing else has them."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._namer = Namer(CPP | frozenset(taken))
        self._symbols: dict[Symbol, str] = {}
        self._others: dict[tuple[str, str], str] = {}

    def __call__(self, symbol: Symbol) -> str:
        """The spec's name; two symbols of one name are kept apart by a `_`."""
        if symbol not in self._symbols:
            self._symbols[symbol] = self._free(symbol.name)
        return self._symbols[symbol]

    def flag(self, name: str) -> str:
        """The name of a flag."""
        return self(Symbol(Role.FLAG, name))

    def beside(self, name: str, suffix: str) -> str:
        """A name for something that belongs to `name`: a pointer `m_at`, terms `norm_terms`."""
        key = (name, suffix)
        if key not in self._others:
            self._others[key] = self._free(f"{name}_{suffix}")
        return self._others[key]

    def _free(self, wish: str) -> str:
        while (name := self._namer(wish)) in (*self._symbols.values(), *self._others.values()):
            wish += "_"
        return name


class Lines:
    """Prints statements. `real` is the type of numbers: `math_t` per element, `double` per tensor.

    `place` says where a piece's terms of the present element are; measures in `shared` have those of another one.
    """

    def __init__(
        self,
        names: Names,
        source: Source,
        real: str = "math_t",
        place: str = "i - first",
        shared: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._names = names
        self._source = source
        self._real = real
        self._place = place
        self._shared = shared
        number = _number if real == "math_t" else _double
        powers = {number(2): "square", number(3): "cube", number(4): "fourth", number(0.5): "half_power"}
        self._dialect = Dialect(
            call={**_CALLS, "pow": partial(_pow, powers)},
            name=self._spelled,
            number=number,
            boolean=lambda value: "true" if value else "false",
            logic={"and": ("&&", 20), "or": ("||", 10), "not": ("!", 80)},
            fused=partial(_call, "fma") if real == "math_t" else None,
        )

    def expression(self, expression: Expression, outer: int = 0) -> str:
        """An expression, in brackets if it binds more loosely than `outer`."""
        return print_expression(expression, self._dialect, outer)

    def _spelled(self, symbol: Symbol) -> str:
        """How the value of a name is read, or written."""
        return self._names(symbol)

    def _loops(self, statement: Statement) -> tuple[list[str], bool]:
        """Loops that stand before a statement's line, and whether they are all of it."""
        return [], False

    def type(self, sort: Sort) -> str:
        """The C++ type of a value."""
        return "bool" if sort is Sort.BOOL else self._real

    def block(
        self, statements: Sequence[Statement], outer: frozenset[str] = frozenset(), declared: frozenset[str] = frozenset()
    ) -> list[str]:
        """Lines of a block. `declared`: locals declared around it; `outer`: names that occur after it."""
        lines: list[str] = []
        for at, statement in enumerate(statements):
            later = frozenset(names_in(statements[at + 1 :])) | outer
            loops, whole = self._loops(statement)
            lines += loops
            if whole:
                continue
            match statement:
                case Let(target=target) if target.name in self._shared and is_measure(statement):
                    pass
                case Let(target=target, value=Apply(arguments=(term,))) if is_measure(statement):
                    terms = self._names.beside(target.name, "terms")
                    lines.append(f"{terms}[{self._place}] = {self.expression(term)};{self._line(statement.span)}")
                case Let(target=Symbol(role=Role.LOCAL | Role.STATISTIC, name=name), value=value) if name not in declared:
                    again = bound_in(statements[at + 1 :], name)
                    head = f"{'' if again else 'const '}{self.type(value.type.sort)} {self._names(statement.target)}"
                    lines.append(f"{head} = {self.expression(value)};{self._line(statement.span)}")
                    declared |= {name}
                case Let(target=target, value=value) | Store(target=target, value=value):
                    lines.append(f"{self._names(target)} = {self.expression(value)};{self._line(statement.span)}")
                case Branch():
                    bound = {symbol.name: symbol for symbol in locals_bound((statement,))}
                    for name in sorted((bound.keys() & later) - declared):
                        lines.append(self._declaration(bound[name], locals_bound((statement,))[bound[name]]))
                        declared |= {name}
                    lines.extend(self._branch(statement, later, declared))
                case _:
                    raise TypeError(f"not a statement of a kernel: {statement!r}")
        return lines

    def _declaration(self, symbol: Symbol, sort: Sort) -> str:
        """A name that gets its value in a branch. Statistics are kept whether they got one or not."""
        value = "" if symbol.role is Role.LOCAL else " = false" if sort is Sort.BOOL else " = 0"
        return f"{self.type(sort)} {self._names(symbol)}{value};"

    def _branch(self, branch: Branch, later: frozenset[str], declared: frozenset[str]) -> list[str]:
        lines = [f"if ({self.expression(branch.condition)}) {{{self._line(branch.span)}"]
        lines += [f"    {line}" for line in self.block(branch.then, later, declared)]
        match branch.otherwise:
            case ():
                return [*lines, "}"]
            case (Branch() as only,):
                rest = self._branch(only, later, declared)
                return [*lines, f"}} else {rest[0]}", *rest[1:]]
        return [*lines, "} else {", *(f"    {line}" for line in self.block(branch.otherwise, later, declared)), "}"]

    def _line(self, span: Span) -> str:
        return "" if span == NOWHERE else f"  // {self._source.position(span.start)[0]}"


def _number(value: float) -> str:
    """A literal in the arithmetic type, rounded once from double."""
    if math.isnan(value):
        return "not_a_number"
    if math.isinf(value):
        return "infinity" if value > 0 else "-infinity"
    return f"math_t({int(value) if _is_short(value) else repr(value)})"


def _double(value: float) -> str:
    """A literal in double. As an integer it would choose other functions."""
    return repr(value) if math.isfinite(value) else _number(value)


def _is_short(value: float) -> bool:
    """Whether a number is an integer that C++ reads as `int`."""
    return value == int(value) and abs(value) < 2**31 and repr(value) != "-0.0"


def _pow(powers: Mapping[str, str], base: str, exponent: str) -> str:
    """`powers`: exponents with an exact or shorter form; every other power is `pow`, of a kind where a literal says which."""
    if exponent in powers:
        return f"{powers[exponent]}({base})"
    literal = _LITERAL.fullmatch(exponent)
    return f"pow({base}, {f'Exponent<kind_of({literal[1]})>({literal[1]})' if literal else exponent})"


def _call(function: str, *arguments: str) -> str:
    return f"{function}({', '.join(arguments)})"


_LITERAL = re.compile(r"math_t\(([-+.\de]+)\)")
"""A literal per element, as `_number` prints it."""

_FUNCTIONS = (
    *"sqrt exp log sin cos cospi tanh abs sign floor mod min max atan2 round_bf16 where".split(),
    DRAW,
)
_CALLS: Mapping[str, Callable[..., str]] = {name: partial(_call, name) for name in _FUNCTIONS}
