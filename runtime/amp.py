"""Loss scaling: what `torch.amp.GradScaler` leaves on an optimizer that divides by the scale itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Scaling:
    """`scale`: gradients are multiples of it (None: already divided). `found_inf`: greater than 0 if one is not finite."""

    scale: Tensor | None = None
    found_inf: Tensor | None = None

    def overflowed(self) -> bool:
        """Whether this step must be skipped, read on the host (waits for a device)."""
        return self.found_inf is not None and self.found_inf.item() > 0

    def factor(self, sign: float, on_device: bool) -> float | Tensor:
        """What gradients are multiplied by: sign/scale, a 0-dim tensor if it must not be read on the host."""
        if self.scale is None:
            return sign
        return sign / self.scale if on_device and self.scale.device.type != "cpu" else sign / self.scale.item()


def read(optimizer: Any) -> Scaling:
    """What the scaler set just before `step`; nothing outside of `scaler.step(optimizer)`."""
    return Scaling(getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None))
