"""Numbers of a parameter group: what the whole model's are, but over one group's parameters, and with its hypers."""

from __future__ import annotations

from optc.dsl import nodes
from optc.dsl.functions import BUILTINS
from optc.dsl.scope import Context, walk
from optc.dsl.source import Span

_REMEDY = "take one or the other: `group_norm(x)`, `group_total(x)` and states `per group`, or those of the model"


def by_group(spec: nodes.Spec) -> bool:
    """Whether the numbers that parameters share are those of a group."""
    return any(_shared_by(node) == "group" for node in walk(spec))


def of_one_kind(context: Context, spec: nodes.Spec) -> None:
    """A diagnostic for the first number of the whole model beside those of groups."""
    wrong = [node for node in walk(spec) if _shared_by(node) == "model"] if context.by_group else []
    if wrong:
        first = min(wrong, key=lambda node: node.span.start)
        what = f"`{_name(first)}` is a number of the whole model, but other lines have numbers of a parameter group"
        context.error("mixed-groups", what, _place(context, first), _REMEDY)


def _shared_by(node: nodes.Node) -> str | None:
    if isinstance(node, nodes.State):
        return node.extent
    if isinstance(node, nodes.Call) and (builtin := BUILTINS.get(node.function)) is not None:
        return builtin.reduces or next(filter(None, map(_shared_by, walk(builtin.formula))), None)
    return None


def _name(node: nodes.Node) -> str:
    return node.function if isinstance(node, nodes.Call) else getattr(node, "name", "")


def _place(context: Context, node: nodes.Node) -> Span:
    return context.head(node) if isinstance(node, nodes.Call) else context.after(node, "per")
