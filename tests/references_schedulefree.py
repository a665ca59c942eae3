"""Cases of optimizers without a schedule, of SCION and of SaRA, compared with pytorch_optimizer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import pytorch_optimizer as po
import torch
from pytorch_optimizer.optimizer.scion import LMONorm

from tests import reference_loops_schedulefree as loops
from tests.reference_cases import Array, Case, Hypers, Problem, Trace, case, loop, run_library
from tests.references_elementwise import RootWithoutFloor

B = (0.8, 0.95)


class ShowingX(torch.optim.Optimizer):
    """It shows x, which the library finds from y and z, and the numbers of the group as states."""

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for group in self.param_groups:
            beta = group["momentum"] if "momentum" in group else group["betas"][0]
            for p in group["params"]:
                state = self.state[p]
                shown = {key: torch.tensor(float(group[key])) for key in ("weight_sum", "lr_max")}
                state.update({**shown, "x": torch.lerp(p.detach(), state["z"], 1 - 1 / beta)})
        return loss


class SGD(ShowingX, po.ScheduleFreeSGD):
    pass


class RAdam(ShowingX, po.ScheduleFreeRAdam):
    pass


class AdamW(ShowingX, RootWithoutFloor, po.ScheduleFreeAdamW):
    """Without what the library adds to the second moment under the root."""

    apply_ams_bound = staticmethod(partial(po.ScheduleFreeAdamW.apply_ams_bound, exp_avg_sq_eps=0.0))


def scion(given: Hypers, problem: Problem) -> Trace:
    """The library on θ as one matrix. A vector is divided by its root mean square, or its signs are those of one column."""
    shape, kind, normalize = problem.theta.shape, given.get("norm_type", "row"), given.get("normalize", True)
    flat = (shape[0], problem.theta.size // shape[0]) if len(shape) >= 2 else (-1, 1) if kind == "sign" else shape
    options: dict[str, Any] = {}
    if kind == "none":
        norm = LMONorm.NONE
    elif kind == "sign":
        norm, options = LMONorm.SIGN, {"normalize": normalize}
    elif len(shape) < 2:
        norm = LMONorm.BIAS
    else:
        norm, options = {"row": LMONorm.ROW, "col": LMONorm.COL}[kind], {"normalized": normalize}
    library = {key: value for key, value in given.items() if key not in ("norm_type", "normalize")}
    there = replace(problem, theta=problem.theta.reshape(flat), gradients=tuple(g.reshape(flat) for g in problem.gradients))
    found = run_library(po.SCION, {**library, "norm_type": norm, "norm_kwargs": options}, given, there)
    thetas = tuple(theta.reshape(shape) for theta in found.thetas)
    return Trace(thetas, {key: value.reshape(shape) for key, value in found.states.items()})


def _scion(**hypers: Any) -> Case:
    return Case("trust/scion", MappingProxyType(hypers), scion)


def sara(given: Hypers, problem: Problem) -> Trace:
    """The library keeps moments of the trained entries only."""
    arguments = {key: value for key, value in given.items() if key not in ("amsgrad", "progressive_iter")}
    arguments |= {"ams_bound": given.get("amsgrad", False), "progressive_iter": given.get("progressive_iter", -1)}
    found = run_library(po.SaRA, arguments, given, problem)
    mask = found.states["mask"] > 0

    def spread(values: Array) -> Array:
        whole = np.zeros(mask.shape)
        whole[mask] = values.reshape(-1)
        return whole

    return Trace(found.thetas, {key: value if key == "mask" else spread(value) for key, value in found.states.items()})


SARA = {"lr": 0.05, "betas": B, "threshold": 0.8, "weight_decay": 0.3}
CASES: tuple[Case, ...] = (
    case("momentum/schedulefree_sgd", SGD, {"momentum": 0.9}, lr=0.1, momentum=0.9),
    case(
        "momentum/schedulefree_sgd", SGD, lr=0.1, momentum=0.7, weight_decay=0.1, r=0.5, weight_lr_power=1.0, warmup_steps=7
    ),
    loop("momentum/schedulefree_sgd", loops.sgd, lr=0.1, momentum=0.5, weight_decay=0.1, r=1.0, warmup_steps=4),
    loop("momentum/schedulefree_sgd", loops.sgd, lr=0.1, momentum=0.0, weight_lr_power=0.0),
    case("adam/schedulefree_adamw", AdamW, lr=0.01),
    case("adam/schedulefree_adamw", AdamW, lr=0.01, betas=B, eps=1e-3, weight_decay=0.3, r=0.5, weight_lr_power=1.0),
    case("adam/schedulefree_adamw", AdamW, lr=0.01, betas=B, warmup_steps=7),
    case(
        "adam/schedulefree_adamw",
        AdamW,
        {"betas": B, "decoupling_c": 3.0, "ams_bound": True, "weight_decay": 0.1},
        lr=0.01, betas=B, decoupling_c=3.0, amsgrad=True, weight_decay=0.1,
    ),
    loop("adam/schedulefree_adamw", loops.adamw, lr=0.01, betas=B, eps=1e-3, weight_decay=0.3, warmup_steps=5),
    case("adam/schedulefree_radam", RAdam, lr=0.01),
    case("adam/schedulefree_radam", RAdam, lr=0.01, betas=B, eps=1e-3, weight_decay=0.3, r=0.5, weight_lr_power=1.0),
    case("adam/schedulefree_radam", RAdam, lr=0.01, betas=(0.9, 0.99), silent_sgd_phase=False, weight_decay=0.1),
    _scion(lr=0.05),
    _scion(lr=0.05, momentum=0.3, normalize=False, scale=3.0, weight_decay=0.3),
    _scion(lr=0.05, momentum=0.3, constraint=True),
    _scion(lr=0.05, norm_type="col", weight_decay=0.3),
    _scion(lr=0.05, momentum=1.0, norm_type="col", normalize=False, constraint=True, scale=2.0),
    _scion(lr=0.05, norm_type="sign"),
    _scion(lr=0.05, norm_type="sign", normalize=False, weight_decay=0.1),
    _scion(lr=0.05, norm_type="none", momentum=0.5, scale=0.5),
    loop("trust/scion", loops.scion, lr=0.05, eps=0.1, weight_decay=0.1),
    loop("trust/scion", loops.scion, lr=0.05, eps=0.1, norm_type="col", normalize=False),
    loop("trust/scion", loops.scion, lr=0.05, norm_type="sign", constraint=True),
    Case("adam/sara", MappingProxyType(SARA), sara),
    Case("adam/sara", MappingProxyType({**SARA, "progressive_iter": 5, "amsgrad": True, "eps": 1e-3}), sara),
    loop("adam/sara", loops.sara, **SARA, progressive_iter=3, amsgrad=True),
    loop("adam/sara", loops.sara, lr=0.05, threshold=1.2),
)  # fmt: skip
