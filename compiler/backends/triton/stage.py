"""Code per tensor between two passes: one program per tensor, in float64.

It joins what the pass before measured to one tree, the same whatever the launch, runs the spec's lines on single numbers, and
leaves statistics for the next passes and numbers that live on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from optc.compiler.backends.names import Namer
from optc.compiler.backends.triton import flow
from optc.compiler.backends.triton.columns import TableColumns, sort_of
from optc.compiler.backends.triton.environment import ENVIRONMENT
from optc.compiler.backends.triton.lines import COMBINED, NEUTRAL, Lines
from optc.compiler.backends.triton.spelling import RESERVED, Spelling
from optc.compiler.backends.triton.vectors import per_tensor, stages_of
from optc.compiler.conditions import both, written_when
from optc.compiler.ir import reads, statements
from optc.compiler.layout import Call, laid_out
from optc.compiler.plan import Kernel, Stream
from optc.dsl.kinds import IN_MATRICES, Extent, Sort
from optc.dsl.program import Expression, Role, Store
from optc.dsl.source import Source

TABLES = (
    "residents", "members", "first_partials", "partials", "partials_each", "statistics", "found_inf", "scalars", "scalar_rows",
)  # fmt: skip
"""The first parameters: int64 rows of pointers and lengths; the tensors of this launch; where partials of a tensor begin (and
those of the next); a row of partials for each measure, its length; float64 [tensors][statistics]; as for a pass, in memory."""
GEOMETRY = ("LANES", "HAS_FOUND_INF")
"""The last parameters, after the static flags."""
MOST_LEVELS = 16
"""Of the tree over the partials of a tensor, of a row or of a column."""
_LOCALS = frozenset({"tensor", "resident", "row", "first", "last", "i", "at", "inside", "taken", "numel"})


def emit_stage(kernel: Kernel, index: int, source: Source, extents: Mapping[str, Extent]) -> str:
    """One Triton function, `{kernel.name}_stage_{index}_triton`, with a final newline: the stage of tensors without rows."""
    stage = _Stage(kernel, index, source, extents)
    return ENVIRONMENT.get_template("stage.py.j2").render(
        name=f"{kernel.name}_stage_{index}",
        parameters=[
            *(f"{p}: tl.tensor" for p in TABLES),
            *(f"{p}: tl.constexpr" for p in (*map(stage.name, kernel.static_flags), *GEOMETRY)),
        ],
        n_resident=len(stage.columns.resident),
        width=len(kernel.scalars) + len(kernel.host_flags),
        reads_scalars=bool(stage.scalar_lines()),
        reads_resident=stage.reads_numel() or any("resident" in line for line in (*stage.number_lines(), *stage.store_lines())),
        reads_numel=stage.reads_numel(),
        writes_numbers=any(s.writes for s in stage.numbers),
        load_lines=[*stage.scalar_lines(), *stage.statistic_lines(), *stage.number_lines()],
        row=f"statistics + {len(kernel.statistics)} * tensor" if stage.uses_row() else "",
        total_lines=[f"{t} = tl.full(({MOST_LEVELS},), {NEUTRAL[o]}, tl.float64)" for t, o in stage.measured],
        partial_lines=[_combine(t, o, i) for i, (t, o) in enumerate(stage.measured)],
        result_lines=[_result(t, o) for t, o in stage.measured],
        lines=list(stage.lines()),
        store_lines=list(stage.store_lines()),
    )


def scalar_lines(kernel: Kernel, used: Collection[str], name: Callable[[str], str]) -> list[str]:
    """The scalars and flags of the step that are used, from memory, under the names that `name` gives them."""
    values = {s: f"tl.load(scalars + {i}).to(tl.float64)" for i, s in enumerate(kernel.scalars)}
    flags = {s: f"gpu.read_flag(scalars + {i})" for i, s in enumerate(kernel.host_flags, len(values))}
    return [f"{name(s)} = {value}" for s, value in {**values, **flags}.items() if s in used]


def _combine(total: str, operation: str, index: int) -> str:
    kind = f'"{COMBINED[operation]}"'
    leaves = f"tl.load(partials + {index} * partials_each + at, inside, other={NEUTRAL[operation]})"
    return laid_out(Call(f"{total} = gpu.pushed", (total, f"gpu.paired({leaves}, {kind})", "(i - first) // LANES", kind)), 8)


def _result(total: str, operation: str) -> str:
    text = f'gpu.folded({total}, "{COMBINED[operation]}")'
    return f"{total} = gpu.div({text}, numel)" if operation == "mean" else f"{total} = {text}"


class _Stage:
    """One stage of a kernel; `numbers` are the states that it reads or writes."""

    def __init__(self, kernel: Kernel, index: int, source: Source, extents: Mapping[str, Extent]) -> None:
        self.kernel = kernel
        self.columns = TableColumns.of(kernel)
        self.body = per_tensor(stages_of(kernel)[index], extents)
        every = kernel.passes[index - 1].measures if index else ()
        measures = [(name, operation) for name, operation in every if extents.get(name) not in IN_MATRICES]
        bound = flow.bound_by(self.body)
        self._always, self._ever = bound
        left = kernel.passes[index].needs if index < len(kernel.passes) else kernel.parts
        self._needs = [n for n in left if n in self._ever]
        self._read = flow.count_reads(self.body)
        stored = {s.target.name for s in statements(self.body) if isinstance(s, Store)}
        self.numbers = [
            Stream(s.name, s.role, s.name in self._read, s.name in stored, s.exists, s.extent)
            for s in kernel.streams
            if s.extent is Extent.TENSOR and (s.name in self._read or s.name in stored)
        ]
        self.name = Namer(RESERVED | _LOCALS | set(TABLES) | set(GEOMETRY))
        for known in sorted({*self._read, *self._ever, *(m for m, _ in measures), *kernel.static_flags} - {"numel"}):
            self.name(known)
        self.measured = [(self.name(m), operation) for m, operation in measures]
        self._known = {m for m, _ in measures}
        spelling = Spelling(lambda name: "numel" if name == "numel" else self.name(name), "tl.float64", self._is_static)
        self._lines = Lines(self.body, frozenset(), "()", "tl.float64", spelling, kernel.static_flags, source)

    def reads_numel(self) -> bool:
        """Whether anything depends on the number of elements."""
        return "numel" in self._read or any(operation == "mean" for _, operation in self.measured)

    def uses_row(self) -> bool:
        """Whether anything is read from, or left in, the tensor's statistics."""
        return bool(self.measured or self._needs or self.statistic_lines())

    def scalar_lines(self) -> list[str]:
        """The scalars and flags of the step that are read."""
        return scalar_lines(self.kernel, self._used(), self.name)

    def statistic_lines(self) -> list[str]:
        """What passes before the last one measured."""
        old = [s for s in self.kernel.statistics if s in self._read and s not in self._ever and s not in self._known]
        return [f"{self.name(s)} = tl.load(row + {self.kernel.statistics.index(s)})" for s in old]

    def number_lines(self) -> list[str]:
        """The numbers that live on from step to step."""
        found = []
        for stream in self.numbers:
            place = f"resident + {self.columns.resident.index(stream.name)}"
            found.append(f"{self._pointer(stream)} = tl.load({place}).to(tl.pointer_type(tl.float64))")
            if stream.reads:
                found += self._lines.when(stream.exists, f"{self.name(stream.name)} = tl.load({self._pointer(stream)})")
        return found

    def lines(self) -> Iterator[str]:
        """The spec's; before them a value for what only some paths bind."""
        bound = self._known | {s.name for s in self.numbers if s.reads}
        for name in sorted((self._wanted() - self._always - bound) & self._ever):
            yield f"{self.name(name)} = {self._lines.zero(name)}"
            bound.add(name)
        yield from self._lines.printed(bound)

    def store_lines(self) -> Iterator[str]:
        """Statistics, then numbers."""
        for name in dict.fromkeys((*self._known_in_order(), *self._needs)):
            value = self.name(name)
            text = f"tl.where({value}, 1.0, 0.0)" if sort_of(name, self.kernel) is Sort.BOOL else value
            yield f"tl.store(row + {self.kernel.statistics.index(name)}, {text})"
        for stream in self.numbers:
            if stream.writes:
                when = both(stream.exists, written_when(self.body, stream.name))
                yield from self._lines.when(when, f"tl.store({self._pointer(stream)}, {self.name(stream.name)}, taken)")

    def _known_in_order(self) -> list[str]:
        return [s for s in self.kernel.statistics if s in self._known]

    def _wanted(self) -> set[str]:
        """What is looked at after the lines: needs, and numbers whose storing depends on flags of the host."""
        static = self.kernel.static_flags
        stored = {s.name for s in self.numbers if flow.reads_host_flags(written_when(self.body, s.name), static)}
        return {*self._needs} | stored

    def _pointer(self, stream: Stream) -> str:
        return self.name(f"{stream.name}_at")

    def _used(self) -> set[str]:
        exists = {r.symbol.name for s in self.numbers for r in reads(s.exists)}
        return self._read.keys() | exists

    def _is_static(self, condition: Expression) -> bool:
        return all(r.symbol.role is Role.FLAG and r.symbol.name in self.kernel.static_flags for r in reads(condition))
