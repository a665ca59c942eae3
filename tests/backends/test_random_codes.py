"""Codes that are rounded at random: the bits of a rule in NumPy with another generator's numbers, on all backends; unbiased."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import optc
from optc.compiler.aot import TARGETS, Request, reports
from optc.compiler.compose.expand import expand
from optc.compiler.interpret import Oracle
from optc.compiler.pipeline import check_source, compile_expanded
from optc.dsl import nodes
from optc.dsl.errors import SpecError
from optc.dsl.program import Storage
from optc.dsl.source import Source
from optc.dsl.storages import resolve
from optc.runtime.codebook import Codebook
from optc.runtime.optimizer import Optimizer
from optc.runtime.storage import decode, encode
from tests.matrix.runners import laid_out
from tests.reference_cases import Array
from tests.reference_loops_sampling import uniforms

pytestmark = pytest.mark.usefixtures("one_thread")
every_backend = pytest.mark.parametrize("backend", ["torch", "native", "triton"])

SUMS = """
optimizer Sums:
    hyper: lr = 1.0 in [0, inf)
    state: m = 0; v = 0
    step:
        m <- m/2 + g
        if numel == 35: stop
        v <- v/2 + abs(g)
        θ <- θ - lr*m*uniform(seed)
"""
"""Halves and sums: every backend computes the same float32 numbers. A number of its own is drawn before those of the codes."""
SIGNED, OTHERS = ("linear8", "dynamic8", "dynamic4"), ("ulinear8", "linear4", "udynamic8")
PAIRS = tuple(zip(SIGNED, OTHERS, strict=True))
SHAPES = [(5, 7), (3,), (), (0, 4), (2, 3, 5), (131,), (64, 70)]


def storage_of(name: str) -> Storage:
    found = resolve(nodes.Kept("x", name), ())
    assert isinstance(found, Storage)
    return found


def book_of(name: str, block: int = 64) -> Codebook:
    s = storage_of(name)
    return Codebook(s.name, s.levels, block, s.ties, s.unit, s.least)  # type: ignore[arg-type]


def clause(name: str, *more: str) -> str:
    return f"{name}({', '.join(('64', 'stochastic', 'smallest = 0', *more))})"


def text_with(signed: str, other: str) -> str:
    seeded = SUMS.replace("inf)\n", "inf); seed = 0 in int [0, inf)\n")
    return seeded.replace("    step:", f"    storing m: {clause(signed)}, v: {clause(other)}\n    step:")


def rule(x: Any, book: Codebook, u: Array) -> tuple[Any, Array]:
    """(codes, numbers) of float32 numbers: for each the two levels around it, and its share of the way between them.

    A number that a level comes to exactly is that level.
    """
    levels = np.array([level for level in book.levels if level == level], dtype=np.float32)
    codes, kept = [], []
    for first in range(0, x.size, book.block):
        numbers = x.reshape(-1)[first : first + book.block].astype(np.float32)
        finite = np.abs(numbers[np.isfinite(numbers)])
        scale = np.maximum(finite.max(initial=np.float32(0)), np.float32(book.least)) / np.float32(book.unit)
        for number, draw in zip(numbers, u.reshape(-1)[first : first + book.block], strict=True):
            ratio = np.float32(0) if np.isnan(number) or scale == 0 else number / scale
            at = int(np.searchsorted(levels, ratio, side="right")) - 1
            exact = [k for k in (at, at + 1) if 0 <= k < len(levels) and levels[k] * scale == number]
            low, high = max(at, 0), min(at + 1, len(levels) - 1)
            if at < 0 or low == high:
                code = low
            elif exact:
                code = exact[0]
            else:
                middle = (np.float64(levels[low]) + levels[high]) / 2
                upper_is_near = ratio > middle or (ratio == middle and book.ties == "up")
                if ratio == middle and book.ties == "even":
                    upper_is_near = high % 2 == 0
                near, other = (high, low) if upper_is_near else (low, high)
                share = (ratio - levels[near]) / (levels[other] - levels[near])
                code = other if draw < share else near
            codes.append(code)
            kept.append(levels[code] * scale)
    return np.array(codes, dtype=np.uint8), np.array(kept, dtype=np.float32).astype(np.float64).reshape(x.shape)


def gradients(t: int, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    """Of many sizes; some are 0, and in the last tensor some are none."""
    generator = torch.Generator().manual_seed(100 + t)
    found = [torch.randn(s, generator=generator) * 2.0 ** torch.randint(-9, 3, s, generator=generator) for s in shapes]
    found[0][1] = 0
    if t == 2:
        found[-1].view(-1)[:6] = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e-40])
    return found


def made(params: Sequence[nn.Parameter], backend: str, pair: tuple[str, str], seed: int = 5) -> Optimizer:
    cls: Any = optc.compile(text_with(*pair))
    optimizer: Optimizer = cls([{"params": params[:2]}, {"params": params[2:]}], seed=seed, backend=backend)
    return optimizer


def parameters(shapes: Sequence[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]


def step(optimizer: Optimizer, params: Sequence[nn.Parameter], given: Sequence[Tensor]) -> None:
    for p, g in zip(params, given, strict=True):
        p.grad = g.to(p.dtype)
    optimizer.step()


def unpacked(memory: Tensor, book: Codebook, numel: int) -> Array:
    flat = memory.reshape(-1).numpy()
    codes: Array = flat if book.bits == 8 else np.stack([flat >> 4, flat & 15], axis=1).reshape(-1)
    return codes[:numel]


@every_backend
@pytest.mark.parametrize("pair", PAIRS, ids=SIGNED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_are_those_of_the_rule(backend: str, pair: tuple[str, str], dtype: torch.dtype) -> None:
    """An element's words go to the places in the order of the text, then to the states in that of the clause."""
    params, books = parameters(dtype=dtype), [book_of(name) for name in pair]
    optimizer = made(params, backend, pair)
    kept = [[np.zeros(shape), np.zeros(shape)] for shape in SHAPES]
    for t in (1, 2, 3):
        given = gradients(t)
        step(optimizer, params, given)
        for number, (p, g) in enumerate(zip(params, given, strict=True)):
            words = [uniforms(5, t, tuple(p.shape), number, place) for place in range(3)]
            new = g.double().numpy()
            x = [(old / 2 + its).astype(np.float32) for old, its in zip(kept[number], (new, np.abs(new)), strict=True)]
            for k, (key, word) in enumerate((("m", words[1]), ("v", words[2]))):
                if key == "v" and p.numel() == 35:
                    continue
                codes, kept[number][k] = rule(x[k], books[k], word)
                slot = optimizer.state[p]
                assert np.array_equal(unpacked(slot[key], books[k], p.numel()), codes), (t, key, p.shape)
                found = decode(slot[key], slot[f"{key}_scale"], books[k], p.numel()).double().numpy()
                assert np.array_equal(found, kept[number][k].reshape(-1))


