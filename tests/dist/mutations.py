"""Faults that must be seen: one exchange of a step, or what ZeRO 1 sends, is left out; runs in every process."""

from __future__ import annotations

from typing import Any

from optc.runtime.rounds import Buffers, Round
from optc.runtime.zero1 import Intervals
from tests.dist.parity import difference, pair, steps

SHAPES = ((60, 40), (9, 5), (9,))
STEPS = 4


def without_one_exchange(rank: int, name: str, layout: str, size: int, hypers: dict[str, Any] | None = None) -> list[float]:
    """How far steps are from those of one process: as they are, then with each exchange left out, one at a time."""
    whole, found = Round.joined, []
    left_out, calls, exchanges = -1, 0, 1

    def joined(one: Round, here: Buffers) -> Buffers:
        nonlocal calls
        own = here.sums.clone(), here.largest.clone()
        together = whole(one, here)
        if calls % exchanges == left_out:
            together.sums.copy_(own[0])
            together.largest.copy_(own[1])
        calls += 1
        return together

    Round.joined = joined  # type: ignore[assignment, method-assign]
    try:
        while left_out < exchanges:
            calls = 0
            alone, parts, first, second = pair(name, layout, size, "native", SHAPES, **(hypers or {}))
            for _ in range(STEPS // 2):  # the same gradients again: Prodigy finds that it may go further
                steps(alone, parts, first, second, layout, size, 2)
            found.append(difference(alone, parts))
            exchanges, left_out = calls // STEPS if left_out < 0 else exchanges, left_out + 1
    finally:
        Round.joined = whole  # type: ignore[method-assign]
    return found


def without_gathering(rank: int, name: str, size: int) -> float:
    """How far steps under ZeRO 1 are from those of one process, where each keeps to itself what it has updated."""
    settle = Intervals.settle
    Intervals.settle = lambda *_: None  # type: ignore[method-assign]
    try:
        alone, parts, first, second = pair(name, "zero1", size, "native", SHAPES)
        steps(alone, parts, first, second, "zero1", size, STEPS)
    finally:
        Intervals.settle = settle  # type: ignore[method-assign]
    return difference(alone, parts)
