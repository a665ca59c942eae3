"""An optimizer whose states are kept in every way, for the runtime's tests of storages."""

from __future__ import annotations

import io
import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import optc

BACKENDS = pytest.mark.parametrize("backend", ["torch", "native"])

EVERY = """\
storage loose:
    codes = 16
    block = 64
    smallest = 0
    define level(c) = (c - 7.5)/8

optimizer Every:
    hyper:
        lr   = 0.1 in [0, inf)
        k    = 3   in int [1, inf)
        seed = 0   in int [0, inf)
    state:
        m = 0
        v = 0
        z = theta
        w = 0
    storing m: dynamic8(64, smallest = 0), v: udynamic4(smallest = 0), z: loose, w: fp16
    step:
        m <- ema(m, g, 0.9)
        w <- ema(w, g, 0.5)
        if t mod k == 0:
            v <- v + g^2
            z <- z + m
        theta <- theta - lr*m*(0.5 + uniform(seed)) - 1e-3*z/(1 + v) - 1e-3*w
"""
"""`loose` has no level as large as its scale: codes that are made anew from what they stand for are others."""


@cache
def every() -> Any:
    return optc.compile(EVERY)


def entries(optimizer: Any, params: Any) -> list[Tensor]:
    return [entry for p in params for key, entry in optimizer.state[p].items() if key != "step"]


def bits(x: Any) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.asarray(x, dtype=np.float32).view(np.int32)


def through_a_file(state_dict: dict[str, Any]) -> dict[str, Any]:
    """As it is saved and loaded, without running code from the file."""
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


def loading(optimizer: Any, saved: dict[str, Any]) -> list[str]:
    """The warnings of loading a file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer.load_state_dict(saved)
    return [str(warning.message) for warning in caught]
