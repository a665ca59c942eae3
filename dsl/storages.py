"""Storages: what `storing m: dynamic8` means. A definition is a few settings and the number that each code stands for.

Definitions stand in the same file, or are shipped in `specs/storages`. Their levels are computed here, in float64, for all
codes at once, and rounded to float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from optc.dsl import nodes
from optc.dsl.errors import Diagnostic
from optc.dsl.functions import BUILTINS
from optc.dsl.program import Storage
from optc.dsl.scope import nearest
from optc.dsl.semantics import OPERATIONS
from optc.dsl.source import Span

SHIPPED = Path(__file__).resolve().parents[1] / "specs" / "storages"
CASTS = {"fp64": "float64", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Storages that are another dtype: the value is rounded to nearest, once."""

PAIRS = ("split24", "split32", "kahan", "master")
"""Storages of θ: parameters of 16 bits, and a state beside them with what they lack."""
REST = "theta_rest"

_CODES = (16, 256)
_BLOCKS = tuple(2**k for k in range(6, 13))
_TIES = ("down", "up", "even")
_BINARY = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "mod": "mod", "^": "pow", "<": "lt", "<=": "le", ">": "gt", ">=": "ge",
    "==": "eq", "!=": "ne", "and": "and", "or": "or",
}  # fmt: skip
_SETTINGS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "codes": (lambda x: x in _CODES, "16 or 256"),
    "block": (lambda x: x in _BLOCKS, "a power of two from 64 to 4096"),
    "ties": (lambda x: x in _TIES, '"down", "up" or "even"'),
    "unit": (lambda x: isinstance(x, float | int) and 1 <= x < math.inf, "a number, 1 or above"),
    "least": (lambda x: isinstance(x, float | int) and 0 <= x < math.inf, "a number, 0 or above"),
    "smallest": (lambda x: isinstance(x, int) and x >= 0, "a whole number, 0 or above"),
    "rank": (lambda x: isinstance(x, int) and x >= 0, "a whole number, 0 or above"),
}
"""What each setting may be, and that in words."""
_DEFAULTS = {"codes": 256, "block": 256, "ties": "down", "unit": 1.0, "least": 0.0, "smallest": 4096}


class SettingWrong(Exception):
    """A mistake in a definition, or in what is asked of it."""

    def __init__(self, code: str, message: str, span: Span, hint: str | None = None) -> None:
        super().__init__(message)
        self.diagnostic = Diagnostic(code, message, span, hint)


def resolve(kept: nodes.Kept, own: Iterable[nodes.Storage]) -> Storage | Diagnostic:
    """What a clause asks for; a diagnostic where there is no such storage, or not with such settings."""
    name = kept.storage
    known = {**shipped(), **{storage.name: storage for storage in own}}
    try:
        if name in CASTS:
            if kept.arguments:
                raise SettingWrong("unknown-setting", f"`{name}` has no settings", kept.arguments[0].span, f"write `{name}`")
            return Storage(name, dtype=CASTS[name])
        if name in PAIRS:
            message = f"`{name}` is a storage of θ, not of a state"
            raise SettingWrong("wrong-storage", message, kept.span, f"write `theta: {name}`")
        if name not in known:
            near = nearest(name, (*known, *CASTS))
            hint = f"did you mean `{near}`?" if near else "known are " + ", ".join((*CASTS, *sorted(known)))
            raise SettingWrong("unknown-storage", f"there is no storage `{name}`", kept.span, hint)
        if known[name].decode is not None:
            raise SettingWrong(
                "not-written-out", f"`{name}` keeps other states, and is not written out here", kept.span, "compose it first"
            )
        return _defined(known[name], kept)
    except SettingWrong as wrong:
        return wrong.diagnostic


def mistakes(storage: nodes.Storage) -> list[Diagnostic]:
    """What is wrong with a definition."""
    if storage.decode is not None or storage.encode:
        return _mistakes_of_lines(storage)
    found = resolve(nodes.Kept("x", storage.name, span=storage.span), (storage,))
    return [found] if isinstance(found, Diagnostic) else []


def _mistakes_of_lines(storage: nodes.Storage) -> list[Diagnostic]:
    """What is wrong with a definition by other states, before it is used."""
    wrong = []
    if storage.decode is None or not storage.encode or not storage.states:
        hint = "it has `state:`, `decode: …` (the value, from the states) and `encode x: …` (the states, from the value)"
        wrong.append(Diagnostic("incomplete-storage", f"a part of `{storage.name}` is missing", storage.span, hint))
    try:
        settings_of(storage, ())
    except SettingWrong as error:
        wrong.append(error.diagnostic)
    return wrong


def settings_of(node: nodes.Storage, arguments: Iterable[nodes.Argument]) -> dict[str, int]:
    """The settings of a storage by other states: the least rank and size of tensors that are kept so.

    Raises SettingWrong.
    """
    given = {"rank": 0, "smallest": 0}
    asked = [(s.name, s.value, s.span) for s in node.settings]
    asked += [(a.name or "", a.value, a.span) for a in arguments if not isinstance(a.value, tuple)]
    for name, value, span in asked:
        if name not in given:
            raise SettingWrong(
                "unknown-setting", f"`{node.name}` has no setting `{name}`", span, "there are `rank`, `smallest`"
            )
        given[name] = _checked(name, value, span)
    return given


