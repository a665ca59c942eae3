"""Groups, schedules, clipping, routing, release and late parameters on every engine, beside one process."""

from __future__ import annotations

import pytest

from tests.dist import features
from tests.dist.crew import Crew

ENGINES = ["zero1", "stage1", "stage2", "stage3"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("work", [features.groups, features.clipped_by_group, features.scheduled, features.added_later])
def test_training_as_in_one_process(two: Crew, engine: str, work: object) -> None:
    assert max(two.run(work, engine)) < 1e-12  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ENGINES)
def test_several_optimizers_in_one(two: Crew, engine: str) -> None:
    assert max(two.run(features.routed, engine)) < 1e-12


@pytest.mark.parametrize("name", ["AdamW", "LAMB", "Adafactor"])
def test_parameters_may_be_divided_after_the_optimizer_was_made(two: Crew, name: str) -> None:
    assert max(two.run(features.replaced, name)) < 1e-12


@pytest.mark.parametrize("engine", ["zero1", "stage3"])
@pytest.mark.parametrize("name", ["SophiaH", "AdaHessian"])
def test_entries_reach_all_parts(two: Crew, engine: str, name: str) -> None:
    assert max(two.run(features.entered, engine, name)) < 1e-12


def test_the_norm_is_that_of_the_whole_gradient(two: Crew) -> None:
    (here, expected), (there, _) = two.run(features.norm_of_torch, "stage3")
    assert here == there and here == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", ["AdamW", "Lion", "AdamW8bit"])
def test_released_gradients_give_the_same_bits(two: Crew, name: str, accumulate: int) -> None:
    assert two.run(features.released, name, accumulate) == [(0, 0)] * 2


def test_release_is_refused_where_processes_tell_each_other_something(two: Crew) -> None:
    for said in two.run(features.refused_release, "stage3", "LAMB"):
        assert said.startswith("LAMB joins what it measures of divided parameters over the processes")
    for said in two.run(features.refused_release, "zero1", "AdamW"):
        assert "under ZeRO 1" in said