def test_they_are_the_oracles() -> None:
    program = check_source(Source("x.opt", text_with("linear8", "linear4")))
    oracle, params = Oracle(program, {"seed": 5}), parameters()
    optimizer, theirs = made(params, "torch", ("linear8", "linear4")), oracle.new_parameters([np.zeros(s) for s in SHAPES])
    given = [torch.round(64 * g.nan_to_num(0, 1, -1)) / 64 for g in gradients(1)]  # float32 holds their sums
    step(optimizer, params, given)
    oracle.step_together(theirs, [g.double().numpy() for g in given])
    for p, param in zip(params, theirs, strict=True):
        slot = optimizer.state[p]
        for key, name in (("m", "linear8"), ("v", "linear4")):
            if key == "m" or p.numel() != 35:
                found = decode(slot[key], slot[f"{key}_scale"], book_of(name), p.numel()).double().numpy()
                assert np.array_equal(param.states[key], found.reshape(p.shape)), (key, p.shape)


@every_backend
def test_the_place_in_memory_does_not_matter(backend: str) -> None:
    """Nor do threads, or who else takes part: numbers belong to elements."""
    torch.set_num_threads(2)  # the fixture sets it back
    params, pair = parameters(), ("linear8", "linear4")
    scattered = [nn.Parameter(laid_out(p.detach(), "transposed" if p.ndim == 2 else "gaps")) for p in params]
    one, other = made(params, backend, pair), made(scattered, backend, pair)
    for t in (1, 2):
        step(one, params, gradients(t))
        for some in (0, 1):
            for number, (p, g) in enumerate(zip(scattered, gradients(t), strict=True)):
                p.grad = g if number % 2 == some else None
            other.step()
    for p, q in zip(params, scattered, strict=True):
        assert all(torch.equal(one.state[p][key], other.state[q][key]) for key in one.state[p])


@pytest.mark.parametrize("threads", [1, 2])
def test_large_tensors_are_cut_anywhere(threads: int) -> None:
    """PyTorch takes pieces of 2^18 elements, native code chunks that threads share."""
    torch.set_num_threads(threads)
    shapes, pair = [(3,), (700, 900), (70001,)], ("linear8", "linear4")
    params, others = parameters(shapes), parameters(shapes)
    one, other = made(params, "torch", pair), made(others, "native", pair)
    for t in (1, 3):
        step(one, params, gradients(t, shapes))
        step(other, others, gradients(t, shapes))
    for p, q in zip(params, others, strict=True):
        assert all(torch.equal(one.state[p][key], other.state[q][key]) for key in ("m", "v", "m_scale", "v_scale"))


