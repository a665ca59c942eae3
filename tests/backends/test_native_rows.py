"""Native kernels of values per row, column and matrix: right, the same whatever runs beside them, and without much memory."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from optc.compiler.interpret import Oracle
from optc.runtime import native, native_build, native_matrices
from optc.runtime.backend import Residents
from optc.runtime.native import NATIVE
from optc.runtime.native_build import load_matrices
from tests.backends.reducing import all_bits, class_of, float64, program_of, random, run, same_bits, spec
from tests.backends.test_native_run import peak_kib

pytestmark = pytest.mark.usefixtures("one_thread")

FACTORED = spec(
    "Factored",
    """
        if ndim ≥ 2: R = 0 per row; C = 0 per col
        else: V = 0
""",
    """
        α = max(ε, rms(θ))·lr
        q = g² + ε
        if ndim ≥ 2:
            R ← ema(R, rowmean(q), β₂)
            C ← ema(C, colmean(q), β₂)
            v̂ = R/colmean(R)·C
        else:
            V ← ema(V, q, β₂)
            v̂ = V
        u = g/√v̂
        θ ← θ - α·u/max(1, rms(u))
""",
)
NORMED = spec(
    "Normed",
    """
        if ndim ≥ 2: V = 0 per row; D = 1 per matrix
        else: v = 0 per tensor
""",
    """
        if ndim ≥ 2:
            V ← ema(V, rowmean(g²), β₁)
            D ← ema(D, colmean(V + 1), β₁)
            u = (g - rowmean(g))/(√V + ε)·D
        else:
            v ← ema(v, mean(g²), β₁)
            u = g/(√v + ε)
        w = θ - lr·u
        if ndim ≥ 2: w = (w - rowmean(w))/(rowmax(|w|) + 1)
        θ ← w
""",
)
EXTREMES = spec(
    "Extremes",
    """
        if clip ∧ ndim ≥ 2: A = 0 per col; N = 0 per tensor as total
        m = 0
""",
    """
        if clip ∧ ndim ≥ 2:
            A ← max(A·β₂, colmax(|g|))
            if t mod 2 == 0: low = colmin(g)/(1 + colsum(|θ|))
            else: low = A - rowmax(colmean(g²))
            N ← ema(N, sum(rowsum(g·θ)²) + mean(A), β₁)
            m ← ema(m, g/(A + ε) + low, β₁)
        else:
            m ← ema(m, g, β₁)
        θ ← θ - lr·m
