"""Cases of specs with numbers of the whole model, compared with libraries where these compute them.

Libraries are pytorch_optimizer, adv_optm and prodigyopt, which is by Prodigy's authors.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import adv_optm
import prodigyopt
import pytorch_optimizer as po
import torch

from tests import reference_loops_model as loops
from tests.reference_cases import Case, case, loop

B = (0.8, 0.95)
C = (0.9, 0.7, 0.95)


class ShowingTheModel(torch.optim.Optimizer):
    """A library's optimizer with nothing rounded to float32 on the way, that shows `numbers` of its first group as states."""

    numbers: tuple[str, ...] = ()
    steps = 0

    def step(self, closure: Any = None) -> Any:
        with patch.object(torch.Tensor, "float", torch.Tensor.double):
            loss = super().step(closure)
        self.steps += 1
        for parameter, state in self.state.items():
            state.update(self.shown(parameter, state))
        return loss

    def shown(self, parameter: torch.Tensor, state: dict[str, Any]) -> dict[str, Any]:
        """What is shown beside the states."""
        numbers = {key: group[key] for group in reversed(self.param_groups) for key in self.numbers if key in group}
        found = {key: torch.as_tensor(value).detach().reshape(()) for key, value in numbers.items()}
        return {**found, "k": torch.tensor(float(self.steps))}


class DAdaptAdam(ShowingTheModel, po.DAdaptAdam):
    numbers = ("d", "numerator_weighted")


class DAdaptSGD(ShowingTheModel, po.DAdaptSGD):
    numbers = ("d", "numerator_weighted", "g0_norm")


class DAdaptAdaGrad(ShowingTheModel, po.DAdaptAdaGrad):
    numbers = ("d", "sk_sq_weighted", "gsq_weighted", "sk_l1")


class DAdaptLion(ShowingTheModel, po.DAdaptLion):
    numbers = ("d", "numerator_weighted")


class ShowingPicked(ShowingTheModel):
    """Prodigy: `s` and `p0` have one dimension; a `p0` of zeros may be a single one."""

    numbers = ("d", "d_max", "d_numerator")

    def shown(self, parameter: torch.Tensor, state: dict[str, Any]) -> dict[str, Any]:
        return {**super().shown(parameter, state), "p0": torch.broadcast_to(state["p0"], state["s"].shape)}


class Prodigy(ShowingTheModel, po.Prodigy):
    numbers = ("d", "d_max", "d_numerator")

    def step(self, closure: Any = None) -> Any:
        for parameter, state in self.state.items():
            state.update({key: state[key].reshape(parameter.shape) for key in ("s", "p0") if key in state})
        return super().step(closure)

    def shown(self, parameter: torch.Tensor, state: dict[str, Any]) -> dict[str, Any]:
        return {**super().shown(parameter, state), **{key: state[key].flatten() for key in ("s", "p0")}}


class AuthorsProdigy(ShowingPicked, prodigyopt.Prodigy):  # type: ignore[misc]  # prodigyopt has no types
    def __init__(self, params: Any, **arguments: Any) -> None:
        names = {"decoupled_weight_decay": "decouple", "bias_correction": "use_bias_correction"}
        super().__init__(params, **{names.get(key, key): value for key, value in arguments.items()})


class LionProdigy(ShowingPicked, adv_optm.Lion_Prodigy_adv):  # type: ignore[misc]  # adv_optm has no types
    """With all entries of a tensor by default, and a new lr in force at once."""

    def __init__(self, params: Any, **arguments: Any) -> None:
        super().__init__(params, **{"slice_p": 1, **arguments})

    def step(self, closure: Any = None) -> Any:
        self.dlr = self.d * self.param_groups[0]["lr"]
        return super().step(closure)


class AvaGrad(ShowingTheModel, po.AvaGrad):
    numbers = ("gamma",)


class Adai(po.Adai):
    """Adai as published: the library raises the mean of the second moment to eps."""

    def __init__(self, params: Any, **arguments: Any) -> None:
        super().__init__(params, **arguments)
        self.defaults["eps"] = 1e-300


class AdamS(po.AdamS):
    """AdamS as its authors have it: the library adds eps to the root of the mean."""

    def __init__(self, params: Any, **arguments: Any) -> None:
        super().__init__(params, **arguments)
        self.defaults["eps"] = 0.0


