"""A model of tensors of every kind on a backend, beside the oracle: two groups, scaled gradients, one that is missing.

Some tensors are cut into several chunks, tiles or panels, so that what passes leave of each part must be joined; others are
empty, of one number, or have matrices of one row. The gradients are negated and scaled, which the optimizer takes back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from optc.compiler.interpret import Oracle
from optc.dsl.kinds import Extent
from optc.dsl.program import Program
from optc.runtime.optimizer import Optimizer
from tests.matrix.runners import float64
from tests.problems import gradients
from tests.reference_cases import Array, Hypers, Trace, difference, giving

Shape = tuple[int, ...]

SMALL: tuple[Shape, ...] = ((3, 5), (7,), (0, 4), (2, 3, 4), (1, 6), ())
LARGE: dict[str, tuple[Shape, ...]] = {
    "torch": (*SMALL, (40_000,)),  # a sum of more than one block
    "native": (*SMALL, (9001,), (330, 400)),  # three chunks; two tiles
    "triton": (*SMALL, (700,), (3, 130), (130, 3)),  # whole blocks and a rest; two panels, either way
}
"""Shapes for each backend; the interpreter of Triton is too slow for a tensor of two extents."""

SCALE = 8.0
STEPS = 4
MISSING = (2, 1)
"""The step (from 0) in which a parameter has no gradient, and which parameter."""

AT_ZERO, AT_REST = 1, 3
"""A parameter that starts at 0, and one whose first gradient is 0: norms of 0 beside others."""


@dataclass(frozen=True, slots=True)
class ModelProblem:
    """Starts, gradients for every step and inputs of entries; every second parameter is in the second group, of half the lr."""

    thetas: tuple[Array, ...]
    steps: tuple[tuple[Array, ...], ...]
    entries: tuple[Array, ...]

    def lr(self, lr: float, step: int, place: int) -> float:
        """The step size of a parameter in a step."""
        return lr * (1 + 0.25 * step) * (0.5 if place % 2 else 1.0)

    def gradients(self, step: int) -> list[Array | None]:
        """Of all parameters, None where there is none."""
        return [None if (step, place) == MISSING else g for place, g in enumerate(self.steps[step])]

    def loss(self, step: int) -> float:
        """What a closure gives, where one is read: it falls, and rises once."""
        return 3.0 / (1 + step) + 0.5 * (step == 2)


def model_problem(shapes: Sequence[Shape], seed: int = 5) -> ModelProblem:
    """A fifth of the gradients' entries are 0; they drift, so that distances grow. Some norms are 0 at first."""
    rng = np.random.default_rng(seed)
    drift = [np.asarray(rng.normal(size=shape)) for shape in shapes]
    noise = [gradients(rng, shape, STEPS, 0.2) for shape in shapes]
    steps = tuple(tuple(d + of[step] for d, of in zip(drift, noise, strict=True)) for step in range(STEPS))
    starts, entries = ([np.asarray(rng.normal(size=shape)) for shape in shapes] for _ in range(2))
    starts[AT_ZERO], steps[0][AT_REST][...] = 0.0 * starts[AT_ZERO], 0.0
    return ModelProblem(tuple(starts), steps, tuple(entries))


