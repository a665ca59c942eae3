"""One launch of a stage on rows, columns and matrices, as a Triton function."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from optc.compiler.backends.names import Namer
from optc.compiler.backends.triton import flow
from optc.compiler.backends.triton.columns import TableColumns, sort_of
from optc.compiler.backends.triton.environment import ENVIRONMENT
from optc.compiler.backends.triton.lines import COMBINED, INDENT, NEUTRAL, Lines
from optc.compiler.backends.triton.places import COUNT, SHAPE, from_shape, partial_place, value_place
from optc.compiler.backends.triton.spelling import RESERVED, Spelling
from optc.compiler.backends.triton.stage import MOST_LEVELS, scalar_lines
from optc.compiler.backends.triton.vectors import reduction_of
from optc.compiler.conditions import both, written_when
from optc.compiler.ir import reads, statements
from optc.compiler.layout import Call, laid_out
from optc.compiler.plan import Kernel, Stream
from optc.dsl.kinds import Extent, Sort
from optc.dsl.program import Expression, Let, Role, Statement
from optc.dsl.source import Source

TABLES = (
    "residents", "members", "chunk_tensors", "first_chunks", "shapes", "partials", "partials_each",
    "row_partials", "col_partials", "measured", "statistics", "row_values", "col_values", "matrix_values", "reduced",
    "found_inf", "scalars", "scalar_rows",
)  # fmt: skip
"""The first parameters; `measured` is 0 where the pass before left nothing, `reduced` keeps reductions of the stage's own
lines: float64, of a tensor a row for each, with a place for every matrix and one for the tensor."""
GEOMETRY = ("real", "LANES", "DEPTH", "HAS_FOUND_INF")
"""The last parameters, after the static flags."""
_LOCALS = frozenset(
    {
        "tensor", "shape", "resident", "row", "numel", "at", "matrix", "of", "n", "i", "j", "deep", "there", "taken", "chunk",
        "one", "each", "lanes", "have", *SHAPE,
    }
)  # fmt: skip
_PARTIALS = {
    Extent.ROW: ("strips", "at", "matrices * height"),
    Extent.COL: ("row_panels", "at // width * row_panels * width + at % width", "width"),
}
"""How many partials a value has, where the first is, and how far apart they are."""
LANES_OF_PANELS = 128
"""Columns of panels whose partials are joined at a time, of a matrix or a tensor."""
_ENTRIES = {Extent.ROW: "width", Extent.COL: "height", Extent.MATRIX: "(height * width)"}
"""The elements of a row, a column, a matrix."""
_WITHIN = {Extent.ROW: "height", Extent.COL: "width"}
"""The rows and columns of one matrix."""


@dataclass(frozen=True, slots=True)
class Step:
    """One launch. `over` is the extent of its programs, `along` that of what they go through, where they reduce.

    `measures` are combined from partials; `body` is run, then `results` and `stored` are written. `given` are the reductions of
    the whole stage, by column: those that the body does not bind are read.
    """

    kind: str
    over: Extent
    along: Extent | None
    measures: tuple[tuple[str, str], ...]
    body: tuple[Statement, ...]
    results: tuple[str, ...]
    stored: frozenset[str]
    given: tuple[tuple[str, Extent], ...]


def emit_step(
    stage: str, number: int, step: Step, kernel: Kernel, index: int, source: Source, extents: Mapping[str, Extent]
) -> str:
    """The function `{stage}_{number}_triton`, with a final newline."""
    printer = _Printer(step, kernel, index, source, extents)
    text = {"combine": printer.combine, "gather": printer.gather, "leave": printer.leave}[step.kind]
    reduced = f", reduced={len(step.given)}" if step.given else ""
    return ENVIRONMENT.get_template("step.py.j2").render(
        decorator=f'{stage}_triton.then("{step.over.value}"{reduced})',
        name=f"{stage}_{number}",
        parameters=[
            *(f"{p}: tl.tensor" for p in TABLES),
            *(f"{p}: tl.constexpr" for p in (*map(printer.name, kernel.static_flags), *GEOMETRY)),
        ],
        text=_SAYS[step.kind],
        lines=_only_used([*printer.head()], [*text()]),
    )


_SAYS = {
    "combine": "Adds up the partials that the pass before has left.",
    "gather": "Reduces rows, columns or matrices.",
    "leave": "The lines of the spec, and what they leave.",
}


def _only_used(head: Sequence[str], rest: Sequence[str]) -> list[str]:
    """The lines, without those of the head whose names nothing uses."""
    kept = list(rest)
    for line in reversed(head):
        name = line.partition(" = ")[0]
        if any(re.search(rf"\b{name}\b", text) for text in kept):
            kept.insert(0, line)
    return kept


class _Printer:
    def __init__(self, step: Step, kernel: Kernel, index: int, source: Source, extents: Mapping[str, Extent]) -> None:
        self.step, self.kernel, self.index, self.extents = step, kernel, index, extents
        self.columns = TableColumns.of(kernel)
        self._read = flow.count_reads(step.body)
        self._always, self._ever = flow.bound_by(step.body)
        self.states = [
            Stream(s.name, s.role, s.name in self._read, s.name in step.stored, s.exists, s.extent)
            for s in kernel.streams
            if s.extent is not Extent.ELEM and (s.name in self._read or s.name in step.stored)
        ]
        known = {*self._read, *self._ever, *step.results, *(m for m, _ in step.measures), *kernel.static_flags}
        self.name = Namer(RESERVED | _LOCALS | set(TABLES) | set(GEOMETRY))
        for name in sorted(known - {"numel"}):
            self.name(name)
        spelling = Spelling(lambda name: "numel" if name == "numel" else self.name(name), "tl.float64", self._is_static)
        vectors = {n for n in known if self._extent(n) is not Extent.TENSOR} if self._has_lanes else set()
        names = flow.elementwise_names(step.body, vectors)
        self._lines = Lines(step.body, names, self._block, "tl.float64", spelling, kernel.static_flags, source)

    @property
    def _has_lanes(self) -> bool:
        return self.step.over is not Extent.TENSOR or self.step.along is not None

    @property
    def _block(self) -> str:
        if not self._has_lanes:
            return "()"
        return "(DEPTH, LANES)" if self.step.kind == "gather" and self.step.over is Extent.MATRIX else "(LANES,)"

    # --- where ----------------------------------------------------------------------------------------------------------------

    def head(self) -> Iterator[str]:
        """Which tensor it is, and what belongs to it."""
        over, kernel = self.step.over, self.kernel
        if over is Extent.TENSOR:
            yield "tensor = tl.load(members + tl.program_id(0))"
        else:
            yield "tensor = tl.load(chunk_tensors + tl.program_id(0))"
            yield "chunk = (tl.program_id(0) - tl.load(first_chunks + tensor)).to(tl.int64) * tl.num_programs(1)"
            lanes = "(chunk + tl.program_id(1)) * LANES + tl.arange(0, LANES)"
            yield f"{'at' if self.step.along is None else 'of'} = {lanes}"
        yield f"shape = shapes + {len(SHAPE)} * tensor"
        yield from (f"{name} = {from_shape(name)}" for name in SHAPE[:6])
        yield f"resident = residents + {len(self.columns.resident) + 1} * tensor"
        yield f"numel = tl.load(resident + {len(self.columns.resident)}).to(tl.float64)"
        yield f"row = statistics + {len(kernel.statistics)} * tensor"
        if over is not Extent.TENSOR:
            yield f"mask = at < {COUNT[over]}" if self.step.along is None else f"there = of < {COUNT[over]}"
            if self.step.along is None:
                yield f"matrix = {self._matrix(over)}"
        yield f"scalars = scalars + {len(kernel.scalars) + len(kernel.host_flags)} * tl.minimum(tensor, scalar_rows - 1)"

    def _matrix(self, extent: Extent) -> str:
        return {Extent.ROW: "at // height", Extent.COL: "at // width", Extent.MATRIX: "at"}[extent]

    def _reduced(self, name: str) -> str:
        """Where a reduction of this stage is kept."""
        given = [n for n, _ in self.step.given]
        first = f"reduced + ({from_shape('first_matrix')} + tensor) * {len(given)}"
        if index := given.index(name):
            first += f" + {index} * (matrices + 1)"
        return first + " + matrices" if self._extent(name) is Extent.TENSOR else first

    # --- what is combined -----------------------------------------------------------------------------------------------------

    def combine(self) -> Iterator[str]:
        """Joins partials to the same tree, whatever the launch."""
        over, before = self.step.over, self.kernel.passes[self.index - 1]
        places = [(m, o, partial_place(before, self.extents, m)) for m, o in self.step.measures]
        if over in _PARTIALS:
            yield from self._joined(places, *_PARTIALS[over])
            for measure, operation, _ in places:
                yield from self._result(
                    measure, operation, f"{_ENTRIES[over]}.to(tl.float64)", f"{self.name(measure)}.to(tl.float64)"
                )
                yield self._stored(measure)
            return
        yield "one = tl.sum(at, 0)" if over is Extent.MATRIX else "one = 0"
        yield "each = col_panels" if over is Extent.MATRIX else "each = matrices * col_panels"
        yield from (f"{self._total(m)} = tl.full(({LANES_OF_PANELS},), {NEUTRAL[o]}, tl.float64)" for m, o, _ in places)
        yield f"for i in range(0, each, {LANES_OF_PANELS}):"
        yield f"    lanes = i + tl.arange(0, {LANES_OF_PANELS})"
        yield "    mask = lanes < each"
        yield from (INDENT + line for line in self._joined(places, "row_panels", "(one * each + lanes) * row_panels", "1"))
        for measure, operation, _ in places:
            total = self._total(measure)
            yield f"    {total} = gpu.{COMBINED[operation]}_with({total}, {self.name(measure)}, mask)"
        for measure, operation, _ in places:
            n = "numel" if over is Extent.TENSOR else f"{_ENTRIES[over]}.to(tl.float64)"
            yield from self._result(measure, operation, n, f"gpu.{COMBINED[operation]}_of({self._total(measure)})")
            if over is Extent.MATRIX:
                yield f"mask = at < {COUNT[over]}"
                yield f"{self.name(measure)} = tl.full((LANES,), {self.name(measure)}, tl.float64)"
            yield self._stored(measure)

    def _joined(self, places: Sequence[tuple[str, str, str]], count: str, first: str, apart: str) -> Iterator[str]:
        """The nodes over the partials of the lanes where `mask` holds, under the names of the measures."""
        real = "real" if self.step.over in _PARTIALS else "tl.float64"
        lanes = "LANES" if self.step.over in _PARTIALS else LANES_OF_PANELS
        yield f"n = ({count} * measured).to(tl.int32)"
        yield "have = tl.where(mask, n, 0)"
        for measure, operation, place in places:  # one after another: a stack takes as many registers as it has levels
            name, kind = self.name(measure), f'"{COMBINED[operation]}"'
            node = Call("gpu.eight", (f"{place} + {first}", apart, "j", "have", kind))
            yield f"{name} = tl.full(({MOST_LEVELS}, {lanes}), {NEUTRAL[operation]}, {real})"
            yield "for j in range(0, n, 8):"
            yield INDENT + laid_out(Call(f"{name} = gpu.pushed", (name, node, "j // 8", kind)), 8)
            yield f"{name} = gpu.folded({name}, {kind})"

    def _total(self, measure: str) -> str:
        return self.name(f"{measure}_total")

    def _result(self, name: str, operation: str, n: str, text: str) -> Iterator[str]:
        yield f"{self.name(name)} = " + (f"gpu.div({text}, {n})" if operation == "mean" else text)

    def _stored(self, statistic: str) -> str:
        """A statistic into its table."""
        value = self.name(statistic)
        if sort_of(statistic, self.kernel) is Sort.BOOL:
            value = f"tl.where({value}, 1.0, 0.0)"
        if self.step.over is Extent.TENSOR:
            return f"tl.store(row + {self.kernel.statistics.index(statistic)}, {value})"
        return laid_out(Call("tl.store", (f"{value_place(self.kernel, self.extents, statistic)} + at", value, "mask")), 4)

    # --- what is reduced ------------------------------------------------------------------------------------------------------

    def gather(self) -> Iterator[str]:
        """Goes through what is reduced, block by block, with the lines of the spec."""
        along, over = self.step.along, self.step.over
        if along is None:
            raise ValueError("a reduction goes through something")
        operations = {
            line.target.name: reduction.operation
            for line in statements(self.step.body)
            if isinstance(line, Let) and (reduction := reduction_of(line)) is not None
        }
        yield from self._scalars()
        yield from (f"{self.name(r)} = tl.full({self._block}, {NEUTRAL[operations[r]]}, tl.float64)" for r in self.step.results)
        if over is Extent.MATRIX:
            yield f"n = {_WITHIN[along]}.to(tl.int32)"
            yield "for j in range(0, n, DEPTH):"
            yield "    deep = j + tl.arange(0, DEPTH)[:, None]"
            yield "    mask = (deep < n) & there[None, :]"
            yield "    matrix = tl.broadcast_to(of[None, :], (DEPTH, LANES))"
            yield f"    at = matrix * {_WITHIN[along]} + deep"
        else:
            yield f"n = ({COUNT[along]}).to(tl.int32)" if "*" in COUNT[along] else f"n = {COUNT[along]}.to(tl.int32)"
            yield "for j in range(0, n, LANES):"
            yield "    at = j + tl.arange(0, LANES)"
            yield "    mask = at < n"
            yield f"    matrix = {self._matrix(along)}"
        # what a line gives a new value begins anew in each block
        extents = dict.fromkeys((Extent.TENSOR, Extent.MATRIX, along))
        yield from (INDENT + line for extent in extents for line in self._loads(extent))
        yield from (INDENT + line for line in self._spec({*self.step.results}))
        for name in self.step.results:
            total = f"gpu.{COMBINED[operations[name]]}_of({self.name(name)})"
            yield from self._result(name, operations[name], "n.to(tl.float64)", total)
        for name in self.step.results:
            arguments = [self._reduced(name), self.name(name)]
            if over is Extent.MATRIX:
                arguments = [f"{arguments[0]} + of", arguments[1], "there"]
            yield f"tl.store({', '.join(arguments)})"

    # --- what is left ---------------------------------------------------------------------------------------------------------

    def leave(self) -> Iterator[str]:
        """The lines, statistics, states."""
        over = self.step.over
        yield from self._scalars()
        for extent in dict.fromkeys((Extent.TENSOR, Extent.MATRIX, over) if over is not Extent.TENSOR else (over,)):
            yield from self._loads(extent)
        static = self.kernel.static_flags
        written = [s for s in self.states if s.writes]
        unsure = {s.name for s in written if flow.reads_host_flags(written_when(self.step.body, s.name), static)}
        wanted = {*self.step.results} | unsure
        yield from self._spec({s.name for s in self.states if s.reads} | {n for n, _ in self.step.given}, wanted)
        for statistic in self.step.results:
            yield self._stored(statistic)
        if written:
            every = "mask" if over is not Extent.TENSOR else "None"
            # spread by hand: Triton's interpreter takes a condition for a number when it does that itself
            lanes = "tl.full((LANES,), tl.load(found_inf), tl.float32)"
            taken = f"mask & ({lanes} == 0)" if over is not Extent.TENSOR else "tl.load(found_inf) == 0"
            yield f"taken = {taken} if HAS_FOUND_INF else {every}"
        for stream in written:
            when = both(stream.exists, written_when(self.step.body, stream.name))
            at = "" if over is Extent.TENSOR else " + at"
            yield from self._lines.when(when, f"tl.store({self._pointer(stream)}{at}, {self.name(stream.name)}, taken)")

    # --- code -----------------------------------------------------------------------------------------------------------------

    def _spec(self, bound: set[str], wanted: set[str] | frozenset[str] = frozenset()) -> Iterator[str]:
        """The spec's lines; before them a value for what only some paths bind."""
        bound = bound | {s.name for s in self.states if s.reads}
        for name in sorted((wanted - self._always - bound) & self._ever):
            yield f"{self.name(name)} = {self._lines.zero(name)}"
            bound.add(name)
        yield from self._lines.printed(bound)

    def _scalars(self) -> list[str]:
        used = self._read.keys() | {r.symbol.name for s in self.states for r in reads(s.exists)}
        return scalar_lines(self.kernel, used, self.name)

    def _loads(self, extent: Extent) -> Iterator[str]:
        """Statistics, reductions and states of an extent that the lines read, or that are results themselves."""
        index = {Extent.TENSOR: "", Extent.MATRIX: " + matrix"}.get(extent, " + at")
        masked = "" if extent is Extent.TENSOR else ", mask"
        reductions = {n for n, _ in self.step.given}
        for name, of in self.step.given:
            if of is extent and name not in self._ever and (name in self._read or name in self.step.results):
                yield f"{self.name(name)} = tl.load({self._reduced(name)}{index}{masked})"
        for name in self.kernel.statistics:
            if self._extent(name) is extent and name in self._read and name not in self._ever | reductions:
                column = f"row + {self.kernel.statistics.index(name)}"
                place = column if extent is Extent.TENSOR else value_place(self.kernel, self.extents, name)
                yield f"{self.name(name)} = tl.load({place}{index}{masked})"
        for stream in self.states:
            if stream.extent is extent:
                kind = "tl.float64" if extent is Extent.TENSOR else "real"
                place = f"resident + {self.columns.resident.index(stream.name)}"
                yield f"{self._pointer(stream)} = tl.load({place}).to(tl.pointer_type({kind}))"
                if stream.reads:
                    value = f"tl.load({self._pointer(stream)}{index}{masked}).to(tl.float64)"
                    yield from self._lines.when(stream.exists, f"{self.name(stream.name)} = {value}")

    def _pointer(self, stream: Stream) -> str:
        return self.name(f"{stream.name}_at")

    def _extent(self, name: str) -> Extent:
        return self.extents.get(name, Extent.TENSOR)

    def _is_static(self, condition: Expression) -> bool:
        return all(r.symbol.role is Role.FLAG and r.symbol.name in self.kernel.static_flags for r in reads(condition))
