"""Runners: one way each of stepping a spec through a problem, so that any two can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import optc
from optc.compiler.interpret import Oracle
from optc.compiler.pipeline import check_source
from optc.dsl.program import Program
from optc.dsl.read import read
from optc.runtime.optimizer import Optimizer
from tests.references import Array, Problem

SPECS = Path(__file__).resolve().parents[2] / "specs"


@cache
def program(spec: str) -> Program:
    """The checked program of `family/name`."""
    return check_source(read(SPECS / f"{spec}.opt"))


@cache
def optimizer_class(spec: str) -> type[Optimizer]:
    """The class that `optc.compile` makes of `family/name`: its text is what `optc build` writes."""
    return optc.compile(SPECS / f"{spec}.opt")


def calls_for(problem: Problem, source: Program, step: int) -> list[tuple[str, Mapping[str, Array]]]:
    """The entry calls after a step, for entries the program has."""
    entries = {p.name for p in source.procedures[1:]}
    return [(c.entry, c.inputs) for c in problem.calls if c.after == step and c.entry in entries]


def run_oracle(source: Program, hypers: Mapping[str, Any], problem: Problem, round_to: torch.dtype | None = None) -> list[Array]:
    """θ after every step in float64; gradients and the start rounded to `round_to` first, as the backend sees them."""
    oracle = Oracle(source, hypers)
    parameter = oracle.new_parameter(rounded(problem.theta, round_to))
    thetas = []
    for step, lr, g, _ in problem.steps(hypers["lr"]):
        oracle.step(parameter, rounded(g, round_to), {"lr": lr})
        for entry, inputs in calls_for(problem, source, step):
            oracle.enter(entry, parameter, {n: rounded(x, round_to) for n, x in inputs.items()})
        thetas.append(np.array(parameter.theta, copy=True))
    return thetas


def run_compiled(
    cls: type[Optimizer],
    source: Program,
    backend: str,
    dtype: torch.dtype,
    hypers: Mapping[str, Any],
    problem: Problem,
    layout: str = "contiguous",
) -> list[NDArray[np.float64]]:
    """θ after every step of a generated class."""
    parameter = torch.nn.Parameter(laid_out(torch.tensor(problem.theta, dtype=dtype), layout))
    optimizer = cls([parameter], **{**hypers, "lr": hypers["lr"] * problem.lr_factors[0]}, backend=backend)
    thetas = []
    for step, lr, g, _ in problem.steps(hypers["lr"]):
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = torch.tensor(g, dtype=dtype)
        optimizer.step()
        for entry, inputs in calls_for(problem, source, step):
            getattr(optimizer, entry)(**{n: [torch.tensor(x, dtype=dtype)] for n, x in inputs.items()})
        thetas.append(parameter.detach().double().contiguous().numpy().copy())
    return thetas


def rounded(array: Array, dtype: torch.dtype | None) -> Array:
    """The array after a trip through a dtype."""
    if dtype is None:
        return array
    result: Array = torch.tensor(array, dtype=torch.float64).to(dtype).double().numpy()
    return result


def laid_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values, contiguous, transposed in memory, or with gaps between the elements."""
    if layout == "transposed" and tensor.ndim > 1:
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "gaps" and tensor.ndim > 0:
        wide = torch.full((*tensor.shape[:-1], tensor.shape[-1] * 2), float("nan"), dtype=tensor.dtype)
        wide[..., ::2] = tensor
        return wide[..., ::2]
    return tensor


def difference(found: list[Array], expected: list[Array]) -> float:
    """The largest `|found − expected|/(1 + |expected|)` over all steps and elements; inf where only one of them is NaN."""
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        with np.errstate(all="ignore"):
            error = np.where(one == other, 0.0, np.abs(one - other) / (1 + np.abs(other)))
        worst = max(worst, float(np.max(np.where(np.isnan(error), np.inf, error), initial=0.0)))
    return worst
