"""Rows, columns and matrices in PyTorch: values, states and reductions agree with the oracle, whatever the shape."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from optc.compiler.backends.pytorch.emit import emit_kernel
from optc.compiler.interpret import Oracle
from optc.compiler.pipeline import plan_program
from optc.dsl.source import Source
from optc.runtime import tensor_ops
from tests.backends.together import FREE, class_of, differences, program_of, slopes, start, worst
from tests.matrix.runners import float64

SHAPES = ((5, 7), (11,), (), (3, 4, 2), (2, 3, 2, 5), (1, 6), (6, 1), (1, 1))
EMPTY = ((0, 3), (3, 0), (2, 0, 3), (0, 2, 3), (2, 3))

SPECS = {
    "factored moments": """
optimizer Factored:
    hyper: lr = 0.1 in [0, ∞); β = 0.9 in [0, 1); ε = 1e-6 in [0, ∞)
    state:
        if ndim >= 2: R = 0 per row; C = 0 per col
        else: V = 0
    step:
        q = g² + ε
        if ndim >= 2:
            R ← ema(R, rowmean(q), β)
            C ← ema(C, colmean(q), β)
            v = R/colmean(R)·C
        else:
            V ← ema(V, q, β)
            v = V
        u = g/(√v + ε)
        u = u/max(1, rms(u))
        θ ← θ - lr·max(0.1, rms(θ))·u
""",
    "normalized rows": """
optimizer Normalized:
    shape: matrix
    hyper: lr = 0.1 in [0, ∞); β = 0.9 in [0, 1)
    state:
        if ndim >= 2: V = 0 per row; D = 1 per matrix
        else: v = 0 per tensor
    step:
        if ndim >= 2:
            V ← ema(V, rowmean(g²), β)
            D ← ema(D, colmean(V), β)
            u = (g - rowmean(g))/(√V + 1e-6)·D
        else:
            v ← ema(v, mean(g²), β)
            u = g/(√v + 1e-6)
        w = θ - lr·u
        if ndim >= 2: w = (w - rowmean(w))/(1 + rowmax(|w|))
        θ ← w
""",
    "every reduction": """
optimizer Every:
    hyper: lr = 0.1 in [0, ∞); sharp = true
    state:
        m = 0
        if ndim >= 2: R = 1 per row; C = 0 per col; M = 0 per matrix
    step:
        u = g
        if ndim >= 2:
            a = rowsum(g) + rowmax(θ)·rowmin(g)
            b = colsum(g·θ)/(1 + colmax(|g|)) - colmin(θ)
            M ← M + colsum(a) + rowsum(b) + rowmax(b) - colmin(a)
            R ← where(a > R and sharp, tanh(a), R/(1 + |R|))
            C ← max(C, colmean(where(g > 0, 1, 0))) + rowmean(C)
            u = where(a > b, u·M, u - a·b) + rowsum(where(g < θ, 1, 0))·θ
            n = ‖R‖ + mean(C) + max(M) + min(b) + sum(a)
            u = u/(1 + |n|) - |a|
            if sharp: u = min(u, a + M)
        m ← ema(m, tanh(u), 0.5)
        θ ← θ - lr·m
""",
    "names that become wider": """
optimizer Wider:
    hyper: lr = 0.1 in [0, ∞); ahead = true
    state:
        if ndim >= 2: R = 0 per row
        k = 1 per tensor
    step:
        x = k
        if ndim >= 2:
            x = rowmean(g)
            old = R
            R ← R + x
            y = colmax(θ)
            if ahead: y = y·g
            z = where(ahead, 1, R)
            s = colsum(z) + rowmean(where(ahead, g, 2)) + old
            x = x + y + s
        k ← k + 1
        θ ← θ - lr·tanh(x)·g
""",
    "what two kernels share": """
optimizer Sharing:
    hyper: lr = 0.1 in [0, ∞)
    step:
        n = total_norm(g)
        c = min(1, 1/(n + 1))
        u = c·g
        if ndim >= 2: u = c·(g - rowmean(g))
        θ ← θ - lr·u
""",
    "rows in two phases": """
