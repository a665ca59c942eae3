"""Cases of elementwise specs that are compared with pytorch_optimizer where it computes the published update.

Where it deviates in one scalar or one dtype, a subclass takes that back; where in more, there is a loop in
`tests.reference_loops_elementwise`. Each says what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import pytorch_optimizer as po
import torch
from pytorch_optimizer.base.optimizer import BaseOptimizer

from tests import reference_loops_elementwise as loops
from tests.reference_cases import Array, Case, Hypers, Problem, Trace, case, loop

States: TypeAlias = Mapping[str, Array]
B = (0.8, 0.95)


class RootWithoutFloor(BaseOptimizer):
    """The library adds 1e-15 to the second moment under the root; it shows where a gradient is tiny."""

    @staticmethod
    def apply_ams_bound_foreach(
        ams_bound: bool,
        exp_avg_sqs: list[torch.Tensor],
        max_exp_avg_sqs: list[torch.Tensor],
        eps: float,
        exp_avg_sq_eps: float = 0.0,
    ) -> Sequence[torch.Tensor]:
        return BaseOptimizer.apply_ams_bound_foreach(ams_bound, exp_avg_sqs, max_exp_avg_sqs, eps, exp_avg_sq_eps)


class DiffGradWithoutFloor(RootWithoutFloor, po.DiffGrad):
    """DiffGrad as its authors have it."""


class AdaBoundOfOneLr(RootWithoutFloor, po.AdaBound):
    """The library scales final_lr by lr over the lr at construction. Here over `base_lr` or, without it, not at all."""

    def __init__(self, params: Any, base_lr: float | None = None, **arguments: Any) -> None:
        super().__init__(params, **arguments)
        self.base_lr = base_lr

    def step(self, closure: Any = None) -> Any:
        self.base_lrs = [group["lr"] if self.base_lr is None else self.base_lr for group in self.param_groups]
        return super().step(closure)


class MADGRADWithoutEpsilonInLr(po.MADGRAD):
    """The library's step size is lr + eps."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["lr"] -= group["eps"]
        return super().step(closure)


class QHAdamInFloat64(po.QHAdam):
    """The library has its sums of weights in float32."""

    def init_group(self, group: Any, **arguments: Any) -> None:
        super().init_group(group, **arguments)
        for parameter in group["params"]:
            state = self.state[parameter]
            for key in ("beta1_weight", "beta2_weight"):
                state[key] = state[key].to(torch.float64)


def converting(given: Case, convert: Callable[[Hypers, States, int], States]) -> Case:
    """The case, with the library's states after so many steps converted into what the spec keeps."""

    def reference(hypers: Hypers, problem: Problem) -> Trace:
        trace = given.run(problem)
        return Trace(trace.thetas, convert(hypers, trace.states, len(problem.gradients)))

    return replace(given, reference=reference)


def biased(hypers: Hypers, states: States, steps: int) -> States:
    """QHAdam's library stores debiased moments."""
    beta1, beta2 = hypers.get("betas", (0.995, 0.999))
    return {
        "exp_avg": states["exp_avg"] * (1 - beta1**steps),
        "exp_avg_sq": states["exp_avg_sq"] * (1 - beta2**steps),
    }


def qhadam(library: Hypers, /, **hypers: Any) -> Case:
    return converting(case("adam/qhadam", QHAdamInFloat64, library, **hypers), biased)


L2 = {"weight_decay": 0.1, "weight_decouple": False}
DECOUPLED = {"weight_decay": 0.3, "weight_decouple": True}

