"""Random programs run on every backend and agree with the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import optc
from optc.compiler.interpret import Oracle
from optc.compiler.pipeline import check_source
from optc.dsl.source import Source
from tests.matrix.random_programs import specs

STEPS = 4
TOLERANCE = 1e-9
"""float64 arithmetic in another order, through four steps of mild non-linearities."""


def thetas_of(text: str, backend: str, hypers: dict[str, float | bool], seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    start = rng.normal(size=(3, 5))
    program = check_source(Source("<text>", text))
    given_hypers = {k: v for k, v in hypers.items() if any(h.key == k for h in program.hypers)}
    oracle = Oracle(program, given_hypers)
    kept = oracle.new_parameter(start)
    parameter = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = optc.compile(text)([parameter], **given_hypers, backend=backend)
    expected, found = [], []
    for _ in range(STEPS):
        g = rng.normal(size=start.shape)
        oracle.step(kept, g)
        parameter.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        expected.append(np.array(kept.theta, copy=True))
        found.append(parameter.detach().numpy().copy())
        for state in program.states:
            if not state.host:
                expected.append(np.array(kept.states[state.name], copy=True))
                found.append(optimizer.state[parameter][state.key].double().numpy().copy())
    return expected, found


def compare(text: str, backend: str, flag: bool, seed: int) -> None:
    expected, found = thetas_of(text, backend, {"lr": 0.05, "h1": 0.8, "h2": 0.3, "flag": flag}, seed)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=TOLERANCE, atol=TOLERANCE)


def bounded(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


CARRIED_READ_IN_A_BRANCH = """
optimizer Random:
    hyper: lr = 0.1 in [0, inf)
    state: k = 1 per tensor; a = 0
    step:
        k <- k*0.5
        if t > 1: a <- a + k*g
        θ <- θ - lr*(g + a)
"""


@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
def test_carried_scalar_that_only_one_branch_reads(backend: str) -> None:
    compare(CARRIED_READ_IN_A_BRANCH, backend, False, 0)


@given(specs(), st.booleans(), st.integers(0, 1000))
@bounded(80)
def test_pytorch(text: str, flag: bool, seed: int) -> None:
    compare(text, "torch", flag, seed)


@given(specs(), st.booleans(), st.integers(0, 1000))
@bounded(40)
def test_native(text: str, flag: bool, seed: int) -> None:
    compare(text, "native", flag, seed)


@given(specs(), st.booleans(), st.integers(0, 1000))
@bounded(40)
def test_triton(text: str, flag: bool, seed: int) -> None:
    compare(text, "triton", flag, seed)


@given(specs(reducing=True), st.booleans(), st.integers(0, 1000))
@bounded(60)
def test_pytorch_that_reduces(text: str, flag: bool, seed: int) -> None:
    compare(text, "torch", flag, seed)


@given(specs(reducing=True), st.booleans(), st.integers(0, 1000))
@bounded(30)
def test_native_that_reduces(text: str, flag: bool, seed: int) -> None:
    compare(text, "native", flag, seed)


@given(specs(reducing=True), st.booleans(), st.integers(0, 1000))
@bounded(25)
def test_triton_that_reduces(text: str, flag: bool, seed: int) -> None:
    compare(text, "triton", flag, seed)


@pytest.mark.slow
@pytest.mark.parametrize("reducing", [False, True], ids=["elementwise", "reducing"])
@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
def test_many(backend: str, reducing: bool) -> None:
    @given(specs(reducing=reducing), st.booleans(), st.integers(0, 1000))
    @bounded(1000)
    def run(text: str, flag: bool, seed: int) -> None:
        compare(text, backend, flag, seed)

    run()
