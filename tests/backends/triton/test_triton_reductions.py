"""Kernels that reduce, on Triton: what they compute, against the oracle; and what must not change a bit of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from optc.compiler.interpret import Oracle
from optc.dsl.kinds import Extent
from optc.runtime.schema import Kernel
from optc.runtime.triton_reductions import LEAF
from tests.backends.reducing import CAUTIOUS, LAMB, class_of, kernel_of, program_of, spec

pytestmark = [
    pytest.mark.usefixtures("interpreted"),
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),  # NumPy, inside the interpreter
]

NUMBER_AND_STOP = spec(
    "NumberAndStop",
    """
        m = 0
        v = 0 per tensor
""",
    """
        s = sum(g²)
        if new(v): v ← s
        else: v ← ema(v, s, β₂)
        d = √v + ε
        if max(|g|) > 2.5: stop
        m ← β₁·m + g/d
        θ ← θ - lr·m·√numel
""",
)
MANY_MEASURES = spec(
    "ManyMeasures",
    """
        m    = 0
        peak = 1 per tensor
""",
    """
        peak ← max(peak, max(g))
        low = min(g·θ)
        hit = any(g > 2)
        a = mean(g·θ)
        c = count(g > 0)
        m ← ema(m, g/(1 + |low|), β₁)
        θ ← θ - lr·(m + where(hit and not (a > 0), c/numel, a)/peak)
""",
)
FLAGS = spec(
    "Flags",
    """
        m = 0
        n = 0.5 per tensor
        if weight_decay ≠ 0:
            k = 0 per tensor
""",
    """
        s = 1
        if weight_decay ≠ 0:
            s = 1 + mean(|θ|)·weight_decay
            if t == 2:
                k ← k + s
        if t > 2:
            s = s + ‖m‖/√numel
            n ← ema(n, s, β₁)
        m ← ema(m, g, β₁)
        θ ← θ - lr·n·m/s
""",
)
MEASURE_OF_A_MEASURE = spec(
    "MeasureOfAMeasure",
    """
        centre = 0 per tensor
""",
    """
        a = mean(g)
        spread = √mean((g - a)²)
        centre ← ema(centre, a, β₁)
        z = clamp((g - centre)/(spread + 0.1), -2, 2)
        θ ← θ - lr·z/(1 + max(|z|))
""",
)
SPECS = {
    "LAMB": LAMB, "number and stop": NUMBER_AND_STOP, "cautious": CAUTIOUS, "many measures": MANY_MEASURES,
    "flags": FLAGS, "measure of a measure": MEASURE_OF_A_MEASURE,
}  # fmt: skip
ENTRY = spec(
    "WithEntry",
    """
        n = 1 per tensor
""",
    """
        θ ← θ - lr·g/(n + ‖g‖)
""",
    """
    entry observe(h per elem):
        n ← ema(n, mean(h²), β₁)
