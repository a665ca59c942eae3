"""`show` is the inverse of `parse`, in both spellings, and the canonical text is a fixed point."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from optc.dsl import nodes
from optc.dsl.parse import parse, parse_file
from optc.dsl.show import format_text, show, show_expression
from optc.dsl.source import Source
from tests.dsl.texts import ADAMW, ADOPT, FACTORED, GLOBAL, SGD
from tests.strategies import compositions, expressions, specs

_QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _in_step(text: str) -> nodes.Statement:
    return parse(Source("<text>", f"optimizer X:\n    step:\n        {text}\n")).optimizer.step[0]


@pytest.mark.parametrize("mathematical", [False, True])
@_QUICK
@given(spec=specs)
def test_a_shown_spec_reads_back_and_shows_itself_again(mathematical: bool, spec: nodes.Spec) -> None:
    text = show(spec, mathematical)
    read = parse(Source("<text>", text))
    assert read == spec
    assert show(read, mathematical) == text
    assert mathematical or not any(character in text for character in "√·←≤≥≠∧∨⟨⌊‖ᵀ²")


@pytest.mark.parametrize("mathematical", [False, True])
@_QUICK
@given(file=compositions)
def test_a_shown_composition_reads_back_and_shows_itself_again(mathematical: bool, file: nodes.Composition) -> None:
    text = show(file, mathematical)
    read = parse_file(Source("<text>", text))
    assert read == file
    assert show(read, mathematical) == text
    assert mathematical or not any(character in text for character in "√·←→≤≥≠∧∨⟨⌊‖ᵀ²")


@pytest.mark.parametrize("mathematical", [False, True])
@_QUICK
@given(expression=expressions)
def test_a_shown_expression_reads_back(mathematical: bool, expression: nodes.Expression) -> None:
    statement = _in_step(f"x = {show_expression(expression, mathematical)}")
    assert isinstance(statement, nodes.Assign)
    assert statement.value == expression


@pytest.mark.parametrize("text", [ADAMW, SGD, ADOPT, FACTORED, GLOBAL])
def test_the_two_spellings_are_one_program(text: str) -> None:
    spec = parse(Source("<text>", text))
    ascii_text, mathematical = format_text(Source("<text>", text)), format_text(Source("<text>", text), mathematical=True)
    assert ascii_text.isascii()
    assert parse(Source("<text>", ascii_text)) == parse(Source("<text>", mathematical)) == spec
    assert format_text(Source("<text>", mathematical)) == ascii_text
    assert format_text(Source("<text>", ascii_text), mathematical=True) == mathematical


@pytest.mark.parametrize(
    ("written", "ascii_text", "mathematical"),
    [
        ("((a) + (b*c))", "a + b*c", "a + b·c"),
        ("(a + b)*c", "(a + b)*c", "(a + b)·c"),
        ("a - (b - c) - d", "a - (b - c) - d", "a - (b - c) - d"),
        ("a/(b*c)/d", "a/(b*c)/d", "a/(b·c)/d"),
        ("-(x^2)", "-x^2", "-x²"),
        ("(-x)^2", "(-x)^2", "(-x)²"),
        ("2^-x", "2^-x", "2^-x"),
        ("2^(3^4)", "2^3^4", "2^3⁴"),
        ("(2^3)^4", "(2^3)^4", "(2³)⁴"),
        ("x^-1", "x^-1", "x⁻¹"),
        ("sqrt(v)^2", "sqrt(v)^2", "(√v)²"),
        ("sqrt(v^2)", "sqrt(v^2)", "√(v²)"),
        ("sqrt(sqrt(v))", "sqrt(sqrt(v))", "√√v"),
        ("sqrt(f(x))/2", "sqrt(f(x))/2", "√f(x)/2"),
        ("abs(abs(x) - norm(y))", "abs(abs(x) - norm(y))", "||x| - ‖y‖|"),
        ("dot(a, b)*floor(c)", "dot(a, b)*floor(c)", "⟨a, b⟩·⌊c⌋"),
        ("X @ X'", "X @ X'", "X @ Xᵀ"),
        ("(X @ Y)'", "(X @ Y)'", "(X @ Y)ᵀ"),
        ("a*(b @ c)", "a*(b @ c)", "a·(b @ c)"),
        ("S[0]^2", "S[0]^2", "S[0]²"),
        ("(a + b)[0]", "(a + b)[0]", "(a + b)[0]"),
        ("not (a and b) or c", "not (a and b) or c", "not (a ∧ b) ∨ c"),
        ("not a == b", "not a == b", "not a == b"),
        ("(not a) == b", "(not a) == b", "(not a) == b"),
        ("(a < b) == (c < d)", "(a < b) == (c < d)", "(a < b) == (c < d)"),
        ("a and (b and c)", "a and (b and c)", "a ∧ (b ∧ c)"),
        ("m̂/(√v̂ + ε)", "m_hat/(sqrt(v_hat) + eps)", "m̂/(√v̂ + ε)"),
        ("β₂ₜ*ρ∞*π", "beta2_t*rho_inf*pi", "β₂ₜ·ρ∞·π"),
        ("1e-3 + 0.010 + 1e20 + 3.0 + .5 + 7", "1e-3 + 0.01 + 1e20 + 3.0 + 0.5 + 7", "1e-3 + 0.01 + 1e20 + 3.0 + 0.5 + 7"),
    ],
)
def test_brackets_are_the_fewest(written: str, ascii_text: str, mathematical: str) -> None:
    statement = _in_step(f"x = {written}")
    assert isinstance(statement, nodes.Assign)
    assert not isinstance(statement.value, tuple)
    assert show_expression(statement.value) == ascii_text
    assert show_expression(statement.value, mathematical=True) == mathematical


COMMENTED = """\
   # top
