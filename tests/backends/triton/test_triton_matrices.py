"""Kernels on rows, columns and matrices, on Triton: against the oracle, and what must not change a bit of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from optc.compiler.aot import TARGETS, Request, reports
from optc.compiler.instant import compile_class
from optc.compiler.pipeline import compile_source
from optc.compiler.traffic import default_variant
from optc.dsl.source import Source
from optc.runtime.schema import Kernel
from optc.runtime.triton_kernel import LazyKernel
from optc.runtime.triton_matrices import PANEL
from tests.backends.matrices import EVERY_EXTENT, FACTORED, SPECS
from tests.backends.reducing import kernel_of
from tests.backends.test_draws import REDUCING
from tests.backends.triton.test_triton_reductions import follow_the_oracle, kept, made, randn, same_bits, step

interpreted = pytest.mark.usefixtures("interpreted")
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # NumPy, inside the interpreter

SHAPES = ((1, 20), (20, 1), (2, 4, 5), (0, 3), (3, 0), (2, 1, 3, 3), (3, PANEL + 1), (PANEL + 1, 3))
SMALL = ((7, 5), (1, 9), (2, 3, 3))


@interpreted
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-12)])
def test_matrices_follow_the_oracle(name: str, dtype: torch.dtype, tolerance: float) -> None:
    follow_the_oracle(SPECS[name], SHAPES if dtype == torch.float32 else SMALL, dtype, 2, tolerance)


@interpreted
@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-12)])
def test_large_matrices_follow_the_oracle(name: str, dtype: torch.dtype, tolerance: float) -> None:
    shapes = (*SHAPES, (PANEL + 9, PANEL + 1), (300, 257), (1, 1000), (1000, 1), (8, 3, 3, 3), (2, 2, 1100, 3))
    follow_the_oracle(SPECS[name], shapes, dtype, 3, tolerance)


@interpreted
@pytest.mark.parametrize("name", SPECS)
def test_tensors_without_rows_follow_the_oracle(name: str) -> None:
    follow_the_oracle(SPECS[name], ((5,), (), (0,), (700,)), torch.float64, 2, 1e-12)


@interpreted
@pytest.mark.parametrize("name", SPECS)
def test_one_step_in_bfloat16_is_off_by_its_rounding_only(name: str) -> None:
    """The interpreter truncates where a GPU rounds: one unit in the last place."""
    follow_the_oracle(SPECS[name], SMALL, torch.bfloat16, 1, 2.0**-7)


@interpreted
def test_not_a_number_stays_in_its_row() -> None:
    text = SPECS["after the step"]
    thetas, gradients = randn([(6, 4), (3, 3)], torch.float32, 0), randn([(6, 4), (3, 3)], torch.float32, 1)
    clean, first = made(text, thetas)
    step(first, clean, gradients)
    gradients[0][2, 1] = math.nan
    soiled, second = made(text, thetas)
    step(second, soiled, gradients)
    others = torch.tensor([0, 1, 3, 4, 5])
    assert torch.isnan(soiled[0][2]).all()
    assert torch.equal(clean[0][others], soiled[0][others])
    assert torch.equal(first.state[clean[0]]["V"][others], second.state[soiled[0]]["V"][others])
    assert same_bits(kept(first, clean[1]), kept(second, soiled[1]))


@interpreted
@pytest.mark.parametrize("name", SPECS)
def test_neither_batch_mates_nor_alignment_change_a_bit(name: str) -> None:
    shapes = ((9, 136), (130, 8), (2, 3, 4))
    thetas, gradients = randn(shapes, torch.float32, 0), randn(shapes, torch.float32, 1)
    together, optimizer = made(SPECS[name], thetas)
    step(optimizer, together, gradients)
    for i, p in enumerate(together):
        alone, own = made(SPECS[name], thetas[i : i + 1])
        store = torch.empty(p.numel() + 3)
        alone[0].data = store[3:].view(p.shape).copy_(alone[0].data)
        assert alone[0].data_ptr() % 16
        step(own, alone, gradients[i : i + 1])
        assert same_bits(kept(optimizer, p), kept(own, alone[0]))


@interpreted
@pytest.mark.parametrize("name", SPECS)
def test_tensors_without_a_gradient_are_left_out_of_a_step(name: str) -> None:
    thetas = randn(SMALL, torch.float32, 0)
    parameters, optimizer = made(SPECS[name], thetas)
    step(optimizer, parameters, randn(SMALL, torch.float32, 1))
    before = kept(optimizer, parameters[1])
    gradients = randn(SMALL, torch.float32, 2)
    step(optimizer, parameters, [gradients[0], None, gradients[2]])
    assert same_bits(before, kept(optimizer, parameters[1]))
    alone, own = made(SPECS[name], thetas[2:])
    step(own, alone, randn(SMALL, torch.float32, 1)[2:])
    step(own, alone, gradients[2:])
    assert same_bits(kept(optimizer, parameters[2]), kept(own, alone[0]))


@interpreted
def test_launches_do_not_grow_with_tensors() -> None:
    kernel = kernel_of(EVERY_EXTENT)
    found = [launches(kernel, partial(_one_step, EVERY_EXTENT, [(i + 2, 3) for i in range(n)])) for n in (1, 9)]
    assert found[0] == found[1]
    assert len(found[0]) == len(kernel.passes) + sum(len(f.steps) or 1 for f in stages(kernel))


def _one_step(text: str, shapes: Sequence[tuple[int, int]]) -> None:
    parameters, optimizer = made(text, randn(shapes, torch.float32, 0))
    step(optimizer, parameters, randn(shapes, torch.float32, 1))


def stages(kernel: Kernel) -> list[LazyKernel]:
    return [f for f in (*(p.stage for p in kernel.passes), kernel.finish) if f is not None]


def launches(kernel: Kernel, action: Any) -> list[str]:
    passes = [f for p in kernel.passes for f in (p.triton, p.triton.panels) if f is not None]
    every = [*passes, *(f for stage in stages(kernel) for f in (stage, *stage.steps))]
    found: list[str] = []
    hooks = [(f.jit, lambda *_, name=f.__name__, **__: found.append(name)) for f in every]
    for jit, hook in hooks:
        jit.add_pre_run_hook(hook)
    try:
        action()
    finally:
        for jit, hook in hooks:
            jit.pre_run_hooks.remove(hook)
    return found


@interpreted
@pytest.mark.parametrize("name", SPECS)
def test_a_step_skipped_on_the_device_changes_nothing(name: str) -> None:
    parameters, optimizer = made(SPECS[name], randn(SMALL, torch.float32, 0), capturable=True, amp=True)
    for t, found in ((1, 0.0), (2, 1.0)):
        gradients = randn(SMALL, torch.float32, t)
        before = [kept(optimizer, p) for p in parameters]
        optimizer.grad_scale, optimizer.found_inf = None, torch.tensor([found])
        step(optimizer, parameters, [torch.full_like(g, math.nan) for g in gradients] if found else gradients)
        same = [same_bits(kept(optimizer, p), old) for p, old in zip(parameters, before, strict=True)]
        assert all(same) if found else not any(same)


@interpreted
def test_a_matrix_of_a_stack_is_as_if_alone() -> None:
    """The oracle, too, but here to the bit: panels of one matrix know nothing of another."""
    thetas, gradients = randn([(3, 20, 12)], torch.float32, 0), randn([(3, 20, 12)], torch.float32, 1)
    text = FACTORED.replace("        u = u/max(1, rms(u))\n", "").replace("max(ε, rms(θ))·", "")
    stack, one = made(text, thetas)
    step(one, stack, gradients)
    apart, other = made(text, list(thetas[0]))
    step(other, apart, list(gradients[0]))
    assert torch.equal(stack[0], torch.stack([*apart]))


@pytest.mark.parametrize("targets", [("sm_90",), pytest.param(TARGETS, marks=pytest.mark.slow)], ids=["one", "all"])
def test_their_functions_compile_for_every_target(tmp_path: Path, targets: tuple[str, ...]) -> None:
    """No spills, no atomics, wide accesses to every stream of the unmasked loop; powers and float64 as in the matrix of all."""
    pytest.importorskip("triton")
    compilation = compile_source(Source("<text>", FACTORED))
    path = tmp_path / "factored.py"
    path.write_text(compilation.module)
    kernel = compile_class(FACTORED).schema.procedures[0].kernels[0]
    variant = default_variant(compilation.plan)
    assert variant == {"ndim_ge_two": True}
    panels = [p.triton.panels.__name__ for p in kernel.passes if p.triton.panels is not None]
    steps = [step.__name__ for stage in stages(kernel) for step in stage.steps]
    both = dict.fromkeys(("theta", "g"), "float32")
    requests = [Request(n, t, both, variant, reducing=True) for n in (*panels, *steps) for t in targets]
    for request, report in zip(requests, reports(str(path), requests), strict=True):
        assert (report.stack, report.local, report.spills, report.atomics) == (0, 0, 0, 0), report
        assert report.registers <= 168, report
        if request.function in panels:
            one = kernel.passes[panels.index(request.function)]
            loaded = [s for s in one.streams if s.extent == "elem" and s.is_read(variant) and s.name in both]
            stored = [s for s in one.streams if s.writes and s.name in both]
            assert (report.load_widths.count(16), report.store_widths.count(16)) == (len(loaded), len(stored)), report


def test_random_numbers_compile_in_panels_and_chunks(tmp_path: Path) -> None:
    """Of runs of elements, which tensors may have that are divided among processes."""
    pytest.importorskip("triton")
    compilation = compile_source(Source("<text>", REDUCING))
    path = tmp_path / "reducing.py"
    path.write_text(compilation.module)
    kernels = [k for one in compile_class(REDUCING).schema.procedures for k in one.kernels]
    variant = default_variant(compilation.plan)
    passes = [p.triton for k in kernels for p in k.passes]
    names = [f.__name__ for f in passes] + [f.panels.__name__ for f in passes if f.panels is not None]
    assert any("panels" in name for name in names)
    dtypes = dict.fromkeys(("theta", "g", "m"), "float32")
    requests = [Request(n, t, dtypes, variant, reducing=True, draws=True) for n in names for t in ("sm_90", "gfx942")]
    for report in reports(str(path), requests):
        assert (report.stack, report.local, report.spills, report.atomics) == (0, 0, 0, 0), report
