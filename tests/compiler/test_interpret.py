"""The oracle against torch.optim, golden values and the rules of IEEE arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from optc.compiler.interpret import Oracle, ParameterState
from optc.dsl.check import check
from optc.dsl.errors import OptcError
from optc.dsl.parse import parse
from optc.dsl.program import Program
from optc.dsl.source import Source

THETA = (0.5, -1.0, 2.0, 0.25)
GRADIENTS = ((0.1, -0.2, 0.3, -0.4), (-0.3, 0.1, 0.2, 0.05), (0.2, 0.4, -0.1, -0.15))

ADAMW = """\
optimizer AdamW:
    hyper: lr = 1e-3; betas = (β1 = 0.9, β2 = 0.999) in [0, 1); eps = 1e-8; weight_decay = 1e-2; amsgrad = false
    state:
        m = 0 as exp_avg
        v = 0 as exp_avg_sq
        if amsgrad: v_max = 0 as max_exp_avg_sq
    step:
        m <- ema(m, g, β1)
        v <- ema(v, g^2, β2)
        if amsgrad: v_max <- max(v_max, v)
        u = debias(m, β1)/(sqrt(debias(where(amsgrad, v_max, v), β2)) + eps)
        θ <- (1 - lr*weight_decay)*θ - lr*u
"""

SGD = """\
optimizer SGD:
    hyper:
        lr = 1e-3 in [0, inf); momentum = 0.0 in [0, inf); dampening = 0.0; weight_decay = 0.0 in [0, inf); nesterov = false
        require not nesterov or momentum > 0 and dampening == 0, "Nesterov needs a momentum and no dampening"
    state:
        if momentum != 0: b = 0 as momentum_buffer
    step:
        g = g + weight_decay*θ
        u = g
        if momentum != 0:
            if new(b): b <- g
            else: b <- momentum*b + (1 - dampening)*g
            u = where(nesterov, g + momentum*b, b)
        θ <- θ - lr*u
"""

NADAM = """\
optimizer NAdam:
    hyper: lr = 2e-3; betas = (β1 = 0.9, β2 = 0.999); eps = 1e-8; weight_decay = 0.0; momentum_decay = 4e-3
    state: m = 0; v = 0; P = 1 per tensor as mu_product
    define mu(n) = β1*(1 - 0.5*0.96^(n*momentum_decay))
    step:
        g = g + weight_decay*θ
        P <- P*mu(t)
        m <- ema(m, g, β1)
        v <- ema(v, g^2, β2)
        d = √(debias(v, β2)) + eps
        θ <- θ - lr*((1 - mu(t))/(1 - P)*g + mu(t + 1)/(1 - P*mu(t + 1))*m)/d
"""

ADOPT = """\
optimizer ADOPT:
    hyper: lr = 1e-3; betas = (β1 = 0.9, β2 = 0.9999); eps = 1e-6; weight_decay = 0.0
    state: m = 0; v = 0
    step:
        if t == 1: v <- g²; stop
        n = clamp(g/max(√v, ε), -(t - 1)^0.25, (t - 1)^0.25)
        m <- ema(m, n, β1)
        v <- ema(v, g², β2)
        θ <- (1 - lr*weight_decay)*θ - lr*m
"""

SIM_ADEMAMIX = """\
optimizer SimAdEMAMix:
    hyper: lr = 1e-4; betas = (β1 = 0.99, β2 = 0.95); alpha = 0.0; eps = 1e-8; weight_decay = 0.0
    state: m = 0; v = 0
    step:
        m <- β1*m + g
        v <- ema(v, g^2, β2)
        θ <- (1 - lr*weight_decay)*θ - lr*(m + α*g)/(√(debias(v, β2)) + ε)
"""

HN_ADAM = """\
optimizer HN_Adam:
    hyper: lr = 1e-3; betas = (β1 = 0.9, β2 = 0.999); eps = 1e-8; lambda0 = 2.5
    state: m = 0; v = 0; v_top = 0
    step:
        m_old = m
        m <- ema(m, g, β1)
        larger = max(|m_old|, |g|)
        Lam = lambda0 - where(larger == 0, 0, |m_old|/larger)
        v <- ema(v, |g|^Lam, β2)
        v_top <- where(Lam < 2, max(v_top, v), v_top)
        D = where(Lam < 2, v_top, v)^(1/Lam)
        θ <- θ - lr*m/(D + ε)
