"""A separated body -> passes over memory, with code on statistics between them. It decides what moves how many bytes.

Nothing per element is kept from one pass to the next but what lives in memory anyway: a pass computes again what it needs,
from the streams. So the only choice is the pass in which each state is written. Early, and later passes read its new value
instead of computing it again; late, and they may still read the old one. All choices are tried, and the one that moves the
fewest bytes is taken (of equals, the one that writes latest). θ is written in the last pass, and so are states with a storage:
their memory may hold less than their value.

Code on picked elements is a second body of the same passes. It comes to an element before the other body does, so that both see
the same memory; what it needs of code per element it computes for itself. Where every element is picked the two are one body.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeAlias

from optc.compiler.conditions import FALSE, reached_when
from optc.compiler.extents import ON_STATISTICS, extents_of, is_measure
from optc.compiler.ir import InternalError, map_symbols, reads, statements
from optc.compiler.levels import Level, Levels
from optc.compiler.plan import Pass, Stream
from optc.compiler.slices import Impossible, Slice
from optc.dsl.kinds import PER_ELEMENT, Extent
from optc.dsl.program import Apply, Let, Program, Role, Statement, Store, Symbol

StreamsOf: TypeAlias = Callable[[tuple[Statement, ...]], tuple[Stream, ...]]
_Cost: TypeAlias = tuple[int, ...]
"""Streams read and written at all elements, then at picked ones."""

MOST_CHOICES = 4096
"""Assignments of states to passes that are tried; with more, states are written as early as they can be."""


@dataclass(frozen=True, slots=True)
class Passes:
    """The passes of one phase, then what runs on statistics and leaves `parts` for totals. `whole`: all as one program."""

    passes: tuple[Pass, ...]
    finish: tuple[Statement, ...]
    parts: tuple[str, ...]
    whole: tuple[Statement, ...]


def split(
    body: tuple[Statement, ...], program: Program, streams_of: StreamsOf, static_flags: frozenset[str]
) -> tuple[Passes | None, ...]:
    """The cheapest passes for a separated body, phase by phase; None for a phase in which only the model's program runs."""
    return _Splitter(body, program, streams_of, static_flags).run()


