"""docs/schedules.md: its code runs, its examples compose, its mistakes are answered as printed, its table is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from optc.compiler.compose.expand import expand
from optc.compiler.compose.library import named, parts_of, shipped_schedules
from optc.compiler.pipeline import plan_program
from optc.dsl import nodes
from optc.dsl.check import check
from optc.dsl.errors import SpecError
from optc.dsl.source import Source
from tests.docs.test_readme import blocks, must

TEXT = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text(encoding="utf-8")
MISTAKES = re.findall(r"^```opt-error\n(.*?)^```\n\n```text\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("text", blocks(TEXT, "opt"), ids=lambda text: re.findall(r"optimizer (\w+)", text)[-1])
def test_example_composes_and_plans(text: str) -> None:
    expanded = expand(Source("example.opt", text))
    plan_program(check(expanded.spec, expanded.source))


@pytest.mark.parametrize(("text", "answer"), MISTAKES, ids=lambda text: text.split()[1])
def test_mistake_is_answered_as_printed(text: str, answer: str) -> None:
    with pytest.raises(SpecError) as caught:
        expand(Source("mistake.opt", text))
    assert str(caught.value) == answer.rstrip("\n")


def test_the_mistakes_are_all_there() -> None:
    assert len(MISTAKES) == TEXT.count("```opt-error") >= 3


def test_the_python_code_runs(tmp_path: Path) -> None:
    used, chained = blocks(TEXT, "python")
    assert must(["-c", used], tmp_path).split() == ["0.0", "0.0003", "0.0", "1"]
    must(["-c", chained], tmp_path)


def test_the_table_of_schedules_is_complete() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \| (.*) \|$", TEXT[TEXT.index("## What is shipped") :], re.MULTILINE)
    expected = []
    for name, path in shipped_schedules().items():
        schedule = parts_of(named(path))[name].node
        assert isinstance(schedule, nodes.Schedule)
        expected.append((name, ", ".join(f"`{value.target}`" for value in schedule.values), schedule.text))
    assert rows == expected
