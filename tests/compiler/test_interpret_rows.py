"""The oracle's rows, columns and matrices against plain loops over lists."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from optc.compiler.interpret import Oracle
from tests.dsl.programs import program
from tests.dsl.texts import FACTORED

Array: TypeAlias = npt.NDArray[np.float64]
Reduce: TypeAlias = Callable[[Sequence[float]], float]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _largest(values: Sequence[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else max(values, default=-math.inf)


def _smallest(values: Sequence[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else min(values, default=math.inf)


REDUCTIONS: dict[str, Reduce] = {"sum": math.fsum, "mean": _mean, "max": _largest, "min": _smallest}


def matrices(x: Array) -> list[Array]:
    """The matrices of a stack, in order."""
    *leading, height, width = x.shape
    return [x.reshape(math.prod(leading), height, width)[i] for i in range(math.prod(leading))]


def _stacked(x: Array, numbers: Iterable[float], height: int, width: int) -> Array:
    return np.array(list(numbers), dtype=np.float64).reshape(*x.shape[:-2], height, width)


def along_rows(x: Array, reduce: Reduce) -> Array:
    return _stacked(x, (reduce([float(v) for v in row]) for matrix in matrices(x) for row in matrix), x.shape[-2], 1)


def along_columns(x: Array, reduce: Reduce) -> Array:
    return _stacked(x, (reduce([float(v) for v in column]) for matrix in matrices(x) for column in matrix.T), 1, x.shape[-1])


SHAPES = [
    (3, 4),
    (1, 1),
    (5, 1),
    (1, 5),
    (2, 3, 4),
    (3, 1, 2),
    (2, 2, 3, 4),
    (0, 3),
    (3, 0),
    (0, 0),
    (2, 0, 3),
    (2, 3, 0),
    (0, 2, 3),
]


def some(shape: tuple[int, ...], seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def wide(name: str, shape: str = "") -> str:
    """A spec that keeps the reductions `name` of the gradient along rows, along columns, and along both in either order."""
    return f"""\
optimizer X:
{shape}    state:
        if ndim >= 2: R = 0 per row; C = 0 per col; RC = 0 per matrix; CR = 0 per matrix
        n = 0 per tensor
    step:
        if ndim >= 2:
            R <- row{name}(g)
            C <- col{name}(g)
            RC <- col{name}(row{name}(g))
            CR <- row{name}(C)
            n <- {name}(R)
            u = outer(R, C) + RC - CR
        else: u = g + n
        θ <- θ - u
"""


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_along_rows_and_columns(name: str, shape: tuple[int, ...]) -> None:
    theta, gradient, reduce = some(shape), some(shape, 2), REDUCTIONS[name]
    oracle = Oracle(program(wide(name)))
    param = oracle.new_parameter(theta)
    oracle.step(param, gradient)
    row, column = along_rows(gradient, reduce), along_columns(gradient, reduce)
    expected: dict[str, Array] = {
        "R": row,
        "C": column,
        "RC": along_columns(row, reduce),
        "CR": along_rows(column, reduce),
        "n": np.array(reduce([float(v) for v in row.flat])),
    }
    for state, value in expected.items():
        assert np.shape(param.states[state]) == np.shape(value)
        np.testing.assert_allclose(param.states[state], value, rtol=1e-13, atol=1e-15)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(
            param.theta, theta - (row * column + expected["RC"] - expected["CR"]), rtol=1e-12, atol=1e-13
        )
    assert param.theta.shape == shape


@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 2, 2, 2), (2, 3), (4, 0, 2), (0, 2, 3), (2, 1, 1, 5)], ids=str)
def test_shape_matrix_sees_the_first_dimension_and_all_others(shape: tuple[int, ...]) -> None:
    theta, gradient = some(shape), some(shape, 2)
    seen = gradient.reshape(shape[0], math.prod(shape[1:]))
    oracle = Oracle(program(wide("sum", "    shape: matrix\n")))
    param = oracle.new_parameter(theta)
    oracle.step(param, gradient)
    row, column = along_rows(seen, math.fsum), along_columns(seen, math.fsum)
    np.testing.assert_allclose(param.states["R"], row, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(param.states["C"], column, rtol=1e-13, atol=1e-15)
    both = math.fsum(row.flat)
    np.testing.assert_allclose(param.states["RC"], [[both]], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(param.theta, theta - (row * column).reshape(shape), rtol=1e-12, atol=1e-12)
    assert param.theta.shape == shape


@pytest.mark.parametrize("shape", [(), (4,), (0,)], ids=str)
def test_shape_matrix_leaves_numbers_and_vectors_as_they_are(shape: tuple[int, ...]) -> None:
    oracle = Oracle(program(wide("sum", "    shape: matrix\n")))
    param = oracle.new_parameter(some(shape))
    oracle.step(param, some(shape, 2))
    np.testing.assert_array_equal(param.theta, some(shape) - some(shape, 2))
    assert set(param.states) == {"n"}


def test_nan_stays_in_its_row_and_in_its_column() -> None:
    text = """\
