"""Float64 loops of published equations with rows and columns, where no installable library computes them on every shape.

They keep what rows share as arrays with the dimensions of θ: (…, rows, 1) and (…, 1, columns).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tests.reference_loops import Hypers, Run

if TYPE_CHECKING:
    from tests.reference_cases import Array, Problem


def rms(x: Array) -> float:
    """The root of the mean square over all elements."""
    return math.sqrt(float(np.sum(x * x)) / x.size)


def adafactor(hypers: Hypers, problem: Problem) -> Run:
    """Adafactor, arXiv:1804.04235, Algorithms 4 to 6, with sums over rows and columns as there; decay as transformers."""
    eps1, eps2 = hypers.get("eps", (1e-30, 1e-3))
    rate, threshold = hypers.get("decay_rate", -0.8), hypers.get("clip_threshold", 1.0)
    beta1, decay = hypers.get("beta1"), hypers.get("weight_decay", 0.0)
    theta, thetas = problem.theta.copy(), []
    matrix, last = theta.ndim >= 2, (np.asarray(theta.shape[-2:]) if theta.ndim >= 2 else np.ones(2))
    m, full = np.zeros_like(theta), np.zeros_like(theta)
    rows, columns = (np.sum(full, axis=-1, keepdims=True), np.sum(full, axis=-2, keepdims=True)) if matrix else (full, full)
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        beta2 = 1 - t**rate
        size = lr
        if hypers.get("relative_step", True):
            size = min(1e-6 * t if hypers.get("warmup_init", False) else 1e-2, 1 / math.sqrt(t))
        if hypers.get("scale_parameter", True):
            size = float(np.maximum(eps2, rms(theta))) * size
        square = g * g + eps1
        if matrix:
            rows = beta2 * rows + (1 - beta2) * np.sum(square, axis=-1, keepdims=True)
            columns = beta2 * columns + (1 - beta2) * np.sum(square, axis=-2, keepdims=True)
            estimate = rows * columns / np.sum(rows, axis=-2, keepdims=True)
        else:
            full = beta2 * full + (1 - beta2) * square
            estimate = full
        update = g / np.sqrt(estimate)
        update = update / np.maximum(1.0, rms(update) / threshold) * size
        if beta1 is not None:
            m = beta1 * m + (1 - beta1) * update
            update = m
        theta = (1 - decay * size) * theta - update
        thetas.append(theta.copy())
    states = {"exp_avg_sq_row": rows / last[1], "exp_avg_sq_col": columns / last[0]} if matrix else {"exp_avg_sq": full}
    return thetas, {**states, **({} if beta1 is None else {"exp_avg": m})}


def adalomo(hypers: Hypers, problem: Problem) -> Run:
    """AdaLomo, arXiv:2310.10195, Algorithm 1: Adafactor's second moment, a step of its own for every tensor, no momentum."""
    return adafactor({**hypers, "relative_step": False}, problem)


def projected(theta: Array, g: Array, update: Array, hypers: Hypers) -> tuple[Array, float]:
    """The projection of AdamP's authors, row by row: the update, and the share of the weight decay."""
    eps, delta = hypers.get("eps", 1e-8), hypers.get("delta", 0.1)
    if theta.ndim < 2:
        return update, 1.0
    for shape in ((theta.shape[0], -1), (1, -1)):
        w, gradient, moved = (x.reshape(shape) for x in (theta, g, update))
        cosines = [
            abs(float(a @ b)) / (float(np.linalg.norm(a)) + eps) / (float(np.linalg.norm(b)) + eps)
            for a, b in zip(gradient, w, strict=True)
        ]
        if np.max(cosines) < delta / math.sqrt(w.shape[1]):
            unit = np.stack([row / (np.linalg.norm(row) + eps) for row in w])
            left = [u - n * float(n @ u) for u, n in zip(moved, unit, strict=True)]
            return np.stack(left).reshape(theta.shape), hypers.get("wd_ratio", 0.1)
    return update, 1.0


def adamp(hypers: Hypers, problem: Problem) -> Run:
    """AdamP, arXiv:2006.08217, as the authors' code."""
    (beta1, beta2), eps = hypers.get("betas", (0.9, 0.999)), hypers.get("eps", 1e-8)
    theta, thetas = problem.theta.copy(), []
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        root = np.sqrt(v) / math.sqrt(1 - beta2**t) + eps
        update = (beta1 * m + (1 - beta1) * g if hypers.get("nesterov", False) else m) / root
        update, share = projected(theta, g, update, hypers)
        theta = theta * (1 - lr * hypers.get("weight_decay", 0.0) * share) - lr / (1 - beta1**t) * update
        thetas.append(theta.copy())
    return thetas, {"exp_avg": m, "exp_avg_sq": v}


