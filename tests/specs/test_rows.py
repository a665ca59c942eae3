"""Specs and modifiers with rows and columns: shapes that the table of all specs lacks, rows of nothing but zeros, and the loops
and compositions against libraries where those compute the published update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import pytorch_optimizer as po
import torch
from pytorch_optimizer.optimizer import adam_mini as po_adam_mini
from pytorch_optimizer.optimizer import lomo as po_lomo
from pytorch_optimizer.optimizer.nero import neuron_mean, neuron_norm

from optc.cli.specs import source, spec_of
from optc.compiler.compose.library import shipped
from optc.compiler.interpret import Oracle
from optc.dsl.check import check
from optc.dsl.errors import SpecError
from optc.dsl.program import Program
from optc.dsl.source import Source
from tests import reference_loops_rows as loops
from tests.oracle import program_of, run_oracle, run_program
from tests.problems import PROBLEMS, random_problem
from tests.reference_cases import TOLERANCE, Array, Case, Hypers, Problem, Trace, difference, float64_by_default, run_library
from tests.references_rows import CASES, RANGER21, factors

B = (0.8, 0.95)


def without_some(problem: Problem) -> Problem:
    """Gradients whose second row and first column are 0 throughout, and that are 0 altogether in the third and fourth step."""

    def emptied(g: Array, step: int) -> Array:
        g = np.where(step in (2, 3), 0.0, g)
        g[1], g[..., 0] = 0.0, 0.0
        return g

    return replace(problem, gradients=tuple(emptied(g, step) for step, g in enumerate(problem.gradients)))


def at_rest(problem: Problem) -> Problem:
    """A start with a second row of zeros, and a first gradient of zeros."""
    theta = problem.theta.copy()
    theta[1] = 0.0
    return replace(problem, theta=theta, gradients=(np.zeros(theta.shape), *problem.gradients[1:]))


STEPS = 8
SHAPED: dict[str, Problem] = {
    "convolution": random_problem((4, 3, 2, 2), zeros=0.2, schedule=True, steps=STEPS),
    "stack of stacks": random_problem((2, 3, 4, 5), steps=STEPS),
    "one row": random_problem((1, 6), steps=STEPS),
    "one column": random_problem((6, 1), steps=STEPS),
    "one entry": random_problem((1, 1), steps=STEPS),
    "zero rows and columns": without_some(random_problem((5, 7), steps=STEPS)),
    "zero planes": without_some(random_problem((3, 4, 2), steps=STEPS)),
    "at rest": at_rest(random_problem((4, 3), steps=STEPS)),
    "nothing moves": replace(PROBLEMS["5x7 dense"], gradients=(np.zeros((5, 7)),) * 4, lr_factors=(1.0,) * 4),
}
UNKNOWN = {"factored/adalite": {"one entry"}}
"""Where a library differs: Adalite's leaves out the trust ratio of a vector of one number, but not of such a matrix."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_oracle_matches_reference_on_shapes(case: Case) -> None:
    for name, problem in SHAPED.items():
        if name in UNKNOWN.get(case.spec, ()):
            continue
        with np.errstate(all="ignore"):
            reference = case.run(problem)
        found = run_oracle(case.spec, case.hypers, problem)
        assert set(found.states) <= set(reference.states), name
        assert difference(found, reference) <= TOLERANCE, name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_zero_gradients_leave_finite_numbers(case: Case) -> None:
    for name in ("zero rows and columns", "zero planes", "at rest", "nothing moves"):
        found = run_oracle(case.spec, case.hypers, SHAPED[name])
        assert all(np.isfinite(value).all() for value in (*found.thetas, *found.states.values())), name


LATE = 40_000


def late_adafactor(program: Program) -> float:
    """How far a program is, in its first step after `LATE` others, from Adafactor's whose step size falls as 1/√t."""
    theta, g = PROBLEMS["11 zeros"].theta, PROBLEMS["11 zeros"].gradients[0]
    v = (LATE + 1) ** -0.8 * (g * g + 1e-30)
    u = g / np.sqrt(v)
    u = u / max(1.0, float(np.sqrt(np.mean(u * u))))
    expected = theta - u * max(1e-3, float(np.sqrt(np.mean(theta * theta)))) / np.sqrt(LATE + 1)
    oracle = Oracle(program)
    param = oracle.new_parameter(theta)
    param.t = LATE
    oracle.step(param, g)
    return difference(Trace((param.theta,), {}), Trace((expected,), {}))