"""

SOPHIA = """\
optimizer SophiaG:
    hyper: lr = 1e-4; betas = (β1 = 0.965, β2 = 0.99); rho = 0.04; bs = 5120.0; weight_decay = 0.1
    state: m = 0; h = 0 as hessian
    step:
        m <- ema(m, g, β1)
        θ <- (1 - lr*weight_decay)*θ - lr*sign(m)*min(|m|/(rho*bs*h + 1e-15), 1)
    entry update_hessian(g_s per elem) every 10:
        h <- ema(h, g_s^2, β2)
"""


def values(param: ParameterState, *names: str) -> list[float]:
    """θ, then these states, of a parameter with one element."""
    return [np.asarray(v).item() for v in (param.theta, *(param.states[n] for n in names))]


def program(text: str) -> Program:
    source = Source("<test>", text)
    return check(parse(source), source)


def wrap(body: str, declarations: str = "    hyper: lr = 0.1\n") -> Program:
    """An optimizer around some lines of a step."""
    lines = "".join(f"        {line}\n" for line in body.splitlines())
    return program(f"optimizer X:\n{declarations}    step:\n{lines}")


@pytest.mark.parametrize(
    ("text", "hypers", "expected"),
    [
        (ADAMW, {"lr": 0.1, "weight_decay": 0.1}, (0.434185531756, -0.891654816915, 1.691333959235, 0.461036818177)),
        (ADOPT, {"lr": 0.1, "weight_decay": 0.1}, (0.497057928850, -1.001442071150, 1.950933425930, 0.246412684584)),
        (
            SIM_ADEMAMIX,
            {"lr": 0.01, "alpha": 10.0, "weight_decay": 0.1},
            (0.438144109626, -1.104933614787, 1.814461557132, 0.435359615692),
        ),
        (HN_ADAM, {"lr": 0.1}, (0.448133979699, -0.880778349530, 1.235124026990, 1.298913485979)),
    ],
    ids=["AdamW", "ADOPT", "SimAdEMAMix", "HN_Adam"],
)
def test_golden_values_after_three_steps(text: str, hypers: dict[str, Any], expected: tuple[float, ...]) -> None:
    oracle = Oracle(program(text), hypers)
    param = oracle.new_parameter(THETA)
    for gradient in GRADIENTS:
        oracle.step(param, gradient)
    np.testing.assert_allclose(param.theta, expected, rtol=0, atol=6e-13)


def test_golden_values_of_sophia_with_its_entry_after_the_first_step() -> None:
    oracle = Oracle(program(SOPHIA), {"lr": 0.1, "bs": 100.0})
    param = oracle.new_parameter(THETA)
    oracle.step(param, GRADIENTS[0])
    oracle.enter("update_hessian", param, {"g_s": GRADIENTS[0]})
    assert param.t == 1
    oracle.step(param, GRADIENTS[1])
    oracle.step(param, GRADIENTS[2])
    np.testing.assert_allclose(param.theta, (0.454442625, -0.873289, 1.643588, 0.53958475), rtol=0, atol=6e-13)


def _adamw(**hypers: Any) -> Callable[[list[torch.Tensor]], torch.optim.Optimizer]:
    return lambda params: torch.optim.AdamW(params, **hypers)


def _sgd(**hypers: Any) -> Callable[[list[torch.Tensor]], torch.optim.Optimizer]:
    return lambda params: torch.optim.SGD(params, **hypers)


def _nadam(**hypers: Any) -> Callable[[list[torch.Tensor]], torch.optim.Optimizer]:
    return lambda params: torch.optim.NAdam(params, **hypers)


_CASES: list[tuple[str, Callable[..., Any], dict[str, Any]]] = [
    (ADAMW, _adamw, {}),
    (ADAMW, _adamw, {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.1, "amsgrad": True}),
    (SGD, _sgd, {"lr": 0.1, "weight_decay": 0.01}),
    (SGD, _sgd, {"lr": 0.1, "momentum": 0.9, "dampening": 0.2}),
    (SGD, _sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (NADAM, _nadam, {"lr": 0.01, "weight_decay": 0.01}),
]


@pytest.mark.parametrize("shape", [(7, 5), (11,), (3, 4, 2), (), (0, 3)], ids=str)
@pytest.mark.parametrize(("text", "reference", "hypers"), _CASES)
def test_agrees_with_torch_in_float64(
    text: str, reference: Callable[..., Any], hypers: dict[str, Any], shape: tuple[int, ...]
) -> None:
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # torch keeps NAdam's mu_product in the default dtype
    try:
        random = np.random.default_rng(7)
        start = random.standard_normal(shape)
        tensor = torch.tensor(start, requires_grad=True)
        optimizer = reference(**hypers)([tensor])
        oracle = Oracle(program(text), hypers)
        param = oracle.new_parameter(start)
        for _ in range(25):
            gradient = np.asarray(random.standard_normal(shape) * np.exp(random.standard_normal(shape)))
            gradient = np.where(random.random(shape) < 0.3, 0.0, gradient)
            tensor.grad = torch.tensor(gradient)
            optimizer.step()
            oracle.step(param, gradient)
            np.testing.assert_allclose(param.theta, tensor.detach().numpy(), rtol=1e-12, atol=1e-12)
    finally:
        torch.set_default_dtype(default)


def test_states_have_the_shape_of_theta_and_host_states_are_scalars() -> None:
    oracle = Oracle(program(NADAM))
    param = oracle.new_parameter(np.ones((2, 3)))
    oracle.step(param, np.ones((2, 3)))
    assert isinstance(param.states["P"], np.float64)
    assert [param.states[n].shape for n in ("m", "v")] == [(2, 3), (2, 3)]


def test_a_state_is_created_in_the_first_step_its_condition_allows_and_new_is_true_then_only() -> None:
    oracle = Oracle(program(SGD), {"lr": 0.1})
    param = oracle.new_parameter([1.0])
    oracle.step(param, [1.0])
    assert param.states == {}
    oracle.step(param, [2.0], {"momentum": 0.5})
    np.testing.assert_array_equal(param.states["b"], [2.0])  # new: b <- g
    oracle.step(param, [3.0], {"momentum": 0.5})
    np.testing.assert_array_equal(param.states["b"], [4.0])
    assert param.t == 3


def test_initial_values_are_those_before_the_step() -> None:
    text = """\
