"""The table every implementation is proven against: for each spec, configurations and an independent reference.

A reference is either an installed library (PyTorch, pytorch_optimizer, lion-pytorch), run in float64, or a float64 loop of
`tests.reference_loops` where no installable library computes the published update. `tests.reference_cases` has the parts; the
families' own tables (`references_elementwise` to `references_schedulefree`) are joined to this one.
"""

from __future__ import annotations

import lion_pytorch
import pytest
import pytorch_optimizer as po
import torch

from tests import reference_loops as loops
from tests import (
    references_elementwise,
    references_elementwise_more,
    references_loss,
    references_model,
    references_reducing,
    references_reducing_more,
    references_rows,
    references_sampling,
    references_schedulefree,
)
from tests.reference_cases import (
    TOLERANCE,
    Array,
    Call,
    Case,
    Hypers,
    Problem,
    Reference,
    Runner,
    Trace,
    case,
    difference,
    library_states,
    loop,
    run_library,
)

__all__ = [
    "ADOPT",
    "CASES",
    "SPECS",
    "TOLERANCE",
    "Array",
    "Call",
    "Case",
    "Hypers",
    "Problem",
    "Reference",
    "Runner",
    "Trace",
    "cases_of",
    "difference",
    "library_states",
    "run_library",
]


def clip_from_zero(step: float) -> float:
    """ADOPT's bound counts the step that only initialises as step 0; the library passes steps from 1."""
    return float((step - 1) ** 0.25)


optim = torch.optim
ADOPT = {"clip_lambda": clip_from_zero}
B = (0.8, 0.95)

