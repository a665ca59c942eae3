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
