"""Every way to divide training with everything that surrounds a step: what docs/distributed.md says of each pair."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.dist.crew import Crew
from tests.dist.modes import FEATURES, UNCOUNTED, trained_with

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"
MODES = {"Zero1": "zero1", "stage 1": "stage1", "stage 2": "stage2", "stage 3": "stage3", "HSDP": "hsdp", "FSDP over TP": "tensor"}


def table() -> dict[tuple[str, str], str]:
    """What the page says, by feature and mode."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    start = next(at for at, line in enumerate(lines) if line.startswith("| AdamW with"))
    _, *modes = cells(lines[start])
    assert modes == list(MODES)
    rows = [cells(line) for line in lines[start + 2 : start + 2 + len(FEATURES)]]
    return {(row[0], mode): said for row in rows for mode, said in zip(modes, row[1:], strict=True)}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_has_all_features() -> None:
    assert {feature for feature, _ in table()} == set(FEATURES)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("feature", FEATURES)
def test_a_mode_with_a_feature_does_what_the_page_says(four: Crew, mode: str, feature: str) -> None:
    said = table()[feature, mode]
    for found in four.run(trained_with, MODES[mode], feature):
        if match := re.fullmatch(r"≤ (\S+)", said):
            assert isinstance(found, float) and found <= float(match[1])
        else:
            assert said.startswith("refused") and isinstance(found, str) and REASONS[said] in found


REASONS = {
    "refused¹": "under ZeRO 1",
    "refused²": "its parts do not follow one another in memory",
    "refused³": "step() after 1 of 2 backward passes",
}
"""What the footnotes are about."""


def test_stage_1_adds_up_by_itself(four: Crew) -> None:
    assert max(four.run(trained_with, "stage1", UNCOUNTED)) <= 2e-6
