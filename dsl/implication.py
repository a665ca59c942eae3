"""Static implication: does a condition hold wherever this line runs?

No solver. The hypers and shapes involved are sampled once per region that the conditions can tell apart (for `momentum != 0`
with `momentum` in [0, inf): 0 and 1), flags and choices are enumerated, and anything else is an atom that may be true or false.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.program import COMPARISONS, LOGIC, TRUE, Apply, Bounds, Constant, Expression, Hyper, HyperKind, Read, Role, Scalar
from optc.dsl.semantics import evaluate, reads

_STATIC_BOOL = Type(Sort.BOOL, Extent.MODEL, host=True, static=True)
FALSE = Constant(False, _STATIC_BOOL)

MAX_CASES = 4096
MAX_TOTAL_CASES = 200_000

Key: TypeAlias = Expression
"""What is varied: the `Read` of a hyper or shape, or a whole comparison taken as an atom."""


class TooManyCases(Exception):
    """The conditions involve more combinations than are tried."""


def is_constant(expression: Expression) -> bool:
    """Whether an expression reads nothing."""
    return not reads(expression)


def negation(condition: Expression) -> Expression:
    """`not condition`."""
    return Apply("not", (condition,), condition.type, condition.span)


def conjunction(conditions: Iterable[Expression]) -> Expression:
    """All of them; TRUE for none."""
    result: Expression = TRUE
    for c in conditions:
        if result == TRUE:
            result = c
        elif c != TRUE:
            both = result.type, c.type
            kind = Type(Sort.BOOL, both[0].extent.join(both[1].extent), all(t.host for t in both), all(t.static for t in both))
            result = Apply("and", (result, c), kind, c.span)
    return result


def static_part(condition: Expression) -> Expression:
    """The strongest static condition that this one implies."""
    return _bound(condition, above=True)


def _bound(condition: Expression, above: bool) -> Expression:
    """A static condition implied by this one (`above`), or one that implies it."""
    if condition.type.static:
        return condition
    match condition:
        case Apply(operation="not", arguments=(inner,)):
            return Apply("not", (_bound(inner, not above),), _STATIC_BOOL)
        case Apply(operation="and" | "or" as operation, arguments=(left, right)):
            return Apply(operation, (_bound(left, above), _bound(right, above)), _STATIC_BOOL)
    return TRUE if above else FALSE


class Implication:
    """Decides implications between static conditions on one set of hypers."""

    def __init__(self, hypers: Mapping[str, Hyper]) -> None:
        self._hypers = hypers
        self._cache: dict[tuple[tuple[Expression, ...], Expression], bool] = {}
        self._left = MAX_TOTAL_CASES

    def implied(self, assumptions: Iterable[Expression], conclusion: Expression) -> bool:
        """Whether `conclusion` holds wherever all `assumptions` do. Raises `TooManyCases`."""
        known = [part for a in assumptions for part in _parts(a)]
        return all(part in known or self._follows(known, part) for part in _parts(conclusion))

    def _follows(self, known: list[Expression], conclusion: Expression) -> bool:
        relevant = _connected(known, conclusion)
        question = (relevant, conclusion)
        if question not in self._cache:
            self._cache[question] = all(_holds(conclusion, case) for case in self._cases(relevant, conclusion))
        return self._cache[question]

    def _cases(self, assumptions: tuple[Expression, ...], conclusion: Expression) -> Iterator[dict[Key, Scalar]]:
        points: dict[Key, set[float]] = {}
        for condition in (*assumptions, conclusion):
            _collect(condition, points)
        samples = {key: self._samples(key, constants) for key, constants in points.items()}
        count = math.prod(len(s) for s in samples.values())
        if count > MAX_CASES or count > self._left:
            raise TooManyCases
        self._left -= count
        for values in itertools.product(*samples.values()):
            case = dict(zip(samples, values, strict=True))
            if all(_holds(a, case) for a in assumptions):
                yield case

    def _samples(self, key: Key, constants: set[float]) -> list[Scalar]:
        """Values of a hyper or shape, one for each region between the constants it is compared with."""
        if not isinstance(key, Read):
            return [False, True]
        hyper = self._hypers.get(key.symbol.name) if key.symbol.role is Role.HYPER else None
        none: list[Scalar] = [None] if hyper is not None and hyper.optional else []
        if hyper is None:
            return [*_numbers(constants, Bounds(0, math.inf, True, False), whole=True)]
        if hyper.kind is HyperKind.FLAG:
            return [False, True]
        if hyper.kind is HyperKind.CHOICE:
            return [*hyper.choices, *none]
        return [*_numbers(constants, hyper.bounds, whole=hyper.kind is HyperKind.INTEGER), *none]


def _numbers(constants: set[float], bounds: Bounds | None, whole: bool) -> list[float]:
    ends = {bounds.low, bounds.high} if bounds is not None else set()
    points = sorted(p for p in constants | ends | {0.0} if math.isfinite(p))
    candidates = {*points, points[0] - 1, points[-1] + 1, *(a / 2 + b / 2 for a, b in itertools.pairwise(points))}
    if whole:
        candidates = {float(w) for p in points for w in (math.floor(p) - 1, math.floor(p), math.ceil(p), math.ceil(p) + 1)}
    else:
        candidates |= {math.inf, -math.inf}
    if bounds is None:
        return [*sorted(candidates), math.nan]
    return [c for c in sorted(candidates) if within(c, bounds)]


def within(value: float, bounds: Bounds) -> bool:
    """Whether a number is in an interval; NaN never is."""
    above = value >= bounds.low if bounds.low_closed else value > bounds.low
    below = value <= bounds.high if bounds.high_closed else value < bounds.high
    return above and below


def _simple(condition: Expression) -> tuple[Read, Expression] | None:
    """The name and the constant of a comparison `name < constant` (either way round)."""
    match condition:
        case Apply(operation=operation, arguments=(left, right)) if operation in COMPARISONS:
            for name, constant in ((left, right), (right, left)):
                if isinstance(name, Read) and is_constant(constant):
                    return name, constant
    return None


def _collect(condition: Expression, points: dict[Key, set[float]]) -> None:
    match condition:
        case Constant():
            return
        case Apply(operation=operation, arguments=arguments) if operation in LOGIC:
            for a in arguments:
                _collect(a, points)
            return
    simple = _simple(condition)
    if simple is None:
        points.setdefault(condition, set())
        return
    constants = points.setdefault(simple[0], set())
    value = evaluate(simple[1], lambda symbol: None)
    if not isinstance(value, str) and value is not None:
        constants.add(float(value))


def _holds(condition: Expression, case: Mapping[Key, Scalar]) -> bool:
    match condition:
        case Constant(value=value):
            return bool(value)
        case Apply(operation="not", arguments=(inner,)):
            return not _holds(inner, case)
        case Apply(operation="and", arguments=arguments):
            return all(_holds(a, case) for a in arguments)
        case Apply(operation="or", arguments=arguments):
            return any(_holds(a, case) for a in arguments)
        case Apply(operation=operation) if (simple := _simple(condition)) is not None:
            value = case[simple[0]]
            if value is None and operation not in ("eq", "ne"):
                return False
            return bool(evaluate(condition, lambda symbol: value))
    return bool(case[condition])


def _parts(condition: Expression) -> list[Expression]:
    """The conditions that `and` joins; none for TRUE."""
    found: list[Expression] = []
    stack = [condition]
    while stack:
        match stack.pop():
            case Apply(operation="and", arguments=arguments):
                stack.extend(arguments)
            case part if part != TRUE:
                found.append(part)
    return found


def _connected(assumptions: list[Expression], conclusion: Expression) -> tuple[Expression, ...]:
    """The assumptions that share a name with the conclusion, directly or through others."""
    names = reads(conclusion)
    chosen: list[Expression] = []
    rest = list(dict.fromkeys(assumptions))
    while True:
        near = [a for a in rest if reads(a) & names or is_constant(a)]
        if not near:
            return tuple(chosen)
        for a in near:
            rest.remove(a)
            chosen.append(a)
            names |= reads(a)
