"""States that are never negative: which are known to be, and that none of these ever is, whatever hypers and gradients are."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from optc.compiler.interpret import Oracle
from optc.dsl.errors import OptcError
from optc.dsl.program import Bounds, Hyper, Program
from optc.dsl.signs import never_negative
from tests.dsl.programs import program, spec
from tests.oracle import WRITTEN_OUT, program_of

SHIPPED = {
    "adam": {"v", "v_max"}, "adamw": {"v", "v_max"}, "adamax": {"v_inf"}, "adabelief": {"s", "s_max"}, "adagrad": {"G"},
    "adadelta": {"v", "a"}, "adan": {"n"}, "adai": {"v", "P"}, "ademamix": {"v"}, "adopt": {"v"}, "adamod": {"v", "s"},
    "amos": {"v", "b"}, "came": {"R", "C", "V", "R_s", "C_s"}, "dadapt_adam": {"v", "k"}, "ftrl": {"n"}, "kate": {"m", "b"},
    "lamb": {"v"}, "madgrad": {"nu"}, "novograd": {"v", "v_max"}, "prodigy": {"v", "k"}, "radam": {"v"}, "rprop": {"delta"},
    "schedulefree_adamw": {"v", "v_max", "W", "eta_max"}, "sm3": {"R", "C", "V"}, "sophia": {"h"}, "adahessian": {"s", "w"},
    # β may be above 1, or the sign is that of the gradient, of a difference, or of an estimate
    "rmsprop": set(), "yogi": set(), "lion": set(), "sgd": set(), "ano": set(), "vsgd": set(), "sophia_h": set(), "lars": set(),
}  # fmt: skip
PATHS = {path.stem: f"{path.parent.name}/{path.stem}" for path in WRITTEN_OUT}


@pytest.mark.parametrize("name", SHIPPED)
def test_states_of_shipped_specs(name: str) -> None:
    assert never_negative(program_of(PATHS[name])) == SHIPPED[name]


A, B = "a = 0.5 in [0, 1]", "b = 0.5 in [-1, 2]"


HYPERS = f"lr = 0.1 in [0, inf)\nfree = 0.5\n{A}\n{B}\nflag = false\nc = 2 in int [1, 9]\nseed = 0 in int [0, inf)"
USED = "where(flag, free + a + b + c, lr)*uniform(seed)"


def given(*values: str, initial: tuple[str, ...] = ()) -> Program:
    """States v0, v1, … that get values, in which `v` is the state itself.

    `known` is a state of 0 or above, `n` a number per tensor that is.
    """
    names = [f"v{number}" for number in range(len(values))]
    state = [f"{name} = {first}" for name, first in zip(names, initial or ["0"] * len(names), strict=True)]
    lines = [f"{name} <- " + re.sub(r"\bv\b", name, value) for name, value in zip(names, values, strict=True)]
    lines += ["known <- known + g^2", "n <- n + sum(g^2)", f"theta <- theta - lr*known*n*{USED}*({' + '.join(names)})"]
    return spec(*lines, hyper=HYPERS, state=(*state, "known = 0", "n = 0 per tensor"))


def known_of(values: tuple[str, ...]) -> set[str]:
    """Those of the values that are known to be 0 or above."""
    found = never_negative(given(*values))
    assert {"known", "n"} <= found
    return {value for number, value in enumerate(values) if f"v{number}" in found}


ZERO_OR_ABOVE = (
    "3", "0", "inf", "g^2", "g*g", "(g - 1)*(g - 1)", "(g - 1)^2", "g^4", "(-2)^2", "|g|", "sqrt(g)", "exp(g)",
    "v", "known", "v + known", "known + 3", "v + g^2", "lr", "lr*g^2", "a*v", "(1 - a)*v", "1 - a", "1 - a^t",
    "ema(v, g^2, a)", "debias(v, a)", "v/(known + 1)", "v/n", "1/(1 + exp(g))", "1 + sign(g)",
    "1 + tanh(g)", "1 - sin(g)", "1 + cos(g)", "1 - cospi(g)", "2 - b", "1 + b", "b^2", "b*b", "max(v, g)", "max(g, 0)",
    "max(-1, 0)", "min(v, known)", "min(known, 2)", "clamp(g, 0, 2)", "-min(g, 0)", "--v", "-(-3)", "(-1)*(-2)", "g mod 3",
    "t", "t - 1", "numel", "ndim", "c", "c - 1", "9 - c", "uniform(seed)", "0.5^t", "known^0.5", "known^g",
    "where(g > 0, v, 2)", "where(flag, g^2, known)", "where(new(v), 1, 2)", "sum(g^2)", "mean(|g|)", "max(known)",
    "min(|g|)", "norm(g)", "rms(g)", "count(g > 0)", "total(n)", "total_norm(g)", "norm1(g)", "n*n", "n + lr", "loss^2",
    "abs(loss)", "sqrt(sqrt(known)*known)", "a^known", "0*free", "pow(known, free)", "-min(g, 0)", "total(mean(g^2))",
)  # fmt: skip
PERHAPS_NEGATIVE = (
    "-1", "g", "g + known", "v - g^2", "v - known", "0 - v", "-v", "-lr", "v - a*v", "free", "free*v", "free^3", "g^3", "b",
    "g^1", "g*(g + 1)", "g*(g + 0)", "g^free", "(g*g)*g", "1 - lr", "1 - 2*a", "b*v", "ema(v, g^2, free)", "ema(v, g^2, b)",
    "ema(v, g, a)", "v/g", "g/v", "known/(0 - 1)", "1 - exp(g)", "sign(g)", "tanh(g)", "sin(g)", "cos(g)", "cospi(g)",
    "ln(1 + g^2)", "atan2(known, known)", "max(g, -1)", "max(v, g) - 1", "min(v, g)", "min(g, 3)", "clamp(g, -1, 2)",
    "g mod g", "g mod (0 - 3)", "1 - t", "t - 2", "ndim - 1", "1 - c", "c - 2", "uniform(seed) - 0.5", "normal(seed)",
    "where(g > 0, v, g)", "where(flag, g, v)", "where(new(v), 0 - 1, v)", "sum(g)", "mean(g)", "max(g)", "min(g)",
    "total(sum(g))", "dot(g, g + 1)", "theta", "loss", "floor(known)", "1 - n", "n - n", "known - known", "1 - known^0.5",
    "0.5^t - 0.1", "2 - 2^t", "(0 - 2)^3", "lr^2 - 1", "known^2 - known",
)  # fmt: skip
NEVER_NEGATIVE_ZERO = (
    "known", "n", "g^2", "g*g", "|g|", "exp(g)", "uniform(seed)", "1 - a", "1 - a^t", "t - 1", "0", "1", "numel", "lr + known",
    "known + lr", "sqrt(known)", "mean(g^2)", "sum(|g|)", "max(known)", "min(g^2)", "norm(g)", "total(n)",
    "max(known, 0)", "max(g, 1)", "where(flag, g^2, 0)", "g^2*known", "known^0.5", "known^-0.5", "known/(known + 1)",
    "ema(known, g^2, a)", "debias(known, a)", "1 - sign(known)", "min(known, n)", "lr + 1", "c", "lr^2",
)  # fmt: skip
PERHAPS_NEGATIVE_ZERO = (
    "-min(g, 0)", "0*free", "0*g", "lr", "a", "a*known", "lr*g^2", "max(g, 0)", "max(0, g)", "min(lr, known)", "lr + a",
    "sqrt(lr)", "sqrt(-min(g, 0))", "mean(0*g)", "sum(lr + 0*g)", "where(flag, lr, 1)", "lr/(known + 1)", "a^t",
    "lr^0.5", "-(0)", "g mod 3", "max(0*g)",
)  # fmt: skip


def test_values_of_zero_or_above_are_known() -> None:
    assert known_of(ZERO_OR_ABOVE) == set(ZERO_OR_ABOVE)


def test_values_that_may_be_negative_are_not_known() -> None:
    assert known_of(PERHAPS_NEGATIVE) == set()


def test_what_is_never_negative_zero_can_be_divided_by() -> None:
    """1/-0 is -inf. -0 itself is not below 0."""
    assert known_of(NEVER_NEGATIVE_ZERO) == set(NEVER_NEGATIVE_ZERO)
    assert known_of(tuple(f"1/({x})" for x in NEVER_NEGATIVE_ZERO)) == {f"1/({x})" for x in NEVER_NEGATIVE_ZERO}
    assert known_of(PERHAPS_NEGATIVE_ZERO) == set(PERHAPS_NEGATIVE_ZERO)
    assert known_of(tuple(f"1/({x})" for x in PERHAPS_NEGATIVE_ZERO)) == set()


@pytest.mark.parametrize("value", ["max(1/-min(g, 0), -5)", "max((-min(g, 0))^-1, -5)", "max(1/sqrt(-min(g, 0)), -5)"])
def test_dividing_by_negative_zero_proves_nothing(value: str) -> None:
    found = given(value)
    oracle = Oracle(found)
    param = oracle.new_parameter(np.ones(3))
    oracle.step(param, np.ones(3))
    assert (param.states["v0"] == -5).all() and "v0" not in never_negative(found)


def test_states_may_keep_negative_zeros() -> None:
    """They are not below 0, but what is divided by them may be."""
    body = ("w <- -min(g, 0)", "v <- max(1/w, -5)", "theta <- theta - lr*v*w")
    assert never_negative(spec(*body, hyper="lr = 0.1", state=("v = 0", "w = 0"))) == {"w"}
    body = ("v <- max(1/w, -5)", "w <- w + -min(g, 0)", "theta <- theta - lr*v*w")
    assert never_negative(spec(*body, hyper="lr = 0.1", state=("v = 0", "w = 0"))) == {"v", "w"}  # 0 + -0 is 0
    assert never_negative(spec(*body, hyper="lr = 0.1", state=("v = 0", "w = -0"))) == {"w"}


@pytest.mark.parametrize(
    ("total", "known"),
    [
        ("total(sum(g^2))", True),
        ("total(max(|g|))", False),
        ("total(2*max(|g|) + 1)", False),
        ("total(1 - min(where(g > 0, 0, 1)))", False),
        ("total(n)", False),
        ("total(sum(v))", True),
    ],
)
def test_totals_have_empty_parameters_in_them(total: str, known: bool) -> None:
    """The largest of no elements is -inf."""
    body = (f"d <- {total}", "v <- v + d", "n <- max(|g|)", "theta <- theta - lr*v*d*n")
    found = never_negative(spec(*body, hyper="lr = 0.1", state=("v = 0", "n = 0 per tensor", "d = 0 per model")))
    assert ("v" in found) == ("d" in found) == known and "n" in found


def test_a_state_that_starts_below_zero_is_not_known() -> None:
    initial = ("0", "2", "inf", "theta^2", "|g|", "a", "-1", "theta", "g", "b", "lr - 1", "-inf")
    found = never_negative(given(*["|v|"] * len(initial), initial=initial))
    assert found == {*(f"v{number}" for number in range(6)), "known", "n"}


@pytest.mark.parametrize(
    ("lines", "known"),
    [
        (("x = g^2", "v <- x"), True),
        (("x = g", "v <- x"), False),
        (("x = g^2", "x = 0 - x", "v <- x"), False),
        (("x = g", "x = |x|", "v <- x"), True),
        (("g = g^2", "v <- g"), True),
        (("x = g", "if t > 3: x = 1", "v <- x"), False),
        (("x = g", "if t > 3: x = 1", "else: x = 2", "v <- x"), True),
        (("x = 1", "if flag: x = g", "else: x = 2", "v <- x"), False),
        (("x = g^2", "if t > 3: x = x + 1", "v <- x"), True),
        (("if flag: v <- g^2", "else: v <- 1"), True),
        (("if flag: v <- g^2", "else: v <- g"), False),
        (("if t == 1:", "    v <- g^2", "    stop", "v <- v + 1"), True),
        (("if t == 1:", "    v <- g", "    stop", "v <- 1"), False),
        (("if t > 3:", "    if flag: v <- 0 - 1", "v <- 1"), False),
        (("w <- v - 1", "v <- w"), False),
        (("v <- w", "w <- v + g^2"), True),
        (("v <- w", "w <- v + g"), False),
        (("w <- v + 1", "v <- w - 1"), True),
        (("w <- v + 1", "v <- w - 2"), False),
    ],
)
def test_lines_are_followed(lines: tuple[str, ...], known: bool) -> None:
    body = [
        *lines,
        *(["w <- w + 0*v"] if not any("w <-" in line for line in lines) else []),
        "theta <- theta - lr*v*w*where(flag, 1, 2)",
    ]
    found = spec(*body, hyper="lr = 0.1\nflag = false", state=("v = 0", "w = 0"))
    assert ("v" in never_negative(found)) == known
    assert "v" not in never_negative(found) or "w" in never_negative(found) or not any("w" in line for line in lines)


def test_entries_count_as_steps_do() -> None:
    lines = ("v <- v + g^2", "theta <- theta - lr*v")
    for write, known in (("v <- v + x^2", True), ("v <- x", False), ("v <- t*x^2", True), ("v <- (t - 0.5)*x", False)):
        found = spec(*lines, hyper="lr = 0.1", state=("v = 0",), more=(f"entry feed(x per elem): {write}",))
        assert ("v" in never_negative(found)) == known, write


def test_no_step_is_done_when_an_entry_is_called_first() -> None:
    found = spec(
        "v <- v + g^2", "theta <- theta - lr*v", hyper="lr = 0.1", state=("v = 0",), more=("entry back(): v <- t - 1",)
    )
    oracle = Oracle(found)
    param = oracle.new_parameter(np.ones(3))
    oracle.enter("back", param, {})
    assert (param.states["v"] < 0).all() and "v" not in never_negative(found)


@pytest.mark.parametrize("value", ["min(inf + g, -5)", "min(inf - g, -5)"])
def test_infinities_that_cancel_prove_nothing(value: str) -> None:
    found = given(value)
    oracle = Oracle(found)
    param = oracle.new_parameter(np.ones(3))
    oracle.step(param, np.ones(3))
    assert (param.states["v0"] == -5).all() and "v0" not in never_negative(found)


def test_what_memory_makes_negative_is_not_known() -> None:
    """The level nearest to 0 is below it: a state of zeros is read back as something negative."""
    found = program(
        "storage q:\n    codes = 16\n    smallest = 0\n    define level(c) = (c - 7.5)/8\n\n"
        "optimizer X:\n    hyper: lr = 0.1\n    state: v = 0; w = 0\n    storing v: q\n    step:\n"
        "        v <- g^2\n        w <- w + v\n        theta <- theta - lr*w\n"
    )
    oracle = Oracle(found)
    param = oracle.new_parameter(np.ones(2))
    for _ in range(3):
        oracle.step(param, np.array([0.0, 1.0]))
    assert np.asarray(param.states["v"])[0] < 0 and "v" not in never_negative(found)


# --- what is known holds ------------------------------------------------------------------------------------------------------


def of_hyper(hyper: Hyper, number: int, rng: np.random.Generator) -> Any:
    """A value that is allowed: its default, the ends of its range where they belong to it, or something between."""
    default, bounds = hyper.defaults[number], hyper.bounds
    if isinstance(default, bool):
        return bool(rng.integers(2))
    if isinstance(default, str) or default is None or (hyper.optional and rng.random() < 0.3):
        return rng.choice(hyper.choices).item() if hyper.choices else default
    bounds = bounds or Bounds(-math.inf, math.inf, False, False)
    near = float(default) if math.isfinite(default) else 3.0
    low, high = max(bounds.low, min(-3.0, near)), min(bounds.high, max(3.0, 2 * near))
    closed = low > bounds.low or bounds.low_closed, high < bounds.high or bounds.high_closed
    if isinstance(default, int):
        return int(rng.integers(math.ceil(low) + (not closed[0]), math.floor(high) - (not closed[1]) + 1))
    ends = [end for end, belongs in zip((low, high), closed, strict=True) if belongs]
    return float(rng.choice([*ends, default, rng.uniform(low, high), math.nextafter(low, high), math.nextafter(high, low)]))


def hypers_of(found: Program, rng: np.random.Generator) -> dict[str, Any]:
    values = {h.key: tuple(of_hyper(h, number, rng) for number in range(len(h.names))) for h in found.hypers}
    return {h.key: values[h.key] if h.is_tuple else values[h.key][0] for h in found.hypers}


def gradients(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of many sizes, with zeros of either sign, and now and then infinite."""
    g = rng.normal(size=shape) * np.exp(4 * rng.normal(size=shape))
    return np.where(rng.random(shape) < 0.2, rng.choice([0.0, -0.0, 1.0, -1.0, 1e200, -1e200], size=shape), g)


