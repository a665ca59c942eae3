"""Float64 loops for specs of `references_reducing` whose published update no installable library computes in every setting.

Plain numpy from the papers' algorithms, as in `tests.reference_loops`; each says where the library differs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tests.reference_loops import Hypers, Run

if TYPE_CHECKING:
    from tests.reference_cases import Problem


def lamb(hypers: Hypers, problem: Problem) -> Run:
    """LAMB, arXiv:1904.00962, final version; pytorch_optimizer leaves out debiasing and adds eps to the direction's norm."""
    beta1, beta2 = hypers.get("betas", (0.9, 0.999))
    eps, decay = hypers.get("eps", 1e-6), hypers.get("weight_decay", 0.01)
    theta, thetas = problem.theta.copy(), []
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        m = beta1 * m + (1 - beta1 if hypers.get("grad_averaging", True) else 1) * g
        v = beta2 * v + (1 - beta2) * g * g
        c1, c2 = (1 - beta1**t, 1 - beta2**t) if hypers.get("bias_correction", True) else (1.0, 1.0)
        u = m / c1 / (np.sqrt(v / c2) + eps)
        u = u + decay * theta if decay != 0 else u
        ratio = 1.0
        if hypers.get("always_adapt", True) or decay != 0:
            size, length = float(np.linalg.norm(theta.ravel())), float(np.linalg.norm(u.ravel()))
            if size != 0 and length != 0:
                low, high = hypers.get("ratios", (0.0, math.inf))
                ratio = min(max(min(size, hypers.get("max_norm") or math.inf) / length, low), high)
        theta = theta - lr * ratio * u
        thetas.append(theta.copy())
    return thetas, {"exp_avg": m, "exp_avg_sq": v}


def lars_everywhere(hypers: Hypers, problem: Problem) -> Run:
    """LARS on tensors of any number of dimensions, as in timm; pytorch_optimizer leaves vectors and scalars alone."""
    momentum, decay, trust = hypers.get("momentum", 0.9), hypers.get("weight_decay", 0.0), hypers.get("trust_coefficient", 1e-3)
    theta, thetas = problem.theta.copy(), []
    b = np.zeros_like(theta)
    for _, lr, g, _ in problem.steps(hypers["lr"]):
        size = float(np.linalg.norm(theta.ravel()))
        below = float(np.linalg.norm(g.ravel())) + decay * size
        ratio = 1.0
        if size > 0 and below > 0 and (decay != 0 or hypers.get("always_adapt", True)):
            ratio = trust * size / (below + hypers.get("eps", 0.0))
            ratio = min(ratio / lr, 1.0) if hypers.get("trust_clip", False) else ratio
        b = momentum * b + ratio * (g + decay * theta if decay != 0 else g)
        theta = theta - lr * b
        thetas.append(theta.copy())
    return thetas, {"momentum_buffer": b}


def eva_var(hypers: Hypers, problem: Problem) -> Run:
    """Adam times a factor that falls with the deviation of the gradient over the tensor."""
    beta1, beta2 = hypers.get("betas", (0.9, 0.999))
    eps, decay, kappa = hypers.get("eps", 1e-8), hypers.get("weight_decay", 0.01), hypers.get("kappa", 1.0)
    theta, thetas = problem.theta.copy(), []
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        factor = min(max(1 / (1 + kappa * math.sqrt(float(np.var(g)) + eps)), 0.1), 2.0)
        g = g + decay * theta
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        theta = theta - lr * factor * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        thetas.append(theta.copy())
    return thetas, {"exp_avg": m, "exp_avg_sq": v}


def novograd(hypers: Hypers, problem: Problem) -> Run:
    """NovoGrad, arXiv:1905.11286, with the largest norm so far, as in NVIDIA's code."""
    beta1, beta2 = hypers.get("betas", (0.95, 0.98))
    eps, decay = hypers.get("eps", 1e-8), hypers.get("weight_decay", 0.0)
    theta, thetas = problem.theta.copy(), []
    m, v, most = np.zeros_like(theta), 0.0, 0.0
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        square = float(np.sum(g * g))
        v = square if t == 1 else beta2 * v + (1 - beta2) * square
        most = float(np.maximum(most, v))  # NaN stays
        step = g / (math.sqrt(most) + eps) + (decay * theta if decay != 0 else 0.0)
        m = step if t == 1 else beta1 * m + step
        theta = theta - lr * m
        thetas.append(theta.copy())
    return thetas, {"moments": m, "grads_ema": v, "max_grads_ema": most}
