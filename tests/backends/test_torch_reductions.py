"""Kernels that reduce, in PyTorch: they agree with the oracle, whatever the dtype, the layout and the number of dimensions."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import optc
from optc.compiler.backends.pytorch.emit import emit_kernel
from optc.compiler.instant import load_module
from optc.compiler.interpret import Oracle
from optc.compiler.lower import lower
from optc.compiler.pipeline import check_source, plan_program
from optc.compiler.schedule import schedule
from optc.compiler.simplify import simplify
from optc.dsl.program import Program
from optc.dsl.source import Source
from optc.runtime.optimizer import Optimizer
from tests.matrix.runners import float64, rounded_problem, run_compiled
from tests.oracle import run_program
from tests.problems import PROBLEMS
from tests.reference_cases import difference

FREE = {torch.float64: 2e-12, torch.float32: 2e-5}
"""Largest |found − oracle|/(1 + |oracle|) over a whole problem, as for kernels without reductions."""
HALF_ULP = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}

HYPERS = """
    hyper:
        lr    = 0.1 in [0, ∞)
        beta  = 0.9 in [0, 1)
        ε     = 1e-6 in [0, ∞)
        decay = 0.01 in [0, ∞)
        ahead = false
    state:
        m = 0
        v = 0
        k = 0 per tensor"""

STEPS = {
    "a trust ratio": """
        m ← ema(m, g, beta)
        v ← ema(v, g², 0.75)
        u = debias(m, beta)/(√debias(v, 0.75) + ε) + decay·θ
        w = ‖θ‖
        r = ‖u‖
        q = where(w > 0 and r > 0, w/r, 1)
        θ ← θ - lr·q·u""",
    "a number as second moment": """
        s = sum(g²)
        if new(k): k ← s
        else: k ← ema(k, s, 0.75)
        d = √k + ε
        if d == 0: stop
        m ← beta·m + g/d
        θ ← θ - lr·m·(numel/2)""",
    "a mask that keeps the mean": """
        g = g/max(‖g‖, 1)
        m ← ema(m, g, beta)
        v ← ema(v, g², 0.75)
        keep = m*g > 0
        m̂ = where(keep, m, 0)*numel/(count(keep) + 1)
        θ ← θ - lr·m̂/(√v + ε)""",
    "every reduction": """
        peak = max(|g|)
        low = min(g)
        high = max(θ - g)
        p = ⟨g, θ⟩/(1 + norm1(θ))
        share = mean(where(g > 0, 1, 0))
        size = mean(|g|) + mean(g) + mean(g²) + ⟨m, m⟩/numel
        k ← max(k, peak)
        m ← ema(m, where(g > low/2, rms(g), high), beta)
        u = m/(1 + size) + where(any(g > 2), 0.1, share)·θ + tanh(p)·g
        θ ← θ - lr·u""",
    "branches around reductions": """
        if decay ≠ 0:
            k ← ema(k, ‖g‖, 0.5)
            g = g/max(k/(1 + decay), 1)
        if t mod 2 == 0: x = mean(g)
        else: x = lr
        if t > 3: y = g
        else: y = max(θ)
        if ahead: e = rms(g)·g
        else: e = g
        m ← beta·m + x·e
        n = where(ahead, rms(m), 0.5)
        θ ← θ - lr·(m + tanh(y)·n)""",
    "early ends": """
        if new(k): k ← numel
        if max(|g|) > 2:
            m ← 0.5·m
            k ← k + 1
            stop
        m ← ema(m, g, beta)
        n = ‖m‖
        if not (n > ε) or any(g == 5): stop
        θ ← θ - lr·m/n""",
    "names that become wider": """
        o = k
        k ← k/(1 + ‖g‖) + 1
        x = sum(θ)
        if ahead: x = x·g
        m ← m·tanh(o) + x
        y = mean(g)
        if t > 2: y = lr
        if any(g > 1): y = y·θ
        θ ← θ - lr·tanh(m + y)/(1 + o)""",
    "arithmetic with the number of elements": """
        n = numel
        big = n > 7·t
        s = where(big, √n, -n/(1 + n^1.5))
        x = |min(n, 2·lr·n) - max(n, 3)|
        m ← n·m/(1 + n) + where(big, g, s)
        θ ← θ - lr·(s·θ/(1 + |s|) + m·tanh(x·mean(g)))""",
    "numbers before elements": """
        n = rms(g)
        u = n - lr·g
        w = n/(1 + |g|)
        m ← n
        y = min(max(θ, -n), n)
        z = atan2(n, 1 + |y|) + (0.5 + |y|)^n + floor(n)
        q = where(g > 0, n, 1) + where(n > 1, 2, where(n > 0.5, θ, n))
        s = 1/(1 + n) - sign(mean(g))
        θ ← θ - lr·tanh(u + w + y + z + m + q + s)""",
}
SETTINGS: tuple[dict[str, Any], ...] = ({}, {"ahead": True, "decay": 0.0})
CASES = [pytest.param(name, hypers, id=f"{name}{' otherwise' if hypers else ''}") for name in STEPS for hypers in SETTINGS]


def source(name: str) -> Source:
    """A spec of one of the steps, with the hypers and states that it uses."""
    head = "\n".join(line for line in HYPERS.splitlines() if not _is_unused(line, STEPS[name]))
    return Source("<text>", f"optimizer Reducing:{head}\n    step:{STEPS[name]}\n")


def _is_unused(line: str, step: str) -> bool:
    declared = re.match(r"        (\w+)\s*=", line)
    return declared is not None and not re.search(rf"(?<![\w.]){declared[1]}(?!\w)", step)


@cache
def program_of(name: str) -> Program:
    return check_source(source(name))


@cache
def class_of(name: str) -> type[Optimizer]:
    made: type[Optimizer] = optc.compile(source(name).text)
    return made


def hypers_of(name: str, wanted: dict[str, Any]) -> dict[str, Any]:
    known = {h.key for h in program_of(name).hypers}
    return {"lr": 0.1} | {key: value for key, value in wanted.items() if key in known}


# --- against the oracle -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem_name", PROBLEMS)
@pytest.mark.parametrize("dtype", FREE)
@pytest.mark.parametrize(("name", "wanted"), CASES)
def test_steps_agree_with_the_oracle(name: str, wanted: dict[str, Any], dtype: torch.dtype, problem_name: str) -> None:
    problem, hypers = rounded_problem(PROBLEMS[problem_name], dtype), hypers_of(name, wanted)
    found = run_compiled(class_of(name), program_of(name), "torch", dtype, hypers, problem)
    assert difference(found, run_program(program_of(name), hypers, problem)) <= FREE[dtype]


@pytest.mark.parametrize("dtype", HALF_ULP)
@pytest.mark.parametrize(("name", "wanted"), CASES)
def test_a_step_is_rounded_once(name: str, wanted: dict[str, Any], dtype: torch.dtype) -> None:
    problem, hypers = rounded_problem(PROBLEMS["5x7 zeros and schedule"], dtype), hypers_of(name, wanted)
    oracle = Oracle(program_of(name), hypers)
    kept = oracle.new_parameter(problem.theta)
    parameter = torch.nn.Parameter(torch.tensor(problem.theta, dtype=dtype))
    optimizer = class_of(name)([parameter], **hypers, backend="torch")
    for _, lr, g, _ in problem.steps(hypers["lr"]):
        optimizer.param_groups[0]["lr"] = lr
        before = kept.theta.copy()
        oracle.step(kept, g, {"lr": lr})
        parameter.grad = torch.tensor(g, dtype=dtype)
        optimizer.step()
        found = float64(parameter)
        allowed = HALF_ULP[dtype] * np.abs(kept.theta) + 1e-5 * (1 + np.abs(kept.theta - before) + np.abs(before))
        assert np.all(np.abs(found - kept.theta) <= allowed)
        kept.theta = found.copy()


@pytest.mark.parametrize("layout", ["transposed", "gaps"])
@pytest.mark.parametrize("name", STEPS)
def test_layouts(name: str, layout: str) -> None:
    problem, hypers = rounded_problem(PROBLEMS["5x7 dense"], torch.float32), hypers_of(name, {})
    found = run_compiled(class_of(name), program_of(name), "torch", torch.float32, hypers, problem, layout)
    assert difference(found, run_program(program_of(name), hypers, problem)) <= FREE[torch.float32]


@pytest.mark.parametrize("name", STEPS)
def test_empty_parameters_still_update_their_numbers(name: str) -> None:
    hypers = hypers_of(name, {})
    oracle = Oracle(program_of(name), hypers)
    kept = oracle.new_parameter(np.zeros((0, 4)))
    empty = torch.nn.Parameter(torch.zeros(0, 4))
    optimizer = class_of(name)([empty], **hypers, backend="torch")
    for _ in range(3):
        oracle.step(kept, np.zeros((0, 4)))
        empty.grad = torch.zeros(0, 4)
        optimizer.step()
    for state in program_of(name).states:
        found = optimizer.state[empty][state.key]
        np.testing.assert_array_equal(float64(found), kept.states[state.name])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", STEPS)
def test_what_one_tensor_holds_changes_nothing_in_another(name: str, bad: float) -> None:
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(6, generator=generator), torch.randn(3, 2, generator=generator)]
    grads = [[torch.randn(x.shape, generator=generator) for x in starts] for _ in range(3)]

    def run(count: int) -> list[Tensor]:
        parameters = [torch.nn.Parameter(x.clone()) for x in starts[:count]]
        optimizer = class_of(name)(parameters, **hypers_of(name, {}), backend="torch")
        for row in grads:
            for index, (p, g) in enumerate(zip(parameters, row, strict=False)):
                p.grad = g.clone()
                if index == 1:
                    p.grad[0] = bad
            optimizer.step()
        return [p.detach() for p in parameters]

    assert torch.equal(run(1)[0], run(2)[0])


def test_a_nan_passes_through_every_number() -> None:
    problem = PROBLEMS["5x7 dense"]
    g = problem.gradients[0].copy()
    g[0, 0] = np.nan
    for name in STEPS:
        hypers = hypers_of(name, {})
        oracle = Oracle(program_of(name), hypers)
        kept = oracle.new_parameter(problem.theta)
        parameter = torch.nn.Parameter(torch.tensor(problem.theta))
        optimizer = class_of(name)([parameter], **hypers, backend="torch")
        oracle.step(kept, g)
        parameter.grad = torch.tensor(g)
        optimizer.step()
        np.testing.assert_allclose(float64(parameter), kept.theta, rtol=1e-12, atol=1e-12)


def test_numbers_are_kept_in_float64_in_one_place() -> None:
    """A sum of squares of float32 elements is exact to float64's rounding, and so is what is kept of it."""
    name = "a number as second moment"
    problem = rounded_problem(PROBLEMS["5x7 dense"], torch.float32)
    parameter = torch.nn.Parameter(torch.tensor(problem.theta, dtype=torch.float32))
    optimizer = class_of(name)([parameter], **hypers_of(name, {}), backend="torch")
    oracle = Oracle(program_of(name), hypers_of(name, {}))
    kept = oracle.new_parameter(problem.theta)
    numbers = list[Tensor]()
    for g in problem.gradients[:5]:
        parameter.grad = torch.tensor(g, dtype=torch.float32)
        optimizer.step()
        oracle.step(kept, g)
        numbers.append(optimizer.state[parameter]["k"])
        assert numbers[-1].item() == pytest.approx(float(kept.states["k"]), rel=1e-14)
    assert all(number is numbers[0] for number in numbers)
    assert (numbers[0].dtype, numbers[0].shape) == (torch.float64, ())


