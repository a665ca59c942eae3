"""`hyper:`: defaults, domains, tuples, names outside."""

from __future__ import annotations

import math

from optc.dsl import nodes
from optc.dsl.implication import Implication, within
from optc.dsl.names import PYTHON_KEYWORDS
from optc.dsl.program import Bounds, Hyper, HyperKind, Scalar
from optc.dsl.scope import Context, HyperEntry
from optc.dsl.source import Span

_TAKEN_KEYS = frozenset({"params", "param_names", "initial_lr", "step", "spec"})
"""Entries of a parameter group and of a saved state that are not the optimizer's own."""

_TAKEN_ARGUMENTS = frozenset({"backend", "maximize", "capturable", "amp", "nonfinite", "loss_scale"})
"""Arguments that every optimizer's constructor has."""


def check_hypers(context: Context, hypers: tuple[nodes.Hyper, ...]) -> tuple[Hyper, ...]:
    """Declares all hypers, and what follows from their ranges; those with a mistake are entered without a value."""
    checked: list[Hyper] = []
    keys: dict[str, Span] = {}
    for node in hypers:
        before = len(context.diagnostics)
        elements = node.default if isinstance(node.default, tuple) else None
        names = (node.name,) if elements is None else tuple(e.name for e in elements)
        spans = (context.head(node),) if elements is None else tuple(context.head(e) for e in elements)
        result = _check_one(context, node)
        if len(context.diagnostics) > before:
            result = None
        declared = elements is not None
        if elements is not None:
            context.tuples[node.name] = names
            context.reserved(node.name, context.head(node), keep_outside=node.outside is None)
        for name, span in zip(names, spans, strict=True):
            if declare_name(context, name, span, keep_outside=elements is None and node.outside is None):
                declared = True
                context.hypers[name] = HyperEntry(result, span)
        if declared:
            check_outside(context, node, keys)
        if result is not None:
            checked.append(result)
    context.implication = Implication({name: e.hyper for name, e in context.hypers.items() if e.hyper is not None})
    return tuple(checked)


def declare_name(context: Context, name: str, span: Span, keep_outside: bool) -> bool:
    """Whether a hyper or state can be declared under this name; a diagnostic if not.

    `keep_outside`: it is the name outside as well, which `as` can keep.
    """
    if context.reserved(name, span, keep_outside):
        return False
    declared = context.hypers.get(name) or context.states.get(name)
    if declared is not None:
        line, _ = context.source.position(declared.span.start)
        hint = "Greek and ASCII spellings are one name" if name != context.text(span) else "choose another name"
        context.error("duplicate-name", f"`{name}` is declared already, in line {line}", span, hint)
        return False
    return True


def check_outside(context: Context, node: nodes.Hyper | nodes.State, keys: dict[str, Span]) -> None:
    """A name outside: an identifier, not a Python keyword, and not taken."""
    renamed = node.outside is not None
    key = node.outside or node.name
    span = context.after(node, "as") if renamed else context.head(node)
    if key in PYTHON_KEYWORDS or not (key.isascii() and key.isidentifier()):
        hint = "choose another name" if renamed else f"give it another name outside: `{context.text(span)} = … as name`"
        context.error("python-keyword", f"`{key}` cannot be a name in Python", span, hint)
    elif key in _TAKEN_KEYS or (key in _TAKEN_ARGUMENTS and isinstance(node, nodes.Hyper)):
        hint = "choose another name" if renamed else "give it another name outside with `as`"
        taken = "is taken in PyTorch's optimizers" if key in _TAKEN_KEYS else "is an argument that every optimizer has"
        context.error("reserved-name", f"`{key}` {taken}", span, hint)
    elif isinstance(node, nodes.State) and node.extent in ("model", "group") and key in _group_entries(context):
        message = f"`{key}` is an entry of parameter groups already, where numbers of the {context.whole} are kept, too"
        context.error("duplicate-key", message, span, "give the state another name outside with `as`")
    elif key in keys:
        line, _ = context.source.position(keys[key].start)
        message = f"the name outside `{key}` is taken already, in line {line}"
        context.error("duplicate-key", message, span, "give one of them another name with `as`")
    else:
        keys[key] = span


def _group_entries(context: Context) -> set[str]:
    return {entry.hyper.key for entry in context.hypers.values() if entry.hyper is not None} | {"params", *_TAKEN_ARGUMENTS}


def literal(node: nodes.Expression) -> tuple[bool, Scalar]:
    """Whether this is a literal (`1e-3`, `-1`, `inf`, `true`, `"text"`, `none`), and its value."""
    match node:
        case nodes.Number(value=value) | nodes.Boolean(value=value) | nodes.Text(value=value):
            return True, value
        case nodes.Nothing():
            return True, None
        case nodes.Name(id="inf"):
            return True, math.inf
        case nodes.Name(id="pi"):
            return True, math.pi
        case nodes.Unary(operator="-", operand=nodes.Number(value=value)):
            return True, -value
        case nodes.Unary(operator="-", operand=nodes.Name(id="inf" | "pi" as name)):
            return True, -math.inf if name == "inf" else -math.pi
    return False, None


