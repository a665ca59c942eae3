"""Every way to divide training among processes with everything that surrounds a step; runs in every process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

import optc
from tests.dist.training import built, difference, train, whole

STEPS = 6


@dataclass(frozen=True, slots=True)
class Feature:
    """What surrounds the step: an optimizer, its keywords, backward passes per step, and who scales the loss."""

    optimizer: str = "AdamW"
    keywords: Callable[[], dict[str, Any]] = field(default=dict)
    accumulate: int = 1
    release: bool = False
    counted: bool = True  # the release is told how many backward passes there are
    scaler: bool = False


FEATURES = {
    "the step alone": Feature(),
    "accumulation": Feature(accumulate=2),
    "release": Feature(release=True),
    "release, accumulated": Feature(release=True, accumulate=2),
    "clipping, whole model": Feature("AdamW + clip_global_norm(0.05)"),
    "clipping, by group": Feature("AdamW + clip_group_norm(0.05)"),
    "clipping, by tensor": Feature("AdamW + clip_norm(0.05)"),
    "`GradScaler`": Feature(keywords=lambda: {"amp": True}, scaler=True),
    "`optc.LossScale`": Feature(keywords=lambda: {"loss_scale": optc.LossScale(8.0)}),
    "a schedule in the step": Feature("AdamW + cosine(T = 6)"),
    "states in 8 bits": Feature("AdamW8bit"),
    "all at once": Feature(
        "AdamW8bit + clip_global_norm(0.05) + cosine(T = 6)", lambda: {"loss_scale": optc.LossScale(8.0)}, accumulate=2
    ),
}

UNCOUNTED = "release, accumulated by the engine"


def trained_with(rank: int, mode: str, feature: str) -> float | str:
    """How far the steps are from those of one process with the whole batch; or why they are refused."""
    found, what = [], {**FEATURES, UNCOUNTED: Feature(release=True, accumulate=2, counted=False)}[feature]
    for kind in (mode, "plain"):
        options = what.keywords()
        try:
            model, optimizer = built(kind, what.optimizer, **options)
            if what.release and kind == mode:
                optc.release(optimizer, accumulate=what.accumulate if what.counted else 1)
            scaling = {"scale": options["loss_scale"]} if "loss_scale" in options else {}
            scaling |= {"scaler": torch.amp.GradScaler("cpu", init_scale=8.0)} if what.scaler else {}
            train(model, optimizer, range(STEPS), alone=kind == "plain", accumulate=what.accumulate, **scaling)
        except (ValueError, RuntimeError) as error:
            return str(error)
        found.append(whole(model))
    return difference(*found)