def test_a_constant_of_a_variant_counts_once_per_element() -> None:
    text = """
optimizer Constant:
    hyper:
        lr = 0.1 in [0, ∞)
        plain = true
    state: s = 0 per tensor
    step:
        s ← sum(where(plain, 0.5, g)) + mean(where(plain, 3, g))
        θ ← θ - lr·s·g
"""
    parameter = torch.nn.Parameter(torch.zeros(3, 5))
    parameter.grad = torch.ones(3, 5)
    optimizer = optc.compile(text)([parameter], backend="torch")
    optimizer.step()
    assert optimizer.state[parameter]["s"].item() == 0.5 * 15 + 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_an_entry_may_have_no_tensor_but_its_input(dtype: torch.dtype) -> None:
    text = """
optimizer Noted:
    hyper:
        lr = 0.1 in [0, ∞)
        square = true
    state: k = 0 per tensor
    step:
        θ ← θ - lr·k·g
    entry measure(x per elem):
        y = x
        if square: y = where(x > 0, x, max(x))·numel
        k ← ema(k, rms(y), 0.5)
"""
    x = [[-1.0, 2.0, 0.5], [0.25, 3.0, -2.0]]
    parameter = torch.nn.Parameter(torch.zeros(2, 3, dtype=dtype))
    optimizer: Any = optc.compile(text)([parameter], backend="torch")
    optimizer.measure([torch.tensor(x, dtype=dtype)])
    oracle = Oracle(check_source(Source("<text>", text)))
    kept = oracle.new_parameter(np.zeros((2, 3)))
    oracle.enter("measure", kept, {"x": x})
    assert optimizer.state[parameter]["k"].item() == pytest.approx(float(kept.states["k"]), rel=1e-14)


