"""Our optimizers inside Accelerate and Lightning."""

from __future__ import annotations

import warnings

import pytest

from tests.dist.crew import Crew
from tests.dist.frameworks import accelerated, in_lightning
from tests.dist.training import difference


@pytest.mark.parametrize("zero1", [False, True])
@pytest.mark.parametrize("name", ["AdamW", "LAMB", "Adafactor"])
def test_accelerate_trains_as_one_process_does(two: Crew, name: str, zero1: bool) -> None:
    assert max(two.run(accelerated, 2, name, zero1)) < 2e-6


@pytest.mark.parametrize("name", ["AdamW", "LAMB", "AdamW8bit"])
def test_lightning_trains_as_a_loop_does(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert difference(*in_lightning(name)) == 0
