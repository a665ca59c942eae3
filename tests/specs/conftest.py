"""torchao and bitsandbytes, as the tests of what they share with us want them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.specs.low_memory import quietly


@pytest.fixture(scope="module")
def torchao() -> Iterator[Any]:
    """`torchao.optim`, whose steps are not compiled here."""
    with quietly():
        import torchao.optim
        import torchao.optim.subclass_4bit
        import torchao.optim.subclass_8bit
        import torchao.optim.subclass_fp8
    with torch.compiler.set_stance("force_eager"):
        yield torchao.optim


@pytest.fixture
def bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The library with an encoder that takes the nearest level: its own, for CPUs, rounds numbers to 16 bits before."""
    with quietly():
        import bitsandbytes
        import bitsandbytes.backends.cpu.ops as ops
    monkeypatch.setattr(ops, "_quant_blockwise_fp32_direct", keep_nearest)
    with torch.compiler.set_stance("force_eager"):
        yield bitsandbytes


def keep_nearest(x: Tensor, levels: Tensor, scales: Tensor, codes: Tensor, block: int) -> None:
    """Of two levels that are equally near the lower one; blocks of zeros have code 0 and scale 0."""
    numbers = x.reshape(-1).numpy()
    blocks = np.pad(numbers, (0, -len(numbers) % block)).reshape(-1, block)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    ratio = np.divide(blocks, largest, out=np.zeros_like(blocks), where=largest > 0).astype(np.float64)
    known = levels.numpy().astype(np.float64)
    found = np.searchsorted((known[1:] + known[:-1]) / 2, ratio, side="left")
    found[largest[:, 0] == 0] = 0
    codes.copy_(torch.from_numpy(found.reshape(-1)[: len(numbers)].astype(np.uint8)).view(codes.shape))
    scales.copy_(torch.from_numpy(largest[:, 0]))
