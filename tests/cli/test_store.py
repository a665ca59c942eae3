"""`--store`, `storing=` and storages on the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import optc as library
from optc.dsl.storages import CASTS
from optc.runtime.codebook import Codebook
from tests.cli.test_options import Command, folder, optc

__all__ = ["folder", "optc"]  # fixtures

WANTED = "write STATE=STORAGE or STATE: STORAGE, such as --store m=dynamic8"
QUANTA = "storage quanta:\n    codes = 16\n    define level(c) = (c - 7)/8\n"
MINE = f"{QUANTA}\noptimizer Mine = Lion storing m: quanta\n"


def storages_of(text: str) -> dict[str, str]:
    """What a generated module keeps its states in."""
    schema = text[text.index("    states=") : text.index("    procedures=")]
    found = (re.search(r'^\s*"(\w+)".*storage="?(\w+)', state, re.DOTALL) for state in schema.split("State(")[1:])
    return {match[1]: match[2] for match in found if match is not None}


# --- build --------------------------------------------------------------------------------------------------------------------


def test_build_writes_a_module_called_after_the_storages(optc: Command, folder: Path) -> None:
    assert optc("build", "lion", "--store", "m=dynamic8", "-o", "out")[:2] == (0, f"wrote {Path('out/lion_m_dynamic8.py')}\n")
    text = (folder / "out/lion_m_dynamic8.py").read_text(encoding="utf-8")
    assert "class Lion_m_dynamic8(Optimizer)" in text and 'DYNAMIC8_CODES = Codebook(\n    "dynamic8",' in text
    assert storages_of(text) == {"m": "DYNAMIC8_CODES"} and "state: 1.016 bytes per parameter" in text
    assert optc("build", "lion", "--store", "m=dynamic8", "-o", "out", "--check")[0] == 0
    status, out, _ = optc("build", "lion", "--store", "m=dynamic4", "-o", "out", "--check", "--json")
    assert status == 1 and "lion_m_dynamic4.py: missing" in json.loads(out)["stale"][0]
    status, out, _ = optc("build", "lion", "--store", "m=dynamic8", "-o", "out", "--json")
    assert (status, json.loads(out)) == (0, {"errors": [], "written": [], "unchanged": 1})


@pytest.mark.parametrize(
    ("options", "name", "storages"),
    [
        (("--store", "m=dynamic8,v=bf16"), "AdamW_m_dynamic8_v_bf16", {"m": "DYNAMIC8_CODES", "v": "bfloat16"}),
        (("--store", "m=dynamic8", "--store", "v: bf16"), "AdamW_m_dynamic8_v_bf16", {"m": "DYNAMIC8_CODES", "v": "bfloat16"}),
        (("--store", "m:fp16 , v = fp16"), "AdamW_m_v_fp16", {"m": "float16", "v": "float16"}),
        (("--store", "m=fp16, v=bf16, v_max=fp16"), "AdamW_m_v_max_fp16_v_bf16", {"m": "float16", "v": "bfloat16"}),
        (("--with", "grams", "--store", "m=fp32"), "GramsAdamW_m_fp32", {"m": "float32"}),
        (("--store", "m=dynamic4(smallest = 0)"), "AdamW_m_dynamic4_smallest_0", {"m": "DYNAMIC4_SMALLEST_0_CODES"}),
        (("--store", "v=bf16"), "AdamW_v_bf16", {"v": "bfloat16"}),
        (("--store", "θ=split24"), "AdamW_theta_split24", {}),
    ],
)
def test_clauses_may_be_given_in_any_way(
    optc: Command, folder: Path, options: tuple[str, ...], name: str, storages: dict[str, str]
) -> None:
    assert optc("build", "adamw", *options, "-o", "out")[0] == 0
    (path,) = (path for path in (folder / "out").glob("*.py") if path.stem != "__init__")
    text = path.read_text(encoding="utf-8")
    assert f"\nclass {name}(Optimizer):" in text and storages.items() <= storages_of(text).items()
    assert path.stem == name.replace("GramsAdamW", "grams_adamw").replace("AdamW", "adamw")


def test_specs_with_storages_of_their_own_are_built_and_changed(optc: Command, folder: Path) -> None:
    (folder / "mine.opt").write_text(MINE, encoding="utf-8")
    assert optc("build", "mine.opt", "-o", "out")[0] == 0
    assert storages_of((folder / "out/mine.py").read_text(encoding="utf-8")) == {"m": "QUANTA_CODES"}
    assert optc("build", "mine.opt", "-o", "out", "--check")[0] == 0
    (folder / "mine.opt").write_text(MINE.replace("/8", "/9"), encoding="utf-8")
    assert optc("build", "mine.opt", "-o", "out", "--check")[0] == 1
    assert optc("build", "mine.opt", "--store", "m=quanta(64)", "-o", "changed")[0] == 0
    path = folder / "changed/mine_m_quanta_64.py"
    assert storages_of(path.read_text(encoding="utf-8")) == {"m": "QUANTA_BLOCK_64_CODES"}
    assert optc("build", "mine.opt", "--store", "m=dynamic8", "-o", "replaced")[0] == 0
    assert "quanta" not in (folder / "replaced/mine_m_dynamic8.py").read_text(encoding="utf-8")


def test_files_of_storages_are_checked_and_formatted(optc: Command, folder: Path) -> None:
    (folder / "quanta.opt").write_text(QUANTA.replace(" = ", "=", 1), encoding="utf-8")
    assert optc("check", "quanta.opt")[:2] == (0, "ok  quanta.opt: storage quanta\n")
    assert optc("fmt", "quanta.opt")[0] == 0
    assert (folder / "quanta.opt").read_text(encoding="utf-8") == QUANTA
    (folder / "wrong.opt").write_text(QUANTA.replace("16", "17"), encoding="utf-8")
    status, out, err = optc("check", "wrong.opt")
    assert status == 1 and "wrong.opt:2:13: error: `codes` must be 2, 16 or 256" in out + err
    for command in (("explain", "-s", "plan"), ("build", "-o", "out")):
        status, out, err = optc(*command, "quanta.opt")
        assert status == 1 and "quanta.opt:1:1: error: the file holds no optimizer, only storages" in out + err


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("build", "lion", "--store", "m=dynamik8", "-o", "out"), 1, "did you mean `dynamic8`?"),
        (("build", "lion", "--store", "mm=dynamic8", "-o", "out"), 1, "the states are `m`"),
        (("build", "lion", "--store", "m=dynamic8(7)", "-o", "out"), 1, "`block` must be a power of two from 64 to 4096"),
        (("build", "lion", "--store", "m=dynamic8", "--store", "m=bf16", "-o", "out"), 1, "`m` has a storage already"),
        (("build", "adamw", "plain.opt", "--store", "m=bf16", "-o", "out"), 1, "there is no state `m`"),
        (("build", "lion", "--store", "m", "-o", "out"), 2, f"--store 'm' does not say which state is kept how: {WANTED}"),
        (
            ("build", "lion", "--store", "m=bf16,v", "-o", "out"),
            2,
            f"--store 'v' does not say which state is kept how: {WANTED}",
        ),
        (("build", "lion", "--store", "m=", "-o", "out"), 2, f"--store 'm=' does not say which state is kept how: {WANTED}"),
        (("build", "lion", "--store", "=dynamic8", "-o", "out"), 2, WANTED),
        (("build", "lion", "--store", "dynamic8(block = 64)", "-o", "out"), 2, WANTED),
        (("build", "lion", "--store", "", "-o", "out"), 2, f"--store '' names no state: {WANTED}"),
        (("build", "lion", "--store", " , ", "-o", "out"), 2, f"--store ' , ' names no state: {WANTED}"),
        (("explain", "lion", "--store", ""), 2, WANTED),
        (("build", "lion", "--store", "m=7", "-o", "out"), 1, "<with>:1:"),
        (("build", "lion", "--store", "m=dynamic8\n\noptimizer Other = SGD", "-o", "out"), 1, "<with>:3:1"),
        (("build", "--store", "m=dynamic8"), 2, "--with and --store change the specs that are named"),
        (("build", "lion", "--store", "m=dynamic8"), 2, "-o FOLDER"),
        (("build", "lion", "--store"), 2, "requires an argument"),
        (("explain", "rmsprop", "--store", "v=udynamic8"), 1, "`v` may be negative as far as is known [unsigned-storage]"),
        (("explain", "came", "--store", "R=bf16"), 1, "`R` is per row; storages are for states like θ [wrong-extent]"),
        (("explain", "adamw", "--store", "m=dynamic8(codes = 16)"), 1, "define another storage"),
        (("explain", "adamw", "--with", "gramms", "--store", "m=bf16"), 1, "did you mean `grams`?"),
        (("explain", "dynamik8"), 1, "did you mean dynamic8"),
        (("build", "dynamic8", "-o", "out"), 1, "the file holds no optimizer, only storages"),
        (("explain", "dynamic8", "-s", "plan"), 1, "the file holds no optimizer, only storages"),
        (("explain", "dynamic8", "--store", "m=bf16"), 1, "holds no optimizer"),
    ],
)
def test_mistakes_are_answered(optc: Command, folder: Path, arguments: tuple[str, ...], status: int, says: str) -> None:
    found, out, err = optc(*arguments)
    assert found == status and says in out + err
    assert "Traceback" not in err and "bug" not in err and not (folder / "out").exists()


def test_mistakes_are_json_where_that_is_asked_for(optc: Command, folder: Path) -> None:
    status, out, _ = optc("explain", "lion", "--store", "m=dynamik8", "--json")
    (error,) = json.loads(out)["errors"]
    assert status == 1 and (error["code"], error["line"], error["hint"]) == ("unknown-storage", 1, "did you mean `dynamic8`?")


# --- explain ------------------------------------------------------------------------------------------------------------------


def test_explain_says_how_states_are_kept_and_what_that_costs(optc: Command, folder: Path) -> None:
    status, out, _ = optc("explain", "lion", "--store", "m=dynamic8")
    assert status == 0 and "optimizer Lion_m_dynamic8:" in out and "\n    storing m: dynamic8\n" in out
    kept = "    m: dynamic8, 8 bits and a scale for 256 numbers: 1.016 bytes per element; off by 0.7 % of the largest of these"
    assert kept in out and "numbers of their own in tensors of less than 4096 elements" in out
    assert kept in optc("explain", "lion", "--store", "m=dynamic8", "-s", "plan")[1]
    out = optc("explain", "adamw", "--store", "m=bf16,v=linear4(64, smallest = 0)")[1]
    assert "m: bf16" in out and "v: linear4(block = 64, smallest = 0), 4 bits and a scale for 64 numbers: 0.5625 bytes" in out


def test_the_cost_has_the_bytes_of_codes_and_of_their_scales(optc: Command, folder: Path) -> None:
    costs: dict[str, Any] = {}
    for storage in ("fp32", "bf16", "dynamic8", "dynamic4"):
        status, out, _ = optc("explain", "lion", "--store", f"m={storage}", "-s", "cost")
        assert status == 0
        costs[storage] = next(line.split()[4:6] for line in out.splitlines() if line.startswith("    float32"))
    coded = {"dynamic8": ["9.0156", "5.0156"], "dynamic4": ["8.5312", "4.5312"]}
    assert costs == {"fp32": ["12", "8"], "bf16": ["10", "6"], **coded}
    small = optc("explain", "lion", "--store", "m=dynamic8", "-s", "cost")[1].split("step: not numel_ge_4096")[1]
    assert "float32   float32   float32       1      12          8" in small


@pytest.mark.parametrize("stage", ["parse", "program", "update", "plan", "latex", "cost", "torch", "native", "triton"])
def test_every_stage_is_that_of_the_stored_spec(optc: Command, folder: Path, stage: str) -> None:
    status, out, _ = optc("explain", "lion", "--store", "m=dynamic8", "-s", stage)
    assert status == 0
    words = {
        "parse": "Kept",
        "program": "Lion_m_dynamic8",
        "plan": "dynamic8",
        "native": "dynamic8_codes",
        "triton": "m_scales",
    }
    assert words.get(stage, "") in out
    status, out, _ = optc("explain", "lion", "--store", "m=dynamic8", "-s", stage, "--json")
    assert (status, json.loads(out)["errors"]) == (0, [])


def test_shipped_storages_are_found_by_their_names(optc: Command, folder: Path) -> None:
    assert optc("check", "dynamic8", "rowcol")[:2] == (
        0,
        "ok  specs/storages/dynamic8.opt: storage dynamic8\nok  specs/storages/rowcol.opt: storage rowcol\n",
    )
    assert optc("fmt", "--check", "dynamic8")[0] == 0
    assert optc("fmt", "--stdout", "Linear-4")[1].startswith("storage linear4:\n")


def test_explain_says_what_a_storage_keeps(optc: Command, folder: Path) -> None:
    status, out, _ = optc("explain", "dynamic8")
    assert status == 0 and out.startswith('storage dynamic8:\n    "Signed numbers') and "cite arXiv:2110.02861" in out
    assert out.partition("dynamic8 keeps\n")[2] == (
        "    8 bits and a scale for 256 numbers: 1.016 bytes per number\n"
        "    256 levels from -0.993 to 1 of the largest of the block, 0 among them\n"
        "    numbers that are off by 0.7 % of the largest of the block at most\n"
        "    dynamic8(stochastic): between two levels up or down at random, off by 1.4 % at most; the mean is the number\n"
        "    numbers of their own in tensors of less than 4096 elements\n"
        "\n"
        "    |x|/largest         levels above 0   off by at most\n"
        "    0.1 to 1                        65   6.2 % of x\n"
        "    0.01 to 0.1                     32   11 % of x\n"
        "    0.001 to 0.01                   16   18 % of x\n"
        "    0.0001 to 0.001                  8   28 % of x\n"
        "    1e-5 to 0.0001                   4   47 % of x\n"
        "    1e-6 to 1e-5                     2   71 % of x\n"
        "    5.5e-7 to 1e-6                   1   45 % of x\n"
        "    what is smaller is kept as 0 or 5.5e-07\n"
    )
    assert json.loads(optc("explain", "dynamic8", "--json")[1]) == {"errors": [], "stage": "overview", "text": out[:-1]}
    out = optc("explain", "linear4")[1]
    assert "0 not among them" in out and "what is smaller is kept as 0.062" in out and "0.5312 bytes per number" in out
    out = optc("explain", "udynamic8")[1]
    assert "what is negative is kept as 0\n" in out
    out = optc("explain", "rowcol")[1]
    assert "row: one number per row, in the dtype of the arithmetic\n    col: one number per column" in out
    (folder / "quanta.opt").write_text(QUANTA, encoding="utf-8")
    assert "16 levels from -0.875 to 1 of the largest" in optc("explain", "quanta.opt")[1]
    (folder / "wrong.opt").write_text(QUANTA.replace("16", "17"), encoding="utf-8")
    assert "wrong.opt:2:13: error: `codes` must be 2, 16 or 256" in "".join(map(str, optc("explain", "wrong.opt")))


# --- list ---------------------------------------------------------------------------------------------------------------------


def test_list_has_the_storages_and_the_bytes_of_optimizers_that_use_them(optc: Command, folder: Path) -> None:
    found = json.loads(optc("list", "--json")[1])
    storages = {s["name"]: s for s in found["storages"]}
    assert set(CASTS) <= set(storages) and {"dynamic8", "udynamic8", "dynamic4", "linear4", "e4m3"} <= set(storages)
    assert all(set(storage) == {"name", "bytes", "text", "cites"} for storage in storages.values())
    bytes_of = {name: s["bytes"] for name, s in storages.items()}
    assert (bytes_of["bf16"], bytes_of["fp64"], bytes_of["dynamic8"], bytes_of["linear4"]) == (2, 8, 1.015625, 0.53125)
    assert storages["dynamic8"]["cites"] == ["arXiv:2110.02861"] and "eight bits" in storages["dynamic8"]["text"]
    optimizers = {o["name"]: o for o in found["optimizers"]}
    assert not set(storages) & set(optimizers), "storages are no optimizers"
    wanted = {"adamw": 8, "adamw_8bit": 2.03125, "adamw_4bit": 1.0625, "adamw_bf16": 4, "lion_8bit": 1.015625}
    assert {name: optimizers[name]["state_bytes"] for name in wanted} == wanted


# --- optc.compile -------------------------------------------------------------------------------------------------------------


def test_compile_takes_storages_by_state() -> None:
    kind = library.compile("lion", storing={"m": "dynamic8(block = 128, smallest = 0)"})
    assert kind.__name__ == "Lion_m_dynamic8_block_128_smallest_0"
    (state,) = kind.schema.states
    assert isinstance(state.storage, Codebook) and (state.storage.block, state.storage.smallest) == (128, 0)
    assert library.compile("lion", storing={"m": "dynamic8(block = 128, smallest = 0)"}) is kind
    assert library.compile("lion", ["lookahead"], {"m": "dynamic8(block = 128, smallest = 0)"}) is not kind
    assert library.compile("lion", storing={}) is library.compile("lion") is library.compile("lion", storing=None)
    p = torch.nn.Parameter(torch.ones(5))
    optimizer = kind([p], backend="torch")
    p.grad = torch.ones(5)
    optimizer.step()
    assert optimizer.state[p]["exp_avg"].dtype == torch.uint8
    assert "storing m: dynamic8(block = 128, smallest = 0)" in kind.spec_text


@pytest.mark.parametrize(
    ("storing", "code"),
    [
        ({"m": "dynamik8"}, "unknown-storage"),
        ({"exp_avg": "dynamic8"}, "unknown-state"),
        ({"m": "udynamic8"}, "unsigned-storage"),
        ({"m": ""}, None),
        ({"": "dynamic8"}, None),
        ({"m": "dynamic8, m: bf16"}, "duplicate-name"),
    ],
)
def test_compile_says_what_is_wrong(storing: dict[str, str], code: str | None) -> None:
    with pytest.raises(library.SpecError) as caught:
        library.compile("lion", storing=storing)
    assert code is None or [d.code for d in caught.value.diagnostics] == [code]