def run_model_oracle(program: Program, hypers: Hypers, problem: ModelProblem) -> list[Trace]:
    """What the oracle does with every parameter; the model's numbers are among the states of each."""
    oracle = Oracle(program, hypers)
    params = oracle.new_parameters(problem.thetas)
    for number, param in enumerate([*params[::2], *params[1::2]]):  # group by group, as `run_model` has them
        param.number = number
    kept: list[list[Array]] = [[] for _ in params]
    for step in range(STEPS):
        there = [(i, g) for i, g in enumerate(problem.gradients(step)) if g is not None]
        given = [{"lr": problem.lr(hypers["lr"], step, i)} for i, _ in there]
        oracle.step_together([params[i] for i, _ in there], [g for _, g in there], given, problem.loss(step))
        if step == 1:
            for entry in program.procedures[1:]:
                for place, (param, value) in enumerate(zip(params, problem.entries, strict=True)):
                    at = {"lr": problem.lr(hypers["lr"], step, place)}
                    oracle.enter(entry.name, param, dict.fromkeys(entry.inputs, value), at)
        for param, thetas in zip(params, kept, strict=True):
            thetas.append(param.theta.copy())
    values = [{**param.states, **param.model} for param in params]
    states = [{s.key: np.asarray(of[s.name]) for s in program.states if s.name in of} for of in values]
    return [Trace(tuple(thetas), of) for thetas, of in zip(kept, states, strict=True)]


def run_model(
    cls: type[Optimizer], program: Program, hypers: Hypers, backend: str, problem: ModelProblem, capturable: bool = False
) -> list[Trace]:
    """What a generated class does in float64, ascending along negated gradients that are scaled as by a GradScaler."""
    parameters = [torch.nn.Parameter(torch.tensor(theta, dtype=torch.float64)) for theta in problem.thetas]
    groups = [{"params": parameters[::2]}, {"params": parameters[1::2]}]
    optimizer: Any = cls(groups, **hypers, backend=backend, capturable=capturable, maximize=True, amp=True)
    kept: list[list[Array]] = [[] for _ in parameters]
    for step in range(STEPS):
        for place, group in enumerate(optimizer.param_groups):
            group["lr"] = problem.lr(hypers["lr"], step, place)
        for parameter, g in zip(parameters, problem.gradients(step), strict=True):
            parameter.grad = None if g is None else torch.tensor(-SCALE * g, dtype=torch.float64)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(SCALE), torch.tensor(0.0)
        optimizer.step(giving(-problem.loss(step)))
        if step == 1:
            for entry in program.procedures[1:]:
                ordered = [*problem.entries[::2], *problem.entries[1::2]]  # group by group
                given = [torch.tensor(value, dtype=torch.float64) for value in ordered]
                getattr(optimizer, entry.name)(**dict.fromkeys(entry.inputs, given))
        for parameter, thetas in zip(parameters, kept, strict=True):
            thetas.append(float64(parameter))
    of_model = {s.key for s in program.states if s.extent is Extent.MODEL}
    shared = {k: v for k, v in optimizer.param_groups[0].items() if k in of_model}
    values = [{**shared, **optimizer.state[parameter]} for parameter in parameters]
    states = [{s.key: float64(torch.as_tensor(of[s.key])) for s in program.states if s.key in of} for of in values]
    return [Trace(tuple(thetas), of) for thetas, of in zip(kept, states, strict=True)]


@contextmanager
def undefined_where_masked() -> Iterator[None]:
    """Loads of Triton's interpreter leave NaN where a mask does not hold, as a GPU may leave anything; without this, 0."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    plain = InterpreterBuilder.create_masked_load

    def load(self: Any, ptrs: Any, mask: Any, other: Any, *rest: Any) -> Any:
        kind = ptrs.get_element_ty()
        if other is None and kind.is_floating() and kind.name != "bf16":
            number = np.float64 if kind.name == "fp64" else np.float32 if kind.name == "fp32" else np.float16
            other = TensorHandle(np.full(ptrs.data.shape, np.nan, number), kind)
        return plain(self, ptrs, mask, other, *rest)

    InterpreterBuilder.create_masked_load = load
    try:
        yield
    finally:
        InterpreterBuilder.create_masked_load = plain


def largest_difference(found: Sequence[Trace], expected: Sequence[Trace]) -> float:
    """Over all parameters; inf where the states are not the same ones."""
    if any(set(a.states) != set(b.states) for a, b in zip(found, expected, strict=True)):
        return float("inf")
    return max(difference(a, b) for a, b in zip(found, expected, strict=True))
