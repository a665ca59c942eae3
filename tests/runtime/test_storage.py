"""States that are kept as codes: every bit against the plain definition, odd shapes and memory, and what is not finite."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import optc
from optc.compiler.compose.expand import expand
from optc.compiler.compose.library import named
from optc.compiler.compose.library import shipped as shipped_specs
from optc.compiler.interpret import Oracle
from optc.compiler.interpret_storage import through_memory
from optc.compiler.pipeline import plan_program
from optc.compiler.traffic import PRECISIONS, default_variant, state_bytes
from optc.dsl import nodes
from optc.dsl.check import check
from optc.dsl.parse import parse
from optc.dsl.program import Storage
from optc.dsl.source import Source
from optc.dsl.storages import resolve, shipped
from optc.generated import AdamW8bit
from optc.runtime import storage, torch_launch
from optc.runtime.codebook import Codebook, table, thresholds
from optc.runtime.storage import decode, encode, encoded
from tests.runtime.storing import BACKENDS, EVERY, bits, entries, every
from tests.runtime.training import assert_equal, give_gradients, parameters, train, twins

NAN, INF = float("nan"), float("inf")
# --- codes --------------------------------------------------------------------------------------------------------------------

EVEN_LEVELS = tuple((c - 7.5) / 8 for c in range(16))
FINE_LEVELS = tuple((c - 127.5) / 128 for c in range(256))
ODD = (
    Storage("symmetric", None, EVEN_LEVELS, 64, "down"),
    Storage("symmetric, up", None, EVEN_LEVELS, 64, "up"),
    Storage("symmetric, even", None, FINE_LEVELS, 128, "even"),
    Storage("long blocks", None, FINE_LEVELS, 4096, "down"),
    Storage("scaled", None, tuple(float(c - 7) for c in range(16)), 64, "even", unit=7.0),
    Storage("far from its unit", None, tuple(float(np.float32(c / 3)) for c in range(256)), 256, "up", unit=1000.0),
    Storage("least", None, EVEN_LEVELS, 64, "down", 3.0, float(np.float32(1e-3))),
    Storage("few", None, (NAN, -1.0, NAN, 0.25, *[NAN] * 11, 1.0), 64, "up"),
    Storage("backwards", None, tuple(float(-c) for c in range(16)), 64, "even", 15.0),
    Storage("two zeros", None, (0.0, -0.0, *(c / 14 for c in range(1, 15))), 64, "down"),
)  # fmt: skip
SHIPPED = tuple(s for name in shipped() if isinstance(s := resolve(nodes.Kept("m", name), ()), Storage))
STORAGES = {s.name: replace(s, smallest=0) for s in (*SHIPPED, *ODD)}
ALL = pytest.mark.parametrize("name", STORAGES)


def book_of(kind: Storage) -> Codebook:
    ties: Any = kind.ties
    return Codebook(kind.name, kind.levels, kind.block, ties, kind.unit, kind.least, kind.smallest)


def numbers(numel: int, seed: int, block: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Of many sizes, with all that is strange, blocks of zeros, and blocks of nothing but what is not finite."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(numel) * np.exp(3 * rng.standard_normal(numel))
    strange = [0.0, -0.0, NAN, -NAN, INF, -INF, 1e-42, -1e-42, 1e-45, 3e38, -1e-30, 2.0**-126]
    x = np.where(rng.random(numel) < 0.02, rng.choice(strange, size=numel), x)
    x[block : 2 * block] = 0.0
    x[3 * block : 4 * block] = rng.choice([NAN, INF, -INF], size=x[3 * block : 4 * block].size)
    x[4 * block : 5 * block] *= 1e-42
    return x.astype(np.float32)


@ALL
@pytest.mark.parametrize("numel", [0, 1, 65, 5003])
def test_codes_are_those_of_the_definition(name: str, numel: int) -> None:
    kind, book = STORAGES[name], book_of(STORAGES[name])
    x = numbers(numel, numel, kind.block)
    codes, scales = encode(torch.from_numpy(x), book)
    assert codes.shape == (book.bytes_of(numel),) and scales.shape == (book.blocks_of(numel),)
    got = decode(codes, scales, book, numel)
    np.testing.assert_array_equal(bits(got), bits(through_memory(x.astype(np.float64), kind)))
    assert got.isfinite().all() and codes.dtype == torch.uint8 and scales.dtype == torch.float32


@ALL
def test_ties_and_their_neighbours_go_where_the_definition_says(name: str) -> None:
    kind, book = STORAGES[name], book_of(STORAGES[name])
    known = np.array(sorted({x for x in kind.levels if x == x}), dtype=np.float32).astype(np.float64)
    middle = ((known[1:] + known[:-1]) / 2).astype(np.float32)
    x = np.concatenate([middle, np.nextafter(middle, np.float32(INF)), np.nextafter(middle, np.float32(-INF)), known])
    x = x[np.abs(x) <= kind.unit].astype(np.float32)
    rows = -(-x.size // (kind.block - 1))
    x = np.pad(x, (0, rows * (kind.block - 1) - x.size)).reshape(rows, -1)
    x = np.concatenate([np.full((rows, 1), max(kind.unit, kind.least), np.float32), x], axis=1).reshape(-1)
    codes, scales = encode(torch.from_numpy(x), book)
    if kind.unit >= kind.least:
        assert (scales == 1.0).all()
    got = decode(codes, scales, book, x.size)
    np.testing.assert_array_equal(bits(got), bits(through_memory(x.astype(np.float64), kind)))


@ALL
def test_the_table_is_the_thresholds(name: str) -> None:
    book = book_of(STORAGES[name])
    found, kept = table(book), thresholds(book)
    around = [np.nextafter(kept.bounds, np.float32(end)) for end in (-INF, INF)]
    ends = np.array([0.0, -0.0, 1e-45, -1e-45, 1e-30, -1e-30, 1.0, -1.0, 3e38, -3e38, INF, -INF])
    levels = np.array(book.levels)
    x = np.concatenate([kept.bounds, *around, levels[~np.isnan(levels)], ends, -kept.bounds]).astype(np.float32)
    x = np.concatenate([x, np.random.default_rng(0).integers(0, 1 << 32, 4000, dtype=np.uint32).view(np.float32)])
    x = x[~np.isnan(x)]
    size = np.abs(x).view(np.int32).astype(np.int64)
    bucket = np.clip((size >> found.shift) - found.base, 0, found.buckets - 1) + found.buckets * (x < 0)
    entry = found.entries.view(np.uint32)[bucket]
    below = (size & ((1 << found.shift) - 1)) < (entry & 0xFFFF)
    np.testing.assert_array_equal(np.where(below, entry >> 16 & 0xFF, entry >> 24), kept.of(x))


def test_levels_are_kept_to_the_bit_and_the_first_of_two_codes_is_the_upper_half_of_a_byte() -> None:
    book = book_of(STORAGES["dynamic4"])
    levels = torch.tensor(book.levels)
    x = torch.cat([levels.repeat(8), levels.flip(0)[:15]])
    codes, scales = encode(x, book)
    assert codes.tolist() == [*range(0x01, 0xFF, 0x22)] * 8 + [*range(0xFE, 0x10, -0x22), 0x17]
    assert torch.equal(decode(codes, scales, book, x.numel()), x) and scales.tolist() == [1.0, 1.0]


LAST = """\
storage small:
    codes = 16
    block = 64
    smallest = 0
    least = 0.5
    define level(c) = (c - 7.5)/8