@cache
def shipped() -> dict[str, nodes.Storage]:
    """The storages that come with optc, by name."""
    from optc.dsl.parse import parse_file
    from optc.dsl.read import read

    files = (parse_file(read(path)) for path in sorted(SHIPPED.glob("*.opt")))
    return {storage.name: storage for file in files for storage in file.storages}


def _defined(node: nodes.Storage, kept: nodes.Kept) -> Storage:
    given: dict[str, Any] = dict(_DEFAULTS)
    for setting in node.settings:
        given[setting.name] = _checked(setting.name, setting.value, setting.span)
    for number, argument in enumerate(kept.arguments):
        name = argument.name or "block"
        if isinstance(argument.value, tuple) or (argument.name is None and number):
            raise SettingWrong("unknown-setting", "only the first setting may stand without its name: the block", argument.span)
        if name in ("codes", "ties", "unit"):
            raise SettingWrong(
                "unknown-setting", f"`{name}` is part of what `{node.name}` is", argument.span, "define another storage"
            )
        given[name] = _checked(name, argument.value, argument.span)
    levels = _levels(node, given)
    order = np.sort(levels[~np.isnan(levels)])
    if len(order) < 2 or not np.isfinite(order).all():
        raise SettingWrong("wrong-levels", f"`level` of `{node.name}` must give two numbers or more, all finite", node.span)
    if (np.diff(order[order != 0]) == 0).any() or (order == 0).sum() > 2:
        raise SettingWrong(
            "wrong-levels", f"two codes of `{node.name}` stand for the same number", node.span, "nan leaves a code out"
        )
    changed = [f"{argument.name or 'block'} = {given[argument.name or 'block']:g}" for argument in kept.arguments]
    return Storage(
        node.name + (f"({', '.join(changed)})" if changed else ""),
        levels=tuple(map(float, levels)),
        block=given["block"],
        ties=given["ties"],
        unit=float(np.float32(given["unit"])),
        least=float(np.float32(given["least"])),
        smallest=given["smallest"],
    )


def _checked(name: str, node: nodes.Expression, span: Span) -> Any:
    if name not in _SETTINGS:
        near = nearest(name, tuple(_SETTINGS))
        hint = f"did you mean `{near}`?" if near else "there are " + ", ".join(f"`{known}`" for known in _SETTINGS)
        raise SettingWrong("unknown-setting", f"a storage has no setting `{name}`", span, hint)
    allowed, words = _SETTINGS[name]
    value: Any = node.value if isinstance(node, nodes.Number | nodes.Text) else None
    if value is None or not allowed(value):
        raise SettingWrong("wrong-setting", f"`{name}` must be {words}", node.span)
    return value


# --- levels -------------------------------------------------------------------------------------------------------------------


def _levels(node: nodes.Storage, given: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The float32 number of each code."""
    level = next((define for define in node.defines if define.name == "level"), None)
    if level is None or len(level.parameters) != 1:
        hint = "write `define level(c) = …`: the number that the code c = 0, 1, 2, … stands for"
        raise SettingWrong("no-level", f"`{node.name}` does not say what its codes stand for", node.span, hint)
    defines = {define.name: define for define in node.defines}
    code = np.arange(given["codes"], dtype=np.float64)
    with np.errstate(all="ignore"):
        value = _call(level, [code], defines, 0)
    return np.broadcast_to(np.asarray(value, dtype=np.float32), code.shape)


def _call(define: nodes.Define, arguments: list[Any], defines: Mapping[str, nodes.Define], depth: int) -> Any:
    if depth > 8:
        raise SettingWrong("recursion", f"`{define.name}` calls itself", define.span, "write it without")
    if len(arguments) != len(define.parameters):
        raise SettingWrong("wrong-arity", f"`{define.name}` takes {len(define.parameters)} arguments", define.span)
    names = dict(zip(define.parameters, arguments, strict=True))
    for statement in define.body:
        match statement:
            case nodes.Assign(targets=(target,), value=value) if not isinstance(value, tuple):
                names[target.id] = _value(value, names, defines, depth)
            case nodes.Return(value=value):
                return _value(value, names, defines, depth)
            case _:
                hint = "write `name = value`, and `where(c, a, b)` for a choice"
                raise SettingWrong("unsupported", "levels are computed by plain lines and `return`", statement.span, hint)
    raise SettingWrong("no-return", f"`{define.name}` returns nothing", define.span)


def _value(node: nodes.Expression, names: Mapping[str, Any], defines: Mapping[str, nodes.Define], depth: int) -> Any:
    def of(inner: nodes.Expression) -> Any:
        return _value(inner, names, defines, depth)

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
            return np.logical_not(of(operand))
        case nodes.Binary(operator=operator, left=left, right=right) if operator in _BINARY:
            return OPERATIONS[_BINARY[operator]](of(left), of(right))
        case nodes.Call(function="fp32", arguments=(argument,)):
            return np.float64(np.float32(of(argument)))
        case nodes.Call(function="where", arguments=(condition, then, otherwise)):
            return np.where(of(condition), of(then), of(otherwise))
        case nodes.Call(function=name, arguments=arguments) if name in defines:
            return _call(defines[name], [of(a) for a in arguments], defines, depth + 1)
        case nodes.Call(function=name, arguments=arguments) if (builtin := BUILTINS.get(name)) is not None:
            if builtin.operation in OPERATIONS and len(arguments) == len(builtin.parameters):
                return OPERATIONS[builtin.operation](*[of(a) for a in arguments])
    raise SettingWrong(
        "unsupported", "this cannot stand in a level", node.span, "it reads its argument, numbers and plain functions"
    )
