"""Every spec on models of tensors of every kind: parts are joined, gradients scaled once, numbers of the model shared."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from tests.matrix.models import (
    LARGE,
    SMALL,
    ModelProblem,
    largest_difference,
    model_problem,
    run_model,
    run_model_oracle,
    undefined_where_masked,
)
from tests.matrix.runners import optimizer_class, run_compiled
from tests.oracle import program_of, run_program
from tests.problems import PROBLEMS
from tests.references import CASES, SPECS, Case, cases_of, difference, rest

TOLERANCE = 1e-10
"""float64 arithmetic in another order, over up to 130,000 elements."""

ON_TRITON = ("trust/lamb", "factored/came", "factored/nero", "parameter_free/prodigy")
"""Each with passes, rows, columns or a model's numbers of another kind; the others with `--full`."""

CAPTURED = ("adam/radam", "adam/nadam", "trust/lamb", "factored/adafactor")
"""Conditions on t, a number that is carried, passes and rows: host programs that run on the device."""

SMALL_MODEL = model_problem(SMALL)


@cache
def problem_of(backend: str) -> ModelProblem:
    return model_problem(LARGE[backend])


def follow(case: Case, backend: str, problem: ModelProblem, capturable: bool = False) -> None:
    program = program_of(case.spec)
    found = run_model(optimizer_class(case.spec), program, case.hypers, backend, problem, capturable)
    assert largest_difference(found, run_model_oracle(program, case.hypers, problem)) <= TOLERANCE


def last(spec: str) -> Case:
    return cases_of(spec)[-1]


MARKED = [pytest.param(c, id=c.label, marks=rest(c.spec) if c is last(c.spec) else pytest.mark.slow) for c in CASES]


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("case", MARKED)
def test_a_model_follows_the_oracle(case: Case, backend: str) -> None:
    follow(case, backend, problem_of(backend))


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # NumPy, inside the interpreter
@pytest.mark.parametrize("spec", [pytest.param(s, marks=() if s in ON_TRITON else pytest.mark.slow) for s in SPECS])
def test_a_model_follows_the_oracle_on_triton(spec: str) -> None:
    with undefined_where_masked():
        follow(last(spec), "triton", problem_of("triton"))


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("spec", [pytest.param(s, marks=() if s in CAPTURED else pytest.mark.slow) for s in SPECS])
def test_a_model_whose_steps_are_counted_on_the_device_follows_the_oracle(spec: str) -> None:
    if optimizer_class(spec).schema.procedures[0].triton_scalars is None:
        pytest.skip("numbers of the whole model are not in CUDA graphs")
    case, program, longer = last(spec), program_of(spec), PROBLEMS["11 zeros"]
    with undefined_where_masked():
        follow(case, "triton", SMALL_MODEL, capturable=True)
        found = run_compiled(optimizer_class(spec), program, "triton", torch.float64, case.hypers, longer, capturable=True)
    assert difference(found, run_program(program, case.hypers, longer)) <= TOLERANCE
