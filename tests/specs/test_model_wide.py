"""Specs with numbers of the whole model, on models of several parameters in two groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from optc.cli.specs import spec_of
from optc.compiler.interpret import Oracle
from optc.dsl.check import check
from optc.dsl.program import Program
from optc.dsl.source import Source
from tests import reference_loops_loss as losses_loops
from tests import reference_loops_model as loops
from tests import references_model as libraries
from tests.oracle import program_of
from tests.problems import gradients, losses
from tests.reference_cases import (
    TOLERANCE,
    Array,
    Case,
    Hypers,
    Trace,
    difference,
    float64_by_default,
    giving,
    library_states,
)
from tests.reference_loops_model import ModelProblem, ModelTrace, run_loop
from tests.references_loss import CASES as OF_THE_LOSS
from tests.references_model import CASES as OF_THE_MODEL
from tests.references_model import FREE, B, C

CASES = (*OF_THE_MODEL, *OF_THE_LOSS)
SHAPES: tuple[tuple[int, ...], ...] = ((4, 3), (), (5,))
GROUPS = (0, 0, 1)
STEPS = 14
NOTHING = {(0, 1), (3, 0), (8, 2)}
"""Steps in which a parameter has no gradient: the scalar's first gradient comes in the second step."""

Reference = Callable[[Sequence[Hypers], ModelProblem], ModelTrace]


def model_problem(zero_step: int) -> ModelProblem:
    """Gradients that drift, so that distances grow; all of them are zero in one step. lr changes from step to step."""
    rng = np.random.default_rng(zero_step)
    drifts = [np.asarray(rng.normal(size=shape)) for shape in SHAPES]
    noise = [gradients(rng, shape, STEPS, 0.2) for shape in SHAPES]
    grads: list[tuple[Array | None, ...]] = []
    for step in range(STEPS):
        scale = 0.0 if step == zero_step else 1.0
        here = [scale * (drift + 0.2 * of_steps[step]) for drift, of_steps in zip(drifts, noise, strict=True)]
        grads.append(tuple(None if (step, place) in NOTHING else g for place, g in enumerate(here)))
    thetas = tuple(np.asarray(rng.normal(size=shape)) for shape in SHAPES)
    factors = tuple(1 + 0.3 * math.sin(step) for step in range(STEPS))
    return ModelProblem(thetas, tuple(grads), factors, GROUPS, losses(rng, STEPS))


PROBLEMS = {"zeros in the middle": model_problem(6), "zeros at first": model_problem(0)}


def run_model(program: Program, groups: Sequence[Hypers], problem: ModelProblem) -> ModelTrace:
    """What the oracle does with a model."""
    oracle = Oracle(program)
    params = oracle.new_parameters(problem.thetas)
    kept = []
    for grads, factor, loss in zip(problem.gradients, problem.lr_factors, problem.losses, strict=True):
        taking_part = [place for place, g in enumerate(grads) if g is not None]
        hypers = [groups[problem.groups[place]] for place in taking_part]
        oracle.step_together(
            [params[place] for place in taking_part],
            [g for g in grads if g is not None],
            [{**h, "lr": h["lr"] * factor} for h in hypers],
            loss,
        )
        kept.append(tuple(param.theta.copy() for param in params))
    keys = {state.name: state.key for state in program.states}
    states = tuple({keys[name]: np.asarray(value) for name, value in param.states.items()} for param in params)
    return ModelTrace(tuple(kept), states, {keys[name]: float(value) for name, value in params[0].model.items()})


