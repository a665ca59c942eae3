"""Our optimizers with our modifiers do what adv_optm's optimizers do with their flags, in every cell of its feature matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import metadata
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

import optc
from optc.cli.specs import source, spec_of
from optc.compiler.compose.library import shipped
from optc.dsl.check import check
from optc.dsl.errors import SpecError
from optc.dsl.program import Program
from tests.matrix.runners import float64
from tests.modifiers.adv_cells import ADAM, CELLS, EMPTY, EXACT, SUMS, Cell, Empty
from tests.modifiers.together import oracle_together, run_together
from tests.oracle import run_oracle, run_program
from tests.problems import random_problem
from tests.reference_cases import Array, Problem, Trace, difference, float64_by_default, library_states

LR, STEPS = 0.01, 10
NUMBERS = ("d", "d_max", "d_numerator")
"""What adv_optm keeps for the whole model, in its groups."""
FLAT = ("s", "p0")
"""What adv_optm keeps in one dimension."""
FEATURES = ("AdEMAMix", "Simplified_AdEMAMix", "OrthoGrad", "Grams", "Cautious", "atan2")
SHAPES: tuple[tuple[int, ...], ...] = ((5, 7), (11,), (3, 4, 2), ())


def problems(cell: Cell | None = None) -> list[Problem]:
    """One parameter per number of dimensions, lr changing every step. Of one number OrthoGrad leaves but rounding errors."""
    zeros = 0.0 if cell is not None and cell.dense else 0.3
    shapes = [s for s in SHAPES if s or cell is None or "OrthoGrad" not in cell.features]
    given = [random_problem(shape, zeros=zeros if shape else 0.0, schedule=True, steps=STEPS) for shape in shapes]
    if cell is not None and cell.drift:
        given = [replace(p, gradients=tuple(np.where(g == 0.0, 0.0, 1.0 + 0.3 * g) for g in p.gradients)) for p in given]
    return [replace(problem, lr_factors=given[0].lr_factors) for problem in given]


def run_reference(cell: Cell, given: Sequence[Problem]) -> list[Trace]:
    """adv_optm's class in float64, nothing of it rounded to float32, with `before` changing its settings."""
    thetas: list[list[Array]] = [[] for _ in given]
    parameters = [torch.nn.Parameter(torch.tensor(problem.theta, dtype=torch.float64)) for problem in given]
    with float64_by_default(), patch.object(torch.Tensor, "float", torch.Tensor.double):
        optimizer = cell.reference(parameters, **{**cell.arguments, "lr": cell.lr})
        for steps in zip(*(problem.steps(cell.lr) for problem in given), strict=True):
            t, optimizer.param_groups[0]["lr"], *_ = steps[0]
            if cell.before is not None:
                cell.before(optimizer, t)
            for parameter, (_, _, g, _) in zip(parameters, steps, strict=True):
                parameter.grad = torch.tensor(g)
            optimizer.step()
            for parameter, kept in zip(parameters, thetas, strict=True):
                kept.append(float64(parameter))
        states = [library_states(optimizer, parameter) for parameter in parameters]
    numbers = {key: np.asarray(optimizer.param_groups[0][key]) for key in NUMBERS if key in optimizer.param_groups[0]}
    traces = []
    for kept, of_parameter in zip(thetas, states, strict=True):
        shaped = {key: of_parameter[key].reshape(-1) for key in FLAT if key in of_parameter}
        average = cell.factor * of_parameter["exp_avg"]
        traces.append(Trace(tuple(kept), {**of_parameter, **shaped, **numbers, "exp_avg": average}))
    return traces


