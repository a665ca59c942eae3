"""Every fault of one process gives an error or a defined result on all, within the group's timeout."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.dist import faults
from tests.dist.crew import Crew
from tests.dist.layouts import SHAPES


@pytest.mark.parametrize(
    ("name", "layout"), [("LAMB", "fsdp"), ("CAME", "fsdp"), ("SM3", "fsdp"), ("LARS", "zero1"), ("AdamW", "zero1")]
)
def test_a_gradient_that_one_process_lacks_is_told_in_all(two: Crew, name: str, layout: str) -> None:
    """Of whatever parameter; those that are whole on all processes (0-dim under FSDP) are no matter of the optimizer."""
    for every in two.run(faults.gradient_missing, name, layout):
        for place, said in enumerate(every):
            if SHAPES[place] or layout == "zero1":
                count = "some" if name == "SM3" else "1"  # which joins maxima alone
                assert said.startswith(f"RuntimeError: parameter {place} of group 0 takes part in this step on {count} of 2")


@pytest.mark.parametrize(
    ("name", "layout"), [("LAMB", "fsdp"), ("SM3", "fsdp"), ("Prodigy", "zero1"), ("AdamW", "zero1"), ("AdamW8bit", "zero1")]
)
def test_an_error_in_one_process_is_told_in_all(two: Crew, name: str, layout: str) -> None:
    (waited, there), (_, here) = two.run(faults.unable, name, layout)
    assert here.startswith("ValueError: ") and "lr = -1.0" in here
    assert there.startswith("RuntimeError: another process could not do this step") and waited < 10


@pytest.mark.parametrize("name", ["LAMB", "AdamW"])
def test_gradients_that_all_lack_are_left_out(two: Crew, name: str) -> None:
    assert max(two.run(faults.gradient_missing_everywhere, name)) <= 1e-6


def test_a_process_without_any_gradient_still_answers(two: Crew) -> None:
    for said in two.run(faults.no_gradients_in_one, "LAMB"):
        assert "takes part in this step on 1 of 2 processes, and so do 7 others" in said


def test_a_process_that_dies_is_missed_at_once(brief: Crew) -> None:
    (said, error), (_, died) = brief.outcomes(faults.dies, "LAMB", patience=60)
    assert error is None and died is not None and "exit code -9" in died
    seconds, text = said.split(" ", 1)
    assert float(seconds) < 8 and text.startswith(("RuntimeError", "DistBackendError"))


def test_a_process_that_stalls_is_given_up_after_the_timeout(brief: Crew) -> None:
    (said, error), _ = brief.outcomes(faults.stalls, "LAMB", patience=60)
    assert error is None
    seconds, text = said.split(" ", 1)
    assert 6 < float(seconds) < 20 and text.startswith(("RuntimeError", "DistBackendError"))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["AdamW", "LAMB", "AdamW + clip_global_norm"])
def test_all_processes_skip_what_is_not_finite_in_one(two: Crew, name: str, value: float) -> None:
    for said, moved, skipped in two.run(faults.not_finite, name, "skip", value):
        assert (said, moved, skipped) == ("nothing", 0, 1)
    here, there = two.run(faults.not_finite, name, "raise", value)
    assert here[0] == there[0] and here[0].startswith("FloatingPointError: the gradient of parameter 0 of group 0 (1 of 6144)")
    assert here[1] == there[1] == 0


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("engine", ["stage3", "stage1", "zero1"])
def test_a_grad_scaler_skips_in_all_processes(two: Crew, engine: str, amp: bool, unscale: bool) -> None:
    for steps in two.run(faults.scaled, engine, "AdamW", amp, unscale):
        assert steps == [(True, 8.0, 1.0), (False, 4.0, 1.0), (True, 4.0, 2.0)]


def test_an_own_loss_scale_moves_in_all_processes(two: Crew) -> None:
    for steps in two.run(faults.own_scale, "stage3"):
        assert steps == [(False, 8.0), (True, 4.0), (False, 4.0)]


@pytest.mark.parametrize("name", ["AdamW", "LAMB", "Adafactor", "AdamW8bit", "Prodigy", "Gravity"])
@pytest.mark.parametrize("engine", ["stage3", "zero1"])
def test_the_dry_run_of_torch_moves_nothing(two: Crew, engine: str, name: str) -> None:
    for moved, has_state in two.run(faults.dry_run, engine, name):
        assert moved == 0 and has_state


def test_a_save_that_is_killed_leaves_the_one_before(two: Crew, tmp_path: Path) -> None:
    crew = Crew(2, timeout=20.0)
    try:
        outcomes = crew.outcomes(faults.killed_while_saving, tmp_path, patience=90)
    finally:
        crew.stop()
    assert any("exit code -9" in (error or "") for _, error in outcomes)
    assert not any(value == "saved" for value, _ in outcomes)
    assert (tmp_path / "latest").read_text() == "save-000001\n" and (tmp_path / "save-000002").is_dir()
    assert max(two.run(faults.loaded_after, tmp_path)) == 0


def test_processes_compare_their_parameters_and_code(two: Crew) -> None:
    for said in two.run(faults.order_differs):
        assert "parameter 0 of group 0: a in process 0, b in process 1" in said
    for said in two.run(faults.code_differs):
        assert "the code of LAMB for cpu: native in process 0, torch in process 1" in said


def test_processes_compare_their_hypers(two: Crew) -> None:
    for said in two.run(faults.hypers_differ, 1):
        assert said[0] == "nothing"
        assert "lr of group 0: 0.001 in process 0, 0.5 in process 1" in said[1] and said[1].startswith("RuntimeError")
    for said in two.run(faults.hypers_differ, 2):
        assert [text.split(":")[0] for text in said] == ["nothing", "nothing", "RuntimeError"]


def test_processes_compare_their_gradients(two: Crew) -> None:
    for said, moved in two.run(faults.gradient_lost):
        assert "the gradient of '1': there in process 0, not there in process 1" in said and moved == 0
