"""`every k from s:`: a block that runs every k steps."""

from __future__ import annotations

from optc.dsl import nodes
from optc.dsl.infer import Inference
from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.program import STEP, Apply, Constant, Expression, HyperKind, Read, Role
from optc.dsl.scope import Env
from optc.dsl.typing_rules import constant


def due(inference: Inference, node: nodes.Every, env: Env) -> Expression | None:
    """`every k from s` as a condition on `t`."""
    period = _whole(inference, node.period, 1, "the period", env)
    start = None if node.start is None else _whole(inference, node.start, 0, "the start", env)
    if period is None or (node.start is not None and start is None):
        return None
    span = node.period.span
    count = Type(Sort.REAL, Extent.TENSOR, host=True)
    test = Type(Sort.BOOL, Extent.TENSOR, host=True)
    t: Expression = Read(STEP, count, span)
    turns = t if start is None else Apply("sub", (t, start), count, span)
    due = Apply("eq", (Apply("mod", (turns, period), count, span), constant(0, span)), test, span)
    if start is None:
        return due
    return Apply("and", (Apply("ge", (t, start), test, span), due), test, span)


def _whole(inference: Inference, node: nodes.Expression, least: int, what: str, env: Env) -> Expression | None:
    """A whole number of at least `least`: a literal, or a hyper whose domain says so."""
    value = inference.number(node, env)
    if value is None:
        return None
    hint = f"write a whole number of at least {least}, or a hyper `in int [{least}, inf)`"
    right = False
    if isinstance(value, Read) and value.symbol.role is Role.HYPER:
        entry = inference.context.hypers[value.symbol.name]
        hyper = entry.hyper
        right = hyper is not None and hyper.kind is HyperKind.INTEGER and hyper.bounds is not None and hyper.bounds.low >= least
    elif isinstance(value, Constant) and isinstance(value.value, (int, float)):
        right = float(value.value).is_integer() and value.value >= least
    if not right:
        inference.context.error("every-period", f"{what} of `every` must be a whole number, at least {least}", value.span, hint)
        return None
    return value
