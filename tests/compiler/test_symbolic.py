"""The prover: true equalities are proved, false ones are not, and samples outside the reals do no harm."""

from __future__ import annotations

import pytest

from optc.compiler.symbolic import constant, equivalent
from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.program import Apply, Constant, Expression, Read, Role, Symbol

REAL = Type(Sort.REAL, Extent.ELEM)


def name(letter: str) -> Expression:
    return Read(Symbol(Role.LOCAL, letter), REAL)


def number(value: float) -> Expression:
    return Constant(value, REAL)


def of(operation: str, *arguments: Expression) -> Expression:
    return Apply(operation, arguments, REAL)


X, Y, C = name("x"), name("y"), name("c")
ANGLE = of("atan2", of("mul", X, of("sqrt", Y)), number(0.5))
"""Real only where y is not negative."""


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (of("div", X, C), of("mul", of("div", number(1.0), C), X)),
        (of("mul", of("mul", C, X), of("div", Y, C)), of("mul", X, Y)),
        (of("mul", of("sqrt", C), X), of("mul", X, of("sqrt", C))),
        (of("mul", ANGLE, C), of("mul", C, ANGLE)),
    ],
)
def test_proves(left: Expression, right: Expression) -> None:
    assert equivalent(left, right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (of("sub", X, Y), of("sub", Y, X)),
        (of("div", X, C), of("mul", C, X)),
        (of("sqrt", of("mul", X, X)), X),
        (of("max", X, Y), of("min", X, Y)),
        (of("mul", number(0.1), X), of("mul", number(0.1 + 2**-55), X)),
    ],
)
def test_does_not_prove(left: Expression, right: Expression) -> None:
    assert not equivalent(left, right)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (of("add", number(0.1), number(0.2)), 0.30000000000000004),
        (of("sqrt", number(2.0)), 2.0**0.5),
        (of("sqrt", number(-1.0)), None),
        (of("div", number(1.0), number(0.0)), None),
        (of("log", number(-2.0)), None),
    ],
)
def test_constants_are_real_and_finite_or_none(expression: Expression, value: float | None) -> None:
    assert constant(expression) == value