optimizer Phased:
    shape: matrix
    hyper: lr = 0.1 in [0, ∞); most = 1.0 shared in (0, ∞)
    state:
        if ndim >= 2: R = 0 per row; S = 0 per col
        total_scale = 1 per model
    step:
        n = total_norm(g)
        u = min(1, most/(n + 1e-6))·g
        if ndim >= 2:
            r = rowmean(g²)
            R ← ema(R, r, 0.9)
            S ← S + n·colmax(|g|)
            u = u/(√(r + R) + 1e-3)·tanh(S)
        total_scale ← ema(total_scale, total(rms(u)), 0.5)
        θ ← θ - lr·u/(1 + total_scale)
""",
}


@pytest.mark.parametrize("dtype", FREE)
@pytest.mark.parametrize("name", SPECS)
def test_steps_agree_with_the_oracle(name: str, dtype: torch.dtype) -> None:
    assert worst(SPECS[name], dtype, shapes=SHAPES) <= FREE[dtype]


@pytest.mark.parametrize(("name", "hyper"), [("every reduction", "sharp"), ("names that become wider", "ahead")])
def test_variants_agree_with_the_oracle(name: str, hyper: str) -> None:
    assert worst(SPECS[name], torch.float64, {hyper: False}, SHAPES) <= FREE[torch.float64]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", SPECS)
def test_without_rows_or_columns(name: str) -> None:
    """Sums of nothing are 0, means NaN, the largest of nothing −∞."""
    assert worst(SPECS[name], torch.float64, shapes=EMPTY) <= FREE[torch.float64]


def transposed(x: Tensor) -> Tensor:
    return x.transpose(0, 1).contiguous().transpose(0, 1) if x.ndim > 1 else x


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x


@pytest.mark.parametrize("laid_out", [transposed, channels_last])
@pytest.mark.parametrize("name", SPECS)
def test_layouts(name: str, laid_out: Callable[[Tensor], Tensor]) -> None:
    assert worst(SPECS[name], torch.float32, shapes=((4, 3), (3, 2, 2, 3), (5,)), laid_out=laid_out) <= FREE[torch.float32]


@pytest.mark.parametrize(("dtype", "half_ulp"), [(torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)])
@pytest.mark.parametrize("name", SPECS)
def test_a_step_is_rounded_once(name: str, dtype: torch.dtype, half_ulp: float) -> None:
    (theta,), ((g,),) = start(((5, 7),)), slopes(((5, 7),), 1)
    parameter = torch.nn.Parameter(torch.tensor(theta).to(dtype))
    parameter.grad = torch.tensor(g).to(dtype)
    oracle = Oracle(program_of(SPECS[name]))
    kept = oracle.new_parameter(float64(parameter))
    oracle.step(kept, float64(parameter.grad))
    optimizer = class_of(SPECS[name])([parameter], backend="torch")
    optimizer.step()
    assert np.all(np.abs(float64(parameter) - kept.theta) <= half_ulp * np.abs(kept.theta) + 1e-5 * (1 + np.abs(theta)))
    for state in program_of(SPECS[name]).states:
        entry = optimizer.state[parameter].get(state.key)
        if entry is not None and entry.ndim:
            assert entry.dtype == torch.float32
            np.testing.assert_allclose(float64(entry), kept.states[state.name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_in_a_row_stays_there(bad: float) -> None:
    text = """
optimizer Rowwise:
    hyper: lr = 0.1 in [0, ∞)
    state:
        if ndim >= 2: R = 0 per row
    step:
        u = g
        if ndim >= 2:
            R ← ema(R, rowmean(g²), 0.5)
            u = (g - rowmean(g))/(√R + rowmax(|g|))
        θ ← θ - lr·u
