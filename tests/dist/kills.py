"""Processes that are killed or stall in the middle of a save or a step; runs in processes of their own."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import optc
from tests.dist.faults import refused
from tests.dist.training import built, difference, train, whole

CALLS = {"mkdir": os, "fsync": os, "rename": os, "replace": os, "rmtree": shutil}
"""The calls by which a save makes folders and files, makes them last, puts them in their places and removes old ones."""


def kill(*_: Any, **__: Any) -> None:
    """Ends this process as the system does that lacks memory: nothing is flushed, nobody is told."""
    os.kill(os.getpid(), signal.SIGKILL)


def at(call: str, times: int, then: Callable[[], Any]) -> Callable[[], None]:
    """Lets something happen just before a function is called for so manyth time. Returns what ends that."""
    module, left = CALLS[call], times
    before = getattr(module, call)

    def called(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            then()
        return before(*arguments, **options)

    setattr(module, call, called)
    return lambda: setattr(module, call, before)


def killed_alone(path: Path) -> dict[str, tuple[bool, str]]:
    """A process alone that is killed before each such call of its second save: whether it was, and what loads then."""
    torch.set_num_threads(1)  # a process that is about to fork must not have other threads
    model, optimizer = built("plain", "AdamW")
    train(model, optimizer, range(2), alone=True)
    states = {"the first": whole(model)}
    optc.dist.save(path, optimizer, model)
    kept = model.state_dict(), optimizer.state_dict()
    kept = {key: x.clone() for key, x in kept[0].items()}, kept[1]
    train(model, optimizer, range(2, 4), alone=True)
    states["the second"] = whole(model)
    found = {}
    for call in CALLS:
        killed, times = True, 0
        while killed:
            times += 1
            child = os.fork()
            if child == 0:
                at(call, times, kill)
                optc.dist.save(path, optimizer, model)
                os._exit(0)
            killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
            other, loading = built("plain", "AdamW")
            optc.dist.load(path, loading, other)
            loaded = next((name for name, state in states.items() if difference(whole(other), state) == 0), "neither")
            found[f"{call} {times}"] = killed, loaded
            if loaded == "the second":  # goes back, for the next
                other.load_state_dict(kept[0])
                loading.load_state_dict(kept[1])
                optc.dist.save(path, loading, other)
    return found


def killed_together(rank: int, path: Path, who: int, call: str, times: int) -> tuple[float, str]:
    """A second save of two processes in which one is killed before such a call: what the other is told, and when."""
    model, optimizer = built("zero1", "AdamW")
    train(model, optimizer, range(2))
    optc.dist.save(path, optimizer, model.module)  # type: ignore[arg-type]
    train(model, optimizer, range(2, 4))
    if rank == who:
        at(call, times, kill)
    return timed(lambda: optc.dist.save(path, optimizer, model.module))  # type: ignore[arg-type]


def timed(work: Callable[[], Any]) -> tuple[float, str]:
    """How long something takes, and what it raises."""
    began = time.monotonic()
    said = refused(work)
    return time.monotonic() - began, said


def late(rank: int, path: Path, seconds: float) -> dict[str, tuple[float, str]]:
    """Two processes wait `seconds` for each other. The first stalls in ZeRO 1, then in a save, and dies in ZeRO 1."""
    groups = [dist.new_group(timeout=timedelta(seconds=seconds)) for _ in range(2)]
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), dist.group.WORLD)
    gather, found = dist.all_gather_single, {}
    optimizers = [_zero1(group) for group in groups]

    def stall(*arguments: Any, **options: Any) -> Any:
        time.sleep(seconds + 1)
        return gather(*arguments, **options)

    if rank == 0:
        dist.all_gather_single = stall
    found["stalls"] = timed(optimizers[0].step)
    if rank == 0:
        at("mkdir", 1, lambda: time.sleep(seconds + 1))
    found["stalls in a save"] = timed(lambda: optc.dist.save(path, optimizers[0]))
    if rank == 0:
        dist.all_gather_single = kill
    found["dies"] = timed(optimizers[1].step)
    return found


def _zero1(group: Any) -> Any:
    """An optimizer that has made a step with the processes of a group."""
    p = torch.nn.Parameter(torch.ones(40, 4))
    optimizer = optc.create("AdamW", [p])
    optc.dist.Zero1(optimizer, group)
    p.grad = torch.ones(40, 4)
    optimizer.step()
    return optimizer
