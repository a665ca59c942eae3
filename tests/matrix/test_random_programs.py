"""Random programs run on every backend and agree with the oracle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

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
from tests.reference_cases import giving

STEPS = 4
TOLERANCE = 1e-9
"""float64 arithmetic in another order, through four steps of mild non-linearities."""


ONE = ((3, 5),)
SEVERAL = ((3, 5), (4,), (2, 3, 4))

Numbers: TypeAlias = dict[str, np.ndarray]


def run_both(
    text: str, backend: str, hypers: dict[str, float | bool], seed: int, shapes: tuple[tuple[int, ...], ...]
) -> Iterator[tuple[Numbers, Numbers]]:
    """What the oracle and an optimizer have after every step: θ and the states of all parameters, and those of the model."""
    rng = np.random.default_rng(seed)
    start = [rng.normal(size=shape) for shape in shapes]
    program = check_source(Source("<text>", text))
    given_hypers = {k: v for k, v in hypers.items() if any(h.key == k for h in program.hypers)}
    oracle = Oracle(program, given_hypers)
    kept = oracle.new_parameters(start)
    parameters = [torch.nn.Parameter(torch.tensor(theta, dtype=torch.float64)) for theta in start]
    optimizer = optc.compile(text)(parameters, **given_hypers, backend=backend)
    for step in range(STEPS):
        gradients = [rng.normal(size=shape) for shape in shapes]
        loss = float(rng.normal())
        oracle.step_together(kept, gradients, loss=loss)
        for parameter, g in zip(parameters, gradients, strict=True):
            parameter.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step(giving(torch.tensor(loss, dtype=torch.float64, requires_grad=True) if step % 2 else loss))
        keys = {s.name: s.key for s in program.states if not s.host}
        expected = {name: np.array(value) for name, value in kept[0].model.items()}
        found = {name: np.array(float(optimizer.param_groups[0][keys[name]])) for name in expected}
        for number, (one, parameter) in enumerate(zip(kept, parameters, strict=True)):
            state = optimizer.state[parameter]
            expected |= {f"theta {number}": one.theta.copy()}
            expected |= {f"{n} {number}": np.array(v) for n, v in one.states.items() if n in keys}
            found |= {f"theta {number}": parameter.detach().numpy().copy()}
            found |= {f"{n} {number}": state[keys[n]].double().numpy().copy() for n in one.states if n in keys}
        yield expected, found


def compare(text: str, backend: str, flag: bool, seed: int, shapes: tuple[tuple[int, ...], ...] = ONE) -> None:
    hypers = {"lr": 0.05, "h1": 0.8, "h2": 0.3, "flag": flag, "h3": 0.3 + 0.2 * (seed % 2), "shared_flag": seed % 3 > 0}
    hypers["p"] = (1, 2, 3, 7, 100)[seed % 5]
    for expected, found in run_both(text, backend, hypers, seed, shapes):
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name].reshape(value.shape), value, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


def bounded(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


MEASURED_BEFORE_ROWS = """
optimizer Random:
    hyper: lr = 0.1 in [0, inf)
    state:
        s = 0.5 per tensor
        if ndim >= 2: R = 0 per row
        else: V = 0.5
    step:
        s <- 0.5*s + 0.1*tanh(mean(g)) + 0.01*norm(g)
        if ndim >= 2:
            R <- 0.5*R + 0.1*s
            y = R
        else:
            V <- 0.5*V + 0.1*g
            y = V
        θ <- θ - lr*(g*tanh(s) + y)
"""
"""A pass that measures tensors alone, before a stage on rows."""

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


NAMED_BY_SOME = """
optimizer Random:
    hyper: lr = 0.1 in [0, inf); flag = false; h3 = 0.5 shared in [0, 1)
    state:
        w = 0 per model
        if flag: a = θ
    step:
        w <- tanh(total(sum(g)))
        x = θ
        if flag:
            close = |w| < h3 or loss > 1
            part = 0.5*w
            x = where(close, x + part, a)
            a <- where(close, a, x)
        θ <- x - lr*g
"""


@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
@pytest.mark.parametrize("flag", [False, True])
def test_numbers_of_the_model_that_some_groups_only_name(flag: bool, backend: str) -> None:
    compare(NAMED_BY_SOME, backend, flag, 3, SEVERAL)


@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
def test_tensors_measured_before_rows(backend: str) -> None:
    compare(MEASURED_BEFORE_ROWS, backend, False, 0, SEVERAL)


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


@pytest.mark.parametrize(("backend", "examples"), [("torch", 20), ("native", 8), ("triton", 4)])
@pytest.mark.parametrize("kinds", ["model", "rows", "picking", "picking reducing", "picking model"])
def test_model_rows_and_picked_elements(kinds: str, backend: str, examples: int) -> None:
    run_many(backend, dict.fromkeys(kinds.split(), True), examples, SEVERAL)


def run_many(backend: str, options: dict[str, bool], examples: int, shapes: tuple[tuple[int, ...], ...]) -> None:
    @given(specs(**options), st.booleans(), st.integers(0, 1000))
    @bounded(examples)
    def run(text: str, flag: bool, seed: int) -> None:
        compare(text, backend, flag, seed, shapes)

    run()


LENGTHS = [1, 2, 3, 5, 7, 9, 13, 31, 6]
"""Of tensors that are, one behind the other, a tensor of their sum: no vectors, parts of one, several and a rest."""


@given(specs().filter(lambda text: "seed" not in text), st.booleans(), st.integers(0, 1000))
@bounded(25)
def test_an_element_has_the_same_bits_in_any_place(text: str, flag: bool, seed: int) -> None:
    many = optc.compile(text)
    hypers = {"lr": 0.05, "h1": 0.8, "h2": 0.3, "flag": flag}
    given_hypers = {key: value for key, value in hypers.items() if key in many.schema.defaults}
    random = torch.Generator().manual_seed(seed)
    start = torch.randn(sum(LENGTHS), generator=random)
    whole = torch.nn.Parameter(start.clone())
    parts = [torch.nn.Parameter(part.clone()) for part in torch.split(start, LENGTHS)]
    optimizers = [many([whole], **given_hypers, backend="native"), many(parts, **given_hypers, backend="native")]
    for _ in range(STEPS):
        whole.grad = torch.randn(sum(LENGTHS), generator=random)
        for part, gradient in zip(parts, torch.split(whole.grad, LENGTHS), strict=True):
            part.grad = gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
        together = torch.cat([part.detach() for part in parts])
        assert torch.equal(whole.detach().view(torch.int32), together.view(torch.int32))


MANY: tuple[dict[str, bool], ...] = ({}, {"reducing": True}, {"model": True}, {"rows": True}, {"model": True, "rows": True})
MANY += ({"picking": True}, {"picking": True, "reducing": True}, {"picking": True, "model": True})


@pytest.mark.slow
@pytest.mark.parametrize("options", MANY, ids=lambda options: " and ".join(options) or "elementwise")
@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
def test_many(backend: str, options: dict[str, bool]) -> None:
    run_many(backend, options, 1000, SEVERAL if {"model", "rows", "picking"} & options.keys() else ONE)