def run_model_library(
    factory: Callable[..., torch.optim.Optimizer],
    rename: Hypers,
    clip: float | None,
    groups: Sequence[Hypers],
    problem: ModelProblem,
) -> ModelTrace:
    """What a library does; `rename` says what it calls a hyper, and `clip` bounds the norm of all gradients before the step."""
    with float64_by_default():
        parameters = [torch.nn.Parameter(torch.tensor(theta)) for theta in problem.thetas]
        given = [{rename.get(key, key): value for key, value in group.items()} for group in groups]
        split = [[p for p, place in zip(parameters, problem.groups, strict=True) if place == n] for n in range(len(groups))]
        common = {key: value for key, value in given[0].items() if given[1].get(key) == value}
        optimizer = factory([{"params": params, **group} for params, group in zip(split, given, strict=True)], **common)
        kept = []
        for grads, factor, loss in zip(problem.gradients, problem.lr_factors, problem.losses, strict=True):
            for group, hypers in zip(optimizer.param_groups, groups, strict=True):
                group["lr"] = hypers["lr"] * factor
            for parameter, g in zip(parameters, grads, strict=True):
                parameter.grad = None if g is None else torch.tensor(g)
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step(giving(torch.tensor(loss)))
            kept.append(tuple(parameter.detach().numpy().copy() for parameter in parameters))
    return ModelTrace(tuple(kept), tuple(library_states(optimizer, parameter) for parameter in parameters), {})


def distance(found: ModelTrace, expected: ModelTrace) -> float:
    """The largest relative error of θ after every step and of what both keep. A library shows the model's numbers as states."""
    errors = []
    ours_of_model, theirs_of_model = ({k: np.asarray(v) for k, v in trace.model.items()} for trace in (found, expected))
    for place in range(len(SHAPES)):
        ours, theirs = {**found.states[place], **ours_of_model}, {**expected.states[place], **theirs_of_model}
        assert set(ours) <= set(theirs)
        left = Trace(tuple(thetas[place] for thetas in found.thetas), ours)
        errors.append(difference(left, Trace(tuple(thetas[place] for thetas in expected.thetas), theirs)))
    return max(errors)


def library(factory: Callable[..., torch.optim.Optimizer], **rename: str) -> Reference:
    return partial(run_model_library, factory, rename, None)


def loop(step: loops.Step) -> Reference:
    return partial(run_loop, step)


@dataclass(frozen=True, slots=True)
class Row:
    """A spec with hypers of all groups and of each, and what it is compared with."""

    spec: str
    reference: Reference
    shared: dict[str, Any]
    first: dict[str, Any]
    second: dict[str, Any]

    @property
    def groups(self) -> tuple[Hypers, Hypers]:
        return {**self.shared, **self.first}, {**self.shared, **self.second}


