"""Every spec × backend × dtype against the oracle, on every number of dimensions, with exact zeros and a changing lr.

float64 and float32 run free for 30 steps; bfloat16 and float16 parameters are put back on the backend's θ after every step, so
that each step is held to its own rounding. Triton runs in its interpreter, on a sample unless `--full` is given; so do the
specs that are not in `tests.references.CORE`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from optc.compiler.interpret import Oracle
from tests.matrix.runners import float64, optimizer_class, rounded_problem, run_compiled
from tests.oracle import program_of, run_program
from tests.problems import PROBLEMS, random_problem
from tests.reference_cases import giving
from tests.references import CASES, SPECS, Case, cases_of, difference, rest

FREE = {torch.float64: 2e-12, torch.float32: 2e-5}
"""Largest |found − oracle|/(1 + |oracle|) over 30 steps. float32: 30 steps of relative error 6e-8 each, times the condition of
the steepest specs (powers of heavy-tailed gradients)."""
ULP = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""Half the distance of neighbours, relative to the number."""
ROUNDED_DOWN = 2.0
"""Triton's interpreter truncates float32 to bfloat16: a whole distance instead of a half."""
NAMES = tuple(PROBLEMS)


def chosen(case: Case, index: int) -> list[str]:
    """Two problems per case, so that all cases of the table together see every problem many times."""
    return [NAMES[index % len(NAMES)], NAMES[(index * 3 + 1) % len(NAMES)]]


PAIRS = [
    pytest.param(c, name, id=f"{c.label} {name}", marks=rest(c.spec) if index or c is not cases_of(c.spec)[-1] else ())
    for i, c in enumerate(CASES)
    for index, name in enumerate(chosen(c, i))
]
SAMPLE = [pytest.param(cases_of(s)[-1], NAMES[i % len(NAMES)], id=f"{s} {NAMES[i % len(NAMES)]}") for i, s in enumerate(SPECS)]
CORE_SAMPLE = [pytest.param(*p.values, id=p.id, marks=rest(s)) for p, s in zip(SAMPLE, SPECS, strict=True)]


def free_run(case: Case, problem_name: str, backend: str, dtype: torch.dtype, layout: str = "contiguous") -> None:
    program, problem = program_of(case.spec), rounded_problem(PROBLEMS[problem_name], dtype)
    expected = run_program(program, case.hypers, problem)
    found = run_compiled(optimizer_class(case.spec), program, backend, dtype, case.hypers, problem, layout)
    assert set(found.states) == set(expected.states)
    assert difference(found, expected) <= FREE[dtype]


def step_by_step(case: Case, problem_name: str, backend: str, dtype: torch.dtype) -> None:
    program, problem = program_of(case.spec), rounded_problem(PROBLEMS[problem_name], dtype)
    entries = {p.name for p in program.procedures[1:]}
    oracle = Oracle(program, case.hypers)
    kept = oracle.new_parameter(problem.theta)
    parameter = torch.nn.Parameter(torch.tensor(problem.theta, dtype=dtype))
    optimizer = optimizer_class(case.spec)([parameter], **case.hypers, backend=backend)
    half = ULP[dtype] * (ROUNDED_DOWN if backend == "triton" else 1.0)
    smallest = torch.finfo(dtype).smallest_normal * half
    for step, lr, g, calls in problem.steps(case.hypers["lr"]):
        optimizer.param_groups[0]["lr"] = lr
        before = kept.theta.copy()
        oracle.step(kept, g, {"lr": lr}, problem.loss(step))
        parameter.grad = torch.tensor(g, dtype=dtype)
        optimizer.step(giving(problem.loss(step)))
        found = float64(parameter)
        # rounding of θ once, and float32 arithmetic on θ and its change
        allowed = half * np.abs(kept.theta) + 1e-5 * (np.abs(kept.theta - before) + np.abs(before)) + smallest
        assert np.all(np.abs(found - kept.theta) <= allowed), f"step {step}"
        kept.theta = found.copy()
        for call in calls:
            if call.entry in entries:
                oracle.enter(call.entry, kept, call.inputs)
                getattr(optimizer, call.entry)(**{n: [torch.tensor(x, dtype=dtype)] for n, x in call.inputs.items()})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("case", "problem"), PAIRS)
def test_pytorch(case: Case, problem: str, dtype: torch.dtype) -> None:
    free_run(case, problem, "torch", dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("case", "problem"), PAIRS)
def test_native(case: Case, problem: str, dtype: torch.dtype) -> None:
    free_run(case, problem, "native", dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize(("case", "problem"), CORE_SAMPLE)
def test_low_precision(case: Case, problem: str, backend: str, dtype: torch.dtype) -> None:
    step_by_step(case, problem, backend, dtype)


@pytest.mark.parametrize(("case", "problem"), SAMPLE)
def test_triton(case: Case, problem: str) -> None:
    free_run(case, problem, "triton", torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("case", "problem"), PAIRS)
def test_triton_all(case: Case, problem: str, dtype: torch.dtype) -> None:
    free_run(case, problem, "triton", dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("case", "problem"), CORE_SAMPLE)
def test_triton_low_precision(case: Case, problem: str, dtype: torch.dtype) -> None:
    step_by_step(case, problem, "triton", dtype)


@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
@pytest.mark.parametrize("layout", ["transposed", "gaps"])
@pytest.mark.parametrize("spec", ["adam/adamw", "momentum/sgd", "adam/adan"])
def test_layouts(spec: str, layout: str, backend: str) -> None:
    free_run(cases_of(spec)[-1], "5x7 dense", backend, torch.float32, layout)


@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
@pytest.mark.parametrize("spec", [pytest.param(s, marks=rest(s)) for s in SPECS])
def test_empty(spec: str, backend: str) -> None:
    """An empty parameter beside a full one: no crash, and the full one moves as if it were alone."""
    case = cases_of(spec)[0]
    problem = rounded_problem(random_problem((6,), steps=3), torch.float32)
    expected = run_program(program_of(spec), case.hypers, problem).thetas[-1]
    full = torch.nn.Parameter(torch.tensor(problem.theta, dtype=torch.float32))
    empty = torch.nn.Parameter(torch.zeros(0, 4))
    optimizer: Any = optimizer_class(spec)([full, empty], **case.hypers, backend=backend)
    for t, _, g, calls in problem.steps(case.hypers["lr"]):
        empty.grad, full.grad = torch.zeros(0, 4), torch.tensor(g, dtype=torch.float32)
        optimizer.step(giving(problem.loss(t)))
        assert not calls
    assert np.allclose(float64(full), expected, rtol=FREE[torch.float32], atol=FREE[torch.float32])
