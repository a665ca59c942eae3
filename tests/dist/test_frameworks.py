"""Our optimizers inside Accelerate, Lightning and the Trainer of transformers."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

import optc
from tests.dist.crew import Crew
from tests.dist.frameworks import accelerated, accelerated_in_parts, in_deepspeed, in_lightning, in_transformers
from tests.dist.training import difference


@pytest.mark.parametrize("zero1", [False, True])
@pytest.mark.parametrize("name", ["AdamW", "LAMB", "Adafactor"])
def test_accelerate_trains_as_one_process_does(two: Crew, name: str, zero1: bool) -> None:
    assert max(two.run(accelerated, 2, name, zero1)) < 1e-12


def test_accelerate_divides_parameters_as_one_process_has_them() -> None:
    """In processes of their own, whose state of Accelerate nobody uses afterwards."""
    crew = Crew(2)
    try:
        for name in ("AdamW", "LAMB", "Adafactor", "AdamW8bit"):
            for replaced, apart in crew.run(accelerated_in_parts, 2, name):
                assert replaced and apart < 1e-12, name
    finally:
        crew.stop()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_takes_what_looks_at_elements_alone(two: Crew, stage: int) -> None:
    assert max(two.run(in_deepspeed, 2, "AdamW", stage)) < 2e-6


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("name", ["LAMB", "Adafactor"])
def test_others_tell_deepspeed_why_not(two: Crew, name: str, stage: int) -> None:
    for said in two.run(in_deepspeed, 2, name, stage):
        assert "flattened into a vector" in str(said) and f"{name} looks at each parameter" in str(said)


@pytest.mark.parametrize("name", ["AdamW", "LAMB", "AdamW8bit"])
def test_lightning_trains_as_a_loop_does(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert difference(*in_lightning(name)) == 0


def test_the_trainer_of_transformers_takes_a_class(tmp_path: Path) -> None:
    from optc.generated import AdamW

    hypers = {"lr": 1e-3, "betas": (0.8, 0.99), "weight_decay": 0.1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = in_transformers((AdamW, hypers), str(tmp_path))
        theirs = in_transformers((torch.optim.AdamW, hypers), str(tmp_path))
        composed = in_transformers((optc.compile("adamw", modifiers=["cautious"]), hypers), str(tmp_path))
    assert difference(ours, theirs) < 1e-6 and difference(ours, composed) > 1e-5
