"""Models trained on every engine beside one process with the whole batch."""

from __future__ import annotations

import pytest

from tests.dist.crew import Crew, Failed
from tests.dist.training import ENGINES, trained

CODED = 2e-4
"""Gradients differ in their last bits, as they are added up in another order; a moment may then be rounded to the next of 256
levels, 2 % away, and ten steps of 1e-3 differ by as much of them."""
DISTRIBUTED = [engine for engine in ENGINES if engine != "plain"]


@pytest.mark.parametrize("engine", DISTRIBUTED)
@pytest.mark.parametrize("name", ["AdamW", "LAMB", "Adafactor", "Prodigy", "AdamW8bit", "AdamW + clip_global_norm"])
def test_engines_train_as_one_process_does(four: Crew, engine: str, name: str) -> None:
    if engine == "tensor" and name in ("Prodigy", "AdamW8bit"):
        with pytest.raises(Failed, match="its parts do not follow one another in memory"):
            four.run(trained, engine, name)
        return
    assert max(four.run(trained, engine, name)) < (CODED if "8bit" in name else 2e-6)


@pytest.mark.parametrize("engine", ["zero1", "stage1", "stage2", "stage3"])
def test_gradients_accumulate_over_microbatches(two: Crew, engine: str) -> None:
    assert max(two.run(trained, engine, "LAMB", 2)) < 2e-6
