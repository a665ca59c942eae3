"""The table every implementation is proven against: for each spec, configurations and an independent reference.

A reference is either an installed library (PyTorch, pytorch_optimizer, lion-pytorch), run in float64, or a float64 loop of
`tests.reference_loops` where no installable library computes the published update. A *runner* has one signature whatever it
runs (the oracle, a backend, a library), so any two can be compared on any problem:

    runner(spec, hypers, problem) -> Trace

A trace is θ after every step, and the states at the end under their checkpoint keys, as far as the implementation has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias

import lion_pytorch
import numpy as np
import pytorch_optimizer as po
import torch
from numpy.typing import NDArray

from tests import reference_loops as loops

Array: TypeAlias = NDArray[np.float64]
Hypers: TypeAlias = Mapping[str, Any]
Reference: TypeAlias = Callable[[Hypers, "Problem"], "Trace"]
Runner: TypeAlias = Callable[[str, Hypers, "Problem"], "Trace"]

TOLERANCE = 1e-12


@dataclass(frozen=True, slots=True)
class Call:
    """A call of an entry with its inputs, right after step number `after` (1, 2, …)."""

    after: int
    entry: str
    inputs: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is optimized: a start, a gradient per step, a factor of lr per step, and calls of entries between steps."""

    theta: Array
    gradients: tuple[Array, ...]
    lr_factors: tuple[float, ...]
    calls: tuple[Call, ...] = ()

    def steps(self, lr: float) -> Iterator[tuple[int, float, Array, list[Call]]]:
        """For every step: its number from 1, its lr, its gradient, and the calls after it."""
        for t, (g, factor) in enumerate(zip(self.gradients, self.lr_factors, strict=True), start=1):
            yield t, lr * factor, g, [call for call in self.calls if call.after == t]


@dataclass(frozen=True, slots=True)
class Trace:
    """What an implementation did on a problem: θ after every step, and its states after the last one by checkpoint key."""

    thetas: tuple[Array, ...]
    states: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Case:
    """One configuration of one spec. `hypers` are the generated class's keyword arguments and always hold `lr`."""

    spec: str
    hypers: Hypers
    reference: Reference
    tolerance: float = TOLERANCE

    @property
    def label(self) -> str:
        """`adam/adamw lr=0.01 amsgrad=True`: the test's id."""
        return " ".join([self.spec, *(f"{key}={value}" for key, value in self.hypers.items())])

    def run(self, problem: Problem) -> Trace:
        """What the reference does."""
        return self.reference(self.hypers, problem)


@contextmanager
def float64_by_default() -> Iterator[None]:
    """PyTorch keeps some scalars (NAdam's product, ASGD's step size) in the default dtype, whatever the parameter's."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def run_library(factory: Callable[..., torch.optim.Optimizer], arguments: Hypers, hypers: Hypers, problem: Problem) -> Trace:
    """Runs a `torch.optim.Optimizer` in float64. Every step gets a fresh gradient: some libraries change it in place."""
    thetas: list[Array] = []
    with float64_by_default():
        parameter = torch.nn.Parameter(torch.tensor(problem.theta, dtype=torch.float64))
        first = hypers["lr"] * problem.lr_factors[0]
        optimizer = factory([parameter], **{**arguments, "lr": first})
        for _, lr, g, _ in problem.steps(hypers["lr"]):
            optimizer.param_groups[0]["lr"] = lr
            parameter.grad = torch.tensor(g, dtype=torch.float64)
            optimizer.step()
            thetas.append(parameter.detach().numpy().copy())
    return Trace(tuple(thetas), library_states(optimizer, parameter))


def library_states(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> dict[str, Array]:
    """The states of a parameter in float64, without the count of steps."""
    states = {key: value for key, value in optimizer.state[parameter].items() if key != "step" and value is not None}
    return {key: torch.as_tensor(value).detach().to(torch.float64).numpy().copy() for key, value in states.items()}


def case(spec: str, factory: Callable[..., Any], library: Hypers | None = None, /, **hypers: Any) -> Case:
    """A case against a library class that takes `library` or, without it, the spec's own keyword arguments."""
    arguments = hypers if library is None else library
    return Case(spec, MappingProxyType(hypers), partial(run_library, factory, MappingProxyType(dict(arguments))))


def loop(spec: str, function: Callable[[Hypers, Problem], loops.Run], /, **hypers: Any) -> Case:
    """A case against one of the float64 loops."""

    def reference(given: Hypers, problem: Problem) -> Trace:
        thetas, states = function(given, problem)
        return Trace(tuple(thetas), {key: np.asarray(value, dtype=np.float64) for key, value in states.items()})

    return Case(spec, MappingProxyType(hypers), reference)


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
)

SPECS: tuple[str, ...] = tuple(dict.fromkeys(c.spec for c in CASES))


def cases_of(spec: str) -> tuple[Case, ...]:
    """The cases of one spec, in the table's order."""
    return tuple(c for c in CASES if c.spec == spec)


def difference(found: Trace, expected: Trace) -> float:
    """The largest `|found - expected| / (1 + |expected|)` over θ after every step and the states that both have.

    NaN and infinities agree with themselves only; inf where the traces do not match.
    """
    shared = sorted(set(found.states) & set(expected.states))
    left = [*found.thetas, *(found.states[key] for key in shared)]
    right = [*expected.thetas, *(expected.states[key] for key in shared)]
    return max((_distance(a, b) for a, b in zip(left, right, strict=True)), default=0.0)


def _distance(a: Array, b: Array) -> float:
    if np.shape(a) != np.shape(b):
        return float("inf")
    with np.errstate(all="ignore"):
        error = np.abs(a - b) / (1 + np.abs(b))
        same = (a == b) | (np.isnan(a) & np.isnan(b))
    return float(np.max(np.where(same, 0.0, np.where(np.isfinite(error), error, np.inf)), initial=0.0))