DECOUPLED = {"decoupled_weight_decay": "weight_decouple"}
LION = partial(libraries.DAdaptLion, weight_decouple=True)
ROWS = (
    Row(f"{FREE}/dadapt_adam", library(libraries.DAdaptAdam), {"lr": 1.0}, {"eps": 1e-6}, {"weight_decay": 0.1}),
    Row(
        f"{FREE}/dadapt_adam",
        library(libraries.DAdaptAdam, **DECOUPLED),
        {"lr": 0.5, "betas": B, "bias_correction": True, "growth_rate": 1.3, "d0": 0.01},
        {"weight_decay": 0.3},
        {"weight_decay": 0.3, "decoupled_weight_decay": True},
    ),
    Row(f"{FREE}/dadapt_sgd", library(libraries.DAdaptSGD), {"lr": 1.0}, {"momentum": 0.0}, {"momentum": 0.9}),
    Row(
        f"{FREE}/dadapt_sgd",
        library(libraries.DAdaptSGD),
        {"lr": 1.0, "growth_rate": 1.3, "momentum": 0.5, "d0": 0.1},
        {},
        {"weight_decay": 0.1},
    ),
    Row(
        f"{FREE}/dadapt_adagrad",
        library(libraries.DAdaptAdaGrad),
        {"lr": 1.0, "d0": 0.1},
        {"eps": 1e-6},
        {"eps": 0.1, "momentum": 0.9},
    ),
    Row(
        f"{FREE}/dadapt_adagrad",
        library(libraries.DAdaptAdaGrad),
        {"lr": 1.0, "d0": 0.1, "eps": 0.0, "growth_rate": 1.2},
        {},
        {"weight_decay": 0.1},
    ),
    Row(f"{FREE}/dadapt_lion", library(LION), {"lr": 1.0, "betas": B, "d0": 0.01}, {}, {"weight_decay": 0.3}),
    Row(f"{FREE}/dadapt_adan", loop(loops.dadapt_adan), {"betas": C, "d0": 0.01}, {"lr": 1.0}, {"lr": 0.5, "no_prox": True}),
    Row(f"{FREE}/prodigy", library(libraries.Prodigy), {"lr": 1.0}, {"eps": 1e-6}, {"weight_decay": 0.1}),
    Row(
        f"{FREE}/prodigy",
        library(libraries.Prodigy),
        {"lr": 0.5, "betas": B, "beta3": 0.9, "bias_correction": True, "d_coef": 2.0, "growth_rate": 1.3, "d0": 0.01},
        {"safeguard_warmup": True},
        {},
    ),
    Row(
        f"{FREE}/prodigy",
        loop(loops.prodigy),
        {"betas": B, "weight_decay": 0.1, "d0": 0.01},
        {"lr": 1.0},
        {"lr": 0.3, "decoupled_weight_decay": False},
    ),
    Row(f"{FREE}/prodigy", library(libraries.AuthorsProdigy), {"lr": 1.0, "d0": 0.01}, {"eps": 1e-6}, {"slice_p": 2}),
    Row(
        f"{FREE}/prodigy",
        library(libraries.AuthorsProdigy),
        {"lr": 0.5, "betas": B, "d0": 0.01, "growth_rate": 1.3},
        {"slice_p": 5, "weight_decay": 0.1},
        {"slice_p": 11},
    ),
    Row(f"{FREE}/lion_prodigy", library(libraries.LionProdigy), {"lr": 1.0, "d0": 0.01}, {}, {"weight_decay": 0.1}),
    Row(f"{FREE}/lion_prodigy", library(libraries.LionProdigy), {"lr": 1.0, "d0": 0.01}, {"slice_p": 3}, {"slice_p": 11}),
    Row(f"{FREE}/lion_prodigy", loop(loops.lion_prodigy), {"d_limiter": False, "d0": 0.01}, {"lr": 1.0}, {"lr": 0.3}),
    Row(
        f"{FREE}/lion_prodigy",
        loop(loops.lion_prodigy),
        {"d_limiter": False, "growth_rate": 1.2, "d0": 0.1},
        {"lr": 1.0},
        {"lr": 0.3},
    ),
    Row(f"{FREE}/dog", loop(loops.dog), {"reps_rel": 0.01}, {"lr": 1.0}, {"lr": 0.5, "weight_decay": 0.1}),
    Row(f"{FREE}/adgd", loop(loops.adgd), {"first": 0.01}, {"lr": 1.0}, {"lr": 0.5}),
    Row("adaptive/adagrad_norm", loop(loops.adagrad_norm), {"b0": 0.5}, {"lr": 1.0}, {"lr": 0.5, "weight_decay": 0.1}),
    Row("adam/adams", loop(loops.adams), {"weight_decay": 0.1}, {"lr": 0.1, "betas": B}, {"lr": 0.05, "amsgrad": True}),
    Row("adam/avagrad", loop(loops.avagrad), {}, {"lr": 0.1, "betas": B}, {"lr": 0.05, "weight_decay": 0.1}),
    Row("adam/avagrad", loop(loops.avagrad), {"lagged": True}, {"lr": 0.1, "eps": 0.3}, {"lr": 0.05}),
    Row(f"{FREE}/alig", loop(losses_loops.alig), {"max_norm": 3.0}, {"lr": 0.05, "momentum": 0.9}, {"lr": 0.02}),
    Row(f"{FREE}/sps", loop(losses_loops.sps), {"c": 0.2, "f_star": 1.0}, {"lr": 0.1}, {"lr": 0.02}),
    Row(f"{FREE}/sps", loop(losses_loops.sps), {"smoothing": 1.2, "eta0": 0.01}, {"lr": 1.0}, {"lr": 0.5}),
    Row("adam/adagc", loop(losses_loops.adagc), {"lambda_abs": 1.0, "warmup_steps": 6}, {"lr": 0.1}, {"lr": 0.05, "eps": 0.1}),
    Row("momentum/lomo", loop(losses_loops.lomo), {"clip_grad_norm": 2.0}, {"lr": 0.1}, {"lr": 0.05, "clip_grad_value": 0.3}),
    Row("adaptive/emonavi", loop(losses_loops.emonavi), {}, {"lr": 0.1, "use_shadow": True}, {"lr": 0.05, "betas": B}),
    Row("sign/emolynx", loop(losses_loops.emolynx), {}, {"lr": 0.1, "use_shadow": True}, {"lr": 0.05, "betas": B}),
    Row("factored/emofact", loop(losses_loops.emofact), {}, {"lr": 0.1, "use_shadow": True}, {"lr": 0.05, "betas": B}),
    Row("momentum/adai", loop(loops.adai), {"weight_decay": 0.1}, {"lr": 0.1, "eps": 0.1}, {"lr": 0.05, "dampening": 0.5}),
)  # fmt: skip


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.spec} {row.shared}")
def test_model_of_two_groups_matches_reference(row: Row, name: str) -> None:
    """θ of every parameter after every step, and at the end the states and the numbers of the model."""
    found = run_model(program_of(row.spec), row.groups, PROBLEMS[name])
    expected = row.reference(row.groups, PROBLEMS[name])
    assert distance(found, expected) <= TOLERANCE
    if "d" in found.model:
        assert found.model["d"] > 2 * row.shared.get("d0", 1e-6), "the estimate has not grown: the problem is too easy"


