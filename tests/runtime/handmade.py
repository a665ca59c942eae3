"""Two optimizers as the compiler would write them, by hand and with PyTorch code only: the runtime's tests need no compiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optc.runtime import ieee
from optc.runtime.optimizer import Optimizer
from optc.runtime.schema import Condition, Hyper, Kernel, Phase, Procedure, Require, Schema, State, Stream

Outcome = tuple[tuple[float, ...], tuple[bool, ...], tuple[float, ...]]
INF = float("inf")

# --- AdamW --------------------------------------------------------------------------------------------------------------------


def adamw_host(lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, t: float) -> Outcome:
    c1 = 1.0 - ieee.pow(beta1, t)
    c2 = 1.0 - ieee.pow(beta2, t)
    decay = 1.0 - lr * weight_decay
    return (beta1, 1.0 - beta1, beta2, 1.0 - beta2, ieee.div(1.0, c1), ieee.div(1.0, c2), eps, decay, lr), (), ()


def adamw_torch(
    theta: Tensor, g: Tensor, m: Tensor, v: Tensor, v_max: Tensor | None,
    beta1: float, one_minus_beta1: float, beta2: float, one_minus_beta2: float,
    r1: float, r2: float, eps: float, decay: float, lr: float, amsgrad: bool,
) -> None:  # fmt: skip
    m.mul_(beta1).add_(g, alpha=one_minus_beta1)
    v.mul_(beta2).addcmul_(g, g, value=one_minus_beta2)
    second = v
    if amsgrad:
        assert v_max is not None
        second = torch.maximum(v_max, v, out=v_max)
    u = (m * r1) / ((second * r2).sqrt() + eps)
    theta.mul_(decay).sub_(u, alpha=lr)


ADAMW_SCALARS = ("beta1", "one_minus_beta1", "beta2", "one_minus_beta2", "r1", "r2", "eps", "decay", "lr")
AMSGRAD = Condition(lambda amsgrad: amsgrad, ("amsgrad",))


def zeros(theta: Tensor, g: Tensor) -> float:
    return 0.0


ADAMW = Schema(
    name="AdamW",
    digest="by hand",
    hypers=(
        Hyper("lr", ("lr",), (1e-3,), low=0.0, low_closed=True),
        Hyper("betas", ("beta1", "beta2"), (0.9, 0.999), is_tuple=True, low=0.0, high=1.0, low_closed=True),
        Hyper("eps", ("eps",), (1e-8,), low=0.0, low_closed=True),
        Hyper("weight_decay", ("weight_decay",), (1e-2,), low=0.0, low_closed=True),
        Hyper("amsgrad", ("amsgrad",), (False,), kind="flag"),
    ),
    requires=(),
    states=(
        State("m", "exp_avg", zeros),
        State("v", "exp_avg_sq", zeros),
        State("v_max", "max_exp_avg_sq", zeros, exists=AMSGRAD),
    ),
    flags=(("amsgrad", AMSGRAD),),
    procedures=(
        Procedure(
            name="step", inputs=(), every=None, host=adamw_host,
            arguments=("lr", "beta1", "beta2", "eps", "weight_decay", "t"),
            scalars=ADAMW_SCALARS, flags=(), carried=(),
            phases=(
                Phase(Kernel(
                    "step",
                    (
                        Stream("theta", "theta", True, True),
                        Stream("g", "gradient", True, False),
                        Stream("m", "state", True, True),
                        Stream("v", "state", True, True),
                        Stream("v_max", "state", True, True),
                    ),
                    ADAMW_SCALARS, ("amsgrad",), (), adamw_torch, "", None,
                )),
            ),
            triton_scalars=None,
        ),
    ),
)  # fmt: skip


class AdamW(Optimizer):
    """AdamW in PyTorch operations."""

    schema = ADAMW

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        backend: str = "torch",
        maximize: bool = False,
        capturable: bool = False,
        amp: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        super().__init__(params, defaults, backend=backend, maximize=maximize, capturable=capturable, amp=amp)


# --- SGD, with what AdamW has not: new(b), a host state, a start from θ, shapes, a choice, None, shared, an entry -----------


def sgd_host(lr: float, momentum: float, dampening: float, new_b: bool, n: float, every: float | None) -> Outcome:
    average = every is not None and ieee.mod(n + 1.0, every) == 0.0
    return (lr, momentum, 1.0 - dampening), (new_b, average), (n + 1.0,)


def sgd_torch(
    theta: Tensor, g: Tensor, b: Tensor | None, slow: Tensor,
    lr: float, momentum: float, one_minus_dampening: float,
    has_momentum: bool, is_matrix: bool, new_b: bool, average: bool,
) -> None:  # fmt: skip
    u = g
    if has_momentum:
        assert b is not None
        if new_b:
            b.copy_(g)
        else:
            b.mul_(momentum).add_(g, alpha=one_minus_dampening)
        u = b
    theta.sub_(u, alpha=2 * lr if is_matrix else lr)
    if average:
        slow.lerp_(theta, 0.5)
        theta.copy_(slow)


def shift_host(lr: float) -> Outcome:
    return (lr,), (), ()


def shift_torch(slow: Tensor, delta: Tensor, lr: float) -> None:
    slow.add_(delta, alpha=lr)


MOMENTUM = Condition(lambda momentum: momentum != 0.0, ("momentum",))
MATRIX = Condition(lambda ndim, double: ndim >= 2 and double == "matrices", ("ndim", "double"))

SGD_SCHEMA = Schema(
    name="SGD",
    digest="by hand",
    hypers=(
        Hyper("lr", ("lr",), (1e-3,), low=0.0, low_closed=True),
        Hyper("momentum", ("momentum",), (0.0,), low=0.0, high=1.0, low_closed=True),
        Hyper("dampening", ("dampening",), (0.0,)),
        Hyper("every", ("every",), (None,), kind="integer", low=1, low_closed=True, optional=True),
        Hyper("double", ("double",), ("nothing",), kind="choice", choices=("nothing", "matrices")),
        Hyper("seed", ("seed",), (0,), kind="integer", low=0, low_closed=True, shared=True),
    ),
    requires=(Require(Condition(lambda m, d: d == 0 or m > 0, ("momentum", "dampening")), "dampening needs a momentum"),),
    states=(
        State("b", "momentum_buffer", zeros, exists=MOMENTUM),
        State("slow", "slow", lambda theta, g: theta.clone()),
        State("n", "count", lambda theta, g: 0.0, host=True),
    ),
    flags=(("has_momentum", MOMENTUM), ("is_matrix", MATRIX)),
    procedures=(
        Procedure(
            name="step", inputs=(), every=None, host=sgd_host,
            arguments=("lr", "momentum", "dampening", "new_b", "n", "every"),
            scalars=("lr", "momentum", "one_minus_dampening"), flags=("new_b", "average"), carried=("n",),
            phases=(
                Phase(Kernel(
                    "step",
                    (
                        Stream("theta", "theta", True, True),
                        Stream("g", "gradient", True, False),
                        Stream("b", "state", True, True),
                        Stream("slow", "state", True, True),
                    ),
                    ("lr", "momentum", "one_minus_dampening"),
                    ("has_momentum", "is_matrix"), ("new_b", "average"), sgd_torch, "", None,
                )),
            ),
            triton_scalars=None,
        ),
        Procedure(
            name="shift", inputs=("delta",), every=10, host=shift_host,
            arguments=("lr",), scalars=("lr",), flags=(), carried=(),
            phases=(
                Phase(Kernel(
                    "shift", (Stream("slow", "state", True, True), Stream("delta", "input", True, False)),
                    ("lr",), (), (), shift_torch, "", None,
                )),
            ),
            triton_scalars=None,
        ),
    ),
)  # fmt: skip


class SGD(Optimizer):
    """SGD in PyTorch operations, with a slow copy and an entry."""

    schema = SGD_SCHEMA

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        every: int | None = None,
        double: str = "nothing",
        seed: int = 0,
        *,
        backend: str = "torch",
        maximize: bool = False,
        capturable: bool = False,
        amp: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "dampening": dampening, "every": every, "double": double, "seed": seed}
        super().__init__(params, defaults, backend=backend, maximize=maximize, capturable=capturable, amp=amp)

    def shift(self, delta: Sequence[Tensor | None] | Mapping[Tensor, Tensor | None] | None = None) -> None:
        """slow <- slow + lr*delta."""
        self._enter("shift", {"delta": delta})
