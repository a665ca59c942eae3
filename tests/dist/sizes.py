"""How many bytes of state each process has; runs in every process."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import optc
from tests.dist.layouts import mesh
from tests.dist.training import Net, built, train


def state_bytes(rank: int, engine: str, name: str) -> int:
    """Of a model with uneven rows, after a step."""
    model, optimizer = built(engine, name, partial(Net, torch.float32))
    train(model, optimizer, range(1))
    return _bytes(optimizer)


def even_bytes(rank: int, engine: str, name: str) -> int:
    """Of a model all of whose rows are divided evenly."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 16))
    whole = mesh(dist.get_world_size(), "replicas", "shards") if engine == "hsdp" else None
    optc.dist.shard(model, stage=3 if engine == "hsdp" else int(engine[-1]), mesh=whole)  # type: ignore[arg-type]
    optimizer = optc.create(name, model)
    model(torch.ones(2, 16)).square().mean().backward()
    optimizer.step()
    return _bytes(optimizer)


def _bytes(optimizer: Any) -> int:
    """Of what lies here, without step counts."""
    entries = (x for slot in optimizer.state.values() for key, x in slot.items() if key != "step")
    return sum(getattr(x, "_local_tensor", x).nbytes for x in entries)
