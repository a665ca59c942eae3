"""How a command ends when something unforeseen happens: one line, never a traceback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from optc.cli import specs
from optc.cli.main import BUG, INTERRUPTED, run


def test_a_bug_is_one_line_and_a_saved_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: str) -> None:
        raise KeyError("no such stage")

    monkeypatch.setattr(specs, "source", fail)
    assert run(["check", "adamw"]) == BUG
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("bug in optc (KeyError: 'no such stage')")
    found = re.search(r"report it with (\S+\.txt)", message)
    assert found is not None
    saved = Path(found[1])
    assert "Traceback" in saved.read_text(encoding="utf-8")
    saved.unlink()
    with pytest.raises(KeyError):
        run(["--debug", "check", "adamw"])


@pytest.mark.parametrize(
    ("raised", "status", "says"),
    [
        (KeyboardInterrupt(), INTERRUPTED, "interrupted"),
        (OSError(28, "No space left on device", "x.py"), 1, "x.py: No space left on device"),
    ],
)
def test_interrupts_and_full_disks_are_said_plainly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: BaseException, status: int, says: str
) -> None:
    def fail(_: str) -> None:
        raise raised

    monkeypatch.setattr(specs, "source", fail)
    assert run(["check", "adamw"]) == status
    assert says in capsys.readouterr().err
