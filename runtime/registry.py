"""Optimizers by name, by composition (`AdamW + cautious`) and by config dict."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from optc.runtime.names import folded, found_name

if TYPE_CHECKING:
    from optc.runtime.optimizer import Optimizer
    from optc.runtime.schema import Schema

Type: TypeAlias = "str | type[Optimizer]"
"""What an optimizer is called by: a name, a composition, or a class."""

Config: TypeAlias = "str | type[Optimizer] | Mapping[str, Any]"
"""A type alone, with its defaults, or a dict of it, as `type`, and hypers."""

_COMPOSED = re.compile(r"[+()]|\b(?:without|storing)\b")
"""What stands in no name."""
_PIECE = re.compile(r"(\s*\(?\s*)([\w -]*?)(\s*(?:[()]|\b(?:without|storing)\b).*)?", re.DOTALL)
"""A part of a composition between two `+`: its name, with what stands before and behind it."""


def available() -> tuple[str, ...]:
    """The names that `create` knows, as they are written in the specs."""
    return tuple(_listed())


def create(name: Type | Mapping[str, Any], params: Any, **hypers: Any) -> Optimizer:
    """The optimizer called `name` over `params`: a model, parameters, named parameters, or groups.

    `name`: a shipped optimizer (case, `_`, `-` and spaces do not count), a composition that is compiled at once (`AdamW8bit +
    cautious`, `adamw without amsgrad + lookahead(k = 6) storing m: dynamic8`), a class, or a dict of one of these, as `type`,
    and hypers. Of a model, frozen parameters are left out.

    Raises ValueError for an unknown name, with the nearest known ones, SpecError for what cannot be combined, ImportError for a
    composition where the compiler cannot be imported; otherwise what the optimizer's class raises.
    """
    from optc.runtime import groups

    if isinstance(name, Mapping):
        if "type" not in name:
            raise ValueError(f"the config {dict(name)!r} has no 'type', such as dict(type='AdamW', lr=1e-3)")
        twice = [key for key in name if key in hypers]
        if twice:
            raise TypeError(f"{', '.join(map(repr, twice))} given twice: in the config and as keyword")
        hypers = {**{key: value for key, value in name.items() if key != "type"}, **hypers}
        name = name["type"]
    return of_type(name)[1](groups.named(params), **hypers)


def of_type(given: Any) -> tuple[str, type[Optimizer]]:
    """What a name, composition or class is called, in one spelling, and its class. Raises as `create` does, and TypeError."""
    from optc.runtime.optimizer import Optimizer

    if isinstance(given, type) and issubclass(given, Optimizer):
        return given.__name__, given
    if not isinstance(given, str):
        said = f"the class {given.__name__}" if isinstance(given, type) else repr(given)
        raise TypeError(f"an optimizer is a name, a composition such as 'AdamW + cautious' or a class of optc, not {said}")
    if not _COMPOSED.search(given):
        found = lookup(given)
        return found.__name__, found
    text = _spelled(given)
    return text, _compiled(text)


def lookup(name: str) -> type[Optimizer]:
    """The class called `name`. Raises ValueError as `create` does."""
    listed = _listed()
    known = found_name(name, listed, "optimizer")
    found: type[Optimizer] = getattr(importlib.import_module(f"optc.generated.{listed[known]}"), known)
    return found


def require_type(schema: Schema, given: Any, label: str) -> None:
    """Raises ValueError where a group is meant for another optimizer; a `type` that is none's is a tag of the user's."""
    known = {folded(name) for name in _listed()} - {folded(schema.name)}
    if not isinstance(given, str) or _COMPOSED.search(given) or folded(given) in known:
        raise ValueError(f"{schema.name}: {label} has type {given!r}: optc.route makes one optimizer of several types")


# --- compositions -------------------------------------------------------------------------------------------------------------


def _spelled(text: str) -> str:
    """A composition with its names as they are declared. Raises ValueError for unknown names, and for several lines."""
    from optc.compiler.compose.library import shipped_modifiers, shipped_schedules

    if "\n" in text or "\r" in text:
        raise ValueError("a composition is one line, such as 'AdamW + cautious'; for the text of a spec use optc.compile")
    optimizers, modifiers = list(_listed()), [*shipped_modifiers(), *shipped_schedules()]
    pieces = []
    for number, piece in enumerate(_pieces(text)):
        match = _PIECE.fullmatch(piece)
        before, name, behind = match.groups("") if match else ("", "", piece)
        if name.strip():
            what, others = ("modifier", modifiers) if number else ("optimizer", optimizers)
            either = {folded(known) for known in (*optimizers, *modifiers)}
            everything = [*others, *optimizers, *modifiers] if folded(name) in either else others
            name = found_name(name.strip(), everything, what)
        pieces.append(" ".join(f"{before}{name}{behind}".split()))
    return " + ".join(pieces)


def _pieces(text: str) -> list[str]:
    """What stands between the `+`, except in the brackets of arguments."""
    text = text.strip()
    pieces, depth = [""], -1 if text.startswith("(") else 0  # brackets around the whole are none of an argument
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "+" and depth <= 0:
            pieces.append("")
        else:
            pieces[-1] += character
    return pieces


def _compiled(text: str) -> type[Optimizer]:
    try:
        from optc.compiler.instant import compile_composition
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "optc":
            raise
        raise ImportError(
            f"{text!r} is compiled when it is made, and the compiler needs {error.name}, which is not installed here: install "
            "it, or use an optimizer that is built (`optc build` writes a module that needs no compiler)"
        ) from error
    return compile_composition(text)


def _listed() -> Mapping[str, str]:
    """`optc.generated.OPTIMIZERS`: each name with its module."""
    listed: Mapping[str, str] = importlib.import_module("optc.generated").OPTIMIZERS
    return listed
