"""States kept as two vectors and a bit for each sign: against adv_optm, a loop of SMMF's, and one another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import optc
from optc.dsl.program import squarest
from optc.generated import AdamWFactored
from optc.runtime.optimizer import Optimizer
from tests.runtime.training import twins
from tests.specs.low_memory import one_thread, quietly

SHAPES = ((64, 70), (5, 3), (7, 13), (3, 4, 5), (8,), (2, 8, 3, 3), (1, 1), (131, 1), (0, 4))
"""Sizes with squares, primes, more than two dimensions, bytes that rows share, one dimension, and nothing."""
BACKENDS = ["torch", "native", "triton"]
every_backend = pytest.mark.parametrize("backend", BACKENDS)

SMMF: Any = optc.compile("""
optimizer SMMF:
    hyper:
        lr = 1e-3 in [0, inf)
        beta = 0.9 in [0, 1)
        eps = 1e-8 in [0, inf)
        weight_decay = 0.0 in [0, inf)
        decay_rate = -0.5 in [-1, 0]
        growth_rate = 0.999 in [0, 1]
    state: m = 0; v = 0
    storing m: sign_rank1, v: rank1
    step:
        m <- ema(m, g, beta*growth_rate^(t - 1))
        v <- ema(v, g^2, 1 - t^decay_rate)
        θ <- (1 - lr*weight_decay)*θ - lr*m/(sqrt(v) + eps)
