"""The oracle as a runner, and the shipped specs as checked programs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from optc.compiler.interpret import Oracle
from optc.dsl.check import check
from optc.dsl.parse import parse
from optc.dsl.program import Program
from optc.dsl.read import read
from tests.references import Hypers, Problem, Trace

SPECS_FOLDER = Path(__file__).parents[1] / "specs"

WRITTEN_OUT = tuple(p for p in sorted(SPECS_FOLDER.rglob("*.opt")) if "\n    step:" in p.read_text(encoding="utf-8"))
"""The spec files of optimizers that are not composed of others."""


def spec_path(spec: str) -> Path:
    """The file of a shipped spec (`adam/adamw`)."""
    return SPECS_FOLDER / f"{spec}.opt"


@cache
def program_of(spec: str) -> Program:
    """A shipped spec, checked."""
    source = read(spec_path(spec))
    return check(parse(source), source)


def run_program(program: Program, hypers: Hypers, problem: Problem) -> Trace:
    """What the oracle does with a program. Calls of entries that the program does not have are left out."""
    entries = {procedure.name for procedure in program.procedures[1:]}
    oracle = Oracle(program, hypers)
    parameter = oracle.new_parameter(problem.theta)
    thetas = []
    for t, lr, g, calls in problem.steps(hypers["lr"]):
        oracle.step(parameter, g, {"lr": lr}, problem.loss(t))
        for call in calls:
            if call.entry in entries:
                oracle.enter(call.entry, parameter, call.inputs, {"lr": lr})
        thetas.append(parameter.theta.copy())
    keys = {state.name: state.key for state in program.states}
    states = {**parameter.states, **parameter.model}
    return Trace(tuple(thetas), {keys[name]: np.asarray(value) for name, value in states.items()})


def run_oracle(spec: str, hypers: Hypers, problem: Problem) -> Trace:
    """The oracle as a `Runner`."""
    return run_program(program_of(spec), hypers, problem)
