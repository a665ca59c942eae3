"""docs/modifiers.md: its code runs, its examples compose, its mistakes are answered as printed, its table is complete."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from optc.cli.main import run
from optc.compiler.compose.expand import expand
from optc.compiler.compose.library import named, parts_of, shipped_modifiers
from optc.compiler.pipeline import plan_program
from optc.dsl import nodes
from optc.dsl.build_compositions import POINTS
from optc.dsl.check import check
from optc.dsl.errors import SpecError
from optc.dsl.parse import parse_file
from optc.dsl.show import show
from optc.dsl.source import Source
from tests.docs.test_readme import blocks, must

TEXT = (Path(__file__).parents[2] / "docs" / "modifiers.md").read_text(encoding="utf-8")
MISTAKES = re.findall(r"^```opt-error\n(.*?)^```\n\n```text\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("text", blocks(TEXT, "opt"), ids=lambda text: re.findall(r"optimizer (\w+)", text)[-1])
def test_example_composes_and_plans(text: str) -> None:
    expanded = expand(Source("example.opt", text))
    plan_program(check(expanded.spec, expanded.source))
    for mathematical in (False, True):
        file = parse_file(Source("example.opt", text))
        assert parse_file(Source("shown.opt", show(file, mathematical))) == file


@pytest.mark.parametrize(("text", "answer"), MISTAKES, ids=lambda text: text.split()[1])
def test_mistake_is_answered_as_printed(text: str, answer: str) -> None:
    with pytest.raises(SpecError) as caught:
        expand(Source("mistake.opt", text))
    assert str(caught.value) == answer.rstrip("\n")


def test_the_mistakes_are_all_there() -> None:
    assert len(MISTAKES) == TEXT.count("```opt-error") >= 4


def test_the_python_code_runs(tmp_path: Path) -> None:
    called, composed = blocks(TEXT, "python")
    must(["-c", f'{called}\nassert CautiousAdamW.__name__ == "CautiousAdamW"'], tmp_path)
    must(["-c", f'{composed}\nassert type(optimizer).__name__ == "CautiousLookaheadAdamW_m_dynamic8"'], tmp_path)


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (console,) = blocks(TEXT, "console")
    said = []
    for line in console.splitlines():
        assert run(shlex.split(line.removeprefix("$ optc "))) == 0
        said.append(capsys.readouterr().out)
    assert "# grams" in said[0] and "each modifier adds" in said[0]
    assert (tmp_path / "cautious_adamw.py").is_file()
    assert "orthograd" in said[2]


def test_the_table_of_modifiers_is_complete() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \| (.*) \|$", TEXT[TEXT.index("## What is shipped") :], re.MULTILINE)
    expected = []
    for name, path in shipped_modifiers().items():
        modifier = parts_of(named(path))[name].node
        assert isinstance(modifier, nodes.Modifier)
        stages = dict.fromkeys(hook.stage if isinstance(hook, nodes.Hook) else "rewrite" for hook in modifier.hooks)
        expected.append((name, ", ".join(f"`{stage}`" for stage in stages), modifier.text))
    assert rows == expected


def test_the_table_of_stages_is_complete() -> None:
    table = TEXT[TEXT.index("## The stages") : TEXT.index("## What is shipped")]
    stages = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert [stage for stage in stages if stage != "rewrite"] == list(POINTS)
