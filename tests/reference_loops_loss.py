"""Float64 loops for specs that read the loss, for LOMO and AdaGC, over any number of parameters in any number of groups.

Plain numpy from the papers' algorithms and the authors' code, as in `tests.reference_loops_model`.
"""

from __future__ import annotations

import math

import numpy as np

from tests.reference_loops import Array
from tests.reference_loops_model import Numbers, Slot


def _square(slots: list[Slot]) -> float:
    return math.fsum(float(x) ** 2 for p in slots for x in np.ravel(p.g))


def _least(a: float, b: float) -> float:
    """The smaller one, and NaN where one of them is: Python's `min` would hide it."""
    return float(np.minimum(a, b))


def alig(slots: list[Slot], model: Numbers) -> None:
    """AliG, arXiv:1906.05661, Algorithm 1, and the authors' two kinds of momentum."""
    unclipped = slots[0].loss / (_square(slots) + slots[0].get("eps", 1e-5))
    for p in slots:
        gamma, mu = _least(p.lr, unclipped), p.get("momentum", 0.0)
        p.theta = p.theta - gamma * p.g
        if mu == 0:
            continue
        p.zeros("momentum_buffer")
        if p.get("adjusted_momentum", False):
            p.state["momentum_buffer"] = mu * p.state["momentum_buffer"] - p.g
            p.theta = p.theta + gamma * mu * p.state["momentum_buffer"]
        else:
            p.state["momentum_buffer"] = mu * p.state["momentum_buffer"] - gamma * p.g
            p.theta = p.theta + mu * p.state["momentum_buffer"]
    radius = slots[0].get("max_norm", None)
    if radius is not None:
        length = math.sqrt(math.fsum(float(x) ** 2 for p in slots for x in np.ravel(p.theta)))
        if length > radius:
            for p in slots:
                p.theta = p.theta * (radius / length)


def sps(slots: list[Slot], model: Numbers) -> None:
    """SPS_max, arXiv:2002.10542, equation (3), and the bound that grows from step to step (section 3.2, smoothing)."""
    first = slots[0]
    above = max(first.loss - first.get("f_star", 0.0), 0.0)
    gamma = above / (first.get("c", 0.5) * _square(slots) + first.get("eps", 1e-8))
    growth = first.get("smoothing", None)
    if growth is not None:
        gamma = _least(gamma, growth * model.get("step_size", first.get("eta0", 1.0)))
        model["step_size"] = gamma
    for p in slots:
        p.theta = p.theta - (_least(p.lr, gamma) if growth is None else p.lr * gamma) * p.g


def lomo(slots: list[Slot], model: Numbers) -> None:
    """LOMO, arXiv:2306.09782: the coefficient comes from the whole gradient, the clip of values is applied first."""
    most = slots[0].get("clip_grad_norm", None)
    coefficient = 1.0 if most is None else _least(1.0, most / (math.sqrt(_square(slots)) + 1e-6))
    for p in slots:
        value = p.get("clip_grad_value", None)
        g = p.g if value is None else np.minimum(np.maximum(p.g, -value), value)
        p.theta = p.theta - p.lr * (g * coefficient)


def _trend(slots: list[Slot], model: Numbers) -> tuple[float, float]:
    """The trend of the loss and the factor of the step size, from averages of the loss."""
    loss = slots[0].loss
    model["k"] = model.get("k", 0.0) + 1
    model["ema_short"] = 0.3 * loss + 0.7 * model.get("ema_short", loss)
    model["ema_long"] = 0.01 * loss + 0.99 * model.get("ema_long", loss)
    trend = math.tanh((model["ema_long"] - model["ema_short"]) / max(model["ema_long"], 1e-5))
    size = abs(trend)
    if 0.25 < size < 0.5:
        return trend, 8.0 * (1 - size) * (1.0 + 0.1 * math.copysign(1 - size, trend))
    return trend, 1 - size if size > 0.75 else 1.0


def _mixed(p: Slot, trend: float, into_shadow: float) -> Array:
    """θ after weight decay and its shadow; the gradient has its penalty."""
    theta, decay = p.theta, p.get("weight_decay", 0.01)
    if decay != 0 and p.get("decoupled_weight_decay", True):
        theta = theta * (1 - p.lr * decay)
    elif decay != 0:
        p.g = p.g + decay * theta
    if p.get("use_shadow", False):
        p.first("shadow", p.theta)
        trust = 1 - abs(trend)
        if 0.625 < abs(trend) < 1:
            theta = theta * (1 - trust) + p.state["shadow"] * trust
            p.state["shadow"] = p.state["shadow"] + into_shadow * (theta - p.state["shadow"])
        else:
            p.state["shadow"] = p.state["shadow"] + 0.1 * trust * (theta - p.state["shadow"])
    return theta


