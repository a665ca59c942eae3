"""The only door to SymPy: formal and numerical proof that a rewrite keeps the meaning, and exact constants.

SymPy is a checker here, never the representation. It rewrites as it builds (`2*(x + y)` becomes `2*x + 2*y`, `(x + y) - y`
becomes `x`), which is right for real numbers and wrong for floating point, so nothing it returns is ever compiled. Trees are
translated node by node (no text is parsed), every name becomes an opaque real symbol, and an operation it has no safe form for
becomes an opaque function.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

import mpmath
import sympy

from optc.dsl.program import DRAW, Apply, Constant, Expression, Read

DIGITS = 40
SAMPLES = 4
_TOLERANCE = mpmath.mpf(10) ** -(DIGITS - 10)


def _opaque_draw(*given: Any) -> Any:
    """Some number from [0, 1) that depends on all it is given."""
    return abs(mpmath.sin(sum((index + 2) * x for index, x in enumerate(given))))


_NUMERIC: dict[str, Any] = {
    "neg": lambda x: -x,
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "pow": lambda x, y: mpmath.power(x, y),
    "sqrt": mpmath.sqrt,
    "exp": mpmath.exp,
    "log": mpmath.log,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "cospi": mpmath.cospi,
    "tanh": mpmath.tanh,
    "abs": abs,
    "sign": mpmath.sign,
    "floor": mpmath.floor,
    "mod": lambda x, y: x - y * mpmath.floor(x / y),
    "min": min,
    "max": max,
    "atan2": mpmath.atan2,
    "round_bf16": lambda x, u: 19 * x + mpmath.sin(u),  # opaque
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "and": lambda x, y: bool(x and y),
    "or": lambda x, y: bool(x or y),
    "not": lambda x: not x,
    "where": lambda c, x, y: x if c else y,
    # opaque: over a sample of one element, any two functions that differ from it and from each other will do
    "sum": lambda x: 3 * x + 1,
    "mean": lambda x: 5 * x + 2,
    "largest": lambda x: 7 * x + 3,
    "smallest": lambda x: 11 * x + 4,
    "total": lambda x: 13 * x + 5,
    "pick": lambda x, p: 17 * x + 6,
    DRAW: _opaque_draw,
}

_ARITHMETIC = {"neg", "add", "sub", "mul", "div"}


def constant(expression: Expression) -> float | None:
    """The value of an expression of literals, correctly rounded from 40 digits; None where it is not a finite real number."""
    with mpmath.workdps(DIGITS):
        try:
            value = _evaluate(expression, {})
            number = float(value)
        except (ArithmeticError, ValueError, TypeError):
            return None
    return number if mpmath.isfinite(number) else None


def equivalent(left: Expression, right: Expression) -> bool:
    """Whether two expressions are equal as real functions of their names: formally where both are rational in their opaque
    parts, and at random points with 40 digits in any case."""
    difference = _formal(left) - _formal(right)
    return bool(sympy.cancel(difference) == 0) and _agree(left, right)


def _agree(left: Expression, right: Expression) -> bool:
    generator = random.Random(0)
    with mpmath.workdps(DIGITS):
        for sample in range(SAMPLES):
            values: dict[str, Any] = {}
            for read in sorted({e.symbol.name for e in _reads(left)} | {e.symbol.name for e in _reads(right)}):
                # positive points first (roots and logarithms are real there), then both signs
                low = 0.1 if sample < SAMPLES // 2 else -2.0
                values[read] = mpmath.mpf(generator.uniform(low, 2.0))
            try:
                one, other = _evaluate(left, values), _evaluate(right, values)
            except (ArithmeticError, ValueError, TypeError):
                continue
            if isinstance(one, bool) or isinstance(other, bool):
                if bool(one) != bool(other):
                    return False
            elif abs(one - other) > _TOLERANCE * max(1, abs(one)):
                return False
    return True


def _reads(expression: Expression) -> list[Read]:
    match expression:
        case Read():
            return [expression]
        case Apply(arguments=arguments):
            return [r for a in arguments for r in _reads(a)]
    return []


def _evaluate(expression: Expression, values: dict[str, Any]) -> Any:
    match expression:
        case Constant(value=bool() as value):
            return value
        case Constant(value=int() | float() as value):
            return mpmath.mpf(value)
        case Constant(value=value):
            return value
        case Read(symbol=symbol):
            return values[symbol.name]
        case Apply(operation=operation, arguments=arguments):
            value = _NUMERIC[operation](*(_evaluate(a, values) for a in arguments))
            if isinstance(value, mpmath.mpc):  # outside the reals: a root or logarithm of a negative sample
                raise ValueError("not a real number")
            return value
    raise TypeError(f"not an expression: {expression!r}")


@lru_cache(maxsize=4096)
def _formal(expression: Expression) -> Any:
    """A SymPy form in which only the four operations are interpreted; all else is an opaque function of its arguments."""
    match expression:
        case Constant(value=bool() as value):
            return sympy.Symbol(f"constant_{value}")
        case Constant(value=int() | float() as value):
            # the literal's exact binary value: decimal rounding cannot hide a difference
            if mpmath.isfinite(value):
                return sympy.Rational(*float(value).as_integer_ratio())
            return sympy.Symbol(f"constant_{value}")
        case Constant(value=value):
            return sympy.Symbol(f"constant_{value}")
        case Read(symbol=symbol):
            return sympy.Symbol(f"{symbol.role.value}_{symbol.name}", real=True)
        case Apply(operation=operation, arguments=arguments):
            forms = [_formal(a) for a in arguments]
            if operation in _ARITHMETIC:
                return _NUMERIC[operation](*forms)
            return sympy.Function(f"op_{operation}")(*forms)
    raise TypeError(f"not an expression: {expression!r}")
