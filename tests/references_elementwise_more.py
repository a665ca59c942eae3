"""The table of further specs: descendants of Adam, and others that step by signs or by estimated curvature.

The library is pytorch_optimizer wherever it computes the published update, in the settings in which it does; else a float64
loop of `reference_loops_elementwise_more`, each of which says where the library differs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import pytorch_optimizer as po
import torch

from tests import reference_loops_elementwise_more as loops
from tests.reference_cases import Case, Hypers, Problem, Trace, case, float64_by_default, library_states, loop, run_library
from tests.references_elementwise import RootWithoutFloor

B = (0.8, 0.95)


class MARSWithoutFloor(RootWithoutFloor, po.MARS):
    """MARS without what is added under the root; eps is before the bias of the root is removed, and shows unless it is tiny.

    The step size of vectors follows a schedule from the first lr of a problem on.
    """

    apply_ams_bound = staticmethod(partial(po.MARS.apply_ams_bound, exp_avg_sq_eps=0.0))

    def __init__(self, params: Any, lr: float, **arguments: Any) -> None:
        super().__init__(params, lr=0.01, **arguments)
        self.param_groups[0]["lr"] = lr


def grokfast(library: Hypers, /, **hypers: Any) -> Case:
    """GrokFastAdamW with the step size that the library divides at construction, and a schedule then replaces."""
    divisor = 1 + hypers.get("grokfast_lamb", 2.0) if hypers.get("normalize_lr", True) else 1.0

    def reference(given: Hypers, problem: Problem) -> Trace:
        return run_library(po.GrokFastAdamW, library, {"lr": given["lr"] / divisor}, problem)

    return Case("adam/grokfast_adamw", MappingProxyType(hypers), reference)


def spam(library: Hypers, /, **hypers: Any) -> Case:
    """SPAM at density 1: the library keeps the moments of a matrix as vectors of the mask's entries, here all of them."""

    def reference(given: Hypers, problem: Problem) -> Trace:
        trace = run_library(po.SPAM, library, given, problem)
        moments = {key: np.reshape(trace.states[key], problem.theta.shape) for key in ("exp_avg", "exp_avg_sq")}
        return Trace(trace.thetas, moments)

    return Case("adam/spam", MappingProxyType(hypers), reference)


def sophia_h(library: Hypers, /, **hypers: Any) -> Case:
    """SophiaH with given Hessian estimates: the library takes one as an argument of the step after it."""

    def reference(given: Hypers, problem: Problem) -> Trace:
        thetas = []
        with float64_by_default():
            parameter = torch.nn.Parameter(torch.tensor(problem.theta, dtype=torch.float64))
            optimizer = po.SophiaH([parameter], lr=given["lr"], **library, update_period=10**9)
            estimate: np.ndarray[Any, Any] | None = np.zeros_like(problem.theta)  # its first step must have one
            for _, lr, g, calls in problem.steps(given["lr"]):
                optimizer.param_groups[0]["lr"] = lr
                parameter.grad = torch.tensor(g, dtype=torch.float64)
                optimizer.step(hessian=None if estimate is None else [torch.tensor(estimate, dtype=torch.float64)])
                thetas.append(parameter.detach().numpy().copy())
                estimate = calls[0].inputs["g_s"] if calls else None
        return Trace(tuple(thetas), library_states(optimizer, parameter))

    return Case("second_order/sophia_h", MappingProxyType(hypers), reference)


def both(make: Callable[..., Case], /, **hypers: Any) -> Case:
    """A case whose library takes the spec's own keyword arguments."""
    return make({key: value for key, value in hypers.items() if key != "lr"}, **hypers)


