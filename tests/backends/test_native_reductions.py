"""Native reductions: to the bit what their tree says, and dependent on a tensor's own elements alone."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import pytest
import torch
from torch import Tensor

from optc.runtime import native
from optc.runtime.backend import Residents
from optc.runtime.native import NATIVE
from tests.backends.reducing import F64, SPECS, all_bits, class_of, float64, name_of, random, run, same_bits, spec

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCK, LANES = 4096, 16


# --- one reduction, to the bit ------------------------------------------------------------------------------------------------

MEASURED = spec(
    "Measured",
    """
        a = 0 per tensor as sum
        b = 0 per tensor as mean
        c = 0 per tensor as largest
        d = 0 per tensor as smallest
""",
    """
        θ ← θ - lr·(a + b + c + d)·g
""",
    """
    entry measure(x per elem):
        a ← sum(x)
        b ← mean(x)
        c ← max(x)
        d ← min(x)
""",
)
KEYS = "abcd"


def measured(x: Tensor) -> tuple[float, float, float, float]:
    """Sum, mean, largest and smallest, as the kernel says."""
    numbers = {key: [torch.zeros((), dtype=torch.float64)] for key in KEYS}
    kernel = class_of(MEASURED).schema.procedures[1].kernels[0]
    NATIVE.prepare([kernel], [Residents(numbers, torch.float32, {}, [x.shape])])[0].launch({"x": [x]}, (), (), 1.0)
    total, mean, largest, smallest = (numbers[key][0].item() for key in KEYS)
    return total, mean, largest, smallest


def tree_sum(x: F64) -> float:
    """The sum in the order that `reductions.hpp` promises, by definition: 16 lanes in blocks of 4096, then pairs."""

    def pairs(nodes: list[float]) -> float:
        while len(nodes) > 1:
            nodes = [sum(nodes[i : i + 2]) for i in range(0, len(nodes), 2)]
        return nodes[0]

    def block(part: F64) -> float:
        padded = np.zeros(BLOCK)
        padded[: len(part)] = part
        lanes = reduce(np.add, padded.reshape(-1, LANES), np.zeros(LANES))
        while len(lanes) > 1:
            lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
        return float(lanes[0])

    return pairs([block(x[i : i + BLOCK]) for i in range(0, len(x), BLOCK)]) if len(x) else 0.0


SIZES = [0, 1, 15, 16, 17, 255, 256, 257, 4095, 4096, 4097, 3 * 4096 + 5, 4 * 4096, 4 * 4096 + 1, 7 * 4096, 94_000, 126_005]


@pytest.mark.parametrize("extent", [None, 1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_a_sum_has_the_bits_of_its_definition(size: int, extent: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if extent is not None:  # few chunks, so larger ones
        monkeypatch.setattr(native, "MOST_CHUNKS", extent)
    x = random((size,), torch.float32, size) * 10.0 ** random((size,), torch.float32, size + 1)
    values = float64(x)
    total, mean, largest, smallest = measured(x)
    assert total == tree_sum(values)
    assert abs(total - math.fsum(values)) <= 1e-13 * math.fsum(np.abs(values))
    assert mean == total / size if size else math.isnan(mean)
    assert largest == (values.max() if size else -math.inf)
    assert smallest == (values.min() if size else math.inf)


@pytest.mark.parametrize("at", [0, 5, 300, 4096, 9000])
def test_what_is_not_finite_passes_through(at: int) -> None:
    x = random((9001,), torch.float32, 1)
    x[at] = math.inf
    total, mean, largest, smallest = measured(x)
    assert total == mean == largest == math.inf and smallest == x.min().item()
    x[at] = -math.inf
    total, mean, largest, smallest = measured(x)
    assert total == mean == smallest == -math.inf and largest == x.max().item()
    x[at] = math.nan
    assert all(math.isnan(value) for value in measured(x))


def test_a_hundred_million_ones_are_summed_exactly() -> None:
    torch.set_num_threads(2)
    assert measured(torch.ones(10**8, dtype=torch.bfloat16)) == (1e8, 1.0, 1.0, 1.0)


# --- what bits do not depend on -----------------------------------------------------------------------------------------------


def problem(dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[list[Tensor]]]:
    shapes = [(50_003,), (), (0,), (300, 70), (4096,), (12_289,), (3,)]
    thetas = [random(s, dtype, at) for at, s in enumerate(shapes)]
    return thetas, [[random(s, dtype, 50 * t + at) for at, s in enumerate(shapes)] for t in (1, 2, 3)]


@pytest.mark.parametrize("text", SPECS, ids=name_of)
def test_threads_and_chunks_change_no_bit(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    thetas, steps = problem()
    alone = all_bits(run(text, thetas, steps))
    for threads, most in ((2, native.MOST_CHUNKS), (1, 4), (2, 4), (1, 1)):
        monkeypatch.setattr(native, "MOST_CHUNKS", most)
        torch.set_num_threads(threads)
        other = all_bits(run(text, thetas, steps))
        assert all(same_bits(a, b) for a, b in zip(alone, other, strict=True)), (threads, most)


@pytest.mark.parametrize("text", SPECS, ids=name_of)
def test_other_tensors_of_a_batch_change_no_bit(text: str) -> None:
    thetas, steps = problem()
    whole = run(text, thetas, steps)
    for at, theta in enumerate(thetas):
        (alone,), (states,) = run(text, [theta], [[step[at]] for step in steps])
        assert same_bits(alone, whole[0][at])
        assert all(same_bits(states[key], whole[1][at][key]) for key in states if key != "step")


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
@pytest.mark.parametrize("text", SPECS, ids=name_of)
def test_what_is_in_one_tensor_stays_there(text: str, bad: float) -> None:
    thetas, steps = problem()
    clean = run(text, thetas, steps)
    for step in steps:
        step[3] = torch.full_like(step[3], bad)
    spoiled = run(text, thetas, steps)
    for at in range(len(thetas)):
        if at != 3:
            assert same_bits(spoiled[0][at], clean[0][at])
            assert all(same_bits(spoiled[1][at][key], clean[1][at][key]) for key in clean[1][at] if key != "step")
