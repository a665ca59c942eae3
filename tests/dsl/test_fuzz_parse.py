"""Whatever the text, parsing ends soon, and ends in a spec or in a `SpecError`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from optc.dsl.errors import OptcError, SpecError
from optc.dsl.parse import parse
from optc.dsl.read import read
from optc.dsl.show import show
from optc.dsl.source import Source
from tests.dsl.texts import ADAMW, ADOPT, SGD

SPECS = (ADAMW, SGD, ADOPT)
SIGNS = [
    *"()[]{}|‖⟨⟩⌊⌋√²ᵀ'\"#;:,.=←<+-*/@^10θx∞\\!&é\0\t\r\x1a\ufeff\u2028\ud800",
    *("⁻¹", "<-", "==", "<=", "1e-3", "β₁", "m̂", "true", "none", "mod", "and", "or", "not", "as", "per", "in", "int", "shared"),
    *("if", "else", "every", "from", "stop", "return", "require", "note", "cite", "define", "entry", "optimizer"),
    *("hyper", "state", "step", "\n", "\n    ", "\n        ", "  "),
]


def _survives(text: str) -> None:
    try:
        spec = parse(Source("<fuzz>", text))
    except SpecError as error:
        assert error.diagnostics
        assert "<fuzz>:" in str(error)
        assert "_INDENT" not in str(error)
        return
    shown = show(spec, mathematical=True)
    assert parse(Source("<shown>", shown)) == spec
    assert show(parse(Source("<shown>", shown)), mathematical=True) == shown


def _mutated(text: str, choose: random.Random) -> str:
    for _ in range(choose.randint(1, 4)):
        at = choose.randrange(len(text) + 1)
        width = choose.choice((0, 0, 1, 1, 3, 10))
        kind = choose.randrange(4)
        if kind == 0:
            text = text[:at] + choose.choice(SIGNS) + text[at + width :]
        elif kind == 1:
            text = text[:at] + text[at + width :]
        elif kind == 2:
            other = choose.choice(SPECS)
            start = choose.randrange(len(other))
            text = text[:at] + other[start : start + choose.randint(1, 30)] + text[at:]
        else:
            lines = text.split("\n")
            lines.insert(choose.randrange(len(lines)), choose.choice(lines))
            text = "\n".join(lines)
    return text


@pytest.mark.parametrize("seed", range(4))
def test_mutated_specs(seed: int) -> None:
    choose = random.Random(seed)
    for _ in range(60):
        _survives(_mutated(choose.choice(SPECS), choose))


@pytest.mark.parametrize("text", SPECS)
def test_truncated_specs(text: str) -> None:
    for end in range(0, len(text), 11):
        _survives(text[:end])


def test_signs_at_random() -> None:
    choose = random.Random(1)
    for _ in range(150):
        _survives("".join(choose.choice(SIGNS) + choose.choice(("", " ")) for _ in range(choose.randint(1, 60))))


def test_random_bytes_in_files(tmp_path: Path) -> None:
    choose = random.Random(2)
    path = tmp_path / "x.opt"
    for _ in range(60):
        data = bytearray(choose.choice(SPECS).encode())
        for _ in range(choose.randint(1, 5)):
            data[choose.randrange(len(data))] = choose.randrange(256)
        path.write_bytes(bytes(data) if choose.random() < 0.7 else choose.randbytes(200))
        try:
            source = read(path)
        except OptcError as error:
            assert str(path) in str(error)
        else:
            _survives(source.text)
