"""What a step tells other processes, in messages and bytes, and where an optimizer may be divided: what `optc explain` prints.

The messages are those that `exchange.py` will send, made by the same code; tests count them where torch.distributed sends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from optc.runtime import divisible
from optc.runtime.exchange import Exchange
from optc.runtime.hypers import Facts, Values
from optc.runtime.rounds import Member
from optc.runtime.schema import PER_ELEMENT, Schema
from optc.runtime.shapes import has_rows
from optc.runtime.sharding import Shard

if TYPE_CHECKING:
    from optc.runtime.optimizer import Optimizer

_PARTS = 2
"""How many parts parameters are in that only have shapes."""


@dataclass(frozen=True, slots=True)
class Message:
    """One all_reduce of a step or entry: of what a pass has measured, in float64.

    `phase` counts the exchanges of a procedure from 1 on; `measures` are names in the generated code, with where they vary.
    `joins`: what is in it, "sum", "largest" or both. Beside sums, the largest have a place for each of the `processes`.
    """

    procedure: str
    phase: int
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
            message = Message(procedure, phase, joins, measures, len(one.members), one.processes, nbytes)
            found += [message] * len(one.groups) if nbytes else []  # vectors alone, of parameters that have none, send nothing
    return found


def of_optimizer(optimizer: Optimizer) -> list[Message]:
    """The messages of a step of an optimizer as it was last made; none where nothing is divided or must be told."""
    exchange = optimizer._exchanges.get("step")
    return [] if exchange is None else messages_of(optimizer.schema, exchange, "step")


def of_shapes(schema: Schema, values: Values, shapes: Sequence[torch.Size], procedure: str = "step") -> list[Message]:
    """The messages of a step over float32 parameters of these shapes, all divided among the same two processes."""
    members = []
    for number, shape in enumerate(shapes):
        facts = Facts(len(shape), shape.numel(), False)
        members.append((Member(number, f"parameter {number}", _rows(shape, _PARTS), facts), values))
    return messages_of(schema, Exchange(schema, schema.procedure(procedure), members, lambda _: _PARTS), procedure)


def divisions(schema: Schema, values: Values, shape: torch.Size) -> list[Division]:
    """How a matrix of this shape may be divided."""
    columns = Shard(shape, (0, 0), (shape[0], shape[1] // 2), (0,), "cpu", None)
    numel = shape.numel()
    interval = Shard(torch.Size([numel]), (0,), (numel // 2,), (0,), "cpu", (0, numel // 2))
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
    rows = -(-shape[0] // parts)
    inner = shape.numel() // max(1, shape[0])
    cuts = tuple(range(0, shape[0] * inner, max(1, rows * inner)))
    return Shard(shape, (0,) * len(shape), (rows, *shape[1:]), (0,), "cpu", cuts)