CASES: tuple[Case, ...] = (
    case("momentum/sgd", optim.SGD, lr=0.01),
    case("momentum/sgd", optim.SGD, lr=0.01, weight_decay=0.1),
    case("momentum/sgd", optim.SGD, lr=0.01, momentum=0.9, dampening=0.3, weight_decay=0.1),
    case("momentum/sgd", optim.SGD, lr=0.01, momentum=0.7, dampening=0.0, weight_decay=0.0, nesterov=False),
    case("momentum/sgd", optim.SGD, lr=0.01, momentum=0.9, weight_decay=0.1, nesterov=True),
    case("momentum/sgdw", po.SGDW, lr=0.01),
    case("momentum/sgdw", po.SGDW, lr=0.01, weight_decay=0.3),
    case("momentum/sgdw", po.SGDW, lr=0.01, momentum=0.9, dampening=0.3, weight_decay=0.3),
    case("momentum/sgdw", po.SGDW, lr=0.01, momentum=0.8, weight_decay=0.3, nesterov=True),
    case("momentum/asgd", optim.ASGD, lr=0.01),
    case("momentum/asgd", optim.ASGD, lr=0.05, lambd=0.2, alpha=0.6, t0=1e6),
    case("momentum/asgd", optim.ASGD, lr=0.02, lambd=0.1, alpha=0.75, t0=8.0, weight_decay=0.1),
    case("sign/signsgd", po.SignSGD, {"momentum": 0.0}, lr=0.01),
    case("sign/signsgd", po.SignSGD, {"momentum": 0.0, "weight_decay": 0.3}, lr=0.01, weight_decay=0.3),
    case("sign/signum", po.SignSGD, lr=0.01),
    case("sign/signum", po.SignSGD, lr=0.01, momentum=0.7, weight_decay=0.3),
    case("sign/signum", po.SignSGD, lr=0.01, momentum=0.0, weight_decay=0.3),
    case("sign/tiger", po.Tiger, lr=0.01),
    case("sign/tiger", po.Tiger, lr=0.01, beta=0.8, weight_decay=0.3),
    case("sign/tiger", po.Tiger, lr=0.01, beta=0.965, weight_decay=0.0),
    case("sign/lion", po.Lion, lr=0.01),
    case("sign/lion", po.Lion, lr=0.01, betas=(0.95, 0.8), weight_decay=0.3),
    case("sign/lion", lion_pytorch.Lion, lr=0.01, betas=(0.8, 0.95), weight_decay=0.3),
    case("sign/rprop", optim.Rprop, lr=0.01),
    case("sign/rprop", optim.Rprop, lr=0.05, etas=(0.3, 1.7), step_sizes=(0.01, 0.2)),
    case("sign/rprop", optim.Rprop, lr=0.01, etas=(0.6, 1.1), step_sizes=(1e-4, 50.0)),
    case("adam/adam", optim.Adam, lr=0.01),
    case("adam/adam", optim.Adam, lr=0.01, betas=B, eps=1e-3, weight_decay=0.1),
    case("adam/adam", optim.Adam, lr=0.01, betas=B, weight_decay=0.1, amsgrad=True),
    case("adam/adam", optim.Adam, lr=0.01, betas=B, eps=1e-3, weight_decay=0.3, decoupled_weight_decay=True),
    case("adam/adam", optim.Adam, lr=0.01, betas=(0.0, 0.95), amsgrad=True, decoupled_weight_decay=True, weight_decay=0.3),
    case("adam/adamw", optim.AdamW, lr=0.01),
    case("adam/adamw", optim.AdamW, lr=0.01, betas=B, eps=1e-3, weight_decay=0.3),
    case("adam/adamw", optim.AdamW, lr=0.01, betas=B, weight_decay=0.3, amsgrad=True),
    case("adam/adamw", optim.AdamW, lr=0.01, betas=(0.95, 0.5), weight_decay=0.0, amsgrad=True),
    case("adam/nadam", optim.NAdam, lr=0.01),
    case("adam/nadam", optim.NAdam, lr=0.01, betas=B, eps=1e-3, weight_decay=0.1, momentum_decay=0.1),
    case("adam/nadam", optim.NAdam, lr=0.01, betas=B, weight_decay=0.3, momentum_decay=0.02, decoupled_weight_decay=True),
    case("adam/radam", optim.RAdam, lr=0.01),
    case("adam/radam", optim.RAdam, lr=0.01, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1),
    case("adam/radam", optim.RAdam, lr=0.01, betas=(0.8, 0.99), eps=1e-3, weight_decay=0.3, decoupled_weight_decay=True),
    case("adam/radam", optim.RAdam, lr=0.01, betas=(0.9, 0.6), weight_decay=0.1),
    case("adam/adamax", optim.Adamax, lr=0.01),
    case("adam/adamax", optim.Adamax, lr=0.01, betas=B, eps=0.1, weight_decay=0.1),
    case("adam/adabelief", po.AdaBelief, lr=0.01, eps=1e-8),
    case("adam/adabelief", po.AdaBelief, lr=0.01),
    case(
        "adam/adabelief",
        po.AdaBelief,
        {"betas": B, "eps": 1e-3, "weight_decay": 0.1, "weight_decouple": False, "ams_bound": True},
        lr=0.01,
        betas=B,
        eps=1e-3,
        weight_decay=0.1,
        decoupled_weight_decay=False,
        amsgrad=True,
    ),
    case("adam/adabelief", po.AdaBelief, lr=0.01, betas=B, eps=1e-3, weight_decay=0.3),
    case("adam/adabelief", po.AdaBelief, lr=0.01, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.3, rectify=True),
    case(
        "adam/adabelief",
        po.AdaBelief,
        {"betas": (0.8, 0.97), "eps": 1e-4, "rectify": True, "ams_bound": True},
        lr=0.01,
        betas=(0.8, 0.97),
        eps=1e-4,
        rectify=True,
        amsgrad=True,
    ),
    case("adam/adan", po.Adan, lr=0.01),
    case("adam/adan", po.Adan, lr=0.01, betas=(0.9, 0.7, 0.95), eps=1e-3, weight_decay=0.3),
    case(
        "adam/adan",
        po.Adan,
        {"betas": (0.9, 0.7, 0.95), "eps": 1e-3, "weight_decay": 0.3, "weight_decouple": True},
        lr=0.01,
        betas=(0.9, 0.7, 0.95),
        eps=1e-3,
        weight_decay=0.3,
        no_prox=True,
    ),
    case("adam/adopt", po.ADOPT, ADOPT, lr=0.01),
    case(
        "adam/adopt",
        po.ADOPT,
        {**ADOPT, "betas": B, "eps": 0.3, "weight_decay": 0.1},
        lr=0.01,
        betas=B,
        eps=0.3,
        weight_decay=0.1,
    ),
    case("adam/adopt", po.ADOPT, {"clip_lambda": None, "betas": B}, lr=0.01, betas=B, clip=False),
    loop("adam/adopt", loops.adopt, lr=0.01, betas=B, eps=0.3, weight_decay=0.3, decoupled_weight_decay=True),
    loop("adam/adopt", loops.adopt, lr=0.01, betas=B, clip=False, weight_decay=0.3, decoupled_weight_decay=True),
    case("adam/ademamix", po.AdEMAMix, lr=0.01),
    case(
        "adam/ademamix",
        po.AdEMAMix,
        {"betas": (0.8, 0.95, 0.99), "alpha": 2.0, "eps": 1e-3, "weight_decay": 0.3, "weight_decouple": True},
        lr=0.01,
        betas=(0.8, 0.95, 0.99),
        alpha=2.0,
        eps=1e-3,
        weight_decay=0.3,
    ),
    case("adam/ademamix", po.AdEMAMix, {"t_alpha_beta3": 12}, lr=0.01, beta3_warmup=12, alpha_warmup=12),
    case(
        "adam/ademamix",
        po.AdEMAMix,
        {"betas": (0.7, 0.95, 0.999), "t_alpha_beta3": 40, "weight_decay": 0.3, "weight_decouple": True},
        lr=0.01,
        betas=(0.7, 0.95, 0.999),
        beta3_warmup=40,
        alpha_warmup=40,
        weight_decay=0.3,
    ),
    loop("adam/ademamix", loops.ademamix, lr=0.01, betas=(0.8, 0.95, 0.99), beta3_warmup=9),
    loop("adam/ademamix", loops.ademamix, lr=0.01, betas=(0.8, 0.95, 0.99), alpha=2.0, alpha_warmup=9, weight_decay=0.3),
    loop("adam/simplified_ademamix", loops.simplified_ademamix, lr=0.001),
    loop("adam/simplified_ademamix", loops.simplified_ademamix, lr=0.001, betas=B, alpha=10.0, eps=1e-3, weight_decay=0.3),
    loop("adam/simplified_ademamix", loops.simplified_ademamix, lr=0.001, alpha=2.0, beta1_warmup=12, min_beta1=0.7),
    loop(
        "adam/simplified_ademamix",
        loops.simplified_ademamix,
        lr=0.001,
        alpha=2.0,
        beta1_warmup=40,
        bias_correction1=True,
        weight_decay=0.3,
    ),
    loop("adam/hn_adam", loops.hn_adam, lr=0.01),
    loop("adam/hn_adam", loops.hn_adam, lr=0.01, betas=B, eps=1e-3, lambda0=2.5),
    loop("adam/hn_adam", loops.hn_adam, lr=0.01, betas=(0.5, 0.9), lambda0=2.0),
    case("adaptive/adagrad", optim.Adagrad, lr=0.05),
    case("adaptive/adagrad", optim.Adagrad, lr=0.05, lr_decay=0.1, weight_decay=0.1, eps=1e-3),
    case("adaptive/adagrad", optim.Adagrad, lr=0.05, initial_accumulator_value=0.5, eps=0.1),
    case("adaptive/adadelta", optim.Adadelta, lr=1.0),
    case("adaptive/adadelta", optim.Adadelta, lr=0.5, rho=0.7, eps=1e-3, weight_decay=0.1),
    case("adaptive/rmsprop", optim.RMSprop, lr=0.01),
    case("adaptive/rmsprop", optim.RMSprop, lr=0.01, alpha=0.8, eps=1e-2, weight_decay=0.1),
    case("adaptive/rmsprop", optim.RMSprop, lr=0.01, alpha=0.8, eps=1e-2, momentum=0.7),
    case("adaptive/rmsprop", optim.RMSprop, lr=0.01, alpha=0.9, eps=1e-2, centered=True),
    case("adaptive/rmsprop", optim.RMSprop, lr=0.01, alpha=0.9, eps=1e-2, weight_decay=0.1, momentum=0.7, centered=True),
    loop("second_order/sophia", loops.sophia_g, lr=0.01),
    loop("second_order/sophia", loops.sophia_g, lr=0.01, betas=B, rho=0.05, bs=10.0, weight_decay=0.3),
    loop("second_order/sophia", loops.sophia_g, lr=0.01, betas=(0.9, 0.6), rho=0.08, bs=100.0, weight_decay=0.0),
    *references_elementwise.CASES,
    *references_elementwise_more.CASES,
    *references_reducing.CASES,
    *references_reducing_more.CASES,
    *references_rows.CASES,
    *references_model.CASES,
    *references_sampling.CASES,
    *references_loss.CASES,
    *references_schedulefree.CASES,
)

