"""Crews leave nothing behind, however they end."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from tests.dist.crew import Crew, Failed


def here(rank: int) -> int:
    return rank


def wrong(rank: int) -> None:
    raise ValueError("wrong")


def die(rank: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def folders(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if path.name.startswith("optc-crew-")]


def test_a_folder_goes_with_its_crew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    crew = Crew(1)
    try:
        for end, said in ((wrong, "ValueError: wrong"), (die, "exit code -9")):
            assert crew.run(here) == [0] and len(folders(tmp_path)) == 1
            with pytest.raises(Failed, match=said):
                crew.run(end)
            assert folders(tmp_path) == []
        assert crew.run(here) == [0] and len(folders(tmp_path)) == 1
    finally:
        crew.stop()
    assert folders(tmp_path) == []
    crew.stop()  # it need not run
