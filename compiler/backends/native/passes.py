"""Kernels of several passes: a function per pass over elements, a function per stage over tensors, and their order.

The text needs `runtime/reductions.hpp` and `runtime/passes.hpp` before it. A pass that reduces is the loop of an elementwise
kernel, cut into short pieces: in each, the terms of its reductions are written to the stack, then joined in double. Kernels
that know rows and columns need more, which is in `matrices.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optc.compiler.backends.native.drawn import Drawn, draws_before
from optc.compiler.backends.native.flow import bound_in, locals_bound, names_in, reads_in, shared_terms
from optc.compiler.backends.native.kept import CODES_NAMES, Codes, book_structs, books_taken, piece_constant
from optc.compiler.backends.native.lines import Lines, Names
from optc.compiler.backends.native.loop import Instances, Streams, flag_constants, scalar_constants, static_flags
from optc.compiler.conditions import FALSE, bound_when, reached_when
from optc.compiler.extents import is_measure
from optc.compiler.ir import reads, statements
from optc.compiler.plan import Kernel, Pass
from optc.compiler.storing import coded_streams
from optc.dsl.kinds import Extent, Sort
from optc.dsl.program import TRUE, Expression, Role, Statement, Store, Symbol
from optc.dsl.source import Source

_REDUCTIONS = """Add Larger Smaller Tree Reduction Sum Largest Smallest Tensor AllMatrices Part Pass Stage Share per_tensor
Four FourBits four chosen total_of Lanes LANES TERMS BLOCK SIDE_BY_SIDE Turns ByTurns ALL run_all run_share optc_run_passes
share statistics partials tensor first end turns
first_pick stride_of stride block block_end picked_first picked_end"""
REDUCTION_NAMES = frozenset(_REDUCTIONS.split())
"""What `reductions.hpp` and the text of several passes mean something else by."""

KINDS = {"sum": "Sum", "mean": "Sum", "largest": "Largest", "smallest": "Smallest"}
JOINS = {"sum": "Add", "mean": "Add", "largest": "Larger", "smallest": "Smaller"}
OF_NOTHING = {"sum": "0.0", "mean": "not_a_number", "largest": "-infinity", "smallest": "infinity"}
_MOST_BY_TURNS = 2
"""Streams of a pass without stores that are read in several places by turns: more of them are several places by themselves."""
_COUNTS = ("No pass", "One pass", "Two passes", "Three passes", "Four passes", "Five passes", "Six passes")


def emit_passes(kernel: Kernel, source: Source, taken: frozenset[str], kind: type[Emitter]) -> dict[str, Any]:
    """What the template is filled with. `taken`: names of the prelude."""
    count = len(kernel.passes)
    functions = [n for k in range(count + 1) for n in (f"pass_{k}", f"select_pass_{k}", f"stage_{k}")]
    taken |= CODES_NAMES | books_taken(kernel) if coded_streams(kernel) else set()
    emitter = kind(kernel, source, taken | REDUCTION_NAMES | set(functions))
    parts, order = [], []
    for k in range(count + 1):
        if emitter.has_stage(k):
            parts.append(emitter.stage(k))
            order.append(f"share.stage({k}, per_tensor::stage_{k});")
        if k < count and kernel.passes[k].exists != FALSE:
            parts.append(emitter.pass_over_elements(k))
            order.append(f"{emitter.guard(k)}share.pass({k}, {parts[-1]['chosen']});")
    sweeps = sum(one.exists != FALSE for one in kernel.passes)
    return {
        "passes_in_words": _COUNTS[sweeps] if sweeps < len(_COUNTS) else f"{sweeps} passes",
        "variant": [*static_flags(kernel, emitter.names()), *emitter.variant(), *emitter.codes()],
        "by_rows": kind is not Emitter,
        "parts": parts,
        "guarding": emitter.guarding(),
        "order": [line for at, run in enumerate(order) for line in (["share.wait();", run] if at else [run])],
    }


@dataclass(frozen=True, slots=True)
class Vectors:
    """Lines of a stage before and after its own, for `names` that are more than numbers."""

    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    names: frozenset[str] = frozenset()


class Emitter:
    """Prints the functions of one kernel. Each has names of its own; flags have the same in all."""

    _place = "i"  # of the present element
    _drawn_from = "piece", "piece_end - piece"  # the first element that numbers are drawn for, and how many
    _drawn_at = "i - piece"  # of the present element's among these
    _buffered: frozenset[str] = frozenset()  # streams that are read from buffers

    def __init__(self, kernel: Kernel, source: Source, taken: frozenset[str]) -> None:
        self._kernel = kernel
        self._source = source
        self._taken = taken
        reads_ = [r for p in kernel.passes for r in reads_in((*p.prepare, *p.body, *p.picked))] + [*reads_in(kernel.finish)]
        self._sorts = {r.symbol: r.type.sort for r in reads_ if r.symbol.role is Role.STATISTIC}
        self._row = {s.name: row for row, s in enumerate(kernel.streams)}

    def names(self) -> Names:
        """Names of a function: flags first."""
        names = Names(self._taken)
        for flag in (*self._kernel.static_flags, *self._kernel.host_flags):
            names.flag(flag)
        return names

    def variant(self) -> list[str]:
        """What else a variant decides."""
        return []

    def codes(self) -> list[str]:
        """What codes mean, and how many elements are decoded at a time."""
        names = self.names()
        lines, draws = Lines(names, self._source), draws_before(self._kernel, *(one.body for one in self._kernel.passes))
        return [*book_structs(self._kernel), *piece_constant(self._kernel, names, lines, draws)]

    def has_stage(self, k: int) -> bool:
        """Whether something is done per tensor before pass `k`, or after the last."""
        return self._kernel.has_stage(k)

    def guard(self, k: int) -> str:
        """What stands before the run of pass `k`: nothing, or the condition under which it has something to do."""
        runs = self._runs(self._kernel.passes[k])
        return "" if runs == TRUE else f"if ({Lines(self.names(), self._source).expression(runs)}) "

    def guarding(self) -> list[str]:
        """Host flags that guards test."""
        tested = {read.symbol for one in self._kernel.passes for read in reads(self._runs(one))}
        flags = [f for f in self._kernel.host_flags if Symbol(Role.FLAG, f) in tested]
        names = self.names()
        return [f"const bool {names.flag(f)} = share.flags[{self._kernel.host_flags.index(f)}] != 0;" for f in flags]

    def _runs(self, one: Pass) -> Expression:
        """When a pass stores or measures anything: a condition over flags, those of a call included."""
        flags = frozenset((*self._kernel.static_flags, *self._kernel.host_flags))
        return reached_when((*one.picked, *one.body), lambda line: isinstance(line, Store) or is_measure(line), flags)

    def pass_over_elements(self, k: int) -> dict[str, Any]:
        """The function of pass `k`, and how it is chosen for a call's flags."""
        one, kernel = self._kernel.passes[k], self._kernel
        names = self.names()
        lines = self._lines_of_elements(one, names)
        both = (*one.picked, *one.body)
        drawn = Drawn.of(kernel, one.body, names, lines)
        body = drawn.found()
        used = used_in(both)
        scalars = [s for s in kernel.scalars if Symbol(Role.SCALAR, s) in used]
        needs = [n for n in kernel.statistics if n in one.needs]
        flags = [f for f in kernel.host_flags if Symbol(Role.FLAG, f) in used]
        instances = Instances.of(both, flags)
        constants = flag_constants(kernel, names, flags[len(instances.flags) :])
        constants += scalar_constants(kernel, names, scalars, exponents=instances.exponents)
        constants += [self._statistic(names, lines, name, "math_t") for name in needs if not self._is_vector(name)]
        if any(s.role is Role.GRADIENT for s in one.moves):
            constants.append("const math_t gradient_factor = math_t(factor);")
        rows = self._row
        in_pieces = bool(coded_streams(kernel))
        own = {rows[s.name]: s for s in one.streams}
        streams = Streams(names, lines, own, body, self._place, "", in_pieces, self._buffered)
        codes = Codes(kernel, one.streams, one.body, names, lines)
        all_picked = names.flag(kernel.pick[1]) if kernel.pick is not None else ""
        moves = {rows[s.name]: s for s in one.moves}
        together = Streams(names, lines, moves, one.together, self._place, all_picked, in_pieces, self._buffered)
        return {
            "elements": True,
            "index": k,
            "template": instances.template(names),
            "constants": constants,
            "pointers": [*replace(together, body=both).pointers(), *codes.declared(), *drawn.declared()],
            "opened": [*codes.opened(), *drawn.opened(*self._drawn_from)],
            "closed": codes.closed(),
            "lines": _paragraphs([*streams.loads(), *drawn.loads(self._drawn_at)], lines.block(body), streams.stores()),
            "picked": self._picked(one, names, lines) if one.picked else {},
            "together": _paragraphs(together.loads(), lines.block(one.together), together.stores()) if one.picked else [],
            "by_turns": self._by_turns(one),
            **self._pieces(one, needs, names, lines),
            **self._measured(one, names, lines),
            "selection": instances.selection(kernel, f"pass_{k}", "Pass") if instances else [],
            "chosen": f"select_pass_{k}(share.scalars, share.flags)" if instances else f"pass_{k}",
        }

    def _lines_of_elements(self, one: Pass, names: Names) -> Lines:
        return Lines(names, self._source, shared=_shared(one))

    def _is_vector(self, name: str) -> bool:
        """Whether a statistic is more than a number."""
        return False

    def _pieces(self, one: Pass, needs: Sequence[str], names: Names, lines: Lines) -> dict[str, list[str]]:
        """What else the function of a pass needs."""
        return {}

    def _by_turns(self, one: Pass) -> bool:
        """Whether a pass that measures moves through several blocks by turns: where it reads little and writes nothing."""
        stores = any(isinstance(line, Store) for line in statements(one.body))
        pieces = coded_streams(self._kernel) or draws_before(self._kernel, one.body)
        return not (stores or one.picked or pieces) and 0 < len(one.moves) <= _MOST_BY_TURNS

    def _picked(self, one: Pass, names: Names, lines: Lines) -> dict[str, Any]:
        """What the function of a pass does at every p-th element, before it comes there with its other lines."""
        kernel = self._kernel
        p, all_picked = kernel.pick or ("", "")
        streams = {self._row[s.name]: s for s in one.picked_streams}
        moved = Streams(names, lines, streams, one.picked, "i*stride - chunk.offset")
        return {
            "all": names.flag(all_picked),
            "stride": f"const int64_t stride = stride_of(scalars[{kernel.scalars.index(p)}]);",
            "lines": _paragraphs(moved.loads(), lines.block(one.picked), moved.stores()),
        }

    def _measured(self, one: Pass, names: Names, lines: Lines) -> dict[str, list[str]]:
        """Accumulators, the terms of a piece, how they are joined, and what the chunk leaves."""
        kinds = "accumulators", "terms", "joins", "partials", "picked_terms", "picked_joins", "ends"
        found: dict[str, list[str]] = {kind: [] for kind in kinds}
        shared, by_turns = _shared(one), self._by_turns(one)
        for at, (name, operation) in enumerate(one.measures):
            symbol = Symbol(Role.STATISTIC, name)
            picked = "picked_" if bound_in(one.picked, name) else ""
            variable, terms = names(symbol), names.beside(shared.get(name, name), "terms")
            kind = f"ByTurns<{JOINS[operation]}>" if by_turns else KINDS[operation]
            found["accumulators"].append(f"{kind} {variable};")
            if name not in shared:
                found[f"{picked}terms"].append(f"alignas(64) math_t {terms}[TERMS];")
            when = bound_when((*one.picked, *one.body), symbol)
            guard = "" if when in (TRUE, FALSE) else f"if ({lines.expression(when)}) "
            side = ", turns.side" if by_turns else ""
            found[f"{picked}joins"].append(f"{guard}{variable}.add({terms}, end - first{side});")
            found["ends"] += [f"{variable}.end_block(picked_end - picked_first);"] * bool(picked)
            found["partials"].append(f"partials[{at}] = {variable}.total();")
        return found

    def stage(self, k: int) -> dict[str, Any]:
        """The function that runs per tensor before pass `k`."""
        kernel = self._kernel
        body = kernel.passes[k].prepare if k < len(kernel.passes) else kernel.finish
        before = kernel.passes[k - 1] if k else None
        names = self.names()
        lines = self._lines_on_statistics(names, body)
        used = used_in(body)
        scalars = [s for s in kernel.scalars if Symbol(Role.SCALAR, s) in used]
        bound = {symbol.name for symbol in locals_bound(body) if symbol.role is Role.STATISTIC}
        measured = [name for name, _ in before.measures] if before else []
        wanted = _statistics(used) - bound
        kept = [n for n in kernel.statistics if n in self._wanted_from(k) and (n in bound or n in measured)]
        numbers = {row: s for row, s in enumerate(kernel.streams) if s.extent is Extent.TENSOR and s.name in names_in(body)}
        streams = Streams(names, lines, numbers, body)
        combined, tested = self._combined(before, names, lines, wanted.union(kept)) if before else ([], set())
        flags = [f for f in kernel.host_flags if Symbol(Role.FLAG, f) in used | tested]
        constants = flag_constants(kernel, names, flags) + scalar_constants(kernel, names, scalars, "double")
        if Symbol(Role.SHAPE, "numel") in used:
            constants.append(f"const double {names(Symbol(Role.SHAPE, 'numel'))} = tensor.numel;")
        given = [n for n in kernel.statistics if n in wanted.difference(measured)]
        constants += [self._statistic(names, lines, n, "double") for n in given if not self._is_vector(n)]
        constants += combined
        numbers_kept = [n for n in kept if not self._is_vector(n)]
        writes = [f"statistics[{kernel.statistics.index(n)}] = {names(Symbol(Role.STATISTIC, n))};" for n in numbers_kept]
        vectors = self._vectors(k, body, names, lines)
        return {
            "elements": False,
            "index": k,
            "when": f"Before pass {k}" if k < len(kernel.passes) else "After the last pass",
            "lines": _paragraphs(
                [*constants, *streams.pointers(), *streams.loads(), *vectors.before],
                lines.block(body, frozenset(numbers_kept), vectors.names),
                [*streams.stores(), *vectors.after, *writes],
            ),
        }

    def _lines_on_statistics(self, names: Names, body: tuple[Statement, ...]) -> Lines:
        return Lines(names, self._source, "double")

    def _vectors(self, k: int, body: tuple[Statement, ...], names: Names, lines: Lines) -> Vectors:
        """What stage `k` does for values that are more than numbers."""
        return Vectors()

    def _wanted_from(self, k: int) -> set[str]:
        """The statistics that are read after stage `k`, by what comes after the kernel, too."""
        later = self._kernel.passes[k:]
        found = {name for one in later for name in one.needs}.union(self._kernel.leaves, self._kernel.parts)
        for body in (*(one.prepare for one in later[1:]), *((self._kernel.finish,) if later else ())):
            found |= _statistics(used_in(body))
        return found

    def _combined(self, before: Pass, names: Names, lines: Lines, wanted: set[str]) -> tuple[list[str], set[Symbol]]:
        """What all chunks left of the pass before, and the flags that this asks for."""
        found: list[str] = []
        tested: set[Symbol] = set()
        numbers = [m for m in before.measures if not self._is_vector(m[0])]
        for at, (name, operation) in enumerate(numbers):
            symbol = Symbol(Role.STATISTIC, name)
            value = f"tensor.{operation}({at})"
            when = bound_when((*before.picked, *before.body), symbol)
            left_out = self._runs(before) != TRUE  # then no chunk leaves anything
            if (operation == "mean" or left_out) and when not in (TRUE, FALSE):
                value = f"{lines.expression(when, 11)} ? {value} : {OF_NOTHING[operation]}"
                tested |= {read.symbol for read in reads(when)}
            if name in wanted:
                found.append(f"const double {names(symbol)} = {value};")
        return found, tested

    def _statistic(self, names: Names, lines: Lines, name: str, real: str) -> str:
        """A number that an earlier stage left."""
        symbol = Symbol(Role.STATISTIC, name)
        value = f"statistics[{self._kernel.statistics.index(name)}]"
        sort = self._sorts[symbol]
        if sort is Sort.BOOL:
            return f"const bool {names(symbol)} = {value} != 0;"
        return f"const {real} {names(symbol)} = {value if real == 'double' else f'{real}({value})'};"


def _paragraphs(*parts: list[str]) -> list[str]:
    """Lines of several parts, set off by empty ones."""
    lines: list[str] = []
    for part in parts:
        lines += ["", *part] if lines and part else part
    return lines


def _shared(one: Pass) -> dict[str, str]:
    """Measures whose terms another one has: of picked elements, or of all."""
    return shared_terms(one.picked) | shared_terms(one.body)


def _statistics(symbols: set[Symbol]) -> set[str]:
    return {symbol.name for symbol in symbols if symbol.role is Role.STATISTIC}


def used_in(body: Iterable[Statement]) -> set[Symbol]:
    return {read.symbol for read in reads_in(tuple(body))}