storage large:
    unit = 100
    ties = "even"
    smallest = 0
    define level(c) = where(c == 3, nan, (c - 127)/2 + (c - 127)^3/40000)
optimizer Last:
    hyper: lr = 0.1 in [0, inf)
    state: a = 0; b = 0; c = 0; d = 0
    storing a: small, b: large, c: e4m3(64, smallest = 0), d: dynamic4(smallest = 0)
    step:
        a <- g
        b <- g
        c <- g
        d <- g
        theta <- theta - lr*(a + b + c + d)
"""


@cache
def last() -> Any:
    return optc.compile(LAST)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("numel", [1, 65, 5003])
def test_native_codes_are_those_of_pytorch(numel: int, dtype: torch.dtype) -> None:
    g = torch.from_numpy(numbers(numel, numel, 64)).to(dtype)
    kept = []
    for backend in ("torch", "native"):
        p = nn.Parameter(torch.zeros(numel, dtype=dtype))
        optimizer = last()([p], backend=backend)
        p.grad = g.clone()
        optimizer.step()
        kept.append(entries(optimizer, [p]))
    for ours, theirs, state in zip(*kept, [key for key in optimizer.state[p] if key != "step"], strict=True):
        assert torch.equal(ours, theirs), state


# --- steps ------------------------------------------------------------------------------------------------------------------

SIZES = ((), (0,), (0, 3), (1,), (7,), (13, 11), (257,), (2, 3, 5, 7), (64, 2))
"""Among them nothing, one number, primes, and whole blocks."""


@pytest.mark.parametrize("shape", SIZES)
def test_steps_are_those_of_the_oracle(shape: tuple[int, ...]) -> None:
    source = Source("every.opt", EVERY)
    oracle = Oracle(check(parse(source), source))
    (p,) = params = parameters([shape], torch.float64, seed=3)
    optimizer, param = every()(params, backend="torch"), oracle.new_parameter(p.detach().numpy())
    for seed in range(7):
        give_gradients(seed, params)
        assert p.grad is not None
        optimizer.step()
        oracle.step(param, p.grad.numpy())
        np.testing.assert_allclose(p.detach().numpy(), param.theta, rtol=1e-12, atol=1e-14)
        for state in optimizer.schema.states:
            kept = optimizer.state[p][state.key]
            if isinstance(state.storage, Codebook):
                assert kept.shape == (shape if state.storage.per_byte == 1 else (state.storage.bytes_of(p.numel()),))
                kept = decode(kept, optimizer.state[p][state.scale_key], state.storage, p.numel()).view(shape)
            np.testing.assert_array_equal(bits(kept), bits(param.states[state.name]))


@BACKENDS
def test_states_between_writes_stay_as_they_are(backend: str) -> None:
    """Codes of `loose` shrink each time that they are made anew: no level is as large as its scale."""
    params = parameters([(70, 130), (5,)])
    optimizer = every()(params, lr=0.1, backend=backend)
    kept: dict[str, list[Tensor]] = {}
    for seed in range(8):
        train([seed], (optimizer, params))
        now = {
            key: [optimizer.state[p][key].clone() for p in params] for key in ("v", "v_scale", "z", "z_scale", "m", "m_scale")
        }
        for key, before in kept.items():
            written = key.startswith("m") or (seed + 1) % 3 == 0
            assert [torch.equal(a, b) for a, b in zip(before, now[key], strict=True)] == [not written] * 2, (seed, key)
        kept = now
    book = next(s.storage for s in optimizer.schema.states if s.name == "z")
    p = params[0]
    again = encoded(
        decode(optimizer.state[p]["z"], optimizer.state[p]["z_scale"], book, p.numel()).view(p.shape), book, p.device
    )
    assert not torch.equal(again[1], optimizer.state[p]["z_scale"])


@BACKENDS
def test_what_is_not_finite_harms_no_neighbour_and_is_seen_by_its_step(backend: str) -> None:
    params = parameters([(70, 60)])
    others = twins(params)
    optimizer, other = every()(params, backend=backend), every()(others, backend=backend)
    train(range(2), (optimizer, params), (other, others))
    (p,), (q,) = params, others
    give_gradients(2, params, others)
    assert p.grad is not None and q.grad is not None
    places = [3, 200, 300]
    q.grad.view(-1)[places] = 0.0
    p.grad.view(-1)[places] = torch.tensor([NAN, INF, -INF])
    optimizer.step()
    other.step()
    near = torch.ones(p.numel(), dtype=torch.bool)
    near[places] = False
    assert torch.equal(p.detach().view(-1)[near], q.detach().view(-1)[near])
    assert not p.detach().view(-1)[places].isfinite().any()
    for name, square in (("m", False), ("v", True), ("z", False)):
        book = next(s.storage for s in optimizer.schema.states if s.name == name)
        assert isinstance(book, Codebook)
        (codes, scales), (twin, same) = (
            (o.state[x][name], o.state[x][f"{name}_scale"]) for o, x in ((optimizer, p), (other, q))
        )
        assert torch.equal(scales, same), "what is not finite does not count"
        kept = decode(codes, scales, book, p.numel())
        assert torch.equal(kept[near], decode(twin, same, book, p.numel())[near])
        lowest = max(book.levels) if square else min(book.levels)
        levels = torch.tensor([-0.0625 if name == "z" else 0.0, max(book.levels), lowest])
        assert torch.equal(kept[places], levels * scales[[place // book.block for place in places]])
    train([3], (optimizer, params))
    assert optimizer.state[p]["w"].view(-1)[3].isnan(), "a number of 16 bits is kept as it is"


@pytest.mark.parametrize(
    "name", ["adamw_8bit", "adamw_4bit", "adamw_fp8", "adamw_bf16", "lion_8bit", "adagrad_8bit", "sgd_8bit"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_memory_of_states_is_what_the_plan_says(name: str, dtype: torch.dtype) -> None:
    params = parameters([(64, 128), (4096,), (3, 8192)], dtype)
    optimizer = optc.create(name, params, backend="torch")
    train([0], (optimizer, params))
    expanded = expand(named(shipped_specs()[name]))
    plan = plan_program(check(expanded.spec, expanded.source))[1]
    figure = state_bytes(plan, default_variant(plan), PRECISIONS[dtype == torch.bfloat16])
    measured = sum(entry.untyped_storage().nbytes() for entry in entries(optimizer, params))
    assert measured == figure * sum(p.numel() for p in params)


def test_small_tensors_keep_numbers() -> None:
    params = parameters([(4095,), (64, 64), (4097,), ()])
    optimizer = AdamW8bit(params, backend="torch")
    train([0], (optimizer, params))
    kept = [optimizer.state[p]["exp_avg"].dtype for p in params]
    assert kept == [torch.float32, torch.uint8, torch.uint8, torch.float32]
    assert ["exp_avg_scale" in optimizer.state[p] for p in params] == [False, True, True, False]


@BACKENDS
def test_odd_sizes_are_trained_as_larger_ones_are(backend: str) -> None:
    """Each tensor alone, and as the first elements of whole blocks of zeros."""
    params = parameters([(7,), (63,), (13, 11), (257,)])
    optimizer = every()(params, backend=backend)
    whole = [nn.Parameter(torch.cat([p.detach().view(-1), torch.zeros(-p.numel() % 128)])) for p in params]
    alone = [every()([q], backend=backend) for q in whole]
    for seed in range(4):
        give_gradients(seed, params)
        for p, q in zip(params, whole, strict=True):
            assert p.grad is not None
            q.grad = torch.cat([p.grad.view(-1), torch.zeros(-p.numel() % 128)])
        optimizer.step()
        for other in alone:
            other.step()
    for p, q, other in zip(params, whole, alone, strict=True):
        assert torch.equal(optimizer.state[p]["m_scale"], other.state[q]["m_scale"][: -(-p.numel() // 64)])
        assert torch.equal(optimizer.state[p]["m"].view(-1), other.state[q]["m"][: p.numel()])


@BACKENDS
@pytest.mark.parametrize(("kind", "shape"), [("every", (9, 8)), ("every", (70, 130)), ("adamw_8bit", (70, 130))])
def test_memory_orders_change_nothing(backend: str, kind: str, shape: tuple[int, int]) -> None:
    """Random numbers are drawn in the order of the indices, too: `adamw_8bit` draws none."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    wide = torch.full((shape[0], 2 * shape[1]), 7.0)
    orders = (x.clone(), x.t().contiguous().t(), wide[:, ::2].copy_(x))
    gradients = [torch.randn(shape, generator=torch.Generator().manual_seed(1 + seed)) for seed in range(4)]
    runs = []
    for theta in orders:
        p = nn.Parameter(theta)
        optimizer = every()([p], backend=backend) if kind == "every" else optc.create(kind, [p], backend=backend)
        for number, g in enumerate(gradients):
            p.grad = g.t().contiguous().t() if number % 2 else g.clone()
            optimizer.step()
        assert p.stride() == theta.stride()
        runs.append([p.detach(), *entries(optimizer, [p])])
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))
    assert torch.equal(wide[:, 1::2], torch.full(shape, 7.0)), "memory between the elements is left alone"


