"""Storages: what `storing m: dynamic8` means. A definition is a few settings and the number that each code stands for.

Definitions stand in the same file, or are shipped in `specs/storages`.
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
from optc.dsl.levels import Levels, SettingWrong, levels_of
from optc.dsl.names import STOCHASTIC
from optc.dsl.program import Storage
from optc.dsl.scope import nearest
from optc.dsl.source import Span

SHIPPED = Path(__file__).resolve().parents[1] / "specs" / "storages"
CASTS = {"fp64": "float64", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Storages that are another dtype: the value is rounded to nearest, once."""

PAIRS = ("split24", "split32", "kahan", "master")
"""Storages of θ: parameters of 16 bits, and a state beside them with what they lack."""
REST = "theta_rest"

SEED = "seed"
"""The hyper that says which random numbers values are rounded with."""

_CODES = (2, 16, 256)
_BLOCKS = tuple(2**k for k in range(6, 13))
_TIES = ("down", "up", "even")
_LARGEST = float(np.finfo(np.float32).max)
_SETTINGS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "codes": (lambda x: isinstance(x, int) and x in _CODES, "2, 16 or 256"),
    "block": (lambda x: isinstance(x, int) and x in _BLOCKS, "a power of two from 64 to 4096"),
    "ties": (lambda x: x in _TIES, '"down", "up" or "even"'),
    "unit": (lambda x: isinstance(x, float | int) and 1 <= x <= _LARGEST, "a number, 1 or above"),
    "least": (lambda x: isinstance(x, float | int) and 0 <= x <= _LARGEST, "a number, 0 or above"),
    "smallest": (lambda x: isinstance(x, int) and x >= 0, "a whole number, 0 or above"),
    "scale": (lambda x: x == 1, "1: without it the scale is that of the numbers of a block"),
    "rank": (lambda x: isinstance(x, int) and x >= 0, "a whole number, 0 or above"),
    "others": (lambda x: isinstance(x, str) and x.isidentifier(), "the name of a storage in quotes"),
}
"""What each setting may be, and that in words."""
BLOCK_WITHOUT_SCALE = 4096
"""How many codes with a scale of 1 have a place for a scale, as every code has."""
_DEFAULTS = {"codes": 256, "block": 256, "ties": "down", "unit": 1.0, "least": 0.0, "smallest": 4096}


def resolve(kept: nodes.Kept, own: Iterable[nodes.Storage]) -> Storage | Diagnostic:
    """What a clause asks for; a diagnostic where there is no such storage, or not with such settings."""
    name = kept.storage
    known = {**shipped(), **{storage.name: storage for storage in own}}
    try:
        if name in CASTS:
            if is_stochastic(kept):
                return Storage(f"{name}({STOCHASTIC})", dtype=CASTS[name], stochastic=True)
            if kept.arguments:
                message, hint = f"`{name}` has no settings", f"write `{name}`"
                if name == "bf16":
                    message = f"`{name}` has no such setting"
                    hint += f", or `{name}({STOCHASTIC})` to round up or down at random"
                raise SettingWrong("unknown-setting", message, kept.arguments[0].span, hint)
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


def is_stochastic(kept: nodes.Kept) -> bool:
    """Whether a clause asks for bfloat16 that is rounded at random."""
    values = [argument.value for argument in kept.arguments if argument.name is None]
    named = [value.id for value in values if isinstance(value, nodes.Name)]
    return kept.storage == "bf16" and named == [STOCHASTIC] and len(kept.arguments) == 1


def is_word(argument: nodes.Argument) -> bool:
    """Whether a setting is the word for rounding at random."""
    return argument.name is None and isinstance(argument.value, nodes.Name) and argument.value.id == STOCHASTIC


def is_dithered(kept: nodes.Kept) -> bool:
    """Whether a clause asks for codes that are rounded at random."""
    return kept.storage not in (*CASTS, *PAIRS) and any(map(is_word, kept.arguments))


def mistakes(storage: nodes.Storage) -> list[Diagnostic]:
    """What is wrong with a definition."""
    if storage.name in (*CASTS, *PAIRS):
        message = f"`{storage.name}` is a storage of the language"
        return [Diagnostic("reserved-name", message, storage.span, "choose another name")]
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
        settings = settings_of(storage, ())
        if others_of(storage) is not None and not any(settings.values()):
            message = f"`{storage.name}` keeps all tensors, and there are no others"
            wrong.append(Diagnostic("unknown-setting", message, storage.span, "take `others` out, or say which with `rank`"))
    except SettingWrong as error:
        wrong.append(error.diagnostic)
    return wrong


def settings_of(node: nodes.Storage, arguments: Iterable[nodes.Argument]) -> dict[str, int]:
    """The settings of a storage by other states: the least rank and size of tensors that are kept so.

    Raises SettingWrong.
    """
    given = {"rank": 0, "smallest": 0}
    for asked in (*(one for one in node.settings if one.name != "others"), *(one for one in arguments if not is_word(one))):
        name = asked.name or ""
        if name not in given:
            message = f"`{node.name}` has no setting `{name}`"
            raise SettingWrong("unknown-setting", message, asked.span, "there are `rank`, `smallest`")
        given[name] = _checked(name, asked.value, asked.span)
    return given


