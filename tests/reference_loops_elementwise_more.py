"""Float64 loops, as in `reference_loops`, for updates that the library computes otherwise than published.

All averages are written `beta*m + (1 - beta)*g`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tests.reference_loops import Hypers, Run

if TYPE_CHECKING:
    from tests.reference_cases import Problem


def mars(hypers: Hypers, problem: Problem) -> Run:
    """MARS-AdamW and MARS-Lion, arXiv:2411.10438, with or without the clip of the corrected gradient's norm.

    The library always clips, and always corrects the first gradient against 0.
    """
    if problem.theta.ndim < 2 and not hypers.get("optimize_1d", True):
        return _vectors_of_mars(hypers, problem)
    beta1, beta2 = hypers.get("betas", (0.95, 0.99))
    eps, decay, gamma = hypers.get("eps", 1e-8), hypers.get("weight_decay", 0.0), hypers.get("gamma", 0.025)
    lion = hypers.get("mars_type", "adamw") == "lion"
    theta, thetas = problem.theta.copy(), []
    last = np.zeros_like(theta) if hypers.get("correct_first", False) else problem.gradients[0]
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        corrected = g + gamma * beta1 / (1 - beta1) * (g - last)
        most, size = hypers.get("clip"), float(np.linalg.norm(corrected.ravel()))
        corrected = corrected * (most / size) if most is not None and size > most else corrected
        m = beta1 * m + (1 - beta1) * corrected
        if lion:
            update = np.sign(m)
        else:
            v = beta2 * v + (1 - beta2) * corrected * corrected
            update = m / ((np.sqrt(v) / math.sqrt(1 - beta2**t) + eps) * (1 - beta1**t))
        theta = theta * (1 - lr * decay) - lr * update
        last = g
        thetas.append(theta.copy())
    return thetas, {"exp_avg": m, "last_grad": last, **({} if lion else {"exp_avg_sq": v})}


def _vectors_of_mars(hypers: Hypers, problem: Problem) -> Run:
    """AdamW with hypers of its own."""
    beta1, beta2 = hypers.get("betas_1d", (0.9, 0.95))
    eps, decay = hypers.get("eps", 1e-8), hypers.get("weight_decay_1d", 0.1)
    theta, thetas = problem.theta.copy(), []
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, lr, g, _ in problem.steps(hypers["lr"] * hypers.get("lr_1d_factor", 1.0)):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        theta = theta * (1 - lr * decay) - lr * m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
        thetas.append(theta.copy())
    return thetas, {"exp_avg": m, "exp_avg_sq": v}


def focus(hypers: Hypers, problem: Problem) -> Run:
    """FOCUS, arXiv:2501.12243, as the authors' code: the decay after the signs are taken, where the library decays first.

    The debiased average is kept by its own recursion: the difference of θ and the average is then exactly 0 as long as θ has
    not moved, where the library has a rounding error and takes its sign.
    """
    beta1, beta2 = hypers.get("betas", (0.9, 0.999))
    gamma, decay = hypers.get("gamma", 0.1), hypers.get("weight_decay", 0.0)
    theta, thetas = problem.theta.copy(), []
    m, average, weights = np.zeros_like(theta), theta.copy(), 0.0
    for _, lr, g, _ in problem.steps(hypers["lr"]):
        m = beta1 * m + (1 - beta1) * g
        weights = beta2 * weights + (1 - beta2)
        average = average + (1 - beta2) / weights * (theta - average)
        update = np.sign(m) + gamma * np.sign(theta - average)
        if decay > 0:
            update = update + decay * average
        theta = theta - lr * update
        thetas.append(theta.copy())
    return thetas, {"exp_avg": m, "pbar": average}


def grokfast_adamw(hypers: Hypers, problem: Problem) -> Run:
    """AdamW after the EMA filter of Grokfast, arXiv:2405.20233, which begins with the first gradient that it amplifies.

    The library lets the filter begin with the very first gradient, whenever the amplification begins.
    """
    beta1, beta2 = hypers.get("betas", (0.9, 0.99))
    eps, decay = hypers.get("eps", 1e-8), hypers.get("weight_decay", 0.0)
    alpha, lamb = hypers.get("grokfast_alpha", 0.98), hypers.get("grokfast_lamb", 2.0)
    start = hypers.get("grokfast_after_step", 0)
    divisor = 1 + lamb if hypers.get("normalize_lr", True) else 1.0
    theta, thetas, slow = problem.theta.copy(), [], problem.gradients[0]
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, lr, g, _ in problem.steps(hypers["lr"] / divisor):
        if t > start:
            slow = g if t == start + 1 else alpha * slow + (1 - alpha) * g
            g = g + lamb * slow
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        update = m / (1 - beta1**t) / np.maximum(np.sqrt(v / (1 - beta2**t)), eps)
        theta = theta * (1 - lr * decay) - lr * update
        thetas.append(theta.copy())
    return thetas, {"exp_avg": m, "exp_avg_sq": v, "grok_exp_avg": slow}


def ano(hypers: Hypers, problem: Problem) -> Run:
    """Ano, arXiv:2508.18258, with the paper's logarithmic schedule, which the library begins two steps later, below 0."""
    beta1, beta2 = hypers.get("betas", (0.92, 0.99))
    eps, decay = hypers.get("eps", 1e-8), hypers.get("weight_decay", 0.0)
    theta, thetas = problem.theta.copy(), []
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        if hypers.get("logarithmic_schedule", False):
            beta1 = 1 - 1 / math.log(t + 2)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * np.sign(g**2 - v) * g**2
        update = np.abs(g) / (np.sqrt(v / (1 - beta2**t)) + eps) * np.sign(m)
        theta = theta * (1 - lr * decay) - lr * update
        thetas.append(theta.copy())
    return thetas, {"exp_avg": m, "exp_avg_sq": v}


