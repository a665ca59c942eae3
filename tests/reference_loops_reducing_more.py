"""Float64 loops for specs of `references_reducing_more` whose published update no installable library computes.

Plain numpy from the papers' algorithms or the authors' code, as in `tests.reference_loops`; each says where a library differs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tests.reference_loops import Hypers, Run

if TYPE_CHECKING:
    from tests.reference_cases import Array, Problem


def norm(x: Array) -> float:
    """The Euclidean norm over all elements."""
    return float(np.linalg.norm(x.ravel()))


def cosine(a: Array, b: Array) -> float:
    """The cosine of the angle between two tensors, 0 where one of them is 0."""
    size = norm(a) * norm(b)
    return float(np.sum(a * b)) / size if size != 0 else 0.0


def tam(hypers: Hypers, problem: Problem) -> Run:
    """TAM, arXiv:2412.18790; the library compares element by element, and starts at g."""
    momentum, rate = hypers.get("momentum", 0.9), hypers.get("decay_rate", 0.9)
    eps, decay = hypers.get("eps", 1e-8), hypers.get("weight_decay", 0.0)
    theta, thetas = problem.theta.copy(), []
    b, s = np.zeros_like(theta), 0.0
    for _, lr, g, _ in problem.steps(hypers["lr"]):
        s = rate * s + (1 - rate) * cosine(b, g)
        b = momentum * b + (eps + (1 + s) / 2) * g
        theta = (1 - lr * decay) * theta - lr * b
        thetas.append(theta.copy())
    return thetas, {"s": np.asarray(s), "momentum_buffer": b}


def adatam(hypers: Hypers, problem: Problem) -> Run:
    """AdaTAM, arXiv:2412.18790; the library differs as in TAM."""
    (beta1, beta2), rate = hypers.get("betas", (0.9, 0.999)), hypers.get("decay_rate", 0.9)
    eps, decay = hypers.get("eps", 1e-8), hypers.get("weight_decay", 0.0)
    theta, thetas = problem.theta.copy(), []
    m, v, s = np.zeros_like(theta), np.zeros_like(theta), 0.0
    for _, lr, g, _ in problem.steps(hypers["lr"]):
        s = rate * s + (1 - rate) * cosine(m, g)
        m = beta1 * m + (eps + (1 + s) / 2) * g
        v = beta2 * v + (1 - beta2) * g * g
        theta = (1 - lr * decay) * theta - lr * m / (np.sqrt(v) + eps)
        thetas.append(theta.copy())
    return thetas, {"s": np.asarray(s), "exp_avg": m, "exp_avg_sq": v}


def a2grad(hypers: Hypers, problem: Problem) -> Run:
    """A2Grad, arXiv:1810.00553, with k = 0, 1, …; the library has k from 1 in gamma, in alpha and in the inc variant."""
    beta, rho, variant = hypers.get("beta", 10.0), hypers.get("rho", 0.5), hypers.get("variant", "uni")
    y, thetas = problem.theta.copy(), []
    x, average, v, smooth, alpha = y.copy(), np.zeros_like(y), 0.0, 0.0, 1.0
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        k, lipschitz = t - 1, 1 / lr
        average = (k * average + g) / (k + 1)
        square = float(np.sum((g - average) ** 2))
        if variant == "uni":
            v, h = v + square, math.sqrt(v + square)
        elif variant == "inc":
            v = (k / (k + 1)) ** 2 * v + square
            h = math.sqrt(k + 1) * math.sqrt(v)
        else:
            smooth = rho * smooth + (1 - rho) * square
            v = float(np.maximum(v, smooth))
            h = math.sqrt(k + 1) * math.sqrt(v)
        step = 1 / (2 * lipschitz / (k + 1) + beta * h)
        following = 2 / (k + 3)
        x = x - step * g
        y = (1 - following) * y + following * x - (1 - following) * alpha * step * g
        alpha = following
        thetas.append(y.copy())
    found = {"x_k": x, "avg_grad": average, "v_k": np.asarray(v)}
    return thetas, {**found, **({"v_kk": np.asarray(smooth)} if variant == "exp" else {})}


def swats(hypers: Hypers, problem: Problem) -> Run:
    """SWATS, arXiv:1712.07628, Algorithm 1; the library's test of whether the rate has settled allows 1e-8 at least."""
    (beta1, beta2), eps = hypers.get("betas", (0.9, 0.999)), hypers.get("eps", 1e-8)
    decay, atol, rtol = hypers.get("weight_decay", 0.0), hypers.get("atol", 1e-9), hypers.get("rtol", 0.0)
    theta, thetas = problem.theta.copy(), []
    m, v, buffer = (np.zeros_like(theta) for _ in range(3))
    average, rate = 0.0, 0.0
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        g = g + decay * theta if decay != 0 else g
        if rate != 0:
            buffer = beta1 * buffer + g
            step = -rate * ((1 - beta1) * buffer + (beta1 * buffer if hypers.get("nesterov", False) else 0))
        else:
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * g * g
            step = -lr * math.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (np.sqrt(v) + eps)
            product = float(np.sum(step * g))
            if product != 0:
                sample = float(np.sum(step * step)) / -product
                average = beta2 * average + (1 - beta2) * sample
                settled = average / (1 - beta2**t)
                if t > 1 and settled > 0 and abs(settled - sample) <= atol + rtol * abs(sample):
                    rate = settled
        theta = theta + step
        thetas.append(theta.copy())
    numbers = {"exp_avg2": np.asarray(average), "learning_rate": np.asarray(rate)}
    return thetas, {"momentum_buffer": buffer if rate != 0 else m, "exp_avg_sq": v, **numbers}


