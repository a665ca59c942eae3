"""Processes that are really killed: what was saved before still loads, and those that are left are told in time."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.dist import faults, kills
from tests.dist.crew import Crew


def test_whenever_a_process_is_killed_one_save_is_whole(tmp_path: Path) -> None:
    """Before each call by which a save changes what is on the disk, until there is none left."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(kills.killed_alone, tmp_path).result(timeout=60)
    killed = {moment: loaded for moment, (was_killed, loaded) in found.items() if was_killed}
    assert {moment.split()[0] for moment in killed} == set(kills.CALLS)
    assert killed.pop("rmtree 1") == "the second"  # which is the latest by then
    assert set(killed.values()) == {"the first"} and {"replace 1", "replace 2"} <= set(killed)
    assert {loaded for was_killed, loaded in found.values() if not was_killed} == {"the second"}


@pytest.mark.parametrize(
    ("who", "call", "times", "told"),
    [(0, "mkdir", 1, "RuntimeError"), (1, "fsync", 1, "OSError"), (0, "replace", 2, "RuntimeError")],
    ids=["while they agree", "while it writes its part", "before the pointer"],
)
def test_whichever_process_is_killed_the_save_before_loads(
    brief: Crew, two: Crew, tmp_path: Path, who: int, call: str, times: int, told: str
) -> None:
    outcomes = brief.outcomes(kills.killed_together, tmp_path, who, call, times, patience=60)
    assert "exit code -9" in (outcomes[who][1] or "")
    seconds, said = outcomes[1 - who][0]
    assert seconds < 8 and said.startswith((told, "DistBackendError")), said
    assert (tmp_path / "latest").read_text() == "save-000001\n"
    assert (tmp_path / "save-000002" / "optc.json").exists() is (call == "replace")  # as far as it came
    assert max(two.run(faults.loaded_after, tmp_path)) <= 1e-12


def test_a_process_waits_for_another_as_long_as_it_was_told(brief: Crew, tmp_path: Path) -> None:
    (_, died), (told, error) = brief.outcomes(kills.late, tmp_path, 2.0, patience=60)
    assert error is None and "exit code -9" in (died or "")
    for what, (seconds, said) in told.items():
        assert said.startswith(("RuntimeError", "DistBackendError")), (what, said)
        assert seconds < 6 and ("Timed out waiting 2000ms" in said) is what.startswith("stalls"), (what, seconds, said)
    assert list(told) == ["stalls", "stalls in a save", "dies"]
