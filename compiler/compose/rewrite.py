"""`rewrite (a, b): pattern -> value`: finding a pattern, which must be there exactly once, and what takes its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from optc.compiler.compose.tree import substituted
from optc.dsl import nodes
from optc.dsl.scope import walk

Bindings = dict[str, nodes.Expression]

_EXPRESSIONS = (nodes.Unary, nodes.Binary, nodes.Call, nodes.Index, nodes.Name, nodes.Number, nodes.Boolean, nodes.Text)


def found(pattern: nodes.Expression, variables: tuple[str, ...], step: tuple[nodes.Statement, ...]) -> list[nodes.Expression]:
    """The expressions of a step that a pattern fits, those inside others included, in the order of the text."""
    targets = {id(t) for node in walk(step) if isinstance(node, (nodes.Assign, nodes.Write)) for t in node.targets}
    places = [
        node
        for node in walk(step)
        if isinstance(node, _EXPRESSIONS) and id(node) not in targets and bindings(pattern, variables, node) is not None
    ]
    return sorted(places, key=lambda node: node.span.start)


def bindings(pattern: nodes.Expression, variables: tuple[str, ...], expression: nodes.Expression) -> Bindings | None:
    """What each variable stands for where the pattern fits; a variable that occurs twice stands for the same both times."""
    known: Bindings = {}
    return known if _fits(pattern, frozenset(variables), expression, known) else None


def _fits(pattern: object, variables: frozenset[str], value: object, known: Bindings) -> bool:
    if isinstance(pattern, nodes.Name) and pattern.id in variables:
        if not isinstance(value, (*_EXPRESSIONS, nodes.Nothing)):
            return False
        return known.setdefault(pattern.id, value) == value
    if isinstance(pattern, tuple):
        if not isinstance(value, tuple) or len(pattern) != len(value):
            return False
        return all(_fits(p, variables, v, known) for p, v in zip(pattern, value, strict=True))
    if isinstance(pattern, nodes.Node):
        names = [field.name for field in fields(pattern) if field.name != "span"]
        return type(pattern) is type(value) and all(
            _fits(getattr(pattern, name), variables, getattr(value, name), known) for name in names
        )
    return type(pattern) is type(value) and pattern == value


def replacement(rule: nodes.Rewrite, place: nodes.Expression) -> nodes.Expression:
    """What a rule puts in the place of an expression that its pattern fits."""
    values: Mapping[str, nodes.Expression] = bindings(rule.pattern, rule.variables, place) or {}
    return substituted(rule.value, values) if not isinstance(rule.value, nodes.Name) else values.get(rule.value.id, rule.value)
