"""Storages by other states: what they make of a spec, that this means what it says, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import optc
from optc.compiler.compose.expand import expand
from optc.compiler.interpret import Oracle, ParameterState
from optc.compiler.pipeline import check_source
from optc.dsl.errors import SpecError
from optc.dsl.show import show
from optc.dsl.source import Source

PAIRED = """
storage halves:
    "Half of a number, and the other half."
    rank = 2
    state: a = 0; b = 0
    decode: a + b
    encode x:
        a <- x/2
        h = x/2
        b <- h
"""
HEAD = "optimizer X:\n    hyper: lr = 0.1 in [0, inf){hypers}\n    state: {states}\n    storing {clause}\n"


def source(clause: str, *step: str, states: str = "v = 0", hypers: str = "", more: str = "", storages: str = PAIRED) -> Source:
    lines = "".join(f"        {line}\n" for line in step)
    return Source("x.opt", storages + HEAD.format(clause=clause, states=states, hypers=hypers) + f"    step:\n{lines}{more}")


def lines_of(made: Source, start: str = "    step:\n") -> list[str]:
    """The lines of the step, or of an entry, once they are written out."""
    text = show(expand(made).spec).split(start)[1]
    return [line[8:] for line in text.split("\n    entry")[0].rstrip().split("\n")]


STEP = ("v <- ema(v, g^2, 0.9)", "θ <- θ - lr*g/(sqrt(v) + 1)")
BEFORE = ["if ndim >= 2:", "    v_now = v_a + v_b", "else:", "    v_now = v"]
BEHIND = ["if ndim >= 2:", "    v_a <- v_now/2", "    v_h = v_now/2", "    v_b <- v_h", "else:", "    v <- v_now"]


def test_the_step_has_the_value_in_the_place_of_the_state() -> None:
    inside = ["v_now = ema(v_now, g^2, 0.9)", "theta <- theta - lr*g/(sqrt(v_now) + 1)"]
    assert lines_of(source("v: halves", *STEP)) == [*BEFORE, *inside, *BEHIND]


def test_a_step_that_ends_early_keeps_the_value_before() -> None:
    found = lines_of(source("v: halves", STEP[0], "if numel > 5: stop", STEP[1]))
    assert found[5:13] == ["if numel > 5:", *(f"    {line}" for line in BEHIND), "    stop"]
    assert found[-6:] == BEHIND


def test_entries_that_name_the_state_have_its_value_too() -> None:
    more = "    entry grow(x per elem):\n        v <- v + x\n    entry other(x per elem):\n        θ <- θ + x\n"
    made = source("v: halves", *STEP, more=more)
    assert lines_of(made, "entry grow(x per elem):\n") == [*BEFORE, "v_now = v_now + x", *BEHIND]
    assert lines_of(made, "entry other(x per elem):\n") == ["theta <- theta + x"]


def test_what_is_written_together_reads_old_values() -> None:
    found = lines_of(source("v: halves", "(v, m) <- (v + g, m + v)", "θ <- θ - lr*m*v", states="v = 0; m = 0"))
    assert found[4:8] == ["v_next = v_now + g", "m <- m + v_now", "v_now = v_next", "theta <- theta - lr*m*v_now"]
    both = lines_of(source("v: halves, m: halves", "(v, m) <- (v + g, m + v)", "θ <- θ - lr*m*v", states="v = 0; m = 0"))
    assert both[8] == "(v_now, m_now) = (v_now + g, m_now + v_now)"


def test_a_new_state_is_one_whose_storage_is_new() -> None:
    found = lines_of(source("v: halves", "if new(v): v <- g", "else: v <- v + g", "θ <- θ - lr*v"))
    assert found[4] == "if where(ndim >= 2, new(v_a), new(v)):"
    check_source(source("v: halves", "v <- where(new(v), g, v + g)", "θ <- θ - lr*v"))


def test_states_of_a_storage_may_be_stored() -> None:
    storages = PAIRED.replace("    decode:", "    storing a: bf16, b: dynamic8\n    decode:")
    made = expand(source("v: halves", *STEP, storages=storages))
    assert "storing vₐ: bf16, v_b: dynamic8" in made.source.text
    assert expand(made.source).source.text == made.source.text
    states = {s.name: s.storage and s.storage.name for s in check_source(made.source).states}
    assert states == {"v_a": "bf16", "v_b": "dynamic8", "v": None}


def test_tensors_that_a_storage_does_not_take_may_have_another() -> None:
    storages = PAIRED.replace("    state:", '    others = "dynamic8"\n    state:')
    made = expand(source("v: halves", *STEP, storages=storages))
    assert expand(made.source).source.text == made.source.text
    states = {s.name: s.storage and s.storage.name for s in check_source(made.source).states}
    assert states == {"v_a": None, "v_b": None, "v": "dynamic8"}


@pytest.mark.parametrize(
    ("before", "after", "code", "says"),
    [
        ('others = "halves"', "", "unsupported", "`halves` keeps other states"),
        ('others = "zzz"', "", "unknown-storage", "there is no storage `zzz`"),
        ("others = 3", "", "wrong-setting", "the name of a storage in quotes"),
        ('others = "bf16"', "rank = 2", "unknown-setting", "keeps all tensors"),
    ],
)
def test_others_that_cannot_be(before: str, after: str, code: str, says: str) -> None:
    storages = PAIRED.replace("    state:", f"    {before}\n    state:")
    with pytest.raises(SpecError) as caught:
        check_source(source("v: halves", *STEP, storages=storages.replace(f"    {after}\n", "") if after else storages))
    (found,) = caught.value.diagnostics
    assert found.code == code and says in str(caught.value)


SCALE_OF_ONE = """
optimizer Plain:
    hyper: lr = 1.0 in [0, inf)
    state: m = 0
    storing m: linear8(scale = 1, smallest = 0)
    step:
        u = m
        m <- g
        θ <- -lr*u
