"""What a step costs: bytes and operations per element, derived from the plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from itertools import product
from typing import TypeAlias

from optc.compiler.conditions import both, either, flag, opposite
from optc.compiler.ir import expressions, statements, walk
from optc.compiler.plan import Pass, Plan, ProcedurePlan, Stream
from optc.compiler.storing import coded_when
from optc.compiler.streams import decide, flag_names, left_in, over_flags, reads_first
from optc.dsl.kinds import PER_ELEMENT, Extent
from optc.dsl.program import DTYPE_BYTES as ITEM_SIZE
from optc.dsl.program import PICK, TRUE, Apply, Branch, Expression, Let, Role, State, Statement, Storage, Store
from optc.dsl.semantics import evaluate_static


@dataclass(frozen=True, slots=True)
class Precision:
    """Dtypes of one batch: of θ, of g (and inputs), of states."""

    theta: str
    gradient: str
    state: str

    def size(self, role: Role) -> int:
        """Bytes of one element of a stream; the numbers of elements are not kept anywhere."""
        if role is Role.ELEMENT:
            return 0
        return ITEM_SIZE[{Role.THETA: self.theta, Role.STATE: self.state}.get(role, self.gradient)]

    def kept(self, storage: Storage | None, coded: bool | None) -> float:
        """Bytes of one element of a state; `coded` is False where it is too small to be kept as codes."""
        return ITEM_SIZE[self.state] if storage is None or (storage.dtype is None and coded is False) else storage.bytes

    def __str__(self) -> str:
        return f"θ {self.theta}, g {self.gradient}, state {self.state}"


PRECISIONS = (
    Precision("float32", "float32", "float32"),
    Precision("bfloat16", "bfloat16", "float32"),
    Precision("float16", "float16", "float32"),
    Precision("float64", "float64", "float64"),
)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Per element of θ, for one variant and precision: bytes read and written by all passes of all phases, and operations.

    What lines on statistics and of the model do is not counted: they have fewer numbers than θ has elements. Operations count
    one for each of + - * / √ min max compare select and for each transcendental function.
    `picked` has the same for every p-th element, on top of what all elements take; it is empty where p is 1.
    """

    bytes_read: float
    bytes_written: float
    operations: int
    passes: int
    picked: Picked

    @property
    def total(self) -> float:
        """Bytes moved, without those of picked elements."""
        return self.bytes_read + self.bytes_written


@dataclass(frozen=True, slots=True)
class Picked:
    """Per picked element, and the hyper p; nothing where `p` is empty."""

    p: str = ""
    bytes_read: float = 0
    bytes_written: float = 0
    operations: int = 0

    def of(self, each: float) -> str:
        """What is on top of a number per element, as text."""
        return f" + {each:g}/{self.p}" if self.p and each else ""


def streams_in(sweep: Pass, variant: dict[str, bool]) -> Iterator[tuple[str, Role, bool, bool]]:
    """(name, role, read, written) of every stream that exists in a variant; host flags take the path that moves most."""
    return _moved(sweep.body, sweep.streams, variant)


def picked_in(sweep: Pass, variant: dict[str, bool]) -> Iterator[tuple[str, Role, bool, bool]]:
    """The same of the code on picked elements, without what the code on all elements moves in the same pass."""
    known = {name: (read, written) for name, _, read, written in streams_in(sweep, variant)}
    for name, role, read, written in _moved(sweep.picked, sweep.picked_streams, variant):
        old = known.get(name, (False, False))
        if (read and not old[0]) or (written and not old[1]):
            yield name, role, read and not old[0], written and not old[1]


def _moved(
    body: tuple[Statement, ...], streams: tuple[Stream, ...], variant: dict[str, bool]
) -> Iterator[tuple[str, Role, bool, bool]]:
    read = reads_first(body, variant)
    written = _written(body, variant)
    for stream in streams:
        if decide(stream.exists, variant) is not False and stream.name in read | written:
            yield stream.name, stream.role, stream.name in read, stream.name in written


MOST_FLAGS = 8
"""Static flags of a pass whose every assignment is looked at by `read_if`."""


def read_if(sweep: Pass, stream: str, static_flags: tuple[str, ...]) -> Expression:
    """The condition over static flags under which a pass reads a stream at all; TRUE where that is too much to find out."""
    flags, given = _read_by_variant(sweep, static_flags)
    reading = [values for values, streams in given if stream in streams]
    if len(reading) in (0, len(given)):
        return TRUE
    deciding = [at for at in range(len(flags)) if any((*v[:at], not v[at], *v[at + 1 :]) not in reading for v in reading)]
    names = [flags[at] for at in deciding]
    with_reads = {tuple(values[at] for at in deciding) for values in reading}
    cases = list(product((False, True), repeat=len(deciding)))
    if 2 * len(with_reads) <= len(cases):
        return _any_of(names, [c for c in cases if c in with_reads])
    return opposite(_any_of(names, [c for c in cases if c not in with_reads]))


_Read: TypeAlias = tuple[tuple[bool, ...], frozenset[str]]
"""Values of static flags, and the streams that are read with these."""


@lru_cache(maxsize=1)  # the streams of one pass are asked for one after the other
def _read_by_variant(sweep: Pass, static_flags: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[_Read, ...]]:
    """The static flags of a pass, and what it reads with all their values; nothing where these are too many to try."""
    bodies = sweep.body, sweep.picked
    flags = tuple(sorted({n for body in bodies for e in expressions(body) for n in flag_names(e)} & set(static_flags)))
    if len(flags) > MOST_FLAGS:
        return flags, ()
    each = product((False, True), repeat=len(flags))

    def read(variant: dict[str, bool]) -> frozenset[str]:
        return frozenset().union(*(reads_first(body, variant) for body in bodies))

    return flags, tuple((v, read(dict(zip(flags, v, strict=True)))) for v in each)


