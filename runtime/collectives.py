"""Collectives over the processes that have parts of a parameter: along one dimension of a mesh after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from optc.runtime.sharding import Group, Shards

T = TypeVar("T")

ALIGNED = 16
"""Bytes."""
BUCKET = 1 << 28
"""Bytes that are sent at a time, at most, where parameters are: as many again are taken for what comes in."""


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
    for group, device in groups_of(groups, shards).items():
        found = found.to(device)
        _all_reduce(found, "largest", group)
    return found


def told_to_all(found: dict[Any, Any], groups: Sequence[Mapping[str, Any]], shards: Shards) -> dict[Any, Any]:
    """What each of the processes that have parts of these parameters has found, in one table; for errors, not for steps."""
    for group in groups_of(groups, shards):
        found = {key: value for one in from_all(found, group) for key, value in one.items()}
    return found


def from_all(found: T, group: Group = None) -> list[T]:
    """What every process of a group (all of them, if it is None) has found, in the order of their ranks."""
    import torch.distributed as dist

    every: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(every, found, group=group)
    return every


def groups_of(groups: Sequence[Mapping[str, Any]], shards: Shards) -> dict[Group, str]:
    """The groups of processes that have parts of these parameters, and the device through whose memory each talks."""
    found = (shards.shard(p) for group in groups for p in group["params"])
    return {group: shard.device for shard in found if shard is not None for group in shard.groups}


def buckets(found: Iterable[T], nbytes: Callable[[T], int]) -> Iterator[list[T]]:
    """What is sent together: as many of these as have `BUCKET` bytes, and at least one."""
    bucket: list[T] = []
    size = 0
    for one in found:
        more = nbytes(one)
        if bucket and size + more > BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(one)
        size += more
    if bucket:
        yield bucket


@dataclass(frozen=True, slots=True)
class Whole:
    """A tensor of `shape`, of which this process has `parts`, each with its place; `like` has its dtype and device."""

    shape: tuple[int, ...]
    parts: Sequence[tuple[tuple[slice, ...], Tensor]]
    like: Tensor

    @property
    def nbytes(self) -> int:
        """Its bytes in a message, where each tensor begins at a multiple of `ALIGNED`."""
        return -(-math.prod(self.shape) * self.like.itemsize // ALIGNED) * ALIGNED


def gathered(wanted: Sequence[Whole], groups: Sequence[Group], device: str) -> list[Tensor]:
    """Whole tensors, on one device: all processes add the bytes that they have of them, at their places, to zeros."""
    if not wanted:
        return []
    message = torch.zeros(sum(one.nbytes for one in wanted), dtype=torch.uint8, device=wanted[0].like.device)
    whole, at = [], 0
    for one in wanted:
        own = message[at : at + math.prod(one.shape) * one.like.itemsize].view(one.like.dtype).view(one.shape)
        for box, part in one.parts:
            own[box] = part
        whole.append(own)
        at += one.nbytes
    over_groups(message, "sum", groups, device)
    return whole


def _all_reduce(tensor: Tensor, operation: str, group: Group) -> None:
    import torch.distributed as dist

    dist.all_reduce(tensor, dist.ReduceOp.SUM if operation == "sum" else dist.ReduceOp.MAX, group=group)
