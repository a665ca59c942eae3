"""Reductions: what they go over, and whether they may stand where they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from optc.dsl import nodes
from optc.dsl.kinds import IN_MATRICES, SCALARS, Extent
from optc.dsl.program import TOTAL, Apply, Expression
from optc.dsl.scope import ENTRY, NOT_RUN, Context, Env, place_of
from optc.dsl.source import NOWHERE, Span

if TYPE_CHECKING:
    from optc.dsl.infer import Inference

_ALONG = {
    "rows": {Extent.ELEM: Extent.ROW, Extent.COL: Extent.MATRIX},
    "columns": {Extent.ELEM: Extent.COL, Extent.ROW: Extent.MATRIX},
}
"""What is left of a value when the entries of each row (of each column) become one."""
NARROWER = {
    Extent.ROW: "`rowmean(x)`, `rowsum(x)`",
    Extent.COL: "`colmean(x)`, `colsum(x)`",
    Extent.MATRIX: "`colmean(rowmean(x))`, `colsum(rowsum(x))`",
    Extent.PICK: "`pick(x, p)`",
}
"""What to write where a value varies over more than its place has room for."""


def reduced(
    inference: Inference,
    node: nodes.Call,
    over: Literal["entries", "rows", "columns", "model", "group"],
    value: Expression,
    env: Env,
) -> Extent | None:
    """The extent that a reduction of `value` leaves; None, after a diagnostic, where it cannot stand."""
    context, place = inference.context, place_of(node, env)
    name = env.prefix if node.span == NOWHERE and env.inlined_at is not None else node.function  # a formula says its own name
    if env.place.title in NOT_RUN:
        message = f"`{name}` cannot be used in {env.place.title}"
        context.error("not-readable-here", message, place, "reductions stand in `step` and in entries")
        return None
    if over in ("model", "group"):
        return _total(context, name, value, env, place)
    extent = value.type.extent
    if extent in SCALARS:
        message = f"`{name}` reduces over the elements, but this is one number for the whole {extent.value}"
        context.error("wrong-extent", message, value.span, "take the reduction off")
        return None
    target = Extent.TENSOR if over == "entries" else _ALONG[over].get(extent)
    if target is None:
        message = f"`{name}` reduces along {over}, but this value is per {extent.value} and does not vary along them"
        context.error("wrong-extent", message, value.span, "take the reduction off")
        return None
    if (over != "entries" or extent in IN_MATRICES) and not context.has_matrix(env, place):
        what = "rows and columns" if over != "entries" else f"a value per {extent.value}"
        message = f"`{name}` needs {what}, which only tensors of two dimensions or more have"
        hint = "put the line under `if ndim >= 2:`, and what takes its place under `else:`"
        context.error("needs-matrix", message, place, hint)
        return None
    if target in IN_MATRICES:
        context.rows = context.rows or place
    return target


def _total(context: Context, name: str, value: Expression, env: Env, place: Span) -> Extent | None:
    extent = value.type.extent
    if env.place.title == ENTRY.title:
        message = f"`{name}` waits for all parameters of a step, and {env.place.title} runs for one at a time"
        context.error("not-readable-here", message, place, "put it into `step`")
        return None
    if extent not in SCALARS:
        message = f"`{name}` adds up one number per parameter, but this value is per {extent.value}"
        context.error("wrong-extent", message, value.span, f"reduce it first: `{name}(sum(x))`")
        return None
    if extent is Extent.MODEL:
        message = f"`{name}` adds up one number per parameter, but this is one number for the whole {context.whole} already"
        context.error("wrong-extent", message, value.span, "take it off")
        return None
    if env.narrow is not None:
        _narrow(context, name, place, "stands under a condition")
        return None
    if context.stopped is not None:
        message = f"`{name}` waits for all parameters, but here it comes after a `stop` for some parameters or groups only"
        hint = "put it before the `stop`, or declare the hypers of that condition `shared`"
        context.error("narrow-total", message, place, hint)
        return None
    return Extent.MODEL


def _narrow(context: Context, name: str, span: Span, what: str) -> None:
    message = f"`{name}` waits for all parameters, but here it {what} that differs between parameters or groups"
    hint = "name it in a line before the condition, or declare the hypers of the condition `shared`"
    context.error("narrow-total", message, span, f"{hint}; `{context.total}(where(condition, x, 0))` leaves parameters out")


def waits_for_all(context: Context, condition: Expression, *sides: Expression) -> bool:
    """Whether all parameters come to the totals on the sides of a condition; a diagnostic if not.

    A static condition selects one side. What is written there has been looked at in its place; this finds the totals that a
    function brings there as its argument, or as a value that it has named before.
    """
    if not condition.type.static or condition.type.extent is Extent.MODEL:
        return True
    found = next((total for side in sides if (total := total_in(side)) is not None), None)
    if found is not None:
        _narrow(context, TOTAL, found.span, "comes under a condition")
    return found is None


def total_in(expression: Expression) -> Expression | None:
    """A total that the expression waits for."""
    stack = [expression]
    while stack:
        match stack.pop():
            case Apply(operation=operation) as found if operation == TOTAL:
                return found
            case Apply(arguments=arguments):
                stack.extend(arguments)
    return None
