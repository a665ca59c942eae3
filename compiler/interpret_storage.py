"""What a storage leaves of a value: the oracle's states go through it at the end of a step, as through memory.

Written for its meaning, not for speed: every level is looked at for every number.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from optc.dsl.program import Storage

Array: TypeAlias = npt.NDArray[np.float64]

_AT_ONCE = 1 << 14
"""Numbers that are compared with all levels at once."""


def through_memory(value: Array, storage: Storage) -> Array:
    """The value as the next step finds it. Codes and scales are float32; what is not finite does not count for its block."""
    if storage.dtype is not None:
        return _as_dtype(value, storage.dtype)
    if value.size < storage.smallest or not value.size:
        return value
    with np.errstate(all="ignore"):
        x = value.astype(np.float32).reshape(-1)
        kept = [_block(x[first : first + storage.block], storage) for first in range(0, x.size, storage.block)]
    return np.concatenate(kept).astype(np.float64).reshape(value.shape)


def _block(x: npt.NDArray[np.float32], storage: Storage) -> npt.NDArray[np.float32]:
    size = np.abs(x[np.isfinite(x)])
    scale = np.maximum(size.max(initial=np.float32(0)), np.float32(storage.least)) / np.float32(storage.unit)
    ratio = x / scale if scale > 0 else np.zeros_like(x)
    codes = _nearest(np.where(np.isnan(x), np.float32(0), ratio).astype(np.float64), storage)
    kept: npt.NDArray[np.float32] = np.array(storage.levels, dtype=np.float32)[codes] * scale
    return kept


def _nearest(ratio: Array, storage: Storage) -> npt.NDArray[np.intp]:
    levels = np.array(storage.levels, dtype=np.float32).astype(np.float64)
    code = np.arange(len(levels))
    # of equally near levels the last in this order is taken
    rank = {"up": levels, "down": -levels, "even": (code % 2 == 0).astype(np.float64)}[storage.ties]
    order = np.lexsort((-code, np.nan_to_num(rank, nan=-np.inf)))
    bounded = np.clip(ratio, np.nanmin(levels), np.nanmax(levels))
    found = np.empty(ratio.size, dtype=np.intp)
    for first in range(0, ratio.size, _AT_ONCE):
        part = bounded[first : first + _AT_ONCE, None]
        distance = np.where(np.isnan(levels), np.inf, np.abs(part - levels))[:, order[::-1]]
        found[first : first + _AT_ONCE] = order[::-1][distance.argmin(axis=1)]
    return found


def _as_dtype(value: Array, dtype: str) -> Array:
    if dtype == "bfloat16":
        bits = value.astype(np.float32).view(np.uint32).astype(np.uint64)
        rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)
        return np.where(np.isnan(value), np.nan, rounded.astype(np.float64))
    kinds: dict[str, Any] = {"float64": np.float64, "float32": np.float32, "float16": np.float16}
    with np.errstate(over="ignore"):
        return value.astype(kinds[dtype]).astype(np.float64)
