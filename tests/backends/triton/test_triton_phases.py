"""Procedures of several phases, on Triton: numbers of the model are given to kernels, parts of totals are taken from them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from optc.compiler.interpret import Oracle
from optc.runtime.backend import Residents
from optc.runtime.schema import Kernel
from optc.runtime.triton_launch import TRITON
from optc.runtime.triton_passes import ReducingLauncher
from optc.runtime.triton_reductions import LEAF
from tests.backends.matrices import FACTORED
from tests.backends.reducing import class_of, kernel_of, program_of, spec
from tests.backends.triton.test_triton_matrices import launches
from tests.backends.triton.test_triton_reductions import made, randn, step

pytestmark = [
    pytest.mark.usefixtures("interpreted"),
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),  # NumPy, inside the interpreter
]

CLIPPED = spec(
    "Clipped",
    """
        m = 0
""",
    """
        g = min(1, 1/(total_norm(g) + ε))·g
        m ← ema(m, g, β₁)
        θ ← θ - lr·m
""",
)
STATISTICS_KEPT = spec(
    "StatisticsKept",
    """
        v = 0
        k = 0 per model
        seen = 0 per tensor
""",
    """
        k ← k + 1
        n = total_norm(g)
        if n > 100: stop
        c = min(1, 1/n)
        v ← ema(v, (c·g)², β₂)
        u = g/(√(v/(1 - β₂^k)) + ε)
        seen ← seen + ‖u‖·c
        θ ← θ - lr·‖θ‖/(‖u‖ + ε)·u
""",
)
NO_PASS = spec(
    "NoPass",
    """
        s = 1 per tensor
        a = 0 per model
""",
    """
        a ← 0.9·a + 0.1·total(s)
        s ← s + 1/(1 + a)
        θ ← θ - lr·s·a·g
""",
)
OF_ROWS = FACTORED.replace("u = u/max(1, rms(u))", "u = u/max(1, √total(sum(u²)))")
OF_THE_LOSS = spec(
    "OfTheLoss",
    """
        v = 0
        best = ∞ per model
        seen = 0 per tensor
""",
    """
        best ← min(best, loss)
        if loss > 100·best: stop
        v ← ema(v, g², β₂)
        seen ← seen + ‖g‖·loss
        θ ← θ - lr·(loss - best/2)·g/(√v + ε + seen)
""",
)
SPECS = {
    "clipped": CLIPPED,
    "statistics kept": STATISTICS_KEPT,
    "no pass": NO_PASS,
    "of rows": OF_ROWS,
    "of the loss": OF_THE_LOSS,
}
SHAPES = ((3, 5), (700,), (), (LEAF + 3,), (0,))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-12), (torch.bfloat16, 2.0**-7)])
def test_a_model_follows_the_oracle(name: str, dtype: torch.dtype, tolerance: float) -> None:
    oracle = Oracle(program_of(SPECS[name]))
    shapes = SHAPES if name != "of rows" else ((3, 5), (2, 3, 4), (7,))
    parameters, optimizer = made(SPECS[name], randn(shapes, dtype, 0))
    expected = oracle.new_parameters([p.detach().double().numpy() for p in parameters])
    for t in range(1 if dtype == torch.bfloat16 else 3):
        gradients = randn(shapes, dtype, 1 + t)
        step(optimizer, parameters, gradients, loss := 1.5 / (1 + t))
        oracle.step_together(expected, [g.double().numpy() for g in gradients], loss=loss)
    for p, param in zip(parameters, expected, strict=True):
        np.testing.assert_allclose(p.detach().double().numpy(), param.theta, rtol=tolerance, atol=tolerance)
        for state in program_of(SPECS[name]).states:
            if state.name in param.states:
                value = torch.as_tensor(optimizer.state[p][state.key]).double().numpy()
                np.testing.assert_allclose(value, param.states[state.name], rtol=tolerance, atol=tolerance)


def test_a_model_skips_a_step_that_its_numbers_stop() -> None:
    parameters, optimizer = made(STATISTICS_KEPT, randn(SHAPES, torch.float32, 0))
    step(optimizer, parameters, randn(SHAPES, torch.float32, 1))
    before = [p.detach().clone() for p in parameters]
    step(optimizer, parameters, [1e4 * g for g in randn(SHAPES, torch.float32, 2)])
    assert all(torch.equal(p, old) for p, old in zip(parameters, before, strict=True))


@pytest.mark.parametrize("name", ["clipped", "statistics kept", "no pass"])
def test_launches_of_all_phases_do_not_grow_with_tensors(name: str) -> None:
    def one_step(tensors: int) -> None:
        shapes = [(i + 1,) for i in range(tensors)]
        parameters, optimizer = made(SPECS[name], randn(shapes, torch.float32, 0))
        step(optimizer, parameters, randn(shapes, torch.float32, 1))

    for kernel in class_of(SPECS[name]).schema.procedures[0].kernels:
        if kernel.passes:
            assert launches(kernel, partial(one_step, 1)) == launches(kernel, partial(one_step, 9))


def test_parts_are_those_of_the_members_in_their_order() -> None:
    kernel = kernel_of(CLIPPED)
    gradients = randn(SHAPES, torch.float32, 1)
    launcher = reducing(kernel, gradients)
    launcher.launch({"g": gradients}, [], [], 1.0)
    squares = torch.stack([g.double().square().sum() for g in gradients])
    torch.testing.assert_close(launcher.parts(), squares[:, None], rtol=1e-6, atol=0.0)
    assert launcher.parts().dtype == torch.float64
    some = launcher.only([1, 3])
    some.launch({"g": [gradients[1] * 2, gradients[3] * 2]}, [], [], 1.0)
    torch.testing.assert_close(some.parts(), 4 * squares[[1, 3], None], rtol=1e-6, atol=0.0)
    expected = squares[:, None].clone()
    expected[[1, 3]] *= 4
    torch.testing.assert_close(launcher.parts(), expected, rtol=1e-6, atol=0.0)


def reducing(kernel: Kernel, gradients: list[Tensor]) -> ReducingLauncher:
    """The first phase of clipping keeps nothing but looks at gradients."""
    residents = Residents({}, torch.float32, {}, [g.shape for g in gradients])
    (launcher,) = TRITON.prepare([kernel], [residents])
    assert isinstance(launcher, ReducingLauncher)
    return launcher


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_code_per_element_takes_its_scalars_from_the_device(dtype: torch.dtype) -> None:
    """Tensors and numbers of the host side by side give what numbers alone give."""
    phase = class_of(CLIPPED).schema.procedures[0].phases[1]
    kernel, of_model = phase.kernel, phase.model.exports
    assert of_model
    found = []
    for on_device in (False, True):
        theta, m, g = (randn([(700,)], dtype, seed) for seed in (1, 2, 3))
        residents = Residents({"theta": theta, "m": m}, dtype, {}, [torch.Size((700,))])
        (launcher,) = TRITON.prepare([kernel], [residents])
        values = [0.375 + i / 7 for i in range(len(kernel.scalars))]
        given = [
            torch.tensor(value, dtype=torch.float64) if on_device and name in of_model else value
            for name, value in zip(kernel.scalars, values, strict=True)
        ]
        launcher.launch({"g": g}, given, [], 1.0)
        assert launcher.parts().shape == (1, 0)
        found.append((theta[0], m[0]))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
