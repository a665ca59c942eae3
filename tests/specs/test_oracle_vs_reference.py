"""Every shipped spec, in every configuration of the table, computes what its reference computes."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from optc.dsl.program import HyperKind
from tests.oracle import SPECS_FOLDER, WRITTEN_OUT, program_of, run_oracle
from tests.problems import AT_REST, GOLDEN, PROBLEMS, STEPS, Golden, expected
from tests.references import CASES, SPECS, TOLERANCE, Case, Problem, cases_of, difference, run_library

KEPT_OTHERWISE = {"adam/adan": {"prev_grad"}}
"""States that the reference keeps otherwise: Adan's library has the negated gradient, under another key."""


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.label for case in CASES])
def test_oracle_matches_reference(number: int) -> None:
    """θ after every step, and at the end every state: θ alone is blind to, say, ASGD's average."""
    case = CASES[number]
    assert STEPS >= 25
    for name, problem in PROBLEMS.items():
        found, reference = run_oracle(case.spec, case.hypers, problem), expected(number, name)
        assert set(found.states) - set(reference.states) <= KEPT_OTHERWISE.get(case.spec, set())
        assert difference(found, reference) <= case.tolerance, name


def unknown_at_rest(case: Case) -> bool:
    """Where a library differs: DAdaptAdam's does not decay θ before the first slope, AdamS' divides by a mean of 0.

    The authors' Prodigy, which has `slice_p`, does not count the steps before the first slope for its bias correction.
    """
    library = isinstance(case.reference, partial) and case.reference.func is run_library
    decays = case.spec == "parameter_free/dadapt_adam" and case.hypers.get("decoupled_weight_decay", False)
    counts = case.spec == "parameter_free/prodigy" and case.hypers.get("bias_correction", False) and "slice_p" in case.hypers
    return library and (case.spec == "adam/adams" or decays or counts)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_oracle_at_rest_matches_reference(case: Case) -> None:
    for name, problem in AT_REST.items():
        if not unknown_at_rest(case):
            with np.errstate(all="ignore"):
                reference = case.run(problem)
            assert difference(run_oracle(case.spec, case.hypers, problem), reference) <= case.tolerance, name


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.spec)
def test_oracle_matches_golden_values(golden: Golden) -> None:
    found = run_oracle(golden.spec, golden.hypers, golden.problem()).thetas[-1]
    np.testing.assert_allclose(found, golden.theta, rtol=0, atol=1e-12)  # printed to twelve digits


NOT_FINITE = Problem(
    np.array([np.nan, np.inf, -np.inf, 1.0, 2.0]),
    tuple(np.array([1.0, 2.0, -1.0, g, 0.5]) for g in (0.0, 1.0, -2.0, 0.5)),
    (1.0,) * 4,
    losses=(2.0, 1.0, 5.0, 0.5),
)
"""Parameters that are not finite, with finite gradients."""


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.label for case in CASES])
def test_parameters_that_are_not_finite_spread_as_in_the_reference(number: int) -> None:
    """A weight decay of 0 must not read θ: 0·NaN would reach the states."""
    case = CASES[number]
    with np.errstate(all="ignore"):
        theirs = case.run(NOT_FINITE)
    ours = run_oracle(case.spec, case.hypers, NOT_FINITE)
    assert difference(ours, theirs) <= case.tolerance


def test_every_spec_is_in_the_table() -> None:
    files = {str(path.relative_to(SPECS_FOLDER).with_suffix("")) for path in WRITTEN_OUT}
    assert set(SPECS) == files


def test_tolerance_is_never_widened() -> None:
    assert TOLERANCE == 1e-12
    assert all(case.tolerance <= TOLERANCE for case in CASES)


@pytest.mark.parametrize("spec", SPECS)
def test_table_moves_every_hyper(spec: str) -> None:
    """Each hyper of a spec has at least two values in the table: flags both, the others one besides the default."""
    cases = cases_of(spec)
    for hyper in program_of(spec).hypers:
        if hyper.key == "lr":  # every problem with a schedule changes it
            continue
        default = hyper.defaults if hyper.is_tuple else hyper.defaults[0]
        values = {case.hypers.get(hyper.key, default) for case in cases}
        assert len(values) >= 2, f"{hyper.key} is always {default}"
        if hyper.kind is HyperKind.FLAG:
            assert values == {True, False}