class _Splitter:
    def __init__(
        self, body: tuple[Statement, ...], program: Program, streams_of: StreamsOf, static_flags: frozenset[str]
    ) -> None:
        self._body = body
        self._static_flags = static_flags
        self._program = program
        self._streams_of = streams_of
        self._extents = extents_of(body, program)
        self._levels = Levels(body)
        self._kept = self._needed()
        self._measures = {
            s.target.name: s.value.operation
            for s in statements(body)
            if isinstance(s, Let) and is_measure(s) and isinstance(s.value, Apply)
        }

    def run(self) -> tuple[Passes | None, ...]:
        stored = {e: {n: v for n, v in self._levels.stores.items() if self._stored_extent(n) is e} for e in Extent}
        elements, of_model = stored[Extent.ELEM] | stored[Extent.PICK], stored[Extent.MODEL]
        numbers = {n: level for e in ON_STATISTICS for n, level in stored[e].items()}
        measured = {n: v for n, v in self._levels.measured.items() if n in self._kept}
        parts = [part for total, part in self._levels.totals.items() if total in self._kept]
        last = max([(0, 0), *elements.values(), *measured.values()])
        at = sorted({*measured.values(), last})
        bodies, written = self._cheapest(at, elements, measured)
        final = max([last[0], *(level[0] for level in numbers.values()), *(level[0] for _, level in parts)])
        phases: list[Passes | None] = []
        for phase in range(max([final, *(level[0] for level in of_model.values())]) + 1):
            own = [k for k, level in enumerate(at) if level[0] == phase]
            left = tuple(dict.fromkeys(part for part, level in parts if level[0] == phase))
            roots = set(numbers) if phase == final else set()
            if not (own or left or roots):
                phases.append(None)
                continue
            after = bool(left) or not own or any(numbers[n] > last for n in roots)
            passes = [bodies[k] for k in own] or [Pass((), (), (), (), (), FALSE)]
            prepared = [
                replace(p, prepare=self._on_statistics(set(p.needs), set() if after or p is not passes[-1] else roots))
                for p in passes
            ]
            finish = self._on_statistics({*left}, roots) if after else ()
            states = frozenset(n for n, k in written.items() if at[k][0] == phase) | roots
            done = frozenset(n for n, k in written.items() if at[k][0] < phase)
            results = states | set(left) | {n for n, level in measured.items() if level[0] == phase}
            whole = self._slice({*PER_ELEMENT, *ON_STATISTICS}, results, done).of(self._body)
            moved = {s.name for s in self._streams_of(whole)}
            stages = tuple(replace(p, prepare=_in_registers(p.prepare, moved)) for p in prepared)
            phases.append(Passes(stages, _in_registers(finish, moved), left, _in_registers(whole, moved)))
        return tuple(phases)

    def _stored_extent(self, name: str) -> Extent:
        return Extent.ELEM if name == "theta" else self._program.state(name).extent

    def _needed(self) -> set[str]:
        """The names that something which lives on depends on."""
        live = set(self._levels.stores)
        size = -1
        while size != len(live):
            size = len(live)
            for statement in statements(self._body):
                if isinstance(statement, Let | Store) and statement.target.name in live:
                    live |= {r.symbol.name for r in reads(statement.value)}
        return live

    # --- code per element -----------------------------------------------------------------------------------------------------

    def _cheapest(
        self, at: Sequence[Level], stored: Mapping[str, Level], measured: Mapping[str, Level]
    ) -> tuple[tuple[Pass, ...], dict[str, int]]:
        """The passes, and the one in which each state, and θ, is written."""
        late = {n for n in stored if n == "theta" or self._program.state(n).storage is not None}
        states = [n for n in stored if n not in late]
        choices = [[k for k, level in enumerate(at) if level >= stored[n]] for n in states]
        if math.prod(map(len, choices)) > MOST_CHOICES:
            choices = [c[:1] for c in choices]
        last = dict.fromkeys(late, len(at) - 1)
        best: tuple[tuple[_Cost, tuple[int, ...]], tuple[Pass, ...], dict[str, int]] | None = None
        for assignment in product(*choices):
            written = dict(zip(states, assignment, strict=True)) | last
            try:
                passes = tuple(self._pass(k, level, written, measured) for k, level in enumerate(at))
            except Impossible:
                continue
            cost = tuple(
                sum(s.reads + s.writes for p in passes for s in one(p) if s.role is not Role.ELEMENT)
                for one in (_of_all, _of_picked)
            )
            rank = cost, tuple(-a for a in assignment)
            if best is None or rank < best[0]:
                best = rank, passes, written
        if best is None:
            raise InternalError(f"{self._program.name}: no pass may write the states")
        return best[1:]

    def _pass(self, k: int, level: Level, written: Mapping[str, int], measured: Mapping[str, Level]) -> Pass:
        measures = tuple((n, how) for n, how in self._measures.items() if measured.get(n) == level)
        roots = {n for n, where in written.items() if where == k} | {n for n, _ in measures}
        done = frozenset(n for n, where in written.items() if where < k)
        whole = self._slice(PER_ELEMENT, roots, done).of(self._body)
        bodies = []
        for extent, code in ((Extent.ELEM, {Extent.ELEM}), (Extent.PICK, PER_ELEMENT)):
            own = {s.target.name for s in statements(whole) if isinstance(s, Let | Store) and self._extents.line(s) is extent}
            bodies.append(self._slice(code, roots & own, done).of(self._body))
        needs = dict.fromkeys(
            r.symbol.name
            for s in (*statements(bodies[0]), *statements(bodies[1]))
            if isinstance(s, Let | Store)
            for r in reads(s.value)
            if r.symbol.role is Role.STATISTIC
        )
        streams, picked = map(self._streams_of, bodies)
        together = _in_registers(whole, {s.name for s in (*streams, *picked)}) if bodies[1] else ()
        exists = reached_when(whole, lambda line: isinstance(line, Store) or is_measure(line), self._static_flags)
        body, of_picked = (
            _in_registers(b, {s.name for s in moved}) for b, moved in zip(bodies, (streams, picked), strict=True)
        )
        return Pass((), tuple(needs), streams, body, measures, exists, of_picked, picked, together)

    # --- lines ----------------------------------------------------------------------------------------------------------------

    def _on_statistics(self, wanted: set[str], stored: set[str]) -> tuple[Statement, ...]:
        """The lines that the statistics `wanted` and the states `stored` depend on; other stores only change variables."""
        return self._slice(ON_STATISTICS, stored).of(self._body, frozenset(wanted - self._measures.keys()))

    def _slice(self, kinds: Iterable[Extent], roots: Collection[str], done: frozenset[str] = frozenset()) -> Slice:
        """Lines that run where `kinds` say, for stores and statistics that are `roots`; other measures are given."""
        among = frozenset(kinds)

        def in_scope(line: Let | Store) -> bool:
            return self._extents.line(line) in among and (line.target.name in roots or not is_measure(line))

        def is_root(line: Let | Store) -> bool:
            return line.target.name in roots and (isinstance(line, Store) or line.target.role is Role.STATISTIC)

        return Slice(in_scope, is_root, done)


def _of_all(one: Pass) -> tuple[Stream, ...]:
    return one.streams


def _of_picked(one: Pass) -> tuple[Stream, ...]:
    """What only picked elements move: the rest is in the cache, as the code for all elements comes there at once."""
    known = {s.name for s in one.streams}
    return tuple(s for s in one.picked_streams if s.name not in known)


def _in_registers(body: tuple[Statement, ...], streams: set[str]) -> tuple[Statement, ...]:
    """States that lines compute but neither load nor write are locals of them."""
    names = {s.target.name for s in statements(body) if isinstance(s, Let) and s.target.role is Role.STATE} - streams

    def local(symbol: Symbol) -> Symbol:
        return Symbol(Role.LOCAL, symbol.name) if symbol.role is Role.STATE and symbol.name in names else symbol

    return map_symbols(body, local)
