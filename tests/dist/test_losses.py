"""A loss that is NaN in one process: its gradient reaches all of them, and all do the same about it."""

from __future__ import annotations

import math

import pytest

from tests.dist import losses
from tests.dist.crew import Crew

NAMES = ["AdamW", "LAMB", "Adafactor"]


@pytest.mark.parametrize("engine", ["zero1", "stage1", "stage3"])
@pytest.mark.parametrize("policy", ["skip", "raise", "propagate"])
def test_all_processes_do_the_same_about_a_broken_loss(two: Crew, engine: str, policy: str) -> None:
    here, there = two.run(losses.broken_loss, engine, NAMES, policy)
    for name in NAMES:
        (steps, parameters), (other_steps, others) = here[name], there[name]
        assert steps == other_steps, name
        first, broken, last = steps
        assert first[0] == "nothing" and 0 < first[2] < math.inf and first[3] == 0
        if policy == "propagate":
            assert broken[0] == last[0] == "nothing" and broken[3] == last[3] == sum(map(_count, parameters.values())), name
            continue
        assert parameters == others, name
        assert broken == (
            "FloatingPointError" if policy == "raise" else "nothing",
            1.0 if policy == "skip" else broken[1],
            0,
            0,
        )
        assert last[0] == "nothing" and last[1] == 0 and 0 < last[2] < math.inf and last[3] == 0, name  # it goes on


def _count(x: object) -> int:
    return sum(map(_count, x)) if isinstance(x, list) else 1
