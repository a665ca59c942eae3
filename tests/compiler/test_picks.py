"""Picked elements through the compiler: the oracle's numbers, the plan and its cost, and what the verifier catches."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import takewhile

import numpy as np
import pytest

from optc.compiler.backends.native.emit import emit_kernel as emit_native
from optc.compiler.explain import explain
from optc.compiler.interpret import Oracle
from optc.compiler.ir import InternalError
from optc.compiler.pipeline import check_source, compile_source, plan_program
from optc.compiler.plan import Kernel, Pass, Plan
from optc.compiler.traffic import PRECISIONS, Picked, besides, state_bytes, traffic
from optc.compiler.verify import verify_plan
from optc.dsl.errors import OptcError
from optc.dsl.kinds import Extent
from optc.dsl.source import Source
from tests.oracle import program_of, spec_path

TEXT = """
optimizer Picked:
    hyper: lr = 0.1 in [0, inf); p = 3 in int [1, inf); β = 0.5 in [0, 1)
    state: m = 0; s = pick(θ, p)*2 per pick(p)
    step:
        m <- ema(m, g, β)
        s <- s + pick(m + θ, p)
        n = mean(s) + max(pick(g, p))
        θ <- θ - lr*n*m
"""


def plan_of(text: str) -> Plan:
    return plan_program(check_source(Source("<text>", text)))[1]


PLAN = plan_of(TEXT)


@pytest.mark.parametrize("p", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("shape", [(2, 3), (7,), (), (1, 1)])
def test_the_oracle(shape: tuple[int, ...], p: int) -> None:
    rng = np.random.default_rng(p)
    oracle = Oracle(check_source(Source("<text>", TEXT)), {"p": p})
    theta, m = np.asarray(rng.normal(size=shape)), np.zeros(shape)
    param, s = oracle.new_parameter(theta), [2 * x for x in theta.ravel()[::p]]
    for _ in range(3):
        g = np.asarray(rng.normal(size=shape))
        oracle.step(param, g)
        m = 0.5 * m + 0.5 * g
        s = [a + b + c for a, b, c in zip(s, m.ravel()[::p], theta.ravel()[::p], strict=True)]
        theta = theta - 0.1 * (sum(s) / len(s) + max(g.ravel()[::p])) * m
        np.testing.assert_allclose(param.theta, theta, rtol=1e-13)
        np.testing.assert_allclose(param.states["s"], s, rtol=1e-13)
        assert np.shape(param.states["s"]) == (-(-theta.size // p),)


def test_the_oracle_does_not_pick_other_elements_on_the_way() -> None:
    oracle = Oracle(check_source(Source("<text>", TEXT)))
    param = oracle.new_parameter(np.ones(7))
    oracle.step(param, np.ones(7))
    with pytest.raises(OptcError, match="`s` was made with another `p`, which never changes"):
        oracle.step(param, np.ones(7), {"p": 2})


def test_code_on_picked_elements_is_a_second_body_of_the_pass() -> None:
    first, second = PLAN.procedures[0].kernels[0].passes
    assert not first.body and [(s.name, s.extent, s.reads, s.writes) for s in first.picked_streams] == [
        ("theta", Extent.ELEM, True, False),
        ("g", Extent.ELEM, True, False),
        ("m", Extent.ELEM, True, False),
        ("s", Extent.PICK, True, True),
    ]
    assert [s.name for s in second.streams] == ["theta", "g", "m"] and not second.picked and not second.together
    text = explain(Source("picked.opt", TEXT), "plan")
    assert "  at every p-th element, before it\n    theta        theta     reads\n" in text
    assert "    s            state     reads writes  picked\n" in text


def test_cost_of_picked_elements() -> None:
    """In float32: θ, g, m and s at picked elements, then θ, g and m of all."""
    step, variant = PLAN.procedures[0], {"p_is_one": False}
    cost = traffic(step, variant, PRECISIONS[0])
    assert (cost.bytes_read, cost.bytes_written, cost.passes) == (12, 8, 2)
    assert (cost.picked.bytes_read, cost.picked.bytes_written, cost.picked.p) == (16, 4, "p")
    assert (state_bytes(PLAN, variant, PRECISIONS[0]), besides(PLAN, variant)) == (4, "4/p")
    every = traffic(step, {"p_is_one": True}, PRECISIONS[0])
    assert (every.bytes_read, every.bytes_written, every.picked) == (12 + 16, 8 + 4, Picked())
    assert (state_bytes(PLAN, {"p_is_one": True}, PRECISIONS[0]), besides(PLAN, {"p_is_one": True})) == (8, "")
    shown = explain(Source("picked.opt", TEXT), "cost")
    assert all(f" {number} " in shown for number in ("12 + 16/p", "8 + 4/p", "5 + 7/p", "4 + 4/p"))
    header = compile_source(Source("picked.opt", TEXT)).module[:2500]
    assert "12 + 8 bytes read + written and 5 operations per element, 16 + 4 and 7 for every p-th element" in header
    assert "state: 4 + 4/p bytes per parameter" in header


def test_bodies_of_one_pass_move_each_element_once() -> None:
    """LionProdigy is one pass; without picking it moves what the two bodies move together."""
    plan = plan_program(program_of("parameter_free/lion_prodigy"))[1]
    variant = {f.name: False for f in plan.flags}
    picking, every = (traffic(plan.procedures[0], {**variant, "slice_p_is_one": one}, PRECISIONS[0]) for one in (False, True))
    assert (picking.bytes_read, picking.bytes_written, picking.passes) == (12, 8, 1)
    assert (picking.picked.bytes_read, picking.picked.bytes_written) == (8, 4)
    assert (every.bytes_read, every.bytes_written, every.passes) == (20, 12, 1)


def broken(change: Callable[[Kernel], Kernel]) -> Plan:
    step = PLAN.procedures[0]
    (phase,) = step.phases
    assert phase.kernel is not None
    return replace(PLAN, procedures=(replace(step, phases=(replace(phase, kernel=change(phase.kernel)),)),))


def first_pass(change: Callable[[Pass], Pass]) -> Callable[[Kernel], Kernel]:
    return lambda kernel: replace(kernel, passes=(change(kernel.passes[0]), *kernel.passes[1:]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda k: replace(k, pick=None), "it picks elements, and is not told which"),
        (lambda k: replace(k, scalars=tuple(s for s in k.scalars if s != "p")), "it is not given"),
        (first_pass(lambda one: replace(one, body=one.picked, picked=(), streams=one.picked_streams)), "per pick"),
        (first_pass(lambda one: replace(one, together=one.together[:-1])), "with all elements picked it does"),
        (first_pass(lambda one: replace(one, picked=one.picked[:-1])), "with all elements picked it does"),
        (first_pass(lambda one: replace(one, picked_streams=one.picked_streams[:-1])), "'s'"),
    ],
)
def test_broken_plans_are_caught(change: Callable[[Kernel], Kernel], message: str) -> None:
    with pytest.raises(InternalError, match=message):
        verify_plan(broken(change))


@pytest.mark.parametrize("name", ["prodigy", "lion_prodigy"])
def test_where_all_are_picked_the_native_loop_is_that_of_elements(name: str) -> None:
    """Line by line the loop of the spec without `pick`, so that p = 1 costs nothing."""
    text = spec_path(f"parameter_free/{name}").read_text(encoding="utf-8")
    plain = re.sub(r" per pick\(slice_p\)|^ *slice_p +=.*\n", "", text, flags=re.MULTILINE)
    plain = re.sub(r"pick\((\w+), slice_p\)", r"\1", plain)
    loops = []
    for one, head in ((text, "    if (slice_p_is_one) {\n"), (plain, "    Sum sum_abs_s;\n")):
        source = Source(f"{name}.opt", one)
        kernel = plan_program(check_source(source))[1].procedures[0].kernels[0]
        lines = emit_native(kernel, source).split(head)[1].splitlines()
        loop = list(takewhile(lambda line: not line.startswith(("    } else", "    partials[")), lines))
        loops.append([line.partition("  //")[0].strip() for line in loop if line.strip() != "}"])
    assert loops[0] == loops[1] and len(loops[0]) > 15
