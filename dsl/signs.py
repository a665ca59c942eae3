"""States that are never negative, as far as intervals can prove it: those may be kept in storages without negative numbers.

Proved by induction: a state that starts at 0 or above, and is only ever given values that are 0 or above if it was, stays so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from optc.dsl.program import (
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
    """Numbers from `low` to `high`; both may be infinite, and belong to it."""

    low: float = -math.inf
    high: float = math.inf

    def hull(self, other: Interval) -> Interval:
        """Both, and what is between."""
        return Interval(min(self.low, other.low), max(self.high, other.high))


_ANY, _POSITIVE = Interval(), Interval(0.0)
_BOUNDED = {
    "sqrt": _POSITIVE, "exp": _POSITIVE, "abs": _POSITIVE, "sign": Interval(-1.0, 1.0), "tanh": Interval(-1.0, 1.0),
    "sin": Interval(-1.0, 1.0), "cos": Interval(-1.0, 1.0), "cospi": Interval(-1.0, 1.0),
}  # fmt: skip
_KEEPING = frozenset({"mean", "largest", "smallest", "pick"})
_Names: TypeAlias = dict[Symbol, Interval]


def never_negative(program: Program) -> frozenset[str]:
    """The names of the states that are never negative (NaN aside)."""
    hypers = {name: _of_hyper(hyper, number) for hyper in program.hypers for number, name in enumerate(hyper.names)}
    known = {s.name for s in program.states if _stays(s.storage) and _value(s.initial, {}, hypers, frozenset()).low >= 0}
    first = program.procedures[0]
    while True:
        kept = set(known)
        for procedure in program.procedures:
            # an entry may be called before the first step
            names = {} if procedure is first else {STEP: _POSITIVE}
            kept -= _broken(procedure.body, names, hypers, frozenset(known))[1]
        if kept == known:
            return frozenset(known)
        known = kept


def _stays(storage: Storage | None) -> bool:
    """Whether numbers of 0 or above are so when they come back from memory: codes need a 0, or nothing below it."""
    return storage is None or storage.dtype is not None or not storage.signed or 0.0 in storage.levels


def _of_hyper(hyper: Hyper, number: int) -> Interval:
    default = hyper.defaults[number]
    if isinstance(default, bool | str) or hyper.choices:
        return _ANY
    return _ANY if hyper.bounds is None else Interval(hyper.bounds.low, hyper.bounds.high)


def _broken(
    body: Iterable[Statement], names: _Names, hypers: Mapping[str, Interval], states: frozenset[str]
) -> tuple[_Names, set[str]]:
    """What names are after some lines, and the states that may have been given something negative."""
    names, broken = dict(names), set()
    for statement in body:
        match statement:
            case Let(target=target, value=value):
                names[target] = _value(value, names, hypers, states)
            case Store(target=target, value=value):
                names[target] = found = _value(value, names, hypers, states)
                if target.role is Role.STATE and found.low < 0:
                    broken.add(target.name)
            case Branch(then=then, otherwise=otherwise):
                (first, some), (second, more) = (_broken(side, names, hypers, states) for side in (then, otherwise))
                broken |= some | more
                names = {s: first[s].hull(second[s]) for s in first.keys() & second.keys()}
    return names, broken


def _value(e: Expression, names: _Names, hypers: Mapping[str, Interval], states: frozenset[str]) -> Interval:
    match e:
        case Constant(value=bool() | str() | None):
            return _ANY
        case Constant(value=int() | float() as value):
            return Interval(float(value), float(value))
        case Read(symbol=symbol):
            return _read(symbol, names, hypers, states)
        case Apply(operation=operation, arguments=arguments):
            return _operation(operation, arguments, [_value(a, names, hypers, states) for a in arguments])
    return _ANY


def _read(symbol: Symbol, names: _Names, hypers: Mapping[str, Interval], states: frozenset[str]) -> Interval:
    if symbol in names:
        return names[symbol]
    if symbol.role is Role.HYPER:
        return hypers[symbol.name]
    if symbol.role in (Role.STEP, Role.SHAPE) or (symbol.role is Role.STATE and symbol.name in states):
        return Interval(1.0) if symbol.role is Role.STEP else _POSITIVE
    return _ANY


def _operation(operation: str, arguments: tuple[Expression, ...], x: list[Interval]) -> Interval:
    if operation in _BOUNDED:
        return _BOUNDED[operation]
    if operation in _KEEPING:
        return x[0]
    match operation:
        case "neg":
            return Interval(-x[0].high, -x[0].low)
        case "add":
            return _sum(x[0], x[1])
        case "sub":
            return _sum(x[0], Interval(-x[1].high, -x[1].low))
        case "mul":
            if arguments[0] == arguments[1]:
                return _POSITIVE
            corners = [_product(a, b) for a in (x[0].low, x[0].high) for b in (x[1].low, x[1].high)]
            return Interval(min(corners), max(corners))
        case "div":
            return _POSITIVE if x[0].low >= 0 and x[1].low >= 0 else _ANY
        case "pow":
            exponent = arguments[1].value if isinstance(arguments[1], Constant) else None
            even = isinstance(exponent, int | float) and not isinstance(exponent, bool) and float(exponent) % 2 == 0
            if not even and x[0].low < 0:
                return _ANY
            return Interval(0.0, 1.0) if x[0].low >= 0 and x[0].high <= 1 and x[1].low >= 0 else _POSITIVE
        case "min":
            return Interval(min(x[0].low, x[1].low), min(x[0].high, x[1].high))
        case "max":
            return Interval(max(x[0].low, x[1].low), max(x[0].high, x[1].high))
        case "where":
            return x[1].hull(x[2])
        case "sum" | "total":
            return _POSITIVE if x[0].low >= 0 else _ANY
        case "round_bf16":
            return _POSITIVE if x[0].low >= 0 else _ANY
        case "mod":
            return _POSITIVE if x[1].low >= 0 else _ANY
        case _:
            return _POSITIVE if operation.startswith("uniform_") else _ANY


def _sum(a: Interval, b: Interval) -> Interval:
    """Infinities that cancel come to NaN, of which `min` and `max` take the other side: then nothing is known."""
    low, high = a.low + b.low, a.high + b.high
    if math.isnan(low) or math.isnan(high):
        return _ANY
    return Interval(low, high)


def _product(a: float, b: float) -> float:
    """0 times infinity is 0: the infinity stands for numbers that are as large as one likes."""
    return 0.0 if 0.0 in (a, b) else a * b
