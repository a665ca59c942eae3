"""docs/language.md: every example checks, every mistake is answered as printed, and the table of functions is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from optc.dsl.check import check
from optc.dsl.errors import SpecError
from optc.dsl.functions import BUILTINS
from optc.dsl.parse import parse
from optc.dsl.show import show
from optc.dsl.source import Source

PAGE = Path(__file__).parents[2] / "docs" / "language.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```opt\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
RUN = re.findall(r"^```opt\n((?:(?!```)[^\n]*\n)*)```\n\n```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
MISTAKES = re.findall(r"^```opt-error\n(.*?)^```\n\n```text\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def test_the_page_has_examples_and_mistakes() -> None:
    assert len(EXAMPLES) >= 8
    assert len(RUN) == TEXT.count("```python") >= 1
    assert len(MISTAKES) == TEXT.count("```opt-error") >= 8


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: re.findall(r"optimizer (\w+)", text)[0])
def test_example_is_a_sound_spec(text: str) -> None:
    source = Source("example.opt", text)
    spec = parse(source)
    assert check(spec, source).name
    for mathematical in (False, True):
        assert parse(Source("shown.opt", show(spec, mathematical))) == spec


@pytest.mark.parametrize(("text", "code"), RUN, ids=lambda text: re.findall(r"optimizer.(\w+)", text)[0])
def test_code_below_an_example_runs(text: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (name,) = re.findall(r"optimizer (\w+)", text)
    (tmp_path / f"{name.lower()}.opt").write_text(text, encoding="utf-8")
    exec(compile(code, "<page>", "exec"), {"__name__": "page"})


def test_both_spellings_shown_are_one_program() -> None:
    ascii_text, mathematical_text = (text for text in EXAMPLES if "optimizer Ratio" in text)
    assert parse(Source("a.opt", ascii_text)) == parse(Source("b.opt", mathematical_text))
    assert ascii_text.isascii() and not mathematical_text.isascii()


@pytest.mark.parametrize(("text", "answer"), MISTAKES, ids=lambda text: re.sub(r"\W+", "-", text.splitlines()[-1])[:40])
def test_mistake_is_answered_as_printed(text: str, answer: str) -> None:
    source = Source("mistake.opt", text)
    with pytest.raises(SpecError) as caught:
        check(parse(source), source)
    assert str(caught.value) == answer.rstrip("\n")


def test_table_of_functions_is_complete() -> None:
    rows = dict(re.findall(r"^\| `(\w+)\([^`]*\)` \| (.*) \|$", TEXT, re.MULTILINE))
    usable = {name: b for name, b in BUILTINS.items() if b.refused is None}
    assert set(rows) == set(usable)
    for name, text in rows.items():
        assert text.replace("\\|", "|") == usable[name].doc
        assert f"`{name}({', '.join(usable[name].parameters)})`" in TEXT


def test_what_is_not_in_the_language_is_said() -> None:
    """Every function that is known but refused belongs to a group that the page names."""
    closing = TEXT[TEXT.index("## Not in the language yet") :]
    for word in ("reductions", "matrix algebra", "modifiers", "storage clauses", "views", "sparse"):
        assert word in closing