def others_of(node: nodes.Storage) -> str | None:
    """How tensors are kept that a storage by other states does not keep; None for as they are. Raises SettingWrong."""
    asked = next((one for one in node.settings if one.name == "others"), None)
    return None if asked is None else str(_checked("others", asked.value, asked.span))


@cache
def shipped() -> dict[str, nodes.Storage]:
    """The storages that come with optc, by name."""
    from optc.dsl.parse import parse_file
    from optc.dsl.read import read

    files = (parse_file(read(path)) for path in sorted(SHIPPED.glob("*.opt")))
    return {storage.name: storage for file in files for storage in file.storages}


def _defined(node: nodes.Storage, kept: nodes.Kept) -> Storage:
    given: dict[str, Any] = dict(_DEFAULTS)
    for number, setting in enumerate(node.settings):
        name = _name(setting)
        _not_of_lines(node, name, setting.span)
        _once(name, node.settings[:number], setting.span)
        given[name] = _checked(name, setting.value, setting.span)
    plain = tuple(argument for argument in kept.arguments if not is_word(argument))
    for number, argument in enumerate(plain):
        name = _name(argument)
        _not_of_lines(node, name, argument.span)
        if isinstance(argument.value, tuple) or (argument.name is None and number):
            raise SettingWrong("unknown-setting", "only the first setting may stand without its name: the block", argument.span)
        if name in ("codes", "ties", "unit"):
            raise SettingWrong(
                "unknown-setting", f"`{name}` is part of what `{node.name}` is", argument.span, "define another storage"
            )
        _once(name, plain[:number], argument.span)
        given[name] = _checked(name, argument.value, argument.span)
    fixed = "scale" in given
    if fixed:
        asked = (*(node.settings if "scale" in map(_name, node.settings) else ()), *plain)
        wrong = next((one for one in asked if _name(one) in ("block", "unit", "least")), None)
        if wrong is not None:
            message = f"`{_name(wrong)}` is for blocks with a scale of their own, and here all scales are 1"
            raise SettingWrong("unknown-setting", message, wrong.span, "leave out one of the two")
        given |= {"block": BLOCK_WITHOUT_SCALE, "unit": 1.0, "least": 0.0}
    levels = levels_of(node, given["codes"])
    if given["codes"] == 2 and (tuple(levels) != (-1, 1) or (given["unit"], given["least"]) != (1, 0)):
        message = f"the codes 0 and 1 of `{node.name}` must stand for -1 and 1, without `unit` and `least`"
        raise SettingWrong("wrong-levels", message, node.span, "write `define level(c) = 2*c - 1`")
    stochastic = len(plain) < len(kept.arguments)
    if stochastic and not _ascend(levels):
        message = f"`{node.name}` is not rounded at random: its levels are not in the order of its codes"
        hint = "take a storage whose levels are, such as `linear8`" if given["codes"] > 2 else "a sign has no other beside it"
        raise SettingWrong("unknown-setting", message, next(filter(is_word, kept.arguments)).span, hint)
    changed = [f"{_name(argument)} = {given[_name(argument)]:g}" for argument in plain] + [STOCHASTIC] * stochastic
    return Storage(
        node.name + (f"({', '.join(changed)})" if changed else ""),
        levels=tuple(math.nan if x != x else float(x) for x in levels),  # one NaN: equal storages are equal
        block=given["block"],
        ties=given["ties"],
        unit=float(np.float32(given["unit"])),
        least=float(np.float32(given["least"])),
        smallest=given["smallest"],
        stochastic=stochastic,
        fixed=fixed,
    )


def _ascend(levels: Levels) -> bool:
    """Whether the next code up is the next level up, and none stands between."""
    known = levels[~np.isnan(levels)]
    return len(known) > 2 and bool((np.diff(known) > 0).all()) and not np.isnan(levels[: len(known)]).any()


def _name(argument: nodes.Argument) -> str:
    return argument.name or "block"


def _once(name: str, before: Iterable[nodes.Argument], span: Span) -> None:
    if name in map(_name, before):
        raise SettingWrong("duplicate-name", f"`{name}` is given twice", span, "take one of them out")


def _not_of_lines(node: nodes.Storage, name: str, span: Span) -> None:
    if name in ("rank", "others"):
        hint = "it belongs to storages with `decode:` and `encode x:`"
        raise SettingWrong("unknown-setting", f"`{node.name}` keeps codes of tensors of any rank", span, hint)


def _checked(name: str, node: nodes.Expression | tuple[nodes.Expression, ...], span: Span) -> Any:
    if name not in _SETTINGS:
        near = nearest(name, tuple(_SETTINGS))
        hint = f"did you mean `{near}`?" if near else "there are " + ", ".join(f"`{known}`" for known in _SETTINGS)
        raise SettingWrong("unknown-setting", f"a storage has no setting `{name}`", span, hint)
    allowed, words = _SETTINGS[name]
    value: Any = node.value if isinstance(node, nodes.Number | nodes.Text) else None
    if value is None or not allowed(value):
        place = span if isinstance(node, tuple) else node.span
        raise SettingWrong("wrong-setting", f"`{name}` must be {words}", place)
    return value
