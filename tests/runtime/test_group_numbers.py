"""Numbers and other arguments of `optc.groups` that are none: one sentence, whatever they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from optc import groups

MODEL = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
NO_NUMBERS: list[Any] = ["0.1", True, -0.5, float("nan"), float("inf"), 1j, [0.1], torch.ones(2), torch.tensor(-1.0)]


def depth(name: str) -> int:
    return int(name[0])


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
@pytest.mark.parametrize(
    ("make", "head", "allowed"),
    [
        (lambda x: groups.no_decay(MODEL, x), "weight_decay", r"\[0, inf\)"),
        (lambda x: groups.layerwise(MODEL, 0.1, depth=depth, weight_decay=x), "weight_decay", r"\[0, inf\)"),
        (lambda x: groups.layerwise(MODEL, x, depth=depth), "layerwise: lr", r"\[0, inf\)"),
        (lambda x: groups.layerwise(MODEL, 0.1, x, depth=depth), "layerwise: decay", r"\(0, 1\]"),
    ],
    ids=["no_decay", "layerwise with decay", "rate", "fall"],
)
def test_what_is_no_number_of_the_range_is_told(make: Callable[[Any], Any], head: str, allowed: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{head} = .*, but it must be a number in {allowed}$"):
        make(value)


@pytest.mark.parametrize("number", [1, 0.5, torch.tensor(0.5), torch.tensor([0.5])], ids=repr)
def test_numbers_of_any_kind_are_taken(number: Any) -> None:
    found = groups.layerwise(MODEL, number, number, depth=depth, weight_decay=number)
    assert {float(group["weight_decay"]) for group in found} == {0.0, float(number)}
    assert sorted({float(group["lr"]) for group in found}) == sorted({float(number), float(number) ** 2})


@pytest.mark.parametrize("params", [None, 3], ids=repr)
def test_what_has_no_parameters_is_told(params: Any) -> None:
    with pytest.raises(TypeError, match=f"^groups are made of a model, .*, or of groups, not of {type(params).__name__}$"):
        groups.no_decay(params)


def test_what_is_no_rule_and_no_depth_is_told() -> None:
    with pytest.raises(
        TypeError, match=r"^rules are a dict, or pairs of a pattern or function and a dict of options, not None$"
    ):
        groups.override(MODEL, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^layerwise: depth = 3, but it must be a function from a name to a whole number$"):
        groups.layerwise(MODEL, 0.1, depth=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^rule 0 must be a pair"):
        groups.override(MODEL, {"*": "AdamW"})  # type: ignore[arg-type]