""",
)
SHAPES: tuple[tuple[int, ...], ...] = ((3, 5), (), (0,), (1,), (513,), (LEAF,), (2 * LEAF + 77,))
SMALL = ((3, 5), (700,), ())


def randn(shapes: Sequence[Sequence[int]], dtype: torch.dtype, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(tuple(shape), generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def made(text: str, thetas: Sequence[Tensor], **options: Any) -> tuple[list[Tensor], Any]:
    parameters = [torch.nn.Parameter(theta.clone()) for theta in thetas]
    return list(parameters), class_of(text)(parameters, backend="triton", **options)


def step(optimizer: Any, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None], loss: float | None = None) -> None:
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = None if g is None else g.clone()
    optimizer.step(None if loss is None else lambda: loss)


def kept(optimizer: Any, p: Tensor) -> dict[str, Tensor]:
    return {"theta": p.detach().clone(), **{k: v.clone() for k, v in optimizer.state[p].items() if k != "step"}}


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[k].reshape(-1).numpy(), other[k].reshape(-1).numpy(), equal_nan=True) for k in one
    )


def follow_the_oracle(
    text: str, shapes: Sequence[Sequence[int]], dtype: torch.dtype, steps: int, tolerance: float, **hypers: Any
) -> None:
    program = program_of(text)
    oracle = Oracle(program, hypers)
    parameters, optimizer = made(text, randn(shapes, dtype, 0), **hypers)
    expected = [oracle.new_parameter(p.detach().double().numpy()) for p in parameters]
    for t in range(steps):
        gradients = randn(shapes, dtype, 1 + t)
        step(optimizer, parameters, gradients)
        for param, g in zip(expected, gradients, strict=True):
            oracle.step(param, g.double().numpy())
    limit = max(tolerance, 3e-6 if dtype != torch.float64 else 0.0)
    for p, param in zip(parameters, expected, strict=True):
        wide = tolerance if dtype == torch.bfloat16 else limit
        np.testing.assert_allclose(p.detach().double().numpy(), param.theta, rtol=wide, atol=wide)
        for state in program.states:
            if state.name in param.states:
                value = optimizer.state[p][state.key]
                per_element = torch.promote_types(dtype, torch.float32)
                assert value.dtype == (torch.float64 if state.extent is Extent.TENSOR else per_element)
                small = 1e-12 if dtype == torch.float64 else 3e-6
                np.testing.assert_allclose(value.double().numpy(), param.states[state.name], rtol=small, atol=small)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-12)])
def test_optimizers_that_reduce_follow_the_oracle(name: str, dtype: torch.dtype, tolerance: float) -> None:
    follow_the_oracle(SPECS[name], SHAPES if dtype == torch.float32 else (*SMALL, (0,), (LEAF + 1,)), dtype, 3, tolerance)


@pytest.mark.parametrize("name", SPECS)
def test_one_step_in_bfloat16_is_off_by_its_rounding_only(name: str) -> None:
    """The interpreter truncates where a GPU rounds: one unit in the last place."""
    follow_the_oracle(SPECS[name], (*SMALL, (2500,)), torch.bfloat16, 1, 2.0**-7)


def test_a_variant_without_its_measures_follows_the_oracle() -> None:
    follow_the_oracle(FLAGS, SMALL, torch.float32, 4, 3e-6, weight_decay=0.0)


@pytest.mark.parametrize("name", SPECS)
def test_alignment_changes_no_bit(name: str) -> None:
    shapes = ((LEAF + 700,), (1029,), (3, 5))
    thetas, gradients = randn(shapes, torch.float32, 0), [randn(shapes, torch.float32, 1)]
    plain, first = made(SPECS[name], thetas)
    shifted, second = made(SPECS[name], thetas)
    stores = [torch.full((p.numel() + 8,), 7.0) for p in shifted]
    for p, store in zip(shifted, stores, strict=True):
        view = store[3 : 3 + p.numel()].view(p.shape)
        p.data = view.copy_(p.data)
    for each in gradients:
        step(first, plain, each)
        step(second, shifted, each)
    for p, q, store in zip(plain, shifted, stores, strict=True):
        assert q.data_ptr() % 16 and not p.data_ptr() % 16
        assert same_bits(kept(first, p), kept(second, q))
        assert (store[:3] == 7.0).all() and (store[3 + q.numel() :] == 7.0).all()


@pytest.mark.parametrize("name", SPECS)
def test_other_tensors_of_the_batch_change_no_bit(name: str) -> None:
    shapes = ((700,), (LEAF + 5,), (3, 5))
    thetas, gradients = randn(shapes, torch.float32, 0), [randn(shapes, torch.float32, 1)]
    together, optimizer = made(SPECS[name], thetas)
    for each in gradients:
        step(optimizer, together, each)
    for i, p in enumerate(together):
        alone, own = made(SPECS[name], thetas[i : i + 1])
        for each in gradients:
            step(own, alone, each[i : i + 1])
        assert same_bits(kept(optimizer, p), kept(own, alone[0]))


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
@pytest.mark.parametrize("name", SPECS)
def test_what_one_tensor_holds_stays_in_it(name: str, value: float) -> None:
    thetas, gradients = randn(SMALL, torch.float32, 0), randn(SMALL, torch.float32, 1)
    clean, first = made(SPECS[name], thetas)
    step(first, clean, gradients)
    gradients[1].fill_(value) if value == 0.0 else gradients[1][300:301].fill_(value)
    soiled, second = made(SPECS[name], thetas)
    step(second, soiled, gradients)
    for i in (0, 2):
        assert same_bits(kept(first, clean[i]), kept(second, soiled[i]))
    oracle = Oracle(program_of(SPECS[name]))
    expected = oracle.new_parameter(thetas[1].double().numpy())
    oracle.step(expected, gradients[1].double().numpy())
    np.testing.assert_allclose(soiled[1].detach().double().numpy(), expected.theta, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("name", SPECS)
def test_tensors_without_a_gradient_are_left_out_of_a_step(name: str) -> None:
    thetas = randn(SMALL, torch.float32, 0)
    parameters, optimizer = made(SPECS[name], thetas)
    everything = [randn(SMALL, torch.float32, t) for t in (1, 2, 3)]
    absent = [(), (1,), (0, 2)]
    for gradients, missing in zip(everything, absent, strict=True):
        before = [kept(optimizer, p) for p in parameters] if missing else []
        step(optimizer, parameters, [None if i in missing else g for i, g in enumerate(gradients)])
        assert all(same_bits(before[i], kept(optimizer, parameters[i])) for i in missing)
    for i, p in enumerate(parameters):
        alone, own = made(SPECS[name], thetas[i : i + 1])
        for gradients, missing in zip(everything, absent, strict=True):
            if i not in missing:
                step(own, alone, gradients[i : i + 1])
        assert same_bits(kept(optimizer, p), kept(own, alone[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SPECS)
def test_counting_on_the_device_does_what_the_host_path_does(name: str, dtype: torch.dtype) -> None:
    shapes = (*SMALL, (0,))
    on_host, first = made(SPECS[name], randn(shapes, dtype, 0))
    on_device, second = made(SPECS[name], randn(shapes, dtype, 0), capturable=True)
    for t in (1, 2, 3):
        for optimizer, parameters in ((first, on_host), (second, on_device)):
            step(optimizer, parameters, randn(shapes, dtype, t))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    for p, q in zip(on_host, on_device, strict=True):
        mine, twin = kept(second, q), kept(first, p)
        assert mine.keys() == twin.keys()
        for key, value in mine.items():
            torch.testing.assert_close(value, twin[key], rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("name", SPECS)
def test_a_step_skipped_on_the_device_changes_nothing(name: str) -> None:
    parameters, optimizer = made(SPECS[name], randn(SMALL, torch.float32, 0), capturable=True, amp=True)
    twins, untouched = made(SPECS[name], randn(SMALL, torch.float32, 0), capturable=True, amp=True)
    for t, found in ((1, 0.0), (2, 1.0), (3, 0.0)):
        gradients = randn(SMALL, torch.float32, t)
        if found:
            gradients = [torch.full_like(g, math.nan) for g in gradients]
            before = [kept(optimizer, p) for p in parameters]
        optimizer.grad_scale, optimizer.found_inf = None, torch.tensor([found])
        step(optimizer, parameters, gradients)
        if found:
            assert all(same_bits(kept(optimizer, p), old) for p, old in zip(parameters, before, strict=True))
        else:
            step(untouched, twins, gradients)
    assert all(same_bits(kept(optimizer, p), kept(untouched, q)) for p, q in zip(parameters, twins, strict=True))


@pytest.mark.parametrize("name", SPECS)
def test_launches_do_not_grow_with_tensors(name: str) -> None:
    kernel = kernel_of(SPECS[name])
    for tensors in (1, 12):
        assert counted(kernel, partial(run_one_step, SPECS[name], tensors)) == len(functions(kernel))


def functions(kernel: Kernel) -> list[Any]:
    every = [f for p in kernel.passes for f in (p.stage, p.triton)] + [kernel.finish]
    return [f.jit for f in every if f is not None]


def counted(kernel: Kernel, action: Callable[[], None]) -> int:
    launches: list[str] = []

    def count(*_: Any, **__: Any) -> None:
        launches.append("")

    for jit in functions(kernel):
        jit.add_pre_run_hook(count)
    try:
        action()
    finally:
        for jit in functions(kernel):
            jit.pre_run_hooks.remove(count)
    return len(launches)


def run_one_step(text: str, tensors: int) -> None:
    shapes = [(i + 1,) for i in range(tensors)]
    parameters, optimizer = made(text, randn(shapes, torch.float32, 0))
    step(optimizer, parameters, randn(shapes, torch.float32, 1))


def test_an_entry_that_keeps_one_number_of_its_input() -> None:
    oracle = Oracle(program_of(ENTRY))
    parameters, optimizer = made(ENTRY, randn(SMALL, torch.float32, 0))
    expected = [oracle.new_parameter(p.detach().double().numpy()) for p in parameters]
    for t in (1, 2):
        gradients, observed = randn(SMALL, torch.float32, t), randn(SMALL, torch.float32, 10 + t)
        step(optimizer, parameters, gradients)
        optimizer.observe(observed)
        for param, g, h in zip(expected, gradients, observed, strict=True):
            oracle.step(param, g.double().numpy())
            oracle.enter("observe", param, {"h": h.double().numpy()})
    for p, param in zip(parameters, expected, strict=True):
        np.testing.assert_allclose(optimizer.state[p]["n"].item(), param.states["n"], rtol=3e-6)
        np.testing.assert_allclose(p.detach().double().numpy(), param.theta, rtol=3e-6, atol=3e-6)
