"""Faults that happen in one process; runs in every process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import optc
from tests.dist.layouts import SHAPES, divided, gradient
from tests.dist.parity import difference, pair, steps
from tests.dist.training import built, train, whole


def prepared(name: str, size: int, layout: str = "fsdp", **hypers: Any) -> tuple[list[Any], list[Any], Any, Any]:
    """Whole and divided parameters after two steps, with gradients for a third."""
    alone, parts, first, second = pair(name, layout, size, "native", SHAPES, **hypers)
    steps(alone, parts, first, second, layout, size, 2)
    for p, q in zip(alone, parts, strict=True):
        p.grad, q.grad = gradient(p.shape, 2), divided(layout, gradient(q.shape, 2), size)
    return alone, parts, first, second


def refused(work: Callable[[], Any]) -> str:
    """What it raises."""
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def gradient_missing(rank: int, name: str, layout: str) -> list[str]:
    """One process lacks a gradient that the other has: of each parameter in turn, and what is raised."""
    said = []
    for place in range(len(SHAPES) - 1):
        _, parts, _, optimizer = prepared(name, 2, layout)
        if rank == 1:
            parts[place].grad = None
        said.append(refused(optimizer.step))
    return said


def gradient_missing_everywhere(rank: int, name: str) -> float:
    """All processes lack the same gradients: as alone."""
    alone, parts, first, second = prepared(name, 2)
    for p, q in zip(alone[:2], parts[:2], strict=True):
        p.grad = q.grad = None
    first.step()
    second.step()
    return difference(alone, parts)


def no_gradients_in_one(rank: int, name: str) -> str:
    """One process calls step without any gradient."""
    _, parts, _, optimizer = prepared(name, 2)
    if rank == 1:
        for q in parts:
            q.grad = None
    return refused(optimizer.step)


def dies(rank: int, name: str) -> str:
    """One process ends before a step; the other is told, soon."""
    _, _, _, optimizer = prepared(name, 2)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    began = time.monotonic()
    said = refused(optimizer.step)
    return f"{time.monotonic() - began:.1f} {said}"


def stalls(rank: int, name: str) -> str:
    """One process comes to a step long after the other has given up."""
    _, _, _, optimizer = prepared(name, 2)
    if rank == 1:
        time.sleep(12)
    began = time.monotonic()
    said = refused(optimizer.step)
    return f"{time.monotonic() - began:.1f} {said}"


def not_finite(rank: int, name: str, policy: str, value: float) -> tuple[str, float, float]:
    """A number that is not finite in one process's part: what is raised, how far parameters moved, whether it was skipped."""
    alone, parts, _first, second = prepared(name, 2, nonfinite=policy)
    before = [p.detach().clone() for p in alone]
    if rank == 0:
        _here(parts[0].grad).view(-1)[3] = value
    counts = [float(slot["step"]) for slot in second.state.values()]
    said = refused(second.step)
    assert policy == "propagate" or counts == [float(slot["step"]) for slot in second.state.values()]
    moved = difference(before, parts)
    return said, moved, float(second.last_step_skipped)


def _here(x: Any) -> Tensor:
    """What of a tensor is in this process."""
    found: Tensor = getattr(x, "_local_tensor", x)
    return found


def scaled(rank: int, engine: str, name: str, amp: bool, unscale: bool) -> list[Any]:
    """A GradScaler where one process's part overflows: per step whether parameters moved, and the scale."""
    model, optimizer = built(engine, name, amp=amp)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    found: list[Any] = []
    for step in range(3):
        x = torch.randn(8, 8, generator=torch.Generator().manual_seed(step))[rank::2]
        before = whole(model)
        scaler.scale(torch.zeros(()))  # which makes the scale
        loss: Any = model(x).square().mean() * scaler.get_scale()
        loss.backward()
        if step == 1 and (rank == 1 or engine == "zero1"):
            p = next(model.parameters())
            _here(p.grad).view(-1)[-1] = torch.inf
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        after = whole(model)
        moved = any(not torch.equal(before[name], after[name]) for name in before)
        found.append((moved, scaler.get_scale(), float(next(iter(optimizer.state.values()))["step"])))
    return found


