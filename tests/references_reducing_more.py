"""Further cases of specs that reduce over tensors, compared with pytorch_optimizer where it computes the published update."""

from __future__ import annotations

import math
from typing import Any

import pytorch_optimizer as po
import torch

from tests import reference_loops_reducing_more as loops
from tests.reference_cases import Case, Hypers, Problem, Trace, case, loop, run_library
from tests.references_elementwise import RootWithoutFloor

B = (0.8, 0.95)


def amos_of_scale(params: Any, scale: float = 0.5, **arguments: Any) -> po.Amos:
    """Amos with a scale that is given: the library has one for every shape."""

    class Amos(po.Amos):
        @staticmethod
        def get_scale(p: torch.Tensor) -> float:
            return scale

    return Amos(params, **arguments)


class SWATSWithoutFloor(RootWithoutFloor, po.SWATS):
    """SWATS as published, which keeps its rate when the caller sets another lr after the switch.

    Its first moment and SGD's buffer are shown as one state, as only one of them is in use.
    """

    rate: float | None = None

    def step(self, closure: Any = None) -> Any:
        group = self.param_groups[0]
        if self.rate is not None:
            group["lr"] = self.rate
        loss = super().step(closure)
        begins = group["phase"] == "sgd" and self.rate is None
        self.rate = group["lr"] if group["phase"] == "sgd" else None
        for state in self.state.values():
            state["learning_rate"] = torch.tensor(self.rate or 0.0)
            if begins or self.rate is None:
                state["momentum_buffer"] = state["exp_avg"] * (0.0 if begins else 1.0)
        return loss


class AidaWithoutFloor(RootWithoutFloor, po.Aida):
    """Aida as its authors have it."""


class AdaShiftOfTensors(po.AdaShift):
    """AdaShift with its queue of gradients as a ring of tensors, and its second moment as the one number that it holds."""

    def __init__(self, params: Any, **arguments: Any) -> None:
        super().__init__(params, **arguments)
        self.queues: dict[torch.Tensor, Any] = {}

    def step(self, closure: Any = None) -> Any:
        for parameter, queue in self.queues.items():
            self.state[parameter]["grad_queue"] = queue
        loss = super().step(closure)
        self.queues = {parameter: state.pop("grad_queue") for parameter, state in self.state.items()}
        for parameter, queue in self.queues.items():
            step, places = self.param_groups[0]["step"], queue.maxlen
            ring = {f"grad_{place}": torch.zeros_like(parameter) for place in range(places)}
            ring |= {f"grad_{(step - 1 - age) % places}": gradient for age, gradient in enumerate(reversed(queue))}
            self.state[parameter].update(ring, exp_avg_sq_reduced=self.state[parameter]["exp_avg_sq"].flatten()[0])
        return loss


class NoLimit(float):
    """Infinity that stays so when divided by an infinite norm: AdaGC without clipping while it warms up."""

    def __truediv__(self, other: object) -> float:
        return math.inf


def adamw_sn(**hypers: Any) -> Case:
    """A case of AdamWSN with every tensor as one subset, of which the library keeps a matrix of one number."""

    def factory(params: Any, **arguments: Any) -> po.AdamWSN:
        return po.AdamWSN([{"params": params, "sn": True}], subset_size=params[0].numel(), **arguments)

    def reference(given: Hypers, problem: Problem) -> Trace:
        trace = run_library(factory, given, given, problem)
        return Trace(trace.thetas, {**trace.states, "exp_avg_sq": trace.states["exp_avg_sq"].reshape(())})

    return Case("adam/adamw_sn", hypers, reference)


_SWATS = {"betas": B, "eps": 0.3, "weight_decay": 0.1, "nesterov": True}
_SPAM = {"betas": B, "eps": 1e-3, "weight_decay": 0.3, "gamma1": 0.6, "gamma2": 0.8, "t_max": 12, "eta_min": 0.4}
_APOLLO = {"warmup_steps": 0}
NO_LIMIT = NoLimit("inf")

