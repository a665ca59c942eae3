"""States that are codes in a file, or will be here: copied where they mean the same, else decoded and kept anew.

A state dict says in its groups what its codes mean, level by level: it can be read by whoever keeps the state otherwise. All of
it is data from outside, and looked at before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from optc.runtime.backend import arithmetic_dtype
from optc.runtime.codebook import BLOCKS, Codebook
from optc.runtime.schema import Schema, State
from optc.runtime.state import Home
from optc.runtime.storage import PIECE, codes_shape, encoded, kept_dtype, readable, taken

STORING = "storing"
"""The key of a state dict's groups under which it says what codes mean."""


def told(schema: Schema, group: dict[str, Any]) -> dict[str, Any]:
    """A group of a state dict with what its codes mean."""
    books = {
        s.key: {**asdict(s.storage), "levels": list(s.storage.levels)} for s in schema.states if isinstance(s.storage, Codebook)
    }
    return {**group, STORING: books} if books else group


@dataclass(frozen=True, slots=True)
class Kept:
    """One parameter's entries in a state dict without its scales, the scales by the keys of their codes, and the codebooks.

    `decoded`: the storages of states that stood for some of these numbers.
    """

    entries: Mapping[str, Any]
    scales: Mapping[str, Any]
    books: Mapping[str, Codebook]
    label: str
    decoded: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(
        group: Mapping[str, Any],
        saved: Mapping[str, Any],
        label: str,
        problems: list[str],
        decoded: Mapping[str, str] = MappingProxyType({}),
    ) -> Kept:
        """What a file has of a parameter of a group; appends to `problems` what is wrong with its codebooks."""
        entries = {key: entry for key, entry in saved.items() if entry is not None}
        scales = {}
        for key, entry in entries.items():
            codes = entries.get(key.removesuffix("_scale")) if isinstance(key, str) and key.endswith("_scale") else None
            if isinstance(codes, Tensor) and codes.dtype == torch.uint8:
                scales[key.removesuffix("_scale")] = entry
        described = group.get(STORING, {})
        books = {}
        for key in scales:
            book = codebook(described.get(key)) if isinstance(described, Mapping) else None
            if book is not None:
                books[key] = book
            elif isinstance(described, Mapping) and key in described:
                problems.append(f"{label}: what the file says of the codes of {key!r} is no codebook")
        of_scales = {f"{key}_scale" for key in scales}
        return Kept({k: v for k, v in entries.items() if k not in of_scales}, scales, books, label, decoded)

    def converted(self, state: State, home: Home, problems: list[str], changes: list[str]) -> dict[str, Tensor]:
        """The entries of a state as they are kept here, in memory of their own."""
        key, own, p = state.key, home.codebook(state), home.theta
        try:
            entry, scales, meant = self.stored(key, own, p)
        except ValueError as error:
            problems.append(f"{self.label}: {error}")
            return {}
        if scales is not None and own is not None and meant is not None and means_the_same(own, meant):
            return {key: entry.clone(), state.scale_key: scales}
        numbers, book = _numbers(entry, scales, meant, p), self.books.get(key)
        there = book.name if book else self.decoded.get(key, "numbers")
        changes.append(f"{key!r} is kept as {there} in the file and as {_name(state, own)} here: converted")
        if own is not None:
            return dict(zip((key, state.scale_key), encoded(numbers, own, p.device), strict=True))
        dtype = kept_dtype(state, arithmetic_dtype(p.dtype))
        return {key: torch.empty_like(p, dtype=dtype, requires_grad=False).copy_(numbers)}

    def stored(self, key: str, own: Codebook | None, p: Tensor) -> tuple[Tensor, Tensor | None, Codebook | None]:
        """Numbers, or codes with their scales and what they mean: `own`, where the file does not say.

        Raises ValueError where it is neither, for a parameter of p's shape.
        """
        entry, scales = self.entries[key], self.scales.get(key)
        if scales is None:
            if not readable(entry) or not entry.is_floating_point() or entry.shape != p.shape:
                raise ValueError(f"{key!r} must be numbers of shape {tuple(p.shape)}, or codes with {key + '_scale'!r}")
            return entry.detach(), None, None
        meant = self.books.get(key, own)
        if meant is None:
            raise ValueError(f"{key!r} are codes, and the file does not say what they mean")
        shape, blocks = codes_shape(meant, p.shape), meant.blocks_of(p.numel())
        fits = readable(scales) and scales.is_floating_point() and scales.shape == (blocks,)
        if not fits or entry.shape != shape or not readable(entry):
            raise ValueError(f"{key!r} must be codes of shape {shape} with {blocks} scales")
        kept = scales.detach().to(p.device, torch.float32, copy=True).contiguous()
        if not bool(((kept >= 0) & (kept < math.inf)).all()):  # what encoding never makes, and would turn signs around
            raise ValueError(f"the scales of {key!r} must be finite numbers, 0 or above")
        return entry.detach().to(p.device).contiguous(), kept, meant

    def numbers(self, key: str, p: Tensor) -> Tensor:
        """The numbers of a state. Raises ValueError as `stored` does."""
        return _numbers(*self.stored(key, None, p), p)


def _numbers(entry: Tensor, scales: Tensor | None, meant: Codebook | None, p: Tensor) -> Tensor:
    return entry if scales is None or meant is None else _decoded(entry, scales, meant, p)


def _name(state: State, own: Codebook | None) -> str:
    return own.name if own is not None else state.storage if isinstance(state.storage, str) else "numbers"


def means_the_same(a: Codebook, b: Codebook) -> bool:
    """Whether equal codes and scales are equal numbers."""
    levels = zip(a.levels, b.levels, strict=False)
    alike = len(a.levels) == len(b.levels) and a.block == b.block and a.fixed == b.fixed
    return alike and all(x == y or (x != x and y != y) for x, y in levels)


def _decoded(codes: Tensor, scales: Tensor, book: Codebook, p: Tensor) -> Tensor:
    numbers = torch.empty(p.shape, dtype=torch.float32, device=p.device)
    flat = numbers.view(-1)
    for first in range(0, p.numel(), PIECE):
        size = min(PIECE, p.numel() - first)
        flat[first : first + size] = taken(codes, scales, book, first, size)
    return numbers


def codebook(told: Any) -> Codebook | None:
    """What a file says codes mean; None where that is nothing of the kind."""
    if not isinstance(told, Mapping):
        return None
    levels, block, name = told.get("levels"), told.get("block"), told.get("name")
    if not isinstance(levels, Sequence) or len(levels) not in (2, 16, 256) or not all(isinstance(x, float) for x in levels):
        return None
    known = [x for x in levels if x == x]
    if len(set(known)) < 2 or max(map(abs, known)) > torch.finfo(torch.float32).max:
        return None
    fixed = told.get("fixed", False)
    if not isinstance(block, int) or block not in BLOCKS or not isinstance(name, str) or not isinstance(fixed, bool):
        return None
    # one NaN: equal codebooks are equal
    return Codebook(name, tuple(x if x == x else math.nan for x in levels), block, fixed=fixed)
