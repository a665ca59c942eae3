"""Several parameters stepped by PyTorch code and by the oracle, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

import optc
from optc.compiler.interpret import Oracle, ParameterState
from optc.compiler.pipeline import check_source
from optc.dsl.program import Program
from optc.dsl.source import Source
from optc.runtime.optimizer import Optimizer
from tests.matrix.runners import float64
from tests.problems import gradients, losses
from tests.reference_cases import giving
from tests.references import Array

SHAPES = ((5, 7), (11,), (), (3, 4, 2), (1, 6), (6, 1))
STEPS = 5
FREE = {torch.float64: 1e-12, torch.float32: 2e-5}
"""Largest |found − oracle|/(1 + |oracle|) over all steps, parameters and states."""


@cache
def program_of(text: str) -> Program:
    return check_source(Source("<text>", text))


@cache
def class_of(text: str) -> Any:
    return optc.compile(text)


def start(shapes: Sequence[tuple[int, ...]], seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=shape)) for shape in shapes]


def slopes(shapes: Sequence[tuple[int, ...]], steps: int = STEPS, seed: int = 1) -> list[list[Array]]:
    """Gradients of each step, a tenth of them zeros."""
    rng = np.random.default_rng(seed)
    per_parameter = [gradients(rng, shape, steps, 0.1) for shape in shapes]
    return [[of[step] for of in per_parameter] for step in range(steps)]


def worst(
    text: str,
    dtype: torch.dtype,
    hypers: Mapping[str, Any] | None = None,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    laid_out: Callable[[Tensor], Tensor] = lambda x: x,
) -> float:
    """The largest |found − oracle|/(1 + |oracle|) over θ and all states, in all steps; both see values rounded to `dtype`."""
    return max(differences(text, dtype, hypers or {}, start(shapes), slopes(shapes), laid_out))


def differences(
    text: str,
    dtype: torch.dtype,
    hypers: Mapping[str, Any],
    thetas: Sequence[Array],
    grads: Sequence[Sequence[Array]],
    laid_out: Callable[[Tensor], Tensor] = lambda x: x,
) -> Iterator[float]:
    program = program_of(text)
    parameters = [torch.nn.Parameter(laid_out(torch.tensor(theta).to(dtype))) for theta in thetas]
    optimizer = class_of(text)(parameters, **hypers, backend="torch")
    oracle = Oracle(program, hypers)
    kept = oracle.new_parameters([float64(p) for p in parameters])
    for of_step, loss in zip(grads, losses(np.random.default_rng(5), len(grads)), strict=True):
        rounded = [torch.tensor(g).to(dtype) for g in of_step]
        for parameter, g in zip(parameters, rounded, strict=True):
            parameter.grad = g.clone()
        optimizer.step(giving(loss))
        oracle.step_together(kept, [float64(g) for g in rounded], loss=loss)
        for parameter, one in zip(parameters, kept, strict=True):
            for found, wanted in _pairs(optimizer, parameter, one, program):
                yield difference(found, wanted)


def _pairs(optimizer: Optimizer, parameter: Tensor, kept: ParameterState, program: Program) -> Iterator[tuple[Array, Any]]:
    """θ, and every state where it is kept."""
    yield float64(parameter), kept.theta
    slot, group = optimizer.state[parameter], optimizer.param_groups[0]
    for state in program.states:
        if state.name in kept.states:
            yield float64(slot[state.key]), kept.states[state.name]
        if state.name in kept.model:
            yield float64(group[state.key]), kept.model[state.name]


def difference(found: Array, wanted: Any) -> float:
    """0 where both are NaN, or the same infinity."""
    wanted = np.asarray(wanted)
    assert found.shape == wanted.shape
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    with np.errstate(all="ignore"):
        apart = np.where(same, 0.0, np.abs(found - wanted) / (1 + np.abs(wanted)))
    return float(np.max(np.where(np.isnan(apart), np.inf, apart), initial=0.0))
