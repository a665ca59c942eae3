"""Cases of specs that reduce over tensors, compared with pytorch_optimizer where it computes the published update."""

from __future__ import annotations

from functools import partial

import pytorch_optimizer as po
import torch

from tests import reference_loops_reducing as loops
from tests.reference_cases import Case, case, loop
from tests.references_elementwise import RootWithoutFloor

B = (0.8, 0.95)
_LAMB = {"betas": B, "eps": 1e-15, "weight_decay": 0.3, "weight_decouple": False, "adam_debias": True}
_FADAM = partial(po.FAdam, momentum_dtype=torch.float64, fim_dtype=torch.float64)


class AdaNormWithoutFloor(RootWithoutFloor, po.AdaNorm):
    """AdaNorm as its authors have it."""


CASES: tuple[Case, ...] = (
    loop("trust/lamb", loops.lamb, lr=0.01),
    loop("trust/lamb", loops.lamb, lr=0.01, betas=B, eps=1e-3, weight_decay=0.3, max_norm=1.5),
    loop("trust/lamb", loops.lamb, lr=0.01, weight_decay=0.0, always_adapt=False),
    loop("trust/lamb", loops.lamb, lr=0.01, betas=B, grad_averaging=False, max_norm=10.0),
    loop("trust/lamb", loops.lamb, lr=0.01, betas=B, weight_decay=0.3, ratios=(0.3, 0.9)),
    loop("trust/lamb", loops.lamb, lr=0.01, weight_decay=0.1, always_adapt=False, bias_correction=False),
    # without debiasing, and with next to no eps, which the library adds to the direction's norm too
    case("trust/lamb", po.Lamb, _LAMB, lr=0.01, betas=B, eps=1e-15, weight_decay=0.3, bias_correction=False, max_norm=10.0),
    case("trust/lars", po.LARS, lr=0.1),
    case("trust/lars", po.LARS, lr=0.1, momentum=0.7, dampening=0.3, weight_decay=0.3, trust_coefficient=0.1, nesterov=True),
    case("trust/lars", po.LARS, lr=0.1, momentum=0.0, weight_decay=0.1, trust_coefficient=0.1),
    loop("trust/lars", loops.lars_everywhere, lr=0.1, weight_decay=0.2, trust_coefficient=0.1, every_tensor=True),
    loop("trust/lars", loops.lars_everywhere, lr=0.1, trust_coefficient=0.1, every_tensor=True, trust_clip=True, eps=0.5),
    loop("trust/lars", loops.lars_everywhere, lr=0.1, every_tensor=True, always_adapt=False),
    case("trust/fromage", po.Fromage, lr=0.01),
    case("trust/fromage", po.Fromage, lr=0.3, p_bound=1.05),
    case("trust/novograd", po.NovoGrad, lr=0.01),
    case(
        "trust/novograd",
        po.NovoGrad,
        {"betas": B, "eps": 1e-3, "weight_decay": 0.1, "grad_averaging": True, "adam_debias": True},
        lr=0.01, betas=B, eps=1e-3, weight_decay=0.1, grad_averaging=True, bias_correction=True,
    ),
    loop("trust/novograd", loops.novograd, lr=0.01, betas=B, amsgrad=True, weight_decay=0.1),
    case("adam/stable_adamw", po.StableAdamW, lr=0.01),
    case("adam/stable_adamw", po.StableAdamW, lr=0.01, betas=B, eps=1e-3, weight_decay=0.3),
    case("adam/stable_adamw", po.StableAdamW, lr=0.01, eps=0.7),
    case("adam/adanorm", AdaNormWithoutFloor, lr=0.01),
    case(
        "adam/adanorm", AdaNormWithoutFloor, {"betas": B, "eps": 1e-3, "r": 0.7, "weight_decay": 0.3, "ams_bound": True},
        lr=0.01, betas=B, eps=1e-3, r=0.7, weight_decay=0.3, amsgrad=True,
    ),
    case("adam/fadam", _FADAM, lr=0.01),
    case("adam/fadam", _FADAM, lr=0.01, eps=0.5, eps_2=0.1),  # small against the gradient
    case("adam/fadam", _FADAM, lr=0.01, betas=B, eps=1e-3, weight_decay=0.3, clip=0.5, p=0.25, eps_2=0.1),
    loop("adam/eva_var", loops.eva_var, lr=0.01),
    loop("adam/eva_var", loops.eva_var, lr=0.01, betas=B, eps=1e-3, weight_decay=0.0, kappa=0.2),
)  # fmt: skip
