"""What a page tells of a spec, as values: taken from the nodes, the checked program and the plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from optc.compiler.extents import is_measure
from optc.compiler.ir import statements
from optc.compiler.plan import Pass, Plan, ProcedurePlan
from optc.compiler.show_program import show_expression
from optc.compiler.site.equations import formula, symbol
from optc.compiler.streams import decide, left_in
from optc.compiler.traffic import (
    PRECISIONS,
    Precision,
    besides,
    default_variant,
    picked_in,
    state_bytes,
    streams_in,
    traffic,
    variants,
)
from optc.dsl import nodes
from optc.dsl.kinds import Extent
from optc.dsl.names import pretty
from optc.dsl.program import Apply, Bounds, Hyper, HyperKind, Let, Program, Scalar
from optc.dsl.show import show_expression as show_node

_MOST_OPTIONS = 12
_MEASURES = {"sum": "sums", "mean": "means", "largest": "maxima", "smallest": "minima"}
_ALONG = {Extent.ROW: " of rows", Extent.COL: " of columns", Extent.MATRIX: " of matrices"}
_PLACES = {e: f"one number per {e.value}" for e in Extent}
_PLACES |= {
    Extent.ELEM: "one number per element",
    Extent.COL: "one number per column",
    Extent.MODEL: "one number for the model",
}


@dataclass(frozen=True, slots=True)
class HyperRow:
    """One argument of the constructor."""

    key: str
    symbols: tuple[Markup, ...]
    default: str
    allowed: str
    text: str


@dataclass(frozen=True, slots=True)
class StateRow:
    """What is kept; `bytes` are of float32, per element of the parameter, None for what has fewer numbers than elements."""

    key: str
    symbol: Markup
    start: Markup
    where: Markup | None
    bytes: float | None
    place: str
    storage: str | None


@dataclass(frozen=True, slots=True)
class PassRow:
    """One pass over memory of the default variant. `totals`: whether totals over the model are gathered before it."""

    procedure: str
    number: int
    totals: bool
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    measures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CostRow:
    """Bytes and operations per element of θ of one procedure, for one precision, default hypers.

    `besides`: state with fewer numbers than there are elements, in words.
    """

    procedure: str
    precision: Precision
    passes: int
    read: float
    written: float
    operations: int
    state: float
    besides: str

    @property
    def moved(self) -> float:
        return self.read + self.written


@dataclass(frozen=True, slots=True)
class OptionRow:
    """What a step costs more or less where one static condition is not as the defaults have it (float32)."""

    condition: str
    default: bool
    moved: float
    state: float
    operations: float
    passes: float


def hyper_rows(hypers: Sequence[Hyper]) -> tuple[HyperRow, ...]:
    """The hypers in the order of the constructor."""
    rows: list[HyperRow] = []
    for hyper in hypers:
        shown = hyper.is_tuple or hyper.names != (hyper.key,) or pretty(hyper.key) != hyper.key
        values = [scalar_text(v) for v in hyper.defaults]
        default = f"({', '.join(values)})" if hyper.is_tuple else values[0]
        symbols = tuple(symbol(name) for name in hyper.names) if shown else ()
        rows.append(HyperRow(hyper.key, symbols, default, allowed(hyper), hyper.text or ""))
    return tuple(rows)


def modifier_hyper_rows(modifier: nodes.Modifier) -> tuple[HyperRow, ...]:
    """The hypers of a modifier by the names that they have in an optimizer: its own before theirs, where they have no other."""
    rows: list[HyperRow] = []
    for hyper in modifier.hypers:
        elements: tuple[nodes.Element, ...] = ()
        if isinstance(hyper.default, tuple):
            elements = hyper.default
            default = f"({', '.join(show_node(e.default) for e in elements)})"
        else:
            default = show_node(hyper.default)
        names = tuple(e.name for e in elements) or (hyper.name,)
        key = hyper.outside or f"{modifier.name}_{hyper.name}"
        symbols = () if names == (key,) else tuple(symbol(name) for name in names)
        rows.append(HyperRow(key, symbols, default, _domain(hyper), hyper.text or ""))
    return tuple(rows)


def scalar_text(value: Scalar) -> str:
    """A default as Python writes it."""
    if isinstance(value, float):
        short = f"{value:g}"
        return short.replace("e-0", "e-").replace("e+0", "e") if float(short) == value else repr(value)
    return repr(value) if isinstance(value, str | bool | None) else str(value)


def allowed(hyper: Hyper) -> str:
    """The range or choices of a hyper."""
    if hyper.choices:
        text = ", ".join(f'"{c}"' for c in hyper.choices)
    elif hyper.kind is HyperKind.FLAG:
        text = "True, False"
    else:
        whole = "whole, " if hyper.kind is HyperKind.INTEGER else ""
        text = f"{whole}{_bounds(hyper.bounds)}" if hyper.bounds else whole.removesuffix(", ") or "any number"
    return f"{text} or None" if hyper.optional else text


def _bounds(bounds: Bounds) -> str:
    low = f"{'[' if bounds.low_closed else '('}{bounds.low:g}"
    return f"{low}, {bounds.high:g}{']' if bounds.high_closed else ')'}".replace("inf", "∞")


def _domain(hyper: nodes.Hyper) -> str:
    match hyper.domain:
        case nodes.Choice(values=values):
            return ", ".join(f'"{v}"' for v in values)
        case nodes.Interval() as i:
            low, high = (show_node(e, mathematical=True) for e in (i.low, i.high))
            inside = f"{'[' if i.low_closed else '('}{low}, {high}{']' if i.high_closed else ')'}"
            return f"whole, {inside}" if i.integer else inside
    return "True, False" if isinstance(hyper.default, nodes.Boolean) else "any number"


def state_rows(items: Sequence[nodes.StateItem], program: Program | None, prefix: str = "") -> tuple[StateRow, ...]:
    """The states in the order of the spec. A modifier has no program; `prefix` stands before its names outside."""
    rows: list[StateRow] = []
    for state, where in _states(items, None):
        known = next((s for s in program.states if s.name == state.name), None) if program else None
        host, kept = known is not None and known.host, None if known is None else known.storage
        extent = Extent(state.extent or "elem") if known is None else known.extent
        place = _PLACES[extent] + (", on the host" if host else "")
        rows.append(
            StateRow(
                state.outside or prefix + state.name,
                symbol(state.name),
                formula(state.initial),
                formula(where) if where is not None else None,
                (4 if kept is None else kept.bytes) if extent is Extent.ELEM else None,
                place,
                None if kept is None else kept.name,
            )
        )
    return tuple(rows)


def _states(
    items: Sequence[nodes.StateItem], where: nodes.Expression | None
) -> Iterator[tuple[nodes.State, nodes.Expression | None]]:
    for item in items:
        if isinstance(item, nodes.State):
            yield item, where
        else:
            yield from _states(item.then, _and(where, item.condition))
            yield from _states(item.otherwise, _and(where, nodes.Unary("not", item.condition)))


def _and(first: nodes.Expression | None, second: nodes.Expression) -> nodes.Expression:
    return second if first is None else nodes.Binary("and", first, second)


def pass_rows(plan: Plan) -> tuple[PassRow, ...]:
    """The passes of all procedures, as the defaults have them."""
    return tuple(row for procedure in plan.procedures for row in _passes(procedure, default_variant(plan)))


def _passes(procedure: ProcedurePlan, variant: dict[str, bool]) -> Iterator[PassRow]:
    number, totals = 0, False
    for phase in procedure.phases:
        totals = totals or (phase.model is not None and bool(phase.model.totals))
        for sweep in phase.kernel.sweeps if phase.kernel is not None else ():
            moved = [*streams_in(sweep, variant), *picked_in(sweep, variant)]
            if moved and decide(sweep.exists, variant) is not False:
                number += 1
                reads = tuple(pretty(name) for name, _, read, _ in moved if read)
                writes = tuple(pretty(name) for name, _, _, written in moved if written)
                yield PassRow(procedure.name, number, totals, reads, writes, tuple(dict.fromkeys(_measured(sweep, variant))))
                totals = False


def _measured(sweep: Pass, variant: dict[str, bool]) -> Iterator[str]:
    """What a pass measures in a variant, in words."""
    for line in statements(left_in((*sweep.picked, *sweep.body), variant)):
        if isinstance(line, Let) and is_measure(line) and isinstance(line.value, Apply):
            yield _MEASURES[line.value.operation] + _ALONG.get(line.value.type.extent, "")


def cost_rows(plan: Plan) -> tuple[CostRow, ...]:
    """The default variant, all procedures and precisions; `step` in float32 first."""
    variant = default_variant(plan)
    rows: list[CostRow] = []
    for procedure in plan.procedures:
        for precision in PRECISIONS:
            cost = traffic(procedure, variant, precision)
            kept = state_bytes(plan, variant, precision)
            rows.append(
                CostRow(
                    procedure.name,
                    precision,
                    cost.passes,
                    cost.bytes_read,
                    cost.bytes_written,
                    cost.operations,
                    kept,
                    besides(plan, variant, precision),
                )
            )
    return tuple(rows)


def option_rows(plan: Plan) -> tuple[OptionRow, ...]:
    """What each static flag, turned alone, changes in a step's cost; flags that change nothing are left out."""
    default = default_variant(plan)
    before = _measure(plan, default)
    rows: list[OptionRow] = []
    known = list(variants(plan)) if len(plan.flags) <= _MOST_OPTIONS else []
    for flag in plan.flags:
        turned = {**default, flag.name: not default[flag.name]}
        if turned not in known:
            continue
        after = _measure(plan, turned)
        if after != before:
            change = [new - old for new, old in zip(after, before, strict=True)]
            rows.append(OptionRow(show_expression(flag.condition), default[flag.name], *change))
    return tuple(rows)


def _measure(plan: Plan, variant: dict[str, bool]) -> tuple[float, float, int, int]:
    cost = traffic(plan.procedures[0], variant, PRECISIONS[0])
    return cost.total, state_bytes(plan, variant, PRECISIONS[0]), cost.operations, cost.passes
