"""A loss that is NaN in one process alone, through its backward pass; runs in every process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tests.dist.faults import refused
from tests.dist.training import batch, built, difference, whole

BROKEN = 1
"""The step whose loss is NaN in process 1."""


def broken_loss(rank: int, engine: str, names: Sequence[str], policy: str) -> dict[str, Any]:
    """For each optimizer what three steps raise, whether they were skipped, how far parameters moved, and how many are NaN."""
    found: dict[str, Any] = {}
    for name in names:
        model, optimizer = built(engine, name, nonfinite=policy)
        steps = []
        for step in range(3):
            before = whole(model)
            loss = model(batch(step, rank, torch.distributed.get_world_size())).square().mean()
            torch.autograd.backward(loss * torch.nan if (rank, step) == (1, BROKEN) else loss)
            said = refused(optimizer.step)
            optimizer.zero_grad()
            after = whole(model)
            skipped = float(optimizer.last_step_skipped or 0.0)
            steps.append(
                (said.split(":")[0], skipped, difference(before, after), sum(int(x.isnan().sum()) for x in after.values()))
            )
        found[name] = steps, {key: x.tolist() for key, x in whole(model).items()}
    return found