def emonavi(slots: list[Slot], model: Numbers) -> None:
    """EmoNavi: Adam without the correction of its bias."""
    trend, drive = _trend(slots, model)
    for p in slots:
        theta = _mixed(p, trend, p.get("shadow_weight", 0.05))
        beta1, beta2 = p.get("betas", (0.9, 0.999))
        p.zeros("exp_avg", "exp_avg_sq")
        p.state["exp_avg"] = beta1 * p.state["exp_avg"] + (1 - beta1) * p.g
        p.state["exp_avg_sq"] = beta2 * p.state["exp_avg_sq"] + (1 - beta2) * p.g**2
        p.theta = theta - p.lr * drive * p.state["exp_avg"] / (np.sqrt(p.state["exp_avg_sq"]) + p.get("eps", 1e-8))


def emolynx(slots: list[Slot], model: Numbers) -> None:
    """EmoLynx: Lion."""
    trend, drive = _trend(slots, model)
    for p in slots:
        theta = _mixed(p, trend, 0.0)
        beta1, beta2 = p.get("betas", (0.9, 0.99))
        p.zeros("exp_avg")
        p.theta = theta - p.lr * drive * np.sign(beta1 * p.state["exp_avg"] + (1 - beta1) * p.g)
        p.state["exp_avg"] = beta2 * p.state["exp_avg"] + (1 - beta2) * p.g


def emofact(slots: list[Slot], model: Numbers) -> None:
    """EmoFact: signs; matrices are those of a row for each index of the first dimension."""
    trend, drive = _trend(slots, model)
    for p in slots:
        theta = _mixed(p, trend, 0.0)
        beta1, beta2 = p.get("betas", (0.9, 0.999))
        eps = p.get("eps", 1e-8)
        if p.theta.ndim >= 2:
            squares = p.g.reshape(len(p.g), -1) ** 2
            p.state.setdefault("exp_avg_r", np.zeros((squares.shape[0], 1)))
            p.state.setdefault("exp_avg_c", np.zeros((1, squares.shape[1])))
            for key, axis in (("exp_avg_r", 1), ("exp_avg_c", 0)):
                root = np.sqrt(squares.mean(axis=axis, keepdims=True) + eps)
                p.state[key] = beta1 * p.state[key] + (1 - beta1) * root
            below = np.sqrt(p.state["exp_avg_r"] * p.state["exp_avg_c"]) + eps
            direction = p.g / below.reshape(p.g.shape)
        else:
            p.zeros("exp_avg", "exp_avg_sq")
            p.state["exp_avg"] = beta1 * p.state["exp_avg"] + (1 - beta1) * p.g
            p.state["exp_avg_sq"] = beta2 * p.state["exp_avg_sq"] + (1 - beta2) * p.g**2
            direction = p.state["exp_avg"] / (np.sqrt(p.state["exp_avg_sq"]) + eps)
        p.theta = theta - p.lr * drive * np.sign(direction)


def adagc(slots: list[Slot], model: Numbers) -> None:
    """AdaGC, arXiv:2502.11034, Algorithm 1: first the norm of all gradients is clipped, then that of each tensor."""
    length, most = math.sqrt(_square(slots)), slots[0].get("lambda_abs", None)
    for p in slots:
        eps, limit = p.get("eps", 1e-8), p.get("lambda_rel", 1.05)
        beta1, beta2 = p.get("betas", (0.9, 0.999))
        beta = p.get("beta", 0.98)
        early = p.t < p.get("warmup_steps", 100)
        g = p.g * min(most / (length + eps), 1.0) if early and most is not None else p.g
        norm = float(np.linalg.norm(g.ravel()))
        if "gamma" not in p.state:
            p.state["gamma"] = np.array(norm)
        elif early:
            p.state["gamma"] = np.minimum(p.state["gamma"], norm)
        else:
            factor = min(limit * max(float(p.state["gamma"]), eps) / max(norm, eps), 1.0)
            g = factor * g
            p.state["gamma"] = np.array(beta * p.state["gamma"] + (1 - beta) * factor * norm)
        p.zeros("exp_avg", "exp_avg_sq")
        p.state["exp_avg"] = beta1 * p.state["exp_avg"] + (1 - beta1) * g
        p.state["exp_avg_sq"] = beta2 * p.state["exp_avg_sq"] + (1 - beta2) * g * g
        root = np.sqrt(p.state["exp_avg_sq"] / (1 - beta2**p.t)) + eps
        kept = (1 - p.lr * p.get("weight_decay", 0.1)) * p.theta
        p.theta = kept - p.lr * p.state["exp_avg"] / (1 - beta1**p.t) / root
