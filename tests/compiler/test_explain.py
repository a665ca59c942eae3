"""The printed forms of the stages say what the stages hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from optc.compiler.explain import STAGES, explain, explain_json
from optc.compiler.pipeline import compile_source
from optc.compiler.show_plan import cost_json
from optc.compiler.show_program import show_program, show_tree
from optc.dsl.errors import SpecError
from optc.dsl.parse import parse
from optc.dsl.read import read
from optc.dsl.source import Source
from tests.oracle import WRITTEN_OUT

SPECS = WRITTEN_OUT

MOMENTUM = Source(
    "momentum.opt",
    """\
optimizer Momentum:
    hyper:
        lr = 1e-3 in [0, inf) "step size"
        µ = 0.9 as momentum in [0, 1)
        nesterov = false
    state:
        b = 0 as momentum_buffer
    step:
        b <- µ*b + g
        if t == 1: u = g
        else: u = where(nesterov, g + µ*b, b)
        θ <- θ - lr*u
""",
)


def test_the_tree_has_every_node_with_its_place() -> None:
    tree = show_tree(parse(MOMENTUM), MOMENTUM).splitlines()
    assert tree[0] == "spec: Spec  @1:1"
    assert "      Hyper name=nesterov  @5:9" in tree
    assert "        default: Boolean value=False  @5:20" in tree
    assert "      Write  @9:9" in tree


def test_the_program_says_where_every_value_varies() -> None:
    rows = [row.rstrip() for row in show_program(compile_source(MOMENTUM).program).splitlines()]
    assert "    momentum = 0.9 as mu inside in [0, 1)" in rows
    assert [row.split(":")[-1].strip() for row in rows if row.startswith("   9 |")] == ["elem real"]
    assert "  10 | if t == 1" in rows


def test_the_plan_lists_what_the_kernel_moves() -> None:
    compilation = compile_source(MOMENTUM)
    plan = explain(MOMENTUM, "plan")
    for procedure in compilation.plan.procedures:
        for kernel in procedure.kernels:
            for stream in kernel.streams:
                assert f"    {stream.name:<12} {stream.role.value:<9} " in plan
            for scalar in kernel.scalars:
                assert scalar in plan


def test_the_cost_covers_every_variant_and_dtype_once() -> None:
    rows = cost_json(compile_source(MOMENTUM).plan)
    keys = [(r["procedure"], str(r["variant"]), r["theta"]) for r in rows]
    assert len(keys) == len(set(keys)) == 2 * 4
    assert [r["bytes_read"] for r in rows if r["theta"] == "float32"] == [12, 12]  # θ, g, b
    assert [r["bytes_written"] for r in rows if r["theta"] == "bfloat16"] == [6, 6]  # θ in bf16, b in fp32
    assert [r["default"] for r in rows if r["theta"] == "float32"] == [True, False]


GATHERING = Source(
    "gathering.opt",
    """\
optimizer Gathering:
    hyper: lr = 1e-3 in [0, inf); limit = 1.0 shared in (0, inf)
    state:
        if ndim >= 2: R = 0 per row; C = 0 per col
        else: V = 0
        w = 1 per model
    step:
        w <- 0.5*w + total_norm(g)
        if ndim >= 2:
            R <- R + rowmean(g^2)
            C <- C + colmean(g^2)
            u = g*colmean(R)/√outer(R, C)
        else:
            V <- V + g^2
            u = g/√V
        θ <- θ - lr*min(1, limit/w)*u
""",
)


def test_the_plan_tells_of_phases_and_of_what_lies_in_rows() -> None:
    plan = explain(GATHERING, "plan").splitlines()
    assert "procedure step: 2 passes over memory in 2 phases" in plan
    model = plan.index("  of the model, float64, once for all parameters")
    assert plan.index("  kernel step") < model < plan.index("  kernel step_2")
    assert "    total_sum_g_pow_two: sum_g_pow_two of all tensors, added up" in plan[model:]
    assert "    parts of totals: sum_g_pow_two" in plan[:model]
    assert next(row for row in plan if "kept per row" in row) == "    kept per row from pass to pass: mean_g_pow_two, R_2"
    assert "    R            one number per row" in plan
    assert any(row.endswith("mean_R = colmean(R)") for row in plan)


def test_the_plan_as_json_has_the_phases() -> None:
    plan = explain_json(GATHERING, "plan")["plan"]
    assert isinstance(plan, dict)
    (procedure,) = plan["procedures"]
    first, second = procedure["phases"]
    assert first["model"] is None
    assert second["model"]["totals"] == {"total_sum_g_pow_two": first["kernel"]["parts"][0]}
    assert second["model"]["carried"] == ["w"]
    assert second["kernel"]["statistics"] == first["kernel"]["statistics"]
    assert second["kernel"]["states_on_statistics"] == {"R": "row", "C": "col"}
    assert set(second["kernel"]["given"]) <= set(first["kernel"]["leaves"])


def test_the_cost_says_what_state_lies_besides() -> None:
    rows = [row for row in cost_json(compile_source(GATHERING).plan) if row["theta"] == "float32"]
    assert [(r["state_bytes"], r["state_besides"], r["passes"], r["phases"]) for r in rows] == [
        (4, "", 2, 2),
        (0, "rows and columns", 2, 2),
    ]
    assert "0 + rows and columns" in explain(GATHERING, "cost")


def test_reductions_are_told_by_what_they_go_along() -> None:
    update = explain(GATHERING, "update")
    assert "R <- R + rowmean(pow(g, 2))" in update
    assert "g*colmean(R)/sqrt(R*C)" in update
    assert "sqrt(total(sum(pow(g, 2))))" in update


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_prints_numbers_of_the_model_and_rows(stage: str) -> None:
    text = explain(GATHERING, stage)
    assert len(text.splitlines()) >= 3
    assert " object at 0x" not in text
    assert explain_json(GATHERING, stage)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_every_stage_of_every_shipped_spec_prints(path: Path, stage: str) -> None:
    text = explain(read(path), stage)
    assert len(text.splitlines()) >= 3
    assert " object at 0x" not in text
    assert explain_json(read(path), stage)


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_of_a_wrong_spec_prints(stage: str) -> None:
    with pytest.raises(SpecError):
        explain(Source("<test>", "optimizer T:\n    step: 2t\n"), stage)
