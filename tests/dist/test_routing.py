"""Several optimizers in one object do on many processes what one does: every way to divide, every fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dist import routing
from tests.dist.crew import Crew

ENGINES = ["zero1", "stage1", "stage3"]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_norm_is_that_of_the_model_on_all_processes(two: Crew, engine: str) -> None:
    for apart, ours, theirs in two.run(routing.bounded_as_by_torch, engine):
        assert apart < 1e-12 and ours == pytest.approx(theirs, rel=1e-6) and theirs > 0.1


@pytest.mark.parametrize("engine", ["zero1", "stage3"])
@pytest.mark.parametrize(
    "name", ["Lion | Prodigy", "AdamW | Adafactor + clip_global_norm", "LAMB + cosine(T = 6) | SGD + cosine(T = 6)"]
)
def test_training_as_in_one_process(two: Crew, engine: str, name: str) -> None:
    assert max(two.run(routing.trained, engine, name)) < 1e-12


def test_types_join_and_parameters_leave_under_zero1(two: Crew) -> None:
    assert max(two.run(routing.joined_later)) < 1e-12


def test_a_state_that_is_there_is_cut(two: Crew) -> None:
    assert max(two.run(routing.cut_after_steps, "Lion | AdamW8bit")) == 0
    assert max(two.run(routing.cut_after_steps, "LAMB | Adafactor")) < 1e-6


def test_zero1_divides_the_state_of_all(four: Crew) -> None:
    found = four.run(routing.state_elements, "Lion | AdamW")
    assert sum(here for here, _ in found) == found[0][1] and max(here for here, _ in found) < 0.3 * found[0][1]


@pytest.mark.parametrize("engine", ["zero1", "stage3"])
def test_what_is_told_is_what_is_sent(two: Crew, engine: str) -> None:
    for told, sent in two.run(routing.told_and_sent, engine, "LAMB | Adafactor"):
        assert told == sent and len(told) > 2


@pytest.mark.parametrize("engine", ENGINES)
def test_a_state_dict_of_whole_tensors(two: Crew, tmp_path: Path, engine: str) -> None:
    assert all(two.run(routing.saved_and_full, engine, tmp_path))


def test_processes_compare_their_optimizers(two: Crew) -> None:
    for first, second, third in two.run(routing.compared):
        assert first == "nothing"
        assert second.startswith("RuntimeError") and "lr of group 1: 0.001 in process 0, 0.5 in process 1" in second
        assert "the spec: LAMB " in third and " and Lion " in third and "type of group 1: 'AdamW' in process 0, 'Lion'" in third


@pytest.mark.parametrize("engine", ["zero1", "stage3"])
def test_what_is_not_finite_in_one_process_stops_all_optimizers_in_all(two: Crew, engine: str) -> None:
    for said, skipped, moved in two.run(routing.not_finite, engine, "skip"):
        assert (said, skipped, moved) == ("nothing", True, 0)
    outcomes = two.run(routing.not_finite, engine, "raise")
    assert all(said.startswith("FloatingPointError") and moved == 0 for said, _, moved in outcomes)
    assert all("the gradient of first.weight (1 of " in said for said, _, _ in outcomes)  # in those that do not have it, too


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("engine", ["zero1", "stage3"])
def test_loss_scales_skip_and_move_in_all(two: Crew, engine: str, own: bool) -> None:
    for steps in two.run(routing.scaled, engine, own):
        assert steps == [(True, 8.0), (False, 4.0), (True, 4.0)]


def test_released_gradients_give_the_same_bits(two: Crew) -> None:
    for apart, (measured, zero1) in two.run(routing.released):
        assert apart == 0
        assert "LAMB joins what it measures of divided parameters over the processes" in measured
        assert "under ZeRO 1" in zero1
