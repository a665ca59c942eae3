"""Parameters of 16 bits with what they lack beside them: the numbers, training as in float32, and what users do to them."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor

import optc
from optc.runtime.pairs import REST, Pair, first_rest, joined, rest_dtype, split_into

PAIRS: tuple[Pair, ...] = ("split24", "split32", "kahan", "master")
LOW = (torch.bfloat16, torch.float16)
BACKENDS = ("torch", "native", "triton")
ERROR = {"split24": 2.0**-16, "split32": 0.0, "kahan": 2.0**-16, "master": 0.0}
"""Of a bfloat16 parameter, relative."""
SHAPES = ((70, 13), (101,), ())


def numbers(count: int = 100_000) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, generator=generator) * torch.exp(8 * torch.randn(count, generator=generator))
    return x.clamp(-1e38, 1e38)


def kept(pair: Pair, x: Tensor, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor]:
    p = torch.zeros(x.shape, dtype=dtype)
    rest = first_rest(pair, p)
    assert rest is not None
    split_into(pair, p, rest, x)
    return p, rest


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_is_the_number_it_was_made_of(pair: Pair) -> None:
    x = numbers()
    p, rest = kept(pair, x)
    off = (joined(pair, p, rest) - x).abs()
    assert (off <= ERROR[pair] * x.abs()).all()
    plain = (x.to(torch.bfloat16).float() - p.float()).abs()
    assert (plain <= 2.0**-7 * x.abs()).all(), "the parameter is the number, rounded"


def test_split32_ties_go_up_and_lose_nothing() -> None:
    halves = torch.tensor([0x3F808000, 0x3F818000, -0x407F8000, 0x00008000, 0x7F7F7FFF], dtype=torch.int32).view(torch.float32)
    p, rest = kept("split32", halves)
    assert torch.equal(joined("split32", p, rest), halves)
    assert rest.tolist()[:3] == [-32768, -32768, -32768]


@pytest.mark.parametrize("pair", PAIRS)
def test_what_is_not_finite_stays_so(pair: Pair) -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-40])
    p, rest = kept(pair, x)
    found = joined(pair, p, rest)
    assert found[0].isnan() and p[0].isnan()
    assert found[1:5].tolist() == x[1:5].tolist()


def test_dtypes() -> None:
    assert rest_dtype("split24", torch.bfloat16) == torch.int8 and rest_dtype("split32", torch.bfloat16) == torch.int16
    assert [rest_dtype("kahan", dtype) for dtype in LOW] == [*LOW]
    assert {rest_dtype(pair, dtype) for pair in PAIRS for dtype in (torch.float32, torch.float64)} == {None}
    assert rest_dtype("split24", torch.float16) is None and rest_dtype("master", torch.float16) == torch.float32


# --- training -----------------------------------------------------------------------------------------------------------------


def train(cls: Any, dtype: torch.dtype, backend: str, steps: int = 6) -> tuple[list[torch.nn.Parameter], Any]:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator).to(torch.bfloat16) for shape in SHAPES]
    params = [torch.nn.Parameter(x.to(dtype)) for x in start]
    optimizer = cls(params, lr=1e-3, weight_decay=0.1, backend=backend)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(torch.bfloat16).to(dtype)
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spec", ["adamw", "lamb", "adafactor"])
@pytest.mark.parametrize("pair", PAIRS)
def test_training_in_bfloat16_is_training_in_float32(pair: Pair, spec: str, backend: str) -> None:
    cls = optc.compile(spec, storing={"theta": pair})
    steps = 2 if (spec, backend) == ("adafactor", "triton") else 6  # Triton's interpreter takes seconds for its rows
    low, optimizer = train(cls, torch.bfloat16, backend, steps)
    high, _ = train(cls, torch.float32, backend, steps)
    plain, _ = train(optc.compile(spec), torch.bfloat16, "torch", steps)
    for p, q, r in zip(low, high, plain, strict=True):
        found = joined(pair, p.detach(), optimizer.state[p][REST])
        assert torch.allclose(found, q, rtol=6 * ERROR[pair] + 1e-6, atol=1e-7)
        assert torch.equal(p, found.to(torch.bfloat16)) or (p.float() - found).abs().max() <= 2.0**-8 * found.abs().max()
        if p.ndim == 2:
            assert (found - q).abs().mean() < 0.1 * (r.float() - q).abs().mean(), "better than bfloat16 alone"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_other_dtypes_are_kept_as_they_are(dtype: torch.dtype) -> None:
    cls = optc.compile("adamw", storing={"theta": "split24"})
    params, optimizer = train(cls, dtype, "native")
    expected, _ = train(optc.compile("adamw"), dtype, "native")
    assert all(torch.equal(p, q) for p, q in zip(params, expected, strict=True))
    assert all(REST not in optimizer.state[p] for p in params)


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_resumed_run_is_bit_exact(pair: Pair, backend: str) -> None:
    cls = optc.compile("adamw", storing={"theta": pair})
    params, optimizer = train(cls, torch.bfloat16, backend)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = cls(others, backend=backend)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    for p, q in zip(params, others, strict=True):
        p.grad = torch.ones_like(p)
        q.grad = torch.ones_like(q)
    optimizer.step()
    resumed.step()
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q) and torch.equal(optimizer.state[p][REST], resumed.state[q][REST])


def test_a_wrong_file_changes_nothing() -> None:
    cls = optc.compile("adamw", storing={"theta": "split24"})
    params, optimizer = train(cls, torch.bfloat16, "torch")
    saved = optimizer.state_dict()
    saved["state"][0][REST] = torch.zeros(3)
    before = optimizer.state[params[0]][REST].clone()
    with pytest.raises(ValueError, match=r"parameter 0: 'theta_rest' must be a tensor of shape \(70, 13\)"):
        optimizer.load_state_dict(saved)
    assert torch.equal(optimizer.state[params[0]][REST], before)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_change_from_outside_counts(pair: Pair) -> None:
    cls = optc.compile("sgd", storing={"theta": pair})
    p = torch.nn.Parameter(torch.full((8,), 3.0, dtype=torch.bfloat16))
    optimizer = cls([p], lr=0.01, backend="torch")
    p.grad = torch.ones_like(p)
    optimizer.step()
    with torch.no_grad():
        p.fill_(100.0)
    optimizer.step()
    assert abs(float(joined(pair, p.detach(), optimizer.state[p][REST])[0]) - 99.99) <= 0.26


def test_bytes_of_bfloat16_training() -> None:
    """Parameter, gradient, 24-bit remainder and moments in eight bits: 7.03 bytes."""
    p = torch.nn.Parameter(torch.zeros(256, 256, dtype=torch.bfloat16))
    p.grad = torch.ones_like(p)
    optimizer = optc.create("adamw_8bit_split", [p])
    optimizer.step()
    tensors = [p, p.grad, *(x for key, x in optimizer.state[p].items() if key != "step")]
    assert sum(x.numel() * x.element_size() for x in tensors) / p.numel() == 7.03125


def test_what_the_checker_says() -> None:
    for text, code in (
        ("optimizer A = AdamW storing theta: split23\n", "unknown-storage"),
        ("optimizer A = AdamW storing m: kahan\n", "wrong-storage"),
        ("optimizer A = AdamW storing theta: dynamic8\n", "unknown-storage"),
        ("optimizer A = AdamW storing theta: kahan(block = 64)\n", "unknown-storage"),
    ):
        with pytest.raises(optc.SpecError, match=code):
            optc.compile(text)
