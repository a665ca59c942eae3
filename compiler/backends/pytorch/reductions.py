"""How reductions are spelled: a function of `optc.runtime.tensor_ops` for each, and single-pass ones for what is common.

`√Σx²` is `norm(x)` and `Σ|x|` is `norm(x, 1)`: no temporary for squares or magnitudes, and none of them overflows in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from optc.dsl.program import REDUCTIONS, Apply, Constant, Expression

FUNCTIONS = frozenset({"total", "norm", "count", "largest", "smallest", "largest_magnitude"})
"""The functions that generated code calls by their names."""


@dataclass(frozen=True, slots=True)
class Reduced:
    """One number of a tensor. `template` takes the printed `value` and `numel`; `divides`: it is a quotient."""

    template: str
    value: Expression
    divides: bool = False


def recognised(operation: str, arguments: tuple[Expression, ...]) -> Reduced | None:
    """How an operation that is, or contains, a reduction is spelled; None for all others."""
    if operation in REDUCTIONS:
        return _reduction(operation, arguments[0])
    match operation, arguments:
        case "sqrt", (Apply(operation="sum" | "mean" as inner, arguments=(value,)),):
            squared = _squared(value)
            if squared is not None:
                return _mean("norm({0})", squared, "{numel}**0.5") if inner == "mean" else Reduced("norm({0})", squared)
        case "gt", (Apply(operation="largest", arguments=(value,)), Constant(value=bound)) if bound == 0:
            condition = _indicated(value)
            if condition is not None:
                return Reduced("torch.any({0})", condition)
    return None


def _reduction(operation: str, value: Expression) -> Reduced:
    magnitude = value.arguments[0] if isinstance(value, Apply) and value.operation == "abs" else None
    squared, condition = _squared(value), _indicated(value)
    if operation == "smallest":
        return Reduced("smallest({0})", value)
    if operation == "largest":
        return Reduced("largest({0})", value) if magnitude is None else Reduced("largest_magnitude({0})", magnitude)
    template = "total({0})"
    if squared is not None:
        template, value = "norm({0}).square()", squared
    elif magnitude is not None:
        template, value = "norm({0}, 1)", magnitude
    elif condition is not None:
        template, value = "count({0})", condition
    return _mean(template, value, "{numel}") if operation == "mean" else Reduced(template, value)


def _mean(template: str, value: Expression, divisor: str) -> Reduced:
    return Reduced(f"{template}/{divisor}", value, divides=True)


def _squared(value: Expression) -> Expression | None:
    """x of x² or x·x."""
    match value:
        case Apply(operation="pow", arguments=(base, Constant(value=exponent))) if exponent == 2:
            return base
        case Apply(operation="mul", arguments=(left, right)) if left == right:
            return left
    return None


def _indicated(value: Expression) -> Expression | None:
    """c of `where(c, 1, 0)`."""
    match value:
        case Apply(operation="where", arguments=(condition, Constant(value=1), Constant(value=0))):
            return condition
    return None