optimizer X:
    hyper: lr = 0.5
    state: z = θ; first = g; s = lr per tensor
    step:
        g = 2*g
        θ <- θ - s*g - 0*z - 0*first
"""
    oracle = Oracle(program(text))
    param = oracle.new_parameter([1.0])
    oracle.step(param, [3.0])
    oracle.step(param, [5.0], {"lr": 9.0})
    assert values(param, "z", "first", "s") == [1.0 - 3.0 - 5.0, 1.0, 3.0, 0.5]


def test_lines_after_theta_read_the_new_theta_and_old_values_are_kept_by_name() -> None:
    text = """\
optimizer X:
    hyper: lr = 0.5
    state: a = 0; b = 0
    step:
        old = θ
        θ <- θ - lr*g
        (a, b) <- (b + θ, a + old)
"""
    oracle = Oracle(program(text))
    param = oracle.new_parameter([1.0])
    oracle.step(param, [1.0])
    assert values(param, "a", "b") == [0.5, 0.5, 1.0]
    oracle.step(param, [1.0])
    assert values(param, "a", "b") == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1/0", math.inf),
        ("-1/0", -math.inf),
        ("0^0", 1.0),
        ("sign(0)", 0.0),
        ("(-1)^0.5", math.nan),
        ("√(0 - 1)", math.nan),
        ("ln(0)", -math.inf),
        ("max(0/0, 1)", math.nan),
        ("min(1, 0/0)", math.nan),
        ("exp(1e4)", math.inf),
        ("-7 mod 3", 2.0),
        ("-(7 mod 3)", -1.0),
        ("7 mod -3", -2.0),
        ("1 mod 0", math.nan),
        ("⌊-1.5⌋", -2.0),
        ("-2^2", -4.0),
        ("2^3^2", 512.0),
        ("2^-1", 0.5),
        ("atan2(0, 0)", 0.0),
        ("atan2(1, 0)", math.pi / 2),
        ("lerp(2, 4, 0.25)", 2.5),
        ("clamp(5, 0, 1)", 1.0),
        ("where(1 < 2, 3, 4)", 3.0),
        ("cos(π) + tanh(0)", -1.0),
        ("∞ - ∞", math.nan),
        ("where(0/0 == 0/0, 1, 2)", 2.0),
        ("where(0/0 != 0/0, 1, 2)", 1.0),
        ("where(not 1 > 2 and (2 >= 2 or 1 < 0), 1, 0)", 1.0),
        ("1e308*10", math.inf),
        ("t + numel/ndim", 3.0),
    ],
)
def test_operations_follow_ieee_rules_and_precedence(expression: str, expected: float) -> None:
    for text in (f"0*lr + ({expression})", f"0*θ*lr + ({expression})"):  # known on the host, and per element
        oracle = Oracle(wrap(f"θ <- {text}"))
        param = oracle.new_parameter([1.0, 1.0])
        oracle.step(param, [1.0, 1.0])
        np.testing.assert_array_equal(param.theta, [expected, expected])


def test_where_on_a_static_condition_evaluates_one_side_only() -> None:
    text = """\
