"""Faults in one expression: what stands in the place of what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.program import STEP, Apply, Constant, Expression, Read, Role, Symbol
from tests.faults.rewrite import Rule

_HOST = Type(Sort.REAL, Extent.TENSOR, host=True)
_LITERAL = Type(Sort.REAL, Extent.MODEL, host=True, static=True)
_ONE = Constant(1, _LITERAL)
_NEGATED = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}


def _is_hyper(value: Expression, name: str) -> bool:
    return isinstance(value, Read) and value.symbol == Symbol(Role.HYPER, name)


def _is_small(value: Expression) -> bool:
    """Whether this is what keeps a denominator from zero."""
    number = value.value if isinstance(value, Constant) else None
    return _is_hyper(value, "eps") or (isinstance(number, float) and 0 < number <= 1e-6)


def _is_one(value: Expression) -> bool:
    return isinstance(value, Constant) and value.value == 1


def drop(operation: str) -> Rule:
    def rule(value: Expression) -> Iterator[Expression]:
        if isinstance(value, Apply) and value.operation == operation:
            yield value.arguments[0]

    return rule


def swap(*pair: str) -> Rule:
    def rule(value: Expression) -> Iterator[Expression]:
        if isinstance(value, Apply) and value.operation in pair:
            yield replace(value, operation=pair[1 - pair.index(value.operation)])

    return rule


def drop_square(value: Expression) -> Iterator[Expression]:
    match value:
        case Apply(operation="pow", arguments=(base, Constant(value=2))):
            yield base


def move_eps(value: Expression) -> Iterator[Expression]:
    match value:
        case Apply(operation="add", arguments=(Apply(operation="sqrt", arguments=(x,)) as root, eps)) if _is_small(eps):
            yield replace(root, arguments=(replace(value, arguments=(x, eps)),))
            yield replace(value, operation="max")
        case Apply(operation="sqrt", arguments=(Apply(operation="add", arguments=(x, eps)) as inner,)) if _is_small(eps):
            yield replace(inner, arguments=(replace(value, arguments=(x,)), eps))
        case Apply(operation="max", arguments=(_, eps)) if _is_small(eps):
            yield replace(value, operation="add")


def drop_eps(value: Expression) -> Iterator[Expression]:
    match value:
        case Apply(operation="add", arguments=(x, eps)) if _is_small(eps):
            yield x


def drop_debias(value: Expression) -> Iterator[Expression]:
    match value:
        case Apply(operation="div", arguments=(x, Apply(operation="sub", arguments=(one, Apply(operation="pow"))))):
            if _is_one(one):
                yield x


def shift_t(by: int) -> Rule:
    def rule(value: Expression) -> Iterator[Expression]:
        if isinstance(value, Read) and value.symbol == STEP:
            yield Apply("add", (value, Constant(by, _LITERAL)), _HOST, value.span)

    return rule


def swap_where(value: Expression) -> Iterator[Expression]:
    match value:
        case Apply(operation="where", arguments=(c, a, b)):
            yield replace(value, arguments=(c, b, a))


def swap_weights(value: Expression) -> Iterator[Expression]:
    """`βm + (1-β)x` to `(1-β)m + βx`."""
    match value:
        case Apply(
            operation="add",
            arguments=(
                Apply(operation="mul", arguments=(beta, m)) as left,
                Apply(operation="mul", arguments=(Apply(operation="sub", arguments=(one, also)) as rest, x)) as right,
            ),
        ) if _is_one(one) and beta == also:
            yield replace(value, arguments=(replace(left, arguments=(rest, m)), replace(right, arguments=(beta, x))))


def sum_for_average(value: Expression) -> Iterator[Expression]:
    """`βm + (1-β)x` to `βm + x`."""
    match value:
        case Apply(
            operation="add",
            arguments=(
                Apply(operation="mul", arguments=(beta, _)) as left,
                Apply(operation="mul", arguments=(Apply(operation="sub", arguments=(one, also)), x)),
            ),
        ) if _is_one(one) and beta == also:
            yield replace(value, arguments=(left, x))


def average_for_sum(value: Expression) -> Iterator[Expression]:
    """`βm + x` to `βm + (1-β)x`, where m is a state."""
    match value:
        case Apply(operation="add", arguments=(Apply(operation="mul", arguments=(beta, Read() as m)) as left, Read() as x)) if (
            m.symbol.role is Role.STATE
        ):
            rest = Apply("sub", (_ONE, beta), beta.type, beta.span)
            yield replace(value, arguments=(left, Apply("mul", (rest, x), value.type, x.span)))


def wrong_constant(value: Expression) -> Iterator[Expression]:
    match value:
        case Constant(value=float() as number) if number not in (0.0, 1.0) and number > 1e-6:
            yield replace(value, value=number * 0.9)
        case Constant(value=int() as whole) if not isinstance(whole, bool) and whole > 1:
            yield replace(value, value=whole + 1)


def flip_comparison(value: Expression) -> Iterator[Expression]:
    if isinstance(value, Apply) and value.operation in _NEGATED:
        yield replace(value, operation=_NEGATED[value.operation])


def clamp_one_side(value: Expression) -> Iterator[Expression]:
    match value:
        case Apply(operation="min", arguments=(Apply(operation="max", arguments=(x, _)) as inner, high)):
            yield inner
            yield replace(value, arguments=(x, high))


def drop_last_term(value: Expression) -> Iterator[Expression]:
    match value:
        case Apply(operation="add" | "sub", arguments=(a, b)) if not _is_small(b) and not _is_one(a):
            yield a


def drop_host_factor(value: Expression) -> Iterator[Expression]:
    """`lr*u` to `u`: a scalar factor forgotten."""
    match value:
        case Apply(operation="mul", arguments=(a, b)) if a.type.host and not b.type.host:
            yield b


def invert(value: Expression) -> Iterator[Expression]:
    match value:
        case Apply(operation="div", arguments=(a, b)) if not a.type.host and not b.type.host:
            yield replace(value, arguments=(b, a))
