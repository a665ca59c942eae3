"""States that are never negative, as far as intervals can prove it: those may be kept in storages without negative numbers.

Proved by induction: a state that starts at 0 or above, and is only ever given values that are 0 or above if it was, stays so.
-0 is not below 0, but 1/-0 is: of each value is known, too, whether it may be -0. And of a parameter without elements the
largest is -inf, the smallest inf. Only totals over all parameters carry that into states that have elements.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from optc.dsl.program import (
    DRAW,
    STEP,
    Apply,
    Branch,
    Constant,
    Expression,
    Hyper,
    Let,
    Program,
    Read,
    Role,
    Statement,
    Storage,
    Store,
    Symbol,
)


@dataclass(frozen=True, slots=True)
class Interval:
    """Numbers from `low` to `high`; both may be infinite, and belong to it.

    `negative_zero`: whether a 0 among them may be -0. `unless_empty`: whether it holds of parameters with elements only.
    """

    low: float = -math.inf
    high: float = math.inf
    negative_zero: bool = True
    unless_empty: bool = False

    @property
    def has_zero(self) -> bool:
        """Whether one of them may be 0."""
        return self.low <= 0 <= self.high

    @property
    def is_positive(self) -> bool:
        """Whether all are 0 or above, and none is -0: what can be divided by."""
        return self.low >= 0 and not (self.negative_zero and self.has_zero)

    def hull(self, other: Interval) -> Interval:
        """Both, and what is between."""
        zero = self.negative_zero or other.negative_zero
        return Interval(min(self.low, other.low), max(self.high, other.high), zero, self.unless_empty or other.unless_empty)


_ANY, _POSITIVE = Interval(), Interval(0.0, negative_zero=False)
_BOUNDED = {
    "exp": _POSITIVE, "abs": _POSITIVE, "sign": Interval(-1.0, 1.0), "tanh": Interval(-1.0, 1.0), "sin": Interval(-1.0, 1.0),
    "cos": Interval(-1.0, 1.0), "cospi": Interval(-1.0, 1.0),
}  # fmt: skip
_KEEPING = frozenset({"mean", "largest", "smallest", "pick"})
_Names: TypeAlias = dict[Symbol, Interval]
_States: TypeAlias = Mapping[str, Interval]
"""What is taken to hold of states; nothing does of those that are not in it."""


def never_negative(program: Program) -> frozenset[str]:
    """The names of the states that are never negative (NaN aside)."""
    hypers = {name: _of_hyper(hyper, number) for hyper in program.hypers for number, name in enumerate(hyper.names)}
    first = {s.name: _value(s.initial, {}, hypers, {}) for s in program.states if _stays(s.storage)}
    signs = {s.name: s.storage is not None and _has_negative_zero(s.storage) for s in program.states}
    known = {name: _as_state(value, signs[name]) for name, value in first.items() if value.low >= 0}
    while True:
        kept = dict(known)
        for procedure in program.procedures:
            # an entry may be called before the first step
            names = {} if procedure is program.procedures[0] else {STEP: _POSITIVE}
            for name, value in _written(procedure.body, names, hypers, known)[1]:
                if value.low < 0:
                    kept.pop(name, None)
                elif name in kept:
                    kept[name] = kept[name].hull(_as_state(value))
        if kept == known:
            return frozenset(known)
        known = kept


def _as_state(value: Interval, negative_zero: bool = False) -> Interval:
    """What is kept of an interval from 0 on: the two doubts, which only ever grow, so that the search for what holds ends."""
    return Interval(0.0, math.inf, negative_zero or (value.negative_zero and value.has_zero), value.unless_empty)


def _has_negative_zero(storage: Storage) -> bool:
    """Whether codes may stand for -0. A cast keeps the sign of what is written."""
    return any(level == 0 and math.copysign(1.0, level) < 0 for level in storage.levels)


def _stays(storage: Storage | None) -> bool:
    """Whether numbers of 0 or above are so when they come back from memory: codes need a 0, or nothing below it."""
    return storage is None or storage.dtype is not None or not storage.signed or 0.0 in storage.levels


def _of_hyper(hyper: Hyper, number: int) -> Interval:
    default = hyper.defaults[number]
    if isinstance(default, bool | str) or hyper.choices:
        return _ANY
    return _ANY if hyper.bounds is None else Interval(hyper.bounds.low, hyper.bounds.high)


def _written(
    body: Iterable[Statement], names: _Names, hypers: Mapping[str, Interval], states: _States
) -> tuple[_Names, list[tuple[str, Interval]]]:
    """What names are after some lines, and what these have given to which states."""
    names, written = dict(names), []
    for statement in body:
        match statement:
            case Let(target=target, value=value):
                names[target] = _value(value, names, hypers, states)
            case Store(target=target, value=value):
                names[target] = found = _value(value, names, hypers, states)
                if target.role is Role.STATE:
                    written.append((target.name, found))
            case Branch(then=then, otherwise=otherwise):
                (first, some), (second, more) = (_written(side, names, hypers, states) for side in (then, otherwise))
                written += [*some, *more]
                names = {s: first[s].hull(second[s]) for s in first.keys() & second.keys()}
    return names, written


def _value(e: Expression, names: _Names, hypers: Mapping[str, Interval], states: _States) -> Interval:
    match e:
        case Constant(value=bool() | str() | None):
            return _ANY
        case Constant(value=int() | float() as value):
            return Interval(float(value), float(value), math.copysign(1.0, value) < 0)
        case Read(symbol=symbol):
            return _read(symbol, names, hypers, states)
        case Apply(operation=operation, arguments=arguments):
            found = [_value(a, names, hypers, states) for a in arguments]
            result = _operation(operation, arguments, found)
            empty = operation in ("largest", "smallest") or (operation != "total" and any(x.unless_empty for x in found))
            return replace(result, unless_empty=empty)
    return _ANY


def _read(symbol: Symbol, names: _Names, hypers: Mapping[str, Interval], states: _States) -> Interval:
    if symbol in names:
        return names[symbol]
    if symbol.role is Role.HYPER:
        return hypers[symbol.name]
    if symbol.role in (Role.STEP, Role.SHAPE):
        return Interval(1.0) if symbol.role is Role.STEP else _POSITIVE
    return states.get(symbol.name, _ANY) if symbol.role is Role.STATE else _ANY


def _operation(operation: str, arguments: tuple[Expression, ...], x: list[Interval]) -> Interval:
    if operation in _BOUNDED:
        return _BOUNDED[operation]
    if operation in _KEEPING:
        return x[0]
    match operation:
        case "sqrt":
            return replace(_POSITIVE, negative_zero=x[0].negative_zero and x[0].has_zero)  # √-0 = -0
        case "neg":
            return _negative(x[0])
        case "add":
            return _sum(x[0], x[1])
        case "sub":
            return _sum(x[0], _negative(x[1]))
        case "mul":
            if arguments[0] == arguments[1]:
                return _POSITIVE
            corners = [_product(a, b) for a in (x[0].low, x[0].high) for b in (x[1].low, x[1].high)]
            return Interval(min(corners), max(corners), not (x[0].is_positive and x[1].is_positive))
        case "div":
            return replace(_POSITIVE, negative_zero=not x[0].is_positive) if x[0].low >= 0 and x[1].is_positive else _ANY
        case "pow":
            return _power(x[0], x[1], arguments[1])
        case "min":
            return Interval(min(x[0].low, x[1].low), min(x[0].high, x[1].high), x[0].negative_zero or x[1].negative_zero)
        case "max":
            return Interval(max(x[0].low, x[1].low), max(x[0].high, x[1].high), x[0].negative_zero or x[1].negative_zero)
        case "where":
            return x[1].hull(x[2])
        case "sum":
            return replace(_POSITIVE, negative_zero=not x[0].is_positive) if x[0].low >= 0 else _ANY
        case "total":
            return replace(_POSITIVE, negative_zero=not x[0].is_positive) if x[0].low >= 0 and not x[0].unless_empty else _ANY
        case "round_bf16":
            return replace(_POSITIVE, negative_zero=not x[0].is_positive) if x[0].low >= 0 else _ANY
        case "mod":
            return replace(_POSITIVE, negative_zero=True) if x[1].low >= 0 else _ANY
        case _:
            return _POSITIVE if operation == DRAW else _ANY


def _negative(x: Interval) -> Interval:
    return Interval(-x.high, -x.low, True)


def _sum(a: Interval, b: Interval) -> Interval:
    """Infinities that cancel come to NaN, of which `min` and `max` take the other side: then nothing is known.

    A sum is -0 only where both are: what cancels comes to 0.
    """
    low, high = a.low + b.low, a.high + b.high
    if math.isnan(low) or math.isnan(high):
        return _ANY
    return Interval(low, high, a.negative_zero and a.has_zero and b.negative_zero and b.has_zero)


def _product(a: float, b: float) -> float:
    """0 times infinity is 0: the infinity stands for numbers that are as large as one likes."""
    return 0.0 if 0.0 in (a, b) else a * b


def _power(base: Interval, exponent: Interval, written: Expression) -> Interval:
    """Even powers are 0 or above, and so are all of what is; but -0 to an odd power is -0, or -inf."""
    value = written.value if isinstance(written, Constant) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and float(value) % 2 == 0:
        return _POSITIVE
    if base.low < 0 or (not base.is_positive and exponent.low < 0):
        return _ANY
    return Interval(0.0, 1.0 if base.high <= 1 and exponent.low >= 0 else math.inf, not base.is_positive)
