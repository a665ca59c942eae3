"""From a parameter group to checked numbers: every hyper is read at every step and validated when it changed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from operator import is_
from types import NoneType
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from optc.runtime.schema import Condition, Hyper, Require, Schema, Value

Values: TypeAlias = Mapping[str, Value]
"""Values by inside name: numbers as floats, flags as bools, choices as texts, None where a hyper is optional."""


class Facts(NamedTuple):
    """What conditions read of a parameter; `bf16`: whether it is bfloat16."""

    ndim: int = 0
    numel: int = 0
    bf16: bool = False

    @staticmethod
    def of(p: Tensor) -> Facts:
        """Those of a parameter."""
        return Facts(p.ndim, p.numel(), p.dtype == torch.bfloat16)


NOTHING = Facts()
"""Of no parameter: for conditions that read hypers alone."""


def holds(condition: Condition, values: Values, facts: Facts = NOTHING) -> bool:
    """Whether a condition over hypers, and over what is known of a parameter, holds."""
    return condition.holds({**values, **facts._asdict()})


class Declares(Protocol):
    """What has hypers with a name: a schema or a schedule."""

    @property
    def name(self) -> str: ...

    @property
    def hypers(self) -> tuple[Hyper, ...]: ...

    @property
    def requires(self) -> tuple[Require, ...]: ...


def validate(
    schema: Declares, group: Mapping[str, Any], changed: Sequence[Hyper] | None = None, before: Values | None = None
) -> dict[str, Value]:
    """The values of a group by inside name. Raises ValueError with the key, the value and what is allowed.

    Where only the hypers `changed` may differ from the values `before`, only they are looked at.
    """
    values: dict[str, Value] = dict(before or {})
    for hyper in schema.hypers if changed is None else changed:
        if hyper.key not in group:
            raise ValueError(f"{schema.name}: the parameter group has no {hyper.key!r}")
        value = group[hyper.key]
        if not hyper.is_tuple:
            values[hyper.names[0]] = _scalar(schema.name, hyper, hyper.key, value)
            continue
        if not isinstance(value, tuple | list) or len(value) != len(hyper.names):
            expected = f"a tuple of {len(hyper.names)} numbers ({', '.join(hyper.names)})"
            raise ValueError(f"{schema.name}: {hyper.key} = {value!r}, but it must be {expected}")
        for index, (name, element) in enumerate(zip(hyper.names, value, strict=True)):
            values[name] = _scalar(schema.name, hyper, f"{hyper.key}[{index}]", element)
    for require in schema.requires:
        if not require.condition.holds(values):
            given = ", ".join(f"{name} = {values[name]!r}" for name in require.condition.arguments)
            raise ValueError(f"{schema.name}: {require.message} (now {given})")
    return values


_NEAR = 0.85
"""How similar to a hyper a group's key must be to be taken for a slip: `weigth_decay` is, `base_momentum` is not."""


def validate_group(schema: Schema, defaults: Mapping[str, Any], group: Mapping[str, Any], label: str) -> None:
    """Checks a new group. Raises ValueError that names the group for what it says itself.

    A key that is all but a hyper is a slip, unless the group was another optimizer's and has its hypers: all have `maximize`.
    """
    validate(schema, defaults)
    known = [hyper.key for hyper in schema.hypers]
    for key in group if "maximize" not in group else ():
        near = difflib.get_close_matches(str(key), known, 1, _NEAR) if key not in defaults else []
        if near:
            raise ValueError(f"{schema.name}: {label} has {key!r}: did you mean {near[0]!r}?")
    try:
        validate(schema, {**defaults, **group})
    except ValueError as error:
        raise ValueError(f"{error} ({named(label, group)})") from None


def named(label: str, group: Mapping[str, Any]) -> str:
    """A group in words, with some names of its parameters where they are known: `group 1: 'head.weight', 'head.bias', …`."""
    params = group.get("params", ())
    pairs = params if isinstance(params, list | tuple) else ()
    names = group.get("param_names") or [p[0] for p in pairs if isinstance(p, tuple) and p and isinstance(p[0], str)]
    shown = ", ".join(map(repr, names[:2])) + (", …" if len(names) > 2 else "")
    return f"{label}: {shown}" if names else label


def _scalar(owner: str, hyper: Hyper, key: str, value: Any) -> Value:
    """One checked element; see `Values` for the types."""
    plain = value
    if isinstance(value, Tensor):
        unreadable = value.is_complex() or value.device.type == "meta"
        if not (hyper.kind == "real" or hyper.counts) or hyper.is_tuple or value.numel() != 1 or unreadable:
            raise ValueError(f"{owner}: {key} may not be a tensor of shape {tuple(value.shape)}; it must be {allowed(hyper)}")
        plain = value.item()
        if hyper.counts and plain == plain // 1:
            plain = int(plain)
    if plain is None and hyper.optional:
        return None
    if hyper.kind == "flag" and isinstance(plain, bool):
        return plain
    if hyper.kind == "choice" and isinstance(plain, str) and plain in hyper.choices:
        return plain
    kind = {"real": Real, "integer": Integral}.get(hyper.kind)
    if kind is not None and isinstance(plain, kind) and not isinstance(plain, bool):
        try:
            number = float(plain)
        except OverflowError:  # a whole number beyond all floats
            number = math.nan
        above = number > hyper.low or (hyper.low_closed and number == hyper.low)
        below = number < hyper.high or (hyper.high_closed and number == hyper.high)
        if above and below:
            return number
    raise ValueError(f"{owner}: {key} = {value!r}, but it must be {allowed(hyper)}{_guess(hyper, plain)}")


