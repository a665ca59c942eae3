"""Printed forms of the plan and of what it costs, as text and as values for JSON."""

from __future__ import annotations

from collections.abc import Iterator

from optc.compiler.plan import Kernel, Plan, ProcedurePlan
from optc.compiler.show_program import INDENT, show_block, show_expression
from optc.compiler.traffic import PRECISIONS, Precision, default_variant, state_bytes, traffic, variants
from optc.dsl.kinds import Extent
from optc.dsl.program import TRUE
from optc.dsl.source import Source

BANDWIDTHS = {"CPU, 40 GB/s": 40e9, "GPU, 3.35 TB/s": 3.35e12}
"""Examples of memory bandwidth: a desktop CPU, an H100 or H200-class GPU. No step is faster than its bytes over these."""

BILLION = 1e9
MAX_OTHERS = 7
COST_TITLE = "cost of a step per element of θ; on the right ms for 10^9 elements at that memory bandwidth, which nothing beats"


def show_plan(plan: Plan) -> str:
    """Static flags, then of every procedure: the host program, and the passes with their streams and bodies."""
    rows = [f"plan {plan.program.name}"]
    if plan.flags:
        rows += ["static flags (they select a variant)"]
        rows += [f"{INDENT}{f.name} = {show_expression(f.condition)}" for f in plan.flags]
    for procedure in plan.procedures:
        rows += _procedure(procedure, plan.program.source)
    rows += ["", show_cost(plan)]
    return "\n".join(rows)


def _procedure(procedure: ProcedurePlan, source: Source) -> Iterator[str]:
    passes = sum(len(k.sweeps) for k in procedure.kernels)
    yield f"procedure {procedure.name}: {passes} pass{'es' if passes != 1 else ''} over memory"
    yield "  host program, float64, once a step"
    yield from (INDENT + row for row in show_block(procedure.host.body, source, typed=False))
    host = procedure.host
    for title, names in (("scalars", host.scalars), ("flags", host.flags), ("carried", host.carried)):
        if names:
            yield f"{INDENT}{title}: {', '.join(names)}"
    for kernel in procedure.kernels:
        yield from _kernel(kernel, source)


def _kernel(kernel: Kernel, source: Source) -> Iterator[str]:
    yield f"  kernel {kernel.name}"
    for title, names in (("scalars", kernel.scalars), ("static flags", kernel.static_flags), ("flags", kernel.host_flags)):
        if names:
            yield f"{INDENT}{title}: {', '.join(names)}"
    if kernel.statistics:
        yield f"{INDENT}kept per tensor from pass to pass: {', '.join(kernel.statistics)}"
    for stream in kernel.streams:
        if stream.extent is Extent.TENSOR:
            yield f"{INDENT}{stream.name:<12} one number per tensor"
    for index, sweep in enumerate(kernel.sweeps, 1):
        if sweep.prepare:
            yield f"  per tensor, before pass {index}, float64"
            yield from (INDENT + row for row in show_block(sweep.prepare, source, typed=False))
        yield f"  pass {index} over memory"
        for stream in sweep.streams:
            does = " ".join(word for word, true in (("reads", stream.reads), ("writes", stream.writes)) if true)
            where = "" if stream.exists == TRUE else f"  if {show_expression(stream.exists)}"
            yield f"{INDENT}{stream.name:<12} {stream.role.value:<9} {does}{where}"
        yield from (INDENT + row for row in show_block(sweep.body, source, typed=False))
    if kernel.finish:
        yield "  per tensor, after the last pass, float64"
        yield from (INDENT + row for row in show_block(kernel.finish, source, typed=False))


def _kernel_json(kernel: Kernel, source: Source) -> dict[str, object]:
    return {
        "name": kernel.name,
        "scalars": list(kernel.scalars),
        "static_flags": list(kernel.static_flags),
        "host_flags": list(kernel.host_flags),
        "statistics": list(kernel.statistics),
        "numbers": [s.name for s in kernel.streams if s.extent is Extent.TENSOR],
        "passes": [
            {
                "prepare": list(show_block(sweep.prepare, source, typed=False)),
                "needs": list(sweep.needs),
                "measures": dict(sweep.measures),
                "streams": [
                    {
                        "name": s.name,
                        "role": s.role.value,
                        "reads": s.reads,
                        "writes": s.writes,
                        "exists": show_expression(s.exists),
                    }
                    for s in sweep.streams
                ],
                "body": list(show_block(sweep.body, source, typed=False)),
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
                "kernels": [_kernel_json(k, source) for k in p.kernels],
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
                        "passes": cost.passes,
                        "state_bytes": state_bytes(plan, variant, precision),
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
    numbers = [cost.passes, cost.bytes_read, cost.bytes_written, cost.operations, state_bytes(plan, variant, precision)]
    return [precision.theta, precision.gradient, precision.state, *map(str, numbers), *floors]


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        yield INDENT + "  ".join(cells).rstrip()
