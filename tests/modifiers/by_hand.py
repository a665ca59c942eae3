"""Lion and ADOPT with two modifiers as a loop in float64, written from the papers and the order of the stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tests.compiler.test_compose_numbers import after, before, constrained, norm
from tests.reference_cases import Array, Problem, Trace

BETAS, EPS = (0.8, 0.95), 1e-3
STAGES = {
    **dict.fromkeys(("agc", "clip_value", "clip_norm"), 0),
    **dict.fromkeys(("orthograd", "mars", "grokfast", "centralize", "gradient_noise"), 1),
    "l2": 2,
}
"""What changes the gradient of one parameter, and when; within a number, from left to right."""


def masked(u: Array, g: Array) -> Array:
    """The cautious direction."""
    keep = u * g > 0
    return np.where(keep, u, 0.0) * (u.size / (np.sum(keep) + 1))


def mixed(pair: tuple[str, str], m: Array, n: Array, t: int, kept: dict[str, Array]) -> Array:
    """ADOPT's numerator, m, with what acts on it from left to right; n is what m averages."""
    for name in pair:
        if name == "nesterov":  # m is not debiased, which the share of n is
            m = BETAS[0] * m + (1 - BETAS[0]) / (1 - BETAS[0] ** t) * n
        if name == "ademamix":
            kept["slow"] = 0.98 * kept.get("slow", np.zeros_like(n)) + 0.02 * n
            m = m + 2.0 * kept["slow"]
    return np.sign(n) * np.abs(m) if "grams" in pair else m


TOGETHER = {"clip_global_norm", "clip_group_norm"}
"""What looks at all gradients of a step."""


def clipped_together(given: Sequence[Problem]) -> list[Problem]:
    """With the norm of all gradients of a step bounded."""
    together = [np.concatenate([g.ravel() for g in of_step]) for of_step in zip(*(p.gradients for p in given), strict=True)]
    factors = [min(1.0, 0.7 / (norm(g) + 1e-6)) for g in together]
    return [replace(p, gradients=tuple(f * g for f, g in zip(factors, p.gradients, strict=True))) for p in given]


def by_hand(base: str, pair: tuple[str, str], given: Sequence[Problem], lr: float) -> list[Trace]:
    """The base with modifiers of those names, with the arguments of `WRITTEN` of the test of compositions, on one model."""
    if TOGETHER & set(pair):  # the first stage; the model is one group
        given = clipped_together(given)
    return [one_by_hand(base, pair, problem, lr, number) for number, problem in enumerate(given)]


def one_by_hand(base: str, pair: tuple[str, str], problem: Problem, lr: float, number: int) -> Trace:
    """One parameter; `number` is its place in the model."""
    theta, m, v = problem.theta.copy(), np.zeros_like(problem.theta), np.zeros_like(problem.theta)
    slow = average = theta
    kept: dict[str, Array] = {"number": np.array(number)}
    thetas = []
    for t, rate, g, _ in problem.steps(lr):
        for name in sorted((n for n in pair if n in STAGES), key=lambda n: STAGES[n]):
            g = before(name, g, theta, kept)
        if base == "ADOPT" and t == 1:  # the first step only sets v, and ends
            v = g * g
            thetas.append(theta.copy())
            continue
        if base == "ADOPT":
            n = np.clip(g / np.maximum(np.sqrt(v), EPS), -((t - 1) ** 0.25), (t - 1) ** 0.25)
            m, v = BETAS[0] * m + (1 - BETAS[0]) * n, BETAS[1] * v + (1 - BETAS[1]) * g * g
            u = mixed(pair, m, n, t, kept)
        else:
            u = np.sign(BETAS[0] * m + (1 - BETAS[0]) * g)
            m = BETAS[1] * m + (1 - BETAS[1]) * g
        theta = after(set(pair), theta, masked(u, g) if "cautious" in pair else u, rate)
        for name in pair:
            theta = constrained(name, theta, rate)
        for name in pair:
            if name == "lookahead" and t % 3 == 0:
                theta = slow = slow + 0.4 * (theta - slow)
            if name == "weight_ema":
                average = 0.9 * average + 0.1 * theta
        thetas.append(theta.copy())
    states = {"exp_avg": m} | ({"weight_ema_avg": average} if "weight_ema" in pair else {})
    return Trace(tuple(thetas), states | ({"ademamix_slow": kept["slow"]} if "ademamix" in pair else {}))