def test_every_spec_with_numbers_of_the_model_is_here() -> None:
    assert {row.spec for row in ROWS} == {case.spec for case in CASES}


OF_TENSORS = {"adam/adagc"}
"""They have numbers per tensor as well: how a model is cut into parameters matters."""
ONE_VECTOR = [case for case in CASES if case.spec not in OF_TENSORS and case.hypers.get("slice_p", 1) == 1]


@pytest.mark.parametrize("case", ONE_VECTOR, ids=lambda case: case.label)
def test_model_is_one_long_vector(case: Case) -> None:
    """Two parameters do what their concatenation does: how a model is cut into parameters means nothing.

    Where elements are picked it means something: the first one of every parameter is.
    """
    rng = np.random.default_rng(3)
    theta, grads, cut = rng.normal(size=7), gradients(rng, (7,), STEPS, 0.2), 3
    grads = tuple(g + 1 for g in grads)
    factors = (1.0,) * STEPS
    given = losses(rng, STEPS)
    whole = ModelProblem((theta,), tuple((g,) for g in grads), factors, (0,), given)
    parts = ModelProblem((theta[:cut], theta[cut:]), tuple((g[:cut], g[cut:]) for g in grads), factors, (0, 0), given)
    found, expected = (run_model(program_of(case.spec), (case.hypers,), problem) for problem in (parts, whole))
    for ours, theirs in zip(found.thetas, expected.thetas, strict=True):
        np.testing.assert_allclose(np.concatenate(ours), theirs[0], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("base", "reference", "groups"),
    [
        ("AdamW", torch.optim.AdamW, ({"lr": 0.1, "weight_decay": 0.3}, {"lr": 0.05, "weight_decay": 0.0})),
        ("SGD", torch.optim.SGD, ({"lr": 0.1, "momentum": 0.9}, {"lr": 0.05, "momentum": 0.0})),
        ("DAdaptSGD", libraries.DAdaptSGD, ({"lr": 1.0, "momentum": 0.0}, {"lr": 1.0, "momentum": 0.9})),
    ],
)
@pytest.mark.parametrize("max_norm", [0.5, 3.5, 1e3])
def test_clipping_by_the_global_norm_is_that_of_torch(
    base: str, reference: Callable[..., torch.optim.Optimizer], groups: tuple[Hypers, Hypers], max_norm: float
) -> None:
    """Every gradient is clipped, some, or none: the norms are between 2.8 and 6.1."""
    expanded = spec_of(Source("<test>", f"optimizer Clipped = {base} + clip_global_norm({max_norm})\n"), ())
    problem = PROBLEMS["zeros in the middle"]
    found = run_model(check(expanded.spec, expanded.source), groups, problem)
    assert distance(found, run_model_library(reference, {}, max_norm, groups, problem)) <= TOLERANCE