""",
)
CASES = [
    pytest.param(FACTORED, {}, id="Factored"),
    pytest.param(NORMED, {}, id="Normed"),
    pytest.param(NORMED.replace("    hyper:", "    shape: matrix\n    hyper:", 1), {}, id="matrix"),
    pytest.param(EXTREMES, {"clip": True}, id="Extremes"),
    pytest.param(EXTREMES, {"clip": False}, id="plain"),
]

SHAPES = [
    (7, 5), (1, 1000), (1000, 1), (3, 4, 5), (8, 3, 3, 3), (0, 3), (3, 0), (4, 0, 3), (0, 3, 4), (257, 300), (5,), (),
    (2, 70_000), (70_000, 2), (600, 600), (2, 300, 500), (40, 3, 70), (3, 2500), (30, 2500), (2, 3, 1100), (900, 1, 1),
]  # fmt: skip


def problem(dtype: torch.dtype, count: int = 2) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
    thetas = [random(s, dtype, at) for at, s in enumerate(SHAPES)]
    return thetas, [[random(s, dtype, 50 * t + at) for at, s in enumerate(SHAPES)] for t in range(1, count + 1)]


MACROS = {f"OPTC_{kind}_T": "fp32" for kind in ("PARAM", "GRAD", "STATE", "INPUT", "MATH")}

# --- what is computed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "hypers"), CASES)
@pytest.mark.parametrize(
    ("dtype", "count", "tolerance", "of_states"),
    [(torch.float64, 3, 1e-12, 1e-12), (torch.float32, 2, 2e-5, 2e-5), (torch.bfloat16, 1, 2**-8, 2e-5)],
    ids=["float64", "float32", "bfloat16"],
)
def test_the_oracle_is_followed(
    text: str, hypers: dict[str, bool], dtype: torch.dtype, count: int, tolerance: float, of_states: float
) -> None:
    thetas, steps = problem(dtype, count)
    found = run(text, thetas, steps, **hypers)
    oracle = Oracle(program_of(text), hypers)
    kept = oracle.new_parameters([float64(t) for t in thetas])
    for step in steps:
        oracle.step_together(kept, [float64(g) for g in step])
    keys = {state.name: state.key for state in program_of(text).states}
    for shape, theta, states, expected in zip(SHAPES, *found, kept, strict=True):
        scale = np.abs(expected.theta) + 1e-2
        error = np.abs(float64(theta) - expected.theta) / scale
        assert np.array_equal(np.isnan(error), np.isnan(expected.theta)) and np.nanmax(error, initial=0) <= tolerance, shape
        for name, value in expected.states.items():
            values = float64(states[keys[name]])
            np.testing.assert_allclose(values, value, of_states, of_states, err_msg=f"{shape} {name}")


def test_variants_without_rows_walk_through_chunks() -> None:
    kernel = class_of(EXTREMES).schema.procedures[0].kernels[0]
    assert native_matrices.knows_matrices(kernel)
    theta, g, m = torch.ones(300, 5), torch.ones(300, 5), torch.zeros(300, 5)
    for clip in (False, True):
        flags = dict.fromkeys(kernel.static_flags, clip)
        tensors = {"theta": [theta], "m": [m], "A": [torch.zeros(1, 5)], "N": [torch.zeros((), dtype=torch.float64)]}
        present = tensors if clip else {"theta": [theta], "m": [m]}
        assert load_matrices(kernel.native, MACROS | {"OPTC_VARIANT": str((1 << len(flags)) - 1 if clip else 0)})[1] is clip
        (launcher,) = NATIVE.prepare([kernel], [Residents(present, torch.float32, flags, [theta.shape])])
        launcher.launch({"g": [g]}, [0.5] * len(kernel.scalars), [False] * len(kernel.host_flags), 1.0)
        assert (tensors["A"][0] > 0).all().item() is clip


# --- what bits depend on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "hypers"), CASES)
def test_threads_and_waves_change_no_bit(text: str, hypers: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    thetas, steps = problem(torch.float32)
    alone = all_bits(run(text, thetas, steps, **hypers))
    for threads, scratch in ((2, native_matrices.SCRATCH), (2, 1), (1, 1), (5, 5000)):
        monkeypatch.setattr(native_matrices, "SCRATCH", scratch)
        torch.set_num_threads(threads)
        other = all_bits(run(text, thetas, steps, **hypers))
        assert all(same_bits(a, b) for a, b in zip(alone, other, strict=True)), (threads, scratch)


@pytest.mark.parametrize(("text", "hypers"), CASES)
def test_other_tensors_of_a_batch_change_no_bit(text: str, hypers: dict[str, bool]) -> None:
    thetas, steps = problem(torch.float32)
    whole = run(text, thetas, steps, **hypers)
    for at, theta in enumerate(thetas):
        (alone,), (states,) = run(text, [theta], [[step[at]] for step in steps], **hypers)
        assert same_bits(alone, whole[0][at]), SHAPES[at]
        assert all(same_bits(states[key], whole[1][at][key]) for key in states if key != "step")


@pytest.mark.parametrize("shape", [(40, 30), (5, 3), (30, 2500), (900, 700)])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_in_one_row_stays_there(shape: tuple[int, int], bad: float) -> None:
    text = spec(
        "Rowwise",
        """
        if ndim ≥ 2: V = 0 per row; K = 0 per col
