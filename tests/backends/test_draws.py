"""Random numbers on all backends: the very ones of the oracle, whatever the dtype, the layout, the batch or the threads."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

import optc
from optc.compiler.pipeline import check_source, plan_program
from optc.compiler.traffic import PRECISIONS, streams_in, traffic
from optc.dsl.philox import ELEMENTS
from optc.dsl.source import Source
from optc.runtime.backend import Residents
from optc.runtime.draws import Elements, uniform
from optc.runtime.native import NATIVE
from optc.runtime.optimizer import Optimizer
from optc.runtime.sharding import Runs
from tests.matrix.runners import laid_out
from tests.reference_cases import Array
from tests.reference_loops_sampling import normals, uniforms

UNIFORM = """
optimizer Uniform:
    hyper: lr = 1.0 in [0, inf); seed = 0 in int [0, inf)
    state: m = 0
    step:
        m <- uniform(seed)
        θ <- θ - 0*lr*m*g
"""
NORMAL = UNIFORM.replace("uniform(", "normal(")
REDUCING = """
optimizer Reducing:
    hyper: lr = 1.0 in [0, inf); seed = 0 in int [0, inf)
    state: m = 0; n = 0 per tensor; k = 0 per model
    step:
        u = uniform(seed)
        n <- sum(u)
        m <- u/n
        k <- total(sum(u*u))
        if ndim >= 2: r = rowmax(u)
        else: r = 0
        θ <- θ - 0*lr*g*m*r*k
"""
BACKENDS = ["torch", "native", "triton"]
SHAPES = [(5, 7), (3,), (), (0, 4), (2, 3, 5), (131,)]

pytestmark = pytest.mark.usefixtures("one_thread")
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def parameters(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]


def step(optimizer: Optimizer, present: list[torch.nn.Parameter]) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p) if any(p is q for q in present) else None
    optimizer.step()


def states(optimizer: Optimizer, params: list[torch.nn.Parameter], key: str = "m") -> list[Array]:
    return [optimizer.state[p][key].double().numpy().copy() for p in params]


def made(text: str, params: list[torch.nn.Parameter], backend: str, seed: int = 5, **options: Any) -> Optimizer:
    cls: Any = optc.compile(text)
    optimizer: Optimizer = cls([{"params": params[:2]}, {"params": params[2:]}], seed=seed, backend=backend, **options)
    return optimizer


def same(found: list[Array], expected: list[Array]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed", [5, 2**40 + 3])
def test_uniform_numbers_are_equal_to_the_bit(backend: str, dtype: torch.dtype, seed: int) -> None:
    params = parameters(SHAPES, dtype)
    optimizer = made(UNIFORM, params, backend, seed)
    for t in (1, 2):
        step(optimizer, params)
        assert same(states(optimizer, params), [uniforms(seed, t, s, number) for number, s in enumerate(SHAPES)])


@every_backend
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 2e-15)])
def test_normal_numbers_are_equal_but_for_rounding(backend: str, dtype: torch.dtype, tolerance: float) -> None:
    params = parameters(SHAPES, dtype)
    optimizer = made(NORMAL, params, backend)
    step(optimizer, params)
    for number, (m, shape) in enumerate(zip(states(optimizer, params), SHAPES, strict=True)):
        assert np.abs(m - normals(5, 1, shape, number)).max(initial=0.0) <= tolerance


@every_backend
def test_numbers_are_those_of_the_element_wherever_it_lies(backend: str) -> None:
    shapes = [(6, 4), (4, 5), (3, 2)]
    layouts = ["transposed", "gaps", "contiguous"]
    params = [torch.nn.Parameter(laid_out(torch.zeros(s), how)) for s, how in zip(shapes, layouts, strict=True)]
    optimizer = made(UNIFORM, params, backend)
    step(optimizer, params)
    assert same(states(optimizer, params), [uniforms(5, 1, s, number) for number, s in enumerate(shapes)])


@every_backend
def test_numbers_do_not_depend_on_who_else_takes_part(backend: str) -> None:
    params = parameters(SHAPES)
    optimizer, t = made(UNIFORM, params, backend), [0] * len(params)
    for present in ([0, 1, 2, 3, 4, 5], [1, 4], [0, 2, 4, 5], [5], [0, 1, 2, 3, 4, 5]):
        step(optimizer, [params[i] for i in present])
        for i in present:
            t[i] += 1
            assert np.array_equal(states(optimizer, [params[i]])[0], uniforms(5, t[i], SHAPES[i], i))


@every_backend
def test_a_resumed_run_draws_what_the_other_would_have(backend: str) -> None:
    params, others = parameters(SHAPES), parameters(SHAPES)
    one, other = made(NORMAL, params, backend), made(NORMAL, others, backend, seed=99)
    step(one, params)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    step(one, params)
    step(other, others)
    assert same(states(one, params), states(other, others)) and other.param_groups[1]["seed"] == 5


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_neither_threads_nor_chunks_change_a_number(backend: str) -> None:
    shape, found = (3, 50_021), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        params = parameters([shape, (7,)])
        optimizer = made(NORMAL, params, backend)
        step(optimizer, params)
        found.append(states(optimizer, params))
    assert same(*found)
    at = made(UNIFORM, params, backend)
    step(at, params)
    for first in (0, 150_043):
        assert np.array_equal(states(at, params)[0].reshape(-1)[first : first + 20], uniforms(5, 1, (20,), first=first))


def drawn_from(runs: Runs, count: int, step: int) -> tuple[Array, Array]:
    """What the native kernel and PyTorch draw for these elements, wherever the first one is."""
    kernel = optc.compile(UNIFORM).schema.procedures[0].kernels[0]
    tensors = {"theta": [torch.zeros(count)], "m": [torch.zeros(count)]}
    (launcher,) = NATIVE.prepare([kernel], [Residents(tensors, torch.float32, {}, [torch.Size([count])], [runs])])
    given = {"lr": 1.0, "seed_low": 5.0, "seed_high": 0.0, "t_low": float(step), "t_high": 0.0}
    launcher.launch({"g": [torch.ones(count)]}, [given.get(name, 0.0) for name in kernel.scalars], [], 1.0)
    element = Elements(runs, (count,), torch.float64, torch.device("cpu"))
    return tensors["m"][0].double().numpy(), uniform(element, 5.0, 0.0, step, 0.0, 0.0).numpy()


@pytest.mark.parametrize("first", [ELEMENTS - 37, 3 * 2**34 - 37, 5 * ELEMENTS - 1])
def test_numbers_go_on_beyond_32_bits(first: int) -> None:
    """The upper half of a block's number changes within a chunk, and within a vector."""
    expected = uniforms(5, 9, (200,), first=first - ELEMENTS)
    for found in drawn_from(Runs(first), 200, 9):
        assert np.array_equal(found, expected)


