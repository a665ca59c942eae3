"""`--with`, compositions and modifiers on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_options import Command, folder, optc

__all__ = ["folder", "optc"]  # fixtures

STEADY = "optimizer Steady = AdamW without weight_decay + grams + proximal(0.1)\n"
MINE = "modifier mine:\n    couple g: g = 2*g\n"


def test_explain_shows_the_composed_step_and_what_each_modifier_costs(optc: Command, folder: Path) -> None:
    status, out, _ = optc("explain", "adamw", "--with", "grams", "--with", "lookahead(k = 6)")
    assert status == 0
    assert "optimizer GramsLookaheadAdamW:" in out and "m̂ = sign(g)·|m̂|  # grams" in out
    assert "lookahead_k  = 6 " in out
    rows = [line.split() for line in out[out.index("each modifier adds") :].splitlines()[1:]]
    assert [row[:3] for row in rows] == [["grams", "0", "0"], ["lookahead", "+8", "+4"]]


@pytest.mark.parametrize("stage", ["parse", "program", "update", "plan", "latex", "cost", "torch"])
def test_every_stage_is_that_of_the_composed_spec(optc: Command, folder: Path, stage: str) -> None:
    status, out, _ = optc("explain", "lion", "--with", "weight_ema", "-s", stage)
    assert status == 0 and ("weight_ema_avg" in out or stage in ("cost", "latex"))
    assert out != optc("explain", "lion", "-s", stage)[1]
    status, out, _ = optc("explain", "lion", "--with", "weight_ema", "-s", stage, "--json")
    assert (status, json.loads(out)["errors"]) == (0, [])


def test_build_with_modifiers_writes_a_module_called_after_them(optc: Command, folder: Path) -> None:
    assert optc("build", "adamw", "--with", "grams,lookahead", "-o", "out")[0] == 0
    text = (folder / "out" / "grams_lookahead_adamw.py").read_text(encoding="utf-8")
    assert "class GramsLookaheadAdamW(Optimizer)" in text and "# grams" in text
    assert optc("build", "adamw", "--with", "grams,lookahead", "-o", "out", "--check")[0] == 0
    status, out, _ = optc("build", "adamw", "--with", "grams", "-o", "out", "--check", "--json")
    assert status == 1 and "grams_adamw.py: missing" in json.loads(out)["stale"][0]


def test_a_composition_is_built_like_any_spec_and_goes_stale_with_its_parts(optc: Command, folder: Path) -> None:
    (folder / "steady.opt").write_text("optimizer Steady = AdamW + mine\n", encoding="utf-8")
    (folder / "mine.opt").write_text(MINE, encoding="utf-8")
    assert optc("check", "steady.opt", "mine.opt")[1] == "ok  steady.opt: Steady\nok  mine.opt: modifier mine\n"
    assert optc("build", "steady.opt", "-o", "out")[0] == 0
    assert "g = 2·g  # mine" in (folder / "out" / "steady.py").read_text(encoding="utf-8")
    assert optc("build", "steady.opt", "-o", "out", "--check")[0] == 0
    (folder / "mine.opt").write_text(MINE.replace("2*g", "3*g"), encoding="utf-8")
    assert optc("build", "steady.opt", "-o", "out", "--check")[0] == 1


def test_modifiers_of_an_own_folder_are_found_for_own_specs(optc: Command, folder: Path) -> None:
    (folder / "mine.opt").write_text(MINE, encoding="utf-8")
    status, out, _ = optc("explain", "plain.opt", "--with", "mine")
    assert status == 0 and "optimizer MinePlain:" in out


def test_fmt_formats_compositions_and_modifiers(optc: Command, folder: Path) -> None:
    (folder / "steady.opt").write_text(STEADY.replace(" + ", "+").replace("(0.1)", "( 0.10 )"), encoding="utf-8")
    assert optc("fmt", "steady.opt")[0] == 0
    assert (folder / "steady.opt").read_text(encoding="utf-8") == STEADY
    assert optc("fmt", "--stdout", "cautious")[1].startswith("modifier cautious:")


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("explain", "adamw", "--with", "gramms"), 1, "did you mean `grams`?"),
        (("explain", "adamw", "--with", "cautious,grams"), 1, "[stage-taken]"),
        (("explain", "grams_"), 0, "optimizer Grams:"),
        (("explain", "cautious"), 1, "give it to a command with `--with`"),
        (("build", "--with", "grams"), 2, "optc build adamw --with cautious -o ."),
        (("build", "adamw", "--with", "grams"), 2, "-o FOLDER"),
        (("check", "bad.opt"), 1, "there is no name `lrr`"),
    ],
)
def test_mistakes_are_answered(optc: Command, folder: Path, arguments: tuple[str, ...], status: int, says: str) -> None:
    found, out, err = optc(*arguments)
    assert found == status and says in out + err


def test_list_has_the_modifiers(optc: Command, folder: Path) -> None:
    modifiers = {m["name"]: m for m in json.loads(optc("list", "--json")[1])["modifiers"]}
    assert modifiers["accumulated"]["stages"] == ["rewrite", "mix"]
    assert set(modifiers["cautious"]) == {"name", "stages", "text", "cites", "file"}