@pytest.mark.parametrize("transposed", [False, True])
def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch, transposed: bool) -> None:
    shapes = [(70, 61), (4096,), (8193,), (3,)]
    params = parameters(shapes)
    if transposed:
        params = [nn.Parameter(p.detach().t().contiguous().t()) if p.ndim == 2 else p for p in params]
    others = [nn.Parameter(p.detach().clone()) for p in params]
    whole, pieces = every()(params, k=1, backend="torch"), every()(others, k=1, backend="torch")
    train(range(2), (whole, params))
    monkeypatch.setattr(torch_launch, "PIECE", 4096)
    train(range(2), (pieces, others))
    assert_equal(params, others)
    assert_equal(entries(whole, params), entries(pieces, others))


def test_large_tensors_are_computed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    params = parameters([((1 << 18) + 4099,)])
    others = twins(params)
    sizes: list[int] = []

    def taken(*given: Any) -> Tensor:
        sizes.append(given[4])
        return storage.taken(*given)

    monkeypatch.setattr(torch_launch, "taken", taken)
    optimizer, other = AdamW8bit(params, backend="torch"), AdamW8bit(others, backend="torch")
    train(range(2), (optimizer, params))
    assert max(sizes) == storage.PIECE == 1 << 18 and sizes.count(4099) == len(sizes) // 2
    monkeypatch.setattr(torch_launch, "PIECE", 1 << 20)
    train(range(2), (other, others))
    assert max(sizes) == params[0].numel()
    assert_equal(params, others)
    assert_equal(entries(optimizer, params), entries(other, others))


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_the_error_of_a_cast_is_that_of_one_rounding(name: str) -> None:
    """No less than is possible, and hardly more."""
    found = resolve(nodes.Kept("x", name), ())
    assert isinstance(found, Storage) and found.dtype is not None
    x = torch.exp(torch.linspace(-6, 6, 100_001, dtype=torch.float64))
    off = ((x.to(getattr(torch, found.dtype)).double() - x).abs() / x).max().item()
    assert 0.99 * found.error < off <= found.error
