"""Float64 loops for specs with numbers of the whole model, over any number of parameters in any number of groups.

Plain numpy from the papers' algorithms, as in `tests.reference_loops`; a problem of one parameter is a model of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tests.reference_loops import Array, Hypers, Run

if TYPE_CHECKING:
    from tests.reference_cases import Problem

Numbers: TypeAlias = dict[str, float]
Step: TypeAlias = Callable[[list["Slot"], Numbers], None]
"""One step: changes the parameters that have a gradient, and the numbers of the model (empty before the first step)."""


@dataclass(slots=True)
class Slot:
    """A parameter with its states; `t`, `g`, `lr`, `loss` and `hypers` are those of the present step."""

    theta: Array
    state: dict[str, Array] = field(default_factory=dict)
    t: int = 0
    g: Array = field(default_factory=lambda: np.zeros(()))
    lr: float = 0.0
    loss: float = math.nan
    hypers: Hypers = field(default_factory=dict)

    def get(self, key: str, default: Any) -> Any:
        """A hyper."""
        return self.hypers.get(key, default)

    def zeros(self, *keys: str) -> None:
        """States that start at 0."""
        for key in keys:
            self.state.setdefault(key, np.zeros_like(self.theta))

    def first(self, key: str, value: Array) -> None:
        """A state that starts at a value."""
        self.state.setdefault(key, np.array(value))

    def penalty(self, decoupled: bool = False) -> None:
        """Weight decay: of θ, or added to the gradient."""
        decay = self.get("weight_decay", 0.0)
        if decay != 0 and decoupled:
            self.theta = (1 - self.lr * decay) * self.theta
        elif decay != 0:
            self.g = self.g + decay * self.theta


@dataclass(frozen=True, slots=True)
class ModelProblem:
    """A model: starts, for every step a gradient or None per parameter and a factor of lr, each parameter's group, losses."""

    thetas: tuple[Array, ...]
    gradients: tuple[tuple[Array | None, ...], ...]
    lr_factors: tuple[float, ...]
    groups: tuple[int, ...]
    losses: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelTrace:
    """θ of all parameters after every step, and at the end the states of each parameter and the numbers of the model."""

    thetas: tuple[tuple[Array, ...], ...]
    states: tuple[Mapping[str, Array], ...]
    model: Mapping[str, float]


def run_loop(step: Step, groups: Sequence[Hypers], problem: ModelProblem) -> ModelTrace:
    """A loop on a model whose groups have these hypers."""
    slots = [Slot(np.array(theta)) for theta in problem.thetas]
    model: Numbers = {}
    kept: list[tuple[Array, ...]] = []
    losses = problem.losses or (math.nan,) * len(problem.gradients)
    for gradients, factor, loss in zip(problem.gradients, problem.lr_factors, losses, strict=True):
        taking_part = []
        for slot, g, group in zip(slots, gradients, problem.groups, strict=True):
            if g is not None:
                slot.t, slot.g, slot.hypers = slot.t + 1, np.array(g), groups[group]
                slot.lr, slot.loss = slot.hypers["lr"] * factor, loss
                taking_part.append(slot)
        with np.errstate(all="ignore"):
            step(taking_part, model)
        kept.append(tuple(slot.theta.copy() for slot in slots))
    return ModelTrace(tuple(kept), tuple(slot.state for slot in slots), model)


def of_one(step: Step) -> Callable[[Hypers, Problem], Run]:
    """The loop on a problem of one parameter."""

    def run(hypers: Hypers, problem: Problem) -> Run:
        given = ModelProblem((problem.theta,), tuple((g,) for g in problem.gradients), problem.lr_factors, (0,), problem.losses)
        found = run_loop(step, (hypers,), given)
        return [thetas[0] for thetas in found.thetas], {**found.states[0], **found.model}

    return run


def _inner(a: Array, b: Array) -> float:
    return float(np.sum(a * b))


def _ema(old: Any, new: Any, beta: float) -> Any:
    return beta * old + (1 - beta) * new


def _distance(slots: list[Slot], model: Numbers, shared: Slot, limit: float) -> None:
    """Prodigy's new d from its two sums. A numerator that is NaN changes nothing: comparisons with NaN are false."""
    denominator = sum(float(np.sum(np.abs(p.state["s"]))) for p in slots)
    if denominator == 0:
        return
    d, estimate = model["d"], shared.get("d_coef", 1.0) * model["d_numerator"] / denominator
    if estimate > limit * d:
        estimate = limit * d
    if d == shared.get("d0", 1e-6) and estimate > d:
        d = estimate
    if estimate > model["d_max"]:
        model["d_max"] = estimate
    model["d"] = min(model["d_max"], shared.get("growth_rate", math.inf) * d)