define f(x) = x   # on f
# before the optimizer
optimizer X:  # on the head
    # before step
    step:     # on step
        # before the if
        if t == 1:  # on if
            # in the block
            m <- g; stop #on stop
        # before else
        else:       # on else
            m <- (g +   # inside
                  1)    # behind
        u = m
            # deeper than it should be
        θ <- u
    # on hyper, which moves up with it
    hyper: lr = 1.0 # on lr
# last
"""
CANONICAL = """\
# top
define f(x) = x  # on f

# before the optimizer
optimizer X:  # on the head
    # on hyper, which moves up with it
    hyper:
        lr = 1.0  # on lr
    # before step
    step:  # on step
        # before the if
        if t == 1:  # on if
            # in the block
            m <- g
            stop  # on stop
        # before else
        else:  # on else
            # inside
            m <- g + 1  # behind
        u = m
        # deeper than it should be
        theta <- u
# last
"""


def test_comments_stay_where_they_were() -> None:
    assert format_text(Source("<text>", COMMENTED)) == CANONICAL
    assert format_text(Source("<text>", CANONICAL)) == CANONICAL
    assert format_text(Source("<text>", format_text(Source("<text>", COMMENTED), mathematical=True))) == CANONICAL


SHAPED = """\
modifier a:
    # before the shape of a
    shape:matrix # on it
    cite x
    trust u:
        u = u/√outer(rowsum(|u|), colmax(u))
optimizer B:
    # before the shape
    shape :  matrix   # on the shape
    # before the state
    state: R = 1 per row; k = 0 per model # on k
    note "n"
    step: θ <- total_norm(g)
"""


def test_the_shape_stands_after_the_texts_with_its_comments() -> None:
    optimizer = SHAPED[SHAPED.index("optimizer") :]
    shown = (
        "optimizer B:\n"
        '    note "n"\n'
        "    # before the shape\n"
        "    shape: matrix  # on the shape\n"
        "    # before the state\n"
        "    state:\n"
        "        R = 1 per row\n"
        "        k = 0 per model  # on k\n"
        "    step:\n"
        "        θ ← total_norm(g)\n"
    )
    assert format_text(Source("<text>", optimizer), mathematical=True) == shown
    assert format_text(Source("<text>", shown), mathematical=True) == shown
    modifier = SHAPED[: SHAPED.index("optimizer")]
    shown = (
        "modifier a:\n"
        "    cite x\n"
        "    # before the shape of a\n"
        "    shape: matrix  # on it\n"
        "    trust u:\n"
        "        u = u/√outer(rowsum(|u|), colmax(u))\n"
    )
    assert format_text(Source("<text>", modifier), mathematical=True) == shown
    assert format_text(Source("<text>", shown), mathematical=True) == shown
    read = parse_file(Source("<text>", modifier))
    assert isinstance(read, nodes.Composition) and read.modifiers[0].shape == "matrix"


COMPOSED = """\
modifier scaled(c = 0.5 in (0, 1), k = 2 as every_k in int [1, inf)):   # on the head
    # before the state
    state: slow = 0 # on the state
    mask m_hat else u as z:  # on the stage
        z = c*z + slow #on the line
    # before the rule
    rewrite (a, b): a/(b + c) -> a*b # on the rule
    decay theta: theta = k*theta
"""


def test_the_layout_of_compositions_is_canonical() -> None:
    text = COMPOSED + (
        "optimizer Long = (AdamW(betas = (0.95, 0.999), eps = 1e-5) without amsgrad, weight_decay\n"
        "+ scaled(0.25) + lookahead(k = 6)):\n"
        '    note "n"\n'
    )
    shown = (
        "modifier scaled(c = 0.5 in (0, 1), k = 2 as every_k in int [1, ∞)):  # on the head\n"
        "    # before the state\n"
        "    state:\n"
        "        slow = 0  # on the state\n"
        "    mask m̂ else u as z:  # on the stage\n"
        "        z = c·z + slow  # on the line\n"
        "    # before the rule\n"
        "    rewrite (a, b): a/(b + c) → a·b  # on the rule\n"
        "    decay θ:\n"
        "        θ = k·θ\n"
        "\n"
        "optimizer Long = (AdamW(betas = (0.95, 0.999), ε = 1e-5) without amsgrad, weight_decay\n"
        "        + scaled(0.25)\n"
        "        + lookahead(k = 6)):\n"
        '    note "n"\n'
    )
    assert format_text(Source("<text>", text), mathematical=True) == shown
    assert format_text(Source("<text>", shown), mathematical=True) == shown
    assert format_text(Source("<text>", "optimizer A = (B\n + c)\n")) == "optimizer A = B + c\n"


def test_the_layout_is_canonical() -> None:
    assert format_text(Source("<text>", ADOPT), mathematical=True) == (
        "optimizer ADOPT:\n"
        "    hyper:\n"
        "        lr    = 1e-3                    in [0, ∞)\n"
        "        betas = (β₁ = 0.9, β₂ = 0.9999) in [0, 1)\n"
        "        ε     = 1e-6\n"
        "    state:\n"
        "        m = 0 as exp_avg\n"
        "        v = 0 as exp_avg_sq\n"
        "    step:  # an early end; normalise by the old v\n"
        "        if t == 1:\n"
        "            v ← g²\n"
        "            stop\n"
        "        n = clamp(g/max(√v, ε), -(t - 1)^0.25, (t - 1)^0.25)\n"
        "        m ← ema(m, n, β₁)\n"
        "        v ← ema(v, g², β₂)\n"
        "        u = m\n"
        "        θ ← θ - lr·u\n"
    )
