"""What is counted as a message, and what optimizers send over two-dimensional meshes; runs in every process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import broadcast  # which nobody can count under its name
from torch.distributed.tensor import Replicate

from tests.dist.counting import counted
from tests.dist.layouts import divided


def seen(rank: int) -> dict[str, list[tuple[str, int]]]:
    """What is counted of each way to send something."""
    x = torch.ones(6, 4)
    part: Any = divided("fsdp", torch.ones(6, 4), 2)
    into, halves = torch.empty(12, 4), list(torch.ones(6, 4).chunk(2))
    ways: dict[str, Callable[[], Any]] = {
        "nothing": lambda: part.add_(1).to_local().sum(),
        "all_reduce": lambda: dist.all_reduce(x),
        "all_reduce, later": lambda: dist.all_reduce(tensor=x, async_op=True).wait(),
        "all_gather": lambda: dist.all_gather(list(into.chunk(2)), x),
        "all_gather_single": lambda: dist.all_gather_single(into, x),
        "reduce_scatter": lambda: dist.reduce_scatter(torch.empty(3, 4), halves),
        "all_to_all_single": lambda: dist.all_to_all_single(torch.empty(6, 4), x),
        "broadcast": lambda: dist.broadcast(x, 0),
        "broadcast, imported": lambda: broadcast(x, 0),
        "objects": lambda: (dist.broadcast_object_list([1], 0), dist.all_gather_object([None, None], 1)),
        "the whole of a part": lambda: part.full_tensor(),
        "parts that are moved": lambda: part.redistribute(placements=[Replicate()]),
        "the norm of a part": lambda: part.norm().full_tensor(),
    }
    found = {}
    for name, work in ways.items():
        with counted() as sent:
            work()
        found[name] = sent
    return found