@every_backend
def test_a_resumed_run_rounds_as_the_other_would_have(backend: str) -> None:
    params, others, pair = parameters(), parameters(), ("linear8", "ulinear8")
    one, other = made(params, backend, pair), made(others, "torch", pair, seed=99)
    step(one, params, gradients(1))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for t in (2, 3):
        step(one, params, gradients(t))
        step(other, others, gradients(t))
    for p, q in zip(params, others, strict=True):
        assert all(torch.equal(one.state[p][key], other.state[q][key]) for key in one.state[p])


# --- what it means ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SIGNED, *OTHERS])
def test_the_mean_over_seeds_is_the_number(name: str) -> None:
    """Of n independent draws at a share p between levels d apart the mean is off by d √(p(1 - p)/n) in the mean square.

    That is d/(2 √n) at most; it is off by six times as much once in 5·10^8. Shares are rounded to 2^-24, x/scale to 2^-24 of
    itself, and what comes back once more: the bias is below 2^-22.
    """
    book, seeds, size = book_of(name, 256), 100, 4096
    levels = np.array([x for x in book.levels if x == x])
    generator = torch.Generator().manual_seed(4)
    low, high = max(levels.min(), -1.0), levels.max()
    x = torch.rand(size, generator=generator) * (high - low) + low
    x[::256] = 1
    x = x.float()
    gap = np.diff(levels)[np.clip(np.searchsorted(levels, x.double().numpy(), side="right") - 1, 0, len(levels) - 2)]
    total = torch.zeros(size, dtype=torch.float64)
    for seed in range(seeds):
        u = torch.from_numpy(uniforms(seed, 1, (size,))).float()
        kept = decode(*encode(x, book, u), book, size).double()
        assert bool(((kept - x).abs().numpy() <= gap * (1 + 2.0**-20)).all()), "never further than one step"
        total += kept - x.double()
    mean = total.numpy() / seeds
    assert np.abs(mean / gap).max() < 6 * 0.5 / seeds**0.5
    assert abs((mean / gap).mean()) < 6 * 0.5 / (seeds * size) ** 0.5 + 2.0**-22 / gap.min()
    inner = (x.double().numpy() > low + gap) & (x.double().numpy() < high - gap)
    assert np.count_nonzero(mean[inner]) > 0.9 * np.count_nonzero(inner), "rounded to one of two"


@pytest.mark.parametrize("name", [*SIGNED, *OTHERS])
def test_what_a_code_stands_for_stays(name: str) -> None:
    """Whatever is drawn: what is read and kept again does not wander off."""
    book, generator = book_of(name), torch.Generator().manual_seed(6)
    known = sum(level == level for level in book.levels)
    codes = torch.randint(0, known, (64 * 64,), generator=generator, dtype=torch.uint8)
    codes[::64] = known - 1  # a number as large as the scale: the scale stays
    memory = codes if book.bits == 8 else codes[0::2] << 4 | codes[1::2]
    scales = (0.5 + torch.rand(64, generator=generator)) * 2.0 ** torch.randint(-30, 60, (64,), generator=generator).float()
    x = decode(memory, scales, book, len(codes))
    for u in (0.0, 0.5, 1 - 2.0**-24):
        again, same = encode(x, book, torch.full((len(codes),), u))
        assert torch.equal(same, scales) and torch.equal(again, memory)


def test_what_is_not_finite_is_kept_as_without() -> None:
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, 1.0, -1.0, 0.5 / 127])
    for name in (*SIGNED, *OTHERS):
        for u in (0.0, 1 - 2.0**-24):
            found = encode(x, book_of(name), torch.full((7,), u))
            plain = encode(x, book_of(name))
            assert torch.equal(found[1], plain[1])
            book = book_of(name)
            assert np.array_equal(unpacked(found[0], book, 6), unpacked(plain[0], book, 6))


def test_an_average_follows_small_changes() -> None:
    """Rounded to nearest, an average in evenly spaced codes stops where it moves by less than half of a step."""
    end = {}
    for storage in ("ulinear8", "ulinear8(stochastic)"):
        p = nn.Parameter(torch.zeros(4096))
        cls: Any = optc.compile("adam", storing={"v": storage})
        optimizer = cls([p], lr=0.0)
        for t in range(400):
            p.grad = torch.full_like(p, 1.0 if t < 200 else 0.0)
            p.grad[::256] = 4.0  # the largest of a block
            optimizer.step()
        slot = optimizer.state[p]
        kept = decode(slot["exp_avg_sq"], slot["exp_avg_sq_scale"], book_of("ulinear8", 256), 4096).view(-1, 256)
        end[storage] = float(kept[:, 1:].double().mean())
    exact = (1 - 0.999**200) * 0.999**200
    assert abs(end["ulinear8(stochastic)"] - exact) < 0.02 * exact
    assert abs(end["ulinear8"] - exact) > 0.1 * exact


