"""Native kernels of several phases: what one has left, the next one and the totals find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from optc.compiler.interpret import Oracle
from optc.runtime.backend import Launcher, Residents
from optc.runtime.native import NATIVE
from optc.runtime.schema import Procedure
from tests.backends.reducing import all_bits, class_of, float64, program_of, random, run, same_bits, spec

pytestmark = pytest.mark.usefixtures("one_thread")

CLIPPED = spec(
    "Clipped",
    """
        m = 0
""",
    """
        g = min(1, 2/(total_norm(g) + ε))·g
        m ← ema(m, g, β₁)
        θ ← θ - lr·m
""",
)
TRUSTED = spec(
    "Trusted",
    """
        m = 0
        seen = 0 per tensor
        d = 1 per model
""",
    """
        n = total_norm(g)
        d ← max(d, n)
        m ← ema(m, g/d, β₁)
        seen ← seen + ‖m‖·‖θ‖
        θ ← θ - lr·‖θ‖/(‖m‖ + ε)·m
""",
)
ONLY_NUMBERS = spec(
    "OnlyNumbers",
    """
        length = 0 per tensor
        all = 0 per model
""",
    """
        all ← all + total_norm(g)
        length ← length + ‖g‖/(all + ε)
        θ ← θ - lr·g
""",
)
ROWS_BETWEEN = spec(
    "RowsBetween",
    """
        if ndim ≥ 2: V = 0 per row
        m = 0
""",
    """
        n = total_norm(g)
        if ndim ≥ 2:
            V ← ema(V, rowmean(g²), β₂)
            u = (g - rowmean(g))/(√V + n + ε)
        else:
            u = g/(n + ε)
        r = total(norm1(u))
        m ← ema(m, u/(1 + r), β₁)
        θ ← θ - lr·m
""",
)
OF_THE_LOSS = spec(
    "OfTheLoss",
    """
        m = 0
        best = ∞ per model
        seen = 0 per tensor
""",
    """
        best ← min(best, loss)
        η = loss/(total(sum(g²)) + ε)
        seen ← seen + ‖g‖·loss
        m ← ema(m, where(loss > 2·best, 0, g), β₁)
        θ ← θ - η·m/(1 + seen)
""",
)
SPECS = [pytest.param(s, id=s.split()[1].rstrip(":")) for s in (CLIPPED, TRUSTED, ONLY_NUMBERS, ROWS_BETWEEN, OF_THE_LOSS)]
LOSSES = (1.5, 0.5, 3.0)
SHAPES = [(7,), (300, 40), (), (0,), (20_000,), (5, 0), (3, 40, 50), (2000, 3), (400, 500)]


def problem(dtype: torch.dtype) -> tuple[list[Tensor], list[list[Tensor]]]:
    thetas = [random(s, dtype, at) for at, s in enumerate(SHAPES)]
    return thetas, [[random(s, dtype, 50 * t + at) for at, s in enumerate(SHAPES)] for t in (1, 2, 3)]


@pytest.mark.parametrize("text", SPECS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["float64", "float32"])
def test_the_oracle_is_followed(text: str, dtype: torch.dtype, tolerance: float) -> None:
    thetas, steps = problem(dtype)
    found = run(text, thetas, steps, LOSSES)
    oracle = Oracle(program_of(text))
    kept = oracle.new_parameters([float64(t) for t in thetas])
    for step, loss in zip(steps, LOSSES, strict=True):
        oracle.step_together(kept, [float64(g) for g in step], loss=loss)
    for shape, theta, states, expected in zip(SHAPES, *found, kept, strict=True):
        np.testing.assert_allclose(float64(theta), expected.theta, tolerance, tolerance, err_msg=str(shape))
        for name, value in expected.states.items():
            np.testing.assert_allclose(float64(states[name]), value, tolerance, tolerance, err_msg=f"{shape} {name}")


@pytest.mark.parametrize("text", SPECS)
def test_threads_change_no_bit(text: str) -> None:
    thetas, steps = problem(torch.float32)
    alone = all_bits(run(text, thetas, steps, LOSSES))
    torch.set_num_threads(2)
    assert all(same_bits(a, b) for a, b in zip(alone, all_bits(run(text, thetas, steps, LOSSES)), strict=True))


# --- launchers ----------------------------------------------------------------------------------------------------------------


def bound(
    text: str, thetas: Sequence[Tensor], states: Mapping[str, Sequence[Tensor]], **variant: bool
) -> tuple[Procedure, list[Launcher]]:
    """The launchers of a spec's step."""
    step = class_of(text).schema.procedures[0]
    tensors = {"theta": thetas, **states}
    residents = [
        Residents(
            {s.name: tensors[s.name] for s in k.streams if s.name in tensors},
            thetas[0].dtype,
            variant,
            [t.shape for t in thetas],
        )
        for k in step.kernels
    ]
    return step, NATIVE.prepare(step.kernels, residents)


