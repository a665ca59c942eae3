"""torch.distributed.checkpoint by itself saves and loads optimizers, in other numbers of processes, nested and flattened."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dist import dcp
from tests.dist.crew import Crew
from tests.dist.training import difference

NAMES = ["AdamW", "Adafactor", "AdamW8bit", "Prodigy"]
CLOSE = 1e-12
"""How far three steps in float64 may be apart whose gradients are added up in another order."""


def check(saving: Crew, loading: Crew, engine: str, name: str, path: Path, flat: bool) -> None:
    """Training goes on as if it had not been interrupted, on all processes that load."""
    expected = saving.run(dcp.saved, engine, name, path, flat)[0]
    for loaded, found in loading.run(dcp.resumed, engine, name, path, flat):
        assert difference(loaded, expected) > 1e-9  # three steps matter
        assert difference(found, expected) <= CLOSE


@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flattened"])
@pytest.mark.parametrize("name", NAMES)
def test_fsdp_on_four_processes_then_on_two(four: Crew, two: Crew, tmp_path: Path, name: str, flat: bool) -> None:
    check(four, two, "stage3", name, tmp_path, flat)


@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flattened"])
@pytest.mark.parametrize("name", NAMES)
def test_zero1_then_zero1(two: Crew, tmp_path: Path, name: str, flat: bool) -> None:
    check(two, two, "zero1", name, tmp_path, flat)