def own_scale(rank: int, engine: str) -> list[Any]:
    """An optc.LossScale where one process's part overflows."""
    scale = optc.LossScale(8.0)
    model, optimizer = built(engine, "AdamW", loss_scale=scale)
    found: list[Any] = []
    for step in range(3):
        x = torch.randn(8, 8, generator=torch.Generator().manual_seed(step))[rank::2]
        loss: Any = scale(model(x).square().mean())
        loss.backward()
        if step == 1 and rank == 1:
            p = next(model.parameters())
            _here(p.grad).view(-1)[-1] = torch.inf
        optimizer.step()
        found.append((bool(optimizer.last_step_skipped), scale.value))
        optimizer.zero_grad()
    return found


def dry_run(rank: int, engine: str, name: str) -> tuple[float, bool]:
    """What torch.distributed.checkpoint does to an empty optimizer: a step with zeros and lr 0 moves nothing."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model, optimizer = built(engine, name)
    before = whole(model)
    packed = get_optimizer_state_dict(model, optimizer)
    after = whole(model)
    return max(float((before[k] - after[k]).abs().max()) for k in before), bool(packed["state"])


def killed_while_saving(rank: int, path: Path) -> str:
    """A second save whose writing process is killed before it is whole."""
    model, optimizer = built("stage3", "AdamW")
    train(model, optimizer, range(2))
    optc.dist.save(path, optimizer, model)
    train(model, optimizer, range(2, 4))
    if rank == 0:
        import torch.distributed.checkpoint.filesystem as filesystem

        def killed(*arguments: Any, **options: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        filesystem.FileSystemWriter.finish = killed  # type: ignore[method-assign]
    optc.dist.save(path, optimizer, model)
    return "saved"


def loaded_after(rank: int, path: Path) -> float:
    """How far what is loaded is from two steps."""
    model, optimizer = built("stage3", "AdamW")
    optc.dist.load(path, optimizer, model)
    expected, other = built("stage3", "AdamW")
    train(expected, other, range(2))
    a, b = whole(model), whole(expected)
    return max(float((a[k] - b[k]).abs().max()) for k in a)


def unable(rank: int, name: str, layout: str) -> tuple[float, str]:
    """One process cannot do a step; the others are told, and need not wait. Seconds, and what is raised."""
    _, _, _, optimizer = prepared(name, 2, layout)
    if rank == 1:
        optimizer.param_groups[0]["lr"] = -1.0
    began = time.monotonic()
    said = refused(lambda: optimizer.step(lambda: torch.tensor(0.5)))
    return time.monotonic() - began, said


def order_differs(rank: int) -> str:
    """One process has its parameters, which have one shape, in another order."""
    named = [(name, torch.nn.Parameter(torch.ones(4, 4))) for name in "ab"]
    optimizer = optc.create("LAMB", named if rank == 0 else named[::-1])
    optc.dist.compare(optimizer)
    return refused(optimizer.step)


def code_differs(rank: int) -> str:
    """One process has no compiler."""
    optimizer = optc.create("LAMB", [torch.nn.Parameter(torch.ones(4, 4))])
    optc.dist.compare(optimizer)
    before = os.environ.get("CXX")
    if rank == 1:
        os.environ["CXX"] = "no-such-compiler"
    try:
        return refused(optimizer.step)
    finally:
        os.environ.pop("CXX", None) if before is None else os.environ.update(CXX=before)


def hypers_differ(rank: int, every: int) -> list[str]:
    """One process has another lr: what each of some steps raises."""
    _, parts, _, optimizer = prepared("AdamW", 2)
    optc.dist.compare(optimizer, every)
    said = []
    for step in range(3):
        if rank == 1 and step == 1:
            optimizer.param_groups[0]["lr"] = 0.5
        for q in parts:
            q.grad = divided("fsdp", gradient(q.shape, step), 2)
        said.append(refused(optimizer.step))
    return said


def gradient_lost(rank: int) -> tuple[str, float]:
    """One process lacks a gradient of an optimizer that sends nothing: what the step raises, how far parameters move."""
    alone, parts, _, optimizer = prepared("AdamW", 2)
    optc.dist.compare(optimizer, 1)
    before = [p.detach().clone() for p in alone]
    if rank == 1:
        parts[1].grad = None
    said = refused(optimizer.step)
    return said, difference(before, parts)
