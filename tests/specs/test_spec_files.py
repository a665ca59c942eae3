"""The shipped spec files: canonical, documented, and short enough to be read at a glance."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

from optc.dsl.parse import parse
from optc.dsl.program import HyperKind
from optc.dsl.read import read
from optc.dsl.show import format_text, show
from optc.dsl.source import Source
from tests.oracle import SPECS_FOLDER, WRITTEN_OUT, program_of

FILES = WRITTEN_OUT
SPECS = [str(path.relative_to(SPECS_FOLDER).with_suffix("")) for path in FILES]
IN_TORCH = ("SGD", "ASGD", "Rprop", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop")
MAX_LINES = 60
MAX_COLUMNS = 144


def test_there_are_specs() -> None:
    assert len(FILES) >= 23


@pytest.mark.parametrize("path", FILES, ids=SPECS)
def test_file_is_in_canonical_form(path: Path) -> None:
    source = read(path)
    assert format_text(source, mathematical=True) == source.text


@pytest.mark.parametrize("path", FILES, ids=SPECS)
def test_ascii_spelling_is_the_same_program(path: Path) -> None:
    spec = parse(read(path))
    text = show(spec, mathematical=False)
    assert parse(Source(path.name, text)) == spec


@pytest.mark.parametrize("path", FILES, ids=SPECS)
def test_file_is_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < MAX_LINES
    assert max(map(len, lines)) <= MAX_COLUMNS


@pytest.mark.parametrize("spec", SPECS)
def test_spec_is_documented(spec: str) -> None:
    program = program_of(spec)
    assert program.text is not None and program.text.endswith(".") and program.text.count(". ") == 0, "one sentence"
    assert program.cites
    assert program.notes
    for hyper in program.hypers:
        assert hyper.text, f"{hyper.key} has no text"


@pytest.mark.parametrize("spec", SPECS)
def test_names_are_those_of_the_file(spec: str) -> None:
    """File names are snake_case, and class names the same letters (`hn_adam.opt` holds HNAdam; Sophia is its G variant)."""
    stem, name = spec.split("/")[1], program_of(spec).name
    assert stem == stem.lower()
    assert name.lower() in (stem.replace("_", ""), stem.replace("_", "") + "g")


@pytest.mark.parametrize("spec", [s for s in SPECS if s.split("/")[1] in {name.lower() for name in IN_TORCH}])
def test_signature_is_that_of_torch(spec: str) -> None:
    """Where PyTorch has the optimizer, ours takes the same hypers in the same order, with the same defaults."""
    program = program_of(spec)
    parameters = inspect.signature(getattr(torch.optim, program.name)).parameters
    ours = {h.key: h.defaults if h.is_tuple else h.defaults[0] for h in program.hypers}
    theirs = {key: parameters[key].default for key in ours}
    assert ours == theirs
    order = [key for key in parameters if key in ours]
    assert list(ours) == order
    left_out = set(parameters) - set(ours)
    assert left_out <= {"params", "maximize", "foreach", "capturable", "differentiable", "fused"}


@pytest.mark.parametrize("spec", [s for s in SPECS if s.split("/")[1] in {name.lower() for name in IN_TORCH}])
def test_state_keys_are_those_of_torch(spec: str) -> None:
    """With every option on, the states have PyTorch's keys, so that checkpoints go both ways."""
    program = program_of(spec)
    options = {"momentum": 0.5, "amsgrad": True, "centered": True}
    given = {h.key: options[h.key] for h in program.hypers if h.key in options}
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = getattr(torch.optim, program.name)([parameter], **given)
    parameter.grad = torch.ones(3)
    optimizer.step()
    theirs = {key for key, value in optimizer.state[parameter].items() if value is not None} - {"step"}
    assert {state.key for state in program.states} == theirs


@pytest.mark.parametrize("spec", SPECS)
def test_hypers_have_ranges(spec: str) -> None:
    """Step sizes and decay rates are bounded; only a few numbers may be anything."""
    free = {"dampening", "t0", "alpha"}
    for hyper in program_of(spec).hypers:
        if hyper.kind in (HyperKind.REAL, HyperKind.INTEGER) and hyper.bounds is None:
            assert hyper.key in free
