"""Every shipped composition, and every modifier on AdamW, computes what its reference computes."""

from __future__ import annotations

import numpy as np
import pytest

from optc.compiler.compose.library import shipped_modifiers
from tests.oracle import SPECS_FOLDER, run_program
from tests.problems import AT_REST, PROBLEMS
from tests.reference_cases import TOLERANCE, Case, Trace, difference
from tests.references_composed import CASES, NOTHING_LEFT, ROWS, SPECS, model_problems, program_of
from tests.specs.test_model_wide import Row, run_model


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_composition_matches_reference(case: Case) -> None:
    for name, problem in {**PROBLEMS, **AT_REST}.items():
        if problem.theta.size == 1 and case.spec in NOTHING_LEFT:
            continue
        with np.errstate(all="ignore"):
            reference = case.run(problem)
        assert difference(run_program(program_of(case.spec), case.hypers, problem), reference) <= case.tolerance, name


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.spec)
def test_composition_of_a_model_matches_reference(row: Row) -> None:
    for name, problem in model_problems(row.spec).items():
        found, expected = run_model(program_of(row.spec), row.groups, problem), row.reference(row.groups, problem)
        for ours, theirs in zip(found.thetas, expected.thetas, strict=True):
            assert difference(Trace(ours, {}), Trace(theirs, {})) <= TOLERANCE, name


def test_every_composition_is_in_the_table() -> None:
    shipped = {f"composed/{path.stem}" for path in (SPECS_FOLDER / "composed").glob("*.opt")}
    assert set(SPECS) == shipped | {f"modifiers/{name}" for name in shipped_modifiers()}