def _check_one(context: Context, node: nodes.Hyper) -> Hyper | None:
    if node.counts:
        _counts(context, node)
    is_tuple = isinstance(node.default, tuple)
    parts = [(e.name, e.default) for e in node.default] if isinstance(node.default, tuple) else [(node.name, node.default)]
    values: list[Scalar] = []
    for name, default in parts:
        known, value = literal(default)
        if not known:
            hint = "write a number, `true`, `false`, a text or `none`; compute with it in `step`"
            context.error("default-not-literal", f"the default of `{name}` must be a literal", default.span, hint)
            return None
        if is_tuple and (value is None or isinstance(value, (bool, str))):
            hint = "make it a hyper of its own"
            context.error("tuple-element", "the elements of a tuple are numbers", default.span, hint)
            return None
        values.append(value)
    if not values:
        context.error("tuple-element", "a tuple has at least one element", node.span, "write `(name = 0.9)`")
        return None
    kind = _kind(context, node, values[0])
    if kind is None:
        return None
    bounds = _bounds(context, node.domain) if isinstance(node.domain, nodes.Interval) else None
    choices = node.domain.values if isinstance(node.domain, nodes.Choice) else ()
    for (name, default), value in zip(parts, values, strict=True):
        _check_value(context, name, default.span, value, kind, bounds, choices)
    return Hyper(
        key=node.outside or node.name,
        names=tuple(name for name, _ in parts),
        defaults=tuple(_converted(v, kind) for v in values),
        is_tuple=is_tuple,
        kind=kind,
        bounds=bounds,
        choices=choices,
        optional=None in values,
        shared=node.shared,
        counts=node.counts,
        text=node.text,
        span=node.span,
    )


def _counts(context: Context, node: nodes.Hyper) -> None:
    """Reports where a hyper cannot count steps."""
    whole = isinstance(node.domain, nodes.Interval) and node.domain.integer
    if not whole or isinstance(node.default, tuple):
        hint = f"write `{node.name} = 0 counts in int [0, inf)`"
        context.error("counts", f"`{node.name}` counts steps, so it is one whole number", context.head(node), hint)
    if any(entry.hyper is not None and entry.hyper.counts for entry in context.hypers.values()):
        context.error("counts", "another hyper counts steps already", context.head(node), "read that one")


def _kind(context: Context, node: nodes.Hyper, first: Scalar) -> HyperKind | None:
    span = node.default[0].span if isinstance(node.default, tuple) else node.default.span
    domain = node.domain
    if isinstance(domain, nodes.Choice):
        if first is not None and not isinstance(first, str):
            hint = "write one of the texts"
            context.error("default-type", f"`{node.name}` is a choice of texts, its default is not one", span, hint)
            return None
        if len(set(domain.values)) < len(domain.values):
            context.error("empty-domain", "a text occurs twice", domain.span, "take one of them out")
            return None
        return HyperKind.CHOICE
    if isinstance(first, str):
        hint = f'write `{node.name} = "{first}" in {{"{first}", …}}`'
        context.error("default-type", "a text is allowed for a choice only", span, hint)
        return None
    if isinstance(first, bool):
        if domain is not None:
            context.error("default-type", f"`{node.name}` is a flag, an interval is for numbers", span, "take the interval out")
            return None
        return HyperKind.FLAG
    return HyperKind.INTEGER if domain is not None and domain.integer else HyperKind.REAL


def _bounds(context: Context, domain: nodes.Interval) -> Bounds | None:
    ends: list[float] = []
    for end in (domain.low, domain.high):
        known, value = literal(end)
        if not known or value is None or isinstance(value, (bool, str)):
            context.error(
                "bound-not-number", "the ends of an interval are numbers", end.span, "write a number, `inf` or `-inf`"
            )
            return None
        ends.append(float(value))
    low, high = ends
    if low > high or (low == high and not (domain.low_closed and domain.high_closed)):
        context.error("empty-domain", "no number lies in this interval", domain.span, "write the smaller end first")
        return None
    return Bounds(low, high, domain.low_closed, domain.high_closed)


def _check_value(
    context: Context, name: str, span: Span, value: Scalar, kind: HyperKind, bounds: Bounds | None, choices: tuple[str, ...]
) -> None:
    if value is None:
        return
    if isinstance(value, str):
        if value not in choices:
            known = ", ".join(f'"{c}"' for c in choices)
            context.error(
                "default-out-of-range", f'the default "{value}" is not one of the choices', span, f"it is one of {known}"
            )
    elif kind is HyperKind.INTEGER and not float(value).is_integer():
        context.error("default-type", f"`{name}` is a whole number, its default is not", span, "take `int` out of its domain")
    elif bounds is not None and not within(float(value), bounds):
        interval = f"{'[' if bounds.low_closed else '('}{bounds.low:g}, {bounds.high:g}{']' if bounds.high_closed else ')'}"
        context.error("default-out-of-range", f"the default {value:g} is not in {interval}", span, "change one of them")


def _converted(value: Scalar, kind: HyperKind) -> Scalar:
    if value is None or isinstance(value, (bool, str)):
        return value
    return int(value) if kind is HyperKind.INTEGER and float(value).is_integer() else float(value)
