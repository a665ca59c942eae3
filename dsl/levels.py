"""The numbers that the codes of a storage stand for, from `define level(c) = …`.

They are computed in float64 for all codes at once, by the operations of the language alone, and rounded to float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from optc.dsl import nodes
from optc.dsl.errors import Diagnostic
from optc.dsl.functions import BUILTINS
from optc.dsl.semantics import OPERATIONS
from optc.dsl.source import Span

Levels: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

_BINARY = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "mod": "mod", "^": "pow", "<": "lt", "<=": "le", ">": "gt", ">=": "ge",
    "==": "eq", "!=": "ne", "and": "and", "or": "or",
}  # fmt: skip
_CONDITIONS = frozenset({"and", "or", "not"})
_MOST_CALLS = 8
"""How deep calls may nest: each that is made twice in a function doubles what is computed for those below it."""
_CLOSEST = 8
"""Numbers that differ in fewer than so many of their last bits are one place in the tables of kernels."""


class SettingWrong(Exception):
    """A mistake in a definition, or in what is asked of it."""

    def __init__(self, code: str, message: str, span: Span, hint: str | None = None) -> None:
        super().__init__(message)
        self.diagnostic = Diagnostic(code, message, span, hint)


def levels_of(node: nodes.Storage, codes: int) -> Levels:
    """The float32 number of each code; NaN for codes that are never chosen.

    Raises SettingWrong where that is no number, not one per code, or two are so close that kernels cannot tell them apart.
    """
    for number, define in enumerate(node.defines):
        if define.name in [other.name for other in node.defines[:number]]:
            message = f"the function `{define.name}` is defined twice"
            raise SettingWrong("duplicate-name", message, define.span, "take one of them out")
    level = next((define for define in node.defines if define.name == "level"), None)
    if level is None or len(level.parameters) != 1:
        hint = "write `define level(c) = …`: the number that the code c = 0, 1, 2, … stands for"
        raise SettingWrong("no-level", f"`{node.name}` does not say what its codes stand for", node.span, hint)
    defines = {define.name: define for define in node.defines}
    code = np.arange(codes, dtype=np.float64)
    with np.errstate(all="ignore"):
        value = _number(_call(level, [code], defines, ()), level.span)
        levels = np.broadcast_to(np.asarray(value, dtype=np.float32), code.shape)
    _check_apart(levels, node)
    return levels


def _check_apart(levels: Levels, node: nodes.Storage) -> None:
    order = np.sort(levels[~np.isnan(levels)])
    if len(order) < 2 or not np.isfinite(order).all():
        raise SettingWrong("wrong-levels", f"`level` of `{node.name}` must give two numbers or more, all finite", node.span)
    zeros = int((order == 0).sum())
    if (np.diff(order[order != 0]) == 0).any() or zeros > 2 or zeros == len(order):
        message = f"two codes of `{node.name}` stand for the same number"
        raise SettingWrong("wrong-levels", message, node.span, "nan leaves a code out")
    order = np.unique(order)  # 0 and -0 are one
    bounds = ((order[:-1].astype(np.float64) + order[1:]) / 2).astype(np.float32)
    negative = np.signbit(bounds) | (bounds == 0)
    places = ((np.abs(bounds).view(np.int32).astype(np.int64) + negative) >> _CLOSEST) * 2 + negative
    if len(np.unique(places)) < len(places):
        message = f"two levels of `{node.name}` are too close together"
        raise SettingWrong("wrong-levels", message, node.span, "let numbers differ by a part in 30,000 or more")


def _number(value: Any, span: Span) -> Any:
    if np.asarray(value).dtype == bool:
        raise SettingWrong("unsupported", "this is a condition, not a number", span, "write `where(condition, a, b)`")
    return value


def _condition(value: Any, span: Span) -> Any:
    if np.asarray(value).dtype != bool:
        raise SettingWrong("unsupported", "this is a number, not a condition", span, "compare it: `c < 8`")
    return value


def _call(define: nodes.Define, arguments: list[Any], defines: Mapping[str, nodes.Define], inside: tuple[str, ...]) -> Any:
    if define.name in inside:
        raise SettingWrong("recursion", f"`{define.name}` calls itself", define.span, "write it without")
    if len(inside) > _MOST_CALLS:
        way = f"`{inside[0]}` calls `{inside[1]}`, and so on"
        message = f"{way}: calls nest deeper than {_MOST_CALLS} before they reach `{define.name}`"
        raise SettingWrong("too-deep", message, define.span, "write some of these functions out where they are called")
    inside = (*inside, define.name)
    if len(arguments) != len(define.parameters):
        raise SettingWrong("wrong-arity", f"`{define.name}` takes {len(define.parameters)} arguments", define.span)
    names = dict(zip(define.parameters, arguments, strict=True))
    for statement in define.body:
        match statement:
            case nodes.Assign(targets=(target,), value=value) if not isinstance(value, tuple):
                names[target.id] = _value(value, names, defines, inside)
            case nodes.Return(value=value):
                return _value(value, names, defines, inside)
            case _:
                hint = "write `name = value`, and `where(c, a, b)` for a choice"
                raise SettingWrong("unsupported", "levels are computed by plain lines and `return`", statement.span, hint)
    raise SettingWrong("no-return", f"`{define.name}` returns nothing", define.span)


def _value(
    node: nodes.Expression, names: Mapping[str, Any], defines: Mapping[str, nodes.Define], inside: tuple[str, ...]
) -> Any:
    def any_of(inner: nodes.Expression) -> Any:
        return _value(inner, names, defines, inside)

    def of(inner: nodes.Expression) -> Any:
        return _number(any_of(inner), inner.span)

    def whether(inner: nodes.Expression) -> Any:
        return _condition(any_of(inner), inner.span)

    match node:
        case nodes.Number(value=value):
            return np.float64(value)
        case nodes.Name(id="inf"):
            return np.float64(np.inf)
        case nodes.Name(id="nan"):
            return np.float64(np.nan)
        case nodes.Name(id="pi"):
            return np.float64(np.pi)
        case nodes.Name(id=name) if name in names:
            return names[name]
        case nodes.Unary(operator="-", operand=operand):
            return -of(operand)
        case nodes.Unary(operator="not", operand=operand):
            return np.logical_not(whether(operand))
        case nodes.Binary(operator=operator, left=left, right=right) if operator in _BINARY:
            side = whether if operator in _CONDITIONS else of
            return OPERATIONS[_BINARY[operator]](side(left), side(right))
        case nodes.Call(function="fp32", arguments=(argument,)):
            return np.float64(np.float32(of(argument)))
        case nodes.Call(function="where", arguments=(condition, then, otherwise)):
            return np.where(whether(condition), of(then), of(otherwise))
        case nodes.Call(function=name, arguments=arguments) if name in defines:
            return _call(defines[name], [any_of(a) for a in arguments], defines, inside)
        case nodes.Call(function=name, arguments=arguments) if (builtin := BUILTINS.get(name)) is not None:
            if builtin.operation in OPERATIONS and len(arguments) == len(builtin.parameters):
                return OPERATIONS[builtin.operation](*[of(a) for a in arguments])
    raise SettingWrong(
        "unsupported", "this cannot stand in a level", node.span, "it reads its argument, numbers and plain functions"
    )
