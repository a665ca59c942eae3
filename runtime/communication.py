"""What a step tells other processes, in messages and bytes, and where an optimizer may be divided: what `optc explain` prints.

The messages are those that `exchange.py` will send, made by the same code; tests count them where torch.distributed sends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from optc.runtime import collectives, divisible
from optc.runtime.exchange import Exchange
from optc.runtime.hypers import Facts, Values
from optc.runtime.rounds import Member
from optc.runtime.schema import PER_ELEMENT, Schema
from optc.runtime.shapes import has_rows
from optc.runtime.sharding import Shard, cuts_of
from optc.runtime.zero1 import Intervals

if TYPE_CHECKING:
    from optc.runtime.parted import Parted

_PARTS = 2
"""How many parts parameters are in that only have shapes."""


@dataclass(frozen=True, slots=True)
class Message:
    """One collective of a step or entry: mostly an all_reduce of what a pass has measured, in float64.

    `phase` counts the exchanges of a procedure from 1 on, and is 0 for what is no exchange; `measures` are names in the
    generated code, with where they vary. `joins`: what is in it, "sum" and "largest" of measures, or "finite" (whether all
    gradients are), "tensors" (whole ones, for PyTorch code that measures), "parameters" (what was updated, under ZeRO 1).
    Beside sums, the largest have a place for each of the `processes`. `nbytes`: of what all processes have afterwards.
    """

    procedure: str
    phase: int
    call: str
    joins: tuple[str, ...]
    measures: tuple[tuple[str, str], ...]
    tensors: int
    processes: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Division:
    """A way to divide parameters, and why an optimizer refuses it; None where it does not."""

    name: str
    refusal: str | None


def messages_of(schema: Schema, exchange: Exchange, procedure: str) -> list[Message]:
    """The messages of an exchange, in order."""
    kernels = schema.procedure(procedure).kernels
    found = []
    for phase, ((at, k), rounds) in enumerate(sorted(exchange.rounds.items()), 1):
        kernel = kernels[at]
        measures = tuple((name, str(kernel.extent(name))) for name, _ in kernel.passes[k].measures)
        for one in rounds:
            joins, nbytes = tuple(name for name, size in one.sizes.items() if size), 8 * one.length
            message = Message(procedure, phase, "all_reduce", joins, measures, len(one.members), one.processes, nbytes)
            found += [message] * len(one.groups) if nbytes else []  # vectors alone, of parameters that have none, send nothing
    return found


def of_optimizer(optimizer: Parted) -> list[Message]:
    """The messages of a step of an optimizer as it was last made; none where nothing is divided or must be told."""
    groups, shards, parts = optimizer.param_groups, optimizer._shards, optimizer._share()
    every = collectives.groups_of(groups, shards)
    found = []
    if optimizer._guard is not None and not optimizer._told():
        tensors = sum(len(group["params"]) for group in groups)
        for one in every:
            found.append(Message("step", 0, "all_reduce", ("finite",), (), tensors, collectives.processes([one]), 4))
    for part in parts:
        exchange = part._exchanges.get("step")
        if exchange is None:
            continue
        found += messages_of(part.schema, exchange, "step")
        count = max((one.processes for rounds in exchange.rounds.values() for one in rounds), default=1)
        for tensors, nbytes in (one for gathers in exchange.gathers.values() for one in gathers):
            found.append(Message("step", 0, "all_reduce", ("tensors",), (), tensors, count, nbytes))
    if isinstance(shards, Intervals):
        for part in parts:
            found += _sent(shards, part.param_groups, collectives.processes([*every]))
    return found


def of_zero1(schema: Schema, shapes: Sequence[torch.Size]) -> list[Message]:
    """What ZeRO 1 adds to a step over float32 parameters of these shapes, on two processes, with the default hypers."""
    given = {hyper.key: hyper.defaults if hyper.is_tuple else hyper.defaults[0] for hyper in schema.hypers}
    group = {**given, "params": [torch.nn.Parameter(torch.empty(shape, device="meta")) for shape in shapes]}
    intervals = Intervals(0, 0, _PARTS)
    intervals.cut(schema, group)
    return _sent(intervals, [group], _PARTS)


def _sent(intervals: Intervals, groups: Sequence[Mapping[str, Any]], processes: int) -> list[Message]:
    return [
        Message("step", 0, "all_gather", ("parameters",), (), tensors, processes, nbytes)
        for tensors, nbytes in intervals.messages(groups)
    ]


def of_shapes(schema: Schema, values: Values, shapes: Sequence[torch.Size], procedure: str = "step") -> list[Message]:
    """The messages of a step over float32 parameters of these shapes, all divided among the same two processes."""
    members = []
    for number, shape in enumerate(shapes):
        facts = Facts(len(shape), shape.numel(), False)
        members.append((Member(number, f"parameter {number}", _rows(shape, _PARTS), facts), values))
    return messages_of(schema, Exchange(schema, schema.procedure(procedure), members, lambda _: _PARTS), procedure)


def divisions(schema: Schema, values: Values, shape: torch.Size) -> list[Division]:
    """How a matrix of this shape may be divided."""
    columns = Shard(shape, (0, 0), (shape[0], -(-shape[1] // _PARTS)), (0,), "cpu", cuts_of(shape, [(1, _PARTS, False)]))
    numel = shape.numel()
    middle = numel // _PARTS // (each := divisible.granularity(schema, numel, values)) * each
    interval = Shard(torch.Size([numel]), (0,), (middle,), (0,), "cpu", (0, middle))
    ways = [
        ("by rows: FSDP2, ZeRO 1 to 3, with or without replicas", _rows(shape, _PARTS)),
        ("by columns, or by rows and columns: tensor parallelism", columns),
        ("by intervals of all elements: optc.dist.Zero1", _rows(shape, _PARTS) if has_rows(schema) else interval),
    ]
    return [Division(name, divisible.refusal(schema, values, shard)) for name, shard in ways]


def placed(schema: Schema) -> Mapping[str, tuple[str, ...]]:
    """The keys of states that are divided as their parameter is, and of those that are the same on all processes."""
    own = [state for state in schema.of_parameters if not state.host]
    return {
        "divided": tuple(state.key for state in own if state.extent in PER_ELEMENT),
        "everywhere": tuple(state.key for state in own if state.extent not in PER_ELEMENT),
    }


def _rows(shape: torch.Size, parts: int) -> Shard:
    """The first of equal parts of a shape, along its first dimension."""
    if not shape:
        return Shard(shape, (), (), (0,), "cpu", (0,))
    size = -(-shape[0] // parts), *shape[1:]
    return Shard(shape, (0,) * len(shape), size, (0,), "cpu", cuts_of(shape, [(0, parts, False)]))
