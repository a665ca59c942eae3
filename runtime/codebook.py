"""Numbers kept as codes: the numbers of a block share a scale, and each is the nearest of a few levels.

A tensor is taken flat, in the order of its indices, and cut into blocks; the last one may be shorter. A block keeps the float32
`scale` = max(largest |x|, least)/unit, and for every x the code of the level that is nearest to x/scale. All of this is float32
arithmetic, correctly rounded, so that codes are the same bits in PyTorch (`storage.py`), native code (`codes.hpp`) and Triton
(`gpu_codes.py`). This file needs no PyTorch: the compiler prints what kernels must know of a codebook. Where the scale is
`fixed` it is 1, whatever the numbers are: those beyond the outermost levels are kept as these.

Rounded at random, a number between two levels is kept as one of them: as the one that is not nearest where its `dither`, a
number from [0, 1), is less than its share of the way from the nearest one, (x/scale - nearest)/(other - nearest). The mean is
the number, but for the rounding of x/scale. What a code stands for, and what is beyond the outermost levels, is as without.

What is not finite harms no neighbour: it does not count for the scale. NaN is kept as 0 (or the level nearest to it), and
infinities as the outermost levels. The update of the step in which they came up sees them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

import numpy as np

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

BLOCKS = tuple(2**k for k in range(6, 13))
"""Numbers that may share a scale."""

_MOST_SHIFT, _LEAST_SHIFT = 16, 8


@dataclass(frozen=True, slots=True)
class Codebook:
    """How blocks of numbers are kept.

    `levels` are float32 values by code, 256 of them (a byte per number), 16 (two numbers per byte, the first in the high half)
    or 2 (eight numbers per byte, the first in the lowest bit); levels that are NaN are never chosen. Two levels are -1 and 1,
    and so are the numbers that are kept: their scale is 1, and nobody looks at it. `block`: numbers that share a scale, a power
    of two from 64 to 4096. `ties`: which of two levels that are equally near is taken: the larger ("up"), the smaller ("down"),
    or the one of the even code. Tensors with fewer than `smallest` elements are not kept as codes. `fixed`: all scales are
    1, and nobody looks at them.
    """

    name: str
    levels: tuple[float, ...]
    block: int = 256
    ties: Literal["up", "down", "even"] = "down"
    unit: float = 1.0
    least: float = 0.0
    smallest: int = 0
    fixed: bool = False

    @property
    def scaled(self) -> bool:
        """Whether blocks have scales of their own."""
        return not self.fixed and self.bits > 1

    @property
    def bits(self) -> int:
        """Bits of one code."""
        return {256: 8, 16: 4, 2: 1}[len(self.levels)]

    @property
    def per_byte(self) -> int:
        """Codes in one byte."""
        return 8 // self.bits

    @property
    def together(self) -> int:
        """Numbers that are encoded at a time, or a part of them: those that share a scale, or a byte where there is none."""
        return self.block if self.scaled else 8 if self.bits == 1 else BLOCKS[0]

    def bytes_of(self, numel: int) -> int:
        """Bytes of the codes of so many numbers; of bits whole words of 32, which GPUs change at once."""
        return -(-numel // self.per_byte) if self.bits > 1 else -(-numel // 32) * 4

    def blocks_of(self, numel: int) -> int:
        """Blocks of so many numbers."""
        return -(-numel // self.block)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where the nearest level changes: x belongs to `codes[k]` if k of the ascending `bounds` are not above it."""

    bounds: Floats
    codes: np.ndarray[Any, np.dtype[np.uint8]]

    def of(self, x: Floats) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The codes of numbers that are in units of their scale; none is NaN."""
        return self.codes[np.searchsorted(self.bounds, x, side="right")]


@cache
def thresholds(book: Codebook) -> Thresholds:
    """Those of a codebook. Raises ValueError where two codes have the same level."""
    levels = np.array(book.levels, dtype=np.float32)
    known = np.flatnonzero(~np.isnan(levels))
    order = known[np.argsort(levels[known], kind="stable")]
    # -0 and 0 are one level: the first of their codes is the one that is chosen
    order = order[np.concatenate([[True], np.diff(levels[order]) > 0])]
    low, high = levels[order[:-1]].astype(np.float64), levels[order[1:]].astype(np.float64)
    middle = (low + high) / 2
    bounds = middle.astype(np.float32)
    upward = {"up": np.ones(len(bounds), bool), "down": np.zeros(len(bounds), bool), "even": order[1:] % 2 == 0}[book.ties]
    reached = bounds.astype(np.float64)
    short = (reached < middle) | ((reached == middle) & ~upward)
    bounds = np.where(short, np.nextafter(bounds, np.float32(np.inf)), bounds)
    return Thresholds(bounds, order.astype(np.uint8))


@dataclass(frozen=True, slots=True)
class Table:
    """The nearest level by one look-up: a bucket is all numbers that share a sign and the upper bits of |x|.

    There are `buckets` of each sign, positive ones first; bucket 0 is (bits(|x|) >> shift) = `base`. No bucket has more than
    one bound, so that an entry says everything: `outer << 24 | inner << 16 | from`: the code is `outer` where the lower bits
    (`shift` of them) of |x| are not below `from`, else `inner`. What is below all buckets, or beyond, belongs to the first or
    last.
    """

    entries: np.ndarray[Any, np.dtype[np.int32]]
    shift: int
    base: int
    buckets: int


@cache
def table(book: Codebook) -> Table:
    """That of a codebook. Raises ValueError where levels are too close for it."""
    found = thresholds(book)
    size = np.abs(found.bounds).view(np.int32).astype(np.int64)
    negative = np.signbit(found.bounds) | (found.bounds == 0)  # -0 is above a bound of 0, whatever its sign says
    # the magnitude at which |x| belongs to the outer side: negative x is on the lower side of a bound it is below
    size = size + negative
    for shift in range(_MOST_SHIFT, _LEAST_SHIFT - 1, -1):
        places = [size[negative == side] >> shift for side in (False, True)]
        if all(len(np.unique(of_sign)) == len(of_sign) for of_sign in places):
            break
    else:
        raise ValueError(f"{book.name}: levels are too close together")
    base = int((size >> shift).min()) - 1
    buckets = int((size >> shift).max()) + 2 - base
    starts = np.maximum(np.arange(buckets, dtype=np.int64) + base, 0) << shift
    entries = np.zeros((2, buckets), dtype=np.int64)
    for side in (0, 1):
        sign = -1.0 if side else 1.0
        inner = found.of(starts.astype(np.int32).view(np.float32) * np.float32(sign)).astype(np.int64)
        ends = starts + ((1 << shift) - 1)
        outer = found.of(ends.astype(np.int32).view(np.float32) * np.float32(sign)).astype(np.int64)
        first = np.zeros(buckets, dtype=np.int64)
        own = size[negative == bool(side)]
        first[(own >> shift) - base] = own & ((1 << shift) - 1)
        entries[side] = outer << 24 | inner << 16 | first
    return Table(entries.reshape(-1).astype(np.uint32).view(np.int32), shift, base, buckets)
