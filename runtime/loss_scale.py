"""A dynamic loss scale that its optimizer moves: gradients of float16 neither vanish nor overflow for long."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_KEYS = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")


class LossScale:
    """Multiplies the loss; the optimizer divides gradients by it as it reads them, skips steps that overflow, and moves it.

        scale = optc.LossScale()
        optimizer = AdamW(model.parameters(), loss_scale=scale)
        scale(loss).backward()
        optimizer.step()

    The rule is that of `torch.amp.GradScaler`: after a step with inf or NaN the scale is multiplied by `backoff`, after
    `interval` steps in a row without, by `growth` unless that is infinite. No call besides these two, and no wait for a device.
    `init` is a finite number above 0, `growth` above 1, `backoff` in (0, 1), `interval` a whole number of at least 1; raises
    ValueError otherwise. One loss scale belongs to one optimizer.
    """

    def __init__(self, init: float = 65536.0, growth: float = 2.0, backoff: float = 0.5, interval: int = 2000) -> None:
        rules = (
            ("init", init, 0 < init < math.inf, "a finite number above 0"),
            ("growth", growth, 1 < growth < math.inf, "a finite number above 1"),
            ("backoff", backoff, 0 < backoff < 1, "a number in (0, 1)"),
            ("interval", interval, isinstance(interval, int) and interval >= 1, "a whole number of at least 1"),
        )
        for name, value, right, wanted in rules:
            if not right:
                raise ValueError(f"LossScale: {name} = {value!r}, but it must be {wanted}")
        self.growth, self.backoff, self.interval = float(growth), float(backoff), int(interval)
        self._scale = torch.full((), float(init), dtype=torch.float32)
        self._streak = torch.zeros((), dtype=torch.int32)
        self._owner: weakref.ref[object] | None = None

    def __call__(self, loss: Tensor) -> Tensor:
        """The loss times the scale, for `backward()`."""
        return loss * self.on(loss.device)

    @property
    def value(self) -> float:
        """The scale now; waits for a device."""
        return float(self._scale.item())

    def on(self, device: torch.device) -> Tensor:
        """The scale as a 0-dim float32 tensor on a device, where it stays from then on."""
        if self._scale.device != device:
            self._scale, self._streak = self._scale.to(device), self._streak.to(device)
        return self._scale

    def update(self, skipped: bool | Tensor) -> None:
        """Moves the scale after a step; `skipped` is whether it overflowed, or a number on the device that is not 0 then."""
        found = torch.full((), float(skipped)) if isinstance(skipped, bool) else (skipped != 0).to(torch.float32).reshape(())
        torch._amp_update_scale_(
            self._scale, self._streak, found.to(self._scale.device), self.growth, self.backoff, self.interval
        )

    def belong_to(self, optimizer: object) -> None:
        """Notes whose scale this is. Raises ValueError where it is another's already."""
        owner = None if self._owner is None else self._owner()
        if owner is not None and owner is not optimizer:
            raise ValueError("this LossScale belongs to another optimizer: one moves it, so give each its own")
        self._owner = weakref.ref(optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Numbers with the names that `torch.amp.GradScaler` gives them: each loads the other's file."""
        values = (self.value, self.growth, self.backoff, self.interval, int(self._streak.item()))
        return dict(zip(_KEYS, values, strict=True))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` gave. Raises ValueError for something else; then nothing has changed."""
        missing = [key for key in _KEYS if key not in state_dict]
        if missing:
            raise ValueError(f"no state of a loss scale: it lacks {', '.join(missing)}")
        scale, growth, backoff, interval, streak = (state_dict[key] for key in _KEYS)
        fresh = LossScale(scale, growth, backoff, interval)
        self.growth, self.backoff, self.interval = fresh.growth, fresh.backoff, fresh.interval
        self._scale.fill_(scale)
        self._streak.fill_(streak)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_owner": None}

    def __repr__(self) -> str:
        return f"LossScale({self.value:g}, growth={self.growth:g}, backoff={self.backoff:g}, interval={self.interval})"
