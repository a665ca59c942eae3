"""Modifiers that no loop of `test_compose_numbers` has: rectification, and what reads the loss."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_optimizer as po
import torch

import optc
from optc.compiler.compose.expand import expand
from optc.dsl.check import check
from optc.dsl.source import Source
from tests.compiler.test_compose_numbers import NAMES, SHORT, run
from tests.matrix.runners import run_compiled
from tests.oracle import run_oracle, run_program
from tests.problems import PROBLEMS
from tests.reference_cases import TOLERANCE, Problem, Trace, difference, run_library


@pytest.mark.parametrize("problem", NAMES)
def test_rectified_adam_is_radam(problem: str) -> None:
    """Without eps, which RAdam adds elsewhere: 1e-30 keeps 0/0 away."""
    betas = (0.8, 0.9)  # adaptive from the sixth step on
    found = run("Adam(eps = 1e-30) + rectified", PROBLEMS[problem], betas=betas)
    expected = run_library(torch.optim.RAdam, {"betas": betas, "eps": 1e-30}, {"lr": 0.01}, PROBLEMS[problem])
    assert difference(Trace(found.thetas, {}), Trace(expected.thetas, {})) <= TOLERANCE
    skipping = run("Adam(eps = 1e-30) + rectified(threshold = 5.5, skip = true)", PROBLEMS[problem], betas=betas)
    library = {"betas": betas, "eps": 1e-30, "n_sma_threshold": 5.5, "degenerated_to_sgd": False}
    expected = run_library(po.RAdam, library, {"lr": 0.01}, PROBLEMS[problem])
    assert np.array_equal(skipping.thetas[4], PROBLEMS[problem].theta)
    assert not np.array_equal(skipping.thetas[-2], skipping.thetas[-1])
    assert difference(Trace(skipping.thetas, {}), Trace(expected.thetas, {})) <= TOLERANCE


OF_THE_LOSS = """
modifier polyak(most = 1.0 shared in (0, inf)):
    state: best = inf per model
    clip g:
        best <- min(best, loss)
        g = min(most, (loss - best/2)/(total(sum(g^2)) + 1e-8))*g
optimizer Composed = AdamW + polyak(0.1)
"""


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_a_modifier_may_read_the_loss(backend: str) -> None:
    bests = np.minimum.accumulate(SHORT.losses)
    scales = [
        min(0.1, (x - b / 2) / (float(np.sum(g * g)) + 1e-8))
        for x, b, g in zip(SHORT.losses, bests, SHORT.gradients, strict=False)
    ]
    assert min(scales) < 0.1 == max(scales)
    scaled = Problem(SHORT.theta, tuple(s * g for s, g in zip(scales, SHORT.gradients, strict=True)), SHORT.lr_factors)
    expected = run_oracle("adam/adamw", {"lr": 0.01}, scaled)
    expanded = expand(Source("<test>", OF_THE_LOSS))
    program = check(expanded.spec, expanded.source)
    found = run_program(program, {"lr": 0.01}, SHORT)
    assert difference(found, expected) <= TOLERANCE
    assert found.states["polyak_best"] == bests[-1]
    compiled = run_compiled(optc.compile(OF_THE_LOSS), program, backend, torch.float64, {"lr": 0.01}, SHORT)
    assert difference(compiled, found) <= TOLERANCE
