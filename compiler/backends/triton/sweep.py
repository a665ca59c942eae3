"""One pass of a kernel as both of its forms need it: names, parameters, what its tile is given and returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from optc.compiler.backends.names import Namer
from optc.compiler.backends.triton import flow, signs
from optc.compiler.backends.triton.columns import TableColumns, sort_of
from optc.compiler.backends.triton.kept import CODES_LOCALS, Codes, tile_parameters
from optc.compiler.backends.triton.signs import Signs, keeps_signs
from optc.compiler.backends.triton.spelling import RESERVED, Spelling
from optc.compiler.backends.triton.tile import Tile
from optc.compiler.backends.triton.vectors import in_panels
from optc.compiler.ir import reads, statements
from optc.compiler.layout import Call, filled, laid_out
from optc.compiler.plan import Kernel, Pass
from optc.compiler.storing import RUNS, coded_streams
from optc.dsl.kinds import Extent, Sort
from optc.dsl.program import Expression, Let, Role
from optc.dsl.source import Source

BESIDE = ("scales", "book")
"""What a stream that is kept as codes has beside it."""
TABLES = (
    "residents", "varying", "chunk_tensors", "first_chunks", "chunk", "gradient_factor", "found_inf", "scalars", "scalar_rows",
)  # fmt: skip
"""The first parameters of every pass, before its scalars; the programs of tensor i begin at `first_chunks[i]`."""
PICKING = ("stride",)
"""The next one of a pass that picks elements: every how many one is picked; not looked at with scalars in memory."""
NEEDING = ("statistics",)
"""The next ones of a pass that reads statistics: float64 [tensors][statistics]."""
MEASURING = ("partials", "partials_each", "first_partials")
"""The next ones of a pass that measures: a row for each measure, its length, and where a tensor's partials begin in it."""
GEOMETRY = ("real", "LANES", "BLOCK", "TAIL", "SCALARS_IN_MEMORY", "HAS_FOUND_INF")
"""The last parameters of every pass, after the dtypes of its streams and its flags."""
TREE = ("LEAF", "LEVELS")
"""After these where it measures: elements of a leaf, levels of the tree within a chunk (a power of two)."""
TABLES_OF_PANELS = (
    "statistics", "partials", "partials_each", "shapes",
    "row_partials", "col_partials", "row_values", "col_values", "matrix_values", "tall",
)  # fmt: skip
"""The parameters between scalars and dtypes where a pass runs over panels; see `optc.runtime.triton_matrices`."""
GEOMETRY_OF_PANELS = ("real", "LANES", "ROWS", "COLUMNS", "PANEL", "SCALARS_IN_MEMORY", "HAS_FOUND_INF", "LEVELS")
"""The last ones there."""
_RUNS = ("element_length", "element_step")
"""What is read of `RUNS`."""
_LOCALS = frozenset({"program", "tensor", "base", "resident", "changing", "n", "i", "j", "whole", "aligned", "factor"})
_LOCALS_REDUCING = frozenset({*NEEDING, *MEASURING, *TREE, "row", "place", "start", "end"})
LOCALS_OF_PANELS = frozenset(
    {
        "index", "shape", "height", "width", "row_panels", "col_panels", "strips", "strip", "matrix", "matrices", "top", "left",
        "rest", "start", "begin", "end", "before", "i_by", "lines", "columns", "at", "lanes", "heading", "panel", "across",
        "down", "later", "heads",
    }
)  # fmt: skip


