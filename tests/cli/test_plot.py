"""`optc plot`: numbers, text and pictures of schedules, and what is said where something is wrong."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from optc import schedules
from optc.cli import output, panels, pictures
from optc.cli.panels import Line, Panel
from optc.cli.plot import POINTS
from optc.compiler.schedule_facts import evenly, horizon
from tests.cli.test_options import Command, folder, optc
from tests.cli.test_schedules import BAD, MINE, TWO

__all__ = ["folder", "optc"]  # fixtures

CHAIN = "ramp(T = 100) for 100, cosine(T = 900)"


@pytest.fixture(autouse=True)
def files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("mine.opt", MINE), ("two.opt", TWO), ("bad_schedule.opt", BAD)):
        (folder / name).write_text(text, encoding="utf-8")
    for variable in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")


def numbers(optc: Command, *arguments: str) -> list[dict[str, Any]]:
    status, out, err = optc("plot", *arguments, "--json")
    answer = json.loads(out)
    assert (status, err, answer["errors"], set(answer)) == (0, "", [], {"errors", "schedules"})
    found: list[dict[str, Any]] = answer["schedules"]
    assert all(set(entry) == {"name", "steps", "lr", "momentum"} for entry in found)
    return found


# --- numbers ------------------------------------------------------------------------------------------------------------------


def test_json_has_the_numbers_of_every_step(optc: Command) -> None:
    cosine, one_cycle = numbers(optc, "cosine", "One-Cycle", "--set", "T=500", "--base", "3e-4")
    rates = schedules.Cosine(T=500), schedules.OneCycle(T=500)
    assert (cosine["name"], one_cycle["name"]) == ("cosine(T = 500)", "one_cycle(T = 500)")
    assert cosine["steps"] == one_cycle["steps"] == list(range(501))
    assert cosine["lr"] == [rates[0](n, 3e-4) for n in range(501)] and cosine["momentum"] is None
    assert one_cycle["lr"] == [rates[1](n, 3e-4) for n in range(501)]
    assert one_cycle["momentum"] == [rates[1].momentum(n) for n in range(501)]


def test_a_setting_is_for_the_schedules_that_have_it(optc: Command) -> None:
    cosine, restarts, step = numbers(
        optc, "cosine", "restarts", "step_decay", "--set", "warmup=7", "--set", "γ=0.5", "--steps", "9"
    )
    assert [cosine["name"], restarts["name"], step["name"]] == [
        "cosine(warmup = 7)", "restarts(warmup = 7)", "step_decay(gamma = 0.5)",
    ]  # fmt: skip
    assert cosine["lr"] == [schedules.Cosine(warmup=7)(n) for n in range(10)]
    assert restarts["lr"] == [schedules.Restarts(warmup=7)(n) for n in range(10)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("cosine", "T=1e3", "stay=False"), schedules.Cosine(T=1000, stay=False)),
        (("multi_step", "milestones=30,80"), schedules.MultiStep(milestones=(30, 80))),
        (("multi_step", "milestones=(80, 30)", "gamma=0.5"), schedules.MultiStep(milestones=(80, 30), gamma=0.5)),
        (("multi_step", "milestones=50"), schedules.MultiStep(milestones=(50,))),
        (("one_cycle", "shape=linear", "three_phase=true"), schedules.OneCycle(shape="linear", three_phase=True)),
        (("one_cycle", "shape='linear'"), schedules.OneCycle(shape="linear")),
        (("one_cycle", "momentum_low=0.8"), schedules.OneCycle(momentum_low=0.8)),
        (("cyclic", "down=none", "up=50"), schedules.Cyclic(up=50)),
        (("inverse_sqrt", "timescale=40", "warmup = 4"), schedules.InverseSqrt(timescale=40, warmup=4)),
    ],
)
def test_settings_are_written_as_values(optc: Command, settings: Sequence[str], expected: schedules.Schedule) -> None:
    name, *values = settings
    (found,) = numbers(optc, name, *(word for value in values for word in ("--set", value)), "--steps", "120")
    assert found["lr"] == [expected(n) for n in range(121)]


def test_calls_chains_and_files_are_drawn(optc: Command) -> None:
    called, chain, mine, two, alone = numbers(optc, "cosine(T = 40)", CHAIN, "two.opt", "mine.opt", "--steps", "200")
    assert [c["name"] for c in (called, chain, mine, two, alone)] == ["cosine(T = 40)", CHAIN, "mine", "two", "mine"]
    assert called["lr"] == [schedules.Cosine(T=40)(n) for n in range(201)]
    joined = schedules.Ramp(T=100).then(schedules.Cosine(T=900), 100)
    assert chain["lr"] == pytest.approx([joined(n) for n in range(201)], rel=1e-12)
    assert mine["lr"] == alone["lr"] == pytest.approx([2 ** (-n / 100) for n in range(201)], rel=1e-12)
    assert two["lr"][50:] == pytest.approx([2 ** (-n / 20) for n in range(151)], rel=1e-12)
    assert numbers(optc, "mine.opt", "--set", "half=10", "--steps", "10")[0]["lr"][10] == 0.5


def test_a_chain_may_be_longer_than_a_file_name(optc: Command) -> None:
    links = [f"constant(warmup = {number}) for {number + 1}" for number in range(20)]
    (found,) = numbers(optc, ", ".join([*links, "cosine(T = 10)"]), "--steps", "230")
    assert len(found["name"]) == 48 and found["name"].endswith("…")
    assert found["lr"][210:221] == pytest.approx([schedules.Cosine(T=10)(n) for n in range(11)])


def test_a_schedule_can_come_from_standard_input(optc: Command) -> None:
    status, out, _ = optc("plot", "-", "--json", "--steps", "100", stdin=MINE)
    assert status == 0 and json.loads(out)["schedules"][0]["lr"][100] == 0.5


def test_there_are_no_more_numbers_than_can_be_read(optc: Command) -> None:
    (found,) = numbers(optc, "cosine", "--set", "T=1000000", "--steps", "1000000")
    steps = found["steps"]
    assert len(steps) == POINTS and (steps[0], steps[-1]) == (0, 1_000_000)
    assert {b - a for a, b in pairwise(steps)} == {500}
    assert found["lr"] == [schedules.Cosine(T=1_000_000)(n) for n in steps]


def test_steps_are_spread_evenly() -> None:
    assert evenly(4, 10) == [0, 1, 2, 3, 4] and evenly(9, 4) == [0, 3, 6, 9] and evenly(10, 5) == [0, 2, 5, 8, 10]


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        (schedules.Cosine(T=300), 300),
        (schedules.Cosine(T=300, stay=False), 1200),
        (schedules.Linear(T=300, warmup=400), 500),  # it jumps where it comes to rest
        (schedules.Ramp(T=50), 100),
        (schedules.Constant(), 1000),
        (schedules.Constant(warmup=20), 40),
        (schedules.MultiStep(milestones=(80, 30)), 100),
        (schedules.StepDecay(period=30), 120),
        (schedules.Cyclic(up=100), 400),
        (schedules.Exponential(), 1000),
        (schedules.Exponential(gamma=0.9999), 8000),
        (schedules.OneCycle(T=700), 700),
    ],
    ids=repr,
)
def test_as_many_steps_are_shown_as_a_schedule_takes(schedule: schedules.Schedule, steps: int) -> None:
    assert horizon(schedule) == steps


def test_a_chain_is_shown_to_the_end_of_its_last_part(optc: Command, folder: Path) -> None:
    assert numbers(optc, CHAIN)[0]["steps"][-1] == 1000
    assert numbers(optc, "constant for 30, step_decay(period = 10)")[0]["steps"][-1] == 70
    (folder / "own.opt").write_text("schedule own = constant for 30, mine(half = 20)\n", encoding="utf-8")
    assert numbers(optc, "own.opt")[0]["steps"][-1] == 110  # of a schedule beside it
    mine, two = numbers(optc, "two.opt")
    assert mine["steps"][-1] == two["steps"][-1] == 400  # what the longest takes


# --- text ---------------------------------------------------------------------------------------------------------------------


def heights(text: str, sign: str) -> list[float]:
    """How high a curve is in every column of a plot, as a share of its rows; NaN where it is not."""
    rows = [row.partition("│")[2] or row.partition("┤")[2] for row in text.splitlines() if "│" in row]
    columns = max(map(len, rows))
    found = []
    for column in range(columns):
        here = [number for number, row in enumerate(rows) if column < len(row) and row[column] == sign]
        found.append(1 - sum(here) / len(here) / (len(rows) - 1) if here else math.nan)
    return found


def test_a_plot_in_a_pipe_is_plain_text_of_80_columns(optc: Command) -> None:
    status, out, err = optc("plot", "cosine", "one_cycle")
    title, legend, *rows = out.splitlines()
    assert (status, err, "\x1b" in out) == (0, "", False)
    assert (title, legend) == ("learning rate, as a share of the one given", "* cosine   o one_cycle")
    assert max(map(len, rows)) == 80 and len(rows) <= 22 and rows[-1].strip() == "step"
    assert rows[-2].split() == ["0", "200", "400", "600", "800", "1000"]
    assert [row.split("┤")[0].strip() for row in rows if "┤" in row][::2] == ["1", "0"]


def test_curves_are_where_their_numbers_are(optc: Command) -> None:
    out = optc("plot", "linear", "constant")[1]
    found = heights(out, "*")[:-1]
    line = [height for height in found if not math.isnan(height)]
    assert len(line) > 60 and line[0] > 0.9 and line[-1] < 0.1
    assert all(abs(height - (1 - n / (len(found) - 1))) < 0.1 for n, height in enumerate(found) if not math.isnan(height))
    assert set(heights(out, "o")[:-1]) == {1.0}


def test_one_curve_is_drawn_finely_and_named_in_the_title(optc: Command) -> None:
    out = optc("plot", "cosine(T = 500)", "--base", "0.5")[1]
    assert out.startswith("cosine(T = 500): learning rate, where 0.5 was given\n")
    assert re.search("[\u2800-\u28ff]{5}", out) and "0.4┤" in out


def test_momentum_is_a_second_panel_of_those_that_give_one(optc: Command) -> None:
    out = optc("plot", "one_cycle", "cosine", "cyclic", "--momentum")[1]
    rates, _, momenta = out.partition("momentum\n")
    assert momenta.startswith("* one_cycle   x cyclic\n") and "o" in rates and "o" not in momenta.split("\n", 1)[1][:-10]
    assert "momentum" not in optc("plot", "one_cycle")[1]


def test_a_logarithmic_scale_has_powers_of_ten_and_no_place_for_0(optc: Command) -> None:
    out = optc("plot", "exponential", "constant", "--steps", "5000", "--log")[1]
    assert [row.split("┤")[0].strip() for row in out.splitlines() if "┤" in row] == ["1", "0.1", "0.01"]
    found = heights(out, "*")[:-1]
    assert all(abs(h - (1 - n / (len(found) - 1))) < 0.1 for n, h in enumerate(found) if not math.isnan(h))
    assert optc("plot", "linear", "--log")[0] == 0


def test_colours_are_for_terminals(optc: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = optc("plot", "cosine", "one_cycle")[1]
    assert out.count("\x1b[94m") == 1 and "\x1b[38;5;12m" in out and "\x1b[48" not in out  # no background
    plain = re.sub("\x1b\\[[0-9;]*m", "", out)
    assert re.search("[\u2800-\u28ff]", plain) and max(map(len, plain.splitlines())) == 80
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in optc("plot", "cosine", "one_cycle")[1]


def test_letters_that_cannot_be_written_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panels, "_writes", lambda text: False)
    drawn = panels.text([Panel("x", [Line("a", [0, 1, 2], [0, 1, 2], 0)])], 60, 24)
    assert drawn.isascii() and "*" in drawn and "+-" in drawn


def test_narrow_and_wide_terminals_are_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    panel = Panel("x", [Line(f"curve number {n}", [0, 1], [n, n], n) for n in range(5)])
    for width, expected in ((10, 40), (60, 60), (500, 120)):
        drawn = panels.text([panel, panel], width, 40)
        assert max(map(output.width, drawn.splitlines())) == expected


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 1, 5, [0, 0.5, 1]),
        (0, 1, 6, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 1000, 6, [0, 200, 400, 600, 800, 1000]),
        (0.85, 0.95, 3, [0.85, 0.9, 0.95]),
        (0, 7, 6, [0, 2, 4, 6]),
        (0, 3e-4, 4, [0, 1e-4, 2e-4, 3e-4]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, most: int, expected: list[float]) -> None:
    found = panels.ticks(low, high, most)
    assert found == pytest.approx(expected) and len(found) <= most


# --- pictures -----------------------------------------------------------------------------------------------------------------


def test_a_picture_is_written_once(optc: Command, folder: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra `plot`")
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        file = f"rates{suffix}"
        assert optc("plot", "cosine", CHAIN, "-o", file)[:2] == (0, f"wrote {file}\n")
        first = (folder / file).read_bytes()
        assert first.startswith(start)
        assert optc("plot", "cosine", CHAIN, "-o", file)[:2] == (0, f"unchanged {file}\n")
    assert sorted(path.name for path in folder.iterdir() if "rates" in path.name) == ["rates.pdf", "rates.png", "rates.svg"]


def test_a_picture_shows_names_scales_and_the_momentum(optc: Command, folder: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra `plot`")
    assert optc("plot", "one_cycle", "cosine", "--set", "T=500", "--momentum", "--base", "0.25", "-o", "new/rates.svg")[0] == 0
    text = (folder / "new/rates.svg").read_text(encoding="utf-8")
    said = re.findall(r"<text[^>]*>([^<]+)</text>", text)
    assert {"one_cycle(T = 500)", "cosine(T = 500)", "learning rate, where 0.25 was given", "momentum", "step", "500"} <= set(
        said
    )
    assert optc("plot", "exponential", "--log", "-o", "one.svg")[0] == 0
    assert "exponential: learning rate, as a share of the one given" in (folder / "one.svg").read_text(encoding="utf-8")


def test_the_curve_of_a_picture_is_that_of_the_numbers(folder: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra `plot`")
    image = pytest.importorskip("matplotlib.image", reason="pictures need the extra `plot`")
    (folder / "line.png").write_bytes(pictures.drawn([Panel("x", [Line("down", [0, 10], [1, 0], 0)])], "png"))
    pixels = image.imread(folder / "line.png")[..., :3]
    blue = abs(pixels - [0x1F / 255, 0x6F / 255, 0xB4 / 255]).sum(axis=-1) < 0.05
    columns = [column for column in range(blue.shape[1]) if blue[:, column].any()]
    middles = [blue[:, column].nonzero()[0].mean() for column in columns]
    assert len(columns) > 900 and middles == sorted(middles)
    third = (middles[-1] - middles[0]) / 3
    assert middles[len(middles) // 3] - middles[0] == pytest.approx(third, rel=0.02)


# --- mistakes -----------------------------------------------------------------------------------------------------------------

MISTAKES = [
    (("cosin",), 1, "cosin: there is no such file or shipped schedule; did you mean cosine?"),
    (("adamw",), 1, "adamw: there is no such file or shipped schedule"),
    (("cosine", "--set", "t=3"), 1, "--set t: no schedule that is drawn has this setting; cosine has T, warmup, last"),
    (
        ("cosine(T = 5)", "--set", "T=3"),
        1,
        "--set T: no schedule that is drawn has this setting; cosine(T = 5) has none to set",
    ),
    (("cosine", "--set", "T=0"), 1, "--set: Cosine: T = 0, but it must be a whole number in [1, inf)"),
    (("cosine", "--set", "T=1.5"), 1, "--set: Cosine: T = 1.5, but it must be a whole number in [1, inf)"),
    (("cosine", "--set", "T=many"), 1, "--set: Cosine: T = 'many', but it must be a whole number in [1, inf)"),
    (("one_cycle", "--set", "shape=lineal"), 1, "one of 'cosine', 'linear' (did you mean 'linear'?)"),
    (("multi_step", "--set", "milestones=1,2,3,4,5,6,7,8,9"), 1, "but it must be a tuple of 8 numbers"),
    (("cosine", "--set", "T"), 2, "--set 'T' sets nothing: write KEY=VALUE, such as --set T=500"),
    (("cosine", "--set", "=5"), 2, "--set '=5' sets nothing"),
    (("cosine", "--steps", "0"), 2, "0 is not in the range"),
    (("cosine", "--base", "-1"), 2, "-1.0 is not in the range"),
    (("cosine", "--base", "nan"), 2, "--base nan: is no rate; give a finite number above 0"),
    (("cosine", "--momentum"), 1, "--momentum: none is given by cosine; cyclic and one_cycle give one"),
    (("cosine", "-o", "rates.gif"), 2, "rates.gif: is no kind of picture that is known; call it rates.png, .svg or .pdf"),
    (("cosine", "-o", "mine.opt/rates.png"), 1, "cannot write mine.opt/rates.png"),
    (("cosine", "-o", "rates.png", "--json"), 2, "--json prints the numbers and -o draws a picture: give one of them"),
    (("cosine(T = 0)",), 1, "`T` is a whole number in [1, inf), 0 is not"),
    (("romp(T = 5) for 3, cosine",), 1, "there is no schedule `romp`"),
    (("cosine(T = 5",), 1, "`(` is never closed"),
    (("ramp for 5, cosine for 6",), 1, "the last schedule of a chain lasts for good"),
    (("bad_schedule.opt",), 1, "bad_schedule.opt:3:21: error: there is no name `s`"),
    (("plain.opt",), 1, "plain.opt: holds no schedule; optc list shows those that are shipped"),
    (("missing.opt",), 1, "missing.opt: there is no such file"),
    ((), 2, "Missing argument 'SCHEDULE...'"),
]


@pytest.mark.parametrize(
    ("arguments", "status", "says"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_mistakes_are_told_in_a_sentence(
    optc: Command, folder: Path, arguments: tuple[str, ...], status: int, says: str
) -> None:
    before = sorted(folder.rglob("*"))
    found, out, err = optc("plot", *arguments)
    assert (found, out) == (status, "") and says in err and "Traceback" not in err and "bug" not in err
    assert sorted(folder.rglob("*")) == before, "nothing is left half written"


def test_mistakes_are_json_where_that_is_asked_for(optc: Command) -> None:
    (error,) = json.loads(optc("plot", "cosin", "--json")[1])["errors"]
    assert "did you mean cosine?" in error["message"]
    (error, _) = json.loads(optc("plot", "bad_schedule.opt", "--json")[1])["errors"]
    assert (error["file"], error["line"]) == ("bad_schedule.opt", 2)


def test_a_rate_of_0_has_no_logarithm(optc: Command, folder: Path) -> None:
    (folder / "zero.opt").write_text("schedule zero:\n    lr: return 0*base\n", encoding="utf-8")
    assert optc("plot", "zero.opt", "--log")[2].startswith("error: zero: no rate is above 0")
    assert optc("plot", "zero.opt")[0] == 0


def test_what_is_not_finite_is_left_out(optc: Command, folder: Path) -> None:
    (folder / "odd.opt").write_text("schedule odd:\n    lr: return base/(n - 2)\n", encoding="utf-8")
    assert numbers(optc, "odd.opt", "--steps", "4")[0]["lr"] == [-0.5, -1.0, None, 1.0, 0.5]
    assert optc("plot", "odd.opt", "--steps", "4")[0] == 0 and optc("explain", "odd.opt")[0] == 0
    (folder / "never.opt").write_text("schedule never:\n    lr: return base*ln(-1 - n)\n", encoding="utf-8")
    assert optc("plot", "never.opt") == (1, "", "error: never: no rate is finite\n")
    assert optc("explain", "never.opt")[0] == 0


@pytest.mark.parametrize(
    ("package", "arguments", "says"),
    [
        ("plotext", (), "drawing in the terminal needs plotext: pip install 'optc[plot]', or write a picture: -o rates.png"),
        ("matplotlib", ("-o", "rates.png"), "a picture needs matplotlib: pip install 'optc[plot]'"),
    ],
)
def test_what_is_not_installed_is_named(
    optc: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, package: str, arguments: tuple[str, ...], says: str
) -> None:
    module = sys.modules[panels.__name__ if package == "plotext" else pictures.__name__]
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == package else find_spec(name))
    assert optc("plot", "cosine", *arguments) == (1, "", f"error: {says}\n")
    assert not (folder / "rates.png").exists()