CASES: tuple[Case, ...] = (
    case("adam/yogi", po.Yogi, lr=0.01),
    case(
        "adam/yogi",
        po.Yogi,
        {"betas": B, "eps": 1e-2, "initial_accumulator": 0.1, **L2},
        lr=0.01,
        betas=B,
        eps=1e-2,
        initial_accumulator=0.1,
        weight_decay=0.1,
        decoupled_weight_decay=False,
    ),
    case("adam/yogi", po.Yogi, lr=0.01, betas=B, initial_accumulator=0.0, weight_decay=0.3),
    loop("adam/yogi", loops.yogi, lr=0.01, betas=B, initial_accumulator=0.0, weight_decay=0.3, bias_correction=False),
    case("adam/adabound", AdaBoundOfOneLr, {"weight_decouple": False}, lr=0.01),
    case(
        "adam/adabound",
        AdaBoundOfOneLr,
        {"betas": B, "final_lr": 0.02, "gamma": 0.1, "eps": 1e-3, "base_lr": 0.01, "ams_bound": True, **L2},
        lr=0.01,
        betas=B,
        final_lr=0.02,
        gamma=0.1,
        eps=1e-3,
        weight_decay=0.1,
        amsbound=True,
        base_lr=0.01,
    ),
    case(
        "adam/adabound",
        AdaBoundOfOneLr,
        {"betas": B, "final_lr": 0.03, "gamma": 0.02, **DECOUPLED},
        lr=0.01,
        betas=B,
        final_lr=0.03,
        gamma=0.02,
        weight_decay=0.3,
        decoupled_weight_decay=True,
    ),
    case("adaptive/madgrad", MADGRADWithoutEpsilonInLr, lr=0.01),
    case("adaptive/madgrad", MADGRADWithoutEpsilonInLr, lr=0.05, momentum=0.0, eps=1e-3, weight_decay=0.1),
    case(
        "adaptive/madgrad",
        MADGRADWithoutEpsilonInLr,
        {"momentum": 0.7, "eps": 0.0, **DECOUPLED},
        lr=0.01,
        momentum=0.7,
        eps=0.0,
        weight_decay=0.3,
        decoupled_weight_decay=True,
    ),
    qhadam({"betas": (0.995, 0.999), "nus": (0.7, 1.0)}, lr=0.01),
    qhadam(
        {"betas": B, "nus": (0.6, 0.9), "eps": 1e-3, **L2},
        lr=0.01,
        betas=B,
        nus=(0.6, 0.9),
        eps=1e-3,
        weight_decay=0.1,
    ),
    qhadam(
        {"betas": B, "nus": (1.0, 1.0), **DECOUPLED},
        lr=0.01,
        betas=B,
        nus=(1.0, 1.0),
        weight_decay=0.3,
        decoupled_weight_decay=True,
    ),
    case("momentum/qhm", po.QHM, {"momentum": 0.999, "nu": 0.7}, lr=0.01),
    case("momentum/qhm", po.QHM, {"momentum": 0.9, "nu": 0.5, **L2}, lr=0.01, momentum=0.9, nu=0.5, weight_decay=0.1),
    case(
        "momentum/qhm",
        po.QHM,
        {"momentum": 0.8, "nu": 1.0, **DECOUPLED},
        lr=0.01,
        momentum=0.8,
        nu=1.0,
        weight_decay=0.3,
        decoupled_weight_decay=True,
    ),
    case("adaptive/msvag", po.MSVAG, lr=0.01),
    case("adaptive/msvag", po.MSVAG, lr=0.05, beta=0.7),
    loop("adam/padam", loops.padam, lr=0.01),
    loop("adam/padam", loops.padam, lr=0.01, betas=B, partial=0.125, eps=1e-3, weight_decay=0.1),
    loop("adam/padam", loops.padam, lr=0.01, betas=(0.9, 0.5), weight_decay=0.3, decoupled_weight_decay=True),
    case("adam/padam", po.PAdam, {}, lr=0.01, amsgrad=False),
    case(
        "adam/padam",
        po.PAdam,
        {"betas": B, "partial": 0.5, "eps": 1e-3, **L2},
        lr=0.01,
        betas=B,
        partial=0.5,
        eps=1e-3,
        weight_decay=0.1,
        amsgrad=False,
    ),
    case("adam/diffgrad", DiffGradWithoutFloor, lr=0.01),
    case("adam/diffgrad", DiffGradWithoutFloor, {"betas": B, "eps": 1e-3, **L2}, lr=0.01, betas=B, eps=1e-3, weight_decay=0.1),
    case(
        "adam/diffgrad",
        DiffGradWithoutFloor,
        {"betas": B, **DECOUPLED},
        lr=0.01,
        betas=B,
        weight_decay=0.3,
        decoupled_weight_decay=True,
    ),
    case("adam/adamod", po.AdaMod, {"betas": (0.9, 0.999, 0.999)}, lr=0.01),
    case("adam/adamod", po.AdaMod, lr=0.01, betas=(0.8, 0.95, 0.7), eps=1e-3, weight_decay=0.3),
    loop("adam/laprop", loops.laprop, lr=0.01),
    loop("adam/laprop", loops.laprop, lr=0.01, betas=B, eps=1e-3, weight_decay=0.3),
    loop("adam/laprop", loops.laprop, lr=0.01, betas=B, eps=1e-2, centered=True, steps_before_using_centered=4),
    loop("adam/laprop", loops.laprop, lr=0.01, betas=B, eps=1e-2, centered=True, amsgrad=True),
    loop("adam/laprop", loops.laprop, lr=0.01, amsgrad=True, weight_decay=0.1),
    loop("adam/adapnm", loops.adapnm, lr=0.01),
    loop("adam/adapnm", loops.adapnm, lr=0.01, betas=(0.8, 0.6, 0.5), eps=1e-3, weight_decay=0.3),
    loop("adam/adapnm", loops.adapnm, lr=0.01, betas=(0.8, 0.95, 1.5), amsgrad=False),
    case("momentum/pnm", po.PNM, lr=0.01),
    case(
        "momentum/pnm",
        po.PNM,
        {"betas": (0.8, 0.5), **L2},
        lr=0.01,
        betas=(0.8, 0.5),
        weight_decay=0.1,
        decoupled_weight_decay=False,
    ),
    case("momentum/pnm", po.PNM, lr=0.01, betas=(0.7, 0.0), weight_decay=0.3),
    case("momentum/accsgd", po.AccSGD, lr=0.01),
    case("momentum/accsgd", po.AccSGD, lr=0.01, kappa=50.0, xi=5.0, constant=0.5, weight_decay=0.1),
    loop("momentum/aggmo", loops.aggmo, lr=0.01),
    loop("momentum/aggmo", loops.aggmo, lr=0.01, betas=(0.5, 0.7, 0.8), weight_decay=0.1),
    case("momentum/pid", po.PID, {"momentum": 0.9}, lr=0.001),
    case(
        "momentum/pid",
        po.PID,
        lr=0.001,
        momentum=0.7,
        dampening=0.3,
        integral=2.0,
        derivative=4.0,
        weight_decay=0.1,
    ),
    loop("momentum/pid", loops.pid, lr=0.001, momentum=0.0),
    loop("momentum/srmm", loops.srmm, lr=0.01),
    loop("momentum/srmm", loops.srmm, lr=0.01, beta=0.8, memory_length=7),
    case("adaptive/ftrl", po.FTRL, lr=0.05),
    case("adaptive/ftrl", po.FTRL, lr=0.05, beta=1.0, lambda_1=0.3, lambda_2=0.2),
    loop("adaptive/ftrl", loops.ftrl, lr=0.05, lr_power=-0.3, beta=0.5, lambda_1=0.1, lambda_2=0.1),
    case("adaptive/kate", po.Kate, lr=0.01),
    case("adaptive/kate", po.Kate, lr=0.01, delta=0.5, eps=1e-3, weight_decay=0.3),
    case("adaptive/vsgd", po.VSGD, lr=0.01),
    case("adaptive/vsgd", po.VSGD, lr=0.01, ghattg=5.0, ps=1e-3, tau1=0.7, tau2=0.8, eps=1e-3, weight_decay=0.3),
    loop("second_order/adahessian", loops.adahessian, lr=0.01),
    loop("second_order/adahessian", loops.adahessian, lr=0.01, betas=B, hessian_power=0.5, eps=1e-2, weight_decay=0.3),
)
