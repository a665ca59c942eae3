"""`bf16(stochastic)` on all backends: the bits that an independent generator gives, whatever the batch, and after a resume."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import optc
from optc.dsl.semantics import rounded_to_bf16
from optc.runtime import ieee
from optc.runtime.optimizer import Optimizer
from optc.runtime.tensor_ops import round_bf16
from tests.matrix.runners import laid_out
from tests.reference_cases import Array
from tests.reference_loops_sampling import uniforms
from tests.specs.low_memory import quietly

pytestmark = pytest.mark.usefixtures("one_thread")
every_backend = pytest.mark.parametrize("backend", ["torch", "native", "triton"])

ROUNDS = """
optimizer Rounds:
    hyper: lr = 1.0 in [0, inf)
    step: θ <- lr*round_bf16(θ, g)
"""
SUMS = """
optimizer Sums:
    hyper: lr = 1.0 in [0, inf)
    state: m = 0; k = 0
    step:
        m <- m + g
        if numel == 35: stop
        k <- k - g
        θ <- θ - lr*m
"""
"""No operation but sums and powers of two: every backend computes the same float32 numbers."""
STORING = {"m": "bf16(stochastic)", "k": "bf16(stochastic)", "theta": "bf16(stochastic)"}
SHAPES = [(5, 7), (3,), (), (0, 4), (2, 3, 5), (131,)]


def bits_of(x: Tensor) -> Array:
    """Of float32 numbers, all NaNs alike."""
    return torch.where(x.isnan(), torch.nan, x).view(torch.int32).numpy().astype(np.float64)


def numbers() -> tuple[Tensor, Tensor]:
    """x and u: every exponent, ties, neighbours of bfloat16 numbers, the largest, none; and u on both sides of the share."""
    generator = torch.Generator().manual_seed(3)
    upper = torch.arange(0, 1 << 16, 37, dtype=torch.int64)
    lower = torch.tensor([0, 1, 2, 0x7FFF, 0x8000, 0x8001, 0xFFFE, 0xFFFF])
    bits = (upper[:, None] << 16 | lower).reshape(-1)
    x = torch.where(bits >= 1 << 31, bits - (1 << 32), bits).int().view(torch.float32)
    share = (bits & 0xFFFF).double() / 65536
    u = [share, share - 2.0**-24, share + 2.0**-24, torch.rand(len(bits), generator=generator).double()]
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -0.0, torch.finfo(torch.float32).max])
    x = torch.cat((x.repeat(len(u)), special))
    return x, torch.cat((*u, torch.full((len(special),), 0.25).double())).clamp(0, 1 - 2.0**-24).float()


def by_neighbours(x: Tensor, u: Tensor) -> Tensor:
    """x is between two bfloat16 numbers, and its share of the way to the outer one decides. Float32, as x."""
    down = (x.view(torch.int32) & ~0xFFFF).view(torch.float32)
    up = (down.view(torch.int32) + 0x10000).view(torch.float32)
    share = (x.view(torch.int32) & 0xFFFF).double() / 65536
    return torch.where(x.isnan(), x, torch.where(u.double() < share, up, down))


def expected(x: Tensor, u: Tensor) -> Array:
    return bits_of(by_neighbours(x, u))


def test_the_definition() -> None:
    x, u = numbers()
    found = torch.from_numpy(rounded_to_bf16(x.numpy(), u.numpy())).float()
    assert np.array_equal(bits_of(found), expected(x, u))
    exact = found[found.isfinite()]
    assert torch.equal(exact.bfloat16().float(), exact)
    assert torch.equal(round_bf16(exact, torch.zeros_like(exact)), exact)


def test_numbers_of_the_host() -> None:
    x, u = (values[::61] for values in numbers())
    found = [ieee.round_bf16(a, b) for a, b in zip(x.tolist(), u.tolist(), strict=True)]
    assert np.array_equal(bits_of(torch.tensor(found)), expected(x, u))
    assert ieee.round_bf16(-1e300, 0.5) == -np.inf and ieee.round_bf16(1 + 2.0**-9, 0.3) == 1.0


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_backend_rounds_alike(backend: str, dtype: torch.dtype) -> None:
    x, u = numbers()
    p = nn.Parameter(x.to(dtype))
    p.grad = u.to(dtype)
    cls: Any = optc.compile(ROUNDS)
    cls([p], backend=backend).step()
    assert np.array_equal(bits_of(p.detach().float()), expected(x, u))


def test_the_rounding_is_that_of_torchao_with_its_numbers() -> None:
    with quietly():
        from torchao.optim.quant_utils import _fp32_to_bf16_sr

    x = torch.randn(1 << 16, generator=torch.Generator().manual_seed(1)) * torch.logspace(-30, 30, 1 << 16)
    torch.manual_seed(7)
    theirs = _fp32_to_bf16_sr(x)
    torch.manual_seed(7)
    u = torch.randint(0, 1 << 16, x.shape, dtype=torch.int32) / 65536
    assert torch.equal(round_bf16(x, u), theirs.float())


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(8)
    return [nn.Parameter(torch.randn(shape, generator=generator).bfloat16()) for shape in SHAPES]


def made(params: list[nn.Parameter], backend: str, seed: int = 5) -> Optimizer:
    cls: Any = optc.compile(SUMS, storing=STORING)
    optimizer: Optimizer = cls([{"params": params[:2]}, {"params": params[2:]}], seed=seed, backend=backend)
    return optimizer


def gradients(t: int) -> list[Tensor]:
    """In bfloat16, of many sizes."""
    generator = torch.Generator().manual_seed(100 + t)
    return [
        (torch.randn(s, generator=generator) * 2.0 ** torch.randint(-9, 3, s, generator=generator)).bfloat16() for s in SHAPES
    ]


def step(optimizer: Optimizer, params: list[nn.Parameter], t: int) -> None:
    for p, g in zip(params, gradients(t), strict=True):
        p.grad = g
    optimizer.step()


def kept(optimizer: Optimizer, params: list[nn.Parameter]) -> list[Array]:
    """Parameters and states; what a stopped step has not made is left out."""
    slots = (optimizer.state[p] for p in params)
    return [x.detach().double().numpy() for p, s in zip(params, slots, strict=True) for x in (p, s["m"], s.get("k", p))]


def by_hand(seed: int, steps: int) -> list[Array]:
    """The same in a loop, with another generator of random numbers.

    An element's words go to the lines in the order of the text: the rounding of m and k before `stop`, θ, m and k at the end.
    """

    def rounded(x: Array, u: Array) -> Array:
        single = torch.from_numpy(np.asarray(x, dtype=np.float32))
        return by_neighbours(single, torch.from_numpy(u)).double().numpy()

    found = []
    for number, p in enumerate(parameters()):
        theta, m, k = p.detach().double().numpy(), np.zeros(p.shape), np.zeros(p.shape)
        for t in range(1, steps + 1):
            g = gradients(t)[number].double().numpy()
            words = [uniforms(seed, t, tuple(p.shape), number, place) for place in range(5)]
            m = np.asarray(m + g, dtype=np.float32).astype(np.float64)
            if p.numel() == 35:
                m, k = rounded(m, words[0]), rounded(k, words[1])
            else:
                theta, m, k = rounded(theta - m, words[2]), rounded(m, words[3]), rounded(k - g, words[4])
        found += [theta, m, k]
    return found


@every_backend
def test_steps_are_those_of_a_loop(backend: str) -> None:
    params = parameters()
    optimizer = made(params, backend)
    for t in (1, 2, 3, 4):
        step(optimizer, params, t)
    slots = [optimizer.state[p] for p in params]
    assert all(slot[key].dtype == torch.bfloat16 for slot in slots for key in ("m", "k"))
    for a, b in zip(kept(optimizer, params), by_hand(5, 4), strict=True):
        assert np.array_equal(a, b)


@every_backend
def test_a_resumed_run_rounds_as_the_other_would_have(backend: str) -> None:
    params, others = parameters(), parameters()
    one, other = made(params, backend), made(others, "torch", seed=99)
    step(one, params, 1)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    with torch.no_grad():
        for p, q in zip(params, others, strict=True):
            q.copy_(p)
    for t in (2, 3):
        step(one, params, t)
        step(other, others, t)
    for a, b in zip(kept(one, params), kept(other, others), strict=True):
        assert np.array_equal(a, b)


@every_backend
def test_the_place_in_memory_does_not_matter(backend: str) -> None:
    """Nor do threads, or who else takes part: numbers belong to elements."""
    torch.set_num_threads(2)  # the fixture sets it back
    params = parameters()
    scattered = [nn.Parameter(laid_out(p.detach(), "transposed" if p.ndim == 2 else "gaps")) for p in params]
    one, other = made(params, backend), made(scattered, backend)
    for t in (1, 2):
        step(one, params, t)
        for some in (0, 1):
            for number, (p, g) in enumerate(zip(scattered, gradients(t), strict=True)):
                p.grad = g if number % 2 == some else None
            other.step()
    for a, b in zip(kept(one, params), kept(other, scattered), strict=True):
        assert np.array_equal(a, b)


@every_backend
def test_parameters_of_other_dtypes_are_not_rounded(backend: str) -> None:
    p = nn.Parameter(torch.full((35, 2), 1 + 2.0**-20))
    p.grad = torch.full_like(p, 2.0**-20)
    cls: Any = optc.compile(SUMS, storing={"theta": "bf16(stochastic)"})
    cls([p], backend=backend).step()
    assert torch.equal(p, torch.ones_like(p))


def test_the_mean_of_many_steps_is_the_number() -> None:
    """1/1024 is lost on a bfloat16 parameter near 1 where it is rounded to nearest."""
    moved = {}
    for storing in ({}, {"theta": "bf16(stochastic)"}):
        p = nn.Parameter(torch.ones(4096).bfloat16())
        cls: Any = optc.compile("sgd", storing=storing) if storing else optc.compile("sgd")
        optimizer = cls([p], lr=1.0, momentum=0.0)
        for _ in range(64):
            p.grad = torch.full_like(p, -(2.0**-10))
            optimizer.step()
        moved[bool(storing)] = float(p.float().mean()) - 1
    assert moved[False] == 0
    # each step moves 1/8 of the elements by 1/128: a variance of 7/64 (1/128)²
    assert abs(moved[True] - 64 / 1024) < 6 * (64 * 7 / 64 / 4096) ** 0.5 / 128


def test_an_average_follows_small_changes() -> None:
    """With β₂ = 0.999, an average in bfloat16 that is rounded to nearest stops at once."""
    end = {}
    for storage in ("bf16", "bf16(stochastic)"):
        p = nn.Parameter(torch.zeros(4096))
        cls: Any = optc.compile("adam", storing={"v": storage})
        optimizer = cls([p], lr=0.0)
        for t in range(400):
            p.grad = torch.full_like(p, 1.0 if t < 200 else 0.0)
            optimizer.step()
        end[storage] = float(optimizer.state[p]["exp_avg_sq"].float().mean())
    exact = (1 - 0.999**200) * 0.999**200
    assert abs(end["bf16(stochastic)"] - exact) < 0.01 * exact
    assert abs(end["bf16"] - exact) > 0.1 * exact
