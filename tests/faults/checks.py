"""What the suite holds a spec against, as comparisons that any program can be put through.

The tables and their problems are those of `tests/specs`: the cases of each spec on every problem, at rest, on the shapes that
only specs with rows see, on parameters that are not finite, on the golden values, and on models of two groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np

from optc.dsl.program import Program
from tests import references_composed, references_rows
from tests.oracle import program_of as program_written_out
from tests.oracle import run_program
from tests.problems import AT_REST, GOLDEN, PROBLEMS, Golden
from tests.reference_cases import TOLERANCE, Case, Problem, Trace, difference
from tests.reference_loops_model import ModelTrace
from tests.references import CASES, SPECS
from tests.specs import test_model_wide as model_wide
from tests.specs.test_oracle_vs_reference import NOT_FINITE, unknown_at_rest
from tests.specs.test_rows import SHAPED, UNKNOWN, late_adafactor

ALL_CASES: tuple[Case, ...] = (*CASES, *references_composed.CASES)
ALL_SPECS: tuple[str, ...] = (*SPECS, *references_composed.SPECS)
"""Every shipped spec, compositions and modifiers on AdamW included."""

ROWS = (*model_wide.ROWS, *references_composed.ROWS)
"""Hypers of two groups, and what a model does with them."""

FIRST = ("5x7 zeros and schedule", "11 zeros", "3x4x2 schedule", "5x7 dense", "scalar zeros and schedule")
"""The problems of the table, those that catch most first."""


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison: whether a program leaves its reference, by more than the suite allows."""

    label: str
    leaves: Callable[[Program], bool]


def program_of(spec: str) -> Program:
    """A spec of `ALL_SPECS`, checked."""
    return program_written_out(spec) if spec in SPECS else references_composed.program_of(spec)


@cache
def checks_of(spec: str) -> tuple[Check, ...]:
    """Every comparison that the suite makes with a spec, in the order in which they are cheapest to fail."""
    return tuple(_checks(spec))


def _checks(spec: str) -> Iterator[Check]:
    cases = [(number, case) for number, case in enumerate(ALL_CASES) if case.spec == spec]
    assert set(FIRST) == set(PROBLEMS)
    for name in FIRST:
        for number, case in cases:
            if PROBLEMS[name].theta.size > 1 or spec not in references_composed.NOTHING_LEFT:
                yield Check(f"{case.label} on {name}", partial(_leaves, number, name))
    for number, row in enumerate(ROWS):
        for name in model_wide.PROBLEMS if row.spec == spec else ():
            yield Check(f"model {row.shared} on {name}", partial(_leaves_model, number, name))
    for number, case in cases:
        shaped = [n for n in SHAPED if case in references_rows.CASES and n not in UNKNOWN.get(spec, ())]
        for name in (*shaped, *(AT_REST if not unknown_at_rest(case) else ())):
            yield Check(f"{case.label} on {name}", partial(_leaves, number, name))
        if spec in SPECS:
            yield Check(f"{case.label} on numbers that are not finite", partial(_leaves, number, _NOT_FINITE))
    if spec == "factored/adafactor":
        yield Check("after many steps", lambda program: late_adafactor(program) > TOLERANCE)
    for golden in (g for g in GOLDEN if g.spec == spec):
        yield Check("golden values", partial(_leaves_golden, golden))


_NOT_FINITE = "not finite"
_ON: dict[str, Problem] = {**PROBLEMS, **SHAPED, **AT_REST, _NOT_FINITE: NOT_FINITE}


@cache
def _expected(case: int, problem: str) -> Trace:
    with np.errstate(all="ignore"):
        return ALL_CASES[case].run(_ON[problem])


def _leaves(number: int, name: str, program: Program) -> bool:
    case = ALL_CASES[number]
    return difference(run_program(program, case.hypers, _ON[name]), _expected(number, name)) > case.tolerance


def _leaves_golden(golden: Golden, program: Program) -> bool:
    found = run_program(program, golden.hypers, golden.problem()).thetas[-1]
    return bool(np.max(np.abs(found - golden.theta)) > 1e-12)


@cache
def _expected_model(row: int, problem: str) -> ModelTrace:
    return ROWS[row].reference(ROWS[row].groups, references_composed.model_problems(ROWS[row].spec)[problem])


def _leaves_model(row: int, name: str, program: Program) -> bool:
    expected, problem = _expected_model(row, name), references_composed.model_problems(ROWS[row].spec)[name]
    found = model_wide.run_model(program, ROWS[row].groups, problem)
    known = [{*ours, *expected.model} for ours in expected.states]
    states = tuple({k: v for k, v in ours.items() if k in keys} for ours, keys in zip(found.states, known, strict=True))
    model = {k: v for k, v in found.model.items() if all(k in {*ours, *expected.model} for ours in expected.states)}
    return not model_wide.distance(replace(found, states=states, model=model), expected) <= TOLERANCE
