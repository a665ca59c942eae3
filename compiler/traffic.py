"""What a step costs: bytes and operations per element, derived from the plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from optc.compiler.ir import walk
from optc.compiler.plan import Kernel, Plan, ProcedurePlan
from optc.compiler.schedule import decide, over_flags, reads_first
from optc.dsl.program import Apply, Branch, Expression, Let, Role, Statement, Store
from optc.dsl.semantics import evaluate_static

ITEM_SIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Precision:
    """Dtypes of one batch: of θ, of g (and inputs), of states."""

    theta: str
    gradient: str
    state: str

    def size(self, role: Role) -> int:
        """Bytes of one element of a stream."""
        return ITEM_SIZE[{Role.THETA: self.theta, Role.STATE: self.state}.get(role, self.gradient)]

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
    """Per element of θ, for one variant and precision: bytes read and written by all passes, operations, bytes of state.

    Operations count one for each of + - * / √ min max compare select and for each transcendental function.
    """

    bytes_read: int
    bytes_written: int
    operations: int
    passes: int

    @property
    def total(self) -> int:
        """Bytes moved."""
        return self.bytes_read + self.bytes_written


def streams_in(kernel: Kernel, variant: dict[str, bool]) -> Iterator[tuple[str, Role, bool, bool]]:
    """(name, role, read, written) of every stream that exists in a variant; host flags take the path that moves most."""
    read = reads_first(kernel.body, variant)
    written = _written(kernel.body, variant)
    for stream in kernel.streams:
        if decide(stream.exists, variant) is not False and stream.name in read | written:
            yield stream.name, stream.role, stream.name in read, stream.name in written


def traffic(procedure: ProcedurePlan, variant: dict[str, bool], precision: Precision) -> Traffic:
    """The cost of one procedure in one variant."""
    read = written = operations = 0
    for kernel in procedure.kernels:
        for _, role, reads, writes in streams_in(kernel, variant):
            read += precision.size(role) * reads
            written += precision.size(role) * writes
        operations += _operations(kernel.body, variant)
    return Traffic(read, written, operations, len(procedure.kernels))


def state_bytes(plan: Plan, variant: dict[str, bool], precision: Precision) -> int:
    """Bytes of state per element of θ."""
    return sum(
        ITEM_SIZE[precision.state]
        for s in plan.program.states
        if not s.host and decide(over_flags(s.exists, plan.flags), variant) is not False
    )


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
    written: set[str] = set()
    for statement in _paths(body, variant):
        if isinstance(statement, Store):
            written.add(statement.target.name)
    return written


def _paths(body: tuple[Statement, ...], variant: dict[str, bool]) -> Iterator[Let | Store]:
    for statement in body:
        match statement:
            case Let() | Store():
                yield statement
            case Branch():
                decided = decide(statement.condition, variant)
                if decided is not False:
                    yield from _paths(statement.then, variant)
                if decided is not True:
                    yield from _paths(statement.otherwise, variant)


def _operations(body: tuple[Statement, ...], variant: dict[str, bool]) -> int:
    count = 0
    for statement in body:
        match statement:
            case Let() | Store():
                count += _count(statement.value, variant)
            case Branch():
                sides = [_operations(b, variant) for b in (statement.then, statement.otherwise)]
                decided = decide(statement.condition, variant)
                count += max(sides) if decided is None else sides[0 if decided else 1]
    return count


def _count(expression: Expression, variant: dict[str, bool]) -> int:
    return sum(isinstance(e, Apply) and e.operation not in ("and", "or", "not") for e in walk(expression))