def negative(found: Program, rng: np.random.Generator, shape: tuple[int, ...], steps: int = 4) -> Iterator[str]:
    """The states that are found to be negative in a run, as a sentence; what is not finite is left aside."""
    known = never_negative(found)
    hypers = hypers_of(found, rng)
    oracle = Oracle(found, hypers)
    param = oracle.new_parameter(rng.normal(size=shape))
    for _ in range(steps):
        for procedure in found.procedures[1:]:
            oracle.enter(procedure.name, param, {name: gradients(rng, shape) for name in procedure.inputs})
        oracle.step(param, gradients(rng, shape), loss=float(rng.normal()))
        for name in known:
            value = np.asarray({**param.states, **param.model}.get(name, 0.0))
            if (value[np.isfinite(value)] < 0).any():
                yield f"{found.name}: {name} with {hypers}"


@pytest.mark.parametrize("name", sorted(name for name, path in PATHS.items() if never_negative(program_of(path))))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_known_states_of_shipped_specs_are_never_negative(name: str) -> None:
    found = program_of(PATHS[name])
    rng = np.random.default_rng(sum(map(ord, name)))
    tried = 0
    while tried < 4:
        try:
            assert list(negative(found, rng, ((5, 3), (7,))[tried % 2])) == []
        except OptcError:  # hypers that do not go together
            continue
        tried += 1


