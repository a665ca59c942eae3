"""An optimizer on divided parameters beside itself on whole ones, with the same gradients; runs in every process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import optc
from tests.dist.layouts import SHAPES, divided, gradient, start, whole

STEPS = 10


def pair(name: str, layout: str, size: int, backend: str, shapes: Sequence[Sequence[int]] = SHAPES, **hypers: Any) -> Any:
    """(whole parameters, divided parameters, an optimizer for each)."""
    alone = [torch.nn.Parameter(start(shape)) for shape in shapes]
    parts = [torch.nn.Parameter(divided(layout, start(shape), size)) for shape in shapes]
    optimizers = [optc.create(name, parameters, backend=backend, **hypers) for parameters in (alone, parts)]
    if layout == "zero1":
        optc.dist.Zero1(optimizers[1])
    return alone, parts, *optimizers


def steps(alone: Any, parts: Any, first: Any, second: Any, layout: str, size: int, count: int = STEPS) -> None:
    """Steps of both with equal gradients."""
    for step in range(count):
        for p, q in zip(alone, parts, strict=True):
            p.grad = gradient(p.shape, step)
            q.grad = divided(layout, gradient(p.shape, step), size)
        closure = _loss(step) if first.schema.reads_loss else None
        first.step(closure)
        second.step(closure)


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
    """For each optimizer how far both are apart, or why the divided one is refused."""
    found: dict[str, float | str] = {}
    for name in names:
        try:
            alone, parts, first, second = pair(name, layout, size, backend, shapes)
        except ValueError as error:
            found[name] = str(error)
            continue
        steps(alone, parts, first, second, layout, size, count)
        found[name] = difference(alone, parts)
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
