"""What `optc.export_state` refuses: what bitsandbytes or torchao could not go on from, with the reason."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch

import optc
from optc.generated import Adagrad8bit, Adam8bit, AdamW4bit, AdamW8bit, AdamWFp8, SGD8bit
from tests.runtime.training import parameters, train

LEVELS = r"kept as {}, and {} keeps it as {}: load this optimizer's state dict into one with storing = \{{'{}': '{}'\}}"
REFUSED: dict[str, tuple[Any, Mapping[str, Any], str, str]] = {
    "amsgrad": (
        AdamW8bit,
        {"amsgrad": True},
        "bitsandbytes",
        "group 0: amsgrad = True, but AdamW8bit of",
    ),
    "amsgrad in torchao": (
        AdamW8bit,
        {"amsgrad": True},
        "torchao",
        "group 0: amsgrad = True, but AdamW8bit of",
    ),
    "maximize": (AdamW8bit, {"maximize": True}, "torchao", "group 0: maximize = True"),
    "an L2 penalty": (Adam8bit, {"weight_decay": 0.1}, "bitsandbytes", "group 0: decoupled_weight_decay = False"),
    "Nesterov": (SGD8bit, {"momentum": 0.9, "nesterov": True}, "bitsandbytes", "group 0: nesterov = True"),
    "no momentum": (SGD8bit, {"momentum": 0}, "bitsandbytes", "group 0: momentum = 0.0, without which"),
    "momentum": (optc.compile("rmsprop"), {"momentum": 0.9}, "bitsandbytes", "group 0: momentum = 0.9, but RMSprop8bit"),
    "other levels": (Adagrad8bit, {}, "bitsandbytes", LEVELS.format("udynamic8", "bitsandbytes", "dynamic8", "G", "dynamic8")),
    "four bits": (AdamW4bit, {}, "bitsandbytes", LEVELS.format("linear4", "bitsandbytes", "udynamic8", "v", "udynamic8")),
    "floats of eight bits": (AdamWFp8, {}, "bitsandbytes", "parameter 0: 'exp_avg' is kept as e4m3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_library_cannot_go_on_from_is_refused(case: str, torchao: Any) -> None:
    kind, hypers, library, message = REFUSED[case]
    params = parameters(((64, 64), (5,)))
    ours = kind(params, **hypers)
    train([0], (ours, params))
    with pytest.raises(ValueError, match=message) as error:
        optc.export_state(ours, library)  # type: ignore[arg-type]
    assert str(error.value).startswith(f"{library} could not continue from this state of {kind.__name__}:\n  ")


def test_blocks_of_another_length_are_refused() -> None:
    kind = optc.compile("lion", storing={"m": "dynamic8(128)"})
    params = parameters(((64, 64),))
    ours = kind(params)
    train([0], (ours, params))
    with pytest.raises(ValueError, match=r"parameter 0: 'exp_avg' is kept as dynamic8\(block = 128\), and bitsandbytes"):
        optc.export_state(ours, "bitsandbytes")


def test_one_state_in_codes_and_one_in_numbers() -> None:
    """torchao takes each as it is, bitsandbytes both alike."""
    kind = optc.compile("adamw", storing={"m": "dynamic8"})
    params = parameters(((64, 64),))
    ours = kind(params)
    train([0], (ours, params))
    with pytest.raises(
        ValueError,
        match="as codes or none, here are 'exp_avg' as codes, 'exp_avg_sq' as numbers",
    ):
        optc.export_state(ours, "bitsandbytes")


@pytest.mark.parametrize("name", ["lamb_8bit", "prodigy_8bit", "adamw_8bit_split", "cautious_adamw", "yogi", "adamw_sn"])
@pytest.mark.parametrize("library", ["bitsandbytes", "torchao"])
def test_rules_that_a_library_lacks_are_refused(name: str, library: Any) -> None:
    ours = optc.create(name, parameters())
    with pytest.raises(ValueError, match=f"^{library} has no optimizer that goes on as {type(ours).__name__} does: only "):
        optc.export_state(ours, library)


def test_wrong_arguments_are_refused() -> None:
    params = parameters()
    with pytest.raises(ValueError, match="library = 'bnb', but it must be one of 'bitsandbytes', 'torchao'"):
        optc.export_state(AdamW8bit(params), "bnb")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^optc\.export_state needs an optimizer of optc, not torch\.optim\.AdamW: make it"):
        optc.export_state(torch.optim.AdamW(params), "torchao")  # type: ignore[arg-type]
    wide = parameters(dtype=torch.float64)
    ours = AdamW8bit(wide)
    train([0], (ours, wide))
    with pytest.raises(ValueError, match="parameter 0: it is float64, and torchao computes in float32"):
        optc.export_state(ours, "torchao")


def test_without_torchao_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    params = parameters(((64, 64),))
    ours = AdamW8bit(params)
    train([0], (ours, params))
    monkeypatch.setitem(sys.modules, "torchao.optim.subclass_8bit", None)
    with pytest.raises(ImportError, match="install it"):
        optc.export_state(ours, "torchao")
