"""Kernels that know rows and columns: passes move through matrices in pieces, stages have loops over their vectors.

The text needs `runtime/matrices.hpp` and `stages.hpp` before it, besides what kernels of several passes need. In variants
without values per row or column its passes move through chunks as theirs do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from optc.compiler.backends.native.buffered import Buffers, buffer_names, buffered, buffered_structs
from optc.compiler.backends.native.flow import names_in, shared_terms
from optc.compiler.backends.native.lines import Lines, Names
from optc.compiler.backends.native.passes import JOINS, KINDS, OF_NOTHING, Emitter, Vectors, used_in
from optc.compiler.conditions import FALSE, both, bound_when, either, opposite, reached_when, written_when
from optc.compiler.ir import reads, statements, walk
from optc.compiler.plan import Kernel, Pass, Stream
from optc.dsl.kinds import IN_MATRICES, Extent, Sort
from optc.dsl.program import REDUCTIONS, TRUE, Apply, Expression, Let, Read, Role, Statement, Store, Symbol
from optc.dsl.source import Source

_FIXED = """PIECE Grid Vectors Tile Piece Known by_width Rows Columns RowReduction ColumnReduction add_to_both
Values fold fold_terms Matrices by_rows piece run runs length stride from at matrix row column matrices rows
columns height width optc_by_rows"""
MATRIX_NAMES = frozenset(_FIXED.split())
"""What these and the text of such kernels mean something else by."""

_INDEX = {Extent.ROW: "row", Extent.COL: "column", Extent.MATRIX: "matrix"}
_LENGTH = {Extent.ROW: "rows", Extent.COL: "columns", Extent.MATRIX: "matrices"}
_SIDE = {Extent.ROW: "height", Extent.COL: "width"}
_ACROSS = {Extent.ROW: ("RowReduction", "of_rows"), Extent.COL: ("ColumnReduction", "of_columns")}


def knows_matrices(kernel: Kernel) -> bool:
    """Whether a kernel of several passes, or another of its procedure, has values per row, column or matrix."""
    return any(e in IN_MATRICES for e in (*kernel.extents, *(s.extent for s in kernel.streams)))


class MatrixEmitter(Emitter):
    """Prints the functions of a kernel that knows rows and columns."""

    _place = "at + i"
    _drawn_from = "at", "piece.length"
    _drawn_at = "i"

    def __init__(self, kernel: Kernel, source: Source, taken: frozenset[str]) -> None:
        self._buffered = frozenset(buffered(kernel))
        super().__init__(kernel, source, taken | MATRIX_NAMES | buffer_names(kernel))
        self._extent = dict(zip(kernel.statistics, kernel.extents, strict=True))

    def variant(self) -> list[str]:
        """Whether any line that knows rows or columns is reached."""
        flags = frozenset(self._kernel.static_flags)
        condition: Expression = FALSE
        for body in self._bodies():
            condition = either(condition, reached_when(body, self._in_matrices, flags))
        return [f"constexpr bool by_rows = {Lines(self.names(), self._source).expression(condition)};"]

    def codes(self) -> list[str]:
        """See `Emitter.codes`."""
        return buffered_structs(self._kernel)

    def _bodies(self) -> Iterator[tuple[Statement, ...]]:
        for one in self._kernel.passes:
            yield one.prepare
            yield one.body
        yield self._kernel.finish

    def _in_matrices(self, line: Let | Store) -> bool:
        streams = {s.name for s in self._kernel.streams if s.extent in IN_MATRICES}
        return line.target.name in streams or any(e.type.extent in IN_MATRICES for e in walk(line.value))

    def _is_vector(self, name: str) -> bool:
        return self._extent[name] in IN_MATRICES

    # --- passes ---------------------------------------------------------------------------------------------------------------

    def _lines_of_elements(self, one: Pass, names: Names) -> Lines:
        return Lines(names, self._source, place="from + i", shared=shared_terms(one.body))

    def _pieces(self, one: Pass, needs: Sequence[str], names: Names, lines: Lines) -> dict[str, list[str]]:
        """Values per row and column: what holds them, how they are made for a piece, and read for an element; codes."""
        buffers = Buffers(self._kernel, one.moves, (*one.picked, *one.body), names, lines)
        found: dict[str, list[str]] = {
            "holders": buffers.holders(), "fills": buffers.opened(), "packs": buffers.closed(), "elements_of": [],
        }  # fmt: skip
        for name in filter(self._is_vector, needs):
            symbol, extent = Symbol(Role.STATISTIC, name), self._extent[name]
            holder = names.beside(name, "values")
            kind = "Columns<by_rows>" if extent is Extent.COL else f"Rows<by_rows, {str(extent is Extent.MATRIX).lower()}>"
            place = "i" if extent is Extent.COL else "from + i"
            found["holders"].append(f"{kind} {holder}(chunk, {self._kernel.statistics.index(name)});")
            found["fills"].append(f"{holder}.fill(piece);")
            is_bool = self._sorts[symbol] is Sort.BOOL
            found["elements_of"].append(
                f"const {'bool' if is_bool else 'math_t'} {names(symbol)} = {holder}.each[{place}]{' != 0' if is_bool else ''};"
            )
        return found

    def _measured(self, one: Pass, names: Names, lines: Lines) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {"accumulators": [], "terms": [], "joins": [], "partials": []}
        indices, shared = self._indices(one), shared_terms(one.body)
        across: dict[tuple[Extent, str], tuple[str, str]] = {}
        for name, operation in one.measures:
            symbol, extent = Symbol(Role.STATISTIC, name), self._extent[name]
            variable, terms = names(symbol), names.beside(shared.get(name, name), "terms")
            when = bound_when(one.body, symbol)
            guard = "" if when in (TRUE, FALSE) else f"if ({lines.expression(when)}) "
            if name not in shared:
                found["terms"].append(f"alignas(64) math_t {terms}[PIECE];")
            if extent in _ACROSS:
                place = f"{self._kernel.statistics.index(name)}, {indices[name]}"
                found["accumulators"].append(f"{_ACROSS[extent][0]}<{JOINS[operation]}, by_rows> {variable}(chunk, {place});")
                across[extent, terms] = guard, variable
                found["joins"].append(f"{guard}{variable}.add({terms}, piece);")
            else:
                found["accumulators"].append(f"{KINDS[operation]} {variable};")
                found["joins"].append(f"{guard}{variable}.add({terms}, piece.size());")
                found["partials"].append(f"partials[{indices[name]}] = {variable}.total();")
        for (extent, terms), (guard, rows) in across.items():
            if extent is Extent.ROW and (beside := across.get((Extent.COL, terms))):
                joins, columns = found["joins"], beside[1]
                joins.remove(f"{guard}{columns}.add({terms}, piece);")
                at = joins.index(f"{guard}{rows}.add({terms}, piece);")
                joins[at] = f"{guard}add_to_both({rows}, {columns}, {terms}, piece);"
        return found

    def _indices(self, one: Pass) -> dict[str, int]:
        """The number of each measure among those of its extent."""
        found: dict[str, int] = {}
        counts: dict[Extent, int] = {}
        for name, _ in one.measures:
            extent = self._extent[name]
            found[name] = counts.get(extent, 0)
            counts[extent] = found[name] + 1
        return found

    # --- stages ---------------------------------------------------------------------------------------------------------------

    def has_stage(self, k: int) -> bool:
        """See `Emitter.has_stage`; vectors are rounded for code per element in stages, too."""
        return super().has_stage(k) or bool(self._rounded_in(k))

    def _rounded_in(self, k: int) -> list[str]:
        """The vectors that pass `k` needs, and that have changed since they were last rounded."""
        passes = self._kernel.passes
        if k == len(passes):
            return []
        needed = [n for n in passes[k].needs if self._is_vector(n)]
        fresh: set[str] = set()
        for at, one in enumerate(passes[: k + 1]):
            changed = {s.target.name for s in statements(one.prepare) if isinstance(s, Let)}
            fresh -= changed | ({n for n, _ in passes[at - 1].measures} if at else set())
            if at < k:
                fresh |= set(one.needs)
        return [n for n in self._kernel.statistics if n in needed and n not in fresh]

    def _lines_on_statistics(self, names: Names, body: tuple[Statement, ...]) -> Lines:
        return _StageLines(names, self._source, self._vectors_in(body))

    def _vectors_in(self, body: tuple[Statement, ...]) -> dict[Symbol, Extent]:
        """The extents of all names that are more than numbers."""
        found = {Symbol(Role.STATISTIC, n): e for n, e in self._extent.items() if e in IN_MATRICES}
        found |= {Symbol(s.role, s.name): s.extent for s in self._kernel.streams if s.extent in IN_MATRICES}
        given = frozenset(found)
        for line in statements(body):
            if isinstance(line, Let) and line.target not in given and line.value.type.extent in IN_MATRICES:
                extent = line.value.type.extent
                found[line.target] = found.get(line.target, extent).join(extent)
        return found

    def _vectors(self, k: int, body: tuple[Statement, ...], names: Names, lines: Lines) -> Vectors:
        kernel = self._kernel
        known = self._vectors_in(body)
        used = used_in(body) | {s.target for s in statements(body) if isinstance(s, Let | Store)}
        measured = dict(kernel.passes[k - 1].measures) if k else {}
        before: list[str] = []
        after: list[str] = []
        for name in filter(self._is_vector, kernel.statistics):
            symbol = Symbol(Role.STATISTIC, name)
            if name in measured:
                if symbol in used or name in self._wanted_from(k):
                    before += self._joined(k, name, measured[name], names, lines)
            elif symbol in used:
                slot = kernel.statistics.index(name)
                before.append(f"double* const {names(symbol)} = tensor.matrices.vector({slot});")
        for symbol in known:
            if not (symbol.role is Role.STATISTIC and symbol.name in self._extent) and symbol in used:
                before.append(f"const Values {names(symbol)}({_LENGTH[known[symbol]]});")
        for at, stream in enumerate(kernel.streams):
            if stream.extent in IN_MATRICES and stream.name in names_in(body):
                self._moved(at, stream, body, names, lines, before, after)
        for name in self._rounded_in(k):
            after.append(f"tensor.matrices.round({kernel.statistics.index(name)}, {_LENGTH[self._extent[name]]});")
        if before or after:
            before = [*_LENGTHS, *before]
        return Vectors(before, after, frozenset(s.name for s in known))

    def _joined(self, k: int, name: str, operation: str, names: Names, lines: Lines) -> list[str]:
        """What the tiles left of a measure; on a path without its line, the value of no elements."""
        before, extent, symbol = self._kernel.passes[k - 1], self._extent[name], Symbol(Role.STATISTIC, name)
        slot, mean = self._kernel.statistics.index(name), str(operation == "mean").lower()
        join = f"tensor.matrices.{_ACROSS[extent][1]}<{JOINS[operation]}>({slot}, {self._indices(before)[name]}, {mean})"
        found = [f"double* const {names(symbol)} = {join};"]
        when = bound_when(before.body, symbol)
        if when not in (TRUE, FALSE):
            nothing = f"tensor.matrices.of_nothing({slot}, {_LENGTH[extent]}, {OF_NOTHING[operation]});"
            found.append(f"if ({lines.expression(opposite(when))}) {nothing}")
        return found

    def _moved(
        self,
        at: int,
        stream: Stream,
        body: tuple[Statement, ...],
        names: Names,
        lines: Lines,
        before: list[str],
        after: list[str],
    ) -> None:
        """A state per row, column or matrix is loaded, and stored where the stage does that."""
        symbol = Symbol(stream.role, stream.name)
        written = written_when(body, stream.name)
        pointer, name = names.beside(stream.name, "at"), names(symbol)
        index, length = _INDEX[stream.extent], _LENGTH[stream.extent]
        loop = f"for (int64_t {index} = 0; {index} < {length}; ++{index})"
        guard = "" if stream.exists == TRUE else f"if ({lines.expression(stream.exists)}) "
        before.append(f"state_t* const {pointer} = tensor.state<state_t>({at});")
        if stream.reads or written != TRUE:
            before.append(f"{guard}{loop} {name}[{index}] = double(load({pointer}[{index}]));")
        if written != FALSE:
            when = both(stream.exists, written)
            guard = "" if when == TRUE else f"if ({lines.expression(when)}) "
            after.append(f"{guard}{loop} store({pointer}[{index}], math_t({name}[{index}]));")

    def _combined(self, before: Pass, names: Names, lines: Lines, wanted: set[str]) -> tuple[list[str], set[Symbol]]:
        found, tested = super()._combined(before, names, lines, wanted)
        for name, _ in before.measures:
            if self._is_vector(name):
                tested |= {read.symbol for read in reads(bound_when(before.body, Symbol(Role.STATISTIC, name)))}
        return found, tested


_LENGTHS = [
    "const int64_t matrices = tensor.matrices.count(), height = tensor.matrices.height(), width = tensor.matrices.width();",
    "const int64_t rows = matrices*height, columns = matrices*width;",
]


class _StageLines(Lines):
    """Lines of a stage, with a loop for each that gives a value per row, column or matrix."""

    def __init__(self, names: Names, source: Source, vectors: Mapping[Symbol, Extent]) -> None:
        super().__init__(names, source, "double")
        self._extents = vectors

    def _spelled(self, symbol: Symbol) -> str:
        extent = self._extents.get(symbol)
        return super()._spelled(symbol) + (f"[{_INDEX[extent]}]" if extent is not None else "")

    def expression(self, expression: Expression, outer: int = 0) -> str:
        """See `Lines.expression`; reductions stand alone."""
        if not (isinstance(expression, Apply) and expression.operation in REDUCTIONS):
            return super().expression(expression, outer)
        argument = expression.arguments[0]
        extent, join = argument.type.extent, JOINS[expression.operation]
        length, first = _LENGTH[extent], "0"
        if expression.type.extent is Extent.MATRIX:
            length = _SIDE[extent]
            first = f"matrix*{length}"
        if isinstance(argument, Read):
            values = self._names(argument.symbol) + ("" if first == "0" else f" + {first}")
            value = f"fold<{join}>({values}, {length})"
        else:
            value = f"fold_terms<{join}>({first}, {length}, {self._term(argument, expression.type.extent)})"
        return f"{value}/double({length})" if expression.operation == "mean" else value

    def _term(self, term: Expression, target: Extent) -> str:
        """A function of a row, column or matrix: what is reduced."""
        extent = term.type.extent
        found = f"return {self.expression(term)};"
        of_matrices = any(self._extents.get(r.symbol) is Extent.MATRIX for r in reads(term))
        if of_matrices and extent is not Extent.MATRIX and target is not Extent.MATRIX:
            found = f"const int64_t matrix = {_INDEX[extent]}/{_SIDE[extent]}; {found}"
        return f"[&](int64_t {_INDEX[extent]}) {{ {found} }}"

    def _loops(self, statement: Statement) -> tuple[list[str], bool]:
        if not isinstance(statement, Let | Store):
            return [], False
        value = statement.value
        extent = self._extents.get(statement.target, Extent.TENSOR)
        if extent not in IN_MATRICES:
            return [], False
        line = f"{self._spelled(statement.target)} = {self.expression(value)};{self._line(statement.span)}"
        return self._loop(extent, line, [value]), True

    def block(
        self, statements: Sequence[Statement], outer: frozenset[str] = frozenset(), declared: frozenset[str] = frozenset()
    ) -> list[str]:
        """See `Lines.block`; equal loops in a row are one: a line reads its own row, column or matrix only."""
        lines: list[str] = []
        head = ""
        for line in super().block(statements, outer, declared):
            if lines and lines[-1] == "}" and line == head:
                lines.pop()
                continue
            if not line.startswith((" ", "}")):
                head = line if line.startswith("for ") else ""
            lines.append(line)
        return lines

    def _loop(self, extent: Extent, line: str, values: list[Expression]) -> list[str]:
        """A line for every row, column or matrix; matrix by matrix, if it has to do with them."""
        index = _INDEX[extent]
        read = {r.symbol for value in values for r in reads(value)}
        if extent is Extent.MATRIX or not any(self._extents.get(s) is Extent.MATRIX for s in read):
            return [f"for (int64_t {index} = 0; {index} < {_LENGTH[extent]}; ++{index}) {{", f"    {line}", "}"]
        side = _SIDE[extent]
        return [
            "for (int64_t matrix = 0; matrix < matrices; ++matrix) {",
            f"    for (int64_t {index} = matrix*{side}; {index} < (matrix + 1)*{side}; ++{index}) {{",
            f"        {line}",
            "    }",
            "}",
        ]
