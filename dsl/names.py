"""Names: one ASCII identity each, and the mathematical spelling of it.

`fold` takes what the author wrote to the identity (`β₁` to `beta1`, `m̂` to `m_hat`, `ρ∞` to `rho_inf`); `pretty` goes back.
`fold(pretty(identity)) == identity`, and an ASCII name is its own identity.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from functools import lru_cache
from string import ascii_letters, digits

_LOWER = (
    "alpha beta gamma delta eps zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi psi omega"
)
_PRETTY_GREEK = dict(zip(_LOWER.split(), "αβγδεζηθικλμνξοπρστυφχψω", strict=True))
_PRETTY_GREEK |= {name.capitalize(): letter for name, letter in zip(_LOWER.split(), "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ", strict=True)}

GREEK: dict[str, str] = {letter: name for name, letter in _PRETTY_GREEK.items()}
"""Greek letter to English name; variant shapes mean the same letter."""
GREEK |= {"ϵ": "eps", "ϑ": "theta", "ϰ": "kappa", "ϖ": "pi", "ϱ": "rho", "ς": "sigma", "ϕ": "phi", "µ": "mu"}

MARKS: dict[str, str] = {"\u0302": "hat", "\u0304": "bar", "\u0305": "bar", "\u0303": "tilde"}
"""Combining marks that are part of a name."""

SUBSCRIPT_DIGITS: dict[str, str] = dict(zip("₀₁₂₃₄₅₆₇₈₉", digits, strict=True))
SUBSCRIPT_LETTERS: dict[str, str] = dict(zip("ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", "aehijklmnoprstuvx", strict=True))
SUBSCRIPT_GREEK: dict[str, str] = {"ᵦ": "beta", "ᵧ": "gamma", "ᵨ": "rho", "ᵩ": "phi", "ᵪ": "chi"}

RESERVED_WORDS = frozenset(
    [
        "and",
        "as",
        "cite",
        "define",
        "each",
        "else",
        "entry",
        "every",
        "false",
        "for",
        "from",
        "hyper",
        "if",
        "in",
        "int",
        "mod",
        "modifier",
        "none",
        "not",
        "note",
        "optimizer",
        "or",
        "otherwise",
        "per",
        "repeat",
        "require",
        "return",
        "schedule",
        "shared",
        "state",
        "step",
        "stop",
        "storing",
        "true",
        "view",
        "without",
    ]
)
"""Words of the language; they are never names. Some only serve constructs that are not part of this version."""

STOCHASTIC = "stochastic"
"""In `bf16(stochastic)`: the one setting that is a word."""

RESERVED_NAMES = frozenset(
    ["theta", "g", "t", "ndim", "numel", "bf16", "rows", "cols", "dim", "I", "pi", "inf", "loss", "element"]
)
"""Names (by identity) whose meaning the language gives; a spec cannot declare them."""

PYTHON_KEYWORDS = frozenset([*keyword.kwlist, "self", "super"])
"""Names that a spec may use inside, but that need another name outside (`λ = 1e-2 as weight_decay`).

With the keywords, the two names that the methods of a class cannot do without.
"""

_COMPOSED = frozenset(
    composed
    for letter in ascii_letters + "".join(GREEK)
    for mark in MARKS
    if len(composed := unicodedata.normalize("NFC", letter + mark)) == 1
)

NAME_START = "A-Za-z_" + "".join(sorted(GREEK)) + "".join(sorted(_COMPOSED))
"""Regular-expression class body of the characters that open a name."""

NAME_CONTINUE = NAME_START + "0-9∞" + "".join([*MARKS, *SUBSCRIPT_DIGITS, *SUBSCRIPT_LETTERS, *SUBSCRIPT_GREEK])
"""Regular-expression class body of the characters that follow in a name."""

NAME_PATTERN = f"(?:[{NAME_START}][{NAME_CONTINUE}]*|∞)"

_NAME = re.compile(NAME_PATTERN)
_PART = re.compile(r"([A-Za-z]+)([0-9]*)")
_TO_SUBSCRIPT = str.maketrans(digits, "".join(SUBSCRIPT_DIGITS))
_PRETTY_MARKS = {"hat": "\u0302", "bar": "\u0304", "tilde": "\u0303"}
_PRETTY_SUBSCRIPTS = {letter: sign for sign, letter in SUBSCRIPT_LETTERS.items()}


@lru_cache(maxsize=4096)
def fold(text: str) -> str:
    """The ASCII identity of a name as written.

    A Greek letter is its English name, set off by `_` from other letters; a subscript digit is the digit, subscript letters
    follow a `_`; a hat, bar, tilde or `∞` is `_hat`, `_bar`, `_tilde`, `_inf`. Raises ValueError where `text` is not a name.
    """
    if not _NAME.fullmatch(text):
        raise ValueError(f"not a name: {text!r}")
    if text.isascii():
        return text
    folded = ""
    previous = ""  # what the last character was; decides whether a letter must be set off
    for character in unicodedata.normalize("NFD", text):
        apart = "" if not folded or folded.endswith("_") else "_"
        if character in GREEK:
            folded, previous = folded + apart + GREEK[character], "word"
        elif character in SUBSCRIPT_GREEK:
            folded, previous = folded + apart + SUBSCRIPT_GREEK[character], "word"
        elif character in SUBSCRIPT_LETTERS:
            joined = "" if previous == "subscript" else apart
            folded, previous = folded + joined + SUBSCRIPT_LETTERS[character], "subscript"
        elif character in SUBSCRIPT_DIGITS:
            folded, previous = folded + SUBSCRIPT_DIGITS[character], "plain"
        elif character in MARKS:
            folded, previous = folded + apart + MARKS[character], "word"
        elif character == "∞":
            folded, previous = folded + apart + "inf", "word"
        elif character in ascii_letters and previous in ("word", "subscript"):
            folded, previous = folded + apart + character, "plain"
        else:
            folded, previous = folded + character, "plain"
    return folded


@lru_cache(maxsize=4096)
def pretty(identity: str) -> str:
    """The mathematical spelling (NFC) of an ASCII identity: `beta2_t` is `β₂ₜ`; what has none stays as it is."""
    written = ""
    base = ""  # "letter": a mark fits; "short": a subscript fits
    for place, part in enumerate(identity.split("_")):
        match = _PART.fullmatch(part)
        if match is None:
            written, base = written + "_" * (place > 0) + part, ""
            continue
        word, number = match[1], match[2].translate(_TO_SUBSCRIPT)
        if word in _PRETTY_MARKS and base == "letter":
            written, base = written + _PRETTY_MARKS[word] + number, "short"
        elif part == "inf" and base:
            written, base = written + "∞", ""
        elif word in _PRETTY_SUBSCRIPTS and base:
            written, base = written + _PRETTY_SUBSCRIPTS[word] + number, ""
        elif word in _PRETTY_GREEK or len(word) == 1:
            written, base = (
                written + "_" * (place > 0) + _PRETTY_GREEK.get(word, word) + number,
                "short" if number else "letter",
            )
        else:
            written, base = written + "_" * (place > 0) + part, ""
    if identity == "inf":
        return "∞"
    written = unicodedata.normalize("NFC", written)
    return written if _NAME.fullmatch(written) and fold(written) == identity else identity


def width(text: str) -> int:
    """Columns that a text takes on screen: combining marks take none."""
    return sum(not unicodedata.combining(character) for character in text)
