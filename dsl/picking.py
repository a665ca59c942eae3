"""Every p-th element: what p may be, and what picked elements combine with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from optc.dsl import nodes
from optc.dsl.kinds import SCALARS, Extent, Sort, Type
from optc.dsl.program import Expression, HyperKind, Read, Role
from optc.dsl.scope import NUMBER_INITIAL, Context, Env
from optc.dsl.source import Span
from optc.dsl.typing_rules import varying

if TYPE_CHECKING:
    from optc.dsl.infer import Inference

_WHOLE = "declare it `in int [1, inf)`"


def picked(context: Context, value: Expression, period: Expression) -> Type | None:
    """The type of `pick(value, period)`; None, after a diagnostic, where it cannot stand."""
    if not period_is_right(context, period, period.span):
        return None
    extent = value.type.extent
    if extent is Extent.ELEM:
        return Type(Sort.REAL, Extent.PICK)
    if extent in SCALARS:
        message = f"`pick` takes elements of a tensor, but this is one number for the whole {extent.value}"
        context.error("wrong-extent", message, value.span, "take `pick` off")
    elif extent is Extent.PICK:
        context.error("wrong-extent", "these elements are picked already", value.span, "take one `pick` off")
    else:
        context.error("wrong-extent", f"`pick` takes a value per element, this is per {extent.value}", varying(value).span)
    return None


def period_of_state(inference: Inference, node: nodes.State, span: Span) -> bool:
    """Whether the extent of a state `per pick(p)` is right; `span` is its place."""
    context = inference.context
    if node.period is None:
        context.error("missing-period", "`per pick` needs the hyper that says how many", span, "write `per pick(p)`")
        return False
    period = inference.infer(node.period, Env(NUMBER_INITIAL))
    return period is not None and period_is_right(context, period, node.period.span)


def period_is_right(context: Context, period: Expression, span: Span) -> bool:
    """Whether p is a whole hyper of at least 1, and the only one of the program; a diagnostic if not."""
    if not isinstance(period, Read) or period.symbol.role is not Role.HYPER:
        context.error("pick-period", "the p of `pick` is a hyper", span, f"give it a name in `hyper:`, and {_WHOLE}")
        return False
    name = period.symbol.name
    hyper = context.hypers[name].hyper
    whole = hyper is not None and hyper.kind is HyperKind.INTEGER and hyper.bounds is not None and hyper.bounds.low >= 1
    if hyper is not None and (hyper.optional or not whole):
        if f"pick {name}" not in context.unknown:  # said once
            message = f"`{name}` says that every so many elements are picked: it is a whole number, at least 1"
            context.error("pick-period", message, span, _WHOLE)
        context.unknown.add(f"pick {name}")
        return False
    if context.pick is None:
        context.pick = (name, span)
    elif context.pick[0] != name:
        message = f"this picks by `{name}`, other lines by `{context.pick[0]}`: picked elements of one optimizer are the same"
        context.error("another-pick", message, span, f"write `{context.pick[0]}`")
        return False
    return True


def combine(context: Context, values: Iterable[Expression]) -> bool:
    """Whether values can be combined; a diagnostic if not."""
    present = list(values)
    if not any(v.type.extent is Extent.PICK for v in present):
        return True
    other = next((v for v in present if not v.type.extent.combines(Extent.PICK)), None)
    if other is not None:
        p = context.pick[0] if context.pick is not None else "p"
        message = f"this is per {other.type.extent.value}, and meets picked elements, which are fewer"
        context.error("wrong-extent", message, varying(other).span, f"pick from it, too: `pick(x, {p})`; or reduce it")
    return other is None


def not_with_rows(context: Context) -> None:
    """Notes where an optimizer has picked elements as well as rows or columns."""
    if context.pick is not None and context.rows is not None:
        line, _ = context.source.position(context.rows.start)
        message = f"picked elements do not go with rows and columns (line {line}) in this version of the language"
        context.error("unsupported", message, context.pick[1], "leave one of them out")
