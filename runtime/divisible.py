"""Whether an optimizer can update a parameter of which other processes have parts; if not, which of its terms forbids it.

Elements are independent of one another, and what is measured over rows, columns, matrices, tensors and the model is joined over
the processes. What is left are terms that need elements in the order of the whole parameter: blocks of codes, random numbers by
element, every p-th element. And values per row of a matrix into which a parameter is folded, whose rows no process has.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from optc.runtime import draws, shapes
from optc.runtime.codebook import Codebook
from optc.runtime.hypers import Values
from optc.runtime.schema import Schema
from optc.runtime.sharding import Shard, Shards

_BITS = 32
"""Codes of one bit that share a word."""


def require(schema: Schema, values: Values, p: Tensor, shards: Shards) -> None:
    """Raises ValueError with the term where a parameter cannot be updated in the parts that processes have of it."""
    shard = shards.shard(p)
    reason = None if shard is None else refusal(schema, values, shard)
    if reason is not None:
        raise ValueError(
            f"{schema.name} cannot update it in the parts that processes have of it (shape {tuple(p.shape)}): {reason}"
        )


def require_all(schema: Schema, values: Values, group: Mapping[str, Any], shards: Shards) -> None:
    """The same for all parameters of a group; names the one."""
    names = group.get("param_names")
    for place, p in enumerate(group["params"]):
        try:
            require(schema, values, p, shards)
        except ValueError as error:
            raise ValueError(f"parameter {place if names is None else repr(names[place])}: {error}") from None


def require_own_shapes(schema: Schema, parameters: Sequence[Tensor], given: Collection[int]) -> None:
    """Raises ValueError where parameters come flattened into one vector, and the optimizer looks at each of them.

    FSDP1 does that, and marks what it makes; DeepSpeed's ZeRO puts a vector in the place of all that were `given` in a group.
    """
    flat = [p for p in parameters if type(p).__name__ == "FlatParameter" or getattr(p, "_fsdp_flattened", False)]
    if not flat and len(parameters) == 1 and parameters[0].ndim == 1 and id(parameters[0]) not in given:
        flat = [*parameters]
    if not flat:
        return
    measured = {name for step in schema.procedures for k in step.kernels for one in k.passes for name, _ in one.measures}
    asks = {name for _, condition in schema.flags for name in condition.arguments} & {"ndim", "numel"}
    if measured or asks:
        raise ValueError(
            f"parameters have been flattened into a vector of {flat[0].numel()} elements (by FSDP1, or DeepSpeed's ZeRO), and "
            f"{schema.name} looks at each parameter ({', '.join(sorted(measured) or sorted(asks))}): use optc.dist.shard or "
            "fully_shard (FSDP2), or optc.dist.Zero1"
        )


def refusal(schema: Schema, values: Values, shard: Shard) -> str | None:
    """The term that forbids it, and what to do; None where nothing does. All processes come to the same."""
    numel = shard.shape.numel()
    kept = [(state, book) for state in schema.states if (book := state.codebook(numel)) is not None]
    folded = schema.seen == "square" and len(shard.shape) >= 2 and shapes.needs_order(schema)
    if folded:
        return "it folds parameters into matrices as square as can be, whose rows and columns are on no single process"
    period = shapes.period(schema, values)
    if shard.cuts is None:
        why = "its parts lie unevenly in memory: shard it along the first dimension, and one more at most"
        if kept:
            return f"its state {kept[0][0].key!r} is kept as codes ({kept[0][1].name}) in blocks of elements, and {why}"
        if any(map(draws.draws, schema.procedures)):
            return f"it draws a random number for each element, and {why}"
        return f"it looks at every p-th element, and {why}" if schema.pick is not None else None
    for state, book in kept:
        cut = _unfit(shard.cuts, block(book))
        if cut is not None:
            return (
                f"its state {state.key!r} is kept as codes ({book.name}) in blocks of {block(book)} elements, and a part "
                f"begins at element {cut}, inside of one: give the dimension that is divided a size of which every process has "
                "whole blocks, or store the state otherwise"
            )
    cut = _unfit(shard.cuts, period)
    if cut is not None:
        return f"it looks at every {period}-th element, and a part begins at element {cut}: let {schema.pick} divide the parts"
    return None


def granularity(schema: Schema, numel: int, values: Values) -> int:
    """Every cut through a parameter of so many elements must be a multiple of it."""
    books = [book for state in schema.states if (book := state.codebook(numel)) is not None]
    return math.lcm(shapes.period(schema, values), *map(block, books))


def block(book: Codebook) -> int:
    """Elements whose codes no cut may part: those that are encoded together, and those that share a word."""
    return book.together if book.bits > 1 else max(book.together, _BITS)


def _unfit(cuts: Sequence[int], block: int) -> int | None:
    """The first cut that is not a multiple."""
    return next((cut for cut in cuts if cut % block), None)
