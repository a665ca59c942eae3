"""What a reference case is: problems, traces, how a library or a float64 loop is run, and how traces are compared.

A *runner* has one signature whatever it runs (the oracle, a backend, a library), so any two can be compared on any problem:

    runner(spec, hypers, problem) -> Trace

A trace is θ after every step, and the states at the end under their checkpoint keys, as far as the implementation has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tests.reference_loops import Run

Array: TypeAlias = NDArray[np.float64]
Hypers: TypeAlias = Mapping[str, Any]
Reference: TypeAlias = Callable[[Hypers, "Problem"], "Trace"]
Runner: TypeAlias = Callable[[str, Hypers, "Problem"], "Trace"]

TOLERANCE = 1e-12
_OF_PICKED = {"s", "p0"}
"""Prodigy's states have one dimension, be it of a single entry."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of an entry with its inputs, right after step number `after` (1, 2, …)."""

    after: int
    entry: str
    inputs: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is optimized: a start, a gradient and a factor of lr per step, calls of entries between steps, a loss per step."""

    theta: Array
    gradients: tuple[Array, ...]
    lr_factors: tuple[float, ...]
    calls: tuple[Call, ...] = ()
    losses: tuple[float, ...] = ()

    def loss(self, t: int) -> float:
        """The loss in step `t` (1, 2, …); NaN in a problem without losses, so that nobody takes it for one."""
        return self.losses[t - 1] if self.losses else math.nan

    def steps(self, lr: float) -> Iterator[tuple[int, float, Array, list[Call]]]:
        """For every step: its number from 1, its lr, its gradient, and the calls after it."""
        for t, (g, factor) in enumerate(zip(self.gradients, self.lr_factors, strict=True), start=1):
            yield t, lr * factor, g, [call for call in self.calls if call.after == t]


def giving(loss: Any) -> Callable[[], Any]:
    """A closure that returns this loss."""
    return lambda: loss


@dataclass(frozen=True, slots=True)
class Trace:
    """What an implementation did on a problem: θ after every step, and its states after the last one by checkpoint key."""

    thetas: tuple[Array, ...]
    states: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Case:
    """One configuration of one spec. `hypers` are the generated class's keyword arguments and always hold `lr`."""

    spec: str
    hypers: Hypers
    reference: Reference
    tolerance: float = TOLERANCE

    @property
    def label(self) -> str:
        """`adam/adamw lr=0.01 amsgrad=True`: the test's id."""
        return " ".join([self.spec, *(f"{key}={value}" for key, value in self.hypers.items())])

    def run(self, problem: Problem) -> Trace:
        """What the reference does."""
        return self.reference(self.hypers, problem)


@contextmanager
def float64_by_default() -> Iterator[None]:
    """PyTorch keeps some scalars (NAdam's product, ASGD's step size) in the default dtype, whatever the parameter's."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def run_library(factory: Callable[..., torch.optim.Optimizer], arguments: Hypers, hypers: Hypers, problem: Problem) -> Trace:
    """Runs a `torch.optim.Optimizer` in float64. Every step gets a fresh gradient: some libraries change it in place."""
    thetas: list[Array] = []
    with float64_by_default():
        parameter = torch.nn.Parameter(torch.tensor(problem.theta, dtype=torch.float64))
        first = hypers["lr"] * problem.lr_factors[0]
        optimizer = factory([parameter], **{**arguments, "lr": first})
        for t, lr, g, _ in problem.steps(hypers["lr"]):
            optimizer.param_groups[0]["lr"] = lr
            parameter.grad = torch.tensor(g, dtype=torch.float64)
            optimizer.step(giving(torch.tensor(problem.loss(t))))
            thetas.append(parameter.detach().numpy().copy())
    return Trace(tuple(thetas), library_states(optimizer, parameter))


def library_states(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> dict[str, Array]:
    """The states of a parameter in float64, without the count of steps. One number per tensor has the shape ()."""
    states = {key: value for key, value in optimizer.state[parameter].items() if key != "step" and value is not None}
    found = {key: torch.as_tensor(value).detach().to(torch.float64).numpy().copy() for key, value in states.items()}
    numbers = {key for key, value in found.items() if value.shape == (1,) != parameter.shape} - _OF_PICKED
    return {key: value.reshape(()) if key in numbers else value for key, value in found.items()}


def case(spec: str, factory: Callable[..., Any], library: Hypers | None = None, /, **hypers: Any) -> Case:
    """A case against a library class that takes `library` or, without it, the spec's own keyword arguments."""
    arguments = hypers if library is None else library
    return Case(spec, MappingProxyType(hypers), partial(run_library, factory, MappingProxyType(dict(arguments))))


def loop(spec: str, function: Callable[[Hypers, Problem], Run], /, **hypers: Any) -> Case:
    """A case against one of the float64 loops."""

    def reference(given: Hypers, problem: Problem) -> Trace:
        thetas, states = function(given, problem)
        return Trace(tuple(thetas), {key: np.asarray(value, dtype=np.float64) for key, value in states.items()})

    return Case(spec, MappingProxyType(hypers), reference)


def difference(found: Trace, expected: Trace) -> float:
    """The largest `|found - expected| / (1 + |expected|)` over θ after every step and the states that both have.

    NaN and infinities agree with themselves only; inf where the traces do not match.
    """
    shared = sorted(set(found.states) & set(expected.states))
    left = [*found.thetas, *(found.states[key] for key in shared)]
    right = [*expected.thetas, *(expected.states[key] for key in shared)]
    return max((_distance(a, b) for a, b in zip(left, right, strict=True)), default=0.0)


def _distance(a: Array, b: Array) -> float:
    if np.shape(a) != np.shape(b):
        return float("inf")
    with np.errstate(all="ignore"):
        error = np.abs(a - b) / (1 + np.abs(b))
        same = (a == b) | (np.isnan(a) & np.isnan(b))
    return float(np.max(np.where(same, 0.0, np.where(np.isfinite(error), error, np.inf)), initial=0.0))