def test_numbers_may_begin_anywhere() -> None:
    """A shard does: in the midst of a block, and with few elements."""
    expected = uniforms(5, 2, (700,))
    for first in (0, 1, 2, 3, 7, 250, 255):
        for count in (1, 2, 3, 4, 5, 31, 64, 255, 256, 257, 445):
            for found in drawn_from(Runs(ELEMENTS + first), count, 2):
                assert np.array_equal(found, expected[first : first + count]), (first, count)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 64, 257, 600])
def test_numbers_may_go_on_in_runs(length: int) -> None:
    """Those of some columns do: pieces of rows that begin anywhere in a block, several in a buffer, or a part of one."""
    expected = uniforms(5, 2, (40_000,))
    for first, more, count in product((0, 1, 6, 16), (0, 1, 2, 3, 16, 37), (1, 5, 64, 255, 513)):
        step = length + more
        places = [first + place // length * step + place % length for place in range(count)]
        runs = Runs(ELEMENTS + first, length, step)
        if places[-1] < len(expected):
            for found in drawn_from(runs, count, 2):
                assert np.array_equal(found, expected[places]), (first, step, count)


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 7, 1000])
def test_picked_elements_have_numbers_of_their_own(stride: int) -> None:
    picked = Elements(Runs(ELEMENTS + 3), (131,), torch.float64, torch.device("cpu")).picked(stride)
    found = uniform(picked, 5.0, 0.0, 2.0, 0.0, 0.0).numpy()
    assert np.array_equal(found, uniforms(5, 2, (131,), first=3)[::stride])


@every_backend
def test_passes_draw_the_same_numbers_again(backend: str) -> None:
    """A draw is computed anew in every pass that needs it; nothing of it is kept in memory."""
    params = parameters(SHAPES, torch.float64)
    optimizer = made(REDUCING, params, backend)
    step(optimizer, params)
    expected = [uniforms(5, 1, shape, number) for number, shape in enumerate(SHAPES)]
    assert np.allclose(states(optimizer, params, "n"), [u.sum() for u in expected], rtol=1e-12)
    for m, u in zip(states(optimizer, params), expected, strict=True):
        np.testing.assert_allclose(m, u / u.sum() if u.size else u, rtol=1e-12)
    assert float(optimizer.param_groups[0]["k"]) == pytest.approx(sum((u * u).sum() for u in expected), rel=1e-12)


@pytest.mark.parametrize("options", [{"capturable": True}, {"amp": True}])
def test_numbers_are_the_same_when_steps_are_counted_on_the_device(options: dict[str, bool]) -> None:
    params = parameters(SHAPES)
    optimizer = made(UNIFORM, params, "triton", 2**40 + 3, **options)
    for t in (1, 2, 3):
        step(optimizer, params)
        assert same(states(optimizer, params), [uniforms(2**40 + 3, t, s, number) for number, s in enumerate(SHAPES)])


@every_backend
def test_maximize_turns_the_gradient_and_not_the_noise(backend: str) -> None:
    params, others = parameters(SHAPES), parameters(SHAPES)
    one, other = made(NORMAL, params, backend), made(NORMAL, others, backend, maximize=True)
    step(one, params)
    step(other, others)
    assert same(states(one, params), states(other, others))


def test_the_plan_counts_no_bytes_for_drawn_numbers() -> None:
    for text, passes, moved in ((UNIFORM, 1, 16), (NORMAL, 1, 16)):
        _, plan = plan_program(check_source(Source("<test>", text)))
        cost = traffic(plan.procedures[0], {}, PRECISIONS[0])
        assert (cost.passes, cost.total) == (passes, moved)  # θ and m are written, θ and g read


def test_a_pass_that_only_draws_moves_nothing() -> None:
    _, plan = plan_program(check_source(Source("<test>", REDUCING)))
    kernel = plan.procedures[0].kernels[0]
    assert [s.name for s in kernel.passes[0].streams] == ["theta", "element"]
    assert not any(read or written for name, _, read, written in streams_in(kernel.passes[0], {}) if name == "theta")
