"""Cases of specs with rows and columns, compared with PyTorch and pytorch_optimizer where they compute the published update."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pytorch_optimizer as po
import torch

from tests import reference_loops_rows as loops
from tests.reference_cases import Array, Case, Hypers, Problem, Trace, case, loop, run_library

B = (0.8, 0.95)
Arrange: TypeAlias = Callable[[dict[str, Array], tuple[int, ...]], dict[str, Array]]
"""A library's states by our keys and in our shapes, from its states and the shape of θ."""


def arranged(spec: str, factory: Callable[..., Any], library: Hypers | None, arrange: Arrange, **hypers: Any) -> Case:
    """A case against a library that keeps its states in other shapes or under other keys."""

    def reference(given: Hypers, problem: Problem) -> Trace:
        trace = run_library(factory, given if library is None else library, given, problem)
        return Trace(trace.thetas, arrange(dict(trace.states), problem.theta.shape))

    return Case(spec, hypers, reference)


def factors(states: dict[str, Array], shape: tuple[int, ...]) -> dict[str, Array]:
    """Factors with the dimensions of θ: the library's lack the one that they were averaged over."""
    kept = {"row": (*shape[:-1], 1), "col": (*shape[:-2], 1, *shape[-1:])}
    return {key: value.reshape(kept.get(key[-3:], np.shape(value))) for key, value in states.items()}


def of_neurons(states: dict[str, Array], shape: tuple[int, ...]) -> dict[str, Array]:
    """Nero's second moment: (rows, 1), or that of single entries."""
    v = states["exp_avg_sq"]
    moment = {"exp_avg_sq": v.reshape(-1, 1)} if len(shape) >= 2 else {"exp_avg_sq_entry": v}
    return {**moment, "scale": states["scale"]}


def of_racs(states: dict[str, Array], shape: tuple[int, ...]) -> dict[str, Array]:
    """RACS' scales: a vector is a matrix of one column there."""
    s, q, norm = states["s"], states["q"], {"norm": states["theta"]}
    if len(shape) >= 2:
        return {"s": s.reshape(-1, 1), "q": q.reshape(1, -1), **norm}
    return {"s_vector": s.reshape(shape), "q_vector": q.reshape(()), **norm}


def of_adalite(states: dict[str, Array], shape: tuple[int, ...]) -> dict[str, Array]:
    """Adalite's second moment as a column and a row."""
    if len(shape) < 2:
        return states
    return {**states, "v_avg_0": states["v_avg_0"].reshape(-1, 1), "v_avg_1": states["v_avg_1"].reshape(1, -1)}


def adafactor(library: Hypers, **hypers: Any) -> Case:
    """A case against pytorch_optimizer's Adafactor, without momentum unless `library` has one; it caps beta2 at 0.999."""
    arguments = {"betas": (None, 0.999), "momentum_dtype": torch.float64, **library}
    return arranged("factored/adafactor", po.AdaFactor, arguments, factors, **hypers)


class NeroOfTensors(po.Nero):
    """Nero whose scale is a float64 tensor throughout: the library keeps a Python number where neurons have no weight."""

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for state in self.state.values():
            state["scale"] = torch.as_tensor(state["scale"], dtype=torch.float64)
        return loss


RANGER21 = {"num_iterations": 100, "disable_lr_scheduler": True}


def ranger21(library: Hypers, **hypers: Any) -> Case:
    """A case of Ranger21 without schedule, clipping and lookahead; three dimensions are shown to the library as two."""
    arguments = {**RANGER21, "agc_clipping_value": math.inf, "lookahead_merge_time": 1000, **library}

    def reference(given: Hypers, problem: Problem) -> Trace:
        shape = problem.theta.shape
        seen = (shape[0], -1) if len(shape) == 3 else shape
        gradients = tuple(g.reshape(seen) for g in problem.gradients)
        shown = replace(problem, theta=problem.theta.reshape(seen), gradients=gradients)
        trace = run_library(po.Ranger21, arguments, given, shown)
        return Trace(tuple(x.reshape(shape) for x in trace.thetas), {k: x.reshape(shape) for k, x in trace.states.items()})

    return Case("factored/ranger21_core", hypers, reference)