CASES: tuple[Case, ...] = (
    case("momentum/sgdsai", po.SGDSaI, lr=0.01),
    case("momentum/sgdsai", po.SGDSaI, lr=0.01, momentum=0.7, weight_decay=0.3, eps=1e-3),
    case("momentum/sgdsai", po.SGDSaI, lr=0.01, momentum=0.0, weight_decay=0.0),
    loop("momentum/tam", loops.tam, lr=0.01),
    loop("momentum/tam", loops.tam, lr=0.01, momentum=0.8, decay_rate=0.6, eps=1e-3, weight_decay=0.3),
    loop("adam/adatam", loops.adatam, lr=0.01),
    loop("adam/adatam", loops.adatam, lr=0.01, betas=B, decay_rate=0.6, eps=1e-3, weight_decay=0.3),
    case("momentum/gravity", po.Gravity, {"alpha": 0.0}, lr=0.01),
    case("momentum/gravity", po.Gravity, {"alpha": 0.0, "beta": 0.7}, lr=0.01, beta=0.7),
    loop("adaptive/a2grad", loops.a2grad, lr=0.1),
    loop("adaptive/a2grad", loops.a2grad, lr=0.1, beta=3.0, variant="inc"),
    loop("adaptive/a2grad", loops.a2grad, lr=0.1, beta=0.5, rho=0.7, variant="exp"),
    case("adaptive/amos", amos_of_scale, lr=0.01),
    case("adaptive/amos", amos_of_scale, lr=0.1, beta=0.9, momentum=0.8, scale=0.3, c_coef=0.5, d_coef=0.7, eps=1e-3),
    loop("adam/swats", loops.swats, lr=0.01),
    loop("adam/swats", loops.swats, lr=0.01, betas=B, eps=1e-3, weight_decay=0.1, atol=0.02),
    case("adam/swats", SWATSWithoutFloor, _SWATS, lr=0.01, **_SWATS, atol=1e-8, rtol=0.3),
    case("adam/aida", AidaWithoutFloor, lr=0.01),
    case("adam/aida", AidaWithoutFloor, {"k": 1, "weight_decouple": True, "weight_decay": 0.3}, lr=0.01, k=1, weight_decay=0.3),
    *(case("adam/aida", AidaWithoutFloor, lr=0.01, k=k) for k in (3, 4)),
    case(
        "adam/aida", AidaWithoutFloor, {"betas": B, "k": 5, "xi": 1e-3, "eps": 1e-3, "ams_bound": True},
        lr=0.01, betas=B, k=5, xi=1e-3, eps=1e-3, amsgrad=True,
    ),
    adamw_sn(lr=0.01),
    adamw_sn(lr=0.01, betas=B, eps=1e-3, weight_decay=0.3),
    case("adam/stable_spam", po.StableSPAM, lr=0.01),
    case("adam/stable_spam", po.StableSPAM, {"theta": 0.9, "update_proj_gap": 5}, lr=0.01, theta_max=0.9, reset_interval=5),
    case(
        "adam/stable_spam", po.StableSPAM, {**_SPAM, "theta": 0.8, "update_proj_gap": 7},
        lr=0.01, **_SPAM, theta_max=0.8, reset_interval=7,
    ),
    case("adam/adashift", AdaShiftOfTensors, {"keep_num": 4}, lr=0.01),
    case("adam/adashift", AdaShiftOfTensors, {"keep_num": 1, "reduce_func": torch.mean}, lr=0.01, keep_num=1, reduce="mean"),
    case(
        "adam/adashift", AdaShiftOfTensors, {"betas": B, "keep_num": 3, "reduce_func": None, "eps": 1e-3},
        lr=0.01, betas=B, keep_num=3, reduce="none", eps=1e-3,
    ),
    case("adam/adagc", po.AdaGC, {"lambda_abs": NO_LIMIT}, lr=0.01),
    case(
        "adam/adagc", po.AdaGC, {"betas": B, "eps": 1e-3, "weight_decay": 0.3, "lambda_abs": NO_LIMIT, "warmup_steps": 6},
        lr=0.01, betas=B, eps=1e-3, weight_decay=0.3, warmup_steps=6,
    ),
    case(
        "adam/adagc", po.AdaGC, {"beta": 0.8, "lambda_abs": NO_LIMIT, "lambda_rel": 0.9, "warmup_steps": 0},
        lr=0.01, beta=0.8, lambda_rel=0.9, warmup_steps=0,
    ),
    case("adam/adagc", po.AdaGC, {"lambda_abs": NO_LIMIT, "eps": 3.0, "warmup_steps": 0}, lr=0.01, eps=3.0, warmup_steps=0),
    case(
        "adam/adagc", po.AdaGC, {"lambda_abs": NO_LIMIT, "eps": 9.0, "lambda_rel": 0.6, "warmup_steps": 0},
        lr=0.01, eps=9.0, lambda_rel=0.6, warmup_steps=0,
    ),
    loop("adam/bge_adam", loops.bge_adam, lr=0.01),
    loop("adam/bge_adam", loops.bge_adam, lr=0.01, beta1_range=(0.2, 0.95), beta2_range=(0.5, 0.99), alpha=0.8, eps=1e-3),
    loop("adam/bge_adam", loops.bge_adam, lr=0.01, alpha=0.3, weight_decay=0.3),
    case("second_order/apollo_dqn", po.ApolloDQN, _APOLLO, lr=0.01),
    case(
        "second_order/apollo_dqn", po.ApolloDQN,
        {**_APOLLO, "beta": 0.7, "rebound": "belief", "weight_decay": 0.1, "eps": 1e-3},
        lr=0.01, beta=0.7, rebound="belief", weight_decay=0.1, eps=1e-3,
    ),
    case(
        "second_order/apollo_dqn", po.ApolloDQN, {**_APOLLO, "weight_decay": 0.1, "weight_decay_type": "decoupled"},
        lr=0.01, weight_decay=0.1, weight_decay_type="decoupled",
    ),
    case(
        "second_order/apollo_dqn", po.ApolloDQN,
        {**_APOLLO, "rebound": "belief", "weight_decay": 0.1, "weight_decay_type": "stable"},
        lr=0.01, rebound="belief", weight_decay=0.1, weight_decay_type="stable",
    ),
    loop("trust/scaled_adam", loops.scaled_adam, lr=0.01),
    loop("trust/scaled_adam", loops.scaled_adam, lr=0.1, betas=B, eps=1e-3, scalar_lr_scale=0.5, size_update_period=1),
    loop("trust/scaled_adam", loops.scaled_adam, lr=0.1, param_min_rms=1.2, size_update_period=3, scalar_max=0.1),
    loop("trust/scaled_adam", loops.scaled_adam, lr=0.1, param_max_rms=0.7, size_update_period=3),
    loop("trust/scaled_adam", loops.scaled_adam, lr=0.1, betas=(0.9, 0.8)),  # in 26 steps the bias of v is gone
)  # fmt: skip