def sgdp(hypers: Hypers, problem: Problem) -> Run:
    """SGDP, arXiv:2006.08217, as the authors' code."""
    momentum, dampening = hypers.get("momentum", 0.0), hypers.get("dampening", 0.0)
    theta, thetas = problem.theta.copy(), []
    b = np.zeros_like(theta)
    for _, lr, g, _ in problem.steps(hypers["lr"]):
        b = (momentum * b if momentum != 0 else 0.0) + (1 - dampening) * g
        update = g + momentum * b if hypers.get("nesterov", False) else b
        update, share = projected(theta, g, update, hypers)
        theta = theta * (1 - lr * hypers.get("weight_decay", 0.0) * share / (1 - momentum)) - lr * update
        thetas.append(theta.copy())
    return thetas, {"momentum": b}


def adam_mini(hypers: Hypers, problem: Problem) -> Run:
    """Adam-mini, arXiv:2406.16793, Algorithm 1, block by block."""
    (beta1, beta2), eps = hypers.get("betas", (0.9, 0.999)), hypers.get("eps", 1e-8)
    blocks, decay = hypers.get("blocks", "row"), hypers.get("weight_decay", 0.0)
    shape = problem.theta.shape
    kind = blocks if len(shape) >= 2 else "tensor"
    lead = {"row": shape[:-1], "matrix": shape[:-2], "tensor": ()}[kind]
    of_block = (math.prod(lead), -1)
    theta, m, thetas = problem.theta.reshape(of_block).copy(), np.zeros(shape).reshape(of_block), []
    v = [0.0] * len(theta)
    for t, lr, gradient, _ in problem.steps(hypers["lr"]):
        for i, g in enumerate(gradient.reshape(of_block)):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * float(np.mean(g * g))
            root = math.sqrt(v[i]) / math.sqrt(1 - beta2**t) + eps
            theta[i] = theta[i] * (1 - lr * decay) - lr / (1 - beta1**t) * m[i] / root
        thetas.append(theta.reshape(shape).copy())
    kept = {"row": (*lead, 1), "matrix": (*lead, 1, 1), "tensor": ()}[kind]
    key = {"row": "v_row", "matrix": "v_matrix", "tensor": "v_mean"}[kind]
    return thetas, {"m": m.reshape(shape), key: np.reshape(v, kept)}


def sm3(hypers: Hypers, problem: Problem) -> Run:
    """SM3-II, arXiv:1901.11150, entry by entry, with rows and columns of (first dimension, all others) as the cover."""
    beta, eps, momentum = hypers.get("beta", 0.0), hypers.get("eps", 1e-30), hypers.get("momentum", 0.0)
    shape = problem.theta.shape
    seen = (shape[0], math.prod(shape[1:])) if len(shape) >= 2 else (problem.theta.size, 1)
    theta, m, thetas = problem.theta.reshape(seen).copy(), np.zeros(seen), []
    rows, columns = [0.0] * seen[0], [0.0] * seen[1]
    for _, lr, gradient, _ in problem.steps(hypers["lr"]):
        g = gradient.reshape(seen)
        v = np.zeros(seen)
        for i in range(seen[0]):
            for j in range(seen[1]):
                least = np.minimum(rows[i], columns[j]) if len(shape) >= 2 else rows[i]
                v[i, j] = beta * least + (1 - beta) * g[i, j] ** 2 if beta > 0 else least + g[i, j] ** 2
        before = ([0.0] * len(rows), [0.0] * len(columns)) if beta == 0 else (rows, columns)
        rows = [float(np.maximum(old, np.max(v[i]))) for i, old in enumerate(before[0])]
        columns = [float(np.maximum(old, np.max(v[:, j]))) for j, old in enumerate(before[1])]
        update = g / np.sqrt(v + eps)
        if momentum != 0:
            m = momentum * m + (1 - momentum) * update
            update = m
        theta = theta - lr * update
        thetas.append(theta.reshape(shape).copy())
    kept = {"accumulator_0": np.reshape(rows, (-1, 1)), "accumulator_1": np.reshape(columns, (1, -1))}
    if len(shape) < 2:
        kept = {"accumulator": np.reshape(rows, shape)}
    return thetas, {**kept, **({"momentum_buffer": m.reshape(shape)} if momentum != 0 else {})}


def rowwise_adagrad(hypers: Hypers, problem: Problem) -> Run:
    """Row-wise AdaGrad as in DLRM: the mean square of each row's gradient is added up."""
    eps, decay = hypers.get("eps", 1e-8), hypers.get("weight_decay", 0.0)
    theta, thetas = problem.theta.copy(), []
    matrix = theta.ndim >= 2
    total = np.full((*theta.shape[:-1], 1) if matrix else theta.shape, hypers.get("initial_accumulator_value", 0.0))
    for _, lr, g, _ in problem.steps(hypers["lr"]):
        g = g + decay * theta if decay != 0 else g
        total = total + (np.mean(g * g, axis=-1, keepdims=True) if matrix else g * g)
        theta = theta - lr * g / (np.sqrt(total) + eps)
        thetas.append(theta.copy())
    return thetas, {"row_sum" if matrix else "sum": total}
