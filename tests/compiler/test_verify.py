"""A plan that breaks a promise is refused before anything is generated from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from optc.compiler.ir import InternalError
from optc.compiler.plan import Kernel, ModelProgram, Phase, Plan, ProcedurePlan
from optc.compiler.verify import verify_plan
from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.program import Branch, Let, Read, Role, Statement, Symbol
from tests.compiler.test_passes import compiled

LINES = (
    "n = total_norm(g)",
    "if ndim >= 2: R <- ema(R, rowmean(g), beta)",
    "m <- ema(m, g, beta)",
    "w <- 0.5*w + n*loss",
    "if ndim >= 2: u = m/(1 + R²)",
    "else: u = m",
    "θ <- θ - lr*u/(‖u‖ + n)",
)
STATES = ("m = 0", "if ndim >= 2: R = 0 per row", "w = 0 per model")


def plan_with(phases: Callable[[tuple[Phase, ...]], tuple[Phase, ...]]) -> Plan:
    _, plan = compiled(*LINES, states=STATES)
    (procedure,) = plan.procedures
    return replace(plan, procedures=(replace(procedure, phases=phases(procedure.phases)),))


def model_with(change: Callable[[ModelProgram], ModelProgram]) -> Plan:
    def phases(old: tuple[Phase, ...]) -> tuple[Phase, ...]:
        *before, last = old
        assert last.model is not None
        return (*before, replace(last, model=change(last.model)))

    return plan_with(phases)


def kernel_with(index: int, change: Callable[[Kernel], Kernel]) -> Plan:
    def phases(old: tuple[Phase, ...]) -> tuple[Phase, ...]:
        kernel = old[index].kernel
        assert kernel is not None
        return (*old[:index], replace(old[index], kernel=change(kernel)), *old[index + 1 :])

    return plan_with(phases)


def widened(model: ModelProgram) -> ModelProgram:
    wide = Read(Symbol(Role.SCALAR, "lr"), Type(Sort.REAL, Extent.GROUP, host=True))
    return replace(model, body=(*model.body, Let(Symbol(Role.LOCAL, "wide"), wide)), scalars=(*model.scalars, "lr"))


def one_sided(model: ModelProgram) -> ModelProgram:
    test = Read(Symbol(Role.FLAG, "ndim_ge_two"), Type(Sort.BOOL, Extent.MODEL, host=True, static=True))
    return replace(model, body=(Branch(test, model.body, ()),), flags=(*model.flags, "ndim_ge_two"))


def bare(body: tuple[Statement, ...]) -> tuple[Statement, ...]:
    """Without the branches around lines."""
    return tuple(line for s in body for line in (bare(s.then) if isinstance(s, Branch) else (s,)))


BROKEN: dict[str, tuple[Callable[[], Plan], str]] = {
    "a total without its part": (
        lambda: kernel_with(0, lambda k: replace(k, parts=(), leaves=())), "no kernel before leaves",
    ),
    "an export that one path lacks": (lambda: model_with(one_sided), "have no value on some path"),
    "a model program that reads a number per group": (lambda: model_with(widened), "per group"),
    "a program that reads a loss that it is not given": (
        lambda: model_with(lambda m: replace(m, loss=False)), "it reads 'loss' \\(loss\\), which it is not given",
    ),
    "a state of the model that is written early": (
        lambda: plan_with(lambda p: (p[0], p[1], Phase(None, None))), "before the last phase",
    ),
    "a scalar that nothing exports": (
        lambda: model_with(lambda m: replace(m, exports=())), "nothing before it exports",
    ),
    "states that are stored twice": (
        lambda: kernel_with(1, lambda k: replace(k, finish=k.passes[-1].prepare)), "stored in more than one place",
    ),
    "rows for tensors that have none": (
        lambda: kernel_with(1, lambda k: replace(k, passes=tuple(replace(p, prepare=bare(p.prepare)) for p in k.passes))),
        "outside of `ndim >= 2`",
    ),
    "code per element that moves through rows": (
        lambda: kernel_with(1, lambda k: replace(k, passes=tuple(replace(p, streams=k.streams) for p in k.passes))), "per row",
    ),
    "kernels with tables of their own": (
        lambda: kernel_with(0, lambda k: replace(k, extents=(Extent.ROW,) * len(k.extents))), "different statistics",
    ),
    "a pass that needs what nothing leaves": (
        lambda: kernel_with(1, lambda k: replace(k, passes=tuple(replace(p, prepare=()) for p in k.passes))), "nothing leaves",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_a_broken_plan_is_refused(case: str) -> None:
    broken, message = BROKEN[case]
    with pytest.raises(InternalError, match=message):
        verify_plan(broken())


def test_plans_of_the_compiler_are_accepted() -> None:
    _, plan = compiled(*LINES, states=STATES)
    assert verify_plan(plan) is plan
    assert isinstance(plan.procedures[0], ProcedurePlan)