CASES: tuple[Case, ...] = (
    case("adam/grams", po.Grams, lr=0.01),
    case("adam/grams", po.Grams, lr=0.01, betas=B, eps=1e-3, weight_decay=0.3),
    loop("adam/mars", loops.mars, lr=0.01),
    loop("adam/mars", loops.mars, lr=0.01, betas=B, gamma=0.2, eps=1e-3, weight_decay=0.3),
    loop("adam/mars", loops.mars, lr=0.01, betas=B, correct_first=True),
    loop("adam/mars", loops.mars, lr=0.01, mars_type="lion", weight_decay=0.3),
    loop("adam/mars", loops.mars, lr=0.01, betas=B, gamma=0.2, clip=1.0, correct_first=True),
    loop("adam/mars", loops.mars, lr=0.01, clip=5.0, optimize_1d=False),
    case(
        "adam/mars",
        MARSWithoutFloor,
        {"optimize_1d": False, "lr_1d": 0.005, "betas_1d": B, "weight_decay_1d": 0.3, "weight_decay": 0.1, "eps": 1e-30}
        | {"foreach": False},  # which makes a whole tensor NaN where its norm is, while the equations ask whether it is above
        lr=0.01,
        optimize_1d=False,
        lr_1d_factor=0.5,
        betas_1d=B,
        weight_decay_1d=0.3,
        weight_decay=0.1,
        eps=1e-30,
        clip=1.0,
        correct_first=True,
    ),
    loop("adam/mars", loops.mars, lr=0.01, mars_type="lion", betas=B, gamma=0.2, correct_first=True),
    case("adam/exadam", po.EXAdam, lr=0.01),
    case("adam/exadam", po.EXAdam, lr=0.01, betas=B, eps=1e-3, weight_decay=0.3),
    loop("sign/focus", loops.focus, lr=0.01),
    loop("sign/focus", loops.focus, lr=0.01, betas=B, gamma=0.3, weight_decay=0.3),
    both(grokfast, lr=0.01),
    both(grokfast, lr=0.01, betas=B, eps=0.3, weight_decay=0.3, grokfast_alpha=0.8, grokfast_lamb=0.5),
    both(grokfast, lr=0.01, betas=B, normalize_lr=False),
    both(grokfast, lr=0.01, grokfast_lamb=0.0),
    loop("adam/grokfast_adamw", loops.grokfast_adamw, lr=0.01, grokfast_after_step=7, weight_decay=0.3),
    case("adam/ano", po.Ano, lr=0.01),
    case("adam/ano", po.Ano, lr=0.01, betas=(0.8, 0.7), eps=1e-3, weight_decay=0.3),
    loop("adam/ano", loops.ano, lr=0.01, logarithmic_schedule=True),
    case("adam/dual_adam", po.DualAdam, lr=0.01),
    case(
        "adam/dual_adam",
        po.DualAdam,
        {"betas": B, "eps": 1e-3, "switch_rate": 0.07, "weight_decay": 0.3, "weight_decouple": True},
        lr=0.01,
        betas=B,
        eps=1e-3,
        switch_rate=0.07,
        weight_decay=0.3,
    ),
    case("adam/adamg", po.AdamG, lr=1.0),
    case("adam/adamg", po.AdamG, lr=0.3, betas=(0.8, 0.95, 0.9), eps=1e-3, p=0.5, q=0.4, weight_decay=0.1),
    loop("adam/adamc", loops.adamc, lr=0.01),
    loop("adam/adamc", loops.adamc, lr=0.01, betas=B, eps=1e-3, weight_decay=0.3),
    loop("adam/adamc", loops.adamc, lr=0.01, betas=B, weight_decay=0.3, max_lr=0.05),
    both(spam, lr=0.01),
    spam(
        {"betas": B, "eps": 1e-3, "threshold": 2.5, "warmup_epoch": 4, "update_proj_gap": 9, "grad_accu_steps": 3},
        lr=0.01,
        betas=B,
        eps=1e-3,
        threshold=2.5,
        reset_interval=9,
        reset_warmup=4,
        clip_after=3,
    ),
    spam(
        {"weight_decay": 0.3, "threshold": 20, "warmup_epoch": 0, "update_proj_gap": 5, "grad_accu_steps": 2},
        lr=0.01,
        weight_decay=0.3,
        threshold=20.0,
        reset_interval=5,
        reset_warmup=0,
        clip_after=2,
    ),
    spam(
        {"threshold": 3.0, "warmup_epoch": 6, "update_proj_gap": 4, "grad_accu_steps": 2},
        lr=0.01,
        threshold=3.0,
        reset_interval=4,
        reset_warmup=6,
        clip_after=2,
    ),
    case("adaptive/adasmooth", po.AdaSmooth, lr=0.01),
    case("adaptive/adasmooth", po.AdaSmooth, lr=0.01, betas=(0.3, 0.9), eps=1e-3, weight_decay=0.1),
    loop("adaptive/bcos", loops.bcos_c, lr=0.01),
    loop("adaptive/bcos", loops.bcos_c, lr=0.01, beta=0.7, beta2=0.8, weight_decay=0.3, eps=1e-3),
    loop("adaptive/bcos", loops.bcos_c, lr=0.01, beta=0.7, simple_cond=False),
    case("adaptive/bcos", po.BCOS, lr=0.01, mode="m"),
    case("adaptive/bcos", po.BCOS, lr=0.01, mode="m", beta=0.7, beta2=0.9, weight_decay=0.0),
    case("adaptive/bcos", po.BCOS, lr=0.01, mode="g", eps=1e-3),
    case("adaptive/bcos", po.BCOS, lr=0.01, mode="g", beta=0.7, beta2=0.9),
    both(sophia_h, lr=0.06),
    both(sophia_h, lr=0.01, betas=B, p=1.5, eps=0.05, weight_decay=0.3),
)
