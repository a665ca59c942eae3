"""Float64 loops of optimizers without a schedule, and of SaRA: plain numpy, as in `tests.reference_loops`.

The schedule-free ones are written as in the paper, with y, z and x of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.reference_loops import Array, Hypers, Run

if TYPE_CHECKING:
    from tests.references import Problem


def _schedule_free(hypers: Hypers, problem: Problem, beta: float, second: float | None) -> Run:
    """arXiv:2405.15682, Algorithm 1, with the weights of the authors' code; `second`: the decay rate of a second moment."""
    z, x, y = problem.theta.copy(), problem.theta.copy(), problem.theta.copy()
    v, thetas, total, highest = np.zeros_like(z), [], 0.0, 0.0
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        warm = hypers.get("warmup_steps", 0)
        gamma = lr * (t / warm if t < warm else 1.0)
        highest = max(highest, gamma)
        weight = t ** hypers.get("r", 0.0) * highest ** hypers.get("weight_lr_power", 2.0)
        total += weight
        c = weight / total if total else 0.0
        direction: Array = g
        if second is not None:
            v = second * v + (1 - second) * g * g
            direction = g / (np.sqrt(v / (1 - second**t)) + hypers.get("eps", 1e-8))
        if hypers.get("weight_decay", 0.0) != 0:
            direction = direction + hypers["weight_decay"] * y
        z = z - gamma * direction
        x = (1 - c) * x + c * z
        y = (1 - beta) * z + beta * x
        thetas.append(y.copy())
    moment = {} if second is None else {"exp_avg_sq": v}
    return thetas, {"z": z, "x": x, "weight_sum": total, "lr_max": highest, **moment}


def sgd(hypers: Hypers, problem: Problem) -> Run:
    """Schedule-free SGD."""
    return _schedule_free(hypers, problem, hypers.get("momentum", 0.9), None)


def adamw(hypers: Hypers, problem: Problem) -> Run:
    """Schedule-free AdamW."""
    beta1, beta2 = hypers.get("betas", (0.9, 0.999))
    return _schedule_free(hypers, problem, beta1, beta2)


def scion(hypers: Hypers, problem: Problem) -> Run:
    """SCION, arXiv:2502.07529, Algorithm 1 (or 2, with `constraint`) for the norms that need no matrix product."""
    theta, d, thetas = problem.theta.copy(), np.zeros_like(problem.theta), []
    kind, eps = hypers.get("norm_type", "row"), hypers.get("eps", 1e-8)
    for _, lr, g, _ in problem.steps(hypers["lr"]):
        d = d + hypers.get("momentum", 0.1) * (g - d)
        step = d
        if d.ndim < 2:
            step = np.sign(d) if kind == "sign" else d if kind == "none" else d / (np.sqrt(np.mean(d * d)) + eps)
        elif kind != "none":
            seen = d.reshape(len(d), -1)
            rows, columns = seen.shape
            factor = columns if hypers.get("normalize", True) else 1
            if kind == "row":
                seen = seen / (np.sqrt((seen * seen).sum(1, keepdims=True)) * factor**0.5 + eps)
            elif kind == "col":
                seen = seen / (np.sqrt((seen * seen).sum(0, keepdims=True) / rows) * factor + eps)
            else:
                seen = np.sign(seen) / factor
            step = seen.reshape(d.shape)
        kept = 1 - lr * (1.0 if hypers.get("constraint", False) else hypers.get("weight_decay", 0.0))
        theta = kept * theta - lr * hypers.get("scale", 1.0) * step
        thetas.append(theta.copy())
    return thetas, {"d": d}


def sara(hypers: Hypers, problem: Problem) -> Run:
    """SaRA, arXiv:2409.06633, entry by entry: AdamW of those that are trained."""
    beta1, beta2 = hypers.get("betas", (0.9, 0.999))
    bound, decay, refine = hypers.get("threshold", 1e-3), hypers.get("weight_decay", 0.01), hypers.get("progressive_iter")
    theta = problem.theta.reshape(-1).tolist()
    mask = [abs(x) < bound for x in theta]
    m, v, most = ([0.0] * len(theta) for _ in range(3))
    thetas = []
    for t, lr, gradient, _ in problem.steps(hypers["lr"]):
        if refine is not None and t == refine + 1:
            mask = [kept and abs(x) < bound for kept, x in zip(mask, theta, strict=True)]
        for i, g in enumerate(gradient.reshape(-1).tolist()):
            if not mask[i]:
                m[i] = v[i] = most[i] = 0.0
                continue
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            most[i] = float(np.maximum(most[i], v[i]))  # NaN stays
            second = most[i] if hypers.get("amsgrad", False) else v[i]
            root = (second / (1 - beta2**t)) ** 0.5 + hypers.get("eps", 1e-8)
            theta[i] = theta[i] * (1 - lr * decay) - lr * (m[i] / (1 - beta1**t)) / root
        thetas.append(np.reshape(np.array(theta), problem.theta.shape))
    kept = {"mask": np.array(mask, dtype=np.float64), "exp_avg": np.array(m), "exp_avg_sq": np.array(v)}
    kept |= {"max_exp_avg_sq": np.array(most)} if hypers.get("amsgrad", False) else {}
    return thetas, {key: np.reshape(value, problem.theta.shape) for key, value in kept.items()}
