"""What each command does, option by option; `test_processes.py` has the same commands as processes."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from optc.cli.main import cli, run

ROOT = Path(__file__).resolve().parents[2]

GOOD = "optimizer Plain:\n    hyper: lr = 0.5\n    step: theta <- theta - lr*g\n"
BAD = "optimizer Plain:\n    hyper: lr = 0.5\n    step:\n        u = lrr*g\n        θ <- θ - lr*uu\n"

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "plain.opt").write_text(GOOD, encoding="utf-8")
    (tmp_path / "bad.opt").write_text(BAD, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def optc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line; exit status, standard output, standard error."""

    def call(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        status = run(list(arguments))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no spec"),
        (b"\n# only a comment\n", "holds no spec"),
        (b"optimizer A:\n    step: \xff\n", "is not UTF-8"),
        (GOOD.encode("utf-16"), "UTF-16"),
        (b"\x00\x01\x02", "error"),
        (b"x" * 5_000_000, "larger than"),
    ],
    ids=["empty", "comment", "latin", "utf16", "binary", "huge"],
)
def test_unreadable_files_are_the_users_mistake(optc: Command, folder: Path, content: bytes, says: str) -> None:
    (folder / "odd.opt").write_bytes(content)
    status, out, err = optc("check", "odd.opt")
    assert (status, out) == (1, "")
    assert says in err
    assert "odd.opt" in err
    assert "Traceback" not in err
    assert "bug" not in err


def test_a_folder_a_missing_file_and_a_misspelt_name_get_a_hint(optc: Command, folder: Path) -> None:
    assert "directory" in optc("check", ".")[2]
    status, _, err = optc("check", "plian.opt")
    assert (status, "did you mean plain.opt?" in err) == (1, True)
    status, _, err = optc("check", "adamww")
    assert (status, "did you mean adamw" in err) == (1, True)


def test_all_shipped_specs_are_right(optc: Command, folder: Path) -> None:
    status, out, err = optc("check")
    assert (status, err) == (0, "")
    assert out == f"ok  {len(list((ROOT / 'specs').rglob('*.opt')))} shipped specs\n"


def test_build_check_names_what_is_missing_stale_or_edited(optc: Command, folder: Path) -> None:
    check = ("build", "plain.opt", "-o", "pack", "--check")
    assert "missing" in optc(*check)[2]
    assert not (folder / "pack").exists()
    optc("build", "plain.opt", "-o", "pack")
    assert optc(*check)[0] == 0
    module = folder / "pack/plain.py"
    text = module.read_text(encoding="utf-8")
    module.write_text(text + "# mine\n", encoding="utf-8")
    status, _, err = optc(*check)
    assert (status, "pack/plain.py: edited by hand" in err) == (1, True)
    module.write_text(text, encoding="utf-8")
    (folder / "plain.opt").write_text(GOOD.replace("0.5", "0.25"), encoding="utf-8")
    status, out, _ = optc(*check, "--json")
    answer = json.loads(out)
    assert (status, set(answer), answer["errors"], len(answer["stale"])) == (1, {"errors", "stale"}, [], 1)


def test_build_refuses_to_overwrite_what_it_did_not_write(optc: Command, folder: Path) -> None:
    (folder / "plain.py").write_text("mine = 1\n", encoding="utf-8")
    status, _, err = optc("build", "plain.opt", "-o", ".")
    assert (status, "was not written by optc" in err) == (1, True)
    assert (folder / "plain.py").read_text(encoding="utf-8") == "mine = 1\n"
    assert not (folder / "__init__.py").exists()


