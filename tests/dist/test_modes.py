"""Every way to divide training with everything that surrounds a step: what docs/distributed.md says of each pair."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.dist.crew import Crew
from tests.dist.modes import FEATURES, UNCOUNTED, released, trained_with, trained_with_all

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"
MODES = {
    "DDP": "ddp",
    "Zero1": "zero1",
    "stage 1": "stage1",
    "stage 2": "stage2",
    "stage 3": "stage3",
    "HSDP": "hsdp",
    "FSDP over TP": "tensor",
}
REASONS = {
    "refused¹": "under ZeRO 1",
    "refused²": "step() after 1 of 2 backward passes",
    "refused³": "DistributedDataParallel averages them after they are accumulated",
    "joins": "joins what it measures of divided parameters over the processes, for all parameters at once",
}
"""What the footnotes are about, and what the page says of LAMB and Adafactor."""


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


def check(optimizer: str, mode: str, feature: str, found: float | str) -> None:
    """Whether the page says what was found."""
    said = table()[feature, mode]
    if optimizer != "AdamW" and FEATURES[feature].release:
        said = "joins"
    if optimizer == "Adafactor" and FEATURES[feature].stored:  # which is not shipped with codes
        said = "≤ 1e-12"
    if match := re.fullmatch(r"≤ (\S+)", said):
        assert isinstance(found, float) and found <= float(match[1]), (feature, found)
    else:
        assert isinstance(found, str) and REASONS[said] in found, (feature, found)


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_with_any_feature_does_what_the_page_says(four: Crew, mode: str) -> None:
    for found in four.run(trained_with_all, MODES[mode], "AdamW", patience=600):
        for feature in FEATURES:
            check("AdamW", mode, feature, found[feature])


@pytest.mark.parametrize("mode", ["Zero1", "stage 3", "HSDP", "FSDP over TP"])
@pytest.mark.parametrize("optimizer", ["LAMB", "Adafactor"])
def test_so_do_optimizers_that_measure(four: Crew, optimizer: str, mode: str) -> None:
    for found in four.run(trained_with_all, MODES[mode], optimizer, patience=600):
        for feature in FEATURES:
            check(optimizer, mode, feature, found[feature])


def test_stage_1_adds_up_by_itself(four: Crew) -> None:
    assert max(four.run(trained_with, "stage1", UNCOUNTED)) <= 1e-12


@pytest.mark.parametrize(
    ("mode", "accumulate", "counted"),
    [("stage1", 1, True), ("stage1", 2, False), ("stage2", 2, True), ("hsdp", 2, True), ("tensor", 2, True)],
)
def test_release_has_the_bits_of_the_step_in_every_mode(four: Crew, mode: str, accumulate: int, counted: bool) -> None:
    names = ["AdamW", "Lion", "AdamW8bit", "AdamWBf16Stochastic"]
    assert four.run(released, mode, names, accumulate, counted) == [dict.fromkeys(names, 0)] * 4
