"""Every optimizer on parameters that are divided in every way, on every backend, beside itself on whole ones."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod

import pytest
import torch

import optc
from optc.runtime import communication, registry
from tests.dist.crew import Crew
from tests.dist.layouts import LAYOUTS, SHAPES
from tests.dist.parity import compare

NAMES = optc.available()
SAMPLE = ("Adafactor", "Adalite", "AdamW8bit", "AdamWFactored", "CAME", "Gravity", "LAMB", "LARS", "Prodigy", "RACS", "SGD")
"""What differs most in what it measures and keeps."""

LAUNCHED = ("Adafactor", "Gravity", "LAMB", "RACS", "SGD")
SMALL = ((5, 6), (1, 4), (7,), (), (4, 3, 5))

VECTORS = {"AdamG", "AdamWFp8", "Aida", "AliG", "MADGRAD", "PSGLD", "SGLD"}
"""Their functions (powers, logarithms, cosines) are computed in vectors, otherwise at the end of a tensor: a bit may differ."""

ON_PYTORCH = VECTORS | {"AdamATan2", "HNAdam"}
"""The same of PyTorch's own functions."""

NOISE = {"OrthoAdamW"}
"""Of a tensor of one element nothing is orthogonal: what is left is rounding, which is scaled up. Native code rounds alike."""

SCALES = {"AdamW4bitRank1", "AdamWFactored"}
"""Small parameters, too, are kept as codes, and parts of some cut through a block."""


def silent(name: str) -> bool:
    """Whether processes tell each other nothing: every element is updated from what is beside it."""
    schema = registry.lookup(name).schema
    shapes = [torch.Size((8, 8)), torch.Size((8,))]
    return not communication.of_shapes(schema, schema.defaults, shapes)


def check(found: dict[str, float | str], layout: str, names: Sequence[str], vectors: Collection[str] = VECTORS) -> None:
    """The same bits where nothing is measured over a tensor; ≤ 1e-6 elsewhere; refusals only where a term forbids it."""
    assert set(found) == set(names)
    for name, outcome in found.items():
        if isinstance(outcome, str):
            known = name in SCALES if layout in ("fsdp", "hsdp", "strided") else layout in ("columns", "grid")
            assert known and ("in blocks of" in outcome or "each element" in outcome or "p-th element" in outcome), outcome
        elif silent(name) and name not in vectors:
            assert outcome == 0, (name, outcome)
        else:
            assert outcome <= 1e-6, (name, outcome)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_samples_in_pytorch(four: Crew, layout: str) -> None:
    for found in four.run(compare, SAMPLE, layout, 4, "torch", SHAPES, 4):
        check(found, layout, SAMPLE)


@pytest.mark.parametrize("layout", ["fsdp", "columns", "zero1"])
def test_samples_on_triton(two: Crew, layout: str) -> None:
    """Its interpreter takes milliseconds for every launch."""
    for found in two.run(compare, LAUNCHED, layout, 2, "triton", SMALL, 3):
        check(found, layout, LAUNCHED)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_every_optimizer_on_the_other_backends(four: Crew, backend: str, layout: str) -> None:
    names = [name for name in NAMES if name not in NOISE]
    for found in four.run(compare, names, layout, 4, backend, patience=3600):
        check(found, layout, names, ON_PYTORCH if backend == "torch" else VECTORS)
    for found in four.run(compare, [*NOISE], layout, 4, backend, [shape for shape in SHAPES if prod(shape) > 1]):
        check(found, layout, [*NOISE])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_optimizer_natively(four: Crew, layout: str) -> None:
    for found in four.run(compare, NAMES, layout, 4, "native", patience=400):
        check(found, layout, NAMES)
