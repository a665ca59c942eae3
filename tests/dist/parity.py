"""An optimizer on divided parameters beside itself on whole ones, with the same gradients; runs in every process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import optc
from tests.dist.layouts import SHAPES, divided, gradient, start, whole

STEPS = 10


def made(name: str, layout: str | None, size: int, backend: str, shapes: Sequence[Sequence[int]], **hypers: Any) -> Any:
    """Parameters, whole where no layout divides them, and an optimizer for them."""
    values = (start(shape) for shape in shapes)
    parameters = [torch.nn.Parameter(x if layout is None else divided(layout, x, size)) for x in values]
    optimizer = optc.create(name, parameters, backend=backend, **hypers)
    if layout == "zero1":
        optc.dist.Zero1(optimizer)
    return parameters, optimizer


def pair(name: str, layout: str, size: int, backend: str, shapes: Sequence[Sequence[int]] = SHAPES, **hypers: Any) -> Any:
    """(whole parameters, divided parameters, an optimizer for each)."""
    (alone, first), (parts, second) = (made(name, one, size, backend, shapes, **hypers) for one in (None, layout))
    return alone, parts, first, second


def steps(alone: Any, parts: Any, first: Any, second: Any, layout: str, size: int, count: int = STEPS) -> None:
    """Steps of both with equal gradients."""
    for parameters, optimizer, way in ((alone, first, None), (parts, second, layout)):
        stepped(parameters, optimizer, way, size, count)


def stepped(parameters: Any, optimizer: Any, layout: str | None, size: int, count: int) -> None:
    """Steps with gradients that are the same everywhere."""
    for step in range(count):
        for p in parameters:
            g = gradient(p.shape, step)
            p.grad = g if layout is None else divided(layout, g, size)
        optimizer.step(_loss(step) if optimizer.schema.reads_loss else None)


def _loss(step: int) -> Callable[[], Tensor]:
    return lambda: torch.tensor(1.0 / (step + 1))


def difference(alone: Sequence[Tensor], parts: Sequence[Tensor]) -> float:
    """The largest difference, relative where parameters are large; infinite where one is NaN."""
    found = 0.0
    for p, q in zip(alone, parts, strict=True):
        every = whole(q.detach())
        if p.numel():
            apart = ((p.detach() - every).abs() / p.detach().abs().clamp(min=1)).nan_to_num(nan=torch.inf)
            found = max(found, float(apart.max()))  # which would leave NaN out
    return found


def compare(
    rank: int,
    names: Sequence[str],
    layout: str,
    size: int,
    backend: str,
    shapes: Sequence[Sequence[int]] = SHAPES,
    count: int = STEPS,
) -> dict[str, float | str]:
    """For each optimizer how far both are apart, or why the divided one is refused; one process has the whole parameters."""
    found: dict[str, float | str] = {}
    for name in names:
        try:
            parts, optimizer = made(name, layout, size, backend, shapes)
        except ValueError as error:
            found[name] = str(error)
            continue
        stepped(parts, optimizer, layout, size, count)
        alone = [torch.empty(tuple(shape)) for shape in shapes]
        if rank == 0:
            whole_ones, other = made(name, None, size, backend, shapes)
            stepped(whole_ones, other, None, size, count)
            alone = [p.detach() for p in whole_ones]
        dist.broadcast(every := torch.cat([x.reshape(-1) for x in alone]), 0)
        sizes = [x.numel() for x in alone]
        found[name] = difference([x.view_as(like) for x, like in zip(torch.split(every, sizes), alone, strict=True)], parts)
    return found


def carried(rank: int, name: str, layouts: Sequence[str], size: int, shapes: Sequence[Sequence[int]], path: Path) -> list[Any]:
    """The whole state after some steps, saved and loaded from each of these layouts to the next one."""
    hypers = {"slice_p": 4} if "Prodigy" in name else {}
    found: list[Any] = []
    for layout in layouts:
        alone, parts, first, second = pair(name, layout, size, "native", shapes, **hypers)
        if found:
            optc.dist.load(path, second)
        else:
            steps(alone, parts, first, second, layout, size, 3)
            found.append(first.state_dict()["state"])
        optc.dist.save(path, second)
        found.append(optc.dist.full_state_dict(second)["state"])
    return found


def in_bfloat16(rank: int, names: Sequence[str], layout: str, size: int) -> dict[str, float]:
    """How far bfloat16 parameters, and what lies beside them, are from those of one process after a few steps."""
    found = {}
    for name in names:
        made = []
        for way in (None, layout):
            values = (start(shape).bfloat16() for shape in SHAPES)
            parameters = [torch.nn.Parameter(x if way is None else divided(way, x, size)) for x in values]
            optimizer = optc.create(name, parameters, lr=1e-2)
            if way == "zero1":
                optc.dist.Zero1(optimizer)
            for step in range(4):
                for p in parameters:
                    g = gradient(p.shape, step).bfloat16()
                    p.grad = g if way is None else divided(way, g, size)
                optimizer.step()
            made.append((parameters, optc.dist.full_state_dict(optimizer)["state"]))
        (alone, states), (parts, others) = made
        found[name] = difference(alone, parts)
        for index, slot in states.items():
            for key, x in slot.items():
                if not torch.equal(x, others[index][key]):
                    found[name] = torch.inf
    return found