""",
        """
        if ndim ≥ 2:
            V ← ema(V, rowmean(g²), β₁)
            K ← ema(K, colsum(g), β₁)
            g = g/(√V + ε)
        θ ← θ - lr·g
""",
    )
    theta, g = random(shape, torch.float32, 1), random(shape, torch.float32, 2)
    (clean,), (before,) = run(text, [theta], [[g]])
    spoiled = g.clone()
    spoiled[2, 1] = bad
    (found,), (after,) = run(text, [theta], [[spoiled]])
    others = [r for r in range(shape[0]) if r != 2]
    assert torch.equal(found[others], clean[others]) and torch.equal(after["V"][others], before["V"][others])
    assert not torch.isfinite(after["V"][2]).any() and torch.isnan(found[2, 1])
    assert not torch.isfinite(after["K"][0, 1]) and torch.isfinite(after["K"][0, 2:]).all()


# --- how matrices are cut -----------------------------------------------------------------------------------------------------


LARGE = [
    (4096, 4096), (50_000, 64), (64, 50_000), (100_000, 3), (16, 1024, 1024), (50_000, 1), (262_144, 3, 3), (3, 4096, 4096),
    (150_000, 8192), (8192, 150_000), (50_000, 50_000), (300_000, 300_000), (50_000_000, 1), (1, 50_000_000), (2, 9_000_000),
    (40, 30_000, 30_000),
]  # fmt: skip


@pytest.mark.parametrize("text", [FACTORED, NORMED, EXTREMES], ids=["Factored", "Normed", "Extremes"])
def test_tiles_hold_every_element_and_leave_little(text: str) -> None:
    kernel = class_of(text).schema.procedures[0].kernels[0]
    shapes = [s for s in (*SHAPES, *LARGE) if len(s) >= 2]
    table = native_matrices.grids([torch.Size(s) for s in shapes], kernel)
    measures = kernel.most_measured("row"), kernel.most_measured("col")
    together = 0
    for at, shape in enumerate(shapes):
        tiles = native_matrices.tile(table, kernel, np.array([at]))
        together += tiles.scratch
        assert tiles.elements.sum() == math.prod(shape)
        matrices, rows, columns, row_cuts, column_cuts = table[at, :5].tolist()
        asked = matrices * (measures[0] * (column_cuts - 1) * rows + measures[1] * (row_cuts - 1) * columns)
        assert tiles.scratch == asked <= native_matrices.SCRATCH, shape
        cuts = row_cuts * column_cuts
        assert cuts & (cuts - 1) == 0 and (cuts == 1 or matrices * cuts < 32)
        if rows * columns >= 1 << 20 and min(rows, columns) < 4096:
            assert len(tiles.elements) >= 16 and tiles.elements.min() >= 1 << 15, shape
    most = native_matrices.tile(table, kernel, np.arange(len(shapes)))
    assert most.scratch <= native_matrices.SCRATCH
    assert (len(most.waves) > 0) == (together > native_matrices.SCRATCH)


COUNTING = """
extern "C" { __attribute__((visibility("default"))) int64_t optc_asked = 0, optc_most = 0; }
static void* optc_ask(int64_t bytes) {
    optc_asked += bytes;
    if (optc_asked > optc_most) optc_most = optc_asked;
    int64_t* const at = static_cast<int64_t*>(__builtin_malloc(bytes + 64));
    *at = bytes;
    return at + 8;
}
static void optc_return(void* at) {
    int64_t* const begin = static_cast<int64_t*>(at) - 8;
    optc_asked -= *begin;
    __builtin_free(begin);
}
namespace optc {
"""


ASKING = [(90_000, 7), (7, 90_000), (900, 700), (400_000, 1), (1, 400_000), (50, 90, 70), (3000, 3000)]


@pytest.mark.parametrize("shape", ASKING)
def test_bytes_that_a_step_asks_for(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them: the vectors, which are kept; those of a stage, while it runs; and less than 1 MiB besides."""
    part, load_library = native_build._part, native_build.load_library
    libraries: list[ctypes.CDLL] = []
    launchers: list[Any] = []