def worst(found: Sequence[Trace], expected: Sequence[Trace]) -> float:
    return max(difference(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def spec_in(folder: Path, cell: Cell | Empty) -> str | Path:
    """The cell's spec as `optc build` takes it: a shipped name, or a file, with the cell's own modifiers beside it."""
    if cell.spec in shipped():
        return cell.spec
    (folder / "base.opt").write_text(cell.spec, encoding="utf-8")
    if isinstance(cell, Cell) and cell.beside:
        (folder / "beside.opt").write_text(cell.beside, encoding="utf-8")
    return folder / "base.opt"


def program_of(spec: str | Path, cell: Cell | Empty) -> Program:
    expanded = spec_of(source(str(spec)), cell.modifiers)
    return check(expanded.spec, expanded.source)


def hypers_of(given: Mapping[str, Any], program: Program, lr: float = LR) -> dict[str, Any]:
    """With lr, and without eps where atan2 has taken it away."""
    known = {hyper.key for hyper in program.hypers}
    assert set(given) - known <= {"eps"}
    return {"lr": lr} | {name: value for name, value in given.items() if name in known}


def matrix() -> dict[str, dict[str, bool]]:
    """The feature matrix in the package's own description: by optimizer and feature."""
    text = str(metadata("adv_optm").get_payload())  # type: ignore[attr-defined]  # an email.message.Message
    lines = text[text.index("| Feature | Adam_Adv") :].splitlines()
    head, *rows = [[word.strip(" *") for word in line.strip("|").split("|")] for line in lines[: lines.index("")]]
    marks = {row[0]: dict(zip(head[1:], (mark == "✓" for mark in row[1:]), strict=True)) for row in rows[1:]}
    return {optimizer: {feature: marks[feature][optimizer] for feature in FEATURES} for optimizer in head[1:]}


def test_every_cell_of_the_matrix_is_here() -> None:
    known = {(o, f): marked for o, row in matrix().items() for f, marked in row.items()}
    assert len(known) == 5 * len(FEATURES)
    assert {(c.optimizer, c.features[0]) for c in CELLS if len(c.features) == 1} == {key for key, m in known.items() if m}
    assert set(EMPTY) == {key for key, marked in known.items() if not marked}
    assert all(known[c.optimizer, f] for c in CELLS for f in c.features)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.label)
def test_a_marked_cell_is_adv_optms(cell: Cell, tmp_path: Path) -> None:
    spec = spec_in(tmp_path, cell)
    cls, program = optc.compile(spec, cell.modifiers), program_of(spec, cell)
    given = problems(cell)
    found = run_together(cls, program, hypers_of(cell.hypers, program, cell.lr), given)
    assert worst(found, run_reference(cell, given)) <= EXACT
    if cell.optimizer == "Prodigy_Adv":
        assert set(NUMBERS) <= set(found[0].states) and found[0].states["d"] > 2 * cell.hypers["d0"], "it finds a step size"


def test_every_feature_shows(tmp_path: Path) -> None:
    for cell in (c for c in CELLS if c.modifiers):
        given, spec = problems(cell)[:1], spec_in(tmp_path, cell)
        plain, program = program_of(spec, replace(cell, modifiers=())), program_of(spec, cell)
        found, bare = (oracle_together(p, hypers_of(cell.hypers, p, cell.lr), given) for p in (program, plain))
        assert worst(found, bare) > 1e-4, cell.label


@pytest.mark.parametrize("cell", [c for c in CELLS if c.before is not None], ids=lambda cell: cell.label)
def test_where_a_setting_takes_a_deviation_out_there_is_one(cell: Cell, tmp_path: Path) -> None:
    unchanged = replace(cell, before=None)
    given, program = problems(cell), program_of(spec_in(tmp_path, cell), cell)
    found = oracle_together(program, hypers_of(cell.hypers, program, cell.lr), given)
    assert worst(found, run_reference(cell, given)) <= EXACT
    assert worst(found, run_reference(unchanged, given)) > 1e-3


@pytest.mark.parametrize("key", EMPTY, ids=" ".join)
def test_an_empty_cell_is_built_where_it_has_a_meaning(key: tuple[str, str]) -> None:
    cell = EMPTY[key]
    if cell.code is not None:
        with pytest.raises(SpecError) as caught:
            program_of(cell.spec, cell)
        assert cell.code in {d.code for d in caught.value.diagnostics}
        return
    cls, program = optc.compile(cell.spec, cell.modifiers), program_of(cell.spec, cell)
    hypers = hypers_of(ADAM if cell.spec == "adamw" else SUMS, program)
    assert worst(run_together(cls, program, hypers, problems()), oracle_together(program, hypers, problems())) <= EXACT


def test_adam_with_accumulated_is_simplified_ademamix() -> None:
    cell = EMPTY["Adam_Adv", "Simplified_AdEMAMix"]
    for problem in problems():
        found = run_program(program_of(cell.spec, cell), {**ADAM, "lr": LR}, problem)
        expected = run_oracle("adam/simplified_ademamix", {**SUMS, "bias_correction1": False, "lr": LR}, problem)
        assert difference(found, expected) <= EXACT
