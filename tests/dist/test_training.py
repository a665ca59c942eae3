"""Models trained on every engine beside one process with the whole batch."""

from __future__ import annotations

import pytest

from tests.dist.crew import Crew
from tests.dist.test_parity import NAMES, check
from tests.dist.training import ENGINES, beside_whole, trained

DISTRIBUTED = [engine for engine in ENGINES if engine != "plain"]


@pytest.mark.parametrize("engine", DISTRIBUTED)
@pytest.mark.parametrize("name", ["AdamW", "LAMB", "Adafactor", "Prodigy", "AdamW8bit", "AdamW + clip_global_norm"])
def test_engines_train_as_one_process_does(four: Crew, engine: str, name: str) -> None:
    assert max(four.run(trained, engine, name)) < 1e-12


@pytest.mark.parametrize("engine", ["zero1", "stage1", "stage2", "stage3"])
def test_every_optimizer_with_the_gradients_of_an_engine(two: Crew, engine: str) -> None:
    for found in two.run(beside_whole, engine, NAMES, 3, patience=300):
        check(found, NAMES)


@pytest.mark.parametrize("engine", ["hsdp", "tensor"])
def test_every_optimizer_with_the_gradients_of_two_ways_at_once(four: Crew, engine: str) -> None:
    for found in four.run(beside_whole, engine, NAMES, 3, patience=300):
        check(found, NAMES)


@pytest.mark.parametrize("engine", ["zero1", "stage1", "stage2", "stage3"])
def test_gradients_accumulate_over_microbatches(two: Crew, engine: str) -> None:
    assert max(two.run(trained, engine, "LAMB", 2)) < 1e-12