def adamc(hypers: Hypers, problem: Problem) -> Run:
    """AdamC, arXiv:2506.02285: Adam with eps beside the debiased root, where the library adds it to the raw one.

    With `max_lr` the decay follows lr^2/max_lr; the library has it in a group's mark and in the lr at construction.
    """
    beta1, beta2 = hypers.get("betas", (0.9, 0.999))
    eps, decay, largest = hypers.get("eps", 1e-8), hypers.get("weight_decay", 0.01), hypers.get("max_lr")
    theta, thetas = problem.theta.copy(), []
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        update = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
        theta = theta * (1 - decay * (lr if largest is None else lr * lr / largest)) - lr * update
        thetas.append(theta.copy())
    return thetas, {"exp_avg": m, "exp_avg_sq": v}


def bcos_c(hypers: Hypers, problem: Problem) -> Run:
    """BCOS with the conditional estimate, arXiv:2507.08963, as the authors' code: it reads the average before the step.

    The library reads it after the update, which it has made in place.
    """
    beta, eps, decay = hypers.get("beta", 0.9), hypers.get("eps", 1e-6), hypers.get("weight_decay", 0.1)
    given = hypers.get("beta2")
    weight = 1 - (1 - beta) ** 2 if given is None else given
    theta, thetas, m = problem.theta.copy(), [], problem.gradients[0]
    for _, lr, g, _ in problem.steps(hypers["lr"]):
        estimate = weight * m**2 + (1 - weight) * g**2
        if not hypers.get("simple_cond", True):
            rest = 1 - beta
            estimate = (3 * beta**2 - 2 * beta**3) * m**2 + rest**2 * g**2 + 2 * beta * rest**2 * m * g
        m = beta * m + (1 - beta) * g
        theta = theta * (1 - lr * decay) - lr * m / (np.sqrt(estimate) + eps)
        thetas.append(theta.copy())
    return thetas, {"m": m}
