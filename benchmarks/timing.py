"""Timing by turns: every round runs every contestant once, so that a machine that slows down slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

HEAD_START = 1_000_000
"""Cycles of a GPU's clock, about half a millisecond."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """What is timed: `run()` after an untimed `prepare()`."""

    name: str
    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds per call, by contestant, in the order of the rounds."""

    seconds: Mapping[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        """Median seconds of one call."""
        return median(self.seconds[name])

    def spread(self, name: str) -> float:
        """Half the distance between the quartiles, relative to the median."""
        ordered = sorted(self.seconds[name])
        quarter = len(ordered) // 4
        return (ordered[-1 - quarter] - ordered[quarter]) / 2 / self.median(name)

    def speedup(self, name: str, over: str) -> float:
        """How many times faster `name` is than `over`: the median of the ratios within each round."""
        return median(b / a for a, b in zip(self.seconds[name], self.seconds[over], strict=True))


def wall_clock(run: Callable[[], object]) -> float:
    """Seconds of one call on the CPU."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def cuda_clock(run: Callable[[], object]) -> float:
    """Seconds between two events on the current CUDA stream, with the work before it finished.

    The device is kept waiting before the first event while the host prepares the launches, which would count otherwise.
    """
    torch.cuda.synchronize()
    event: Callable[..., Any] = torch.cuda.Event  # PyTorch leaves it without types
    wait: Callable[[int], None] = torch.cuda._sleep
    start, end = event(enable_timing=True), event(enable_timing=True)
    wait(HEAD_START)
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def alternate(
    contestants: Sequence[Contestant],
    rounds: int,
    warmup: int = 3,
    clock: Callable[[Callable[[], object]], float] = wall_clock,
    in_a_row: int = 1,
) -> Timings:
    """Times all contestants by turns; each round starts with another one. The first `warmup` rounds are not counted.

    A turn is one call, which finds in the caches what the other contestants left there; or the median of `in_a_row` calls but
    the first two, which find what the call before left there.
    """
    seconds: dict[str, list[float]] = {c.name: [] for c in contestants}
    if len(seconds) != len(contestants):
        raise ValueError("contestants need different names")
    for number in range(-warmup, rounds):
        first = number % len(contestants)
        for contestant in (*contestants[first:], *contestants[:first]):
            elapsed = []
            for _ in range(in_a_row):
                contestant.prepare()
                elapsed.append(clock(contestant.run))
            if number >= 0:
                seconds[contestant.name].append(median(elapsed[min(2, in_a_row - 1) :]))
    return Timings({name: tuple(values) for name, values in seconds.items()})