@pytest.mark.parametrize("measured", [True, False])
def test_a_condition_may_be_one_of_elements_on_one_path_only(measured: bool) -> None:
    text = """
optimizer Chosen:
    hyper:
        lr = 0.5 in [0, ∞)
        measured = true
    step:
        if measured: c = g > 1
        else: c = lr > 0.25
        d = c and any(g > 4)
        θ ← θ - lr·(where(not c, g, 0) + where(d, 1, 0) + count(g > 0 and where(measured, g < 3, lr < 1)))
"""
    g = np.array([1.0, -2.0, 5.0])
    oracle = Oracle(check_source(Source("<text>", text)), {"measured": measured})
    kept = oracle.new_parameter(np.zeros(3))
    oracle.step(kept, g)
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor(g, dtype=torch.float32)
    optimizer: Any = optc.compile(text)([parameter], measured=measured, backend="torch")
    optimizer.step()
    np.testing.assert_array_equal(float64(parameter), kept.theta)


WIDER_LATER = """
optimizer Wider:
    hyper: lr = 0.1 in [0, ∞)
    state: k = 0 per tensor
    step:
        n = ‖g‖
        k ← n
        n = n·g
        k ← k + mean(n)
        θ ← θ - lr·n
"""


def test_a_number_is_one_until_its_name_becomes_wider() -> None:
    source = Source("<text>", WIDER_LATER)
    (procedure,) = schedule(simplify(lower(check_source(source)))).procedures
    header = "import torch\nfrom torch import Tensor\nfrom optc.runtime.tensor_ops import norm, total\n"
    function = load_module("wider_later", header + emit_kernel(procedure.kernels[0], source)).step_torch
    theta, g, k = torch.zeros(2), torch.tensor([3.0, 4.0]), torch.zeros((), dtype=torch.float64)
    function(theta, g, k, 0.1)
    assert k.item() == 5 + 5 * 3.5
    torch.testing.assert_close(theta, torch.tensor([-1.5, -2.0]))


