"""What a step sends, and what was said that it would; runs in every process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

import optc
from optc.runtime import collectives, communication, sharding
from optc.runtime.rounds import Buffers, Round
from tests.dist.counting import counted
from tests.dist.layouts import SHAPES, divided, gradient
from tests.dist.parity import compare, pair, steps


def sent_and_told(
    rank: int,
    names: Sequence[str],
    layout: str,
    size: int,
    shapes: Sequence[Sequence[int]] = SHAPES,
    backend: str = "native",
    **hypers: Any,
) -> dict[str, Any]:
    """For each optimizer the messages of its third step: those that were sent, and those that it and `explain` tell of."""
    found = {}
    for name in names:
        alone, parts, first, second = pair(name, layout, size, backend, shapes, **hypers)
        steps(alone, parts, first, second, layout, size, 2)
        for q in parts:
            q.grad = divided(layout, gradient(q.shape, 2), size)
        with counted() as sent:
            second.step((lambda: torch.tensor(0.5)) if second.schema.reads_loss else None)
        values = {name: second._readers[0].read(second.param_groups[0])[name] for name in second.schema.defaults}
        of_shapes = [torch.Size(shape) for shape in shapes if shape or layout == "zero1"]
        spoken = communication.of_shapes(second.schema, values, of_shapes)
        spoken += communication.of_zero1(second.schema, of_shapes) if layout == "zero1" else []
        told = communication.of_optimizer(second)
        found[name] = {
            "sent": [(kind.removesuffix("_single").removesuffix("_into_tensor"), nbytes) for kind, nbytes in sent],
            "told": [(message.call, message.nbytes) for message in told],
            "exchanges": max((message.phase for message in told), default=0),
            "explained": [(message.call, message.nbytes) for message in spoken],
        }
    return found


def without_joining(rank: int, names: Sequence[str], layout: str, size: int, which: str) -> dict[str, float | str]:
    """Parity where one kind of reduction is left out: every process goes on with what it has measured itself."""
    whole = Round.joined

    def faulty(one: Round, here: Buffers) -> Buffers:
        before = here.of(which).clone()
        joined = whole(one, here)
        joined.of(which).copy_(before)
        return joined

    Round.joined = faulty  # type: ignore[assignment, method-assign]
    try:
        return compare(rank, names, layout, size, "native", ((6, 4), (9, 5), (9,)), 4)
    finally:
        Round.joined = whole  # type: ignore[method-assign]


def joined_where_is_shard_says(rank: int, names: Sequence[str], size: int) -> dict[str, float | str]:
    """Parity where parts are joined along those dimensions of the mesh only whose placements say `is_shard()`."""
    found = sharding._shard

    def faulty(shape: torch.Size, mesh: Any, placements: tuple[Any, ...]) -> Any:
        shard = found(shape, mesh, placements)
        if shard is None:
            return None
        groups = [mesh.get_group(d) for d, placement in enumerate(placements) if placement.is_shard() and mesh.size(d) > 1]
        return replace(shard, groups=tuple(groups))

    sharding._shard = faulty  # type: ignore[assignment]
    try:
        return compare(rank, names, "strided", size, "native", ((6, 4), (9, 5)), 4)
    finally:
        sharding._shard = found


def state_bytes(rank: int, name: str, size: int, shapes: Sequence[Sequence[int]]) -> tuple[int, int, int]:
    """Bytes of the state here under ZeRO 1, of the state of one process alone, and of what all processes have of it alike."""
    alone, parts, first, second = pair(name, "zero1", size, "native", shapes)
    steps(alone, parts, first, second, "zero1", size, 1)
    alike = set(communication.placed(second.schema)["everywhere"]) | {"step"}
    here = sum(x.nbytes for slot in second.state.values() for key, x in slot.items() if key not in alike)
    whole = sum(x.nbytes for slot in first.state.values() for key, x in slot.items() if key not in alike)
    replicas = sum(x.nbytes for slot in second.state.values() for key, x in slot.items() if key in alike - {"step"})
    return here, whole, replicas


def parameters_sent(rank: int, size: int, shapes: Sequence[Sequence[int]]) -> list[tuple[str, int]]:
    """What ZeRO 1 sends in a step of AdamW."""
    parts = [torch.nn.Parameter(gradient(shape, 0)) for shape in shapes]
    optimizer = optc.create("AdamW", parts)
    optc.dist.Zero1(optimizer)
    for p in parts:
        p.grad = gradient(p.shape, 1)
    with counted() as sent:
        optimizer.step()
    return sent


def gathered_in_buckets(rank: int, size: int) -> tuple[tuple[list[int], list[int]], list[int]]:
    """What PyTorch code sends and tells where memory holds a few parameters only, and what it sends where it holds all."""
    shapes = [(12, 4)] * 6
    (whole,) = sent_and_told(rank, ["LAMB"], "fsdp", size, shapes, "torch").values()
    before, collectives.BUCKET = collectives.BUCKET, 4 * 48 * 8
    try:
        (few,) = sent_and_told(rank, ["LAMB"], "fsdp", size, shapes, "torch").values()
    finally:
        collectives.BUCKET = before
    return ([n for _, n in few["sent"]], [n for _, n in few["told"]]), [n for _, n in whole["sent"]]
