"""Optimizers that keep codes, ours beside those of torchao and bitsandbytes, on equal gradients; and what they keep."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from optc.dsl import nodes
from optc.dsl.program import Storage
from optc.dsl.storages import resolve
from optc.runtime.codebook import Codebook
from optc.runtime.optimizer import Optimizer

Codes: TypeAlias = NDArray[np.int64]
InMemory: TypeAlias = Mapping[str, tuple[Tensor, Tensor]]
"""By the keys of states: the bytes of codes, flat, and the scales of blocks."""


@contextmanager
def quietly() -> Iterator[None]:
    """Where libraries are imported that log which of their extensions they lack, and use what is deprecated."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def one_thread() -> Iterator[None]:
    """Small tensors are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def storage_of(name: str) -> Storage:
    """A shipped storage."""
    found = resolve(nodes.Kept("x", name), ())
    assert isinstance(found, Storage), found
    return found


@cache
def book_of(name: str) -> Codebook:
    """What the codes of a shipped storage mean."""
    s = storage_of(name)
    assert s.ties in ("up", "down", "even")
    return Codebook(s.name, s.levels, s.block, s.ties, s.unit, s.least, s.smallest)  # type: ignore[arg-type]


def books_of(optimizer: Optimizer) -> dict[str, Codebook]:
    """What the codes of an optimizer mean, by the keys of its states."""
    return {s.key: s.storage for s in optimizer.schema.states if isinstance(s.storage, Codebook)}


def codes_in(memory: Tensor, book: Codebook) -> Codes:
    """Codes one by one; of two in a byte the first is in the high half."""
    flat = memory.reshape(-1).numpy()
    return (flat if book.bits == 8 else np.stack((flat >> 4, flat & 15), axis=-1).reshape(-1)).astype(np.int64)


@cache
def ranks(levels: tuple[float, ...]) -> Codes:
    """Where the level of each code stands among all levels; 0 and -0 at the same place."""
    values = np.array(levels, dtype=np.float32)
    return np.searchsorted(np.unique(values[~np.isnan(values)]), values)


@dataclass(slots=True)
class Difference:
    """How far two runs are apart.

    `theta`: the largest difference of parameters, as a share of 1 + |θ|, and `exempt` that of those without codes; `off` of
    `numbers` differ by more than 1e-6. `scale`: the same of scales, as a share of them. `flips` of `codes` differ, by `levels`
    at most.
    """

    theta: float = 0.0
    exempt: float = 0.0
    off: int = 0
    numbers: int = 0
    scale: float = 0.0
    flips: int = 0
    codes: int = 0
    levels: int = 0

    def see_parameter(self, ours: Tensor, theirs: Tensor, coded: bool) -> None:
        """Takes account of a parameter after a step."""
        apart = (ours - theirs).detach().abs() / (1 + theirs.detach().abs())
        worst = float(apart.max())
        self.theta, self.exempt = max(self.theta, worst), max(self.exempt, 0.0 if coded else worst)
        self.off, self.numbers = self.off + int((apart > 1e-6).sum()), self.numbers + ours.numel()

    def see_memory(self, ours: InMemory, theirs: InMemory, books: Mapping[str, Codebook]) -> None:
        """Takes account of codes. Blocks whose scale is 0 on both sides are zeros, whatever their codes."""
        assert set(ours) == set(theirs) <= set(books)
        for key, (codes, scales) in ours.items():
            book, (other_codes, other_scales) = books[key], theirs[key]
            assert codes.shape == other_codes.shape and scales.shape == other_scales.shape
            rank = ranks(book.levels)
            found, expected = rank[codes_in(codes, book)], rank[codes_in(other_codes, book)]
            zeros = ((scales == 0) & (other_scales == 0)).numpy().repeat(book.block)[: len(found)]
            apart = np.where(zeros, 0, np.abs(found - expected))
            self.codes, self.flips = self.codes + len(apart), self.flips + int((apart > 0).sum())
            self.levels = max(self.levels, int(apart.max()))
            self.scale = max(self.scale, float(((scales - other_scales).abs() / other_scales.clamp(min=1e-30)).max()))


def in_memory(optimizer: Optimizer, p: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What one of our optimizers keeps as codes for a parameter."""
    slot = optimizer.state[p]
    return {key: (entry.view(-1), slot[f"{key}_scale"]) for key, entry in slot.items() if f"{key}_scale" in slot}


def side_by_side(
    ours: Optimizer,
    theirs: torch.optim.Optimizer,
    exported: Callable[[Mapping[str, Any]], InMemory],
    steps: int,
    imports: bool,
    zeros: bool = True,
) -> Difference:
    """Both on equal gradients; with `zeros` they are 0 over whole blocks in every second step. lr is halved in the middle.

    With `imports` ours starts each step from the codes of theirs. Raises AssertionError where not the same states of the same
    parameters are codes.
    """
    generator, seen = torch.Generator().manual_seed(2), Difference()
    for step in range(steps):
        for p, q in pairs(ours, theirs):
            p.grad = torch.randn(p.shape, generator=generator) * 0.1
            if zeros and step % 2 == 0 and p.ndim:
                p.grad[: p.shape[0] // 4] = 0
            q.grad = p.grad.clone()
        ours.step()
        theirs.step()
        for p, q in pairs(ours, theirs):
            mine, other = in_memory(ours, p), exported(theirs.state[q])
            seen.see_parameter(p, q, bool(other))
            seen.see_memory(mine, other, books_of(ours))
            for key in mine if imports else ():
                for kept, given in zip(mine[key], other[key], strict=True):
                    kept.copy_(given)
        if step == steps // 2:
            for optimizer in (ours, theirs):
                optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"] * 0.5
    return seen


def pairs(ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    """Parameters of both."""
    for group, other in zip(ours.param_groups, theirs.param_groups, strict=True):
        yield from zip(group["params"], other["params"], strict=True)


def starts(shapes: Sequence[tuple[int, ...]]) -> list[list[nn.Parameter]]:
    """The same parameters twice."""
    generator = torch.Generator().manual_seed(1)
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    return [[nn.Parameter(x.clone()) for x in values] for _ in range(2)]
