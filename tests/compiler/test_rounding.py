"""What `bf16(stochastic)` makes of a step, and the mistakes that can be made with it."""

from __future__ import annotations

import pytest

from optc.compiler.compose.expand import expand
from optc.compiler.ir import expressions
from optc.compiler.pipeline import check_source
from optc.dsl.errors import SpecError
from optc.dsl.program import DRAW, Apply, Constant, Expression, Program
from optc.dsl.show import show
from optc.dsl.source import Source

HEAD = "optimizer X:\n    hyper: lr = 0.1 in [0, inf){hypers}\n    state:\n{states}\n    storing {clause}\n    step:\n"
ROUNDED = "round_bf16({0}, uniform(seed))"


def source(clause: str, *step: str, states: str = "m = 0", hypers: str = "") -> Source:
    indented = "\n".join(f"        {line}" for line in states.split("\n"))
    lines = "".join(f"        {line}\n" for line in step)
    return Source("x.opt", HEAD.format(clause=clause, states=indented, hypers=hypers) + lines)


def step_of(made: Source) -> list[str]:
    """The lines of the step once it is written out."""
    text = show(expand(made).spec)
    return [line[8:] for line in text.split("    step:\n")[1].rstrip().split("\n")]


def drawn_in(program: Program) -> list[Expression]:
    """The places of what a step draws, in the order of its lines."""

    def inside(e: Expression) -> list[Expression]:
        if not isinstance(e, Apply):
            return []
        return [*(place for a in e.arguments for place in inside(a)), *[e.arguments[-1]] * (e.operation == DRAW)]

    return [place for e in expressions(program.procedures[0].body) for place in inside(e)]


STEP = ("m <- m + g", "θ <- θ - lr*m")


def test_a_state_is_rounded_at_the_end_of_the_step() -> None:
    assert step_of(source("m: bf16(stochastic)", *STEP))[-2:] == ["theta <- theta - lr*m", f"m <- {ROUNDED.format('m')}"]


def test_theta_is_rounded_where_it_is_written_if_it_is_bfloat16() -> None:
    value = f"where(bf16, {ROUNDED.format('theta_new')}, theta_new)"
    assert step_of(source("θ: bf16(stochastic)", *STEP))[1:] == ["theta_new = theta - lr*m", f"theta <- {value}"]
    together = step_of(source("θ: bf16(stochastic)", "(m, θ) <- (m + g, θ - lr*m)"))
    assert together == ["theta_new = theta - lr*m", f"(m, theta) <- (m + g, {value})"]


def test_a_name_of_the_spec_is_not_taken() -> None:
    found = step_of(source("θ: bf16(stochastic)", "theta_new = m + g", "m <- theta_new", "θ <- θ - lr*m"))
    assert found[2] == "theta_new_ = theta - lr*m"


def test_a_state_that_does_not_always_exist_is_rounded_where_it_does() -> None:
    states = "if numel > 3: m = 0\nelse:\n    k = 0"
    found = step_of(
        source(
            "m: bf16(stochastic), k: bf16(stochastic)",
            "if numel > 3: m <- m + g",
            "else: k <- k + g",
            "θ <- θ - lr*g",
            states=states,
        )
    )
    assert found[-4:] == [
        "if numel > 3:", f"    m <- {ROUNDED.format('m')}", "if not numel > 3:", f"    k <- {ROUNDED.format('k')}",
    ]  # fmt: skip


def test_a_step_that_ends_early_rounds_before() -> None:
    found = step_of(source("m: bf16(stochastic)", "m <- m + g", "if numel > 3: stop", "every 2: stop", "θ <- θ - lr*m"))
    line = f"    m <- {ROUNDED.format('m')}"
    assert found[2:4] == [line, "    stop"] and found[5:7] == [line, "    stop"] and found[-1] == line.strip()


def test_what_is_written_out_stays_as_it_is() -> None:
    for clause in ("m: bf16(stochastic), θ: bf16(stochastic)", "m: bf16(stochastic)", "θ: bf16(stochastic)"):
        once = expand(source(clause, *STEP))
        again = expand(once.source)
        assert again.spec == once.spec and again.source.text == once.source.text
        assert f"storing {clause}" in once.source.text


def test_the_seed_is_a_hyper() -> None:
    seed = check_source(source("m: bf16(stochastic)", *STEP)).hypers[-1]
    assert (seed.key, seed.defaults, seed.kind.value) == ("seed", (0,), "integer")
    assert seed.bounds is not None and (seed.bounds.low, seed.bounds.low_closed) == (0, True)


def test_a_spec_that_draws_numbers_keeps_them() -> None:
    """Its own come first in the text, and what rounds has the next."""
    made = source("m: bf16(stochastic)", "m <- m + uniform(seed)*g", "θ <- θ - lr*m", hypers="; seed = 3 in int [0, inf)")
    program = check_source(made)
    assert [hyper.key for hyper in program.hypers] == ["lr", "seed"]
    assert [place.value for place in drawn_in(program) if isinstance(place, Constant)] == [0, 1]


def test_the_program_says_how_it_is_kept() -> None:
    program = check_source(source("m: bf16(stochastic), θ: bf16(stochastic)", *STEP))
    (m,) = program.states
    assert m.storage is not None and program.pair is None
    assert (m.storage.name, m.storage.dtype, m.storage.error) == ("bf16(stochastic)", "bfloat16", 2.0**-7)


@pytest.mark.parametrize(
    ("clause", "code", "part"),
    [
        ("m: fp16(stochastic)", "unknown-setting", "write `fp16`"),
        ("m: bf16(64)", "unknown-setting", "or `bf16(stochastic)` to round up or down at random"),
        ("m: bf16(stochastic, stochastic)", "unknown-setting", "write `bf16`"),
        ("m: bf16(block = 64)", "unknown-setting", "write `bf16`"),
        ("m: e4m3(stochastic)", "unknown-setting", "such as `linear8`"),
        ("m: bf16(random)", "not-constant", "write a number, or `stochastic`"),
        ("θ: split24(stochastic)", "unknown-storage", "and bf16(stochastic)"),
        ("θ: bf16", "unknown-storage", "and bf16(stochastic)"),
    ],
)
def test_mistakes(clause: str, code: str, part: str | None) -> None:
    with pytest.raises(SpecError) as caught:
        check_source(source(clause, *STEP))
    (found,) = caught.value.diagnostics
    assert found.code == code and (part is None or part in (found.hint or ""))
    assert caught.value.source.name == "x.opt"


def test_the_word_is_no_setting_of_a_modifier() -> None:
    with pytest.raises(SpecError, match="not a constant"):
        expand(Source("x.opt", "optimizer X = AdamW + lookahead(stochastic)\n"))


@pytest.mark.parametrize(
    "states, hypers, step",
    [("m = 0\nseed = 0", "", ("seed <- seed + g", *STEP)), ("m = 0", "", ("seed = m + g", "m <- seed", "θ <- θ - lr*m"))],
)
def test_a_seed_that_is_none(states: str, hypers: str, step: tuple[str, ...]) -> None:
    with pytest.raises(SpecError, match="is the hyper of random rounding") as caught:
        expand(source("m: bf16(stochastic)", *step, states=states, hypers=hypers))
    assert ":13: error: `seed`" in caught.value.render()


def test_a_seed_that_is_no_whole_number() -> None:
    with pytest.raises(SpecError, match="a seed is a hyper that is a whole number"):
        check_source(source("m: bf16(stochastic)", *STEP, hypers="; seed = 0.5 in [0, 1)"))
