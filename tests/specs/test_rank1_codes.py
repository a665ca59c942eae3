"""`linear4_rank1`: the codes and numbers of arXiv:2309.01507, by a rule written here in NumPy, on every shape and resumed.

Its authors scale a number by the smaller one of the largest of its row and of its column, and take the nearest of i/16. Here
the rule says what it means by looking at every level for every number, in float64, where all distances are exact.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import optc
from optc.compiler.compose.expand import expand
from optc.compiler.interpret import Oracle
from optc.compiler.pipeline import check_source
from optc.dsl.errors import SpecError
from optc.dsl.source import Source
from optc.generated import AdamW4bitRank1
from optc.runtime.backend import BackendUnavailable
from optc.runtime.optimizer import Optimizer
from tests.specs.low_memory import one_thread

Single: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

KEEPS = """
optimizer Keeps:
    hyper: lr = 1.0 in [0, inf)
    state: v = 0
    storing v: linear4_rank1(smallest = 0)
    step:
        v <- v/2 + abs(g)
        θ <- lr*v
"""
"""Halves and sums alone: every backend computes the same float32 numbers, whether a product is joined to a sum or not."""
SHAPES = ((64, 64), (300, 17), (17, 300), (1, 5000), (5000, 1), (7, 13), (1, 1), (3, 40, 50), (2, 3, 8, 9), (0, 4), (4, 0))
CUT = ((1024, 640), (1001, 999), (2, 700, 512), (2050, 128))
"""Large enough to be shared by threads: in rows that begin with a group of codes, and not at all."""
LEVELS = np.arange(1, 17) / 16
backends = pytest.mark.parametrize("backend", ["torch", "native"])


@pytest.fixture(autouse=True)
def single() -> Iterator[None]:
    with one_thread():
        yield


def scale_of(x: Single) -> Single:
    """For each number the smaller one of the two largest."""
    if not x.size:
        return x
    finite = np.where(np.isfinite(x), x, np.float32(0))
    scale: Single = np.minimum(finite.max(axis=-1, keepdims=True), finite.max(axis=-2, keepdims=True))
    return scale


def rule(x: Single) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], Single]:
    """Codes, and the numbers that they are. Of two levels that are equally near the larger is taken, as in `linear4`."""
    scale = scale_of(x)
    with np.errstate(all="ignore"):
        ratio = (x / scale).astype(np.float64)
    distance = np.abs(np.clip(np.nan_to_num(ratio, nan=0.0), 0, 1)[..., None] - LEVELS)
    codes = (15 - distance[..., ::-1].argmin(axis=-1)).astype(np.uint8)
    return codes, (LEVELS.astype(np.float32)[codes] * scale).astype(np.float32)


def unpacked(memory: Tensor, numel: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The first of two codes is in the upper half of a byte."""
    found: np.ndarray[Any, np.dtype[np.uint8]] = np.stack([memory.numpy() >> 4, memory.numpy() & 15], axis=1).reshape(-1)
    return found[:numel]


