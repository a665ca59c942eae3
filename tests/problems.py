"""Problems for comparing implementations, and the published golden values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from tests.references import CASES, Array, Call, Hypers, Problem, Trace

STEPS = 26
HESSIAN_PERIOD = 4


def gradients(rng: np.random.Generator, shape: tuple[int, ...], steps: int, zeros: float) -> tuple[Array, ...]:
    """Heavy-tailed gradients N(0,1)·exp(N(0,1)), a fraction `zeros` of them exactly zero."""
    found = []
    for _ in range(steps):
        g = rng.normal(size=shape) * np.exp(rng.normal(size=shape))
        found.append(np.asarray(np.where(rng.random(shape) < zeros, 0.0, g)))
    return tuple(found)


def random_problem(
    shape: tuple[int, ...], *, zeros: float = 0.0, schedule: bool = False, seed: int = 0, steps: int = STEPS
) -> Problem:
    """A random problem; with `schedule` lr changes every step; entries are called every `HESSIAN_PERIOD` steps."""
    rng = np.random.default_rng([seed, len(shape), int(zeros * 100), schedule])
    theta = np.asarray(rng.normal(size=shape))
    grads = gradients(rng, shape, steps, zeros)
    factors = tuple(float(f) for f in np.exp(0.5 * rng.normal(size=steps))) if schedule else (1.0,) * steps
    calls = tuple(
        Call(after, "update_hessian", {"g_s": gradients(rng, shape, 1, zeros)[0]})
        for after in range(HESSIAN_PERIOD, steps, HESSIAN_PERIOD)
    )
    return Problem(theta, grads, factors, calls, losses(np.random.default_rng([seed, 77]), steps))


def losses(rng: np.random.Generator, steps: int) -> tuple[float, ...]:
    """Positive losses that fall on the whole, with noise and a spike now and then."""
    fall = 3 * np.exp(-np.arange(steps) / steps)
    return tuple(float(x) for x in fall * np.exp(0.3 * rng.normal(size=steps)) * np.where(rng.random(steps) < 0.1, 8.0, 1.0))


PROBLEMS: dict[str, Problem] = {
    f"{'x'.join(map(str, shape)) or 'scalar'} {kind}": random_problem(shape, zeros=zeros, schedule=schedule)
    for shape, kinds in (
        ((5, 7), (("dense", 0.0, False), ("zeros and schedule", 0.4, True))),
        ((11,), (("zeros", 0.4, False),)),
        ((3, 4, 2), (("schedule", 0.0, True),)),
        ((), (("zeros and schedule", 0.4, True),)),
    )
    for kind, zeros, schedule in kinds
}
"""Every number of dimensions with dense gradients or 40 % exact zeros, with a constant lr or one that changes every step."""


def pausing(problem: Problem, still: tuple[int, ...], start: float) -> Problem:
    """The problem from `start` times its start, with gradients of zeros in the steps `still` (from 0)."""
    slopes = tuple(np.zeros_like(g) if step in still else g for step, g in enumerate(problem.gradients))
    return replace(problem, theta=start * problem.theta, gradients=slopes)


def downhill(problem: Problem) -> Problem:
    """The problem with negative gradients only."""
    return replace(problem, gradients=tuple(-np.abs(g) for g in problem.gradients))


AT_REST: dict[str, Problem] = {
    "from zero": pausing(random_problem((4, 3), schedule=True, steps=8), (0, 1, 5), 0.0),
    "vector from zero": pausing(random_problem((6,), schedule=True, steps=8), (0,), 0.0),
    "pauses": pausing(random_problem((5,), steps=8), (0, 4, 5), 1.0),
    "downhill": downhill(random_problem((6,), steps=8)),
    "negative number": pausing(random_problem((), steps=8), (), -1.5),
}
"""Where norms are 0: parameters that start at 0, and steps without any slope, the first one among them; and where all signs are
the same: slopes of negative numbers only, and a number that starts below 0."""


@cache
def expected(case: int, problem: str) -> Trace:
    """What the reference of `CASES[case]` does on a problem of `PROBLEMS`; computed once."""
    return CASES[case].run(PROBLEMS[problem])


@dataclass(frozen=True, slots=True)
class Golden:
    """θ after three steps on the golden problem, to twelve digits."""

    spec: str
    hypers: Hypers
    theta: tuple[float, ...]
    calls: tuple[Call, ...] = ()

    def problem(self) -> Problem:
        """The golden problem: four elements, three steps, lr constant."""
        grads = ((0.1, -0.2, 0.3, -0.4), (-0.3, 0.1, 0.2, 0.05), (0.2, 0.4, -0.1, -0.15))
        return Problem(np.array([0.5, -1.0, 2.0, 0.25]), tuple(np.array(g) for g in grads), (1.0,) * 3, self.calls)


GOLDEN = (
    Golden(
        "adam/adamw",
        {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1},
        (0.434185531756, -0.891654816915, 1.691333959235, 0.461036818177),
    ),
    Golden(
        "adam/simplified_ademamix",
        {"lr": 0.01, "betas": (0.99, 0.95), "alpha": 10.0, "eps": 1e-8, "weight_decay": 0.1},
        (0.438144109626, -1.104933614787, 1.814461557132, 0.435359615692),
    ),
    Golden(
        "adam/adopt",
        {"lr": 0.1, "betas": (0.9, 0.9999), "eps": 1e-6, "weight_decay": 0.1, "decoupled_weight_decay": True},
        (0.497057928850, -1.001442071150, 1.950933425930, 0.246412684584),
    ),
    Golden(
        "second_order/sophia",
        {"lr": 0.1, "betas": (0.965, 0.99), "rho": 0.04, "bs": 100.0, "weight_decay": 0.1},
        (0.454442625000, -0.873289000000, 1.643588000000, 0.539584750000),
        (Call(1, "update_hessian", {"g_s": np.array([0.1, -0.2, 0.3, -0.4])}),),
    ),
    Golden(
        "adam/hn_adam",
        {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "lambda0": 2.5},
        (0.448133979699, -0.880778349530, 1.235124026990, 1.298913485979),
    ),
)
