"""Messages as torch.distributed is asked to send them: counted where it is called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

SENDING = ("all_reduce", "all_gather_into_tensor", "all_gather_single", "reduce_scatter_tensor", "reduce_scatter_single")


@contextmanager
def counted() -> Iterator[list[tuple[str, int]]]:
    """(name, bytes of the first tensor) of each call."""
    found: list[tuple[str, int]] = []
    before = {name: getattr(dist, name) for name in SENDING if hasattr(dist, name)}

    def counting(name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            tensor = arguments[0] if arguments else next(iter(options.values()))
            found.append((name, tensor.nbytes))
            return before[name](*arguments, **options)

        return call

    for name in before:
        setattr(dist, name, counting(name))
    try:
        yield found
    finally:
        for name, function in before.items():
            setattr(dist, name, function)