""")
"""That of arXiv:2412.08894, with decoupled decay."""
LionFactored: Any = optc.compile("lion", storing={"m": "sign_rank1"})
AdamWSquare: Any = optc.compile("adamw", storing={"m": "sign_rank1", "v": "rank1", "v_max": "rank1"})
"""AdamW with the storages of SMMF, as adv_optm has it."""
both = pytest.mark.parametrize("adamw", [AdamWFactored, AdamWSquare], ids=["rows", "square"])


@pytest.fixture(autouse=True)
def single() -> Iterator[None]:
    with one_thread():
        yield


def parameters(shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def give_gradients(t: int, *models: Sequence[Tensor]) -> None:
    """The same to all; every third is 0 over a part, and once over the whole tensor."""
    for number, same in enumerate(zip(*models, strict=True)):
        generator = torch.Generator().manual_seed(1000 * t + number)
        g = torch.randn(same[0].shape, generator=generator)
        if t % 3 == 1 and g.ndim:
            g[: g.shape[0] // 2] = 0
        if t == 5 and number % 2:
            g.zero_()
        for p in same:
            p.grad = g.clone()


def apart(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    return max(
        float(((p - q).detach().abs() / (1 + q.detach().abs())).max()) for p, q in zip(ours, theirs, strict=True) if p.numel()
    )


def test_the_view() -> None:
    for size in (*range(1, 200), 768 * 768, 50257 * 768, 2**20, 9973):
        rows, columns = squarest(size)
        assert rows * columns == size and rows >= columns
        assert not any(size % k == 0 for k in range(columns + 1, math.isqrt(size) + 1))
    assert squarest(0) == (0, 1)


@every_backend
def test_adamw_is_that_of_adv_optm(backend: str) -> None:
    with quietly():
        from adv_optm import AdamW_adv
    shapes = [s for s in SHAPES if math.prod(s) > 1]
    ours, theirs = parameters(shapes), parameters(shapes)
    one = AdamWSquare(ours, lr=1e-2, weight_decay=0.1, backend=backend)
    other = AdamW_adv(theirs, lr=1e-2, weight_decay=0.1, nnmf_factor=True, vector_reshape=False)
    for t in range(20):
        give_gradients(t, ours, theirs)
        one.step()
        other.step()
        assert apart(ours, theirs) < 2e-6, t
        for p, q in zip(ours, theirs, strict=True):
            slot, their = one.state[p], other.state[q]
            if p.ndim >= 2:
                assert slot["exp_avg_row"].shape == (squarest(p.numel())[0], 1) == (*their["mu_m_nmf"].shape, 1)
                for key, name in (("exp_avg_row", "mu_m_nmf"), ("exp_avg_sq_row", "mu_v_nmf"), ("exp_avg_sq_col", "mv_v_nmf")):
                    assert torch.allclose(slot[key].flatten(), their[name], rtol=1e-4, atol=1e-9), (t, key)


@every_backend
def test_lion_is_that_of_adv_optm(backend: str) -> None:
    """Signs of what is nearly 0 may differ: few do, and each moves a parameter by twice the step."""
    with quietly():
        from adv_optm import Lion_adv
    shapes = [s for s in SHAPES if math.prod(s) > 1]
    ours, theirs = parameters(shapes), parameters(shapes)
    one = LionFactored(ours, lr=1e-3, weight_decay=0.1, backend=backend)
    other = Lion_adv(theirs, lr=1e-3, weight_decay=0.1, nnmf_factor=True, vector_reshape=False, betas=(0.9, 0.99))
    for t in range(12):
        give_gradients(t, ours, theirs)
        one.step()
        other.step()
    off = [((p - q).detach().abs() > 2e-6) for p, q in zip(ours, theirs, strict=True)]
    assert sum(int(x.sum()) for x in off) <= 1e-3 * sum(x.numel() for x in off)


def smmf(
    hypers: dict[str, float], starts: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]]
) -> list[np.ndarray[Any, Any]]:
    """The algorithm of arXiv:2412.08894 in float64, for tensors of two dimensions or more."""
    found = []
    for number, start in enumerate(starts):
        theta = start.detach().double().numpy()
        rows, columns = squarest(theta.size)
        r_m, c_m, r_v, c_v = np.zeros(rows), np.zeros(columns), np.zeros(rows), np.zeros(columns)
        signs = np.ones((rows, columns))
        for t, all_ in enumerate(gradients, start=1):
            g = all_[number].double().numpy().reshape(rows, columns)
            rate_m = hypers["beta"] * hypers["growth_rate"] ** (t - 1)
            rate_v = 1 - t ** hypers["decay_rate"]
            m = rate_m * signs * np.outer(r_m, c_m) + (1 - rate_m) * g
            v = rate_v * np.outer(r_v, c_v) + (1 - rate_v) * g**2
            signs = np.where(m > 0, 1.0, -1.0)
            r_m, c_m = np.abs(m).sum(1), np.abs(m).sum(0) / max(np.abs(m).sum(), 1e-12)
            r_v, c_v = v.sum(1), v.sum(0) / max(v.sum(), 1e-12)
            step = m / (np.sqrt(v) + hypers["eps"])
            theta = (1 - hypers["lr"] * hypers["weight_decay"]) * theta - hypers["lr"] * step.reshape(theta.shape)
        found.append(theta)
    return found


@every_backend
def test_smmf_is_that_of_the_paper(backend: str) -> None:
    hypers: dict[str, Any] = {
        "lr": 1e-2,
        "beta": 0.85,
        "eps": 1e-8,
        "weight_decay": 0.1,
        "decay_rate": -0.6,
        "growth_rate": 0.99,
    }
    shapes = [s for s in SHAPES if len(s) >= 2 and math.prod(s) > 1]
    params = parameters(shapes)
    starts, gradients = [p.detach().clone() for p in params], []
    optimizer = SMMF(params, **hypers, backend=backend)
    for t in range(10):
        give_gradients(t + 100, params)
        gradients.append([p.grad.clone() for p in params if p.grad is not None])
        optimizer.step()
    for p, expected in zip(params, smmf(hypers, starts, gradients), strict=True):
        assert np.abs(p.detach().double().numpy() - expected).max() < 2e-6


def signs_beside_rows(starts: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]]) -> list[np.ndarray[Any, Any]]:
    """AdamWFactored with lr 0.01 and decay 0.1 in float64: rows are those of the first dimension, β1 is a half."""
    found = []
    for number, start in enumerate(starts):
        theta = start.detach().double().numpy()
        theta = theta.reshape(len(theta), -1)
        m, v = np.zeros_like(theta), np.zeros_like(theta)
        for t, all_ in enumerate(gradients, start=1):
            g = all_[number].double().numpy().reshape(theta.shape)
            m, v = (m + g) / 2, 0.999 * v + 0.001 * g**2
            theta = (1 - 1e-2 * 0.1) * theta - 1e-2 * (m / (1 - 0.5**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            size, root = np.abs(m), np.sqrt(v)
            m = np.where(m > 0, 1.0, -1.0) * np.outer(size.sum(1), size.sum(0)) / max(size.sum(), 1e-30)
            v = (np.outer(root.sum(1), root.sum(0)) / max(root.sum(), 1e-30)) ** 2
        found.append(theta.reshape(start.shape))
    return found


@every_backend
def test_signs_beside_rows_are_those_of_the_formulas(backend: str) -> None:
    shapes = [s for s in SHAPES if len(s) >= 2 and math.prod(s) > 1]
    params = parameters(shapes)
    starts, gradients = [p.detach().clone() for p in params], []
    optimizer = AdamWFactored(params, lr=1e-2, weight_decay=0.1, backend=backend)
    for t in range(10):
        give_gradients(t + 100, params)
        gradients.append([p.grad.clone() for p in params if p.grad is not None])
        optimizer.step()
    for p, expected in zip(params, signs_beside_rows(starts, gradients), strict=True):
        assert np.abs(p.detach().double().numpy() - expected).max() < 2e-6
        rows, columns = len(p), p[0].numel()
        assert optimizer.state[p]["exp_avg_row"].shape == (rows, 1)
        assert optimizer.state[p]["exp_avg_sq_col"].shape == (1, columns)


def bits_of(optimizer: Optimizer, p: Tensor, key: str = "exp_avg_sign") -> Tensor:
    """Signs, flat; the first of a byte is in its lowest bit."""
    memory: Tensor = optimizer.state[p][key]
    bits = memory[:, None] >> torch.arange(8, dtype=torch.uint8) & 1
    found: Tensor = bits.view(-1)[: p.numel()].int() * 2 - 1
    return found


@both
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(1001, 999), (2003, 1009), (7, 100003), (640, 1001), (513, 4, 5, 7)])
def test_bits_that_rows_and_threads_share(shape: tuple[int, ...], threads: int, adamw: Any) -> None:
    """Rows that begin within a byte, cut into tiles that several threads take."""
    torch.set_num_threads(threads)  # the fixture sets it back
    params = parameters([shape])
    others = twins(params)
    one, other = adamw(params, lr=1e-2, backend="native"), adamw(others, lr=1e-2, backend="torch")
    (p,), (q,) = params, others
    for t in range(3):
        give_gradients(t, params, others)
        one.step()
        other.step()
        for key, entry in other.state[q].items():
            if key != "exp_avg_sign" and isinstance(entry, Tensor) and entry.is_floating_point() and key != "step":
                assert torch.allclose(one.state[p][key], entry, rtol=3e-6, atol=1e-12), key
        differ = bits_of(one, p) != bits_of(other, q)
        assert int(differ.sum()) <= 1e-5 * p.numel()
        assert apart(params, others) < 1e-5
        for slot in (one.state[p], other.state[q]):
            assert slot["exp_avg_sign"].shape == (-(-p.numel() // 32) * 4,) and slot["exp_avg_sign"].dtype == torch.uint8
        with torch.no_grad():
            p.copy_(q)
        one.load_state_dict(other.state_dict())


@both
@every_backend
def test_a_resumed_run_is_the_same(backend: str, adamw: Any) -> None:
    params = parameters()
    one = adamw(params, backend=backend, amsgrad=True)
    for t in range(3):
        give_gradients(t, params)
        one.step()
    others = twins(params)
    other = adamw(others, backend=backend, amsgrad=True)
    other.load_state_dict(one.state_dict())
    for t in range(3, 6):
        give_gradients(t, params, others)
        one.step()
        other.step()
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)
        assert all(torch.equal(one.state[p][key], other.state[q][key]) for key in one.state[p])


@both
def test_bytes_of_states(adamw: Any) -> None:
    """Two vectors for each moment, and a bit per element with a scale for 4096."""
    (p,) = params = parameters([(2048, 2048)])
    optimizer = adamw(params)
    give_gradients(0, params)
    optimizer.step()
    kept = {k: x for k, x in optimizer.state[p].items() if isinstance(x, Tensor) and k != "step"}
    assert sum(x.numel() * x.element_size() for x in kept.values()) / p.numel() <= 0.14
    assert {k: tuple(x.shape) for k, x in kept.items()} == {
        "exp_avg_row": (2048, 1), "exp_avg_col": (1, 2048), "exp_avg_sign": (2048 * 256,), "exp_avg_sign_scale": (1024,),
        "exp_avg_sq_row": (2048, 1), "exp_avg_sq_col": (1, 2048),
    }  # fmt: skip


@both
@every_backend
def test_what_is_not_finite_is_seen(backend: str, adamw: Any) -> None:
    """A gradient that is none makes its whole tensor so: sums of rows and columns have it. No other tensor sees it."""
    params = parameters([(6, 6), (6, 6), (12,)])
    optimizer = adamw(params, backend=backend)
    give_gradients(0, params)
    assert params[0].grad is not None and params[2].grad is not None
    params[0].grad[2, 3] = torch.nan
    params[2].grad[5] = torch.inf
    optimizer.step()
    assert int(params[0].isnan().sum()) == 1 and params[1].isfinite().all() and int((~params[2].isfinite()).sum()) == 1
    give_gradients(1, params)
    optimizer.step()
    assert params[0].isnan().sum() > 1 and params[1].isfinite().all() and int((~params[2].isfinite()).sum()) == 1
