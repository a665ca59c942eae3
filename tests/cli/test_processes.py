"""The command line as users and CI meet it: real processes, their output and exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

GOOD = "optimizer Plain:\n    hyper: lr = 0.5\n    step: theta <- theta - lr*g\n"
BAD = "optimizer Plain:\n    hyper: lr = 0.5\n    step:\n        u = lrr*g\n        θ <- θ - lr*uu\n"


def optc(
    *arguments: str | Path, cwd: Path, stdin: bytes | None = None, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    base = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "TERM")}
    return subprocess.run(
        [sys.executable, "-m", "optc", *map(str, arguments)],
        input=stdin if stdin is not None else b"",
        capture_output=True,
        cwd=cwd,
        env={**base, "PYTHONPATH": str(ROOT / "src"), "PYTHONUTF8": "1", **environment},
        timeout=120,
    )


def outcome(done: subprocess.CompletedProcess[bytes]) -> tuple[int, str, str]:
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plain.opt").write_text(GOOD, encoding="utf-8")
    (tmp_path / "bad.opt").write_text(BAD, encoding="utf-8")
    return tmp_path


# --- check ----------------------------------------------------------------------------------------------------------------


def test_check_of_a_right_spec_says_so(folder: Path) -> None:
    assert outcome(optc("check", "plain.opt", cwd=folder)) == (0, "ok  plain.opt: Plain\n", "")


def test_check_reports_every_mistake_with_place_line_and_caret(folder: Path) -> None:
    status, out, err = outcome(optc("check", "bad.opt", "plain.opt", cwd=folder))
    assert (status, out) == (1, "ok  plain.opt: Plain\n")
    assert "bad.opt:4:13: error:" in err
    assert "bad.opt:5:21: error:" in err
    assert "    4 |         u = lrr*g\n      |             ^^^\n" in err
    assert err.endswith("errors in bad.opt\n")
    assert "\x1b" not in err


def test_check_is_coloured_only_where_it_is_wanted(folder: Path) -> None:
    assert b"\x1b[31m" in optc("check", "bad.opt", cwd=folder, FORCE_COLOR="1").stderr
    assert b"\x1b" not in optc("check", "bad.opt", cwd=folder, FORCE_COLOR="1", NO_COLOR="1").stderr


def test_check_prints_json_for_editors(folder: Path) -> None:
    status, out, err = outcome(optc("check", "--json", "bad.opt", "missing.opt", cwd=folder))
    answer = json.loads(out)
    found = answer["errors"]
    assert (status, err, answer["checked"]) == (1, "", [])
    assert [(d["file"], d["line"], d["column"], d["end_column"]) for d in found[:1]] == [("bad.opt", 4, 13, 16)]
    assert "missing.opt" in found[-1]["message"]
    right = {"errors": [], "checked": [{"file": "plain.opt", "class": "Plain"}]}
    assert json.loads(optc("check", "--json", "plain.opt", cwd=folder).stdout) == right


def test_check_reads_standard_input(folder: Path) -> None:
    assert outcome(optc("check", "-", cwd=folder, stdin=GOOD.encode())) == (0, "ok  <stdin>: Plain\n", "")
    assert "<stdin>:4:13: error:" in optc("check", "-", cwd=folder, stdin=BAD.encode()).stderr.decode()


# --- build ----------------------------------------------------------------------------------------------------------------


def test_build_writes_a_package_once(folder: Path) -> None:
    status, out, err = outcome(optc("build", "plain.opt", "-o", "deep/pack", cwd=folder))
    assert (status, out, err) == (0, "wrote deep/pack/plain.py\n", "")
    written = {p.name: p.stat().st_mtime_ns for p in (folder / "deep/pack").iterdir()}
    assert set(written) == {"__init__.py", "plain.py"}
    assert outcome(optc("build", "plain.opt", "-o", "deep/pack", cwd=folder)) == (0, "1 unchanged in deep/pack\n", "")
    assert {p.name: p.stat().st_mtime_ns for p in (folder / "deep/pack").iterdir() if p.is_file()} == written


def test_what_was_built_trains(folder: Path) -> None:
    assert optc("build", "plain.opt", "-o", "pack", cwd=folder).returncode == 0
    code = (
        "import torch, pack\n"
        "p = torch.nn.Parameter(torch.tensor([1.0, 2.0])); o = pack.Plain([p], lr=0.25)\n"
        "p.grad = torch.tensor([4.0, -4.0]); o.step(); print(p.tolist())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(folder)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert (done.stdout, done.returncode) == ("[0.0, 3.0]\n", 0), done.stderr


def test_a_mistake_in_one_spec_leaves_all_files_as_they_were(folder: Path) -> None:
    status, out, err = outcome(optc("build", "plain.opt", "bad.opt", "-o", "pack", cwd=folder))
    assert (status, out) == (1, "")
    assert "bad.opt:4:13" in err
    assert not (folder / "pack").exists()


@pytest.mark.parametrize("place", ["plain.opt", "plain.opt/below", "/proc/nothing"])
def test_a_place_that_cannot_be_written_is_named(folder: Path, place: str) -> None:
    status, _, err = outcome(optc("build", "adamw", "-o", place, cwd=folder))
    assert status == 1
    assert place in err
    assert "Traceback" not in err
    assert (folder / "plain.opt").read_text(encoding="utf-8") == GOOD


# --- usage, pipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["chek"], ["explain", "adamw", "--stage", "x"], ["list", "--jsn"], ["fmt"]])
def test_wrong_usage_exits_with_2_and_says_how(folder: Path, arguments: list[str]) -> None:
    status, out, err = outcome(optc(*arguments, cwd=folder))
    assert (status, out) == (2, "")
    assert "Usage: optc" in err


def test_a_reader_that_stops_early_is_no_error(folder: Path) -> None:
    command = f"{sys.executable} -m optc explain adamw -s native --json | head -c 10"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, cwd=folder, env=environment, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_outputs_are_no_error(folder: Path, closed: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = ["sh", "-c", f'"$0" -m optc list {closed}', sys.executable]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_pipe_without_unicode_gets_plain_text(folder: Path) -> None:
    done = optc("explain", "adamw", cwd=folder, PYTHONUTF8="0", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0
    assert rb"\u03b8" in done.stdout