class Writer:
    """Random expressions of all that intervals know of, and of all that they do not."""

    leaves = ("g", "theta", "v0", "v1", "v2", "v3", "n", "lr", "a", "b", "free", "t", "c", "0", "0.5", "1", "3", "-1", "-2")
    ways = (
        "{x} + {y}", "{x} - {y}", "{x}*{y}", "{x}*{x}", "{x}/(1 + |{y}|)", "{x}/({y} + 1)", "-{x}", "|{x}|", "{x}^2", "{x}^3",
        "{x}^0.5", "(1 + |{x}|)^-1", "sqrt({x})", "exp(min({x}, 3))", "tanh({x})", "sign({x})", "1 - sin({x})", "cospi({x})",
        "max({x}, {y})", "min({x}, {y})", "max({x}, 0)", "clamp({x}, {y}, {z})", "{x} mod 3", "ema({x}, {y}, a)",
        "lerp({x}, {y}, b)", "debias({x}, a)", "where({x} > {y}, {z}, {x})", "where(flag, {x}, {y})", "1 - a^t",
        "mean(0*g + {x})", "sum(0*g + {x})*{y}", "norm(0*g + {x})", "{x}*uniform(seed)", "a^({x})", "1 - {x}", "floor({x})",
        "ln(1 + {x}^2)", "{x}*{y}^2",
    )  # fmt: skip

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def pick(self, of: tuple[str, ...]) -> str:
        return of[int(self.rng.integers(len(of)))]

    def value(self, depth: int) -> str:
        if depth == 0 or self.rng.random() < 0.15:
            return self.pick(self.leaves)
        x, y, z = (f"({self.value(depth - 1)})" for _ in range(3))
        return self.pick(self.ways).format(x=x, y=y, z=z)

    def program(self) -> Program:
        lines = ["x = " + self.value(2)]
        for state in ("v0", "v1", "v2", "v3"):
            lines += [f"if t mod 2 == {self.pick(('0', '1'))}: x = {self.value(1)}"] if self.rng.random() < 0.3 else []
            lines.append(f"{state} <- {self.pick(('', '', '', '|x| + ', 'x + '))}{self.value(2)}")
        lines += ["n <- n + mean(g^2)", "theta <- theta - 1e-3*tanh(v0 + v1 + v2 + v3 + x + n + lr*a*b*free*c*uniform(seed))"]
        lines += ["if flag: stop", "v0 <- v0 + g^2"]
        return spec(*lines, hyper=HYPERS, state=("v0 = 0", "v1 = 1", "v2 = |theta|", "v3 = g^2", "n = 0 per tensor"))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("seed", range(40))
def test_known_states_of_random_programs_are_never_negative(seed: int) -> None:
    writer = Writer(seed)
    found = writer.program()
    for _ in range(6):
        assert list(negative(found, writer.rng, (4, 3))) == []


def test_random_programs_have_states_of_both_kinds() -> None:
    known = [len(never_negative(Writer(seed).program())) for seed in range(0, 40, 4)]
    assert {1, 2, 3} <= set(known)
