"""Arithmetic of the host programs: float64 with the rules of IEEE 754, where Python would raise.

Every function takes and returns Python floats and never raises: `1/0` is inf, `0/0` and `sqrt(-1)` are NaN, `0^0` is 1, what is
too large is infinite, NaN passes through `minimum`, `maximum` and `sign`.
"""

from __future__ import annotations

import math
import struct
from typing import TypeVar

_T = TypeVar("_T")

__all__ = [
    "atan2", "cos", "cospi", "div", "exp", "floor", "log", "maximum", "minimum", "mod", "number", "pow", "round_bf16",
    "sign", "sin", "sqrt", "tanh", "where",
]  # fmt: skip


def div(a: float, b: float) -> float:
    """a/b; ±inf for a nonzero a over ±0, NaN for 0/0."""
    if b != 0.0:
        return a / b
    if a == 0.0 or a != a:
        return math.nan
    return math.copysign(math.inf, a) * math.copysign(1.0, b)


def pow(a: float, b: float) -> float:
    """a^b; `x^0` and `1^x` are 1, a negative base to a fractional power is NaN, 0 to a negative power is ±inf."""
    try:
        return math.pow(a, b)
    except OverflowError:
        return -math.inf if a < 0.0 and _is_odd(b) else math.inf
    except ValueError:
        if a != 0.0:
            return math.nan
        return math.copysign(math.inf, a) if _is_odd(b) else math.inf


def _is_odd(x: float) -> bool:
    return math.fmod(x, 2.0) in (-1.0, 1.0)


def sqrt(x: float) -> float:
    """√x; NaN below 0, -0 at -0."""
    return math.nan if x < 0.0 else math.sqrt(x)


def exp(x: float) -> float:
    """e^x; inf where it is too large."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def log(x: float) -> float:
    """The natural logarithm; -inf at 0, NaN below."""
    if x > 0.0:
        return math.log(x)
    return -math.inf if x == 0.0 else math.nan


def sin(x: float) -> float:
    """sin x; NaN at ±inf."""
    return math.nan if math.isinf(x) else math.sin(x)


def cos(x: float) -> float:
    """cos x; NaN at ±inf."""
    return math.nan if math.isinf(x) else math.cos(x)


def cospi(x: float) -> float:
    """cos πx; NaN of an infinity."""
    return math.cos(math.pi * math.remainder(x, 2.0)) if math.isfinite(x) else math.nan


def tanh(x: float) -> float:
    """tanh x."""
    return math.tanh(x)


def atan2(y: float, x: float) -> float:
    """The angle of the point (x, y); 0 or ±π at the origin, by the signs of the zeros."""
    return math.atan2(y, x)


def round_bf16(x: float, u: float) -> float:
    """x as bfloat16: away from 0 where the 16 bits of float32 that are cut off, as a number from [0, 1), exceed u."""
    if not math.isfinite(x):
        return x
    try:
        (bits,) = struct.unpack("<I", struct.pack("<f", x))
    except OverflowError:  # larger than float32 has
        return math.copysign(math.inf, x)
    away = (bits & 0xFFFF) > u * 65536
    (rounded,) = struct.unpack("<f", struct.pack("<I", ((bits >> 16) + away) << 16))
    return float(rounded)


def floor(x: float) -> float:
    """The largest whole number up to x; ±inf, NaN and -0 as they are."""
    return math.copysign(float(math.floor(x)), x) if math.isfinite(x) else x


def mod(a: float, b: float) -> float:
    """The floored modulo, with the sign of b; NaN for b = 0 and for an infinite a."""
    return math.nan if b == 0.0 or math.isinf(a) else a % b


def sign(x: float) -> float:
    """-1, 0 or 1; NaN at NaN."""
    if x > 0.0:
        return 1.0
    if x < 0.0:
        return -1.0
    return math.nan if x != x else 0.0


def minimum(a: float, b: float) -> float:
    """The smaller one; NaN if either is."""
    return a if a != a or a <= b else b


def maximum(a: float, b: float) -> float:
    """The larger one; NaN if either is."""
    return a if a != a or a >= b else b


def where(condition: bool, a: _T, b: _T) -> _T:
    """a if the condition holds, otherwise b; both have been evaluated."""
    return a if condition else b


def number(x: float | None) -> float:
    """A hyper that may be None, as a number: NaN where it is None, so that unused arithmetic on it cannot fail."""
    return math.nan if x is None else x
