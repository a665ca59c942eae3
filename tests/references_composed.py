"""Cases of compositions: the shipped ones, and every modifier on AdamW, against libraries and loops that know of no stages.

A case's `spec` is the name of a shipped composition (`composed/ranger`) or a modifier's (`modifiers/cautious`), which stands
for AdamW with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from types import MappingProxyType
from typing import Any

import numpy as np
import pytorch_optimizer as po
import torch

from optc.cli.specs import spec_of
from optc.compiler.compose.library import named, shipped
from optc.dsl.check import check
from optc.dsl.program import Program
from optc.dsl.source import Source
from tests.compiler.test_compose_numbers import BETAS, EPS, WRITTEN, adam_with, by_hand, scale_of_kept
from tests.oracle import program_of as written_out
from tests.reference_cases import Case, Hypers, Problem, Trace, case, run_library
from tests.reference_loops_model import ModelProblem
from tests.references_rows import RANGER21, ranger21
from tests.specs.test_model_wide import PROBLEMS, Row, run_model_library

_ADAM: Mapping[str, Any] = MappingProxyType({"lr": 0.01, "betas": BETAS, "eps": EPS, "weight_decay": 0.3})
_ATAN2 = MappingProxyType({key: value for key, value in _ADAM.items() if key != "eps"})


def composition(spec: str) -> str:
    """The text of a composition of the table."""
    kind, _, name = spec.partition("/")
    return named(shipped()[name]).text if kind == "composed" else f"optimizer Modified = {adam_with(name)}\n"


@cache
def program_of(spec: str) -> Program:
    """A composition of the table, or what it stands on, checked."""
    if spec.startswith("factored/"):
        return written_out(spec)
    kind, _, name = spec.partition("/")
    source = named(shipped()[name]) if kind == "composed" else Source("<test>", composition(spec))
    expanded = spec_of(source)
    return check(expanded.spec, expanded.source)


def hand(spec: str, names: set[str], hypers: Hypers) -> Case:
    """A case against the loop of Adam with modifiers of those names."""
    return Case(spec, hypers, lambda given, problem: by_hand(names, problem, given["lr"]))


def unbounded_mars(hypers: Hypers, problem: Problem) -> Trace:
    """Adam on gradients that are corrected by their change, whatever their norm is then."""
    slopes, factor = problem.gradients, 0.3 * BETAS[0] / (1 - BETAS[0])
    changed = (g + factor * (g - before) for g, before in zip(slopes, (slopes[0], *slopes), strict=False))
    return by_hand(set(), replace(problem, gradients=tuple(changed)), hypers["lr"])


def cautious_lion(hypers: Hypers, problem: Problem) -> Trace:
    """Lion whose direction loses what points against the gradient, and is scaled by the share that is kept, or not at all."""
    theta, m, thetas = problem.theta.copy(), np.zeros_like(problem.theta), []
    beta1, beta2 = hypers["betas"]
    for _, lr, g, _ in problem.steps(hypers["lr"]):
        u = np.sign(beta1 * m + (1 - beta1) * g)
        m = beta2 * m + (1 - beta2) * g
        keep = u * g > 0
        scale = scale_of_kept(keep, {hypers["cautious_normalize"]})
        theta = (1 - lr * hypers["weight_decay"]) * theta - lr * scale * np.where(keep, u, 0.0)
        thetas.append(theta.copy())
    return Trace(tuple(thetas), {"exp_avg": m})


def ranger(**hypers: Any) -> Case:
    """A case against pytorch_optimizer's Ranger, whose slow weights have another key."""

    def reference(given: Hypers, problem: Problem) -> Trace:
        trace = run_library(po.Ranger, {**given, "degenerated_to_sgd": True}, given, problem)
        return Trace(trace.thetas, {**trace.states, "lookahead_slow": trace.states["slow_buffer"]})

    return Case("composed/ranger", hypers, reference)


def whole_ranger21(library: Hypers, **hypers: Any) -> Case:
    """A case of Ranger21 with clipping and lookahead."""
    return replace(ranger21(library, **hypers), spec="composed/ranger21")


_LION = {"lr": 0.01, "betas": (0.9, 0.8), "weight_decay": 0.3}
_PARTS = {"use_softplus": False, "centralize_gradients": False, "normalize_gradients": False}
_MERGED = {"lookahead_merge_time": 3, "lookahead_blending_alpha": 0.7}
_SLOW = {"lookahead_k": 3, "lookahead_alpha": 0.7}

