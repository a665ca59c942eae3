"""A stage on rows, columns and matrices, in float64: a fixed sequence of launches, whatever the number of tensors.

First the partials of the pass before are added up, extent by extent. Then come the reductions of the stage's own lines, those
that need no other one first: a program goes through the rows (columns, matrices) of its matrix or tensor. Last, for every
extent that has results, a launch that leaves them: statistics for passes, numbers for totals, states. Of the lines, each launch
runs those that its results depend on; what lives on is written by one launch only, after every other one that reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from optc.compiler.backends.triton.step import Step, emit_step
from optc.compiler.backends.triton.vectors import reduction_of, stages_of
from optc.compiler.ir import reads, statements
from optc.compiler.plan import Kernel
from optc.compiler.slices import Slice
from optc.dsl.kinds import Extent
from optc.dsl.program import Let, Statement, Store
from optc.dsl.source import Source

_ORDER = (Extent.ROW, Extent.COL, Extent.MATRIX, Extent.TENSOR)
"""Of the last launches: states of an extent are read by those of wider ones, too."""


def emit_steps(kernel: Kernel, index: int, source: Source, extents: Mapping[str, Extent]) -> Iterator[str]:
    """The functions of a stage, each registered with `{kernel.name}_stage_{index}_triton`, with a final newline."""
    name = f"{kernel.name}_stage_{index}"
    for number, step in enumerate(_Planner(kernel, index, extents).steps()):
        yield emit_step(name, number, step, kernel, index, source, extents)


class _Planner:
    def __init__(self, kernel: Kernel, index: int, extents: Mapping[str, Extent]) -> None:
        self.kernel, self.index, self.extents = kernel, index, extents
        self.body = stages_of(kernel)[index]
        self.lines = [s for s in statements(self.body) if isinstance(s, Let | Store)]
        self.reductions = {s.target.name: value for s in self.lines if (value := reduction_of(s)) is not None}
        self.given = tuple((name, self._extent(name)) for name in self.reductions)

    def steps(self) -> Iterator[Step]:
        measures = self.kernel.passes[self.index - 1].measures if self.index else ()
        for extent in reversed(_ORDER):
            if own := tuple(m for m in measures if self._extent(m[0]) is extent):
                yield Step("combine", extent, None, own, (), tuple(n for n, _ in own), frozenset(), ())
        yield from self._gathered()
        earlier = {n for p in self.kernel.passes[: self.index] for n in p.needs}
        wanted = self._wanted() - earlier
        every = [s.target.name for s in self.lines if isinstance(s, Store)]
        for extent in _ORDER:
            results = tuple(n for n in self.kernel.statistics if n in wanted and self._extent(n) is extent)
            stored = frozenset(n for n in every if self._extent(n) is extent)
            if results or stored:
                body = self._slice(frozenset(results), stored, frozenset())
                yield Step("leave", extent, None, (), body, results, stored, self.given)

    def _wanted(self) -> set[str]:
        """What the lines bind for the pass after them, or for totals."""
        passes = self.kernel.passes
        names = passes[self.index].needs if self.index < len(passes) else self.kernel.parts
        return {n for n in names if any(isinstance(s, Let) and s.target.name == n for s in self.lines)}

    def _gathered(self) -> Iterator[Step]:
        """Reductions, in an order in which each finds what it needs; those of one kind share a launch."""
        levels: dict[str, int] = {}
        for name in self.reductions:
            body = self._slice(frozenset(), frozenset(), frozenset({name}))
            needed = {r.symbol.name for s in statements(body) if isinstance(s, Let | Store) for r in reads(s.value)}
            levels[name] = 1 + max((levels[n] for n in needed if n in levels), default=0)
        along = {n: reduction.arguments[0].type.extent for n, reduction in self.reductions.items()}
        kinds = {n: (levels[n], self._extent(n) is not Extent.MATRIX, along[n]) for n in self.reductions}
        for kind in sorted(set(kinds.values()), key=lambda k: (k[0], k[1], _ORDER.index(k[2]))):
            own = tuple(n for n in self.reductions if kinds[n] == kind)
            body = self._slice(frozenset(), frozenset(), frozenset(own))
            yield Step("gather", self._extent(own[0]), kind[2], (), body, own, frozenset(), self.given)

    def _slice(self, live: frozenset[str], stored: frozenset[str], reduced: frozenset[str]) -> tuple[Statement, ...]:
        """The lines that statistics, stores and reductions depend on; other reductions are given."""

        def in_scope(line: Let | Store) -> bool:
            return reduction_of(line) is None or line.target.name in reduced

        def is_root(line: Let | Store) -> bool:
            return line.target.name in (stored if isinstance(line, Store) else reduced)

        return Slice(in_scope, is_root).of(self.body, live)

    def _extent(self, name: str) -> Extent:
        return self.extents.get(name, Extent.TENSOR)
