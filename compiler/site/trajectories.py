"""How an optimizer moves over two test functions of two variables, run by the float64 oracle.

The step size is the best of a fixed grid, the noise is drawn from fixed seeds: the same spec gives the same path everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optc.compiler.interpret import Oracle, ParameterState
from optc.dsl.errors import OptcError
from optc.dsl.program import Procedure, Program

Array = npt.NDArray[np.float64]

STEP_SIZES = tuple(float(f"{10 ** (k / 2):.2g}") for k in range(-8, 3))
"""1e-4, 3.2e-4, 1e-3, … 10."""

_LAST = 0.1  # share of the steps whose mean loss is the score
_HOPELESS = 1e12


@dataclass(frozen=True, slots=True)
class Surface:
    """A function of two variables. `noise` is the standard deviation of what is added to each entry of a gradient."""

    slug: str
    title: str
    about: str
    loss: Callable[[Array, Array], Array]
    gradient: Callable[[Array], Array]
    hessian: Callable[[Array], Array]
    start: tuple[float, float]
    minimum: tuple[float, float]
    window: tuple[float, float, float, float]  # left, right, bottom, top
    steps: int
    noise: float = 0.0


@dataclass(frozen=True, slots=True)
class Path:
    """The best run: the points before every step and after the last, and the loss at each (without noise)."""

    lr: float
    points: Array
    losses: Array


def _rosenbrock(x: Array, y: Array) -> Array:
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def _rosenbrock_gradient(p: Array) -> Array:
    x, y = p
    return np.array([-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)])


def _rosenbrock_hessian(p: Array) -> Array:
    x, y = p
    return np.array([[2 - 400 * (y - 3 * x**2), -400 * x], [-400 * x, 200.0]])


_ANGLE = math.radians(30)
_AXES = np.array([[math.cos(_ANGLE), -math.sin(_ANGLE)], [math.sin(_ANGLE), math.cos(_ANGLE)]])
_QUADRATIC: Array = _AXES @ np.diag([1.0, 50.0]) @ _AXES.T


_CENTRE = (1.0, -0.8)  # away from 0, which optimizers that scale their steps by θ's norm reach for nothing


def _quadratic(x: Array, y: Array) -> Array:
    (a, b), (_, d) = _QUADRATIC
    x, y = x - _CENTRE[0], y - _CENTRE[1]
    return np.asarray((a * x**2 + 2 * b * x * y + d * y**2) / 2)


SURFACES = (
    Surface(
        "rosenbrock",
        "Rosenbrock’s valley",
        "(1 − x)² + 100(y − x²)²: a curved valley, steep across and nearly flat along; exact gradients.",
        _rosenbrock,
        _rosenbrock_gradient,
        _rosenbrock_hessian,
        start=(-1.5, 2.0),
        minimum=(1.0, 1.0),
        window=(-2.0, 2.0, -1.0, 3.0),
        steps=300,
    ),
    Surface(
        "quadratic",
        "Noisy quadratic",
        "A quadratic of condition 50, turned by 30°; every gradient entry carries Gaussian noise of standard deviation 5.",
        _quadratic,
        lambda p: _QUADRATIC @ (p - np.array(_CENTRE)),
        lambda _: _QUADRATIC,
        start=(-3.2, 2.6),
        minimum=_CENTRE,
        window=(-4.0, 4.0, -4.0, 4.0),
        steps=200,
        noise=5.0,
    ),
)


def best_path(program: Program, surface: Surface) -> Path | None:
    """The run of all `STEP_SIZES` that ends lowest. None where there is no `lr`, or every run leaves the numbers."""
    if not any(hyper.key == "lr" for hyper in program.hypers) or any(len(p.inputs) != 1 for p in program.procedures[1:]):
        return None
    runs = [run for lr in STEP_SIZES if (run := follow(program, surface, lr)) is not None]
    return min(runs, key=_score, default=None)


def _score(path: Path) -> float:
    return float(np.mean(path.losses[-math.ceil(_LAST * len(path.losses)) :]))


def follow(program: Program, surface: Surface, lr: float) -> Path | None:
    """One run; None where it leaves the numbers, or the spec does not allow this step size."""
    try:
        oracle = Oracle(program, {"lr": lr})
    except OptcError:
        return None
    param = oracle.new_parameter(surface.start)
    noise = np.random.default_rng(1).normal(0, surface.noise, (surface.steps, 2))
    signs = np.random.default_rng(2).choice((-1.0, 1.0), (surface.steps, 2))
    points = [param.theta.copy()]
    with np.errstate(all="ignore"):
        for step in range(surface.steps):
            for entry in program.procedures[1:]:
                if step % (entry.every or 1) == 0:
                    _enter(oracle, entry, param, surface.hessian(param.theta), signs[step])
            gradient, loss = surface.gradient(param.theta) + noise[step], float(surface.loss(*param.theta))
            oracle.step(param, gradient, loss=loss)
            points.append(param.theta.copy())
            if not np.abs(param.theta).max() < _HOPELESS:
                return None
        path = np.array(points)
        losses = surface.loss(path[:, 0], path[:, 1])
    return Path(lr, path, losses) if np.isfinite(losses).all() else None


def _enter(oracle: Oracle, entry: Procedure, param: ParameterState, hessian: Array, signs: Array) -> None:
    """An estimate of the Hessian's diagonal, as the entries of second-order optimizers take it."""
    if oracle.program.name == "SophiaG":  # takes gradients whose squares, times the batch size, are the curvature
        batch = next(h.defaults[0] for h in oracle.program.hypers if h.key == "bs")
        estimate = np.sqrt(np.maximum(np.diag(hessian), 0) / float(batch or 1))
    else:  # Hutchinson's estimate
        estimate = signs * (hessian @ signs)
    oracle.enter(entry.name, param, {entry.inputs[0]: estimate})


def describe(path: Path, surface: Surface) -> str:
    """What a picture of the path shows, for who cannot see it."""
    (left, low), (right, high) = surface.start, path.points[-1]
    turns = sum(float(np.dot(b - a, c - b)) < 0 for a, b, c in zip(path.points, path.points[1:], path.points[2:], strict=False))
    return (
        f"Contour map of {surface.title} with the path from ({left:g}, {low:g}) to ({right:.2g}, {high:.2g}), which turns back "
        f"{turns} times in {surface.steps} steps with lr = {path.lr:g}. Below it the loss at each step: it falls from "
        f"{path.losses[0]:.3g} to {_score(path):.2g}, the mean of the last tenth."
    )
