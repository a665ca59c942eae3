"""Modifiers that no loop of `test_compose_numbers` has: what reads the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import optc
from optc.compiler.compose.expand import expand
from optc.dsl.check import check
from optc.dsl.source import Source
from tests.compiler.test_compose_numbers import SHORT
from tests.matrix.runners import run_compiled
from tests.oracle import run_oracle, run_program
from tests.reference_cases import TOLERANCE, Problem, difference

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
