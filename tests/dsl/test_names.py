"""One identity per name: every spelling folds to it, and the mathematical spelling folds back."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import optc.dsl.parse as parse_module
from optc.dsl.names import (
    GREEK,
    NAME_CONTINUE,
    NAME_START,
    PYTHON_KEYWORDS,
    RESERVED_NAMES,
    RESERVED_WORDS,
    fold,
    pretty,
    width,
)
from tests.strategies import identities


@pytest.mark.parametrize(
    ("written", "identity"),
    [
        ("β₁", "beta1"),
        ("β1", "beta1"),
        ("beta1", "beta1"),
        ("m̂", "m_hat"),
        ("v̄", "v_bar"),
        ("x̃", "x_tilde"),
        ("ĝ", "g_hat"),
        ("δ_min", "delta_min"),
        ("δmin", "delta_min"),
        ("ρ∞", "rho_inf"),
        ("ρ_∞", "rho_inf"),
        ("∞", "inf"),
        ("π", "pi"),
        ("β₂ₜ", "beta2_t"),
        ("xᵢⱼ", "x_ij"),
        ("βᵦ", "beta_beta"),
        ("λ", "lambda"),
        ("ε", "eps"),
        ("ϵ", "eps"),
        ("θ", "theta"),
        ("ϑ", "theta"),
        ("Δx", "Delta_x"),
        ("xβ", "x_beta"),
        ("αβ", "alpha_beta"),
        ("x₁β", "x1_beta"),
        ("v̂₁", "v_hat1"),
        ("v̂max", "v_hat_max"),
        ("x_1", "x_1"),
        ("alphabet", "alphabet"),
        ("_x__y_", "_x__y_"),
    ],
)
def test_fold(written: str, identity: str) -> None:
    assert fold(written) == identity
    assert fold(unicodedata.normalize("NFD", written)) == identity
    assert fold(identity) == identity


@pytest.mark.parametrize(
    ("identity", "written"),
    [
        ("beta2_t", "β₂ₜ"),
        ("m_hat", "m̂"),
        ("g_hat", "ĝ"),
        ("rho_inf", "ρ∞"),
        ("delta_min", "δ_min"),
        ("lambda", "λ"),
        ("inf", "∞"),
        ("pi", "π"),
        ("x0", "x₀"),
        ("atan2", "atan2"),
        ("exp_avg", "exp_avg"),
        ("weight_decay", "weight_decay"),
        ("alphabet", "alphabet"),
        ("hat", "hat"),
        ("x_1", "x_1"),
    ],
)
def test_pretty(identity: str, written: str) -> None:
    assert pretty(identity) == unicodedata.normalize("NFC", written)


@given(identity=identities)
def test_folding_undoes_the_mathematical_spelling(identity: str) -> None:
    assert fold(pretty(identity)) == identity
    assert pretty(fold(pretty(identity))) == pretty(identity)


@given(
    rest=st.text(st.sampled_from(NAME_CONTINUE.replace("A-Za-z", "mXz").replace("0-9", "07")), max_size=6),
    start=st.sampled_from("mβΔ_ĝ"),
)
def test_every_name_folds_to_an_ascii_identifier(start: str, rest: str) -> None:
    identity = fold(start + rest)
    assert identity.isascii()
    assert identity.isidentifier()
    assert fold(identity) == identity
    assert fold(pretty(identity)) == identity


@pytest.mark.parametrize("text", ["", "1x", "₁", "a b", "é", "g²", "Xᵀ", "∞x", "x-y", "ж", "\u0302x"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        fold(text)


def test_letters_that_look_alike_stay_apart() -> None:
    assert len({fold(letter) for letter in "αβγδεζηθικλμνξοπρστυφχψω" + "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ"}) == 48
    assert fold("Α") != "A"  # a capital alpha
    assert set(GREEK) <= set(NAME_START)


def test_the_grammar_reserves_the_words_that_are_documented() -> None:
    grammar = Path(parse_module.__file__).with_name("grammar.lark").read_text(encoding="utf-8")
    listed = grammar.split("NAME: /(?!(?:", 1)[1].split(")", 1)[0].split("|")
    assert sorted(listed) == sorted(RESERVED_WORDS)
    assert not RESERVED_WORDS & RESERVED_NAMES
    assert {"lambda", "with", "class"} <= PYTHON_KEYWORDS


def test_marks_take_no_column() -> None:
    assert width("m̂") == width("m") == 1
    assert width("β₂ₜ") == 3