def _sums(slots: list[Slot], model: Numbers, shared: Slot, beta2: float, correction: float) -> None:
    """Prodigy's two sums: the numerator, a number, and the denominator's s."""
    d0, beta3 = shared.get("d0", 1e-6), shared.get("beta3", None)
    beta3 = math.sqrt(beta2) if beta3 is None else beta3
    d = model["d"]
    model["d_numerator"] *= beta3
    for p in slots:
        theta, g = (x.reshape(-1)[:: p.get("slice_p", 1)] for x in (p.theta, p.g))
        p.first("s", np.zeros_like(theta))
        p.first("p0", theta)
        size = p.lr * d * correction
        model["d_numerator"] += d / d0 * size * _inner(g, p.state["p0"] - theta)
        p.state["s"] = beta3 * p.state["s"] + d / d0 * (d if p.get("safeguard_warmup", False) else size) * g


def prodigy(slots: list[Slot], model: Numbers) -> None:
    """Prodigy, arXiv:2306.06101, as its authors' code; pytorch_optimizer's L2 penalty is without effect."""
    shared = slots[0]
    beta1, beta2 = shared.get("betas", (0.9, 0.999))
    if not model:
        model.update(d=shared.get("d0", 1e-6), d_max=shared.get("d0", 1e-6), d_numerator=0.0)
        model.update(k=0) if shared.get("bias_correction", False) else None
    correction = 1.0
    if shared.get("bias_correction", False):
        model["k"] += 1
        correction = math.sqrt(1 - beta2 ** model["k"]) / (1 - beta1 ** model["k"])
    for p in slots:
        if not p.get("decoupled_weight_decay", True):
            p.penalty()
    _sums(slots, model, shared, beta2, correction)
    d = model["d"]
    for p in slots:
        p.zeros("exp_avg", "exp_avg_sq")
        p.state["exp_avg"] = _ema(p.state["exp_avg"], d * p.g, beta1)
        p.state["exp_avg_sq"] = _ema(p.state["exp_avg_sq"], d * d * p.g * p.g, beta2)
    if all(not np.any(p.state["s"]) for p in slots):
        return
    _distance(slots, model, shared, math.inf)
    for p in slots:
        size = p.lr * d * correction
        if p.get("decoupled_weight_decay", True):
            p.theta = (1 - p.get("weight_decay", 0.0) * size) * p.theta
        p.theta = p.theta - size * p.state["exp_avg"] / (np.sqrt(p.state["exp_avg_sq"]) + model["d"] * p.get("eps", 1e-8))


def lion_prodigy(slots: list[Slot], model: Numbers) -> None:
    """Lion_Prodigy_adv of adv_optm, which rounds gradients to float32 on the way to d."""
    shared = slots[0]
    beta1, beta2 = shared.get("betas", (0.9, 0.99))
    if not model:
        model.update(d=shared.get("d0", 1e-6), d_max=shared.get("d0", 1e-6), d_numerator=0.0)
    d = model["d"]
    _sums(slots, model, shared, beta2, 1.0)
    for p in slots:
        p.zeros("exp_avg")
        direction = np.sign(beta1 * p.state["exp_avg"] + (1 - beta1) * d * p.g)
        p.state["exp_avg"] = beta2 * p.state["exp_avg"] + (1 - beta2) * d * p.g
        p.theta = (1 - p.get("weight_decay", 0.0) * p.lr * d) * p.theta - p.lr * d * direction
    _distance(slots, model, shared, 2**0.25 if shared.get("d_limiter", True) else math.inf)