def test_two_specs_for_one_module_are_refused(optc: Command, folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other/plain.opt").write_text(GOOD, encoding="utf-8")
    status, _, err = optc("build", "plain.opt", "other/plain.opt", "-o", "pack")
    assert (status, "would both become plain.py" in err) == (1, True)


def test_own_specs_need_a_folder(optc: Command, folder: Path) -> None:
    status, _, err = optc("build", "plain.opt")
    assert (status, "-o FOLDER" in err) == (2, True)


def test_new_writes_a_spec_that_is_canonical_checks_and_builds(optc: Command, folder: Path) -> None:
    status, out, _ = optc("new", "MyOptimizer", "-o", "specs")
    assert (status, "wrote specs/my_optimizer.opt" in out) == (0, True)
    text = (folder / "specs/my_optimizer.opt").read_text(encoding="utf-8")
    assert len(text.splitlines()) == 15
    assert optc("fmt", "--check", "specs/my_optimizer.opt")[0] == 0
    assert optc("check", "specs/my_optimizer.opt")[0] == 0
    assert optc("build", "specs/my_optimizer.opt", "-o", "pack")[0] == 0
    assert optc("new", "MyOptimizer", "-o", "specs")[0] == 1
    assert (folder / "specs/my_optimizer.opt").read_text(encoding="utf-8") == text
    assert optc("new", "1st")[0] == 2
    assert optc("new", "None")[0] == 2


@pytest.mark.parametrize("file", ["__init__.opt", "__main__.opt", "class.opt", "with space.opt"])
def test_a_file_name_that_is_no_module_name_gives_way_to_the_class(optc: Command, folder: Path, file: str) -> None:
    (folder / file).write_text(GOOD, encoding="utf-8")
    assert optc("build", file, "-o", "pkg")[0] == 0
    assert sorted(path.name for path in (folder / "pkg").iterdir()) == ["__init__.py", "plain.py"]
    assert optc("build", file, "-o", "pkg", "--check")[0] == 0


def test_a_link_that_leads_nowhere_is_called_that(optc: Command, folder: Path) -> None:
    (folder / "lost.opt").symlink_to("lost.opt")
    status, out, err = optc("check", "lost.opt")
    assert (status, out) == (1, "")
    assert "lost.opt: is a link that leads nowhere" in err


def test_fmt_rewrites_shows_or_only_says(optc: Command, folder: Path) -> None:
    (folder / "loose.opt").write_text(GOOD.replace("lr*g", "lr * g").replace("theta", "θ"), encoding="utf-8")
    before = (folder / "loose.opt").read_text(encoding="utf-8")
    status, out, _ = optc("fmt", "--check", "loose.opt")
    assert (status, "+        theta <- theta - lr*g" in out) == (1, True)
    assert "θ ← θ - lr·g" in optc("fmt", "--math", "--stdout", "loose.opt")[1]
    assert (folder / "loose.opt").read_text(encoding="utf-8") == before
    assert optc("fmt", "--math", "loose.opt")[0] == 0
    mathematical = (folder / "loose.opt").read_text(encoding="utf-8")
    assert "θ ← θ - lr·g" in mathematical
    assert optc("fmt", "--check", "loose.opt")[0] == 0
    assert optc("fmt", "--check", "--ascii", "loose.opt")[0] == 1
    assert "theta <- theta - lr*g" in optc("fmt", "--ascii", "-", stdin=mathematical)[1]
    assert optc("fmt", "bad.opt")[0] == 0  # a name that is not known is not a matter of form
    (folder / "broken.opt").write_text("optimizer A:\n    step: 2t\n", encoding="utf-8")
    assert optc("fmt", "broken.opt")[0] == 1
    assert (folder / "broken.opt").read_text(encoding="utf-8") == "optimizer A:\n    step: 2t\n"


def test_fmt_of_a_shipped_name_does_not_touch_it(optc: Command, folder: Path) -> None:
    assert "optimizer AdamW" in optc("fmt", "--stdout", "adamw")[1]


def test_list_names_every_shipped_spec(optc: Command, folder: Path) -> None:
    others = ("modifiers", "schedules", "storages")
    shipped = {path.stem: path for path in (ROOT / "specs").rglob("*.opt") if path.parent.name not in others}
    found = {entry["name"]: entry for entry in json.loads(optc("list", "--json")[1])["optimizers"]}
    assert set(found) == set(shipped)
    assert (found["adamw"]["state_bytes"], found["sgd"]["state_bytes"], found["lion"]["state_bytes"]) == (8, 0, 4)
    assert (ROOT / found["adamw"]["file"]) == shipped["adamw"]
    optimizers, modifiers, schedules, storages = (part.splitlines() for part in optc("list")[1].split("\n\n"))
    assert optimizers[0].split()[:3] == ["name", "state", "B"]
    assert {line.split()[0] for line in optimizers[1:]} == set(shipped)
    assert {line.split()[0] for line in modifiers[1:]} == {p.stem for p in (ROOT / "specs/modifiers").glob("*.opt")}
    assert {line.split()[0] for line in schedules[1:]} == {p.stem for p in (ROOT / "specs/schedules").glob("*.opt")}
    assert {line.split()[0] for line in storages[1:]} >= {p.stem for p in (ROOT / "specs/storages").glob("*.opt")} | {"bf16"}


@pytest.mark.parametrize(
    ("stage", "shows"),
    [
        ("overview", "θ ← "),
        ("parse", "Write"),
        ("program", ": elem real"),
        ("update", "theta <- "),
        ("plan", "kernel step"),
        ("torch", "def step_torch("),
        ("native", "static void update("),
        ("triton", "tl.load("),
        ("latex", r"\leftarrow"),
        ("cost", "written B"),
    ],
)
def test_explain_shows_every_stage(optc: Command, folder: Path, stage: str, shows: str) -> None:
    status, out, err = optc("explain", "plain.opt", "--stage", stage)
    assert (status, err) == (0, "")
    assert shows in out


def test_explain_prints_plan_and_cost_as_json(optc: Command, folder: Path) -> None:
    plan = json.loads(optc("explain", "adamw", "-s", "plan", "--json")[1])["plan"]
    assert {s["name"] for s in plan["procedures"][0]["phases"][0]["kernel"]["passes"][0]["streams"]} >= {"theta", "g", "m", "v"}
    rows = json.loads(optc("explain", "adamw", "-s", "cost", "--json")[1])["cost"]
    (row,) = [r for r in rows if r["default"] and r["theta"] == "float32"]
    assert (row["bytes_read"], row["bytes_written"], row["state_bytes"]) == (16, 12, 8)
    assert row["floor_seconds_per_billion"]["CPU, 40 GB/s"] == pytest.approx(28e9 / 40e9)


def test_explain_shows_what_processes_tell_each_other(optc: Command, folder: Path) -> None:
    status, out, _ = optc("explain", "adamw", "--sharding")
    assert status == 0 and "Processes tell each other nothing in a step" in out
    status, out, _ = optc("explain", "adamw8bit", "--sharding")
    assert "no" not in re.findall(r": (yes|no)$", out, re.M)
    status, out, _ = optc("explain", "adamw8bit", "--sharding", "--shapes", "64x100")
    assert "tensor parallelism: no\n      its state 'exp_avg' is kept as codes (dynamic8) in blocks of 256 elements" in out
    assert re.findall(r": (yes|no)$", out, re.M) == ["no", "no", "yes"]  # Zero1 cuts between blocks
    status, out, _ = optc("explain", "lamb", "--sharding", "--shapes", "8x4,8,8")
    assert "step, exchange 1: one all_reduce of sums, 72 bytes (a number of each tensor)" in out
    status, out, _ = optc("explain", "adamw", "--with", "clip_global_norm", "--sharding", "--shapes", "8x4", "--json")
    told = json.loads(out)["sharding"]
    assert (told["bytes"], [message["phase"] for message in told["messages"]]) == (16, [1])
    for wrong in ("4x", "", "0x3", "9999999x9999999", "a"):
        status, _, err = optc("explain", "lamb", "--sharding", "--shapes", wrong)
        assert status == 1 and "--shapes" in err and "Traceback" not in err


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_help_of_every_command_teaches_by_example(optc: Command, folder: Path, command: str) -> None:
    status, out, _ = optc(command, "--help")
    assert status == 0
    assert re.search(rf"Examples:\n    optc {command}", out)


ANSWERS = {
    ("build", "-o", "out"): {"written", "unchanged"},
    ("build", "-o", "out", "--check"): {"stale"},
    ("check",): {"checked"},
    ("explain",): {"stage", "text"},
    ("explain", "--stage", "plan"): {"stage", "plan"},
    ("explain", "--stage", "cost"): {"stage", "cost"},
    ("explain", "--sharding"): {"stage", "sharding"},
}
"""What every command with a spec reports as JSON, beside the errors."""
DIAGNOSTIC = {"file", "line", "column", "end_line", "end_column", "code", "message", "hint"}


@pytest.mark.parametrize(("command", "reported"), ANSWERS.items(), ids=map(" ".join, ANSWERS))
def test_json_is_an_object_with_errors_and_what_the_command_reports(
    command: tuple[str, ...], reported: set[str], folder: Path, optc: Command
) -> None:
    assert optc("build", "plain.opt", "-o", "out")[0] == 0
    status, out, err = optc(command[0], "plain.opt", *command[1:], "--json")
    answer = json.loads(out)
    assert (status, err) == (0, "")
    assert answer["errors"] == []
    assert set(answer) == {"errors"} | reported
    said = optc(command[0], "--help")[1]
    assert all(re.search(rf"\b{word}\b", said[said.index("--json") :]) for word in ("errors", *reported))


@pytest.mark.parametrize("command", ANSWERS, ids=" ".join)
def test_mistakes_are_json_where_json_was_asked_for(command: tuple[str, ...], folder: Path, optc: Command) -> None:
    (folder / "__init__.opt").write_text(BAD, encoding="utf-8")  # its class says what the module is called
    status, out, err = optc(command[0], "__init__.opt", *command[1:], "--json")
    errors = json.loads(out)["errors"]
    found = [(m["file"], m["line"], m["column"], m["code"]) for m in errors]
    assert found == [("__init__.opt", 4, 13, "unknown-name"), ("__init__.opt", 5, 21, "unknown-name")]
    assert (status, err) == (1, "")
    assert all(set(entry) == DIAGNOSTIC for entry in errors)
    assert not (folder / "out").exists()


@pytest.mark.parametrize("command", ANSWERS, ids=" ".join)
@pytest.mark.parametrize("file", ["missing.opt", "."])
def test_files_that_cannot_be_read_are_json_too(command: tuple[str, ...], file: str, folder: Path, optc: Command) -> None:
    status, out, err = optc(command[0], file, *command[1:], "--json")
    (entry,) = json.loads(out)["errors"]
    assert (status, err, set(entry), entry["line"]) == (1, "", DIAGNOSTIC, None)
    assert file in entry["message"]


def test_an_error_of_the_system_is_json_too(folder: Path, optc: Command) -> None:
    (folder / "file").write_text("", encoding="utf-8")
    status, out, err = optc("build", "plain.opt", "-o", "file/out", "--json")
    (entry,) = json.loads(out)["errors"]
    assert (status, err, entry["line"]) == (1, "", None)
    assert "file" in entry["message"]


def test_list_has_the_same_shape(folder: Path, optc: Command) -> None:
    status, out, _ = optc("list", "--json")
    assert (status, list(json.loads(out))) == (0, ["errors", "optimizers", "modifiers", "schedules", "storages"])
    assert "errors, optimizers, modifiers, schedules, storages" in optc("list", "--help")[1]


def test_every_command_with_json_is_tried() -> None:
    able = {name for name, command in cli.commands.items() if any("--json" in p.opts for p in command.params)}
    assert able == {command for command, *_ in ANSWERS} | {"list", "plot"}


def test_the_shape_is_in_the_help(optc: Command) -> None:
    said = " ".join(optc("--help")[1].split())
    assert "--json" in said
    assert all(key in said for key in DIAGNOSTIC | {'"errors"'})
