"""How far float32 results are from exact ones."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]


def units(found: Floats, want: npt.NDArray[np.float64]) -> float:
    """The largest distance in units of the last place of a float32; infinite for a wrong sign or NaN.

    An infinite result counts as 2^128, the number after the largest.
    """
    with np.errstate(all="ignore"):
        bounded = np.clip(want, -(2.0**128), 2.0**128)
        # the unit is that of the binade; of denormals and 0 it is 2^-149, beyond the largest number that of the largest
        exponent = np.where(bounded == 0, -125, np.clip(np.frexp(bounded)[1], -125, 128))
        distance = np.abs(np.clip(found.astype(np.float64), -(2.0**128), 2.0**128) - bounded) / np.ldexp(1.0, exponent - 24)
    undefined = np.isnan(want)
    right = np.where(undefined, np.isnan(found), ~np.isnan(found) & (np.signbit(found) == np.signbit(want)))
    return float(np.where(right, np.where(undefined, 0, distance), np.inf).max())
