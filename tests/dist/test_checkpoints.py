"""Checkpoints of any engine, loaded by any other, on other numbers of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.dist.crew import Crew
from tests.dist.layouts import IN_BLOCKS
from tests.dist.parity import carried
from tests.dist.training import converted, difference, resumed, resumed_alone, saved, saved_alone, whole_state

NAMES = ["AdamW", "Adafactor", "AdamW8bit", "AdamW4bit", "Prodigy", "LAMB | AdamW8bit"]
MORE = ["AdamWFactored", "CAME", "LAMB", "MADGRAD", "AdamWBf16Stochastic", "Adafactor | Prodigy + clip_global_norm"]


def same(a: Any, b: Any) -> bool:
    """Whether two values of a state dict are equal, to the bit and in dtype."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


CLOSE = 1e-12
"""How far three steps in float64 may be apart whose gradients are added up in another order."""


@pytest.mark.parametrize("name", [*NAMES, *MORE])
def test_states_are_the_same_to_the_bit_on_every_engine(four: Crew, two: Crew, tmp_path: Path, name: str) -> None:
    """Codes stay codes, rows and columns what they were; whoever loads, and whoever has saved."""
    if name != "AdamWFactored":  # its signs refuse the parts of small parameters
        expected = four.run(whole_state, "stage3", name, tmp_path, False)[0]
        for crew, engine in ((two, "zero1"), (two, "stage1"), (four, "hsdp"), (four, "zero1"), (two, "plain")):
            assert same(crew.run(whole_state, engine, name, tmp_path, True)[0], expected), engine
    expected = two.run(whole_state, "zero1", name, tmp_path, False)[0]
    for crew, engine in ((four, "zero1"), (two, "plain")):
        assert same(crew.run(whole_state, engine, name, tmp_path, True)[0], expected), engine


@pytest.mark.parametrize("name", NAMES)
def test_four_processes_then_two_then_one(four: Crew, two: Crew, tmp_path: Path, name: str) -> None:
    expected = four.run(saved, "stage3", name, tmp_path)[0]
    assert difference(four.run(resumed, "stage3", name, tmp_path)[0], expected) == 0
    for engine in ("stage2", "zero1"):
        assert difference(two.run(resumed, engine, name, tmp_path)[0], expected) < CLOSE
    assert difference(resumed_alone("plain", name, tmp_path), expected) < CLOSE


@pytest.mark.parametrize("name", NAMES)
def test_zero1_then_fsdp_and_back(two: Crew, four: Crew, tmp_path: Path, name: str) -> None:
    expected = two.run(saved, "zero1", name, tmp_path)[0]
    assert difference(two.run(resumed, "zero1", name, tmp_path)[0], expected) == 0
    for crew, engine in ((four, "stage3"), (four, "zero1"), (two, "stage1")):
        assert difference(crew.run(resumed, engine, name, tmp_path)[0], expected) < CLOSE
    assert difference(resumed_alone("plain", name, tmp_path), expected) < CLOSE
    assert torch.is_tensor(expected["last.bias"])


@pytest.mark.parametrize("name", ["AdamW", "AdamW8bit", "Adafactor", "LAMB", "Prodigy"])
def test_two_dimensions_of_processes(four: Crew, tmp_path: Path, name: str) -> None:
    """FSDP over tensor parallelism, and replicas: each of what the other has saved."""
    for engine, others in (("tensor", ("hsdp", "zero1")), ("hsdp", ("tensor", "stage2"))):
        expected = four.run(saved, engine, name, tmp_path / engine)[0]
        assert difference(four.run(resumed, engine, name, tmp_path / engine)[0], expected) == 0
        for other in others:
            assert difference(four.run(resumed, other, name, tmp_path / engine)[0], expected) < CLOSE, (engine, other)


@pytest.mark.parametrize("name", ["AdamW8bit", "AdamW4bitRank1", "AdamWFactored", "Prodigy", "AdamWBf16Stochastic"])
def test_columns_of_codes_and_of_picked_elements(four: Crew, tmp_path: Path, name: str) -> None:
    """To the bit, whichever way parameters are divided: one value of four, codes of half a byte, scales of blocks, signs."""
    layouts = ["columns", "grid", "fsdp", "strided", "zero1", "columns", "hsdp"]
    for alone, *found in four.run(carried, name, layouts, 4, IN_BLOCKS, tmp_path):
        exact = name != "Prodigy"  # which measures
        assert all(same(one, alone if exact else found[0]) for one in found)


@pytest.mark.parametrize("name", NAMES)
def test_one_process_then_many(four: Crew, two: Crew, tmp_path: Path, name: str) -> None:
    expected = saved_alone(name, tmp_path)
    assert difference(resumed_alone("plain", name, tmp_path), expected) == 0
    for crew, engine in ((two, "stage3"), (two, "zero1"), (four, "hsdp")):
        assert difference(crew.run(resumed, engine, name, tmp_path)[0], expected) < CLOSE, engine


def test_states_are_converted_where_they_are_whole(two: Crew, tmp_path: Path) -> None:
    for (divided, plain), said in two.run(converted, tmp_path):
        assert same(divided, plain) and any("exp_avg_sq_row" in slot for slot in plain.values())
        assert "cannot be converted in parts: load the state dict that optc.dist.full_state_dict makes" in said
