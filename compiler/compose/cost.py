"""What each modifier of a composition costs: the plan with it compared with the plan without it."""

from __future__ import annotations

from dataclasses import replace

from optc.compiler.compose.expand import Expanded, expand_derived
from optc.compiler.pipeline import plan_program
from optc.compiler.plan import Plan
from optc.compiler.traffic import PRECISIONS, default_variant, state_bytes, traffic
from optc.dsl.check import check
from optc.dsl.errors import SpecError
from optc.dsl.source import Source


def show_added_cost(expanded: Expanded) -> str:
    """A row for each modifier: bytes moved, state bytes, operations per element and passes over memory that it adds to a step.

    float32, default hypers. A modifier that the others cannot do without has no row of numbers.
    """
    derived, library = expanded.derived, expanded.library
    if derived is None or library is None:
        return ""
    full = _measures(_plan(expanded))
    rows: list[list[str]] = [["each modifier adds", "moved B", "state B", "ops", "passes"]]
    for number, term in enumerate(derived.modifiers):
        others = replace(derived, modifiers=(*derived.modifiers[:number], *derived.modifiers[number + 1 :]))
        try:
            without = _measures(_plan(expand_derived(others, Source(expanded.file or "<with>", ""), library)))
        except SpecError:
            rows.append([term.name, "the others need it"])
            continue
        rows.append([term.name, *(f"{a - b:+.4g}" if a != b else "0" for a, b in zip(full, without, strict=True))])
    whole = [row for row in rows if len(row) > 2]
    widths = [max(len(row[column]) for row in whole) for column in range(len(rows[0]))]
    lines: list[str] = []
    for row in rows:
        indent = "  " if lines else ""
        rest = [cell.rjust(wide) for cell, wide in zip(row[1:], widths[1:], strict=False)]
        lines.append(f"{indent}{row[0].ljust(widths[0])}  {'  '.join(rest)}" if row in whole else f"{indent}{': '.join(row)}")
    return "\n".join(lines)


def _plan(expanded: Expanded) -> Plan:
    return plan_program(check(expanded.spec, expanded.source))[1]


def _measures(plan: Plan) -> tuple[float, float, int, int]:
    variant, precision = default_variant(plan), PRECISIONS[0]
    cost = traffic(plan.procedures[0], variant, precision)
    return cost.total, state_bytes(plan, variant, precision), cost.operations, cost.passes
