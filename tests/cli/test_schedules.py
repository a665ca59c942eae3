"""Schedules on the command line: list, check, explain, fmt, new and build."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from optc import schedules
from optc.cli import specs
from optc.cli.main import cli
from tests.cli.test_options import Command, folder, optc

__all__ = ["folder", "optc"]  # fixtures

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(path.stem for path in (ROOT / "specs" / "schedules").glob("*.opt"))

MINE = "schedule mine:\n    hyper: half = 100 in int [1, inf)\n    lr: return base*2^(-n/half)\n"
TWO = f"{MINE}\nschedule two = ramp(T = 50) for 50, mine(half = 20)\n"
BAD = "schedule bad:\n    hyper: T = 10 in int [1, inf)\n    lr: return base*s\n"


@pytest.fixture(autouse=True)
def files(folder: Path) -> None:
    for name, text in (("mine.opt", MINE), ("two.opt", TWO), ("bad_schedule.opt", BAD)):
        (folder / name).write_text(text, encoding="utf-8")


# --- list, check --------------------------------------------------------------------------------------------------------------


def test_list_says_what_schedules_give(optc: Command) -> None:
    found = {entry["name"]: entry for entry in json.loads(optc("list", "--json")[1])["schedules"]}
    assert sorted(found) == SHIPPED and len(found) >= 14
    assert all(set(entry) == {"name", "gives", "text", "cites", "file"} and entry["text"] for entry in found.values())
    momentum = {name for name, entry in found.items() if entry["gives"] == ["lr", "momentum"]}
    assert momentum == {"cyclic", "one_cycle"} == {n for n in SHIPPED if schedules_by_name(n)().has_momentum}
    assert all(entry["gives"] == ["lr"] for name, entry in found.items() if name not in momentum)
    assert (ROOT / found["cosine"]["file"]).is_file() and found["cosine"]["cites"] == ["arXiv:1608.03983"]
    assert re.search(r"^one_cycle +lr, momentum +Up to the learning rate", optc("list")[1], re.MULTILINE)


def schedules_by_name(name: str) -> type[schedules.Schedule]:
    found: type[schedules.Schedule] = getattr(schedules, "".join(part.capitalize() for part in name.split("_")))
    return found


def test_check_names_schedules(optc: Command) -> None:
    assert optc("check", "mine.opt", "two.opt")[:2] == (0, "ok  mine.opt: schedule mine\nok  two.opt: schedule mine, two\n")
    assert optc("check", "One-Cycle")[1] == "ok  specs/schedules/one_cycle.opt: schedule one_cycle\n"
    assert optc("check", "-", stdin=MINE)[1] == "ok  <stdin>: schedule mine\n"
    answer = json.loads(optc("check", "two.opt", "--json")[1])
    assert answer == {"errors": [], "checked": [{"file": "two.opt", "class": "schedule mine, two"}]}


def test_check_finds_the_mistakes_of_schedules_and_chains(optc: Command, folder: Path) -> None:
    status, out, err = optc("check", "bad_schedule.opt")
    assert (status, out) == (1, "") and "bad_schedule.opt:3:21: error: there is no name `s`" in err
    assert "bad_schedule.opt:2:12: error: no line reads the hyper `T`" in err
    (folder / "two.opt").write_text(TWO.replace("ramp", "romp"), encoding="utf-8")
    status, _, err = optc("check", "two.opt")
    assert status == 1 and "there is no schedule `romp`" in err and "did you mean `ramp`?" in err


def test_all_that_is_shipped_is_checked(optc: Command) -> None:
    checked = {entry["file"] for entry in json.loads(optc("check", "--json")[1])["checked"]}
    assert checked == {path.relative_to(ROOT).as_posix() for path in (ROOT / "specs").rglob("*.opt")}


# --- explain ------------------------------------------------------------------------------------------------------------------


def test_explain_shows_a_schedule_and_its_values(optc: Command) -> None:
    status, out, _ = optc("explain", "cosine")
    text, _, table = out.partition("\n\ncosine after n steps, where the rate 1 was given\n")
    assert status == 0 and text.startswith("schedule cosine:\n") and "(1 + cospi(2·cycles·p))/2" in text
    head, *rows = table.splitlines()
    assert head.split() == ["n", "lr"] and len(rows) == 21
    numbers = {int(row.split()[0]): float(row.split()[1]) for row in rows}
    rate = schedules.Cosine()
    assert numbers == {n: pytest.approx(rate(n), abs=5e-5) for n in range(0, 1001, 50)}
    bars = [len(row.split()[2]) if len(row.split()) > 2 else 0 for row in rows]
    assert bars[0] == 40 and bars[-1] == 0 and bars == sorted(bars, reverse=True)
    assert json.loads(optc("explain", "cosine", "--json")[1]) == {"errors": [], "stage": "overview", "text": out[:-1]}


def test_explain_shows_the_momentum_where_there_is_one(optc: Command) -> None:
    out = optc("explain", "one_cycle")[1]
    (row,) = re.findall(r"^ +300 +(\S+) +(\S+) ", out, re.MULTILINE)
    given = schedules.OneCycle()
    assert [float(number) for number in row] == pytest.approx([given(300), given.momentum(300)], rel=1e-4)
    assert "momentum where 0.95 was given" in out


def test_explain_shows_every_schedule_of_a_file(optc: Command) -> None:
    out = optc("explain", "two.opt")[1]
    assert "mine after n steps" in out and "\ntwo after n steps" in out
    assert "schedule two = ramp(T = 50) for 50, mine(half = 20)" in out
    assert re.search(r"^ +70 +0\.5 ", out[out.index("\ntwo after") :], re.MULTILINE)  # 20 steps after the ramp
    assert optc("explain", "-", stdin=MINE)[1].endswith(optc("explain", "mine.opt")[1])


@pytest.mark.parametrize(
    ("stage", "shows"),
    [
        ("parse", "    Schedule name=mine "),
        ("torch", "class Mine(Schedule):"),
        ("latex", r"\operatorname{lr}\left(n, \mathrm{base}\right) &= \mathrm{base} \cdot 2^{\frac{-n}{\mathrm{half}}}"),
    ],
)
def test_a_schedule_has_these_stages(optc: Command, folder: Path, stage: str, shows: str) -> None:
    status, out, err = optc("explain", "mine.opt", "-s", stage)
    assert (status, err) == (0, "") and shows in out
    assert json.loads(optc("explain", "mine.opt", "-s", stage, "--json")[1])["text"] == out.removesuffix("\n")
    if stage == "torch":
        assert optc("build", "mine.opt", "-o", "out")[0] == 0
        assert out == (folder / "out" / "mine.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("stage", ["program", "update", "plan", "native", "triton", "cost"])
def test_the_other_stages_are_refused_in_one_sentence(optc: Command, stage: str) -> None:
    status, out, err = optc("explain", "cosine", "-s", stage)
    says = f"schedules are plain functions on the host, without a stage {stage}; they have overview, parse, torch, latex"
    assert (status, out, err) == (1, "", f"error: specs/schedules/cosine.opt: {says}\n")
    (error,) = json.loads(optc("explain", "cosine", "-s", stage, "--json")[1])["errors"]
    assert says in error["message"]


def test_explain_of_a_wrong_schedule_says_where(optc: Command) -> None:
    for stage in ("overview", "torch", "latex"):
        status, out, err = optc("explain", "bad_schedule.opt", "-s", stage)
        assert (status, out) == (1, "") and "bad_schedule.opt:3:21: error: there is no name `s`" in err


def test_explain_says_that_a_schedule_costs_nothing_per_element(optc: Command) -> None:
    out = optc("explain", "adamw", "--with", "cautious", "--with", "cosine(T = 500)")[1]
    rows = [line.split() for line in out[out.index("each modifier adds") :].splitlines()[1:]]
    assert rows[1] == ["cosine", "0", "0", "0", "0"]
    assert rows[2:] == ["cosine is a schedule: a few numbers, computed once per step before the tensors are touched".split()]
    assert "lr_now = cosine_lr(steps_done, lr)  # cosine" in out and re.search(r"cosine_T += 500 ", out)
    assert "is a schedule" not in optc("explain", "adamw", "--with", "cautious")[1]


# --- fmt ----------------------------------------------------------------------------------------------------------------------


def test_fmt_formats_schedules_and_chains(optc: Command, folder: Path) -> None:
    (folder / "loose.opt").write_text(TWO.replace("base*2^", "base * 2 ^ ").replace("(T = 50)", "( T=50 )"), encoding="utf-8")
    assert optc("fmt", "--check", "loose.opt")[0] == 1
    assert optc("fmt", "loose.opt")[0] == 0
    neat = (folder / "loose.opt").read_text(encoding="utf-8")
    assert neat == optc("fmt", "--stdout", "two.opt")[1] and "schedule two = ramp(T = 50) for 50, mine(half = 20)\n" in neat
    assert optc("fmt", "--check", "loose.opt")[0] == 0
    assert "base·2^(-n/half)" in optc("fmt", "--math", "--stdout", "loose.opt")[1]


def test_fmt_keeps_comments_and_what_a_schedule_gives(optc: Command, folder: Path) -> None:
    text = MINE.replace("    lr:", "    # halves\n    lr:").replace("/half)", "/half)  # again and again")
    (folder / "mine.opt").write_text(text, encoding="utf-8")
    for spelling in ("--math", "--ascii"):
        assert optc("fmt", spelling, "mine.opt")[0] == 0
        now = (folder / "mine.opt").read_text(encoding="utf-8")
        assert "# halves" in now and "# again and again" in now
        drawn = json.loads(optc("plot", "mine.opt", "--steps", "300", "--json")[1])["schedules"][0]
        assert [drawn["lr"][n] for n in (0, 100, 200)] == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_schedules_are_canonical(optc: Command, name: str) -> None:
    assert optc("fmt", "--check", name)[0] == 0


# --- new, build, completion ---------------------------------------------------------------------------------------------------


def test_new_writes_a_schedule_that_is_canonical_checks_and_builds(optc: Command, folder: Path) -> None:
    status, out, _ = optc("new", "MySchedule", "--schedule", "-o", "specs")
    assert (status, "wrote specs/my_schedule.opt" in out, "optc plot specs/my_schedule.opt" in out) == (0, True, True)
    text = (folder / "specs/my_schedule.opt").read_text(encoding="utf-8")
    assert all(word in text for word in ("n are the steps done", "base is the rate", "warm-up", "AdamW + my_schedule"))
    assert optc("fmt", "--check", "specs/my_schedule.opt")[0] == 0
    assert optc("check", "specs/my_schedule.opt")[1] == "ok  specs/my_schedule.opt: schedule my_schedule\n"
    assert optc("build", "specs/my_schedule.opt", "-o", "pack")[0] == 0
    made = importlib.util.spec_from_file_location("my_schedule", folder / "pack/my_schedule.py")
    assert made is not None and made.loader is not None
    module = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    rate = module.MySchedule(T=110, warmup=10, last=0.1)
    assert [rate(n, 2.0) for n in (0, 5, 10, 60, 110, 500)] == pytest.approx([0, 1, 2, 1.1, 0.2, 0.2])
    assert optc("new", "MySchedule", "--schedule", "-o", "specs")[0] == 1
    assert (folder / "specs/my_schedule.opt").read_text(encoding="utf-8") == text
    assert optc("new", "my_schedule", "--schedule")[0] == 2


@pytest.mark.parametrize(("name", "part"), [("Warm", "warm"), ("HTTPRate", "http_rate"), ("Rate2Go", "rate2_go")])
def test_a_new_schedule_is_called_as_it_is_written(optc: Command, name: str, part: str) -> None:
    assert optc("new", name, "--schedule")[0] == 0
    assert optc("check", f"{part}.opt")[1] == f"ok  {part}.opt: schedule {part}\n"


def test_the_shell_completes_schedules() -> None:
    for command in ("explain", "check", "fmt", "build", "plot"):
        (argument,) = (p for p in cli.commands[command].params if p.param_type_name == "argument")
        found = {item.value for item in argument.type.shell_complete(None, argument, "co")}  # type: ignore[arg-type]
        assert {"cosine", "constant"} <= found, command
    every = {item.value for item in specs.SCHEDULE.shell_complete(None, argument, "")}  # type: ignore[arg-type]
    assert every == {*SHIPPED, ""}  # and files