def bge_adam(hypers: Hypers, problem: Problem) -> Run:
    """BGE-Adam, doi:10.3390/sym16050623, after public transcriptions, which agree in these formulas, without the noise."""
    ranges = (hypers.get("beta1_range", (0.5, 0.9)), hypers.get("beta2_range", (0.9, 0.999)))
    alpha, eps, decay = hypers.get("alpha", 0.5), hypers.get("eps", 1e-8), hypers.get("weight_decay", 0.0)
    theta, thetas = problem.theta.copy(), []
    m, v, q = (np.zeros_like(theta) for _ in range(3))
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        g = g + decay * theta if decay != 0 else g
        change = norm(g - m) / (norm(m) + 1e-8)
        beta1, beta2 = (float(np.clip(low + (high - low) * (1 - change), low, high)) for low, high in ranges)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        q = alpha * q + (1 - alpha) * g
        theta = theta - lr * math.sqrt(1 - beta2**t) / (1 - beta1**t) * q / (np.sqrt(v) + eps)
        thetas.append(theta.copy())
    return thetas, {"exp_avg": m, "exp_avg_sq": v, "predicted_grad": q}


def scaled_adam(hypers: Hypers, problem: Problem) -> Run:
    """ScaledAdam, arXiv:2310.11230, as icefall's recipes have it, without clipping by the median norm."""
    (beta1, beta2), eps = hypers.get("betas", (0.9, 0.98)), hypers.get("eps", 1e-8)
    period, ratio = hypers.get("size_update_period", 4), hypers.get("scalar_lr_scale", 0.1)
    least, most = hypers.get("param_min_rms", 1e-5), hypers.get("param_max_rms", 3.0)
    theta, thetas = problem.theta.copy(), []
    delta, v, v_scale = np.zeros_like(theta), np.zeros_like(theta), 0.0
    rms, gradients = math.sqrt(float(np.mean(theta**2))), np.zeros(period)
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        delta = delta * beta1
        if theta.size > 1:
            gradients[(t - 1) % period] = np.sum(theta * g)
            if t % period == 0:
                rms = math.sqrt(float(np.mean(theta**2)))
                if t > 1:
                    beta = beta2**period
                    v_scale = beta * v_scale + (1 - beta) * float(np.mean(gradients**2))
                    correction = math.sqrt(1 - beta ** (t // period))
                    move = -lr * ratio * correction * float(np.sum(gradients)) / (math.sqrt(v_scale) + eps)
                    move = -lr * ratio * period if rms > most else 0.0 if rms < least else move
                    delta = delta + (1 - beta1) * move * theta
        v = beta2 * v + (1 - beta2) * g * g
        correction = 1 - beta2**t
        square = v / correction if correction < 0.99 or theta.size == 1 else v
        size = lr * max(rms, least) if theta.size > 1 else lr * ratio
        delta = delta - (1 - beta1) * size * g / (np.sqrt(square) + eps)
        if theta.size == 1:
            theta = np.clip(theta, -hypers.get("scalar_max", 2.0), hypers.get("scalar_max", 2.0))
        theta = theta + delta
        thetas.append(theta.copy())
    found = {"delta": delta, "exp_avg_sq": v}
    if theta.size == 1:
        return thetas, found
    waiting = gradients[: len(thetas) % period]
    sums = {"scale_grad_sum": np.sum(waiting), "scale_grad_sq_sum": np.sum(waiting**2)}
    return thetas, {**found, "scale_exp_avg_sq": np.asarray(v_scale), "param_rms": np.asarray(rms), **sums}