came = partial(arranged, "factored/came", po.CAME)
nero = partial(arranged, "factored/nero", NeroOfTensors)
racs = partial(arranged, "factored/racs", po.RACS)
adalite = partial(arranged, "factored/adalite", po.Adalite)
EXACT = {"compute_dtype": torch.float64, "bf16_sr": False}
NO_EPS = 1e-30
"""So small that it does not matter where it is added, but 0/0 is 0 still."""
BOUNDS = ({"eps": 1.0, "delta": 0.6}, {"eps": 3.0, "delta": 0.15}, {"eps": 0.3, "delta": 1.1})
"""Where eps decides which cosines are small: of rows, or only of the tensor."""
_DECAY = {"weight_decay": 0.3}
_PARTS = {"use_softplus": False, "centralize_gradients": False, "normalize_gradients": False}
_RATIOS = {"g_norm_min": 6.0, "ratio_min": 0.6}
_FIXED = {"relative_step": False, "scale_parameter": False}

CASES: tuple[Case, ...] = (
    adafactor({}, lr=0.01),
    adafactor(
        {"betas": (0.8, 0.999), "eps1": 1e-4, "eps2": 0.5, "clip_threshold": 0.4, "decay_rate": -0.5, "weight_decay": 0.3},
        lr=0.01, beta1=0.8, eps=(1e-4, 0.5), clip_threshold=0.4, decay_rate=-0.5, weight_decay=0.3,
    ),
    adafactor({"warmup_init": True, **_DECAY}, lr=0.01, warmup_init=True, **_DECAY),
    adafactor(_FIXED, lr=0.01, **_FIXED),
    loop("factored/adafactor", loops.adafactor, lr=0.01),
    loop("factored/adafactor", loops.adafactor, lr=0.01, relative_step=False, weight_decay=0.3, beta1=0.0, clip_threshold=3.0),
    loop("factored/adafactor", loops.adafactor, lr=0.01, scale_parameter=False, weight_decay=0.3, beta1=0.9),
    case("factored/torch_adafactor", torch.optim.Adafactor, {"eps": (1.1920928955078125e-07, 1e-3)}, lr=0.01),
    case(
        "factored/torch_adafactor", torch.optim.Adafactor,
        lr=0.5, beta2_decay=-0.5, eps=(0.3, 1.5), d=2.0, weight_decay=0.1,
    ),
    case("factored/torch_adafactor", torch.optim.Adafactor, lr=0.01, eps=(1e-3, 0.0), weight_decay=0.3),
    came(None, factors, lr=0.01),
    came(
        {"betas": (0.8, 0.95, 0.9), "eps1": 1e-3, "eps2": 1e-2, "clip_threshold": 0.5, **_DECAY}, factors,
        lr=0.01, betas=(0.8, 0.95, 0.9), eps=(1e-3, 1e-2), clip_threshold=0.5, **_DECAY,
    ),
    came({"clip_threshold": 20.0}, factors, lr=0.01, clip_threshold=20.0),  # which nothing reaches
    loop("factored/adalomo", loops.adalomo, lr=0.01),
    loop(
        "factored/adalomo", loops.adalomo,
        lr=0.01, eps=(1e-4, 0.5), clip_threshold=0.4, decay_rate=-0.5, weight_decay=0.3,
    ),
    nero(None, of_neurons, lr=0.01),
    nero(None, of_neurons, lr=0.05, beta=0.9, eps=1e-2),
    nero(None, of_neurons, lr=0.01, beta=0.7, constraints=False),
    loop("factored/adamp", loops.adamp, lr=0.01),
    loop("factored/adamp", loops.adamp, lr=0.01, betas=B, eps=1e-3, weight_decay=0.3, delta=0.7, wd_ratio=0.5, nesterov=True),
    loop("factored/adamp", loops.adamp, lr=0.01, betas=B, weight_decay=0.3, delta=5.0),
    *(loop("factored/adamp", loops.adamp, lr=0.01, weight_decay=0.3, **bound) for bound in BOUNDS),
    case("factored/adamp", po.AdamP, lr=0.01, eps=NO_EPS, weight_decay=0.3, delta=0.5, wd_ratio=0.3),
    case("factored/adamp", po.AdamP, lr=0.01, eps=NO_EPS, betas=B, weight_decay=0.3, delta=1.5, nesterov=True),
    loop("factored/sgdp", loops.sgdp, lr=0.01),
    loop(
        "factored/sgdp", loops.sgdp,
        lr=0.01, momentum=0.8, dampening=0.3, eps=1e-3, weight_decay=0.3, delta=0.7, wd_ratio=0.5,
    ),
    *(loop("factored/sgdp", loops.sgdp, lr=0.2, weight_decay=0.3, **bound) for bound in BOUNDS),
    case("factored/sgdp", po.SGDP, lr=0.01, momentum=0.9, eps=NO_EPS, weight_decay=0.1, delta=0.5, nesterov=True),
    case("factored/sgdp", po.SGDP, lr=0.01, eps=NO_EPS, weight_decay=0.3, dampening=0.5, delta=2.0),
    case("factored/rose", po.ROSE, EXACT, lr=0.01),
    case("factored/rose", po.ROSE, {**EXACT, **_DECAY, "centralize": False}, lr=0.01, **_DECAY, centralize=False),
    case(
        "factored/rose", po.ROSE, {**EXACT, "weight_decay": 0.0, "stabilize": False},
        lr=0.01, weight_decay=0.0, stabilize=False,
    ),
    case(
        "factored/rose", po.ROSE, {**EXACT, **_DECAY, "weight_decouple": True},
        lr=0.01, **_DECAY, decoupled_weight_decay=True,
    ),
    adalite(None, of_adalite, lr=0.01),
    adalite(
        {**_RATIOS, "betas": B, "weight_decay": 0.3, "tau": 0.5, "eps1": 1e-2, "eps2": 0.2}, of_adalite,
        lr=0.01, **_RATIOS, betas=B, weight_decay=0.3, tau=0.5, eps=(1e-2, 0.2),
    ),
    loop("factored/sm3", loops.sm3, lr=0.1),
    loop("factored/sm3", loops.sm3, lr=0.1, beta=0.9, momentum=0.8, eps=1e-3),
    loop("factored/sm3", loops.sm3, lr=0.1, momentum=0.9),
    racs(None, of_racs, lr=0.01),
    racs(None, of_racs, lr=0.1, beta=0.7, alpha=0.4, gamma=0.8, weight_decay=0.3, eps=1e-2),
    loop("factored/adam_mini", loops.adam_mini, lr=0.01),
    loop("factored/adam_mini", loops.adam_mini, lr=0.01, betas=B, eps=1e-3, weight_decay=0.3, blocks="matrix"),
    loop("factored/adam_mini", loops.adam_mini, lr=0.01, betas=B, weight_decay=0.1, blocks="tensor"),
    loop("factored/rowwise_adagrad", loops.rowwise_adagrad, lr=0.05),
    loop("factored/rowwise_adagrad", loops.rowwise_adagrad, lr=0.05, eps=1e-3, weight_decay=0.1, initial_accumulator_value=0.5),
    ranger21({}, lr=0.01),
    ranger21(
        {"betas": B, "beta0": 0.6, "eps": 1e-3, "weight_decay": 0.3, "norm_loss_factor": 0.1, "beta_softplus": 5.0},
        lr=0.01, betas=B, beta0=0.6, eps=1e-3, weight_decay=0.3, norm_loss_factor=0.1, beta_softplus=5.0,
    ),
    ranger21(_PARTS, lr=0.01, **_PARTS),
)  # fmt: skip
