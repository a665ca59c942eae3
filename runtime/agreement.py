"""A debug mode: processes compare what they would do next, and all stop where they would do different things."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from optc.runtime import choose
from optc.runtime.collectives import from_all
from optc.runtime.names import listed, not_ours
from optc.runtime.parted import Parted
from optc.runtime.saved_fitting import names_of
from optc.runtime.sharding import Group, is_divided

_MOST_SHOWN = 5


def compare(optimizer: Parted, every: int = 100, process_group: Group = None) -> Any:
    """Lets all processes compare hypers, parameters and step counts of an optimizer before every so many steps.

    A learning rate that differs by process, a parameter that is frozen in some of them, or another order of parameters leads to
    parts that silently grow apart; so does a gradient that some processes lack. Where one has no compiler, it would run other
    code, and the others would wait for messages that it does not send. Where anything differs, `step` raises
    RuntimeError in all processes, with what differs, and has changed nothing. It sends a few kilobytes each time and waits for
    all processes of the group (of all, if it is None).

    Returns a handle; its `remove()` ends it. Raises ValueError for a number of steps below 1, TypeError for an optimizer that
    is none of ours.
    """
    if not isinstance(optimizer, Parted):
        raise not_ours("optc.dist.compare", optimizer)
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise ValueError(f"every = {every!r}, but it must be a whole number of at least 1")
    taken = 0

    def look(*_: Any) -> None:
        nonlocal taken
        taken += 1
        if (taken - 1) % every == 0:
            require_equal(optimizer, process_group)

    return optimizer.register_step_pre_hook(look)


def require_equal(optimizer: Parted, process_group: Group = None) -> None:
    """Raises RuntimeError, in all processes, with what differs between them."""
    every = from_all(dict(_facts(optimizer)), process_group)
    problems = []
    for key in dict.fromkeys(key for facts in every for key in facts):
        values: dict[str, list[int]] = {}
        for rank, facts in enumerate(every):
            values.setdefault(facts.get(key, "not there"), []).append(rank)
        if len(values) > 1:
            problems.append(f"{key}: " + ", ".join(f"{value} in {_processes(ranks)}" for value, ranks in values.items()))
    if problems:
        raise RuntimeError(listed("processes would go on differently, nothing has changed:", problems, _MOST_SHOWN))


def _facts(optimizer: Parted) -> Iterator[tuple[str, str]]:
    """What must be the same in all processes, as texts."""
    yield "the spec", " and ".join(f"{schema.name} {schema.digest[:12]}" for schema, _ in optimizer._schemas())
    for part in optimizer._share():
        there = {optimizer._shards.here(p).device for group in part.param_groups for p in group["params"]}
        for device in sorted(there, key=str):
            yield f"the code of {part.schema.name} for {device.type}", choose.expected(part.backend, device)
    names = iter(names_of(optimizer))
    for number, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            if key not in ("params", "param_names"):
                shown = repr(value.tolist()) if isinstance(value, Tensor) else repr(value)
                yield f"{key} of group {number}", shown
        for place, p in enumerate(group["params"]):
            name = next(names)
            yield f"parameter {place} of group {number}", name
            placed = f" placed by {p.placements}" if is_divided(p) else ""
            yield f"parameter {name!r}", f"{tuple(p.shape)} {p.dtype}{placed}{'' if p.requires_grad else ', frozen'}"
            yield f"the gradient of {name!r}", "there" if p.grad is not None else "not there"
            step = optimizer.state[p].get("step") if p in optimizer.state else None
            shard = optimizer._shards.shard(p)
            if shard is not None:
                yield f"the parts of {name!r}", f"{shard.cuts or 'boxes'} of {tuple(shard.shape)}"
            yield f"the steps of {name!r}", "none" if step is None else f"{float(step):g}"


def _processes(ranks: list[int]) -> str:
    return f"process {ranks[0]}" if len(ranks) == 1 else f"processes {', '.join(map(str, ranks))}"
