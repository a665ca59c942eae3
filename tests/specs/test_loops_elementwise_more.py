"""The further float64 loops agree with the library in the settings in which it computes the published update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import pytorch_optimizer as po
import torch

from tests import reference_loops_elementwise_more as loops
from tests.problems import PROBLEMS
from tests.reference_cases import Hypers, Problem, Trace, difference, run_library
from tests.reference_loops import Run

DENSE = [name for name in PROBLEMS if "zeros" not in name]
SMALL = 1e-4
"""A factor that brings every gradient's norm far below 1, where MARS' clip is idle."""
LARGEST_LR = 0.05


def without_root_term(
    ams_bound: bool,
    exp_avg_sq: torch.Tensor,
    max_exp_avg_sq: torch.Tensor | None,
    eps: float,
    exp_avg_sq_eps: float = 0.0,
) -> torch.Tensor:
    """The library's denominator without the 1e-15 that it adds to the second moment, under the root."""
    return po.AdamC.apply_ams_bound(ams_bound, exp_avg_sq, max_exp_avg_sq, eps, exp_avg_sq_eps)


class ExactMARS(po.MARS):
    """MARS with `without_root_term`."""

    apply_ams_bound = staticmethod(without_root_term)


class ExactAdamC(po.AdamC):
    """AdamC with `without_root_term`, and the largest step size as a constant."""

    apply_ams_bound = staticmethod(without_root_term)

    def __init__(self, params: Any, lr: float, **keywords: Any) -> None:
        super().__init__(params, lr=LARGEST_LR, **keywords)
        self.param_groups[0]["lr"] = lr


def scaled(problem: Problem, factor: float) -> Problem:
    """The problem with its gradients times `factor`."""
    return replace(problem, gradients=tuple(factor * g for g in problem.gradients))


def agree(loop: Callable[[Hypers, Problem], Run], hypers: Hypers, factory: Any, arguments: Hypers, problem: Problem) -> bool:
    """Whether θ and the states that both have are the same to 1e-12."""
    thetas, states = loop(hypers, problem)
    return difference(Trace(tuple(thetas), states), run_library(factory, arguments, hypers, problem)) <= 1e-12


@pytest.mark.parametrize("name", DENSE)
def test_mars_agrees_where_the_clip_is_idle(name: str) -> None:
    problem = scaled(PROBLEMS[name], SMALL)
    hypers = {"lr": 0.01, "betas": (0.8, 0.95), "gamma": 0.2, "weight_decay": 0.3, "correct_first": True}
    library = {"betas": (0.8, 0.95), "gamma": 0.2, "weight_decay": 0.3, "optimize_1d": True, "foreach": False}
    assert agree(loops.mars, {**hypers, "eps": 0.0}, ExactMARS, {**library, "eps": 0.0}, problem)
    assert agree(loops.mars, {**hypers, "mars_type": "lion"}, po.MARS, {**library, "mars_type": "lion"}, problem)
    assert not agree(loops.mars, {**hypers, "correct_first": False, "eps": 0.0}, ExactMARS, {**library, "eps": 0.0}, problem)


@pytest.mark.parametrize("name", DENSE)
def test_focus_agrees_where_the_library_rounds_nothing_off(name: str) -> None:
    """With gradients everywhere θ moves in the first step; before that halves are exact."""
    hypers = {"lr": 0.01, "betas": (0.9, 0.5), "gamma": 0.3}
    thetas, states = loops.focus(hypers, PROBLEMS[name])
    assert states.pop("pbar").shape == PROBLEMS[name].theta.shape  # debiased here, raw there
    theirs = run_library(po.FOCUS, {"betas": (0.9, 0.5), "gamma": 0.3}, hypers, PROBLEMS[name])
    assert difference(Trace(tuple(thetas), states), theirs) <= 1e-12


@pytest.mark.parametrize("name", PROBLEMS)
def test_grokfast_adamw_agrees_where_amplification_begins_at_once(name: str) -> None:
    hypers = {"lr": 0.01, "grokfast_alpha": 0.8, "weight_decay": 0.3, "normalize_lr": False}
    assert agree(loops.grokfast_adamw, hypers, po.GrokFastAdamW, {"grokfast_alpha": 0.8, "weight_decay": 0.3}, PROBLEMS[name])


@pytest.mark.parametrize("name", PROBLEMS)
def test_ano_agrees_with_a_constant_decay_rate(name: str) -> None:
    hypers = {"lr": 0.01, "betas": (0.8, 0.7), "eps": 1e-3, "weight_decay": 0.3}
    assert agree(loops.ano, hypers, po.Ano, {"betas": (0.8, 0.7), "eps": 1e-3, "weight_decay": 0.3}, PROBLEMS[name])


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("normalized", [False, True])
def test_adamc_agrees_without_eps(name: str, normalized: bool) -> None:
    hypers = {"lr": 0.01, "eps": 0.0, "weight_decay": 0.3, "max_lr": LARGEST_LR if normalized else None}
    library = {"eps": 0.0, "weight_decay": 0.3, "normalized": normalized, "foreach": False}
    assert agree(loops.adamc, hypers, ExactAdamC, library, PROBLEMS[name])


@pytest.mark.parametrize("name", PROBLEMS)
def test_bcos_agrees_where_the_estimate_reads_no_average(name: str) -> None:
    hypers = {"lr": 0.01, "beta": 0.8, "beta2": 0.0, "weight_decay": 0.3}
    library = {"beta": 0.8, "beta2": 0.0, "weight_decay": 0.3, "simple_cond": True}
    assert agree(loops.bcos_c, hypers, po.BCOS, library, PROBLEMS[name])
    assert not agree(loops.bcos_c, {**hypers, "beta2": 0.5}, po.BCOS, {**library, "beta2": 0.5}, PROBLEMS[name])