optimizer X:
    hyper: warmup = none in int [1, inf)
    state:
        if warmup != none: k = 0
    step:
        if warmup != none: k <- k + 1
        θ <- θ - where(warmup == none, 1, k/warmup)
"""
    plain, warm = Oracle(program(text)), Oracle(program(text), {"warmup": 4})
    param = plain.new_parameter([1.0])
    plain.step(param, [0.0])
    assert values(param) == [0.0]
    warm.step(param, [0.0])
    assert values(param) == [-0.25]


def test_every_runs_on_multiples_of_its_period() -> None:
    declarations = "    hyper: k = 3 in int [1, inf)\n    state: a = 0; b = 0\n"
    oracle = Oracle(wrap("every k: a <- a + t\nevery 2 from 3: b <- b + t\nθ <- θ - a - b", declarations))
    param = oracle.new_parameter([0.0])
    for _ in range(7):
        oracle.step(param, [0.0])
    assert values(param, "a", "b")[1:] == [9.0, 15.0]  # t = 3, 6; t = 3, 5, 7


def test_stop_skips_the_rest_of_the_step_from_inside_nested_branches() -> None:
    body = "if t > 1:\n    if t == 2:\n        a <- a + 10\n        stop\n    a <- a + 1\nθ <- θ - g + 0*a"
    oracle = Oracle(wrap(body, "    state: a = 0\n"))
    param = oracle.new_parameter([0.0])
    for _ in range(3):
        oracle.step(param, [1.0])
    assert values(param, "a") == [-2.0, 11.0]


def test_an_entry_before_the_first_step_creates_the_states_it_uses_only() -> None:
    oracle = Oracle(program(SOPHIA))
    param = oracle.new_parameter([1.0])
    oracle.enter("update_hessian", param, {"g_s": [10.0]})
    assert param.t == 0
    assert set(param.states) == {"h"}
    np.testing.assert_allclose(param.states["h"], [1.0])


def test_mistakes_of_the_caller_are_said_clearly() -> None:
    with pytest.raises(OptcError, match="Nesterov needs a momentum"):
        Oracle(program(SGD), {"nesterov": True})
    with pytest.raises(OptcError, match="no hyper momentun"):
        Oracle(program(SGD), {"momentun": 0.9})
    oracle = Oracle(program(SOPHIA))
    with pytest.raises(OptcError, match="no entry `hessian`"):
        oracle.enter("hessian", oracle.new_parameter([1.0]), {})
    with pytest.raises(OptcError, match="takes the inputs g_s"):
        oracle.enter("update_hessian", oracle.new_parameter([1.0]), {})
    with pytest.raises(OptcError, match="shape"):
        oracle.step(oracle.new_parameter([1.0]), [1.0, 2.0])


def test_the_caller_s_arrays_are_not_touched() -> None:
    theta: npt.NDArray[np.float64] = np.ones(3)
    gradient: npt.NDArray[np.float64] = np.ones(3)
    oracle = Oracle(program(SGD), {"lr": 0.1, "weight_decay": 0.5})
    param = oracle.new_parameter(theta)
    oracle.step(param, gradient)
    assert (theta == 1).all() and (gradient == 1).all() and (param.theta != 1).all()
