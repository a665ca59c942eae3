"""Every optimizer on parameters that are divided in every way, on every backend, beside itself on whole ones."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from math import prod

import pytest
import torch

import optc
from optc.runtime import communication, registry
from tests.dist.crew import PATIENCE, Crew
from tests.dist.layouts import IN_BLOCKS, LAYOUTS, OF_ANY_SIZE, SHAPES
from tests.dist.parity import STEPS, compare, in_bfloat16

NAMES = optc.available()
SAMPLE = (
    "Adafactor",
    "Adalite",
    "AdamW8bit",
    "AdamWBf16Stochastic",
    "CAME",
    "Gravity",
    "LAMB",
    "LARS",
    "Prodigy",
    "RACS",
    "SGD",
)
"""What differs most in what it measures and keeps."""

LAUNCHED = ("Adafactor", "AdamWBf16Stochastic", "Gravity", "LAMB", "RACS", "SGD")
SMALL = ((5, 6), (1, 4), (7,), (), (4, 3, 5))

ON_TRITON = {"AdamG", "AdamWFp8", "Aida", "AliG", "MADGRAD", "PSGLD", "SGLD"}
"""Triton's interpreter computes by NumPy, which has their powers, logarithms and cosines in vectors and others at the end of a
tensor: a bit may differ."""

ON_PYTORCH = ON_TRITON | {"AdamATan2", "HNAdam"}
"""The same of PyTorch's functions. Native code has its own, which have the same bits everywhere: it needs no such list."""

NOISE = {"OrthoAdamW"}
"""Of a tensor of one element nothing is orthogonal: what is left is rounding, which is scaled up. Native code rounds alike."""


def silent(name: str) -> bool:
    """Whether processes tell each other nothing: every element is updated from what is beside it."""
    schema = registry.lookup(name).schema
    shapes = [torch.Size((8, 8)), torch.Size((8,))]
    return not communication.of_shapes(schema, schema.defaults, shapes)


def check(found: dict[str, float | str], names: Collection[str], vectors: Collection[str] = ()) -> None:
    """The same bits where nothing is measured over a tensor; ≤ 1e-6 elsewhere; nothing is refused."""
    assert set(found) == set(names)
    for name, outcome in found.items():
        assert not isinstance(outcome, str), (name, outcome)
        assert outcome <= (0 if silent(name) and name not in vectors else 1e-6), (name, outcome)


def shapes_for(name: str, layout: str, backend: str) -> Sequence[Sequence[int]]:
    """Parameters that are hard to divide; easier ones where all must be whole blocks of codes, or one element is noise."""
    if name in OF_ANY_SIZE and layout != "zero1":  # which cuts between blocks
        return IN_BLOCKS
    return [shape for shape in SHAPES if prod(shape) > 1] if name in NOISE and backend != "native" else SHAPES


def compared(
    crew: Crew, names: Sequence[str], layout: str, backend: str, patience: float, steps: int = STEPS
) -> Iterator[dict[str, float | str]]:
    """What each process finds of these optimizers."""

    def shapes(name: str) -> Sequence[Sequence[int]]:
        return shapes_for(name, layout, backend)

    kinds = groupby(sorted(names, key=lambda name: len(shapes(name))), shapes)
    parts = [crew.run(compare, [*own], layout, crew.size, backend, of, steps, patience=patience) for of, own in kinds]
    yield from ({name: x for one in of_process for name, x in one.items()} for of_process in zip(*parts, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_samples_in_pytorch(four: Crew, layout: str) -> None:
    names = [*SAMPLE, "AdamWFactored"]
    for found in compared(four, names, layout, "torch", PATIENCE, 4):
        check(found, names)


@pytest.mark.parametrize("layout", ["fsdp", "columns", "zero1"])
def test_samples_on_triton(two: Crew, layout: str) -> None:
    """Its interpreter takes milliseconds for every launch."""
    for found in two.run(compare, LAUNCHED, layout, 2, "triton", SMALL, 3):
        check(found, LAUNCHED)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_every_optimizer_on_the_other_backends(four: Crew, backend: str, layout: str) -> None:
    for found in compared(four, NAMES, layout, backend, patience=3600):
        check(found, NAMES, ON_PYTORCH if backend == "torch" else ON_TRITON)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_optimizer_natively(four: Crew, layout: str) -> None:
    for found in compared(four, NAMES, layout, "native", patience=600):
        check(found, NAMES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bfloat16_parameters_are_the_same_to_the_bit(four: Crew, layout: str) -> None:
    """Alone, with what they lack beside them, and rounded at random."""
    names = ["AdamW", "AdamWKahan", "AdamWMaster", "AdamW8bitSplit", "AdamWBf16Stochastic"]
    for found in four.run(in_bfloat16, names, layout, 4):
        assert found == dict.fromkeys(names, 0.0)


@pytest.mark.parametrize("layout", ["fsdp", "columns"])
def test_parts_that_cut_through_blocks_are_refused(four: Crew, layout: str) -> None:
    for found in four.run(compare, sorted(OF_ANY_SIZE), layout, 4, "native"):
        for outcome in found.values():
            assert re.search(r"in blocks of \d+ elements, and a part begins at element \d+, inside of one", str(outcome)), (
                outcome
            )
