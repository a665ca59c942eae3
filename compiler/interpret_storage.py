"""What a storage leaves of a value: the oracle's states go through it at the end of a step, as through memory.

Written for its meaning, not for speed: every level is looked at for every number.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from optc.dsl.program import Storage

Array: TypeAlias = npt.NDArray[np.float64]


def through_memory(value: Array, storage: Storage, new: bool = False, dither: Array | None = None) -> Array:
    """The value as the next step finds it. Codes and scales are float32; what is not finite does not count for its block.

    Blocks of zeros of a `new` state are zeros, also where no level is 0, but with a scale of 1. With `dither`,
    numbers from [0, 1) for each of the value's, codes are those of one of the two levels beside a number.
    """
    if storage.dtype is not None:
        return _as_dtype(value, storage.dtype)
    if value.size < storage.smallest or not value.size:
        return value
    with np.errstate(all="ignore"):
        x = value.astype(np.float32).reshape(-1)
        cuts = [slice(first, first + storage.block) for first in range(0, x.size, storage.block)]
        u = np.zeros(0) if dither is None else dither.reshape(-1)
        zeros = new and not storage.fixed
        kept = [
            x[cut] if zeros and not x[cut].any() else _block(x[cut], storage, None if dither is None else u[cut])
            for cut in cuts
        ]
    return np.concatenate(kept).astype(np.float64).reshape(value.shape)


def _block(x: npt.NDArray[np.float32], storage: Storage, dither: Array | None) -> npt.NDArray[np.float32]:
    if storage.bits == 1:  # a bit: what it keeps has a scale of 1
        return np.where(x > 0, np.float32(1), np.float32(-1))
    size = np.abs(x[np.isfinite(x)])
    scale = np.maximum(size.max(initial=np.float32(0)), np.float32(storage.least)) / np.float32(storage.unit)
    if storage.fixed:
        scale = np.float32(1)
    ratio = x / scale if scale > 0 else np.zeros_like(x)
    ratio = np.where(np.isnan(x), np.float32(0), ratio)
    codes = _nearest(ratio.astype(np.float64), storage)
    levels = np.array(storage.levels, dtype=np.float32)
    if dither is not None:
        above = ratio > levels[codes]
        others = np.concatenate([levels, [np.float32(np.nan)]])[np.where(above, codes + 1, np.where(codes > 0, codes - 1, -1))]
        share = (ratio - levels[codes]) / (others - levels[codes])
        away = (levels[codes] * scale != x) & (dither < share)
        codes = np.where(away, np.where(above, codes + 1, codes - 1), codes)
    kept: npt.NDArray[np.float32] = levels[codes] * scale
    return kept


def _nearest(ratio: Array, storage: Storage) -> npt.NDArray[np.intp]:
    """The codes of the nearest levels. Numbers are compared with what is halfway between two levels: distances would round."""
    levels = np.array(storage.levels, dtype=np.float32).astype(np.float64)
    order = np.array([code for code in np.argsort(levels, kind="stable") if not np.isnan(levels[code])])
    order = order[np.concatenate([[True], np.diff(levels[order]) > 0])]  # 0 and -0 are one level
    halfway = (levels[order[1:]] + levels[order[:-1]]) / 2
    above = (ratio[:, None] > halfway).sum(axis=1)
    tied = (ratio[:, None] == halfway).any(axis=1)
    upper = order[np.minimum(above + 1, len(order) - 1)]
    upward = {"up": np.True_, "down": np.False_, "even": upper % 2 == 0}[storage.ties]
    found: npt.NDArray[np.intp] = np.where(tied & upward, upper, order[above])
    return found


def _as_dtype(value: Array, dtype: str) -> Array:
    if dtype == "bfloat16":
        bits = value.astype(np.float32).view(np.uint32).astype(np.uint64)
        rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)
        return np.where(np.isnan(value), np.nan, rounded.astype(np.float64))
    kinds: dict[str, Any] = {"float64": np.float64, "float32": np.float32, "float16": np.float16}
    with np.errstate(over="ignore"):
        return value.astype(kinds[dtype]).astype(np.float64)
