"""How many steps an optimizer has made: a hyper that counts them, one entry in each group.

It is read as any other hyper, saved with the group, and may be set: a schedule goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optc.runtime.schema import Hyper, Schema


def of(schema: Schema) -> Hyper | None:
    """The hyper that counts steps; None where no line reads one."""
    return next((hyper for hyper in schema.hypers if hyper.counts), None)


def on_devices(hyper: Hyper, groups: Sequence[dict[str, Any]], there: Sequence[bool]) -> None:
    """Moves the counts of groups that count on their device to it."""
    for group, wanted in zip(groups, there, strict=True):
        if wanted:
            _on_device(hyper, group)


def _on_device(hyper: Hyper, group: dict[str, Any]) -> None:
    """Moves the count of a group to its parameters' device, where a captured step can read it and add to it."""
    device = next((p.device for p in group["params"]), None)
    count = group.get(hyper.key)
    if device is None or (isinstance(count, Tensor) and count.device == device) or not _is_number(count):
        return
    group[hyper.key] = torch.tensor(float(count or 0), dtype=torch.float64, device=device)


def count(hyper: Hyper, groups: list[dict[str, Any]], found_inf: Tensor | None = None) -> None:
    """One step more in every group; none on devices where `found_inf` is not 0."""
    for group in groups:
        before = group[hyper.key]
        if not isinstance(before, Tensor):
            group[hyper.key] = int(before) + 1
        elif found_inf is None:
            before.add_(1)
        else:
            before.add_((found_inf.to(before.device).reshape(()) == 0).to(before.dtype))


def latest(hyper: Hyper, groups: list[dict[str, Any]]) -> Any:
    """What a new group starts at: the steps that the others have made."""
    counts = [group[hyper.key] for group in groups if hyper.key in group]
    found = max((float(count) for count in counts if _is_number(count)), default=None)
    return hyper.defaults[0] if found is None else int(found)


def _is_number(count: Any) -> bool:
    return isinstance(count, int | float) or (isinstance(count, Tensor) and count.numel() == 1)
