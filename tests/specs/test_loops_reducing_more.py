"""The loops of `reference_loops_reducing_more` agree with the library where it computes the published update."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import pytorch_optimizer as po

from tests import reference_loops_reducing_more as loops
from tests.problems import PROBLEMS, random_problem
from tests.reference_cases import Problem, Trace, difference, run_library
from tests.references_reducing_more import SWATSWithoutFloor

ONE_NUMBER = random_problem((1,), schedule=True)
"""Where there is one number, the cosine of two tensors is the product of their signs, as in the library."""
B = (0.8, 0.95)


def agree(loop: Any, hypers: dict[str, Any], factory: Any, arguments: dict[str, Any], problem: Problem) -> bool:
    """Whether θ and the states of its shape that both have are the same to 1e-12."""
    thetas, states = loop({**arguments, **hypers}, problem)
    states = {key: value for key, value in states.items() if np.shape(value) == problem.theta.shape}
    return difference(Trace(tuple(thetas), states), run_library(factory, arguments, hypers, problem)) <= 1e-12


def test_adatam_agrees_on_one_number() -> None:
    hypers = {"lr": 0.01}
    arguments = {"betas": B, "decay_rate": 0.6, "eps": 1e-3, "weight_decay": 0.3}
    assert agree(loops.adatam, hypers, po.AdaTAM, arguments, ONE_NUMBER)
    assert not agree(loops.adatam, hypers, po.AdaTAM, arguments, PROBLEMS["11 zeros"])


@pytest.mark.parametrize("name", PROBLEMS)
def test_swats_agrees_with_the_tolerance_of_the_library(name: str) -> None:
    hypers, arguments = {"lr": 0.01}, {"betas": B, "eps": 0.3, "weight_decay": 0.1, "nesterov": True}
    thetas, states = loops.swats({**hypers, **arguments, "atol": 1e-8, "rtol": 0.3}, PROBLEMS[name])
    theirs = run_library(SWATSWithoutFloor, arguments, hypers, PROBLEMS[name])
    assert states["learning_rate"] != 0
    assert difference(Trace(tuple(thetas), states), theirs) <= 1e-12


def test_tam_agrees_on_one_number_from_the_second_step() -> None:
    """With a first gradient of 0 it does not matter that the library starts the momentum at it."""
    hypers, arguments = {"lr": 0.01}, {"momentum": 0.8, "decay_rate": 0.6, "eps": 1e-3, "weight_decay": 0.3}
    problem = replace(ONE_NUMBER, gradients=(np.zeros(1), *ONE_NUMBER.gradients[1:]))
    assert agree(loops.tam, hypers, po.TAM, arguments, problem)
    assert not agree(loops.tam, hypers, po.TAM, arguments, ONE_NUMBER)


def test_a2grad_agrees_in_the_first_step() -> None:
    """Nothing adapts yet; the library is an index ahead, so it needs twice the constant for gamma as published."""
    problem = PROBLEMS["5x7 dense"]
    problem = replace(problem, gradients=problem.gradients[:1], lr_factors=problem.lr_factors[:1])
    ours, _ = loops.a2grad({"lr": 0.1}, problem)
    theirs = run_library(po.A2Grad, {"lips": 20.0}, {"lr": 0.1}, problem)
    np.testing.assert_allclose(ours[0], theirs.thetas[0], rtol=0, atol=1e-12)
