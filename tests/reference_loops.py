"""Float64 loops of the published equations, for optimizers that no installable library computes as published.

Each takes the keyword arguments of the generated class and a problem, and returns θ after every step and the final states. They
are written from the papers' algorithms (or their authors' code), independently of the specs: plain numpy, one loop each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tests.references import Problem

Array = NDArray[np.float64]
Hypers = Mapping[str, Any]
Run = tuple[list[Array], dict[str, Any]]
"""θ after every step, and the states after the last one under the spec's checkpoint keys."""


def adopt(hypers: Hypers, problem: Problem) -> Run:
    """ADOPT, arXiv:2411.02853, with the authors' clip; decoupled decay, which is applied from the second step on."""
    beta1, beta2 = hypers.get("betas", (0.9, 0.9999))
    eps, decay = hypers.get("eps", 1e-6), hypers.get("weight_decay", 0.0)
    assert hypers.get("decoupled_weight_decay", False) or decay == 0.0
    theta, m, v, thetas = problem.theta.copy(), np.zeros_like(problem.theta), np.zeros_like(problem.theta), []
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        k = t - 1
        if k == 0:
            v = g * g
        else:
            theta = theta * (1 - lr * decay)
            normed = g / np.maximum(np.sqrt(v), eps)
            if hypers.get("clip", True):
                normed = np.clip(normed, -(k**0.25), k**0.25)
            m = m + (1 - beta1) * (normed - m)
            theta = theta - lr * m
            v = v + (1 - beta2) * (g * g - v)
        thetas.append(theta.copy())
    return thetas, {"exp_avg": m, "exp_avg_sq": v}


def half_life_warmup(t: int, start: float, end: float, steps: int | None) -> float:
    """A decay rate that goes from `start` to `end` linearly in its half-life, as in AdEMAMix."""
    if steps is None or t >= steps:
        return end
    a = t / steps
    h = (1 - a) * (math.log(0.5) / math.log(start) - 1) + a * (math.log(0.5) / math.log(end) - 1)
    return float(math.pow(0.5, 1 / (h + 1)))


def ademamix(hypers: Hypers, problem: Problem) -> Run:
    """AdEMAMix, arXiv:2409.03137, with separate warm-ups of α and β3."""
    beta1, beta2, beta3 = hypers.get("betas", (0.9, 0.999, 0.9999))
    eps, decay, alpha = hypers.get("eps", 1e-8), hypers.get("weight_decay", 0.0), hypers.get("alpha", 5.0)
    alpha_steps, beta_steps = hypers.get("alpha_warmup"), hypers.get("beta3_warmup")
    theta, thetas = problem.theta.copy(), []
    fast, slow, v = (np.zeros_like(theta) for _ in range(3))
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        weight = alpha if alpha_steps is None or t >= alpha_steps else alpha * t / alpha_steps
        beta_slow = half_life_warmup(t, beta1, beta3, beta_steps)
        fast = beta1 * fast + (1 - beta1) * g
        slow = beta_slow * slow + (1 - beta_slow) * g
        v = beta2 * v + (1 - beta2) * g * g
        update = (fast / (1 - beta1**t) + weight * slow) / (np.sqrt(v) / math.sqrt(1 - beta2**t) + eps)
        theta = theta * (1 - lr * decay) - lr * update
        thetas.append(theta.copy())
    return thetas, {"exp_avg": fast, "exp_avg_slow": slow, "exp_avg_sq": v}


def simplified_ademamix(hypers: Hypers, problem: Problem) -> Run:
    """Simplified AdEMAMix, arXiv:2502.02431: the first moment is a sum; optional division by the sum of its weights."""
    beta1, beta2 = hypers.get("betas", (0.99, 0.95))
    eps, decay, alpha = hypers.get("eps", 1e-8), hypers.get("weight_decay", 0.0), hypers.get("alpha", 0.0)
    theta, thetas = problem.theta.copy(), []
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    weights, weights2 = 0.0, 0.0
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        beta = half_life_warmup(t, hypers.get("min_beta1", 0.9), beta1, hypers.get("beta1_warmup"))
        m = beta * m + g
        weights = beta * weights + 1
        v = beta2 * v + (1 - beta2) * g * g
        weights2 = beta2 * weights2 + (1 - beta2)
        update = (alpha * g + m) / (np.sqrt(v) + eps * math.sqrt(weights2)) * math.sqrt(weights2)
        if hypers.get("bias_correction1", False):
            update = update / weights
        theta = theta * (1 - lr * decay) - lr * update
        thetas.append(theta.copy())
    return thetas, {"exp_avg": m, "exp_avg_sq": v, "num_sum": weights}


def hn_adam(hypers: Hypers, problem: Problem) -> Run:
    """HN_Adam, doi:10.1007/s00521-023-08568-z, Algorithm 2 with |m| in the exponent, element by element."""
    beta1, beta2 = hypers.get("betas", (0.9, 0.999))
    eps, largest = hypers.get("eps", 1e-8), hypers.get("lambda0", 3.0)
    shape = problem.theta.shape
    theta = problem.theta.reshape(-1).tolist()
    m, v, v_max = ([0.0] * len(theta) for _ in range(3))
    thetas = []
    for _, lr, gradient, _ in problem.steps(hypers["lr"]):
        for i, g in enumerate(gradient.reshape(-1).tolist()):
            biggest = max(abs(m[i]), abs(g))
            power = largest - (abs(m[i]) / biggest if biggest > 0 else 0.0)
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * abs(g) ** power
            if power < 2:
                v_max[i] = max(v_max[i], v[i])
                root = v_max[i] ** (1 / power)
            else:
                root = v[i] ** (1 / power)
            theta[i] -= lr * m[i] / (root + eps)
        thetas.append(np.array(theta, dtype=np.float64).reshape(shape))
    lists = {"exp_avg": m, "exp_avg_pow": v, "max_exp_avg_pow": v_max}
    return thetas, {key: np.reshape(value, shape) for key, value in lists.items()}


def sophia_g(hypers: Hypers, problem: Problem) -> Run:
    """Sophia-G, arXiv:2305.14342, as the authors' code: h is updated by `update_hessian` calls between steps."""
    beta1, beta2 = hypers.get("betas", (0.965, 0.99))
    rho, decay, batch = hypers.get("rho", 0.04), hypers.get("weight_decay", 0.1), hypers.get("bs", 5120.0)
    theta, thetas = problem.theta.copy(), []
    m, h = np.zeros_like(theta), np.zeros_like(theta)
    for _, lr, g, calls in problem.steps(hypers["lr"]):
        theta = theta * (1 - lr * decay)
        m = m + (1 - beta1) * (g - m)
        ratio = np.minimum(np.abs(m) / (rho * batch * h + 1e-15), 1.0)
        theta = theta - lr * np.sign(m) * ratio
        for call in calls:
            sampled = call.inputs["g_s"]
            h = h + (1 - beta2) * (sampled * sampled - h)
        thetas.append(theta.copy())
    return thetas, {"exp_avg": m, "hessian": h}