optimizer X:
    state:
        if ndim >= 2: R = 0 per row; C = 0 per col
    step:
        if ndim >= 2:
            R <- rowmax(g) + rowmin(g) + rowsum(g)
            C <- 0*C + colmax(g) + colmin(g) + colmean(g)
            u = g/R
        else: u = g
        θ <- θ - u
"""
    gradient = some((3, 4), 2)
    gradient[1, 2] = math.nan
    oracle = Oracle(program(text))
    param = oracle.new_parameter(np.zeros((3, 4)))
    oracle.step(param, gradient)
    assert np.isnan(param.states["R"]).ravel().tolist() == [False, True, False]
    assert np.isnan(param.states["C"]).ravel().tolist() == [False, False, True, False]
    assert np.isnan(param.theta).tolist() == [[False] * 4, [True] * 4, [False] * 4]


def test_matrices_of_a_stack_do_not_see_each_other() -> None:
    text = FACTORED.replace("    shape: matrix", "    #").replace("capped(u, most)", "u*most")
    text = text.replace("    define capped", "    # define capped")
    oracle = Oracle(program(text), {"centred": True})
    theta = some((3, 4, 5))
    stack, ones = oracle.new_parameter(theta), [oracle.new_parameter(theta[i]) for i in range(3)]
    for turn in range(3):
        gradient = some((3, 4, 5), 2 + turn)
        oracle.step(stack, gradient)
        for i in range(3):
            oracle.step(ones[i], gradient[i])
    np.testing.assert_allclose(stack.theta, np.stack([p.theta for p in ones]), rtol=1e-14)
    for name in ("R", "C", "M"):
        np.testing.assert_allclose(stack.states[name], np.stack([np.asarray(p.states[name]) for p in ones]), rtol=1e-14)
    assert np.ptp(np.asarray(stack.states["M"])) > 0


def test_a_factored_second_moment_over_three_steps() -> None:
    beta, eps, lr, most = 0.8, 1e-6, 0.1, 0.5
    oracle = Oracle(program(FACTORED), {"lr": lr, "beta": beta, "eps": eps, "most": most})
    theta = some((3, 2, 4))
    vector = some((6,), 5)
    params = oracle.new_parameters([theta, vector])
    row, column, square = np.zeros((3, 1)), np.zeros((1, 8)), np.zeros(6)
    for turn in range(3):
        gradient, other = some((3, 2, 4), 10 + turn), some((6,), 20 + turn)
        oracle.step_together(params, [gradient, other])
        seen = gradient.reshape(3, 8)
        row = beta * row + (1 - beta) * (seen**2 + eps).mean(axis=1, keepdims=True)
        column = beta * column + (1 - beta) * (seen**2 + eps).mean(axis=0, keepdims=True)
        square = beta * square + (1 - beta) * (other**2 + eps)
        for start, update in ((theta, seen / np.sqrt(row / row.mean() * column)), (vector, other / np.sqrt(square))):
            start -= lr * (update / max(1.0, math.sqrt((update**2).mean()) / most)).reshape(start.shape)
        np.testing.assert_allclose(params[0].theta, theta, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(params[1].theta, vector, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(params[0].states["R"], row, rtol=1e-13)
    assert set(params[1].states) == {"v"}


def test_a_value_per_row_spreads_where_it_is_written() -> None:
    text = """\
optimizer X:
    state:
        m = 0
        if ndim >= 2: R = 3 per row; R2 = 0 per row
    step:
        if ndim >= 2:
            R2 <- norm(g)
            g = R*rowsum(g) + R2
        else: g = norm(g)
        m <- g
        θ <- θ - m
"""
    oracle = Oracle(program(text))
    gradient = some((2, 3), 4)
    for given, expected in (
        (gradient, np.repeat(3 * gradient.sum(axis=1, keepdims=True) + np.linalg.norm(gradient), 3, axis=1)),
        (gradient.ravel(), np.full(6, np.linalg.norm(gradient))),
        (np.array(-2.0), np.array(2.0)),
    ):
        param = oracle.new_parameter(np.zeros(given.shape))
        oracle.step(param, given)
        np.testing.assert_allclose(param.theta, -expected, rtol=1e-13)
        np.testing.assert_allclose(param.states["m"], expected, rtol=1e-13)


def test_entries_write_rows() -> None:
    text = """\
optimizer X:
    state:
        if ndim >= 2: R = 1 per row
    step:
        if ndim >= 2: u = g/R
        else: u = g
        θ <- θ - u
    entry see(h per elem):
        if ndim >= 2: R <- rowmax(h)
"""
    oracle = Oracle(program(text))
    params = oracle.new_parameters([np.zeros((2, 3)), np.zeros(3)])
    seen = np.array([[1.0, 4.0, 2.0], [8.0, 0.0, 1.0]])
    oracle.enter("see", params[0], {"h": seen})
    oracle.enter("see", params[1], {"h": seen[0]})
    oracle.step_together(params, [np.ones((2, 3)), np.ones(3)])
    np.testing.assert_array_equal(params[0].theta, [[-0.25] * 3, [-0.125] * 3])
    np.testing.assert_array_equal(params[1].theta, [-1.0] * 3)