def dadapt_adan(slots: list[Slot], model: Numbers) -> None:
    """D-Adaptation's Adan, arXiv:2301.07733, as its authors' code, but for their return before decay while all gradients are 0.

    pytorch_optimizer averages fourth powers.
    """
    shared = slots[0]
    beta1, beta2, beta3 = shared.get("betas", (0.98, 0.92, 0.99))
    if not model:
        model.update(d=shared.get("d0", 1e-6), gsq_weighted=0.0)
    d = model["d"]
    denominators, powers, weighted, size_of_s = [], 0.0, 0.0, 0.0
    for p in slots:
        p.zeros("exp_avg", "exp_avg_diff", "exp_avg_sq", "s")
        p.first("prev_grad", p.g)
        size, change = p.lr * d, p.g - p.state["prev_grad"]
        p.state["exp_avg"] = _ema(p.state["exp_avg"], size * p.g, beta1)
        p.state["exp_avg_diff"] = _ema(p.state["exp_avg_diff"], size * change, beta2)
        p.state["exp_avg_sq"] = _ema(p.state["exp_avg_sq"], (p.g + beta2 * change) ** 2, beta3)
        p.state["s"] = _ema(p.state["s"], size * p.g, beta3)
        p.state["prev_grad"] = p.g
        denominators.append(np.sqrt(p.state["exp_avg_sq"]) + p.get("eps", 1e-8))
        powers += size**2 * float(np.sum(p.g**2 / denominators[-1]))
        weighted += float(np.sum(p.state["s"] ** 2 / denominators[-1]))
        size_of_s += float(np.sum(np.abs(p.state["s"])))
    if size_of_s != 0:
        model["gsq_weighted"] = _ema(model["gsq_weighted"], powers, beta3)
        estimate = (weighted / (1 - beta3) - model["gsq_weighted"]) / size_of_s
        model["d"] = max(d, min(estimate, d * shared.get("growth_rate", math.inf)))
    for p, denominator in zip(slots, denominators, strict=True):
        step = (p.state["exp_avg"] + beta2 * p.state["exp_avg_diff"]) / denominator
        decay = p.lr * d * p.get("weight_decay", 0.02)
        p.theta = p.theta * (1 - decay) - step if p.get("no_prox", False) else (p.theta - step) / (1 + decay)


def dog(slots: list[Slot], model: Numbers) -> None:
    """DoG, arXiv:2302.12022: one distance over the whole model."""
    shared = slots[0]
    for p in slots:
        p.penalty()
        p.first("x0", p.theta)
    if not model:
        start = math.sqrt(sum(_inner(p.theta, p.theta) for p in slots))
        model.update(rbar=shared.get("reps_rel", 1e-6) * (1 + start), G=shared.get("eps", 1e-8))
    gone = math.sqrt(sum(_inner(p.theta - p.state["x0"], p.theta - p.state["x0"]) for p in slots))
    model["rbar"] = float(np.maximum(model["rbar"], gone))
    model["G"] += sum(_inner(p.g, p.g) for p in slots)
    for p in slots:
        p.theta = p.theta - p.lr * model["rbar"] / math.sqrt(model["G"]) * p.g


def adgd(slots: list[Slot], model: Numbers) -> None:
    """Adaptive gradient descent, arXiv:1910.09529, algorithm 1."""
    shared = slots[0]
    started = bool(model)
    if not started:
        model.update(k=0, step_size=shared.get("first", 1e-6), growth=math.inf)
    model["k"] += 1
    for p in slots:
        p.first("x_prev", p.theta)
        p.first("g_prev", p.g)
    if started:
        moved = math.sqrt(sum(float(np.sum((p.theta - p.state["x_prev"]) ** 2)) for p in slots))
        turned = math.sqrt(sum(float(np.sum((p.g - p.state["g_prev"]) ** 2)) for p in slots))
        bound = moved / (shared.get("damping", 2.0) * turned) if moved > 0 and turned > 0 else math.inf
        grown = math.sqrt(1 + shared.get("amplifier", 1.0) * model["growth"]) * model["step_size"]
        size = float(np.minimum(grown, bound))
        size = size if size < math.inf else model["step_size"]
        model.update(growth=float(np.divide(size, model["step_size"])), step_size=size)
    for p in slots:
        p.state.update(x_prev=p.theta, g_prev=p.g)
        p.theta = p.theta - p.lr * model["step_size"] * p.g


def adagrad_norm(slots: list[Slot], model: Numbers) -> None:
    """AdaGrad-Norm, arXiv:1806.01811: algorithm 1."""
    for p in slots:
        p.penalty()
    model.setdefault("b_sq", slots[0].get("b0", 0.1) ** 2)
    model["b_sq"] += sum(_inner(p.g, p.g) for p in slots)
    for p in slots:
        p.theta = p.theta - p.lr / math.sqrt(model["b_sq"]) * p.g