def test_parts_are_those_of_the_members_in_their_order() -> None:
    gradients = [random(s, torch.float64, at) for at, s in enumerate(SHAPES)]
    zeros = [torch.zeros(s, dtype=torch.float64) for s in SHAPES]
    step, (first, _) = bound(CLIPPED, zeros, {"m": zeros})
    assert len(step.kernels[0].parts) == 1
    first.launch({"g": gradients}, (), (), -3.0)
    expected = torch.stack([9 * g.square().sum() for g in gradients])
    parts = first.parts()
    assert parts.dtype == torch.float64 and parts.shape == (len(SHAPES), 1)
    torch.testing.assert_close(parts[:, 0], expected, rtol=1e-14, atol=0)
    some = [1, 4, 7]
    fewer = first.only(some)
    fewer.launch({"g": [gradients[m] for m in some]}, (), (), 1.0)
    torch.testing.assert_close(fewer.parts()[:, 0], expected[some] / 9, rtol=1e-14, atol=0)
    expected[some] /= 9
    torch.testing.assert_close(first.parts()[:, 0], expected, rtol=1e-14, atol=0)


def test_a_later_kernel_finds_what_the_first_measured_and_takes_numbers_as_tensors() -> None:
    shapes = [(50,), (3, 4)]
    thetas, gradients = [random(s, torch.float64, 1) for s in shapes], [random(s, torch.float64, 2) for s in shapes]
    ms, seen = [torch.zeros_like(t) for t in thetas], [torch.zeros((), dtype=torch.float64) for _ in shapes]
    step, (first, second) = bound(TRUSTED, thetas, {"m": ms, "seen": seen})
    before = [t.clone() for t in thetas]
    values = {"beta1": 0.9, "one_minus_beta1": 0.1, "lr": 0.5, "eps": 0.0}
    kernel = step.kernels[1]
    scalars = [values.get(name, torch.tensor(4.0, dtype=torch.float64)) for name in kernel.scalars]
    assert any(isinstance(s, Tensor) for s in scalars)
    for members in ([0], [1]):
        given = {"g": [gradients[m] for m in members]}
        first.only(members).launch(given, [values[n] for n in step.kernels[0].scalars], (), 1.0)
        second.only(members).launch(given, scalars, (), 1.0)
    for theta, old, g, m, s in zip(thetas, before, gradients, ms, seen, strict=True):
        torch.testing.assert_close(m, 0.1 * g / 4, rtol=1e-14, atol=0)
        torch.testing.assert_close(s, m.norm() * old.norm(), rtol=1e-13, atol=0)
        torch.testing.assert_close(theta, old - 0.5 * old.norm() / m.norm() * m, rtol=1e-13, atol=1e-14)


def test_a_kernel_without_a_pass_runs_its_stages_alone() -> None:
    last = class_of(ONLY_NUMBERS).schema.procedures[0].kernels[-1]
    assert not any(p.runs({}) for p in last.passes)
    assert "pass_0" not in last.native and "No pass over memory" in last.native and "stage_" in last.native
