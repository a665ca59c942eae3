"""The oracle's numbers of the whole model against plain sums over the parameters of a step."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from optc.compiler.interpret import Oracle, ParameterState
from optc.dsl.errors import OptcError
from tests.dsl.programs import program

Array: TypeAlias = npt.NDArray[np.float64]

SHAPES = ((2, 3), (4,), (), (2, 1, 2), (0, 3))


def some(seed: int) -> list[Array]:
    random = np.random.default_rng(seed)
    return [np.asarray(random.standard_normal(shape)) for shape in SHAPES]


def spec(*lines: str, hyper: str = "lr = 0.5", state: str = "", more: str = "") -> Oracle:
    rows = ["optimizer X:", f"    hyper: {hyper}", *([f"    state: {state}"] if state else []), *([more] if more else [])]
    return Oracle(program("\n".join([*rows, "    step:", *(f"        {line}" for line in lines)]) + "\n"))


def norm(values: list[Array]) -> float:
    return math.sqrt(math.fsum(float(v) ** 2 for value in values for v in value.flat))


def thetas(params: list[ParameterState]) -> list[Array]:
    return [p.theta for p in params]


def assert_close(params: list[ParameterState], expected: list[Array]) -> None:
    for param, value in zip(params, expected, strict=True):
        assert param.theta.shape == value.shape
        np.testing.assert_allclose(param.theta, value, rtol=1e-12, atol=1e-14)


def test_clipping_by_the_norm_of_all_gradients() -> None:
    oracle = spec("θ <- θ - lr*g*min(1, 2/total_norm(g))")
    expected = some(0)
    params = oracle.new_parameters(expected)
    for turn in range(3):
        gradients = some(10 + turn)
        oracle.step_together(params, gradients)
        factor = min(1.0, 2 / norm(gradients))
        assert factor < 1
        expected = [e - 0.5 * factor * g for e, g in zip(expected, gradients, strict=True)]
    assert_close(params, expected)


def test_the_loss_is_one_number_for_all_parameters() -> None:
    """A Polyak step, and a state of the model that keeps the least loss; the loss is that of the step, not of the last."""
    oracle = spec("best <- min(best, loss)", "θ <- θ - lr*(loss - best/2)/total(sum(g^2))*g", state="best = inf per model")
    expected, best = some(0), math.inf
    params = oracle.new_parameters(expected)
    for turn, loss in enumerate((2.0, 0.5, -1.0, math.nan)):
        gradients = some(10 + turn)
        oracle.step_together(params, gradients, loss=loss)
        best = min(best, loss) if loss == loss else math.nan
        factor = 0.5 * (loss - best / 2) / norm(gradients) ** 2
        expected = [e - factor * g for e, g in zip(expected, gradients, strict=True)]
        np.testing.assert_equal(params[0].model["best"], best)
        assert_close(params, expected)


def test_a_step_that_reads_the_loss_needs_it() -> None:
    oracle = spec("if lr > 1: u = g*loss", "else: u = g", "θ <- θ - lr*u")
    param = oracle.new_parameter([1.0, 2.0])
    with pytest.raises(OptcError, match="a step of X needs the loss"):
        oracle.step(param, [1.0, 1.0])
    assert (param.t, param.theta.tolist()) == (0, [1.0, 2.0])
    spec("θ <- θ - lr*g").step(param, [1.0, 1.0])


def test_a_total_that_depends_on_another_one() -> None:
    """The mean and the variance over all parameters, in one line and in several."""
    start, gradients = some(0), some(1)
    count = sum(g.size for g in gradients)
    mean = math.fsum(float(v) for g in gradients for v in g.flat) / count
    spread = math.fsum((float(v) - mean) ** 2 for g in gradients for v in g.flat) / count
    expected = [s - (g - mean) / math.sqrt(spread) for s, g in zip(start, gradients, strict=True)]
    lines = [
        (
            "n = total(numel)",
            "mu = total(sum(g))/n",
            "θ <- θ - lr*(g - mu)/sqrt(total(sum((g - mu)^2))/n)",
        ),
        ("θ <- θ - lr*(g - total(sum(g))/total(numel))/sqrt(total(sum((g - total(sum(g))/total(numel))^2))/total(numel))",),
        (
            "c = centred(g)",
            "θ <- θ - lr*c/sqrt(total(sum(c^2))/total(numel))",
        ),
    ]
    for body in lines:
        oracle = spec(
            *body, hyper="lr = 1.0", more="    define centred(x) = x - total(sum(x))/total(numel)" if "c = " in body[0] else ""
        )
        params = oracle.new_parameters(start)
        oracle.step_together(params, gradients)
        assert_close(params, expected)


def test_totals_see_what_each_parameter_has_at_that_line() -> None:
    oracle = spec(
        "before = total(sum(θ))",
        "m <- m + g",
        "θ <- θ - lr*g",
        "after = total(sum(θ))",
        "k <- 0*k + total(sum(m)) + 10*before + 100*after",
        state="m = 0; k = 0 per model",
    )
    params = oracle.new_parameters([[1.0, 2.0], 3.0])
    oracle.step_together(params, [[2.0, 2.0], 4.0])
    assert params[0].model["k"] == 8 + 10 * 6 + 100 * 2
    oracle.step_together(params, [[0.0, 0.0], 2.0])
    assert params[0].model["k"] == 10 + 10 * 2 + 100 * 1


def test_states_of_the_model_are_written_once_a_step_and_shared() -> None:
    oracle = spec(
        "k <- k + 1",
        "a <- ema(a, total_norm(g), 0.5)",
        "θ <- θ - lr*g/a*k",
        hyper="lr = 0.5; first = 2.0 shared",
        state="k = 0 per model as steps; a = first per model",
    )
    expected = some(0)
    params = oracle.new_parameters(expected)
    average = 2.0
    for turn in range(1, 4):
        gradients = some(turn)
        oracle.step_together(params, gradients)
        average = 0.5 * average + 0.5 * norm(gradients)
        expected = [e - 0.5 * g / average * turn for e, g in zip(expected, gradients, strict=True)]
    assert_close(params, expected)
    for param in params:
        assert param.model is params[0].model
        assert param.states == {}
    assert params[0].model["k"] == 3
    np.testing.assert_allclose(params[0].model["a"], average, rtol=1e-13)


def test_parameters_that_join_later_or_miss_a_step_find_the_model_as_it_is() -> None:
    oracle = spec(
        "k <- k + 1",
        "n <- n + total(t)",
        "θ <- θ - lr*g*(k + n)",
        state="k = 0 per model; n = 0 per model",
    )
    first, second, third = oracle.new_parameters([0.0, 0.0, 0.0])
    oracle.step_together([first, second], [1.0, 1.0])  # t = 1, 1
    oracle.step_together([second], [1.0])  # t = 2: the first has no gradient
    oracle.step_together([first, second, third], [1.0, 1.0, 1.0])  # t = 2, 3, 1: the third joins
    assert first.model == {"k": 3, "n": 2 + 2 + 6}
    assert [p.t for p in (first, second, third)] == [2, 3, 1]
    assert [float(p.theta) for p in (first, second, third)] == [-0.5 * (3 + 13), -0.5 * (3 + 6 + 13), -0.5 * 13]


def test_a_stop_of_the_model_stops_all_of_them() -> None:
    oracle = spec(
        "s = total_norm(g)",
        "if s > 100 or s != s:",
        "    skipped <- skipped + 1",
        "    stop",
        "m <- m + g",
        "θ <- θ - lr*m/max(1, total_norm(m))",
        state="m = 0; skipped = 0 per model",
    )
    start = some(0)
    params = oracle.new_parameters(start)
    gradients = some(1)
    for spoilt in (1e3, math.nan, math.inf):
        oracle.step_together(params, [*gradients[:-2], np.full(SHAPES[-2], spoilt), gradients[-1]])
    assert_close(params, start)
    assert params[0].model == {"skipped": 3}
    assert all((np.asarray(p.states["m"]) == 0).all() for p in params)
    oracle.step_together(params, gradients)
    factor = 0.5 / max(1.0, norm(gradients))
    assert_close(params, [s - factor * g for s, g in zip(start, gradients, strict=True)])
    assert [p.t for p in params] == [4] * len(SHAPES)


def test_parameters_may_stop_by_themselves_after_the_last_total() -> None:
    oracle = spec("a = total(sum(g))", "if norm(g) == 0: stop", "θ <- θ - lr*a")
    params = oracle.new_parameters([1.0, 1.0, 1.0])
    oracle.step_together(params, [0.0, 2.0, 4.0])
    assert [float(p.theta) for p in params] == [1.0, -2.0, -2.0]


def test_what_each_parameter_adds_may_hang_on_its_shape_and_its_group() -> None:
    oracle = spec(
        "n = total(where(matrices and ndim >= 2, numel, 0))",
        "if ndim >= 2: s = sum(rowmax(g))",
        "else: s = sum(g)",
        "θ <- θ - total(lr)*n*total(s)",
        hyper="lr = 0.5; matrices = true",
    )
    params = oracle.new_parameters([np.zeros((2, 3)), np.zeros(4), np.zeros((1, 2))])
    gradients = [np.array([[1.0, 5.0, 2.0], [3.0, 1.0, 0.0]]), np.ones(4), np.array([[7.0, 8.0]])]
    oracle.step_together(params, gradients, [{"lr": 1.0}, {}, {"matrices": False, "lr": 2.0}])
    assert_close(params, [np.full(p.theta.shape, -3.5 * 6 * (8 + 4 + 8)) for p in params])


def test_conditions_of_the_model_choose_whole_totals() -> None:
    """What a shared condition leaves out is never evaluated: the hyper is none there, the state does not exist."""
    oracle = spec(
        "if clipped and total_norm(g) > k: c = 2",
        "else: c = 1",
        "d = where(T == none, 1, total(T*numel))",
        "if T == none or total(T*numel) > 5: d = d + 10",
        "if clipped: k <- k + total(numel)",
        "θ <- θ - lr*c*d",
        hyper="lr = 1.0; clipped = false shared; T = none shared",
        state="\n        if clipped: k = 3 per model",
    )
    for hypers, gradient, expected in (
        ({}, 9.0, 11.0),
        ({"T": 2}, 9.0, 4.0),
        ({"T": 3, "clipped": True}, 9.0, 2 * 16.0),
        ({"T": 3, "clipped": True}, 1.0, 16.0),
    ):
        params = oracle.new_parameters([0.0, 0.0])
        oracle.step_together(params, [gradient, 0.0], [hypers, hypers])
        assert [float(p.theta) for p in params] == [-expected] * 2
        assert params[0].model == ({"k": 5} if "clipped" in hypers else {})


def test_a_state_of_the_model_is_created_in_the_first_step_that_has_it() -> None:
    oracle = spec(
        "c = 0",
        "if kept:",
        "    k <- k + total(lr)",
        "    c = k",
        "θ <- θ - lr*c*g",
        hyper="lr = 1.0; kept = false shared",
        state="\n        if kept: k = 7 per model",
    )
    params = oracle.new_parameters([0.0, 0.0])
    oracle.step_together(params, [1.0, 1.0])
    assert params[0].model == {} and float(params[0].theta) == 0
    hypers = {"kept": True}
    oracle.step_together(params[1:], [1.0], [hypers])
    oracle.step_together(params, [1.0, 1.0], [hypers, hypers])
    assert params[0].model == {"k": 7 + 1 + 2}
    assert [float(p.theta) for p in params] == [-10.0, -18.0]


def test_a_total_of_a_function_is_taken_before_its_own_conditions() -> None:
    oracle = spec(
        "c = chosen(total_norm(g))",
        "θ <- θ - lr*c",
        more="    define chosen(x):\n        if ndim >= 2: r = x\n        else: r = 0\n        return r",
        hyper="lr = 1.0",
    )
    params = oracle.new_parameters([np.zeros((1, 2)), np.zeros(2)])
    oracle.step_together(params, [np.array([[3.0, 0.0]]), np.array([0.0, 4.0])])
    assert_close(params, [np.full((1, 2), -5.0), np.zeros(2)])


def test_entries_read_the_model_and_leave_it() -> None:
    oracle = Oracle(
        program("""\
optimizer X:
    state: m = 0; k = 1 per model
    step:
        k <- 2*k
        θ <- θ - m
    entry see(h per elem):
        m <- h*k
""")
    )
    params = oracle.new_parameters([0.0, 0.0])
    oracle.enter("see", params[0], {"h": 3.0})
    oracle.step_together(params, [1.0, 1.0])
    oracle.enter("see", params[1], {"h": 3.0})
    assert params[0].model == {"k": 2}
    oracle.step_together(params, [1.0, 1.0])
    assert [float(p.theta) for p in params] == [-6.0, -6.0]
    assert params[1].model == {"k": 4}


@pytest.mark.parametrize("together", [True, False])
def test_one_parameter_is_a_model_by_itself(together: bool) -> None:
    oracle = spec("k <- k + 1", "θ <- θ - lr*k*g/total_norm(g)", hyper="lr = 1.0", state="k = 0 per model")
    params = oracle.new_parameters([3.0, 3.0]) if together else [oracle.new_parameter(3.0), oracle.new_parameter(3.0)]
    for param in params:
        oracle.step(param, 5.0)
    assert [float(t) for t in thetas(params)] == ([2.0, 1.0] if together else [2.0, 2.0])
