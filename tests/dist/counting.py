"""Messages as torch.distributed is asked to send them, however it is asked.

Functions of `torch.distributed` are counted where they are called, under their own names. Whatever comes to the operators below
them in another way is counted there: a function that was imported by itself, and what DTensors send when they are moved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

SENDING = (
    "all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_single", "all_gather_object", "all_to_all",
    "all_to_all_single", "barrier", "broadcast", "broadcast_object_list", "gather", "gather_object", "isend", "reduce",
    "reduce_scatter", "reduce_scatter_single", "reduce_scatter_tensor", "scatter", "scatter_object_list", "send",
)  # fmt: skip
OPERATORS = ("c10d", "_c10d_functional", "_c10d_functional_autograd")
NOT_SENDING = ("wait_tensor", "_wrap_tensor_autograd", "recv_", "recv_any_source_", "monitored_barrier_")


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators that send, outside of functions that have been counted."""

    def __init__(self, found: list[tuple[str, int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found, self.within = found, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Sees every operator; those of DTensors come again as what they are made of."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        name = func.overloadpacket.__name__
        if func.namespace in OPERATORS and name not in NOT_SENDING and not self.within:
            self.found.append((f"{func.namespace}.{name}", _bytes(args)))
        return func(*args, **(kwargs or {}))


@contextmanager
def counted() -> Iterator[list[tuple[str, int]]]:
    """(name, bytes of the first tensor) of each call; 0 bytes for those that send Python's objects."""
    found: list[tuple[str, int]] = []
    before = {name: getattr(dist, name) for name in SENDING if hasattr(dist, name)}
    watching = Counting(found)

    def counting(name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if not watching.within:
                found.append((name, _bytes(arguments or list(options.values()))))
            watching.within += 1
            try:
                return before[name](*arguments, **options)
            finally:
                watching.within -= 1

        return call

    for name in before:
        setattr(dist, name, counting(name))
    try:
        with watching:
            yield found
    finally:
        for name, function in before.items():
            setattr(dist, name, function)


def _bytes(arguments: Any) -> int:
    """Of the first tensor among arguments, or in a list that is the first of them."""
    first = arguments[0] if arguments else None
    if isinstance(first, list | tuple):
        return _bytes(first)
    return first.nbytes if isinstance(first, torch.Tensor) else 0