class Sweep:
    """A pass with the spelling of its names. `name` is the prefix of its functions.

    `whole` is given for a part of a pass that picks elements: the part with all elements, or with picked ones.
    """

    def __init__(
        self,
        name: str,
        sweep: Pass,
        kernel: Kernel,
        source: Source,
        extents: Mapping[str, Extent],
        whole: Sweep | None = None,
    ) -> None:
        self.name, self.sweep, self.kernel, self.source, self.extents = name, sweep, kernel, source, extents
        self.panelled = in_panels(sweep, kernel, extents)
        if whole is None:
            self.value, self.pointer, self.aligned, self.dtype = self._names()
        else:
            self.value, self.pointer, self.aligned, self.dtype = whole.value, whole.pointer, whole.aligned, whole.dtype
        value, used = self.value, self._used()
        self.columns = TableColumns.of(kernel)
        self.streams = [s.name for s in sweep.moves]
        self.pointed = [s.name for s in sweep.moves if s.role is not Role.ELEMENT]
        self.scalars = [value(s) for s in kernel.scalars]
        self.static_flags = [value(f) for f in kernel.static_flags]
        self.host_flags = [value(f) for f in kernel.host_flags]
        self.used = used
        self.given = [value(s) for s in kernel.scalars if s in used]
        self.flags_given = [value(f) for f in (*kernel.static_flags, *kernel.host_flags) if f in used]
        self.totals = [value(m) for m, _ in sweep.measures]
        self.needs = [value(s) for s in sweep.needs]
        coded = {c.stream.name: c for c in coded_streams(kernel)}
        self.codes = {
            s: Codes(coded[s], value(s), self.pointer[s], self.aligned[s], *(value(f"{s}_{w}") for w in BESIDE))
            for s in (moved.name for moved in sweep.moves)
            if s in coded
        }
        self.signs = {
            moved.name: Signs(moved, value(moved.name), self.pointer[moved.name])
            for moved in sweep.moves
            if keeps_signs(kernel, moved)
        }
        self.width = len(self.scalars) + len(self.host_flags)

    def parts(self) -> tuple[Sweep | None, Sweep | None, Sweep | None]:
        """The part with all elements, that with picked ones, and both where these are all; None where there is no such part."""
        sweep = self.sweep
        if not sweep.picked:
            return self, None, None
        bound = {s.target.name for s in statements(sweep.picked) if isinstance(s, Let)}
        measures = [tuple(m for m in sweep.measures if (m[0] in bound) is own) for own in (False, True)]
        of_all = replace(sweep, measures=measures[0], picked=(), picked_streams=())
        of_picked = replace(of_all, body=sweep.picked, streams=sweep.picked_streams, measures=measures[1])
        both = replace(of_all, body=sweep.together, streams=sweep.moves, measures=sweep.measures)
        all_, picked, together = (
            Sweep(self.name + end, one, self.kernel, self.source, self.extents, self)
            for end, one in (("", of_all), ("_picked", of_picked), ("_together", both))
        )
        return (all_, picked, together) if of_all.body else (None, picked, picked)

    def is_vector(self, statistic: str) -> bool:
        """Whether it differs from row to row, or from column to column."""
        return self.extents.get(statistic) in (Extent.ROW, Extent.COL)

    def tile(self) -> dict[str, Any]:
        """What the template of a tile wants."""
        names, kernel, sweep = self.value, self.kernel, self.sweep
        conditions = tuple(s for s in sweep.needs if sort_of(s, kernel) is Sort.BOOL)
        vectors = tuple(s for s in sweep.needs if self.is_vector(s))
        spelling = _spelling(kernel, names)
        flags, kept = kernel.static_flags, (self.codes, self.signs)
        tile = Tile(sweep, conditions, vectors, flags, spelling, self.pointer, self.source, *kept)
        return {
            "tile_parameters": [
                *(f"{self.pointer[s]}: tl.tensor" for s in self.streams),
                "mask: tl.tensor",
                *tile_parameters(self.codes),
                *signs.tile_parameters(self.signs),
                *(f"{s}: tl.tensor" for s in (*self.totals, *self.given)),
                *(f"{names(f)}: tl.constexpr" for f in kernel.static_flags if f in self.used),
                *(f"{names(f)}: tl.tensor" for f in kernel.host_flags if f in self.used),
                *(f"{s}: tl.tensor" for s in (*self.needs, "factor")),
                "real: tl.constexpr",
            ],
            "tile_lines": list(tile.lines()),
            "results": ", ".join(self.totals) + " = " if self.totals else "",
            "returned": {0: "None", 1: "tl.tensor"}.get(len(self.totals), "tuple[tl.tensor, ...]"),
        }

    def call(self, pointers: list[str], mask: str, indent: int, codes: Sequence[str] = ()) -> list[str]:
        """The arguments of a call of the tile, in lines; `codes` are those for what is kept as codes."""
        last = filled((*self.totals, *self.given, *self.flags_given, *self.needs, "factor", "real"), indent)
        return [*filled((*pointers, mask, *codes), indent), *last]

    def places(self, pointers: Mapping[str, str], i: str, place: str) -> list[str]:
        """Where the elements of a tile are; of what may be codes, where the chunk begins; of signs, where the tensor does.

        Their numbers are those of the elements at a `place` in the tensor.
        """
        fixed = {s: pointers[s] for s in self.codes} | {s: self.pointer[s] for s in self.signs}
        return [fixed.get(s, f"{pointers[s]}{i}") if s in self.pointed else self.numbers(s, place) for s in self.streams]

    def numbers(self, stream: str, place: str) -> str:
        """Those of the elements at a place in the tensor."""
        return f"gpu.numbered({place}, {self.pointer[stream]}, {self.value(_RUNS[0])}, {self.value(_RUNS[1])})"

    def aligned_lines(self) -> list[str]:
        """The pointers of streams where they are aligned; what may be codes has its lines at its chunk."""
        return [self.hint(s, "base") for s in self.pointed if s not in self.codes and s not in self.signs]

    def chunk_lines(self) -> list[str]:
        """Pointers of the chunk."""
        condition = _spelling(self.kernel, self.value).condition
        plain = [s for s in self.pointed if s not in self.codes and s not in self.signs]
        lines = [f"{self.pointer[s]} = {self.pointer[s]} + base" for s in plain]
        return [*lines, *(line for s, one in self.codes.items() for line in one.chunk_lines(condition, self.hint(s, "base")))]

    def flag_lines(self) -> list[str]:
        """Host flags that are read from the device."""
        pairs = zip(self.host_flags, self.kernel.host_flags, strict=True)
        return [
            f"{f} = gpu.read_flag(scalars + {len(self.scalars) + i})" for i, (f, name) in enumerate(pairs) if name in self.used
        ]

    def scalar_lines(self) -> list[str]:
        """Scalars, from the arguments or from the device."""
        used = [(i, self.value(s)) for i, s in enumerate(self.kernel.scalars) if s in self.used]
        return [
            laid_out(Call(f"{name} = gpu.read_scalar", (name, "scalars", str(i), "SCALARS_IN_MEMORY", "real")), 4)
            for i, name in used
        ]

    def pointer_lines(self) -> list[str]:
        """Where the streams of the tensor begin."""
        rows = [("resident", i, s) for i, s in enumerate(self.columns.resident) if s in self.streams]
        rows += [("changing", i, s) for i, s in enumerate(self.columns.varying) if s in self.streams]
        kind = {s: f".to(tl.pointer_type({self.dtype[s]}))" for s in self.pointed}
        beside = [line for one in self.codes.values() for line in one.pointer_lines(self.columns.resident)]
        if len(self.pointed) < len(self.streams):
            of_runs = zip(_RUNS, RUNS, strict=True)
            beside += [f"{self.value(n)} = tl.load(resident + {self.columns.resident.index(row)})" for n, (row, _) in of_runs]
        return [f"{self.pointer[s]} = tl.load({table} + {i}){kind.get(s, '')}" for table, i, s in rows] + beside

    def hint(self, stream: str, offset: str) -> str:
        """The pointer of a stream where it is aligned."""
        pointer = self.pointer[stream]
        size = f"LANES * {pointer}.dtype.element_ty.primitive_bitwidth // 8"
        return f"{self.aligned[stream]} = tl.multiple_of({pointer} + {offset}, {size})"

    def _used(self) -> set[str]:
        """The scalars and flags that a pass reads; an elementwise kernel's own are all there for it."""
        kernel = self.kernel
        if not kernel.passes:
            return {*kernel.scalars, *kernel.static_flags, *kernel.host_flags}
        lines = flow.count_reads((*self.sweep.picked, *self.sweep.body)).keys()
        conditions = (when for s in self.sweep.moves for when in (s.exists, s.coded) if when is not None)
        return lines | {r.symbol.name for when in conditions for r in reads(when)}

    def _names(self) -> tuple[Namer, dict[str, str], dict[str, str], dict[str, str]]:
        """Names of values; of each stream's pointer, of the same pointer where it is aligned, of its dtype."""
        kernel, sweep = self.kernel, self.sweep
        taken = RESERVED | _LOCALS | set(TABLES) | set(GEOMETRY)
        if kernel.passes:
            taken |= _LOCALS_REDUCING
        if coded_streams(kernel):
            taken |= CODES_LOCALS
        if sweep.picked:
            taken |= {*PICKING, "before", "first", "last", "many", "at"}
        if any(keeps_signs(kernel, moved) for moved in sweep.moves):
            taken |= {"at", "width", "ROWS", "COLUMNS"}
        if self.panelled:
            taken |= LOCALS_OF_PANELS | set(TABLES_OF_PANELS) | set(GEOMETRY_OF_PANELS)
        value = Namer(taken)
        body = (*sweep.picked, *sweep.body)
        spec = {*(s.name for s in sweep.moves), *kernel.scalars, *kernel.static_flags, *kernel.host_flags}
        spec |= flow.bound_by(body)[1] | flow.count_reads(body).keys()
        derived = Namer({value(name) for name in sorted(spec)} | taken)
        pointer, aligned, dtype = ({s.name: derived(s.name + end) for s in sweep.moves} for end in ("_at", "_by", "_type"))
        self.row_in = {m: derived(f"{m}_in") for m in sweep.needs if self.is_vector(m)}
        self.row_out = {m: derived(f"{m}_out") for m, _ in sweep.measures}
        self.stack = {m: derived(f"{m}_tree") for m, _ in sweep.measures}
        return value, pointer, aligned, dtype


def _spelling(kernel: Kernel, spell: Namer) -> Spelling:
    def static(condition: Expression) -> bool:
        return all(r.symbol.role is Role.FLAG and r.symbol.name in kernel.static_flags for r in reads(condition))

    return Spelling(spell, "real", static)