prodigy, lion_prodigy = loops.of_one(loops.prodigy), loops.of_one(loops.lion_prodigy)
avagrad, adai, adams = loops.of_one(loops.avagrad), loops.of_one(loops.adai), loops.of_one(loops.adams)
dadapt_adan = loops.of_one(loops.dadapt_adan)
dog, adgd, adagrad_norm = loops.of_one(loops.dog), loops.of_one(loops.adgd), loops.of_one(loops.adagrad_norm)
FREE = "parameter_free"

CASES: tuple[Case, ...] = (
    case(f"{FREE}/dadapt_adam", DAdaptAdam, lr=1.0),
    case(f"{FREE}/dadapt_adam", DAdaptAdam, lr=0.5, betas=B, eps=1e-3, weight_decay=0.1, d0=0.01, growth_rate=1.1),
    case(f"{FREE}/dadapt_adam", DAdaptAdam, lr=0.5, betas=B, weight_decay=0.1, bias_correction=True, d0=0.01),
    case(
        f"{FREE}/dadapt_adam",
        DAdaptAdam,
        {"betas": (0.5, 0.9), "weight_decay": 0.3, "weight_decouple": True, "d0": 0.1},
        lr=0.5, betas=(0.5, 0.9), weight_decay=0.3, decoupled_weight_decay=True, d0=0.1,
    ),
    case(f"{FREE}/dadapt_sgd", DAdaptSGD, {"momentum": 0.0}, lr=1.0),
    case(f"{FREE}/dadapt_sgd", DAdaptSGD, lr=0.5, momentum=0.9, weight_decay=0.1, d0=0.01, growth_rate=1.1),
    case(f"{FREE}/dadapt_sgd", DAdaptSGD, lr=0.5, momentum=0.7, weight_decay=0.3, d0=0.5),
    case(f"{FREE}/dadapt_adagrad", DAdaptAdaGrad, {"eps": 1e-6}, lr=1.0),
    case(f"{FREE}/dadapt_adagrad", DAdaptAdaGrad, lr=0.5, momentum=0.9, eps=0.0, weight_decay=0.1, d0=0.01, growth_rate=1.1),
    case(f"{FREE}/dadapt_adagrad", DAdaptAdaGrad, lr=0.5, momentum=0.5, eps=0.1, weight_decay=0.3, d0=0.5),
    case(f"{FREE}/dadapt_lion", DAdaptLion, {"betas": (0.9, 0.99)}, lr=1.0),
    case(
        f"{FREE}/dadapt_lion",
        DAdaptLion,
        {"betas": B, "weight_decay": 0.3, "weight_decouple": True, "d0": 0.1},
        lr=0.5, betas=B, weight_decay=0.3, d0=0.1,
    ),
    loop(f"{FREE}/dadapt_adan", dadapt_adan, lr=1.0),
    loop(f"{FREE}/dadapt_adan", dadapt_adan, lr=0.5, betas=C, eps=1e-3, weight_decay=0.3, d0=0.01, growth_rate=1.1),
    loop(f"{FREE}/dadapt_adan", dadapt_adan, lr=0.5, betas=C, weight_decay=0.3, no_prox=True, d0=0.1),
    case(f"{FREE}/prodigy", Prodigy, lr=1.0, d0=1e-3),
    case(f"{FREE}/prodigy", Prodigy, lr=0.5, betas=B, eps=1e-3, weight_decay=0.3, d0=0.01, d_coef=2.0, growth_rate=1.1),
    case(f"{FREE}/prodigy", Prodigy, lr=0.5, betas=B, beta3=0.9, bias_correction=True, safeguard_warmup=True, d0=0.1),
    loop(f"{FREE}/prodigy", prodigy, lr=0.5, betas=B, weight_decay=0.3, decoupled_weight_decay=False, d0=0.01),
    loop(f"{FREE}/prodigy", prodigy, lr=0.5, betas=B, eps=0.1, weight_decay=0.1, bias_correction=True, d0=0.01, d_coef=0.5),
    case(f"{FREE}/prodigy", AuthorsProdigy, lr=1.0, d0=0.05, growth_rate=1.2, slice_p=11),
    case(f"{FREE}/prodigy", AuthorsProdigy, lr=0.5, betas=B, eps=1e-3, d0=0.01, growth_rate=1.1, slice_p=2),
    case(
        f"{FREE}/prodigy",
        AuthorsProdigy,
        lr=0.5, betas=B, beta3=0.9, weight_decay=0.3, decoupled_weight_decay=False, bias_correction=True, safeguard_warmup=True,
        d0=0.1, slice_p=3,
    ),
    case(f"{FREE}/prodigy", AuthorsProdigy, lr=0.5, betas=B, d0=0.01, slice_p=1000),
    loop(f"{FREE}/prodigy", prodigy, lr=0.5, betas=B, eps=0.1, weight_decay=0.1, bias_correction=True, d0=0.01, slice_p=5),
    loop(f"{FREE}/lion_prodigy", lion_prodigy, lr=1.0),
    loop(f"{FREE}/lion_prodigy", lion_prodigy, lr=0.5, betas=B, weight_decay=0.3, d0=0.01, d_coef=2.0, growth_rate=1.1),
    case(
        f"{FREE}/lion_prodigy",
        LionProdigy,
        lr=0.5, betas=B, beta3=0.9, safeguard_warmup=True, d0=0.1, d_limiter=False,
    ),
    loop(f"{FREE}/lion_prodigy", lion_prodigy, lr=0.5, betas=B, weight_decay=0.3, d0=0.01, slice_p=3),
    case(f"{FREE}/lion_prodigy", LionProdigy, lr=0.5, betas=B, d0=0.01, d_limiter=False, slice_p=11),
    case(f"{FREE}/lion_prodigy", LionProdigy, lr=0.5, d0=0.01, d_coef=2.0, d_limiter=False, slice_p=2),
    loop(f"{FREE}/dog", dog, lr=1.0),
    loop(f"{FREE}/dog", dog, lr=0.5, reps_rel=0.1, eps=0.5, weight_decay=0.3),
    loop(f"{FREE}/adgd", adgd, lr=0.5, first=0.1, damping=0.2),
    loop(f"{FREE}/adgd", adgd, lr=0.5, first=0.05, amplifier=0.02, damping=0.15),
    loop("adaptive/adagrad_norm", adagrad_norm, lr=1.0),
    loop("adaptive/adagrad_norm", adagrad_norm, lr=0.5, b0=2.0, weight_decay=0.3),
    loop("adam/adams", adams, lr=0.01),
    loop("adam/adams", adams, lr=0.01, betas=B, eps=1e-3, weight_decay=0.3, amsgrad=True),
    case("adam/adams", AdamS, {"betas": B, "eps": 1e-3, "weight_decay": 0.1}, lr=0.01, betas=B, eps=1e-3, weight_decay=0.1),
    case(
        "adam/adams",
        AdamS,
        {"betas": B, "weight_decay": 0.3, "ams_bound": True},
        lr=0.01, betas=B, weight_decay=0.3, amsgrad=True,
    ),
    loop("adam/avagrad", avagrad, lr=0.1),
    loop("adam/avagrad", avagrad, lr=0.1, betas=B, eps=1e-3, weight_decay=0.3, decoupled_weight_decay=True),
    loop("adam/avagrad", avagrad, lr=0.1, betas=B, weight_decay=0.1, lagged=True),
    case("adam/avagrad", AvaGrad, {"weight_decouple": False}, lr=0.1, lagged=True),
    case(
        "adam/avagrad",
        AvaGrad,
        {"betas": B, "eps": 1e-3, "weight_decay": 0.3},
        lr=0.1, betas=B, eps=1e-3, weight_decay=0.3, decoupled_weight_decay=True, lagged=True,
    ),
    loop("momentum/adai", adai, lr=0.1),
    loop("momentum/adai", adai, lr=0.1, betas=(0.3, 0.9), weight_decay=0.3, decoupled_weight_decay=True, dampening=0.5),
    case("momentum/adai", Adai, lr=0.1, betas=(0.3, 0.9), eps=0.1, weight_decay=0.1),
    case(
        "momentum/adai",
        Adai,
        {"dampening": 0.5, "weight_decay": 0.3, "weight_decouple": True},
        lr=0.1, dampening=0.5, weight_decay=0.3, decoupled_weight_decay=True,
    ),
)  # fmt: skip