    def counted(name: str) -> str:
        if name != "stages":
            return part(name)
        text = part(name).replace("namespace optc {\n", COUNTING, 1)
        for call in ("malloc", "free"):
            assert text.count(f"__builtin_{call}(") == COUNTING.count(f"__builtin_{call}(") + 1
        whole = text.replace("static_cast<double*>(__builtin_malloc(", "static_cast<double*>(optc_ask(")
        return whole.replace("__builtin_free(at)", "optc_return(at)")

    class Launcher(native.NativeLauncher):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            launchers.append(self)

    def loaded(source: str, macros: Mapping[str, str]) -> ctypes.CDLL:
        libraries.append(load_library(source, macros))
        return libraries[-1]

    monkeypatch.setattr(native_build, "_part", counted)
    monkeypatch.setattr(native_build, "load_library", loaded)
    monkeypatch.setattr(native, "NativeLauncher", Launcher)
    run(FACTORED, [torch.ones(shape)], [[torch.ones(shape)]])  # loads the library, which counts from now on
    most = ctypes.c_int64.in_dll(libraries[0], "optc_most")
    most.value = 0
    run(FACTORED, [torch.ones(shape)], [[torch.ones(shape)]])
    launcher = launchers[-1]
    matrices, rows, columns = math.prod(shape[:-2]), math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]
    lengths = {"row": rows, "col": columns, "matrix": matrices}
    kernel = launcher._kernel
    needed = {name for one in kernel.passes for name in one.needs}
    kept = {name: extent for name, extent in zip(kernel.statistics, kernel.extents, strict=True) if extent in lengths}
    vectors = sum(-(-lengths[e] // 8) * 64 + (name in needed) * (-(-lengths[e] // 16) * 64) for name, e in kept.items())
    assert sum(memory.nbytes for memory, _, _ in launcher._shared.vectors._places.values()) == vectors
    assert ctypes.c_int64.in_dll(libraries[0], "optc_asked").value == 0
    assert most.value == 8 * (rows + columns + matrices)  # R, C and the mean of R, while a stage runs
    others = (
        launcher._scratch,
        launcher.partials,
        launcher._waves,
        launcher._grids,
        launcher._table,
        launcher._shared.numbers,
    )
    assert launcher._scratch.nbytes <= 8 * native_matrices.SCRATCH
    assert launcher.chunks.nbytes + sum(array.nbytes for array in others) < 1 << 20


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of memory can be reset on Linux only")
def test_a_step_allocates_nothing_like_a_tensor() -> None:
    thetas = [torch.nn.Parameter(torch.ones(2000, 3000)) for _ in range(3)]
    optimizer = class_of(FACTORED)(thetas, backend="native")
    for p in thetas:
        p.grad = torch.ones_like(p)
    optimizer.step()
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    before = peak_kib()
    for _ in range(3):
        optimizer.step()
    assert peak_kib() - before < 1024


def test_names_of_a_spec_give_way_to_those_of_the_text() -> None:
    text = spec(
        "Named",
        """
        Piece = 0
        if ndim ≥ 2: height = 0 per row; width = 0 per col
""",
        """
        piece = g
        if ndim ≥ 2:
            row_mean = rowmean(g²)
            by_rows = colmean(row_mean)
            height ← height + row_mean/by_rows
            width ← width + colmean(|g|)
            piece = g/(height + width + 1)
        at = sum(piece²)
        Piece ← Piece + piece
        θ ← θ - lr·Piece/(1 + at)
""",
    )
    thetas, gradients = [random((30, 20), torch.float64, 1)], [[random((30, 20), torch.float64, 2)]]
    (found,), _ = run(text, thetas, gradients)
    oracle = Oracle(program_of(text), {})
    kept = oracle.new_parameter(float64(thetas[0]))
    oracle.step(kept, float64(gradients[0][0]))
    np.testing.assert_allclose(float64(found), kept.theta, rtol=1e-12, atol=1e-13)
