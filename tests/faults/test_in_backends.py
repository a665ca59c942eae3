"""Faults in emitters are caught. All of them: `python -m tests.faults.in_backends host torch native triton`."""

from __future__ import annotations

import pytest

from tests.faults.in_backends import KINDS, TextFault, compilation, faults, outcome, score
from tests.faults.score import NEEDED

SAMPLE = {
    "host": ("adam/adamw", "adam/radam", "adam/nadam"),
    "torch": ("adam/adamw", "momentum/sgd", "adam/adan", "sign/lion"),
    "native": ("adam/adamw",),
    "triton": ("sign/lion",),
}


def check(chosen: list[TextFault]) -> None:
    counts, missed = score(chosen)
    real = counts["caught"] + counts["missed"]
    assert real >= len(chosen) / 2
    assert counts["caught"] >= NEEDED * real, missed


@pytest.mark.parametrize("backend", KINDS)
def test_sample_is_caught(backend: str) -> None:
    check(list(faults(backend, SAMPLE[backend])))


@pytest.mark.slow
@pytest.mark.parametrize("backend", KINDS)
def test_all_are_caught(backend: str) -> None:
    check(list(faults(backend)))


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_unchanged_code_is_not_caught(backend: str) -> None:
    assert outcome(TextFault("adam/adamw", backend, "none", compilation("adam/adamw").module), 0) == "missed"
