"""Loads that cannot be done are errors in all processes, soon, and none of them has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dist import damages
from tests.dist.crew import Crew

OTHER_GROUPS = "ValueError: {}: the parameters of group 0 here were in groups with other hypers there"
IN_THE_SECOND = {
    "one group of two": (OTHER_GROUPS, OTHER_GROUPS),
    "one group of two in one": (f"RuntimeError: nothing was loaded, since process 1 cannot: {OTHER_GROUPS}", OTHER_GROUPS),
    "another optimizer in one": (
        "RuntimeError: nothing was loaded, since process 1 cannot: ValueError: {} was saved by AdamW, and this is LAMB",
        "ValueError: {} was saved by AdamW, and this is LAMB",
    ),
    "a parameter less in one": (
        OTHER_GROUPS,
        "ValueError: {} does not fit this AdamW, nothing was loaded:\n  'first.weight' is only in the checkpoint",
    ),
}
"""What is told by the first process and by the second."""


@pytest.mark.parametrize("engine", ["stage3", "zero1"])
def test_what_is_damaged_is_told_by_all(two: Crew, tmp_path: Path, engine: str) -> None:
    """The part of one process alone, too."""
    for found in two.run(damages.loaded_from_damaged, engine, tmp_path):
        assert list(found) == list(damages.DAMAGES)
        for name, (seconds, said, unchanged) in found.items():
            expected = damages.DAMAGES[name][1].format(tmp_path / name)
            assert said.startswith(expected) and str(tmp_path / name) in said and unchanged and seconds < 10, (name, said)


def test_what_does_not_fit_in_one_process_is_told_by_all(two: Crew, tmp_path: Path) -> None:
    outcomes = two.run(damages.loaded_by_others, tmp_path)
    for rank, found in enumerate(outcomes):
        assert set(found) == set(IN_THE_SECOND) == set(damages.OTHERS)
        for name, (seconds, said, unchanged) in found.items():
            assert said.startswith(IN_THE_SECOND[name][rank].format(tmp_path / "save-000001")), (name, said)
            assert unchanged and seconds < 10, name


@pytest.mark.parametrize("engine", ["stage3", "zero1"])
def test_what_one_process_refuses_at_last_is_loaded_in_none(two: Crew, tmp_path: Path, engine: str) -> None:
    (first, *as_it_was), (second, *also) = (
        (said, ok, s < 10) for s, said, ok in two.run(damages.refused_after_reading, engine, tmp_path)
    )
    told = f"ValueError: {tmp_path / 'save-000001'} cannot be loaded: the hook does not want it"
    assert (first, second) == (f"RuntimeError: nothing was loaded, since process 1 cannot: {told}", told)
    assert as_it_was == also == [True, True]


@pytest.mark.parametrize("engine", ["stage3", "zero1"])
def test_folders_that_are_not_shared_are_told_and_nothing_is_lost(two: Crew, tmp_path: Path, engine: str) -> None:
    (first, *kept), (second, *also_kept) = two.run(damages.saved_apart, engine, tmp_path)
    told = f"OSError: {tmp_path / 'save-000003'} lacks 1 of the files that processes have written, '__1_0.distcp' for one: "
    assert first == second and first.startswith(told + "they do not share this folder; save to a path that all of them see")
    assert kept == also_kept == [True, ["save-000001", "save-000002"], "save-000002"]


def test_a_divided_model_that_has_more_takes_the_rest(two: Crew, tmp_path: Path) -> None:
    for said, unchanged, told, loaded in two.run(damages.loaded_by_larger, tmp_path):
        assert "the model's 'extra.weight' is not in the checkpoint\n  the model's 'extra.bias' is not" in said and unchanged
        assert {*told[0]} == {"extra.weight", "extra.bias"} and {*told[1]} == {"extra.weight", "extra.bias", "stats"}
        assert loaded
