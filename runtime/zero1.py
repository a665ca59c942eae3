"""ZeRO stage 1 for a model that is whole on every process: each updates a part of it, and has the state of that part alone.

The elements of a group's parameters, one parameter after the other, are cut into as many intervals as there are processes;
after a step each process sends what it has updated to the others. So all have as much state, whatever the sizes of parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from optc.runtime import collectives, divisible, hypers, names, presence, shapes
from optc.runtime import state as states
from optc.runtime.backend import arithmetic_dtype
from optc.runtime.checkpoint_parts import cut_entries
from optc.runtime.hypers import Values
from optc.runtime.parted import Parted
from optc.runtime.schema import PER_ELEMENT, Schema
from optc.runtime.sharding import Group, Shard, Shards, is_divided
from optc.runtime.storage import kept_dtype

ALIGNED = 64
"""Elements; intervals begin at multiples of so many, if nothing asks for more: lines of the cache, and what vectors load."""


class Intervals(Shards):
    """What each process of a group has of an optimizer's parameters."""

    everywhere = True

    def __init__(self, process_group: Group, rank: int, world: int) -> None:
        self._process_group = process_group
        self._rank, self._world = rank, world
        self._shards: dict[int, tuple[Tensor, Shard]] = {}
        self._owners: dict[int, list[tuple[int, int]]] = {}

    # --- who has what ---------------------------------------------------------------------------------------------------------

    def cut(self, schema: Schema, group: Mapping[str, Any]) -> None:
        """Cuts what of a group has not been cut yet. Raises ValueError for a parameter that is divided already, or strided."""
        new = [p for p in group["params"] if not self._knows(p)]
        if not new:
            return
        for place, p in enumerate(group["params"]):
            if is_divided(p) or not p.is_contiguous():
                why = "a DTensor, which is divided already" if is_divided(p) else f"not contiguous (strides {p.stride()})"
                raise ValueError(f"parameter {place}: it is {why}; ZeRO 1 cuts whole, contiguous parameters")
        values = hypers.validate(schema, group)
        costs = {id(p): _bytes_per_element(schema, p, values) for p in new}
        # those without state per element are work all the same, and divided for themselves
        for own in ([p for p in new if bool(costs[id(p)]) is kept] for kept in (True, False)):
            total, before = sum(p.numel() * (costs[id(p)] or 1.0) for p in own), 0.0
            for p in own:
                cost = costs[id(p)] or 1.0
                self._cut(schema, p, values, before / cost, total / cost)
                before += p.numel() * cost

    def _knows(self, p: Tensor) -> bool:
        known = self._shards.get(id(p))
        return known is not None and known[0] is p

    def _cut(self, schema: Schema, p: Tensor, values: Values, before: float, total: float) -> None:
        """`before`: elements that come first, `total` all, if all took as much as those of `p`."""
        each, numel = _granularity(schema, p, values), p.numel()
        ends = [round((total * (rank + 1) / self._world - before) / each) * each for rank in range(self._world)]
        ends = [min(max(end, 0), numel) for end in ends[:-1]] + [numel]
        spans = list(zip([0, *ends[:-1]], ends, strict=True))
        start, end = spans[self._rank]
        cuts = tuple(sorted({a for a, b in spans if b > a} or {0}))
        if _in_order(schema, p):
            inner = math.prod(p.shape[1:])
            offset, size = (start // max(1, inner), *[0] * (p.ndim - 1)), ((end - start) // max(1, inner), *p.shape[1:])
            shard = Shard(p.shape, offset, size, (self._process_group,), p.device.type, cuts)
        else:
            shard = Shard(torch.Size([numel]), (start,), (end - start,), (self._process_group,), p.device.type, cuts)
        self._shards[id(p)] = p, shard
        self._owners[id(p)] = spans

    # --- see Shards -----------------------------------------------------------------------------------------------------------

    def divides(self, p: Tensor) -> bool:
        """See `Shards.divides`."""
        return True

    def shard(self, p: Tensor) -> Shard | None:
        """See `Shards.shard`."""
        return self._shards[id(p)][1]

    def here(self, p: Tensor) -> Tensor:
        """See `Shards.here`."""
        return self._of(p, p.detach())

    def companion(self, p: Tensor, x: Tensor) -> Tensor:
        """See `Shards.companion`."""
        if x.shape != p.shape or x.layout != torch.strided:
            return x  # what is wrong with it others say
        return self._of(p, x.detach().contiguous())

    def _of(self, p: Tensor, x: Tensor) -> Tensor:
        shard = self._shards[id(p)][1]
        if shard.shape != p.shape:
            x = x.view(-1)
        return x.narrow(0, shard.offset[0], shard.size[0]) if shard.size else x

    def kept(self, p: Tensor, entry: Tensor) -> Tensor:
        """See `Shards.kept`."""
        return entry

    # --- after a step ---------------------------------------------------------------------------------------------------------

    def settle(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Sends what each process has updated to all others. Raises what `presence.require` does."""
        parameters = [p for group in groups for p in group["params"]]
        taking = [float(p.grad is not None) for p in parameters]
        for bucket in self._buckets(parameters):
            counts = self._gather(bucket, taking)
            if taking:
                presence.require(counts, self._world, partial(_label, groups))
                taking = []  # is told once

    def messages(self, groups: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
        """What `settle` sends: of how many parameters, and the bytes that all processes then have."""
        parameters = [p for group in groups for p in group["params"]]
        buckets = enumerate(self._buckets(parameters))
        return [(len(bucket), self._everybody(bucket, 0 if k else len(parameters)).nbytes) for k, bucket in buckets]

    def refuse(self, groups: Sequence[Mapping[str, Any]]) -> bool:
        """See `Shards.refuse`."""
        parameters = [p for group in groups for p in group["params"]]
        for bucket in self._buckets(parameters):
            everybody = self._everybody(bucket, len(parameters)).fill_(presence.UNABLE)
            all_gather(everybody, everybody[self._rank], self._process_group, wait=False)
            return True
        return False

    def _buckets(self, parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Parameters of one dtype and device whose parts are sent together."""
        by_kind: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for p in parameters:
            if p.numel():
                by_kind.setdefault((p.dtype, p.device), []).append(p)
        for own in by_kind.values():
            yield from collectives.buckets(own, lambda p: p.nbytes)

    def _everybody(self, bucket: Sequence[Tensor], told: int) -> Tensor:
        """Memory for what all processes send of some parameters, a row each, with `told` numbers at the end."""
        widest = max(sum(map(self._length, bucket, repeat(rank))) for rank in range(self._world))
        return bucket[0].detach().new_empty(self._world, widest + told)

    def _length(self, p: Tensor, rank: int) -> int:
        start, end = self._owners[id(p)][rank]
        return end - start

    def _gather(self, bucket: Sequence[Tensor], taking: Sequence[float]) -> Tensor:
        """Sends parts of parameters, and numbers; gives the sums of these over all processes."""
        spans_of, told = [self._owners[id(p)] for p in bucket], len(taking)
        flats, everybody = [p.detach().view(-1) for p in bucket], self._everybody(bucket, told)
        mine = [flat[slice(*spans[self._rank])] for spans, flat in zip(spans_of, flats, strict=True)]
        length = sum(map(len, mine))
        torch.cat(mine, out=everybody[self._rank][:length])
        everybody[self._rank, everybody.shape[1] - told :] = everybody.new_tensor(taking)
        all_gather(everybody, everybody[self._rank], self._process_group)
        for rank, row in enumerate(everybody):
            if rank == self._rank:
                continue
            theirs = [spans[rank] for spans in spans_of]
            lengths = [end - start for start, end in theirs]
            parts = row[: sum(lengths)].split(lengths)
            torch._foreach_copy_([flat[a:b] for flat, (a, b) in zip(flats, theirs, strict=True)], list(parts))
        return everybody[:, everybody.shape[1] - told :].double().sum(0)


def _label(groups: Sequence[Mapping[str, Any]], place: int) -> str:
    """What errors call the parameter with this number."""
    owned = [(group, k, f"group {number}") for number, group in enumerate(groups) for k in range(len(group["params"]))]
    return names.parameter(*owned[place])


def _bytes_per_element(schema: Schema, p: Tensor, values: Values) -> float:
    """What the state per element of a parameter takes; 0 where it has none."""
    bits = 0.0
    for state in schema.of_parameters:
        if state.extent not in PER_ELEMENT or not states.exists(state, values, p):
            continue
        book = state.codebook(p.numel())
        wide = kept_dtype(state, arithmetic_dtype(p.dtype)).itemsize * 8
        one = wide if book is None else book.bits + (32 / book.block if book.scaled else 0)
        bits += one / (shapes.period(schema, values) if state.extent == "pick" else 1)
    return bits / 8


def _in_order(schema: Schema, p: Tensor) -> bool:
    """Whether rows and columns count, so that a part has to be some of the rows."""
    return p.ndim >= 2 and shapes.has_rows(schema)


def _granularity(schema: Schema, p: Tensor, values: Values) -> int:
    """Every cut is a multiple of it."""
    least = max(1, math.prod(p.shape[1:])) if _in_order(schema, p) else ALIGNED
    return math.lcm(least, divisible.granularity(schema, p.numel(), values))


def all_gather(everybody: Tensor, mine: Tensor, process_group: Group, wait: bool = True) -> None:
    """The rows that all processes have, in place; `mine` may be one of them."""
    import torch.distributed as dist

    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(everybody.view(-1), mine.contiguous(), group=process_group, async_op=not wait)


class Zero1:
    """Divides the work and state of an optimizer, or of several in one, among processes: ZeRO stage 1, for any model that is
    whole on each.

        model = DistributedDataParallel(model)
        optimizer = optc.create("AdamW", model, lr=3e-4)
        optc.dist.Zero1(optimizer)                       # from here on optimizer.step() does it

    `process_group`: all processes, if it is None. They must have equal parameters, and equal gradients when `step` is called,
    as DistributedDataParallel sees to. State that the optimizer has already is cut; groups may be added later. The state dict
    has this process's parts: `optc.dist.save` and torch.distributed.checkpoint save them, and load them into any other
    division.

    Raises ValueError, naming the parameter, for those that are divided already (DTensors) or not contiguous, with the term for
    optimizers that cannot update parts, for those with capturable=True, and for one that is divided already; TypeError for one
    that is none of ours; RuntimeError without a process group.
    """

    def __init__(self, optimizer: Parted, process_group: Group = None) -> None:
        import torch.distributed as dist

        if not isinstance(optimizer, Parted):
            raise names.not_ours("optc.dist.Zero1", optimizer)
        if not dist.is_available() or not dist.is_initialized():
            raise RuntimeError("there is no process group: call torch.distributed.init_process_group first")
        if isinstance(optimizer._shards, Intervals):
            raise ValueError(f"this {optimizer._called()} is divided by ZeRO 1 already: leave out the second optc.dist.Zero1")
        if any(group.get("capturable", False) for group in optimizer.param_groups):
            raise ValueError("capturable=True counts on one device, and ZeRO 1 divides the work among several: leave it out")
        processes = process_group if process_group is not None else dist.group.WORLD
        intervals = Intervals(processes, dist.get_rank(processes), dist.get_world_size(processes))
        owned = [(part.schema, group) for part in optimizer._share() for group in part.param_groups]
        for schema, group in owned:
            intervals.cut(schema, group)
            divisible.require_all(schema, hypers.validate(schema, group), group, intervals)
        for schema, group in owned:
            values = hypers.validate(schema, group)
            for p in group["params"]:
                if p in optimizer.state:
                    slot = dict(optimizer.state[p])
                    optimizer.state[p].update(cut_entries(schema, values, p, intervals, slot))
        optimizer._shards = intervals
        for part in optimizer._share():
            part._forget()