def gradients(t: int, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Of many sizes; with rows and columns of zeros, and once zeros alone."""
    found = []
    for number, shape in enumerate(shapes):
        generator = torch.Generator().manual_seed(100 * t + number)
        g = torch.randn(shape, generator=generator) * torch.exp(2 * torch.randn(shape, generator=generator))
        if g.numel() > 4 and len(shape) >= 2:
            g[..., 0, :] = 0
            g[..., -1] = 0
        if t == 3 and number % 2:
            g.zero_()
        found.append(g)
    return found


def made(shapes: Sequence[tuple[int, ...]], backend: str, text: str = KEEPS) -> tuple[list[nn.Parameter], Optimizer]:
    params = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    cls: Any = optc.compile(text)
    return params, cls(params, backend=backend)


def step(optimizer: Optimizer, params: Sequence[nn.Parameter], given: Sequence[Tensor]) -> None:
    for p, g in zip(params, given, strict=True):
        p.grad = g.clone()
    optimizer.step()


@backends
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shapes", [SHAPES, CUT], ids=["small", "cut"])
def test_codes_and_numbers_are_those_of_the_rule(backend: str, threads: int, shapes: tuple[tuple[int, ...], ...]) -> None:
    torch.set_num_threads(threads)  # the fixture sets it back
    params, optimizer = made(shapes, backend)
    kept = [np.zeros(shape, dtype=np.float32) for shape in shapes]
    for t in range(5):
        given = gradients(t, shapes)
        step(optimizer, params, given)
        for k, (p, g) in enumerate(zip(params, given, strict=True)):
            x = (kept[k] / 2 + np.abs(g.numpy())).astype(np.float32)
            assert np.array_equal(p.detach().numpy(), x), "the step computes with the numbers as they are"
            codes, kept[k] = rule(x)
            slot = optimizer.state[p]
            assert np.array_equal(unpacked(slot["v_code"], p.numel()), codes.reshape(-1)), (t, p.shape)
            if p.numel():
                finite = x.max(axis=-1, keepdims=True), x.max(axis=-2, keepdims=True)
                assert np.array_equal(slot["v_row"].numpy(), finite[0]) and np.array_equal(slot["v_col"].numpy(), finite[1])
            assert torch.equal(slot["v_code_scale"], torch.ones_like(slot["v_code_scale"]))


@backends
def test_of_two_levels_that_are_equally_near_the_larger_is_kept(backend: str) -> None:
    (p,), optimizer = made([(33, 48)], backend)
    g = torch.arange(33.0).repeat(48, 1).T / 32
    g[-1], g[:, 0] = 1, 1
    step(optimizer, [p], [g])
    codes = unpacked(optimizer.state[p]["v_code"], p.numel()).reshape(33, 48)
    assert codes[:, 1].tolist() == [max(0, (k + 1) // 2 - 1) for k in range(33)]
    assert np.array_equal(codes, rule(g.numpy())[0])


@backends
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_keep_the_same_codes(backend: str, dtype: torch.dtype) -> None:
    """Numbers of bfloat16 are exact in all of them."""
    params = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in SHAPES]
    cls: Any = optc.compile(KEEPS)
    optimizer = cls(params, backend=backend)
    given = [g.bfloat16() for g in gradients(1, SHAPES)]
    step(optimizer, params, [g.to(dtype) for g in given])
    for p, g in zip(params, given, strict=True):
        codes, _ = rule(np.abs(g.float().numpy()))
        assert np.array_equal(unpacked(optimizer.state[p]["v_code"], p.numel()), codes.reshape(-1))


@backends
def test_what_is_not_finite_harms_no_neighbour(backend: str) -> None:
    (p,), optimizer = made([(40, 30)], backend)
    (g,) = gradients(1, [(40, 30)])
    g[3, 4], g[5, 6], g[7], g[8, 9] = torch.nan, torch.inf, torch.nan, -torch.inf
    step(optimizer, [p], [g])
    x = np.abs(g.numpy())
    codes, kept = rule(x)
    assert np.array_equal(unpacked(optimizer.state[p]["v_code"], p.numel()), codes.reshape(-1))
    assert np.array_equal(np.isfinite(p.detach().numpy()), np.isfinite(x)), "the step sees what is not finite"
    assert np.isfinite(kept).all() and codes[5, 6] == codes[8, 9] == 15 and not codes[7].any() and codes[3, 4] == 0
    step(optimizer, [p], [torch.zeros(40, 30)])
    assert np.array_equal(p.detach().numpy(), kept / 2)


@backends
def test_no_number_is_off_by_more_than_a_sixteenth_of_its_scale(backend: str) -> None:
    """Half of the distance of two levels; a sixteenth below the lowest of them. And rounding to float32, twice."""
    (p,), optimizer = made([(200, 300)], backend)
    (g,) = gradients(1, [(200, 300)])
    step(optimizer, [p], [g])
    x, scale = np.abs(g.numpy()), scale_of(np.abs(g.numpy()))
    step(optimizer, [p], [torch.zeros(200, 300)])
    off = np.abs(2 * p.detach().double().numpy() - x)
    room = 3 * 2.0**-24
    assert (off <= (1 / 16 + room) * scale).all()
    assert (off <= (1 / 32 + room) * scale)[x >= scale / 16].all()


def test_its_numbers_are_the_oracles() -> None:
    """Small whole gradients: float32 holds all numbers of three steps."""
    program = check_source(Source("x.opt", KEEPS))
    oracle = Oracle(program)
    (p,), optimizer = made([(23, 31)], "torch")
    param = oracle.new_parameter(np.zeros((23, 31)))
    for t in range(3):
        g = torch.randint(-9, 10, (23, 31), generator=torch.Generator().manual_seed(t)).float()
        g[4] = 0
        step(optimizer, [p], [g])
        oracle.step(param, g.double().numpy())
        codes = unpacked(optimizer.state[p]["v_code"], p.numel()).reshape(23, 31)
        assert np.array_equal(param.theta, p.detach().double().numpy())
        assert np.array_equal(param.states["v_code"], LEVELS[codes])
        assert np.array_equal(param.states["v_row"], optimizer.state[p]["v_row"].double().numpy())


@backends
def test_a_resumed_run_is_the_same(backend: str) -> None:
    shapes = ((80, 70), (5000,), (3, 40, 50), (5, 3))
    params, others = ([nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    one, other = (AdamW4bitRank1(ps, lr=1e-2, amsgrad=True, backend=backend) for ps in (params, others))
    for t in range(2):
        step(one, params, gradients(t, shapes))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    with torch.no_grad():
        for p, q in zip(params, others, strict=True):
            q.copy_(p)
    for t in range(2, 5):
        for optimizer, its in ((one, params), (other, others)):
            step(optimizer, its, gradients(t, shapes))
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)
        assert all(torch.equal(one.state[p][key], other.state[q][key]) for key in one.state[p])


@backends
def test_tensors_of_one_dimension_and_small_ones(backend: str) -> None:
    """The former are kept as `linear4`, in blocks of 128, the latter as they are."""
    shapes = ((5000,), (4095,), (63, 65), (64, 64))
    params = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    optimizer = AdamW4bitRank1(params, backend=backend)
    step(optimizer, params, gradients(0, shapes))
    keys = [sorted(key for key in optimizer.state[p] if key.startswith("exp_avg_sq")) for p in params]
    assert keys[0] == ["exp_avg_sq", "exp_avg_sq_scale"] and keys[1] == keys[2] == ["exp_avg_sq"]
    assert keys[3] == [f"exp_avg_sq_{part}" for part in ("code", "code_scale", "col", "row")]
    slots = [optimizer.state[p] for p in params]
    assert slots[0]["exp_avg_sq"].shape == (2500,) and slots[0]["exp_avg_sq_scale"].shape == (40,)
    assert all(slot["exp_avg_sq"].dtype == torch.float32 for slot in slots[1:3])
    x = (np.float32(1 - 0.999) * gradients(0, shapes)[0].numpy() ** 2).astype(np.float32)
    assert np.allclose(slots[0]["exp_avg_sq_scale"].numpy()[:39], x[: 39 * 128].reshape(39, 128).max(axis=1), rtol=1e-6)


def test_bytes_of_the_state() -> None:
    (p,) = params = [nn.Parameter(torch.ones(1024, 1024))]
    optimizer = AdamW4bitRank1(params)
    step(optimizer, params, gradients(0, [(1024, 1024)]))
    sizes = {k: x.numel() * x.element_size() for k, x in optimizer.state[p].items() if k.startswith("exp_avg_sq")}
    assert sizes == {
        "exp_avg_sq_code": 2**19, "exp_avg_sq_code_scale": 4 * 256, "exp_avg_sq_row": 4096, "exp_avg_sq_col": 4096,
    }  # fmt: skip


def test_triton_has_no_such_kernels_and_says_so() -> None:
    (p,), optimizer = made([(64, 64)], "triton")
    with pytest.raises(BackendUnavailable, match="rows"):
        step(optimizer, [p], gradients(0, [(64, 64)]))
    assert not optimizer.state and not p.any()


def test_it_keeps_no_negative_numbers() -> None:
    with pytest.raises(SpecError, match="keeps no negative numbers") as caught:
        expand(Source("x.opt", "optimizer X = AdamW storing m: linear4_rank1\n"))
    assert {found.code for found in caught.value.diagnostics} == {"unsigned-storage"}
