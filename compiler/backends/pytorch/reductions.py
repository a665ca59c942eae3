"""How reductions are spelled: a function of `optc.runtime.tensor_ops` for each, and single-pass ones for what is common.

`√Σx²` is `norm(x)` and `Σ|x|` is `norm(x, 1)`: no temporary for squares or magnitudes, and none of them overflows in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from optc.dsl.kinds import IN_MATRICES, Extent
from optc.dsl.program import REDUCTIONS, Apply, Constant, Expression

FUNCTIONS = frozenset({"total", "mean", "norm", "count", "largest", "smallest", "largest_magnitude", "pick"})
"""The functions that generated code calls by their names."""

_DIMENSION = {Extent.ROW: -1, Extent.COL: -2}


@dataclass(frozen=True, slots=True)
class Reduced:
    """One number of a tensor, matrix, row or column.

    `template` takes the printed `value` and `numel`; `divides`: it is a quotient. `extent`: where it varies. `source`: where
    the entries that count vary, if the value could be printed as one number for several of them.
    """

    template: str
    value: Expression
    divides: bool = False
    extent: Extent = Extent.TENSOR
    source: Extent | None = None


def recognised(value: Apply) -> Reduced | None:
    """How an operation that is, or contains, a reduction is spelled; None for all others."""
    operation, arguments = value.operation, value.arguments
    if operation in REDUCTIONS:
        return _along(value) if _is_lined(value) else _reduction(operation, arguments[0])
    match operation, arguments:
        case "sqrt", (Apply(operation="sum" | "mean" as inner, arguments=(reduced,)) as reduction,):
            squared = _squared(reduced)
            if squared is not None and not _is_lined(reduction):
                return _mean("norm({0})", squared, "{numel}**0.5") if inner == "mean" else Reduced("norm({0})", squared)
        case "gt", (Apply(operation="largest", arguments=(reduced,)) as reduction, Constant(value=bound)) if bound == 0:
            condition = _indicated(reduced)
            if condition is not None and not _is_lined(reduction):
                return Reduced("torch.any({0})", condition)
    return None


def _is_lined(reduction: Apply) -> bool:
    """Whether it takes or gives values per matrix, row or column."""
    return not {reduction.type.extent, reduction.arguments[0].type.extent}.isdisjoint(IN_MATRICES)


def _along(reduction: Apply) -> Reduced:
    """Entries of rows (along the last dimension), of columns (along the one before), or all of a vector's."""
    value, target = reduction.arguments[0], reduction.type.extent
    source = value.type.extent if value.type.extent in IN_MATRICES else Extent.ELEM
    across = {Extent.ROW: Extent.COL, Extent.COL: Extent.ROW}.get(source, target)  # a matrix' rows lie along its columns
    dimension = f", dim={_DIMENSION[across]}" if target in IN_MATRICES else ""
    function = {"sum": "total"}.get(reduction.operation, reduction.operation)
    condition = _indicated(value) if function in ("total", "mean") else None
    template = f"{function}({{0}}{dimension})"
    return Reduced(template, value if condition is None else condition, extent=target, source=source)


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
