"""How diagnostics look whatever stands in the text: short, on as many lines as planned, without control characters."""

from __future__ import annotations

import pytest

from optc.dsl.errors import Diagnostic
from optc.dsl.source import Source, Span

LONG = 5000


@pytest.mark.parametrize("at", [0, 79, 80, 2500, LONG - 80, LONG - 1])
def test_of_a_long_line_the_surroundings_of_the_caret_are_shown(at: int) -> None:
    text = "a" * at + "!" + "b" * (LONG - at - 1)
    header, line, caret = Diagnostic("x", "message", Span(at, LONG)).render(Source("s.opt", text)).splitlines()
    assert header.startswith(f"s.opt:1:{at + 1}: ")
    assert len(line) < 200
    assert len(caret) <= len(line)
    assert line[caret.index("^")] == "!"
    assert line.startswith("    1 | …") == (at > 80)
    assert line.endswith("…") == (at < LONG - 80)


def test_a_line_of_usual_length_is_shown_whole() -> None:
    text = "x" * 160
    assert Diagnostic("x", "message", Span(150, 151)).render(Source("s.opt", text)).splitlines()[1] == f"    1 | {text}"


def test_a_message_with_a_long_name_is_cut() -> None:
    assert len(Diagnostic("x", "nothing reads `" + "a" * LONG, Span(0, 1)).header(Source("s.opt", "a"))) < 400


@pytest.mark.parametrize("character", ["\r", "\x1b", "\x85", "\u2028", "\u202e", "\t"])
def test_control_characters_do_not_reach_the_terminal(character: str) -> None:
    rendered = Diagnostic("x", "message", Span(3, 4), "hint").render(Source("s.opt", f"ab{character}c"))
    assert rendered.splitlines() == ["s.opt:1:4: error: message [x]", "    1 | ab c", "      |    ^", "        hint: hint"]
