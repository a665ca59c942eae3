"""Schedules in specs: texts, chains, compositions, and every mistake with its place, cause and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

import optc
from optc.compiler.compose.expand import expand, with_modifiers
from optc.compiler.compose.library import named, shipped, shipped_schedules
from optc.compiler.schedules import written_out
from optc.dsl import nodes
from optc.dsl.errors import OptcError, SpecError
from optc.dsl.parse import parse_file
from optc.dsl.read import read
from optc.dsl.show import show
from optc.dsl.source import Source
from optc.runtime.schedules import Schedule

HALVING = """\
schedule halving:
    "Half of the rate every k steps, not below a floor."
    hyper:
        k     = 10 in int [1, inf)
        floor_ = 0.0 as lowest in [0, inf) "never less"
    define half(x) = 2^(-x)
    lr:
        times = floor(n/k)
        return max(floor_, base*half(times))
    momentum:
        if n < k: b = base
        else: b = base/2
        return b
"""
LINES = """\
schedule mine:
    hyper: T = 5 in int [1, inf)
    lr:
{}
"""


def test_an_own_schedule_from_its_text() -> None:
    schedule = optc.schedule(HALVING, k=2, lowest=0.3)
    assert [schedule(n, 2.0) for n in range(8)] == [2, 2, 1, 1, 0.5, 0.5, 0.3, 0.3]
    assert [schedule.momentum(n, 0.8) for n in (0, 1, 2)] == [0.8, 0.8, 0.4]
    assert type(optc.schedule(HALVING)) is type(schedule)


def test_an_own_schedule_from_a_file_in_chains_and_steps(tmp_path: Path) -> None:
    (tmp_path / "halving.opt").write_text(HALVING)
    assert optc.schedule(tmp_path / "halving.opt", k=3)(7, 8.0) == 2.0
    (tmp_path / "mine.opt").write_text("optimizer Mine = SGD(momentum = 0.5) + halving(k = 2)\n")
    text = expand(read(tmp_path / "mine.opt")).source.text
    assert "lr_now = halving_lr(steps_done, lr)  # halving" in text
    assert "momentum_now = halving_momentum(steps_done, momentum)  # halving" in text
    assert "if momentum ≠ 0:\n            b = 0 as momentum_buffer" in text  # which states there are is no matter of the step
    assert "b ← momentum_now·b" in text


@pytest.mark.parametrize("path", shipped_schedules().values(), ids=lambda path: path.stem)
def test_shown_texts_read_back(path: Path) -> None:
    file = parse_file(read(path))
    for mathematical in (False, True):
        text = show(file, mathematical)
        assert parse_file(Source("again.opt", text)) == file
        assert show(parse_file(Source("again.opt", text)), mathematical) == text
    assert show(file, True) == path.read_text(encoding="utf-8")


def test_long_chains_take_several_lines_and_read_back() -> None:
    links = ", ".join(f"cosine(T = {n}, warmup = 10, ratio = 0.1) for {n}" for n in (100, 200, 300))
    file = parse_file(Source("x.opt", f'schedule long = {links}, constant:\n    "In four parts."\n    cite arXiv:1608.03983\n'))
    text = show(file)
    assert text.splitlines()[:3] == [
        "schedule long = (cosine(T = 100, warmup = 10, ratio = 0.1) for 100,",
        "        cosine(T = 200, warmup = 10, ratio = 0.1) for 200,",
        "        cosine(T = 300, warmup = 10, ratio = 0.1) for 300,",
    ]
    assert parse_file(Source("y.opt", text)) == file


def test_chains_are_written_out_as_one_schedule() -> None:
    chained = optc.schedule('ramp(T = 4, first = 0.5) for 4, one_cycle(T = 10, shape = "linear") for 10, cosine(T = 9)')
    parts = optc.schedule("ramp", T=4, first=0.5).then(
        optc.schedule("one_cycle", T=10, shape="linear").then(optc.schedule("cosine", T=9), 10), 4
    )
    for n in range(30):
        assert chained(n, 0.3) == pytest.approx(parts(n, 0.3), rel=1e-14)
        assert chained.momentum(n, 0.9) == pytest.approx(parts.momentum(n, 0.9), rel=1e-14)


def test_chains_of_chains_across_files(tmp_path: Path) -> None:
    (tmp_path / "parts.opt").write_text(
        "define twice(x) = 2*x\n\nschedule up:\n    lr:\n        return twice(base)*n\n\nschedule two = up for 3, constant\n"
    )
    (tmp_path / "all.opt").write_text("schedule all = two for 5, exponential(gamma = 0.5)\n")
    (found,) = written_out(read(tmp_path / "all.opt"))
    assert found.module == "all" and found.class_name == "All"
    schedule = optc.schedule(tmp_path / "all.opt")
    assert [schedule(n) for n in range(8)] == [0, 2, 4, 1, 1, 1, 0.5, 0.25]


def test_files_of_several_schedules_become_a_module_each(tmp_path: Path) -> None:
    (tmp_path / "some.opt").write_text("schedule one = constant\nschedule other_one = linear(T = 3)\n")
    assert [one.module for one in written_out(read(tmp_path / "some.opt"))] == ["one", "other_one"]
    with pytest.raises(OptcError, match="holds the schedules one, other_one; one is needed"):
        optc.schedule(tmp_path / "some.opt")
    with pytest.raises(OptcError, match="holds no schedule; one is needed"):
        optc.schedule("optimizer X = AdamW + cautious\n")


def test_what_a_schedule_does_not_change_is_left_out() -> None:
    """LARS has a momentum, AdEMAMix' β1 is one; RMSprop without momentum has neither, and the schedule's momentum goes."""
    text = with_modifiers(named(shipped()["adagrad"]), ["one_cycle(T = 9)"]).source.text
    assert "momentum_low" not in text and "one_cycle_lr(steps_done, lr)" in text
    text = with_modifiers(named(shipped()["adamw"]), ["one_cycle(T = 9)"]).source.text
    assert "β₁_now = one_cycle_momentum(steps_done, β₁)" in text or "beta1_now = one_cycle_momentum(steps_done, β₁)" in text


MISTAKES = {
    "schedule x:\n    hyper: T = 5\n": ("no-value", "gives no value"),
    LINES.format("        return base*T*k"): ("unknown-name", "there is no name `k` here"),
    LINES.format("        return base*T*t"): ("not-readable-here", "`t` cannot be read in a schedule"),
    LINES.format("        return base*T*g"): ("not-readable-here", "`g` cannot be read in a schedule"),
    LINES.format("        x = base\n        return T"): ("unused-local", "nothing reads `x`"),
    LINES.format("        x = base*T"): ("missing-return", "`lr` does not end in `return`"),
    LINES.format("        x <- base*T\n        return x"): ("impure-define", "a function writes nothing"),
    LINES.format("        return n < T"): ("expected-number", "`lr` is a number, and this is none"),
    LINES.format("        return base"): ("unused-hyper", "no line reads the hyper `T`"),
    LINES.format("        return T\n    lr:\n        return base"): ("duplicate-section", "a second `lr:`"),
    "schedule x:\n    hyper: n = 5\n    lr:\n        return n*base\n": ("reserved-name", "`n` has a meaning in schedules"),
    "schedule x:\n    hyper: k = 0 counts in int [0, inf)\n    lr:\n        return k*base\n": (
        "counts",
        "a schedule counts no steps",
    ),
    "schedule x:\n    state: k = 0\n    lr:\n        return base\n": ("section", "`state` cannot stand here"),
    "schedule x = constant, linear\n": ("endless-link", "`constant` does not say how long it lasts"),
    "schedule x = constant for 5\n": ("last-link", "the last schedule of a chain lasts for good"),
    "schedule x = constant for 5, x\n": ("circular", "`x` is a chain of itself"),
    "schedule x = constant for 5, liner\n": ("unknown-schedule", "there is no schedule `liner`"),
    "schedule x = constant for 5, cautious\n": ("unknown-schedule", "there is no schedule `cautious`"),
    "schedule x = constant(warm = 3) for 5, linear\n": ("unknown-hyper", "`constant` has no hyper `warm`"),
    "schedule x = constant(warmup = -3) for 5, linear\n": ("argument-out-of-range", "`warmup` is a whole number in [0, inf)"),
    "schedule x = constant for k, linear\n": ("not-constant", "a number of steps is not a constant"),
    "schedule x = constant for 0, linear\n": ("link-steps", "a schedule lasts a whole number of steps, at least 1"),
    "schedule x = constant for 2.5, linear\n": ("link-steps", "a schedule lasts a whole number of steps, at least 1"),
    "optimizer X = AdamW + cosine + linear\n": ("stage-taken", "both act in the stage `schedule`, which takes one"),
    "optimizer X = cosine + cautious\n": ("schedule-as-base", "`cosine` is a schedule, not an optimizer"),
    "optimizer X = AdamW + cosine(q = 3)\n": ("unknown-hyper", "`cosine` has no hyper `q`"),
    "optimizer X = AdamW + cosin\n": ("unknown-modifier", "there is no modifier `cosin`"),
    "optimizer X = AdamW + cosine without lr\n": ("syntax", ""),
    "optimizer X = AdamW without lr + cosine\n": ("missing-hyper", "`cosine` gives `lr`, which `AdamW` does not have"),
    "schedule a = constant\n": ("no-optimizer", "the file holds no optimizer, only schedules"),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_have_a_place_a_cause_and_a_remedy(text: str) -> None:
    code, message = MISTAKES[text]
    with pytest.raises(SpecError) as raised:
        expand(Source("x.opt", text))
    found = [d for d in raised.value.diagnostics if d.code == code]
    assert found, raised.value.diagnostics
    assert message in found[0].message
    assert found[0].hint or code in ("unused-local", "syntax", "unknown-name")
    assert 0 <= found[0].span.start < len(text)


def test_a_schedule_beside_an_optimizer_that_is_written_out_is_misplaced() -> None:
    step = "    hyper: lr = 1.0\n    step:\n        u = g\n        theta <- theta - lr*u\n"
    with pytest.raises(SpecError, match="a schedule beside an optimizer that is written out"):
        parse_file(Source("x.opt", f"optimizer X:\n{step}\nschedule a = constant\n"))


def test_counting_hypers_of_ones_own() -> None:
    """What a schedule adds can be written by hand: a hyper that counts steps."""
    text = """\
optimizer Decaying:
    hyper: lr = 1.0 in [0, inf); n = 0 as steps counts in int [0, inf)
    step:
        u = g
        theta <- theta - lr/(1 + n)*u
"""
    import torch

    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = optc.compile(text)([p])
    for expected in (-1.0, -1.5, -1.5 - 1 / 3):
        p.grad = torch.ones(1)
        optimizer.step()
        assert p.item() == pytest.approx(expected)
    assert optimizer.param_groups[0]["steps"] == 3
    for wrong in ("0.5 as steps counts in [0, inf)", "0 as steps counts"):
        with pytest.raises(SpecError, match="counts steps, so it is one whole number"):
            optc.compile(text.replace("0 as steps counts in int [0, inf)", wrong))


def test_generated_schedules_are_schedules() -> None:
    for name in optc.schedules.available():
        found = optc.schedule(name)
        assert isinstance(found, Schedule)
        assert found(0, 0.1) >= 0 and isinstance(found(5, 0.1), float)
        assert isinstance(parse_file(read(shipped_schedules()[found.name])), nodes.Composition)
