"""Numbers of the model on the way between devices: gathered where the first parameter is, handed to every other device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def moved(x: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; the host waits only for what comes to it, as it would read what is not there yet."""
    return x if x.device == device else x.to(device, non_blocking=device.type != "cpu")


def placed(numbers: Mapping[str, float | Tensor], device: torch.device) -> Mapping[str, float | Tensor]:
    """Numbers for launches on a device."""
    return {name: moved(number, device) if isinstance(number, Tensor) else number for name, number in numbers.items()}


def together(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    """What batches have left, float64 [tensors][names] each, one after another on one device."""
    every = [moved(part, device) for part in parts]
    return every[0] if len(every) == 1 else torch.cat(every)