def test_the_relative_step_size_falls_from_the_ten_thousandth_step_on() -> None:
    assert late_adafactor(program_of("factored/adafactor")) <= TOLERANCE


def test_states_of_rows_and_columns_are_as_small_as_they_should_be() -> None:
    program = program_of("factored/came")
    trace = run_program(program, {"lr": 0.01}, SHAPED["stack of stacks"])
    assert trace.states["exp_avg_sq_row"].shape == (2, 3, 4, 1)
    assert trace.states["exp_avg_sq_col"].shape == (2, 3, 1, 5)
    trace = run_oracle("factored/sm3", {"lr": 0.01}, SHAPED["convolution"])
    assert trace.states["accumulator_0"].shape == (4, 1)
    assert trace.states["accumulator_1"].shape == (1, 12)


# --- the loops ----------------------------------------------------------------------------------------------------------------


class InFloat64:
    """PyTorch as a library sees it that computes in float32, which then computes in float64."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


class ModelOf(torch.nn.Module):
    """A module whose only parameter has a name of one's choice."""

    def __init__(self, name: str, parameter: torch.nn.Parameter) -> None:
        super().__init__()
        self.register_parameter(name, parameter)


class AdaLOMO(po.AdaLOMO):
    """AdaLOMO with the gradient given, and not computed from a loss."""

    def __init__(self, params: Any, lr: float, **arguments: Any) -> None:
        super().__init__(ModelOf("weight", params[0]), lr=lr, loss_scale=0.0, **arguments)

    def step(self, closure: Any = None) -> Any:
        self.lr = self.param_groups[0]["lr"]
        self.num_steps += 1
        self.grad_func(0)


def agree(loop: Any, hypers: Hypers, factory: Callable[..., Any], library: Hypers, problem: Problem) -> bool:
    """Whether θ and the factors are the same to 1e-12."""
    thetas, states = loop(hypers, problem)
    theirs = run_library(factory, library, hypers, problem)
    kept = factors(dict(theirs.states), problem.theta.shape)
    states = {key: np.asarray(value) for key, value in states.items()}
    return difference(Trace(tuple(thetas), states), Trace(theirs.thetas, kept)) <= 1e-12


@pytest.mark.parametrize("name", [*PROBLEMS, "convolution", "zero planes"])
def test_adafactor_loop_agrees(name: str) -> None:
    problem = {**PROBLEMS, **SHAPED}[name]
    hypers: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.3, "beta1": 0.8, "clip_threshold": 0.4, "relative_step": False}
    library = {key: value for key, value in hypers.items() if key not in ("beta1", "lr")}
    library |= {"betas": (0.8, 0.999), "momentum_dtype": torch.float64}
    assert agree(loops.adafactor, hypers, po.AdaFactor, library, problem)
    assert not agree(loops.adafactor, {**hypers, "beta1": 0.7}, po.AdaFactor, library, problem)