SPECS: tuple[str, ...] = tuple(dict.fromkeys(c.spec for c in CASES))

CORE = frozenset(
    """adam/adam adam/adamw adam/nadam adam/radam adam/adamax adam/adabelief adam/adan adam/adopt adam/ademamix adam/mars
    adam/simplified_ademamix adam/hn_adam adam/fadam adaptive/adagrad adaptive/adadelta adaptive/rmsprop momentum/sgd
    momentum/sgdw momentum/asgd momentum/pnm second_order/sophia sign/lion sign/rprop sign/signum sign/tiger
    trust/lamb trust/lars trust/fromage trust/novograd factored/adafactor factored/came factored/nero
    parameter_free/prodigy parameter_free/dadapt_sgd parameter_free/alig adaptive/emonavi sampling/psgld""".split()
)
"""Specs that together use every construct of the language. Every run tests these in full; of the others a sample, and the rest
with `--full`."""


def rest(spec: str) -> tuple[pytest.MarkDecorator, ...]:
    """Marks for what is tested of the specs in `CORE` only, unless `--full` is given."""
    return () if spec in CORE else (pytest.mark.slow,)


def cases_of(spec: str) -> tuple[Case, ...]:
    """The cases of one spec, in the table's order."""
    return tuple(c for c in CASES if c.spec == spec)
