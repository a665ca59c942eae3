"""A capturable step reads no number back to the host: what a graph has captured holds for every replay.

What a GPU would wait for is seen on any device: PyTorch's operators that give Python a number fail. (`pytest -m gpu` replays
captured graphs.)
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import optc
from tests.runtime.training import give_gradients, parameters

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="runs in Triton's interpreter")
SHAPES = ((4, 3), (5,), ())
READING = ("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "unique", "masked_select")
NAMES = (
    "AdamW",
    "AdamW + cosine(T = 20, warmup = 3)",
    "SGD(momentum = 0.9) + one_cycle(T = 20)",
    "AdamW + clip_global_norm(max_norm = 0.1) + linear(T = 9)",
    "Prodigy + restarts(T = 4)",
)


class NoReading(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Operators that hand numbers of tensors to Python raise."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READING:
            raise AssertionError(f"{name} reads a number back")
        return func(*args, **(kwargs or {}))


def test_reading_is_seen() -> None:
    with NoReading():  # type: ignore[no-untyped-call]
        x = torch.ones(3) + 1
        for read in (lambda: float(x.sum()), lambda: bool(x[0] > 0), lambda: torch.equal(x, x), lambda: int(x[0])):
            with pytest.raises(AssertionError, match="reads a number back"):
                read()


@pytest.mark.parametrize("name", NAMES)
def test_a_capturable_step_reads_nothing(name: str) -> None:
    pytest.importorskip("triton")
    params = parameters(SHAPES)
    optimizer = optc.create(name, params, backend="triton", capturable=True)
    for seed in range(4):
        give_gradients(seed, params)
        before = [p.detach().clone() for p in params]
        if seed < 2:  # the first steps make states and kernels
            optimizer.step()
            continue
        with NoReading():  # type: ignore[no-untyped-call]
            optimizer.step()
            norm = optimizer.gradient_norm
        assert all(not torch.equal(p, q) for p, q in zip(params, before, strict=True))
        assert (norm is not None) is ("clip" in name)
    if "clip" in name:
        expected = torch.sqrt(sum((p.grad.double().square().sum() for p in params if p.grad is not None), torch.zeros(())))
        torch.testing.assert_close(norm, expected.double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_that_counts_on_the_host_reads_nothing_of_the_device_either(name: str) -> None:
    """It knows its counts; the norm of the gradient stays where it is until somebody looks."""
    params = parameters(SHAPES)
    optimizer = optc.create(name, params, backend="triton")
    for seed in range(3):
        give_gradients(seed, params)
        if seed < 2:
            optimizer.step()
        else:
            with NoReading():  # type: ignore[no-untyped-call]
                optimizer.step()
                assert (optimizer.gradient_norm is not None) is ("clip" in name)
