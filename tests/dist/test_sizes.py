"""Of the state each process has what its part of the parameters needs, to the byte."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.dist import sizes
from tests.dist.crew import Crew
from tests.dist.training import Net

Bytes = Callable[[int, int, int], int]
"""Of a parameter's state, by its elements that are here, by all of them, and by rows and columns of a matrix (else 0)."""

BLOCK, LARGE = 256, 4096
FORMULAS: dict[str, Bytes] = {
    "AdamW": lambda here, every, lines: 2 * 4 * here,
    "AdamW8bit": lambda here, every, lines: 2 * (here + 4 * -(-here // BLOCK)) if every >= LARGE else 2 * 4 * here,
    "LAMB": lambda here, every, lines: 2 * 4 * here,
    "Adafactor": lambda here, every, lines: 4 * lines if lines else 4 * here,  # rows and columns are small, and everywhere
}


def needed(name: str, place: int, parts: int) -> int:
    """Bytes of the state of `Net` in one of so many parts, cut by rows as torch.chunk cuts."""
    total = 0
    for p in Net().parameters():
        rows, inner = p.shape[0], p[0].numel()
        each = -(-rows // parts)
        here = max(0, min(each, rows - place * each)) * inner
        total += FORMULAS[name](here, p.numel(), sum(p.shape) if p.ndim == 2 else 0)
    return total


@pytest.mark.parametrize("name", FORMULAS)
def test_a_process_has_the_state_of_its_part(four: Crew, name: str) -> None:
    for engine in ("stage1", "stage2", "stage3"):
        assert four.run(sizes.state_bytes, engine, name) == [needed(name, rank, 4) for rank in range(4)], engine
    assert four.run(sizes.state_bytes, "hsdp", name) == [needed(name, rank % 2, 2) for rank in range(4)]


@pytest.mark.parametrize("engine", ["stage1", "stage2", "stage3", "hsdp"])
def test_even_parts_have_as_much_each(four: Crew, engine: str) -> None:
    elements, parts = 2 * 16 * 64 + 64 + 16, 2 if engine == "hsdp" else 4
    assert four.run(sizes.even_bytes, engine, "AdamW") == [2 * 4 * elements // parts] * 4
    assert len(set(four.run(sizes.even_bytes, engine, "Adafactor"))) == 1