@pytest.mark.parametrize("shape", [(64, 70), (1001, 999), (3, 40, 50)])
def test_codes_beside_rows_and_columns(shape: tuple[int, ...]) -> None:
    text = SUMS.replace("m <- m/2 + g", "m <- m/2 + abs(g)").replace("    step:", "    storing m: {}, v: {}\n    step:")
    text = text.replace("inf)\n", "inf); seed = 0 in int [0, inf)\n")
    text = text.format(*["linear4_rank1(stochastic)"] * 2)
    kept = expand(Source("x.opt", text)).source.text
    assert "linear4(scale = 1, smallest = 0, stochastic)" in kept and "m: linear4(stochastic)" in kept
    cls: Any = optc.compile(text)
    params, others = ([nn.Parameter(torch.zeros(shape))] for _ in range(2))
    one, other = (cls(ps, backend=backend) for ps, backend in ((params, "torch"), (others, "native")))
    for t in (1, 3):
        given = gradients(t, [shape])
        step(one, params, given)
        step(other, others, given)
    slots = one.state[params[0]], other.state[others[0]]
    assert all(torch.equal(slots[0][key], slots[1][key]) for key in slots[0])
    x, scale = slots[0]["m_row"], slots[0]["m_code"]
    assert x.shape[-1] == 1 and scale.dtype == torch.uint8


@pytest.mark.parametrize(
    ("clause", "says"),
    [
        ("m: e4m3(stochastic)", "`e4m3` is not rounded at random: its levels are not in the order of its codes"),
        ("m: e5m2(128, stochastic)", "take a storage whose levels are, such as `linear8`"),
        ("m: sign1(stochastic)", "a sign has no other beside it"),
        ("m: rank1(stochastic)", "`rank1` keeps no codes that could be rounded at random"),
        ("m: sign_rank1(stochastic)", "`sign1` is not rounded at random"),
        ("m: linear8(random)", "`random` is no setting of a storage"),
        ("θ: linear8(stochastic)", "θ cannot be kept as `linear8`"),
        ("m: fp16(stochastic)", "`fp16` has no settings"),
    ],
)
def test_what_is_not_rounded_at_random(clause: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_source(Source("x.opt", f"optimizer X = AdamW storing {clause}\n"))
    assert says in str(caught.value)


def test_names_and_seeds() -> None:
    program = check_source(Source("x.opt", "optimizer X = AdamW storing m: linear8(stochastic, 128), v: bf16(stochastic)\n"))
    assert {s.name: s.storage.name for s in program.states if s.storage} == {
        "m": "linear8(block = 128, stochastic)",
        "v": "bf16(stochastic)",
    }
    assert [h.key for h in program.hypers].count("seed") == 1
    assert storage_of("linear8").error == pytest.approx(0.5 / 127, rel=1e-4)
    kept = program.state("m").storage
    assert kept is not None and kept.error == pytest.approx(1 / 127, rel=1e-4)
    text = "optimizer X:\n    hyper: lr = 1 in [0, inf)\n    state: m = 0\n    storing m: linear8(stochastic)\n    step:\n"
    with pytest.raises(SpecError, match="is the hyper of random rounding"):
        expand(Source("x.opt", f"{text}        seed = m + g\n        m <- seed\n        θ <- θ - lr*m\n"))


def test_gpu_compilers_take_them(tmp_path: Path) -> None:
    """Codes of eight and four bits, with a scale and with one of 1: no registers are spilled, and nothing lies on the stack."""
    storing = {"m": "linear8(stochastic)", "v": "linear4(scale = 1, stochastic)"}
    clauses = ", ".join(f"{state}: {storage}" for state, storage in storing.items())
    text = compile_expanded(expand(Source("x.opt", f"optimizer X = AdamW without amsgrad storing {clauses}\n"))).module
    path = tmp_path / "random_codes.py"
    path.write_text(text, encoding="utf-8")
    codes = {"m": "uint8", "v": "uint8"}
    requests = [
        Request("step_triton", target, {"theta": d, "g": d, **codes}, {"numel_ge_4096": True}, codes=256, draws=True)
        for target in TARGETS
        for d in ("float32", "bfloat16")
    ]
    for request, report in zip(requests, reports(str(path), requests), strict=True):
        assert not any((report.stack, report.local, report.spills, report.atomics)), (request, report)