"""
    (theta,), ((g,),) = start(((4, 6),)), slopes(((4, 6),), 1)
    found = []
    for value in (g[2, 3], bad):
        g[2, 3] = value
        parameter = torch.nn.Parameter(torch.tensor(theta))
        parameter.grad = torch.tensor(g)
        class_of(text)([parameter], backend="torch").step()
        found.append(float64(parameter))
    rest = [0, 1, 3]
    np.testing.assert_array_equal(found[0][rest], found[1][rest])
    assert np.isnan(found[1][2, 3])
    with np.errstate(all="ignore"):
        assert max(differences(text, torch.float64, {}, [theta], [[g]])) <= FREE[torch.float64]


# --- reductions ---------------------------------------------------------------------------------------------------------------

TALL_AND_WIDE = ((3, 400001), (400001, 3), (1, 700001), (700001, 1), (1200, 900), (5, 1, 90001), (7, 40000, 2), (90000, 2, 3))


@pytest.mark.parametrize("shape", TALL_AND_WIDE)
def test_sums_do_not_depend_on_threads(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append([tensor_ops.total(x, dim) for dim in (-1, -2)])
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))
    for dim, sums in zip((-1, -2), found[0], strict=True):
        wanted = x.double().sum(dim, keepdim=True)
        assert (sums.dtype, sums.shape) == (torch.float64, wanted.shape)
        torch.testing.assert_close(sums, wanted, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 4), (0, 3), (3, 0), (2, 0, 3), (1, 7), (7, 1)])
@pytest.mark.parametrize("dim", [-1, -2])
def test_reductions_of_rows_and_columns(shape: tuple[int, ...], dim: int) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    array = float64(x)
    with np.errstate(all="ignore"):
        count = np.sum(np.ones(shape), axis=dim, keepdims=True)
        wanted = {
            "total": np.sum(array, axis=dim, keepdims=True),
            "mean": np.sum(array, axis=dim, keepdims=True) / count,
            "largest": np.max(array, axis=dim, keepdims=True, initial=-np.inf),
            "smallest": np.min(array, axis=dim, keepdims=True, initial=np.inf),
        }
    for name, values in wanted.items():
        found: Tensor = getattr(tensor_ops, name)(x, dim)
        assert found.dtype == torch.float64
        np.testing.assert_allclose(found.numpy(), values, rtol=1e-14, atol=1e-14)


def test_conditions_are_counted_exactly() -> None:
    condition = torch.rand(3, 300000, generator=torch.Generator().manual_seed(0)) > 0.3
    assert torch.equal(tensor_ops.total(condition, -1), condition.sum(-1, keepdim=True).double())
    assert torch.equal(tensor_ops.mean(condition, -2), condition.sum(-2, keepdim=True).double() / 3)


def test_nan_passes_through_the_reductions_of_its_row_only() -> None:
    x = torch.ones(3, 4)
    x[1, 2] = math.nan
    for function in (tensor_ops.total, tensor_ops.mean, tensor_ops.largest, tensor_ops.smallest):
        assert function(x, -1).isnan().flatten().tolist() == [False, True, False]
        assert function(x, -2).isnan().flatten().tolist() == [False, False, True, False]


# --- the text -----------------------------------------------------------------------------------------------------------------


def lines_of(name: str, kernel: int = 0) -> list[str]:
    """The body of an emitted function without the numbers of the spec's lines."""
    (procedure,) = plan_program(program_of(SPECS[name]))[1].procedures
    phase = [phase for phase in procedure.phases if phase.kernel is not None][kernel]
    assert phase.kernel is not None
    exports = frozenset(() if phase.model is None else phase.model.exports)
    text = emit_kernel(phase.kernel, Source("<text>", SPECS[name]), exports)
    lines = [re.sub(r"  # \d+$", "", line) for line in text.splitlines()]
    return lines[next(i for i, line in enumerate(lines) if line.startswith(")")) + 1 :]


def test_statistics_are_float64_and_rounded_before_they_meet_elements() -> None:
    lines = lines_of("factored moments")
    assert "        R.copy_(beta*R + one_minus_beta*mean(q, dim=-1))" in lines
    assert "        v = (R/mean(R, dim=-2)).to(theta.dtype)*C.to(theta.dtype)" in lines


def test_names_that_only_meet_elements_are_rounded_where_they_get_their_value() -> None:
    lines = lines_of("rows in two phases", 2)
    assert "        R.copy_(0.9*R + 0.09999999999999998*r)" in lines
    assert "        tanh_S = S.tanh().to(theta.dtype)" in lines
    assert "        u = (u/sqrt_r_plus_R_plus_0p001).mul_(tanh_S)" in lines


def test_what_an_earlier_kernel_has_left_is_rounded_at_the_start_where_it_only_meets_elements() -> None:
    assert lines_of("what two kernels share", 1) == [
        "    mean_g = mean_g.to(theta.dtype)",
        "    u = c*g",
        "    if ndim_ge_two:",
        "        u = (g - mean_g).mul_(c)",
        "    theta.sub_(u, alpha=lr)",
    ]