"""


@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_with_a_scale_of_one(backend: str, dtype: torch.dtype) -> None:
    """Each number by itself is the nearest of the levels; those beyond 1 are 1. Nobody looks at the scales."""
    generator = torch.Generator().manual_seed(2)
    shapes = [(64, 70), (5, 3), (8193,), (1,), (0, 3), (), (100, 101)]
    params = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]
    optimizer: Any = optc.compile(SCALE_OF_ONE)(params, backend=backend)
    for _ in range(2):
        given = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
        given[0][:2, :3] = torch.tensor([[torch.nan, torch.inf, -torch.inf], [0.0, -0.0, 1e-30]], dtype=dtype)
        for p, g in zip(params, given, strict=True):
            p.grad = g
        optimizer.step()
        for p in params:
            optimizer.state[p]["m_scale"].fill_(7)
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    levels = np.arange(-127, 128).astype(np.float64) / 127
    for p, g in zip(params, given, strict=True):
        x = np.clip(np.nan_to_num(g.numpy().astype(np.float32).astype(np.float64), nan=0.0), -1, 1).reshape(-1)
        nearest = levels.astype(np.float32)[np.abs(x[:, None] - levels).argmin(axis=1)]
        assert np.array_equal(-p.detach().numpy().reshape(-1), nearest.astype(g.numpy().dtype))


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_it_means_the_same_as_the_state_itself(stops: bool, together: bool) -> None:
    """Halves of a float64 number add up to it."""
    step = [*(["(v, m) <- (ema(v, g^2, 0.9), m + v)"] if together else ["m <- m + v", "v <- ema(v, g^2, 0.9)"])]
    step += ["if t > 2: stop"] * stops + ["θ <- θ - lr*(g + m)/(sqrt(v) + 1)"]
    states, more = "v = 0; m = 1", "    entry grow(x per elem):\n        v <- v + x^2\n"
    made = source("v: halves, m: halves", *step, states=states, more=more)
    plain = Source(
        "x.opt", f"optimizer X:{made.text.split('optimizer X:')[1]}".replace("    storing v: halves, m: halves\n", "")
    )
    for shape in ((3, 4), (5,)):
        theta = np.linspace(-1, 1, int(np.prod(shape))).reshape(shape)
        params = [ParameterState(theta.copy()) for _ in range(2)]
        rng = np.random.default_rng(3)
        for _ in range(4):
            g, x = rng.normal(size=shape), rng.normal(size=shape)
            for program, param in zip((check_source(made), check_source(plain)), params, strict=True):
                oracle = Oracle(program)
                oracle.step(param, g)
                oracle.enter("grow", param, {"x": x})
            assert np.array_equal(params[0].theta, params[1].theta)
        kept = params[0].states
        v = kept["v_a"] + kept["v_b"] if len(shape) == 2 else kept["v"]
        assert np.array_equal(v, params[1].states["v"])


ROWS = ("r <- rowmean(v)", *STEP)
IN_ROWS = "if ndim >= 2: v = 0; r = 0 per row"
SQUARE = "    shape: square\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("optimizer X = Adafactor storing m: rank1\n", "shapes-differ"),
        ("optimizer X = AdamW storing m: sign_rank1, v: rowcol\n", "shapes-differ"),
        ("optimizer X = CAME storing m: sign_rank1\n", "shapes-differ"),
        ("optimizer X = AdamW + centralize storing m: sign_rank1\n", "shapes-differ"),
    ],
)
def test_all_lines_mean_the_same_rows(text: str, code: str) -> None:
    with pytest.raises(SpecError) as caught:
        expand(Source("x.opt", text))
    (found,) = caught.value.diagnostics
    assert found.code == code and caught.value.source.name == "x.opt"


def test_rows_of_the_storage_are_those_of_the_step() -> None:
    assert check_source(Source("x.opt", "optimizer X = AdamW storing v: rank1\n")).seen == "square"
    assert check_source(Source("x.opt", "optimizer X = AdamW storing v: rowcol\n")).seen is None
    assert check_source(Source("x.opt", "optimizer X = AdamW + centralize storing v: rowcol\n")).seen == "matrix"


@pytest.mark.parametrize(
    ("step", "initial"),
    [("s <- g", "1"), ("s <- where(g > 0, 1, 0)", "1"), ("s <- -s*2", "1"), ("s <- where(g > 0, 1, -1)", "0")],
)
def test_a_bit_keeps_signs_alone(step: str, initial: str) -> None:
    with pytest.raises(SpecError, match="keeps -1 and 1 only") as caught:
        check_source(source("s: sign1", step, "θ <- θ - lr*s*g", states=f"s = {initial}", storages=""))
    (found,) = caught.value.diagnostics
    assert found.code == "no-sign" and "where(x > 0, 1, -1)" in (found.hint or "")


def test_two_codes_are_signs() -> None:
    storage = 'storage q:\n    "Two levels."\n    codes = 2\n    define level(c) = {}\n'
    with pytest.raises(SpecError, match="must stand for -1 and 1"):
        check_source(
            source("s: q", "s <- where(g > 0, 1, -1)", "θ <- θ - lr*s*g", states="s = 1", storages=storage.format("c"))
        )
    check_source(
        source("s: q", "s <- where(g > 0, -1, 1)", "θ <- θ - lr*s*g", states="s = -1", storages=storage.format("2*c - 1"))
    )


SIGNS = "u = s*g", "s <- where(g + 0.5*s > 0, 1, -1)", "θ <- θ - lr*u"


@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_bits_without_rows(backend: str, dtype: torch.dtype) -> None:
    """Of sizes that fill no byte, no group of a vector, no block."""
    cls: Any = optc.compile(source("s: sign1", *SIGNS, states="s = 1", storages="").text)
    generator = torch.Generator().manual_seed(1)
    shapes = [(64, 70), (5, 3), (8193,), (1,), (0, 3), (), (100, 101), (300,)]
    params = [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]
    optimizer = cls(params, lr=0.5, backend=backend)
    expected, signs = [p.detach().double() for p in params], [torch.ones(s, dtype=torch.float64) for s in shapes]
    for _ in range(3):
        for k, p in enumerate(params):
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
            g = p.grad.double()
            expected[k] = (expected[k] - 0.5 * signs[k] * g).to(dtype).double()
            signs[k] = torch.where(g + 0.5 * signs[k] > 0, 1.0, -1.0)
        optimizer.step()
    for p, theta, sign in zip(params, expected, signs, strict=True):
        slot = optimizer.state[p]
        bits = slot["s"][:, None] >> torch.arange(8, dtype=torch.uint8) & 1
        assert torch.equal(bits.view(-1)[: p.numel()].double() * 2 - 1, sign.flatten())
        assert torch.equal(slot["s_scale"], torch.ones_like(slot["s_scale"]))
        assert slot["s"].shape == (-(-p.numel() // 32) * 4,)
        # the interpreter cuts bfloat16 off, three times
        relative = 3 * 2.0**-7 if dtype == torch.bfloat16 else 1e-6
        assert bool(((p.detach().double() - theta).abs() <= relative * (1 + theta.abs())).all())


def test_an_entry_cannot_tell_a_new_state() -> None:
    more = "    entry grow(x per elem):\n        v <- v + x\n"
    with pytest.raises(SpecError, match="does not start as 0 and which an entry names"):
        expand(source("v: halves", *STEP, states="v = 1", more=more))
