"""The loops of `reference_loops_elementwise` agree with pytorch_optimizer in the settings in which the library is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import pytorch_optimizer as po
import torch

from optc.compiler.interpret import Oracle
from tests import reference_loops_elementwise as loops
from tests.oracle import program_of
from tests.problems import PROBLEMS
from tests.reference_cases import Array, Problem, Trace, case, difference
from tests.reference_loops import Run
from tests.references_elementwise import RootWithoutFloor

B = (0.8, 0.95)
DENSE = PROBLEMS["5x7 dense"]
"""No exact zeros, which some of the settings divide by, and one lr throughout."""


class LaProp(po.LaProp):
    """Without the 1e-15 under the root, one tensor at a time: several together have float32 step sizes in the library."""

    @staticmethod
    def apply_ams_bound(
        ams_bound: bool,
        exp_avg_sq: torch.Tensor,
        max_exp_avg_sq: torch.Tensor | None,
        eps: float,
        exp_avg_sq_eps: float = 0.0,
    ) -> torch.Tensor:
        return po.LaProp.apply_ams_bound(ams_bound, exp_avg_sq, max_exp_avg_sq, eps, exp_avg_sq_eps)


class AdaPNM(RootWithoutFloor, po.AdaPNM):
    """Without the 1e-15 under the root."""


class SRMMFromStepZero(po.SRMM):
    """The library's weights begin with that of step 1, so that its first step shrinks the parameter."""

    def init_group(self, group: Any, **arguments: Any) -> None:
        group.setdefault("step", -1)
        super().init_group(group, **arguments)


def library(factory: Callable[..., Any], arguments: Mapping[str, Any]) -> Callable[[Problem], Trace]:
    return case("", factory, arguments, lr=0.01).run


PAIRS: dict[str, tuple[Callable[[Problem], Run], Callable[[Problem], Trace]]] = {
    "laprop, no eps": (
        partial(loops.laprop, {"lr": 0.01, "betas": B, "eps": 0.0}),
        library(partial(LaProp, foreach=False), {"betas": B, "eps": 0.0}),
    ),
    "adapnm, no eps": (
        partial(loops.adapnm, {"lr": 0.01, "betas": (*B, 0.7), "eps": 0.0, "weight_decay": 0.3}),
        library(AdaPNM, {"betas": (*B, 0.7), "eps": 0.0, "weight_decay": 0.3}),
    ),
    "adapnm, no maximum": (
        partial(loops.adapnm, {"lr": 0.01, "betas": (*B, 1.0), "eps": 0.0, "amsgrad": False}),
        library(AdaPNM, {"betas": (*B, 1.0), "eps": 0.0, "ams_bound": False}),
    ),
    "pid": (
        partial(loops.pid, {"lr": 0.01, "momentum": 0.7, "dampening": 0.3}),
        library(po.PID, {"momentum": 0.7, "dampening": 0.3}),
    ),
    "srmm": (
        partial(loops.srmm, {"lr": 0.01, "beta": 0.8, "memory_length": 7}),
        library(SRMMFromStepZero, {"beta": 0.8, "memory_length": 7}),
    ),
    "ftrl": (
        partial(loops.ftrl, {"lr": 0.01, "beta": 1.0, "lambda_1": 0.3, "lambda_2": 0.2}),
        library(po.FTRL, {"beta": 1.0, "lambda_1": 0.3, "lambda_2": 0.2}),
    ),
}
KEPT_OTHERWISE = {"laprop, no eps": {"exp_avg"}}
"""States that the library keeps otherwise: LaProp's average has lr inside."""


@pytest.mark.parametrize("setting", PAIRS)
def test_loop_agrees_with_the_library(setting: str) -> None:
    loop, runs = PAIRS[setting]
    thetas, states = loop(DENSE)
    theirs = runs(DENSE)
    states = {key: value for key, value in states.items() if key not in KEPT_OTHERWISE.get(setting, set())}
    assert difference(Trace(tuple(thetas), states), theirs) <= 1e-12


def moves(optimizer: Any, parameter: torch.Tensor, inputs: Sequence[Array] | None = None) -> list[Array]:
    """θ after every step along `DENSE`, with a Hessian estimate before each if there are any."""
    thetas = []
    for number, g in enumerate(DENSE.gradients):
        parameter.grad = torch.tensor(g)
        arguments = {} if inputs is None else {"hessian": [torch.tensor(inputs[number])]}
        optimizer.step(**arguments)
        thetas.append(parameter.detach().numpy().copy())
    return thetas


def test_aggmo_agrees_with_the_library() -> None:
    """θ only: the library's buffers are in a dictionary by decay rate."""
    parameter = torch.nn.Parameter(torch.tensor(DENSE.theta))
    found = moves(po.AggMo([parameter], lr=0.01, betas=(0.5, 0.7, 0.8), weight_decay=0.1), parameter)
    thetas, _ = loops.aggmo({"lr": 0.01, "betas": (0.5, 0.7, 0.8), "weight_decay": 0.1}, DENSE)
    assert difference(Trace(tuple(found), {}), Trace(tuple(thetas), {})) <= 1e-12


def test_adahessian_agrees_with_the_library_where_every_step_has_an_estimate() -> None:
    hypers: dict[str, Any] = {"lr": 0.01, "betas": B, "hessian_power": 0.5, "eps": 1e-2, "weight_decay": 0.3}
    estimates = [h[::-1].copy() for h in DENSE.gradients]
    parameter = torch.nn.Parameter(torch.tensor(DENSE.theta))
    expected = moves(po.AdaHessian([parameter], **hypers), parameter, estimates)
    oracle, found = Oracle(program_of("second_order/adahessian"), hypers), []
    mine = oracle.new_parameter(DENSE.theta)
    for g, estimate in zip(DENSE.gradients, estimates, strict=True):
        oracle.enter("update_hessian", mine, {"g_s": estimate})
        oracle.step(mine, g)
        found.append(mine.theta.copy())
    assert difference(Trace(tuple(found), {}), Trace(tuple(expected), {})) <= 1e-12