@pytest.mark.parametrize("name", ["5x7 dense", "5x7 zeros and schedule", "11 zeros"])
def test_adalomo_loop_agrees(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(po_lomo, "torch", InFloat64())
    arguments = {"clip_threshold": 0.4, "decay_rate": -0.6, "weight_decay": 0.3}
    library = {**arguments, "eps1": 1e-4, "eps2": 0.5}
    assert agree(loops.adalomo, {"lr": 0.01, "eps": (1e-4, 0.5), **arguments}, AdaLOMO, library, PROBLEMS[name])


@pytest.mark.parametrize(("blocks", "name"), [("row", "5x7 dense"), ("tensor", "3x4x2 schedule"), ("tensor", "11 zeros")])
def test_adam_mini_loop_agrees(blocks: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's heads are rows, where there are as many."""
    monkeypatch.setattr(po_adam_mini, "torch", InFloat64())

    def factory(params: Any, lr: float, **arguments: Any) -> po.AdamMini:
        named = "q_proj.weight" if blocks == "row" else "other"
        optimizer = po.AdamMini(torch.nn.Linear(1, 1), num_embeds=7, num_heads=7, lr=lr, **arguments)
        optimizer.param_groups.clear()
        heads = {"parameter_per_head": params[0].shape[-1]} if blocks == "row" else {}
        decay = arguments["weight_decay"]
        optimizer.add_param_group({"params": params, "name": named, "weight_decay": decay, "step": 0, **heads})
        return optimizer

    arguments = {"betas": B, "eps": 1e-3, "weight_decay": 0.3}
    problem = PROBLEMS[name]
    thetas, _ = loops.adam_mini({"lr": 0.01, "blocks": blocks, **arguments}, problem)
    theirs = run_library(factory, arguments, {"lr": 0.01}, problem)
    assert difference(Trace(tuple(thetas), {}), Trace(theirs.thetas, {})) <= 1e-12


@pytest.mark.parametrize("arguments", [{}, {"beta": 0.9, "momentum": 0.8, "eps": 1e-3}])
@pytest.mark.parametrize("name", ["5x7 zeros and schedule", "11 zeros"])
def test_sm3_loop_agrees(arguments: dict[str, float], name: str) -> None:
    """With one or two dimensions, where the library has no other vectors than those of rows and columns."""
    assert agree(loops.sm3, {"lr": 0.1, **arguments}, po.SM3, arguments, PROBLEMS[name])


def test_rowwise_adagrad_loop_is_adagrad_with_one_column() -> None:
    arguments = {"eps": 1e-3, "initial_accumulator_value": 0.5, "weight_decay": 0.1}
    for problem in (SHAPED["one column"], PROBLEMS["11 zeros"]):
        assert agree(loops.rowwise_adagrad, {"lr": 0.05, **arguments}, torch.optim.Adagrad, arguments, problem)


# --- modifiers and compositions -----------------------------------------------------------------------------------------------

MODIFIED = {**PROBLEMS, **{name: SHAPED[name] for name in ("convolution", "one row", "zero rows and columns", "at rest")}}


def composed(text: str, hypers: Hypers, problem: Problem) -> Trace:
    """What the oracle does with a composition, or with a shipped one by its name."""
    expanded = spec_of(source(text) if text in shipped() else Source("<composition>", f"optimizer Composed = {text}\n"), ())
    return run_program(check(expanded.spec, expanded.source), hypers, problem)


Change = Callable[[torch.Tensor, torch.Tensor], None]


class Changed(torch.optim.AdamW):
    """AdamW with the gradient changed before each step and the parameter after it, in place, by the parameter and that."""

    def __init__(self, params: Any, before: Change | None = None, after: Change | None = None, **arguments: Any) -> None:
        super().__init__(params, **arguments)
        self.changes = (before, after)

    def step(self, closure: Any = None) -> Any:
        before, after = self.changes
        parameter = self.param_groups[0]["params"][0]
        with torch.no_grad():
            if before is not None:
                before(parameter, parameter.grad)
            loss = super().step(closure)
            if after is not None:
                after(parameter, parameter.grad)
        return loss


def centralized(parameter: torch.Tensor, gradient: torch.Tensor) -> None:
    po.optimizer.gradient_centralization.centralize_gradient(gradient)


def clipped(parameter: torch.Tensor, gradient: torch.Tensor) -> None:
    """The library has another unit than rows where there are three dimensions: those are seen as two."""
    seen = (len(parameter), -1) if parameter.ndim == 3 else parameter.shape
    gradient.copy_(po.agc(parameter.reshape(seen), gradient.reshape(seen), 0.5, 0.3).reshape(parameter.shape))


def shortened(parameter: torch.Tensor, gradient: torch.Tensor) -> None:
    if parameter.ndim >= 2:
        lengths = torch.linalg.vector_norm(parameter.flatten(1), dim=1)
        parameter.mul_(torch.where(lengths > 0.9, 0.9 / lengths, 1.0).reshape(-1, *[1] * (parameter.ndim - 1)))


def balanced(parameter: torch.Tensor, gradient: torch.Tensor) -> None:
    if parameter.ndim >= 2:
        parameter.sub_(neuron_mean(parameter))
        parameter.div_(neuron_norm(parameter).add_(1e-3))


CHANGES: dict[str, tuple[Change | None, Change | None]] = {
    "AdamW + centralize": (centralized, None),
    "AdamW + agc(share = 0.3, least = 0.5)": (clipped, None),
    "AdamW + max_norm(0.9)": (None, shortened),
    "AdamW + balanced(1e-3)": (None, balanced),
}


@pytest.mark.parametrize("text", CHANGES)
def test_modifier_matches_library(text: str) -> None:
    before, after = CHANGES[text]
    arguments = {"betas": B, "eps": 1e-3, "weight_decay": 0.1}
    for name, problem in MODIFIED.items():
        reference = run_library(partial(Changed, before=before, after=after), arguments, {"lr": 0.05}, problem)
        found = composed(text, {"lr": 0.05, **arguments}, problem)
        assert difference(found, reference) <= TOLERANCE, name
    plain = composed("AdamW", {"lr": 0.05, **arguments}, PROBLEMS["5x7 dense"])
    assert difference(composed(text, {"lr": 0.05, **arguments}, PROBLEMS["5x7 dense"]), plain) > 1e-3


def test_ranger_matches_library() -> None:
    for hypers in ({"betas": (0.9, 0.99), "weight_decay": 0.3}, {"eps": 1e-3}):
        for name, problem in MODIFIED.items():
            reference = run_library(po.Ranger, {**hypers, "degenerated_to_sgd": True}, {"lr": 0.05}, problem)
            found = composed("ranger", {"lr": 0.05, **hypers}, problem)
            states = {**reference.states, "lookahead_slow": reference.states["slow_buffer"]}
            assert set(found.states) <= set(states)
            assert difference(found, Trace(reference.thetas, states)) <= TOLERANCE, name


def test_ranger21_matches_library_over_a_whole_model() -> None:
    """Its decay is that of the second moment over all parameters."""
    problems = [PROBLEMS[name] for name in ("5x7 dense", "11 zeros", "scalar zeros and schedule")] + [SHAPED["convolution"]]
    expanded = spec_of(source("ranger21"), ())
    hypers = {"lr": 0.05, "weight_decay": 0.9, "agc_share": 0.3, "agc_least": 0.5, "lookahead_k": 3, "lookahead_alpha": 0.7}
    oracle = Oracle(check(expanded.spec, expanded.source), hypers)
    ours = oracle.new_parameters([problem.theta for problem in problems])
    library: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.9, "agc_clipping_value": 0.3, "agc_eps": 0.5}
    library |= {"lookahead_merge_time": 3, "lookahead_blending_alpha": 0.7, **RANGER21}
    with float64_by_default():
        theirs = [torch.nn.Parameter(torch.tensor(problem.theta)) for problem in problems]
        optimizer = po.Ranger21(theirs, **library)
        for gradients in zip(*(problem.gradients[:STEPS] for problem in problems), strict=True):
            oracle.step_together(ours, gradients)
            for parameter, gradient in zip(theirs, gradients, strict=True):
                parameter.grad = torch.tensor(gradient)
            optimizer.step()
            for found, parameter in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(found.theta, parameter.detach().numpy(), rtol=TOLERANCE, atol=TOLERANCE)


def test_rows_of_matrices_and_rows_of_stacks_do_not_go_together() -> None:
    """Adafactor's rows lie along the last dimension, centralization's along all but the first."""
    with pytest.raises(SpecError) as caught:
        composed("Adafactor + centralize", {"lr": 0.01}, PROBLEMS["5x7 dense"])
    assert [d.code for d in caught.value.diagnostics] == ["shapes-differ"]
    composed("AdamP + centralize + agc", {"lr": 0.01}, PROBLEMS["3x4x2 schedule"])
