"""A separated body -> passes over memory, with code per tensor between them. It decides what moves how many bytes.

Nothing per element is kept from one pass to the next but what lives in memory anyway: a pass computes again what it needs,
from the streams. So the only choice is the pass in which each state is written. Early, and later passes read its new value
instead of computing it again; late, and they may still read the old one. All choices are tried, and the one that moves the
fewest bytes is taken (of equals, the one that writes latest). θ is written in the last pass: its memory may hold less than its
value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeAlias

from optc.compiler.ir import InternalError, map_expression, map_statements, reads, statements
from optc.compiler.plan import Pass, Stream
from optc.compiler.separate import elemental_locals, is_measure, is_per_tensor
from optc.dsl.implication import conjunction, negation
from optc.dsl.kinds import Extent
from optc.dsl.program import TRUE, Apply, Branch, Constant, Expression, Let, Program, Read, Role, Statement, Store, Symbol

StreamsOf: TypeAlias = Callable[[tuple[Statement, ...]], tuple[Stream, ...]]

MOST_CHOICES = 4096
"""Assignments of states to passes that are tried; with more, states are written as early as they can be."""


@dataclass(frozen=True, slots=True)
class Passes:
    """The passes of a kernel, what runs per tensor after the last, and the statistics that are kept in between."""

    passes: tuple[Pass, ...]
    finish: tuple[Statement, ...]
    statistics: tuple[str, ...]


class _Impossible(Exception):
    """A pass would have to read the old value of a state that an earlier pass has overwritten."""


def split(body: tuple[Statement, ...], program: Program, streams_of: StreamsOf, static_flags: frozenset[str]) -> Passes:
    """The cheapest passes for a separated body."""
    return _Splitter(body, program, streams_of, static_flags).run()


class _Splitter:
    def __init__(
        self, body: tuple[Statement, ...], program: Program, streams_of: StreamsOf, static_flags: frozenset[str]
    ) -> None:
        self._body = body
        self._static_flags = static_flags
        self._program = program
        self._streams_of = streams_of
        self._elemental = elemental_locals(body, program)
        self._levels = _Levels(self._elemental, program)
        self._levels.block(body, {})
        self._measures = {
            s.target.name: s.value.operation
            for s in statements(body)
            if isinstance(s, Let) and is_measure(s) and isinstance(s.value, Apply)
        }

    def run(self) -> Passes:
        stored = self._levels.stores
        kept = self._needed_measures()
        last = max([0, *(level for name, level in stored.items() if not self._is_number(name))])
        last = max([last, *(self._levels.measured[name] for name in kept)])
        states = [n for n in stored if n != "theta" and not self._is_number(n)]
        choices = [range(stored[n], last + 1) for n in states]
        if _count(choices) > MOST_CHOICES:
            choices = [range(c.start, c.start + 1) for c in choices] if last else choices
        best: tuple[int, tuple[int, ...], tuple[Pass, ...]] | None = None
        for assignment in product(*choices):
            written = dict(zip(states, assignment, strict=True)) | ({"theta": last} if "theta" in stored else {})
            try:
                passes = tuple(self._pass(k, written, kept) for k in range(last + 1))
            except _Impossible:
                continue
            cost = sum(s.reads + s.writes for p in passes for s in p.streams)
            rank = (cost, tuple(-a for a in assignment), passes)
            if best is None or rank[:2] < best[:2]:
                best = rank
        if best is None:
            raise InternalError(f"{self._program.name}: no pass may write the states")
        numbers = {n: level for n, level in stored.items() if self._is_number(n)}
        afterwards = any(level > last for level in numbers.values())
        roots = set(numbers)
        passes = best[2]
        prepared = [
            replace(p, prepare=self._per_tensor(set(p.needs), roots if k == last and not afterwards else set()))
            for k, p in enumerate(passes)
        ]
        finish = self._per_tensor(set(), roots) if afterwards else ()
        measured = [name for p in passes for name, _ in p.measures]
        needed = dict.fromkeys(name for p in passes for name in p.needs if name not in measured)
        return Passes(tuple(prepared), finish, (*measured, *needed))

    def _is_number(self, name: str) -> bool:
        """Whether a stored name is one number per tensor."""
        return name != "theta" and self._program.state(name).extent is Extent.TENSOR

    def _needed_measures(self) -> set[str]:
        """The reductions that something which lives on depends on."""
        needed: set[str] = set()
        size = -1
        live = set(self._levels.stores)
        while size != len(live):
            size = len(live)
            for statement in statements(self._body):
                if isinstance(statement, Let | Store) and statement.target.name in live:
                    live |= {r.symbol.name for r in reads(statement.value)}
        needed = live & self._measures.keys()
        return needed

    # --- code per element -----------------------------------------------------------------------------------------------------

    def _pass(self, k: int, written: Mapping[str, int], kept: set[str]) -> Pass:
        measures = tuple((n, self._measures[n]) for n in self._measures if n in kept and self._levels.measured[n] == k)
        roots = {n for n, at in written.items() if at == k} | {n for n, _ in measures}
        done = frozenset(n for n, at in written.items() if at < k)
        body, _, _ = self._slice(self._body, set(), set(), roots, done)
        needs = dict.fromkeys(
            r.symbol.name
            for s in statements(body)
            if isinstance(s, Let | Store)
            for r in reads(s.value)
            if r.symbol.role is Role.STATISTIC
        )
        streams = self._streams_of(body)
        exists = _reaches(body, self._static_flags) or Constant(False, TRUE.type)
        return Pass((), tuple(needs), streams, _in_registers(body, {s.name for s in streams}), measures, exists)

    def _slice(
        self, body: tuple[Statement, ...], live: set[str], later: set[str], roots: set[str], done: frozenset[str]
    ) -> tuple[tuple[Statement, ...], set[str], set[str]]:
        """(lines that `roots` and what is `live` afterwards depend on, what is live before, states stored here or `later`)."""
        kept: list[Statement] = []
        for statement in reversed(body):
            match statement:
                case Let() | Store() if not is_per_tensor(statement, self._elemental, self._program):
                    name = statement.target.name
                    stores = isinstance(statement, Store)
                    if stores and name in done:
                        later = later | {name}  # memory has the new value already; reads before this line want the old one
                        continue
                    if name in live or (name in roots and (stores or is_measure(statement))):
                        kept.append(statement if name in roots else Let(statement.target, statement.value, statement.span))
                        live = live - {name} | self._element_reads(statement.value, later, done)
                    if stores:
                        later = later | {name}
                case Branch():
                    then = self._slice(statement.then, live, later, roots, done)
                    otherwise = self._slice(statement.otherwise, live, later, roots, done)
                    live, later = then[1] | otherwise[1], then[2] | otherwise[2]
                    if then[0] or otherwise[0]:
                        kept.append(replace(statement, then=then[0], otherwise=otherwise[0]))
        return tuple(reversed(kept)), live, later

    def _element_reads(self, value: Expression, later: set[str], done: frozenset[str]) -> set[str]:
        names = {r.symbol.name for r in reads(value) if r.symbol.role not in (Role.SCALAR, Role.FLAG, Role.STATISTIC)}
        if names & later & done:
            raise _Impossible
        return names

    # --- code per tensor ------------------------------------------------------------------------------------------------------

    def _per_tensor(self, wanted: set[str], stored: set[str]) -> tuple[Statement, ...]:
        """The lines that the statistics `wanted` and the numbers `stored` depend on; other stores only change variables."""
        return self._number_slice(self._body, wanted - self._measures.keys(), stored)[0]

    def _number_slice(
        self, body: tuple[Statement, ...], live: set[str], roots: set[str]
    ) -> tuple[tuple[Statement, ...], set[str]]:
        kept: list[Statement] = []
        for statement in reversed(body):
            match statement:
                case Let() | Store() if is_per_tensor(statement, self._elemental, self._program):
                    name = statement.target.name
                    root = isinstance(statement, Store) and name in roots
                    if name in live or root:
                        kept.append(statement if root else Let(statement.target, statement.value, statement.span))
                        read = {r.symbol.name for r in reads(statement.value) if r.symbol.role not in (Role.SCALAR, Role.FLAG)}
                        live = live - {name} | read
                case Branch():
                    then = self._number_slice(statement.then, live, roots)
                    otherwise = self._number_slice(statement.otherwise, live, roots)
                    live = then[1] | otherwise[1]
                    if then[0] or otherwise[0]:
                        kept.append(replace(statement, then=then[0], otherwise=otherwise[0]))
        return tuple(reversed(kept)), live


def _reaches(body: tuple[Statement, ...], static: frozenset[str]) -> Expression | None:
    """The condition over static flags under which a line of the body measures or writes something; None for never."""
    when: Expression | None = None
    for statement in body:
        if isinstance(statement, Store) or is_measure(statement):
            return TRUE
        if isinstance(statement, Branch):
            then, otherwise = _reaches(statement.then, static), _reaches(statement.otherwise, static)
            condition = statement.condition
            if all(r.symbol.name in static for r in reads(condition)):
                then = then and conjunction((condition, then))
                otherwise = otherwise and conjunction((negation(condition), otherwise))
            for side in (then, otherwise):
                if side is not None and when != TRUE:
                    when = side if when is None or side == TRUE else Apply("or", (when, side), TRUE.type)
    return when


def _in_registers(body: tuple[Statement, ...], streams: set[str]) -> tuple[Statement, ...]:
    """States that a pass computes but neither loads nor writes are locals of it."""
    names = {s.target.name for s in statements(body) if isinstance(s, Let) and s.target.role is Role.STATE} - streams

    def local(expression: Expression) -> Expression:
        if isinstance(expression, Read) and expression.symbol.role is Role.STATE and expression.symbol.name in names:
            return replace(expression, symbol=Symbol(Role.LOCAL, expression.symbol.name))
        return expression

    return _retargeted(map_statements(body, lambda value: map_expression(value, local)), names) if names else body


def _retargeted(body: tuple[Statement, ...], names: set[str]) -> tuple[Statement, ...]:
    result: list[Statement] = []
    for statement in body:
        match statement:
            case Let(target=Symbol(role=Role.STATE, name=name)) if name in names:
                statement = replace(statement, target=Symbol(Role.LOCAL, name))
            case Branch(then=then, otherwise=otherwise):
                statement = replace(statement, then=_retargeted(then, names), otherwise=_retargeted(otherwise, names))
        result.append(statement)
    return tuple(result)


def _count(choices: Iterable[range]) -> int:
    total = 1
    for choice in choices:
        total *= len(choice)
    return total


class _Levels:
    """The first pass in which a value can be had: what a reduction of pass k measures is known from pass k + 1 on."""

    def __init__(self, elemental: frozenset[str], program: Program) -> None:
        self._elemental = elemental
        self._program = program
        self.measured: dict[str, int] = {}
        self.stores: dict[str, int] = {}

    def block(self, body: tuple[Statement, ...], levels: dict[str, int]) -> dict[str, int]:
        for statement in body:
            match statement:
                case Let(target=target, value=value) | Store(target=target, value=value):
                    level = max([0, *(self._level(r, levels) for r in reads(value))])
                    if is_measure(statement):
                        self.measured[target.name] = level
                        level += 1
                    levels[target.name] = level
                    if isinstance(statement, Store):
                        self.stores[target.name] = max(level, self.stores.get(target.name, 0))
                case Branch(then=then, otherwise=otherwise):
                    sides = self.block(then, dict(levels)), self.block(otherwise, dict(levels))
                    levels.update({n: max(s.get(n, 0) for s in sides) for n in sides[0].keys() | sides[1].keys()})
        return levels

    def _level(self, read: Read, levels: Mapping[str, int]) -> int:
        return 0 if read.symbol.role in (Role.SCALAR, Role.FLAG) else levels.get(read.symbol.name, 0)