def _any_of(flags: list[str], cases: list[tuple[bool, ...]]) -> Expression:
    """Whether the flags have the values of one of the cases."""
    each = [[flag(f) if on else opposite(flag(f)) for f, on in zip(flags, case, strict=True)] for case in cases]
    return reduce(either, (reduce(both, literals) for literals in each))


def traffic(procedure: ProcedurePlan, variant: dict[str, bool], precision: Precision) -> Traffic:
    """The cost of one procedure in one variant."""
    of_all: list[float] = [0, 0, 0]
    of_picked: list[float] = [0, 0, 0]
    passes, p = 0, ""
    for kernel in procedure.kernels:
        every = kernel.pick is None or variant[kernel.pick[1]]  # all elements are picked
        p = p if every or kernel.pick is None else kernel.pick[0]
        for sweep in kernel.sweeps:
            if decide(sweep.exists, variant) is False:
                continue
            passes += 1
            if sweep.picked and every:
                sweep = replace(sweep, body=sweep.together, streams=sweep.moves, picked=(), picked_streams=())
            sizes = {s.name: _size(s, variant, precision) for s in sweep.moves}
            for counts, streams, body in (
                (of_all, streams_in(sweep, variant), sweep.body),
                (of_picked, picked_in(sweep, variant), sweep.picked),
            ):
                for name, _, reads, writes in streams:
                    counts[0] += sizes[name] * reads
                    counts[1] += sizes[name] * writes
                counts[2] += _operations(left_in(body, variant))
    operations = int(of_all[2]), int(of_picked[2])
    picked = Picked(p, of_picked[0], of_picked[1], operations[1]) if p else Picked()
    return Traffic(of_all[0], of_all[1], operations[0], passes, picked)


_RESTS = {"split24": 1, "split32": 2, "kahan": 2, "master": 4}
"""Bytes per element of what a parameter of 16 bits lacks."""


def rest_bytes(pair: str | None, precision: Precision) -> int:
    """Those of a parameter of this precision; none where it is kept as it is."""
    low = precision.theta == "bfloat16" or (precision.theta == "float16" and pair in ("kahan", "master"))
    return _RESTS[pair] if pair is not None and low else 0


def _size(stream: Stream, variant: dict[str, bool], precision: Precision) -> float:
    if stream.role is Role.THETA:
        return precision.size(stream.role) + rest_bytes(stream.pair, precision)
    if stream.role is not Role.STATE:
        return precision.size(stream.role)
    return precision.kept(stream.storage, None if stream.coded is None else decide(stream.coded, variant))


def state_bytes(plan: Plan, variant: dict[str, bool], precision: Precision) -> float:
    """Bytes of state per element of θ, of states that have one number for each (see `besides`)."""
    extents = PER_ELEMENT if _picks_all(plan, variant) else {Extent.ELEM}
    states = [(s, coded_when(s)) for s in _states_in(plan, variant) if s.extent in extents]
    coded = (None if when is None else decide(over_flags(when, plan.flags), variant) for _, when in states)
    kept = sum(precision.kept(s.storage, c) for (s, _), c in zip(states, coded, strict=True))
    return kept + rest_bytes(plan.program.pair, precision)


_BESIDES = {Extent.ROW: "rows", Extent.COL: "columns"}


def besides(plan: Plan, variant: dict[str, bool], precision: Precision = PRECISIONS[0]) -> str:
    """What state there is besides `state_bytes`, less than one number per element: `rows and columns`, `8/p`, or nothing."""
    there = [s.extent for s in _states_in(plan, variant)]
    words = [word for extent, word in _BESIDES.items() if extent in there]
    if Extent.PICK in there and not _picks_all(plan, variant):
        words.append(f"{there.count(Extent.PICK) * ITEM_SIZE[precision.state]}/{plan.program.pick}")
    return " and ".join(words)


def _states_in(plan: Plan, variant: dict[str, bool]) -> list[State]:
    return [s for s in plan.program.states if decide(over_flags(s.exists, plan.flags), variant) is not False]


def _picks_all(plan: Plan, variant: dict[str, bool]) -> bool:
    """Whether every element is picked."""
    flags = {k.pick[1] for procedure in plan.procedures for k in procedure.kernels if k.pick is not None}
    return any(variant[flag] for flag in flags)


def variants(plan: Plan) -> Iterator[dict[str, bool]]:
    """Every assignment of the static flags, all-False first."""
    names = [f.name for f in plan.flags]
    for values in product((False, True), repeat=len(names)):
        yield dict(zip(names, values, strict=True))


def default_variant(plan: Plan) -> dict[str, bool]:
    """The variant that the default hypers select."""
    hypers = {n: d for h in plan.program.hypers for n, d in zip(h.names, h.defaults, strict=True)}
    return {f.name: evaluate_static(f.condition, hypers, ndim=2, numel=1 << 20) for f in plan.flags}


def _written(body: tuple[Statement, ...], variant: dict[str, bool]) -> set[str]:
    return {s.target.name for s in statements(left_in(body, variant)) if isinstance(s, Store)}


def _operations(body: tuple[Statement, ...]) -> int:
    count = 0
    for statement in body:
        match statement:
            case Let() | Store():
                count += _count(statement.value)
                if isinstance(statement, Store) and statement.dither is not None:
                    count += _count(statement.dither)
            case Branch(then=then, otherwise=otherwise):
                count += max(_operations(then), _operations(otherwise))
    return count


def _count(expression: Expression) -> int:
    return sum(isinstance(e, Apply) and e.operation not in ("and", "or", "not", PICK) for e in walk(expression))
