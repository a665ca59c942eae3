"""Collectives over the processes that have parts of a parameter: along one dimension of a mesh after the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optc.runtime.sharding import Group, Shards


def processes(groups: Sequence[Group]) -> int:
    """How many processes have parts of what is divided over all of these groups."""
    import torch.distributed as dist

    return math.prod(dist.get_world_size(group) for group in groups)


def rank_among(groups: Sequence[Group]) -> int:
    """The number of this process among them."""
    import torch.distributed as dist

    rank = 0
    for group in groups:
        rank = rank * dist.get_world_size(group) + dist.get_rank(group)
    return rank


def over_groups(tensor: Tensor, operation: str, groups: Sequence[Group], device: str) -> None:
    """Joins a tensor over the processes of all groups, in place, by "sum" or "largest", through memory of `device`."""
    if not tensor.numel():
        return
    there = tensor.to(device)
    for group in groups:
        _all_reduce(there, operation, group)
    if there is not tensor:
        tensor.copy_(there)


def send(tensor: Tensor, operation: str, group: Group, device: str) -> None:
    """This process's part of what all of a group join, in memory of its own; waits for nobody."""
    import torch.distributed as dist

    there = tensor.to(device, copy=True)
    dist.all_reduce(there, dist.ReduceOp.SUM if operation == "sum" else dist.ReduceOp.MAX, group=group, async_op=True)


def any_of(found: Tensor, groups: Sequence[Mapping[str, Any]], shards: Shards) -> Tensor:
    """1 where it is above 0 on any of the processes that have parts of these parameters."""
    found_here = (shards.shard(p) for group in groups for p in group["params"])
    there = {group: shard.device for shard in found_here if shard is not None for group in shard.groups}
    for group, device in there.items():
        found = found.to(device)
        _all_reduce(found, "largest", group)
    return found


def gathered(
    shape: Sequence[int], parts: Iterable[tuple[tuple[slice, ...], Tensor]], like: Tensor, groups: Sequence[Group], device: str
) -> Tensor:
    """The whole of a tensor of this shape: all processes add the bytes that they have of it, at their places, to zeros."""
    whole = torch.zeros(tuple(shape), dtype=like.dtype, device=like.device)
    for box, part in parts:
        whole[box] = part
    over_groups(whole.view(-1).view(torch.uint8), "sum", groups, device)
    return whole


def _all_reduce(tensor: Tensor, operation: str, group: Group) -> None:
    import torch.distributed as dist

    dist.all_reduce(tensor, dist.ReduceOp.SUM if operation == "sum" else dist.ReduceOp.MAX, group=group)
