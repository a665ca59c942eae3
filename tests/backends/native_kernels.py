"""Kernels built by hand, as a plan would hold them, for the tests of the native backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from optc.compiler.backends.native.emit import emit_kernel
from optc.compiler.plan import Kernel, Stream
from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.program import TRUE, Apply, Branch, Constant, Expression, Let, Read, Role, Store, Symbol
from optc.dsl.source import NOWHERE, Source, Span
from optc.runtime import schema
from optc.runtime.backend import Launcher, Residents
from optc.runtime.native import NATIVE

REAL = Type(Sort.REAL, Extent.ELEM)
BOOL = Type(Sort.BOOL, Extent.ELEM)
HOST_REAL = Type(Sort.REAL, Extent.GROUP, host=True)
HOST_BOOL = Type(Sort.BOOL, Extent.GROUP, host=True)
BOOLEAN = {"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not"}

theta = Read(Symbol(Role.THETA, "theta"), REAL)
g = Read(Symbol(Role.GRADIENT, "g"), REAL)


def state(name: str) -> Read:
    return Read(Symbol(Role.STATE, name), REAL)


def local(name: str) -> Read:
    return Read(Symbol(Role.LOCAL, name), REAL)


def scalar(name: str) -> Read:
    return Read(Symbol(Role.SCALAR, name), HOST_REAL)


def flag(name: str) -> Read:
    return Read(Symbol(Role.FLAG, name), HOST_BOOL)


def number(value: float) -> Constant:
    return Constant(value, HOST_REAL)


def op(operation: str, *arguments: Expression) -> Apply:
    return Apply(operation, arguments, BOOL if operation in BOOLEAN else REAL)


def let(target: Read, value: Expression, span: Span = NOWHERE) -> Let:
    return Let(target.symbol, value, span)


def store(target: Read, value: Expression, span: Span = NOWHERE) -> Store:
    return Store(target.symbol, value, span)


def stream(target: Read, reads: bool = True, writes: bool = True, exists: Expression = TRUE) -> Stream:
    return Stream(target.symbol.name, target.symbol.role, reads, writes, exists)


ADAMW_SOURCE = Source(
    "adamw.opt",
    """optimizer AdamW:
    step:
        m <- ema(m, g, β1)
        v <- ema(v, g^2, β2)
        v_hat = v/c2
        if amsgrad:
            v_max <- max(v_max, v)
            v_hat = v_max/c2
        u = m / (sqrt(v_hat) + eps)
        θ <- decay*θ - lr_c1*u
""",
)


def line(source: Source, number: int) -> Span:
    """The span of a line's text."""
    start = sum(len(text) + 1 for text in source.text.split("\n")[: number - 1])
    text = source.line(number)
    return Span(start + len(text) - len(text.lstrip()), start + len(text))


def adamw() -> Kernel:
    """AdamW with the static flag `amsgrad`, without which there is no `v_max`."""
    m, v, v_max, v_hat, u = state("m"), state("v"), state("v_max"), local("v_hat"), local("u")

    def ema(old: Expression, new: Expression, beta: str) -> Expression:
        return op("add", op("mul", scalar(beta), old), op("mul", scalar(f"one_minus_{beta}"), new))

    at = [line(ADAMW_SOURCE, n) for n in range(1, 11)]
    step = op("sub", op("mul", scalar("decay"), theta), op("mul", scalar("lr_c1"), u))
    return Kernel(
        name="adamw_step",
        streams=(stream(theta), stream(g, writes=False), stream(m), stream(v), stream(v_max, exists=flag("amsgrad"))),
        scalars=("beta1", "one_minus_beta1", "beta2", "one_minus_beta2", "c2", "eps", "decay", "lr_c1"),
        static_flags=("amsgrad",),
        host_flags=(),
        body=(
            store(m, ema(m, g, "beta1"), at[2]),
            store(v, ema(v, op("pow", g, number(2)), "beta2"), at[3]),
            let(v_hat, op("div", v, scalar("c2")), at[4]),
            Branch(
                flag("amsgrad"),
                (store(v_max, op("max", v_max, v), at[6]), let(v_hat, op("div", v_max, scalar("c2")), at[7])),
                (),
                at[5],
            ),
            let(u, op("div", m, op("add", op("sqrt", v_hat), scalar("eps"))), at[8]),
            store(theta, step, at[9]),
        ),
    )


def sgd() -> Kernel:
    """SGD with the static flags `with_momentum`, `nesterov` and the host flag `new_b`."""
    b, u = state("b"), local("u")
    momentum = op("add", op("mul", scalar("momentum"), b), op("mul", scalar("undamped"), g))
    ahead = op("add", g, op("mul", scalar("momentum"), b))
    return Kernel(
        name="sgd_step",
        streams=(stream(theta), stream(g, writes=False), stream(b, exists=flag("with_momentum"))),
        scalars=("weight_decay", "momentum", "undamped", "lr"),
        static_flags=("with_momentum", "nesterov"),
        host_flags=("new_b",),
        body=(
            let(g, op("add", g, op("mul", scalar("weight_decay"), theta))),
            Branch(
                flag("with_momentum"),
                (
                    Branch(flag("new_b"), (store(b, g),), (store(b, momentum),)),
                    Branch(flag("nesterov"), (let(u, ahead),), (let(u, b),)),
                ),
                (let(u, g),),
            ),
            store(theta, op("sub", theta, op("mul", scalar("lr"), u))),
        ),
    )


def function(name: str, *arguments: Expression) -> Kernel:
    """`θ <- name(arguments)`, over θ, g and a state `m`."""
    m = state("m")
    body = store(theta, op(name, *arguments))
    return Kernel(f"{name}_kernel", (stream(theta), stream(g, writes=False), stream(m, writes=False)), (), (), (), (body,))


def compiled(kernel: Kernel, source: Source = ADAMW_SOURCE) -> schema.Kernel:
    """The kernel as the runtime knows it; only its native form is there."""

    def missing(*_: object) -> None:
        raise NotImplementedError

    roles = {Role.THETA: "theta", Role.GRADIENT: "gradient", Role.INPUT: "input", Role.STATE: "state"}
    streams = tuple(schema.Stream(s.name, roles[s.role], s.reads, s.writes) for s in kernel.streams)  # type: ignore[arg-type]
    text = emit_kernel(kernel, source)
    return schema.Kernel(kernel.name, streams, kernel.scalars, kernel.static_flags, kernel.host_flags, missing, text, missing)


def prepare(kernel: Kernel, tensors: Mapping[str, Sequence[Tensor]], gradient_dtype: torch.dtype, **variant: bool) -> Launcher:
    return NATIVE.prepare([compiled(kernel)], [Residents(tensors, gradient_dtype, variant)])[0]


def adamw_scalars(t: int, lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> list[float]:
    return [beta1, 1 - beta1, beta2, 1 - beta2, 1 - beta2**t, eps, 1 - lr * 1e-2, lr / (1 - beta1**t)]


def apply(expression: Expression, gradient: Tensor, m: Tensor) -> Tensor:
    """`θ <- expression` over one gradient and one state."""
    kernel = Kernel(
        "test", (stream(theta), stream(g, writes=False), stream(state("m"), writes=False)),
        (), (), (), (store(theta, expression),),
    )  # fmt: skip
    result = torch.full_like(m, -7.0)
    prepare(kernel, {"theta": [result], "m": [m]}, gradient.dtype).launch({"g": [gradient]}, (), (), 1.0)
    return result
