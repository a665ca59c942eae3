"""Every way to divide training among processes with everything that surrounds a step; runs in every process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

import optc
from tests.dist.training import built, difference, train, whole

STEPS = 6
OVERFLOWS = 2


@dataclass(frozen=True, slots=True)
class Feature:
    """What surrounds the step: modifiers, states as codes, keywords, backward passes per step, and who scales the loss."""

    modifiers: str = ""
    stored: str = ""
    keywords: Callable[[], dict[str, Any]] = field(default=dict)
    accumulate: int = 1
    release: bool = False
    counted: bool = True  # the release is told how many backward passes there are
    scaler: bool = False
    spoiled: float | None = None  # what is put into one element of the gradient, in one step


def _scaled() -> dict[str, Any]:
    return {"loss_scale": optc.LossScale(8.0)}


FEATURES = {
    "the step alone": Feature(),
    "accumulation": Feature(accumulate=2),
    "release": Feature(release=True),
    "release, accumulated": Feature(release=True, accumulate=2),
    "clipping, whole model": Feature(" + clip_global_norm(0.05)"),
    "clipping, by group": Feature(" + clip_group_norm(0.05)"),
    "clipping, by tensor": Feature(" + clip_norm(0.05)"),
    "clipping, by value": Feature(" + clip_value(0.01)"),
    '`nonfinite="skip"`, a NaN': Feature(keywords=lambda: {"nonfinite": "skip"}, spoiled=torch.nan),
    "`GradScaler`, an overflow": Feature(keywords=lambda: {"amp": True}, scaler=True, spoiled=torch.inf),
    "`GradScaler` outside, an overflow": Feature(scaler=True, spoiled=-torch.inf),
    "clipping and `GradScaler`, an overflow": Feature(
        " + clip_global_norm(0.05)", keywords=lambda: {"amp": True}, scaler=True, spoiled=torch.inf
    ),
    "`optc.LossScale`, an overflow": Feature(keywords=_scaled, spoiled=torch.inf),
    "a schedule in the step": Feature(" + cosine(T = 6)"),
    "states in 8 bits": Feature(stored="8bit"),
    "all at once": Feature(" + clip_global_norm(0.05) + cosine(T = 6)", "8bit", _scaled, accumulate=2, spoiled=torch.inf),
}

UNCOUNTED = "release, accumulated by the engine"


def trained_with(rank: int, mode: str, feature: str, optimizer: str = "AdamW") -> float | str:
    """How far the steps are from those of one process with the whole batch; or why they are refused."""
    found, what = [], {**FEATURES, UNCOUNTED: Feature(release=True, accumulate=2, counted=False)}[feature]
    stored = what.stored if optimizer + what.stored in optc.available() else ""
    for kind in (mode, "plain"):
        try:
            found.append(_trained(kind, optimizer + stored + what.modifiers, what, released=what.release and kind == mode))
        except (ValueError, RuntimeError) as error:
            return str(error)
    return difference(*found)


def trained_with_all(rank: int, mode: str, optimizer: str) -> dict[str, float | str]:
    """The same for every feature."""
    return {feature: trained_with(rank, mode, feature, optimizer) for feature in FEATURES}


def released(rank: int, mode: str, names: Sequence[str], accumulate: int, counted: bool) -> dict[str, float]:
    """How far updates in the backward pass are from those after it, both in this mode."""
    what = Feature(accumulate=accumulate, counted=counted)
    return {name: difference(*(_trained(mode, name, what, released=one) for one in (True, False))) for name in names}


def _trained(kind: str, name: str, what: Feature, *, released: bool) -> Any:
    """The parameters after some steps."""
    options = what.keywords()
    model, optimizer = built(kind, name, **options)
    if released:
        optc.release(optimizer, accumulate=what.accumulate if what.counted else 1)
    scaling = {"scale": options["loss_scale"]} if "loss_scale" in options else {}
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0) if what.scaler else None

    def spoil(step: int) -> None:
        if step == OVERFLOWS and what.spoiled is not None:
            _spoil(model, what.spoiled)

    train(
        model, optimizer, range(STEPS), alone=kind == "plain", accumulate=what.accumulate, scaler=scaler, spoil=spoil, **scaling
    )
    assert scaler is None or scaler.get_scale() == 4.0  # the overflow has halved it
    assert not scaling or options["loss_scale"].value == 4.0
    return whole(model)


def _spoil(model: nn.Module, value: float) -> None:
    """Puts a number into one element of what is a gradient in one process, and in those that have the same part."""
    g: Any = next(model.parameters()).grad
    if not isinstance(g, DTensor):
        g.view(-1)[-1] = value
    elif g.device_mesh.get_coordinate()[-1] == 1:  # type: ignore[index]
        g._local_tensor.view(-1)[-1] = value
