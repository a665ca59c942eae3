"""Every exchange of a step is needed, one at a time, and so is what ZeRO 1 sends: parity turns red without any of them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.dist import mutations
from tests.dist.crew import Crew

EXCHANGES: dict[str, tuple[dict[str, Any], int]] = {
    "LAMB + clip_global_norm(0.05)": ({}, 2),
    "Prodigy": ({"d0": 0.01}, 1),  # a d that moves within four steps
    "CAME": ({}, 3),
    "Adafactor": ({}, 2),
}
"""Hypers, and how many exchanges there are."""


@pytest.mark.parametrize("layout", ["fsdp", "zero1"])
@pytest.mark.parametrize("name", EXCHANGES)
def test_no_exchange_is_superfluous(two: Crew, name: str, layout: str) -> None:
    hypers, exchanges = EXCHANGES[name]
    for right, *wrong in two.run(mutations.without_one_exchange, name, layout, 2, hypers):
        assert right <= 1e-6 and len(wrong) == exchanges and min(wrong) > 1e-5, (right, wrong)


@pytest.mark.parametrize("name", ["AdamW", "LAMB"])
def test_zero1_must_send_what_it_updates(two: Crew, name: str) -> None:
    assert min(two.run(mutations.without_gathering, name, 2)) > 1e-5