def adams(slots: list[Slot], _: Numbers) -> None:
    """AdamS, arXiv:2011.11152, as its authors' code; without decay as long as all gradients have been 0."""
    seconds = []
    for p in slots:
        beta1, beta2 = p.get("betas", (0.9, 0.999))
        p.zeros("exp_avg", "exp_avg_sq")
        p.state["exp_avg"] = _ema(p.state["exp_avg"], p.g, beta1)
        p.state["exp_avg_sq"] = _ema(p.state["exp_avg_sq"], p.g * p.g, beta2)
        second = p.state["exp_avg_sq"]
        if p.get("amsgrad", False):
            p.zeros("max_exp_avg_sq")
            second = p.state["max_exp_avg_sq"] = np.maximum(p.state["max_exp_avg_sq"], second)
        seconds.append(second / (1 - beta2**p.t))
    mean = sum(float(np.sum(s)) for s in seconds) / sum(p.theta.size for p in slots)
    for p, second in zip(slots, seconds, strict=True):
        if mean != 0:
            p.theta = p.theta * (1 - p.lr * p.get("weight_decay", 1e-4) / math.sqrt(mean))
        first = p.state["exp_avg"] / (1 - p.get("betas", (0.9, 0.999))[0] ** p.t)
        p.theta = p.theta - p.lr * first / (np.sqrt(second) + p.get("eps", 1e-8))


def avagrad(slots: list[Slot], model: Numbers) -> None:
    """AvaGrad, arXiv:1912.01823, algorithm 2, or with `lagged` its authors' code, which scales by what the step before left."""
    lagged = slots[0].get("lagged", False)
    rates, lasting = [], []
    for p in slots:
        beta1, beta2 = p.get("betas", (0.9, 0.999))
        p.zeros("exp_avg", "exp_avg_sq")
        p.penalty(p.get("decoupled_weight_decay", False))
        p.state["exp_avg"] = _ema(p.state["exp_avg"], p.g, beta1)
        root, eps = np.sqrt(p.state["exp_avg_sq"]), p.get("eps", 0.1)
        rates.append(1 / (root / math.sqrt(1 - beta2 ** (p.t - 1)) + eps) if p.t > 1 else np.zeros(0))
        lasting.append(1 / (root / math.sqrt(1 - beta2**p.t) + eps))
        p.state["exp_avg_sq"] = _ema(p.state["exp_avg_sq"], p.g * p.g, beta2)
    scale = model.get("gamma", 0.0)
    if lagged:
        model["gamma"] = math.sqrt(sum(r.size for r in lasting) / sum(_inner(r, r) for r in lasting))
    elif any(r.size for r in rates):
        scale = math.sqrt(sum(r.size for r in rates) / sum(_inner(r, r) for r in rates))
    for p, rate in zip(slots, rates, strict=True):
        if p.t > 1:
            first = p.state["exp_avg"] / (1 - p.get("betas", (0.9, 0.999))[0] ** p.t)
            p.theta = p.theta - p.lr * scale * rate * first


def adai(slots: list[Slot], _: Numbers) -> None:
    """Adai, arXiv:2006.15815, and AdaiV2 of the authors' code (`dampening`); the mean is not raised to eps."""
    seconds = []
    for p in slots:
        beta2 = p.get("betas", (0.1, 0.99))[1]
        p.zeros("exp_avg", "exp_avg_sq")
        p.first("beta1_prod", np.ones_like(p.theta))
        p.penalty(p.get("decoupled_weight_decay", False))
        p.state["exp_avg_sq"] = _ema(p.state["exp_avg_sq"], p.g * p.g, beta2)
        seconds.append(p.state["exp_avg_sq"] / (1 - beta2**p.t))
    mean = sum(float(np.sum(s)) for s in seconds) / sum(p.theta.size for p in slots)
    for p, second in zip(slots, seconds, strict=True):
        beta0, damp = p.get("betas", (0.1, 0.99))[0], p.get("dampening", 1.0)
        share = second / mean if mean > 0 or math.isnan(mean) else second
        beta1 = np.clip(1 - beta0 * share ** (1 / (3 - 2 * damp)), 0, 1 - p.get("eps", 1e-3))
        p.state["beta1_prod"] = p.state["beta1_prod"] * beta1
        p.state["exp_avg"] = beta1 * p.state["exp_avg"] + (1 - beta1) ** damp * p.g
        p.theta = p.theta - p.lr * beta0 ** (1 - damp) * p.state["exp_avg"] / (1 - p.state["beta1_prod"])
