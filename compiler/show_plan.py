"""Printed forms of the plan and of what it costs, as text and as values for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from optc.compiler.conditions import FALSE
from optc.compiler.plan import Kernel, ModelProgram, Plan, ProcedurePlan, Stream
from optc.compiler.show_program import INDENT, show_block, show_expression
from optc.compiler.traffic import PRECISIONS, Precision, besides, default_variant, state_bytes, traffic, variants
from optc.dsl.kinds import PER_ELEMENT, Extent
from optc.dsl.program import TRUE, Program, Statement
from optc.dsl.source import Source

BANDWIDTHS = {"CPU, 40 GB/s": 40e9, "GPU, 3.35 TB/s": 3.35e12}
"""Examples of memory bandwidth: a desktop CPU, an H100 or H200-class GPU. No step is faster than its bytes over these."""

BILLION = 1e9
MAX_OTHERS = 7
COST_TITLE = "cost of a step per element of θ; on the right ms for 10^9 elements at that memory bandwidth, which nothing beats"


def show_plan(plan: Plan) -> str:
    """Static flags, then of every procedure: the host program, and phase by phase what runs for the model, and the passes."""
    rows = [f"plan {plan.program.name}"]
    if plan.flags:
        rows += ["static flags (they select a variant)"]
        rows += [f"{INDENT}{f.name} = {show_expression(f.condition)}" for f in plan.flags]
    rows += show_storages(plan)
    for procedure in plan.procedures:
        rows += _procedure(procedure, plan.program)
    rows += ["", show_cost(plan)]
    return "\n".join(rows)


def _procedure(procedure: ProcedurePlan, program: Program) -> Iterator[str]:
    source = program.source
    passes = sum(sweep.exists != FALSE for k in procedure.kernels for sweep in k.sweeps)
    phases = f" in {len(procedure.phases)} phases" if len(procedure.phases) > 1 else ""
    yield f"procedure {procedure.name}: {passes} pass{'es' if passes != 1 else ''} over memory{phases}"
    yield "  host program, float64, once a step"
    yield from _lines(procedure.host.body, source)
    host = procedure.host
    yield from _named(("scalars", host.scalars), ("flags", host.flags), ("carried", host.carried))
    for phase in procedure.phases:
        if phase.model is not None:
            yield from _model(phase.model, source, program.by_group)
        if phase.kernel is not None:
            yield from _kernel(phase.kernel, source)


def show_storages(plan: Plan) -> Iterator[str]:
    """How states are kept, where that is not in the dtype of the arithmetic."""
    kept = [(s.name, s.storage) for s in plan.program.states if s.storage is not None]
    if kept:
        yield "kept in memory as"
    for name, storage in kept:
        off = f"{100 * storage.error:.2g} %"
        if storage.dtype is not None:
            yield f"{INDENT}{name}: {storage.name}, {storage.bytes:g} bytes per element; one rounding is off by {off} at most"
            continue
        if storage.bits == 1:
            of = f"a bit, {storage.bytes:.4g} bytes per element with its scales"
            yield f"{INDENT}{name}: {storage.name}, {of}; -1 and 1 are kept as they are"
            continue
        if storage.fixed:
            of = f"{storage.bits} bits and a scale of 1: {storage.bytes:.4g} bytes per element"
            off = f"{storage.error:.4g} at most, of numbers up to {max(x for x in storage.levels if x == x):.4g}"
        else:
            of = f"{storage.bits} bits and a scale for {storage.block} numbers: {storage.bytes:.4g} bytes per element"
            off = f"{off} of the largest of these at most"
        yield f"{INDENT}{name}: {storage.name}, {of}; off by {off}"
        if storage.smallest > 1:
            yield f"{INDENT}{' ' * len(name)}  numbers of their own in tensors of less than {storage.smallest} elements"


def _lines(body: tuple[Statement, ...], source: Source) -> Iterator[str]:
    return (INDENT + row for row in show_block(body, source, typed=False))


def _named(*rows: tuple[str, Iterable[str]]) -> Iterator[str]:
    for title, names in rows:
        if text := ", ".join(names):
            yield f"{INDENT}{title}: {text}"


def _model(model: ModelProgram, source: Source, by_group: bool) -> Iterator[str]:
    yield "  of a group, float64, once for its parameters" if by_group else "  of the model, float64, once for all parameters"
    yield from _named(("scalars", model.scalars), ("flags", model.flags), ("states", model.states))
    for total, part in model.totals:
        yield f"{INDENT}{total}: {part} of all tensors, added up"
    if model.loss:
        yield f"{INDENT}loss: what the closure of the step has returned"
    yield from _lines(model.body, source)
    yield from _named(("exports", model.exports), ("carried", model.carried))


def _kernel(kernel: Kernel, source: Source) -> Iterator[str]:
    yield f"  kernel {kernel.name}"
    yield from _named(("scalars", kernel.scalars), ("static flags", kernel.static_flags), ("flags", kernel.host_flags))
    for extent in Extent:
        kept = (n for n, e in zip(kernel.statistics, kernel.extents, strict=True) if e is extent)
        yield from _named((f"kept per {extent.value} from pass to pass", kept))
    yield from _named(("given by kernels before", kernel.given), ("parts of totals", kernel.parts))
    for stream in kernel.streams:
        if stream.extent not in PER_ELEMENT:
            what = "one number per tensor" if stream.extent is Extent.TENSOR else f"one number per {stream.extent.value}"
            yield f"{INDENT}{stream.name:<12} {what}"
    for index, sweep in enumerate(kernel.sweeps, 1):
        if sweep.prepare:
            yield f"  on statistics, before pass {index}, float64"
            yield from _lines(sweep.prepare, source)
        if sweep.exists == FALSE:
            yield "  no pass over memory"
            continue
        yield f"  pass {index} over memory"
        yield from _streams(sweep.streams)
        yield from _lines(sweep.body, source)
        if sweep.picked and kernel.pick is not None:
            yield f"  at every {kernel.pick[0]}-th element, before it"
            yield from _streams(sweep.picked_streams)
            yield from _lines(sweep.picked, source)
    if kernel.finish:
        yield "  on statistics, after the last pass, float64"
        yield from _lines(kernel.finish, source)


def _streams(streams: Iterable[Stream]) -> Iterator[str]:
    for stream in streams:
        does = " ".join(word for word, true in (("reads", stream.reads), ("writes", stream.writes)) if true)
        where = "" if stream.exists == TRUE else f"  if {show_expression(stream.exists)}"
        picked = "  picked" if stream.extent is Extent.PICK else ""
        yield f"{INDENT}{stream.name:<12} {stream.role.value:<9} {does}{picked}{where}"


def _streams_json(streams: Iterable[Stream]) -> list[dict[str, object]]:
    return [
        {"name": s.name, "role": s.role.value, "reads": s.reads, "writes": s.writes, "exists": show_expression(s.exists)}
        for s in streams
    ]


def _model_json(model: ModelProgram, source: Source) -> dict[str, object]:
    return {
        "scalars": list(model.scalars),
        "flags": list(model.flags),
        "totals": dict(model.totals),
        "loss": model.loss,
        "states": list(model.states),
        "body": list(show_block(model.body, source, typed=False)),
        "exports": list(model.exports),
        "carried": list(model.carried),
    }


def _kernel_json(kernel: Kernel, source: Source) -> dict[str, object]:
    return {
        "name": kernel.name,
        "scalars": list(kernel.scalars),
        "static_flags": list(kernel.static_flags),
        "host_flags": list(kernel.host_flags),
        "statistics": {n: e.value for n, e in zip(kernel.statistics, kernel.extents, strict=True)},
        "given": list(kernel.given),
        "leaves": list(kernel.leaves),
        "parts": list(kernel.parts),
        "states_on_statistics": {s.name: s.extent.value for s in kernel.streams if s.extent not in PER_ELEMENT},
        "passes": [
            {
                "prepare": list(show_block(sweep.prepare, source, typed=False)),
                "needs": list(sweep.needs),
                "measures": dict(sweep.measures),
                "exists": show_expression(sweep.exists),
                "streams": _streams_json(sweep.streams),
                "body": list(show_block(sweep.body, source, typed=False)),
                "picked_streams": _streams_json(sweep.picked_streams),
                "picked": list(show_block(sweep.picked, source, typed=False)),
            }
            for sweep in kernel.sweeps
        ],
        "finish": list(show_block(kernel.finish, source, typed=False)),
    }


def plan_json(plan: Plan) -> dict[str, object]:
    """The plan as JSON values; expressions are text."""
    source = plan.program.source
    return {
        "optimizer": plan.program.name,
        "static_flags": {f.name: show_expression(f.condition) for f in plan.flags},
        "procedures": [
            {
                "name": p.name,
                "inputs": list(p.inputs),
                "every": p.every,
                "host": {
                    "body": list(show_block(p.host.body, source, typed=False)),
                    "scalars": list(p.host.scalars),
                    "flags": list(p.host.flags),
                    "carried": list(p.host.carried),
                },
                "phases": [
                    {
                        "model": _model_json(phase.model, source) if phase.model is not None else None,
                        "kernel": _kernel_json(phase.kernel, source) if phase.kernel is not None else None,
                    }
                    for phase in p.phases
                ],
            }
            for p in plan.procedures
        ],
        "cost": cost_json(plan),
    }


# --- cost ---------------------------------------------------------------------------------------------------------------------


def cost_json(plan: Plan) -> list[dict[str, object]]:
    """One row for every procedure, variant and precision. Bytes and operations are per element of θ."""
    default = default_variant(plan)
    rows: list[dict[str, object]] = []
    for procedure in plan.procedures:
        for variant in variants(plan):
            for precision in PRECISIONS:
                cost = traffic(procedure, variant, precision)
                rows.append(
                    {
                        "procedure": procedure.name,
                        "variant": variant,
                        "default": variant == default,
                        "theta": precision.theta,
                        "gradient": precision.gradient,
                        "state": precision.state,
                        "bytes_read": cost.bytes_read,
                        "bytes_written": cost.bytes_written,
                        "operations": cost.operations,
                        "picked": {name: getattr(cost.picked, name) for name in ("bytes_read", "bytes_written", "operations")},
                        "passes": cost.passes,
                        "phases": len(procedure.phases),
                        "state_bytes": state_bytes(plan, variant, precision),
                        "state_besides": besides(plan, variant, precision),
                        "floor_seconds_per_billion": {name: BILLION * cost.total / speed for name, speed in BANDWIDTHS.items()},
                    }
                )
    return rows


def show_cost(plan: Plan) -> str:
    """A table for each procedure and variant: bytes and operations per element, state bytes, and the time no step can beat."""
    default = default_variant(plan)
    others = [v for v in variants(plan) if v != default]
    near = [v for v in others if sum(v[name] != default[name] for name in v) == 1] if len(others) > MAX_OTHERS else others
    rows = [COST_TITLE]
    for procedure in plan.procedures:
        for variant in [default, *near]:
            rows += ["", _label(procedure, variant, default), *_table(plan, procedure, variant)]
    if len(near) < len(others):
        rows += ["", f"{len(others) - len(near)} variants that differ from the default in more than one flag: see --json"]
    return "\n".join(rows)


def show_cost_of_default(plan: Plan) -> str:
    """The table of the variant that the default hypers select."""
    default = default_variant(plan)
    rows = [COST_TITLE]
    for procedure in plan.procedures:
        rows += ["", _label(procedure, default, default), *_table(plan, procedure, default)]
    return "\n".join(rows)


def _label(procedure: ProcedurePlan, variant: dict[str, bool], default: dict[str, bool]) -> str:
    flags = ", ".join(name if value else f"not {name}" for name, value in variant.items())
    return f"{procedure.name}: {flags}{' (default)' if variant == default else ''}" if flags else procedure.name


def _table(plan: Plan, procedure: ProcedurePlan, variant: dict[str, bool]) -> Iterator[str]:
    head = ["θ", "g", "state", "passes", "read B", "written B", "ops", "state B", *BANDWIDTHS]
    return _aligned([head, *(_cells(plan, procedure, variant, p) for p in PRECISIONS)])


def _cells(plan: Plan, procedure: ProcedurePlan, variant: dict[str, bool], precision: Precision) -> list[str]:
    cost = traffic(procedure, variant, precision)
    times = [1e3 * BILLION * cost.total / speed for speed in BANDWIDTHS.values()]
    floors = [f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}" for ms in times]
    state = " + ".join(filter(None, (f"{state_bytes(plan, variant, precision):.4g}", besides(plan, variant, precision))))
    moves = [
        f"{getattr(cost, n):.5g}{cost.picked.of(getattr(cost.picked, n))}"
        for n in ("bytes_read", "bytes_written", "operations")
    ]
    numbers = [cost.passes, *moves, state]
    return [precision.theta, precision.gradient, precision.state, *map(str, numbers), *floors]


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        yield INDENT + "  ".join(cells).rstrip()