def allowed(hyper: Hyper) -> str:
    """What a hyper may be, in words: `a number in [0, 1)`."""
    if hyper.kind == "flag":
        text = "True or False"
    elif hyper.kind == "choice":
        text = "one of " + ", ".join(repr(c) for c in hyper.choices)
    else:
        text = "a whole number" if hyper.kind == "integer" else "a finite number"
        if math.isfinite(hyper.low) or math.isfinite(hyper.high):
            text = text.replace("finite ", "")
            opening, closing = "[" if hyper.low_closed else "(", "]" if hyper.high_closed else ")"
            text += f" in {opening}{hyper.low:g}, {hyper.high:g}{closing}"
    return text + (" or None" if hyper.optional else "")


def _guess(hyper: Hyper, value: Any) -> str:
    near = difflib.get_close_matches(value, hyper.choices, 1) if isinstance(value, str) else []
    return f" (did you mean {near[0]!r}?)" if near else ""


def unknown_keyword(owner: str, key: str, known: Sequence[str]) -> TypeError:
    """The error for a misspelt keyword argument, with the nearest known ones."""
    near = difflib.get_close_matches(key, known, 2)
    others = f"known are {', '.join(known)}" if known else "it has none"
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else others
    return TypeError(f"{owner}() has no keyword argument {key!r}: {hint}")


def require_shared(schema: Schema, groups: Sequence[Values]) -> None:
    """Raises ValueError where a hyper that all groups must share differs between them."""
    for hyper in schema.hypers if len(groups) > 1 else ():
        if hyper.shared and len({tuple(values[name] for name in hyper.names) for values in groups}) > 1:
            seen = ", ".join(str(tuple(values[name] for name in hyper.names)) for values in groups)
            raise ValueError(f"{schema.name}: {hyper.key} must be the same in all parameter groups, but is {seen}")


@dataclass(slots=True)
class Reader:
    """Reads one group at every step; the checks run only when something changed.

    Of a group that counts on its device, tensors there are read once, when they are first seen, and later only by the device: a
    step under graph capture must not wait for them. `tensors` are those, by inside name.
    """

    schema: Schema
    values: Values = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    _keys: list[str] = field(default_factory=list)
    _objects: list[Any] = field(default_factory=list)
    _seen: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._keys = [hyper.key for hyper in self.schema.hypers]
        self._objects, self._seen = [_OPEN] * len(self._keys), [_OPEN] * len(self._keys)

    def read(self, group: Mapping[str, Any], device: torch.device | None = None) -> Values:
        """The values of `group`, the same object as before if nothing changed; `device`: where it counts, unless on the host.

        Raises ValueError as `validate` does.
        """
        objects = [group.get(key, _MISSING) for key in self._keys]
        same = list(map(is_, objects, self._objects))
        if False in same:
            others = [place for place, stays in enumerate(same) if not stays]
            if self._only_numbers(objects, others):
                return self.values
            seen = self._seen.copy()
            changed = []
            for place in others:
                snapshot = _snapshot(objects[place], device)
                if not _same(snapshot, seen[place]):
                    changed.append(place)
                seen[place] = snapshot
            if changed:
                self._take(group, changed, seen)
            self._seen = seen
            for place in others:
                self._objects[place] = objects[place] if _stays(objects[place]) else _OPEN
        return self.values

    def _only_numbers(self, objects: Sequence[Any], others: Sequence[int]) -> bool:
        """Takes what changed if it is nothing but numbers well in their ranges: a rate, a count. This happens in every step."""
        if self.tensors or self.schema.requires:
            return False
        values = dict(self.values)
        for place in others:
            hyper, value = self.schema.hypers[place], objects[place]
            if type(value) is not (float if hyper.kind == "real" else int) or hyper.kind not in _NUMBERS:
                return False
            if hyper.is_tuple or not hyper.low < value < hyper.high:
                return False
            values[hyper.names[0]] = float(value)
        for place in others:
            self._seen[place] = self._objects[place] = objects[place]
        self.values = values
        return True

    def _take(self, group: Mapping[str, Any], changed: Sequence[int], seen: Sequence[Any]) -> None:
        """Checks what changed, by place; where tensors are to be read by the device, everything but them."""
        hypers = self.schema.hypers
        if not self.tensors and not any(isinstance(seen[place], Tensor) for place in changed):
            self.values = validate(self.schema, group, [hypers[place] for place in changed], self.values)
            return
        tensors = {h.names[0]: (h.key, s) for h, s in zip(hypers, seen, strict=True) if isinstance(s, Tensor)}
        known = {key: self.values[name] for name, (key, tensor) in tensors.items() if self.tensors.get(name) is tensor}
        self.values = validate(self.schema, {**group, **known})
        self.tensors = {name: tensor for name, (_, tensor) in tensors.items()}


_MISSING, _OPEN = object(), object()
"""What no group has: in the place of an entry that is not there, and of one that may be another value next time."""
_IMMUTABLE = frozenset({float, int, bool, str, NoneType})
_COMPARED = float, int, str, tuple
_NUMBERS = frozenset({"real", "integer"})


def _snapshot(value: Any, device: torch.device | None) -> Any:
    """Something that differs when the value does."""
    if isinstance(value, Tensor):
        if device is not None and value.device.type == device.type:
            return value
        return (value.item(),) if value.numel() == 1 else object()
    return tuple(value) if isinstance(value, list) else value


def _stays(value: Any) -> bool:
    """Whether the same object is the same value for ever."""
    return all(map(_stays, value)) if type(value) is tuple else type(value) in _IMMUTABLE


def _same(new: Any, old: Any) -> bool:
    return new is old or (type(new) is type(old) and isinstance(new, _COMPARED) and bool(new == old))