# --- the text -----------------------------------------------------------------------------------------------------------------


def lines_of(name: str) -> list[str]:
    """The body of the emitted function without the numbers of the spec's lines."""
    (procedure,) = plan_program(program_of(name))[1].procedures
    text = emit_kernel(procedure.kernels[0], source(name))
    lines = [re.sub(r"  # \d+$", "", line.strip()) for line in text.splitlines()]
    return lines[lines.index(") -> None:") + 1 :]


def test_lines_of_elements_grow_in_place() -> None:
    assert lines_of("a trust ratio") == [
        "m.mul_(beta).add_(g, alpha=one_minus_beta)",
        "v.mul_(0.75).addcmul_(g, g, value=0.25)",
        "u = torch.div(m, (inverse_one_minus_0p75_pow_t*v).sqrt_().add_(eps)).mul_(inverse_bias_beta).add_(theta, alpha=decay)",
        "w = norm(theta)",
        "r = norm(u)",
        "q = torch.where((w > 0.0) & (r > 0.0), w/r, 1.0)",
        "theta.addcmul_(lr*q, u, value=-1.0)",
    ]


def test_lines_of_numbers_make_new_ones_and_copy_them() -> None:
    assert lines_of("a number as second moment")[:6] == [
        "s = norm(g).square()",
        "if new_k:",
        "k.copy_(s)",
        "else:",
        "k.copy_(0.75*k + 0.25*s)",
        "d = k.sqrt() + eps",
    ]