CASES: tuple[Case, ...] = (
    *(hand(f"modifiers/{name}", {name}, {"lr": 0.01}) for name in (*WRITTEN, "undebiased")),
    *(
        hand("modifiers/cautious", {"cautious", kind}, {"lr": 0.01, "cautious_normalize": kind, "cautious_floor": 0.6})
        for kind in ("share", "none")
    ),
    Case("modifiers/mars", {"lr": 0.01, "mars_clip": False}, unbounded_mars),
    *(
        Case("composed/cautious_lion", {**_LION, "cautious_normalize": kind, "cautious_floor": 0.6}, cautious_lion)
        for kind in ("share", "none")
    ),
    *(
        hand(f"composed/{name}", {modifier, "decoupled"} | more, {**hypers, "amsgrad": bool(more)})
        for name, modifier, hypers in (
            ("adam_atan2", "atan2", _ATAN2),
            ("adamw_gc", "centralize", _ADAM),
            ("cautious_adamw", "cautious", _ADAM),
            ("nadamw", "nesterov", _ADAM),
            ("ortho_adamw", "orthograd", _ADAM),
        )
        for more in (set(), {"amsgrad"})
    ),
    *(
        hand("composed/cautious_adamw", {"cautious", "decoupled", kind}, {**_ADAM, "cautious_normalize": kind, **how})
        for kind, how in (("share", {"cautious_floor": 0.6}), ("none", {}))
    ),
    hand("composed/adamw_prox", {"proximal"}, _ADAM),
    hand("composed/adamw_prox", {"proximal", "amsgrad"}, {**_ADAM, "amsgrad": True}),
    case("composed/cautious_lion", po.Lion, {"cautious": True}, lr=0.01),
    case(
        "composed/cautious_lion", po.Lion, {"betas": (0.9, 0.8), "weight_decay": 0.3, "cautious": True},
        lr=0.01, betas=(0.9, 0.8), weight_decay=0.3,
    ),
    ranger(lr=0.05, betas=(0.9, 0.99), weight_decay=0.3),
    ranger(lr=0.05, eps=1e-3),
    whole_ranger21({"agc_clipping_value": 0.3, "agc_eps": 0.5, **_MERGED}, lr=0.05, agc_share=0.3, agc_least=0.5, **_SLOW),
    whole_ranger21(
        {"agc_clipping_value": 0.01, "weight_decay": 0.9, "norm_loss_factor": 0.1, **_MERGED},
        lr=0.05, weight_decay=0.9, norm_loss_factor=0.1, **_SLOW,
    ),
    whole_ranger21(
        {**_PARTS, "agc_clipping_value": 0.3, "agc_eps": 0.5, **_MERGED},
        lr=0.05, agc_share=0.3, agc_least=0.5, **_PARTS, **_SLOW,
    ),
)  # fmt: skip
_RANGER21: Callable[..., torch.optim.Optimizer] = po.Ranger21
_NO_CLIPPING = {"agc_clipping_value": math.inf, "lookahead_merge_time": 1000}
_IN_RANGER21 = {
    "agc_share": "agc_clipping_value",
    "agc_least": "agc_eps",
    "lookahead_k": "lookahead_merge_time",
    "lookahead_alpha": "lookahead_blending_alpha",
}
ROWS: tuple[Row, ...] = (
    Row(
        "modifiers/clip_global_norm",
        partial(run_model_library, partial(torch.optim.AdamW, weight_decay=0.0), {}, 0.7),
        {"betas": BETAS}, {"lr": 0.01, "eps": EPS}, {"lr": 0.02, "eps": 0.1},
    ),
    Row(
        "factored/ranger21_core",
        partial(run_model_library, partial(_RANGER21, **RANGER21, **_NO_CLIPPING), {}, None),
        {"weight_decay": 0.9}, {"lr": 0.05}, {"lr": 0.1},
    ),
    Row(
        "composed/ranger21",
        partial(run_model_library, partial(_RANGER21, **RANGER21), _IN_RANGER21, None),
        {"weight_decay": 0.9, "agc_share": 0.3, "agc_least": 0.5, **_SLOW}, {"lr": 0.05}, {"lr": 0.1},
    ),
)  # fmt: skip
"""Compositions with numbers of the whole model, and what one of them stands on, on models of two groups."""


def model_problems(spec: str) -> dict[str, ModelProblem]:
    """The problems for a row; Ranger21's library counts the steps of the lookahead for all parameters together."""
    return {name: everyone(p) if "ranger21" in spec else p for name, p in PROBLEMS.items()}


def everyone(problem: ModelProblem) -> ModelProblem:
    """The problem with gradients of zeros where there is none."""
    filled = (
        tuple(np.zeros_like(theta) if g is None else g for g, theta in zip(of_step, problem.thetas, strict=True))
        for of_step in problem.gradients
    )
    return replace(problem, gradients=tuple(filled))


NOTHING_LEFT = frozenset({"modifiers/orthograd", "composed/ortho_adamw"})
"""What leaves only rounding errors of a gradient of one number: no two implementations share them."""

SPECS: tuple[str, ...] = tuple(dict.fromkeys(c.spec for c in CASES))
"""The compositions of the table."""
