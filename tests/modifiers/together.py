"""Several problems as the parameters of one model: by the oracle, and by a class with PyTorch code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from optc.compiler.interpret import Oracle
from optc.dsl.program import Program
from tests.matrix.runners import float64
from tests.reference_cases import Array, Hypers, Problem, Trace


def oracle_together(program: Program, hypers: Hypers, given: Sequence[Problem]) -> list[Trace]:
    """What the oracle does; the model's numbers are among the states of every parameter."""
    oracle = Oracle(program, hypers)
    parameters = oracle.new_parameters([problem.theta for problem in given])
    thetas: list[list[Array]] = [[] for _ in given]
    for steps in zip(*(problem.steps(hypers["lr"]) for problem in given), strict=True):
        oracle.step_together(parameters, [g for _, _, g, _ in steps], [{"lr": lr} for _, lr, _, _ in steps])
        for parameter, kept in zip(parameters, thetas, strict=True):
            kept.append(parameter.theta.copy())
    values = [{**parameter.states, **parameter.model} for parameter in parameters]
    states = [{s.key: np.asarray(of[s.name]) for s in program.states if s.name in of} for of in values]
    return [Trace(tuple(t), s) for t, s in zip(thetas, states, strict=True)]


def run_together(cls: type[torch.optim.Optimizer], program: Program, hypers: Hypers, given: Sequence[Problem]) -> list[Trace]:
    """What a generated class does in float64; the problems share one lr."""
    parameters = [torch.nn.Parameter(torch.tensor(problem.theta, dtype=torch.float64)) for problem in given]
    optimizer = cls(parameters, **hypers, backend="torch")  # type: ignore[call-arg]  # the constructor of a generated class
    thetas: list[list[Array]] = [[] for _ in given]
    for steps in zip(*(problem.steps(hypers["lr"]) for problem in given), strict=True):
        (optimizer.param_groups[0]["lr"],) = {lr for _, lr, _, _ in steps}
        for parameter, (_, _, g, _) in zip(parameters, steps, strict=True):
            parameter.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        for parameter, kept in zip(parameters, thetas, strict=True):
            kept.append(float64(parameter))
    values = [{**optimizer.param_groups[0], **optimizer.state[parameter]} for parameter in parameters]
    states = [{s.key: float64(of[s.key]) for s in program.states if s.key in of} for of in values]
    return [Trace(tuple(t), s) for t, s in zip(thetas, states, strict=True)]
