"""Generated classes as runners: one spec, one backend, one dtype, through one problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch

import optc
from optc.dsl.kinds import Extent
from optc.dsl.program import Program
from optc.runtime.optimizer import Optimizer
from tests.oracle import spec_path
from tests.reference_cases import giving
from tests.references import Array, Problem, Trace


@cache
def optimizer_class(spec: str) -> type[Optimizer]:
    """The class that `optc.compile` makes of a shipped spec: its text is what `optc build` writes."""
    made: type[Optimizer] = optc.compile(spec_path(spec))
    return made


def run_compiled(
    cls: type[Optimizer],
    program: Program,
    backend: str,
    dtype: torch.dtype,
    hypers: Mapping[str, Any],
    problem: Problem,
    layout: str = "contiguous",
    capturable: bool = False,
) -> Trace:
    """θ after every step, and the states (by the keys of the state dict) after the last."""
    entries = {p.name for p in program.procedures[1:]}
    parameter = torch.nn.Parameter(laid_out(torch.tensor(problem.theta, dtype=dtype), layout))
    given = {**hypers, "lr": hypers["lr"] * problem.lr_factors[0]}
    optimizer = cls([parameter], **given, backend=backend, capturable=capturable)
    thetas = []
    for t, lr, g, calls in problem.steps(hypers["lr"]):
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = torch.tensor(g, dtype=dtype)
        optimizer.step(giving(problem.loss(t)))
        alike = torch.isclose(parameter.grad, torch.tensor(g, dtype=dtype), rtol=0.0, atol=0.0, equal_nan=True)
        assert alike.all(), "the gradient is the caller's"
        for call in calls:
            if call.entry in entries:
                getattr(optimizer, call.entry)(**{n: [torch.tensor(x, dtype=dtype)] for n, x in call.inputs.items()})
        thetas.append(float64(parameter))
    of_model = {s.key for s in program.states if s.extent is Extent.MODEL}
    kept = {k: v for k, v in optimizer.param_groups[0].items() if k in of_model} | dict(optimizer.state[parameter])
    return Trace(tuple(thetas), {s.key: float64(kept[s.key]) for s in program.states if s.key in kept})


def float64(tensor: torch.Tensor) -> Array:
    """A copy as a NumPy array."""
    copy: Array = tensor.detach().double().contiguous().numpy().copy()
    return copy


def rounded(array: Array, dtype: torch.dtype) -> Array:
    """The array after a trip through a dtype."""
    return float64(torch.tensor(array, dtype=torch.float64).to(dtype))


def rounded_problem(problem: Problem, dtype: torch.dtype) -> Problem:
    """The problem as a parameter of that dtype sees it."""
    calls = tuple(replace(c, inputs={n: rounded(x, dtype) for n, x in c.inputs.items()}) for c in problem.calls)
    return replace(
        problem,
        theta=rounded(problem.theta, dtype),
        gradients=tuple(rounded(g, dtype) for g in problem.gradients),
        calls=calls,
    )


def laid_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values, contiguous, transposed in memory, or with gaps between the elements."""
    if layout == "transposed" and tensor.ndim > 1:
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "gaps" and tensor.ndim > 0:
        wide = torch.full((*tensor.shape[:-1], tensor.shape[-1] * 2), float("nan"), dtype=tensor.dtype)
        wide[..., ::2] = tensor
        return wide[..., ::2]
    return tensor
