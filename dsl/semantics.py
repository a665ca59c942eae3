"""What the primitive operations mean: one table, and the evaluation of an expression by it, in IEEE float64.

The oracle (`compiler/interpret.py`) runs whole programs by this table; the checker and the runtime's tests evaluate static
conditions by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from optc.dsl.kinds import Extent
from optc.dsl.philox import drawn
from optc.dsl.program import DRAW, PICK, REDUCTIONS, Apply, Constant, Expression, Read, Role, Scalar, Symbol

Value: TypeAlias = Any
"""A float64 or bool numpy scalar or array; a text or None where the type's sort is CHOICE."""


def rounded_to_bf16(x: Value, u: Value) -> Value:
    """x as bfloat16: away from 0 where the 16 bits of float32 that are cut off, as a number from [0, 1), exceed u."""
    single = np.asarray(x, dtype=np.float32)
    bits = single.view(np.uint32).astype(np.uint64)
    away = (bits & 0xFFFF).astype(np.float64) > np.asarray(u, dtype=np.float64) * 65536
    rounded = ((bits >> 16) + away << 16).astype(np.uint32).view(np.float32)
    return np.where(np.isnan(single), np.nan, rounded.astype(np.float64))


OPERATIONS: dict[str, Callable[..., Value]] = {
    "neg": np.negative,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "sin": np.sin,
    "cos": np.cos,
    "cospi": lambda x: np.cos(np.pi * (x - 2 * np.floor(x / 2 + 0.5))),
    "tanh": np.tanh,
    "abs": np.abs,
    "sign": np.sign,  # sign(0) = 0, sign(NaN) = NaN
    "floor": np.floor,
    "not": np.logical_not,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,  # 1/0 = inf, 0/0 = NaN
    "mod": np.mod,  # floored: the sign of the divisor
    "pow": np.power,  # 0^0 = 1
    "min": np.minimum,  # NaN passes through
    "max": np.maximum,
    "atan2": np.arctan2,
    "round_bf16": rounded_to_bf16,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "where": np.where,
    DRAW: drawn,
}

_REDUCTIONS: dict[str, Callable[..., Value]] = {
    "sum": np.sum,
    "mean": lambda x, **over: np.divide(np.sum(x, **over), np.sum(np.ones_like(x), **over)),  # 0/0 of no entries
    "largest": lambda x, **over: np.max(x, initial=-np.inf, **over),
    "smallest": lambda x, **over: np.min(x, initial=np.inf, **over),
}


def evaluate(expression: Expression, read: Callable[[Symbol], Value], shape: tuple[int, ...] = (), p: int = 1) -> Value:
    """The value of an expression; `read` gives the present value of a name, `shape` is that of θ, `p` that of picked elements.

    A static condition selects code: `where` on one evaluates the selected side only, and `and`/`or` after one stop there if it
    settles the result. So the other side may read states that do not exist and hypers that are none.
    """
    with np.errstate(all="ignore"):
        return _evaluate(expression, read, shape, p)


def _evaluate(expression: Expression, read: Callable[[Symbol], Value], shape: tuple[int, ...], p: int) -> Value:
    match expression:
        case Constant(value=value):
            return number(value)
        case Read(symbol=symbol):
            return number(read(symbol))
        case Apply(operation="where", arguments=(condition, then, otherwise)) if condition.type.static:
            return _evaluate(then if _evaluate(condition, read, shape, p) else otherwise, read, shape, p)
        case Apply(operation="and" | "or" as operation, arguments=(left, right)) if left.type.static:
            settled = bool(_evaluate(left, read, shape, p))
            return np.bool_(settled) if settled == (operation == "or") else _evaluate(right, read, shape, p)
        case Apply(operation=operation, arguments=arguments):
            values = [_evaluate(a, read, shape, p) for a in arguments]
            if any(v is None or isinstance(v, str) for v in values):  # texts and none: only ever tested for equality
                return np.bool_((values[0] == values[1]) == (operation == "eq"))
            if operation in REDUCTIONS:
                return _reduce(operation, values[0], arguments[0].type.extent, expression.type.extent, shape, p)
            if operation == PICK:
                return np.broadcast_to(values[0], shape).reshape(-1)[:: int(values[1])]
            return OPERATIONS[operation](*values)
    raise TypeError(f"not an expression: {expression!r}")


def _reduce(operation: str, value: Value, source: Extent, target: Extent, shape: tuple[int, ...], p: int) -> Value:
    entries = np.broadcast_to(value, source.shape(shape, p))  # one number may stand for all: `sum(where(flag, 1, g))`
    if target is Extent.TENSOR:
        return _REDUCTIONS[operation](entries)
    dims = zip(source.varies(len(shape)), target.varies(len(shape)), strict=True)
    axes = tuple(axis for axis, (before, after) in enumerate(dims) if before and not after)
    return _REDUCTIONS[operation](entries, axis=axes, keepdims=True)


def number(value: Value) -> Value:
    """Python numbers become float64 and bool scalars of numpy, whose operations never raise; the rest stays as it is."""
    if isinstance(value, bool):
        return np.bool_(value)
    return np.float64(value) if isinstance(value, (int, float)) else value


def evaluate_static(
    expression: Expression, hypers: Mapping[str, Scalar], ndim: int = 0, numel: int = 0, bf16: bool = False
) -> bool:
    """Whether a static condition, or one on hypers alone, holds.

    `hypers` maps inside names (`beta1`) to values; `ndim`, `numel` and `bf16` describe the parameter.
    """

    def read(symbol: Symbol) -> Value:
        if symbol.role is Role.HYPER:
            return hypers[symbol.name]
        return {"ndim": ndim, "numel": numel, "bf16": bf16}[symbol.name]

    return bool(evaluate(expression, read))


def reads(expression: Expression) -> set[Symbol]:
    """The names an expression reads."""
    found: set[Symbol] = set()
    stack = [expression]
    while stack:
        match stack.pop():
            case Read(symbol=symbol):
                found.add(symbol)
            case Apply(arguments=arguments):
                stack.extend(arguments)
    return found
