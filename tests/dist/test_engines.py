"""FSDP2 as `optc.dist.shard` sets it up: how often each stage talks, precision, offload, blocks, wrong options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import optc
from tests.dist import engines
from tests.dist.crew import Crew

GATHER, SCATTER = "all_gather_single", "reduce_scatter_single"


@pytest.mark.parametrize(
    ("stage", "accumulate", "gathers", "scatters"),
    [(1, 1, 4, 4), (1, 4, 4, 4), (2, 1, 4, 4), (2, 4, 16, 16), (3, 1, 8, 4), (3, 4, 32, 16)],
)
def test_stages_talk_as_often_as_they_should(two: Crew, stage: int, accumulate: int, gathers: int, scatters: int) -> None:
    """Of four layers; the optimizer, AdamW, adds nothing."""
    for found in two.run(engines.collectives, stage, accumulate):
        assert found == {GATHER: gathers, SCATTER: scatters}


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_forward_pass_before_a_step_leaves_no_old_parameters(two: Crew, stage: int) -> None:
    assert max(two.run(engines.looked_at_before_steps, stage)) < 1e-12


def test_a_step_before_the_last_backward_pass_is_refused(two: Crew) -> None:
    for said, moved in two.run(engines.stepped_too_early):
        assert "call optc.dist.microbatch(model, last=True)" in said and moved == 0


def test_an_optimizer_from_before_is_refused(two: Crew) -> None:
    for said in two.run(engines.made_too_early):
        assert said.endswith("make it after shard")


def test_bfloat16_computes_and_float32_keeps(two: Crew) -> None:
    for parameters, states, apart in two.run(engines.low_precision):
        assert parameters == states == {torch.float32}
        assert 0 < apart < 5e-2


def test_offloaded_parameters_are_updated_alike(two: Crew) -> None:
    assert two.run(engines.offloaded) == [0, 0]


def test_blocks_are_found_and_chosen(two: Crew) -> None:
    for found in two.run(engines.blocks):
        assert found == {
            "lists": ["", "blocks.0", "blocks.1"],
            "classes": ["", "norm"],
            "function": ["", "wide"],
            "children": ["", "0", "2"],
        }


def test_wrong_options_are_told(two: Crew) -> None:
    for stage, precision, blocks, mesh, offload in two.run(engines.refusals):
        assert stage == "stage = 4, but it must be 1, 2 or 3"
        assert precision == "precision = 'fp8', but it must be None, 'bf16' or a MixedPrecisionPolicy"
        assert blocks.startswith("no module of this model is one of the blocks")
        assert mesh.startswith("mesh = 3, but it must be None or what") and offload.startswith("offload = 'cpu'")


def test_zero1_cuts_whole_contiguous_parameters(two: Crew) -> None:
    for placed, turned in two.run(engines.zero1_refusals):
        assert "it is a DTensor, which is divided already" in placed
        assert "it is not contiguous (strides (1, 2))" in turned


@pytest.mark.parametrize("name", ["AdamW", "LAMB | AdamW8bit"])
def test_zero1_divides_an_optimizer_once(two: Crew, name: str) -> None:
    called = "Routed" if "|" in name else name
    for said, apart in two.run(engines.divided_twice, name):
        assert said == [f"this {called} is divided by ZeRO 1 already: leave out the second optc.dist.Zero1"] * 2
        assert apart <= 1e-12


@pytest.mark.parametrize("takes", [optc.dist.Zero1, optc.dist.compare, optc.dist.full_state_dict])
def test_optimizers_of_others_are_told(takes: Callable[[Any], Any]) -> None:
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters())
    head = rf"^optc\.dist\.{takes.__name__} needs an optimizer of optc, not"
    with pytest.raises(TypeError, match=rf"{head} torch\.optim\.AdamW: make it with optc\.create\(…\)$"):
        takes(optimizer)
    assert not optimizer._optimizer_step_pre_hooks
    with pytest.raises(TypeError, match=f"{head} NoneType: "):
        takes(None)


@pytest.mark.parametrize("every", [0, 1.5, "3", True])
def test_a_number_of_steps_is_whole(every: Any) -> None:
    with pytest.raises(ValueError, match=f"^every = {every!r}, but it must be a whole number of at least 1$"):
        optc.dist.compare(optc.create("AdamW", nn.Linear(2, 2)), every)


def test_without_a_process_group() -> None:
    with pytest.raises(RuntimeError, match="init_process_group first"):
        optc.dist.shard(nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="init_process_group first"):
        optc.dist.Zero1(optc.create("AdamW", nn.Linear(2, 2)))
