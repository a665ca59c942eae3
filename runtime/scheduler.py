"""A schedule as a torch scheduler, for any optimizer."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from optc.runtime.schedules import Schedule


class Scheduler(LRScheduler):
    """Sets the learning rate of every group, and its momentum or β1 where the schedule gives one.

    It is computed from the number of steps, not from the value before, so that it is exact after any number of them. A factor
    that another scheduler (`ChainedScheduler`) or the user put on a rate stays on it; one that was put on a rate of 0 is lost.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, last_epoch: int = -1) -> None:
        if not isinstance(schedule, Schedule):
            raise TypeError(f"a scheduler needs a schedule, not {type(schedule).__name__}")
        self.schedule = schedule
        self._set: list[float] = []
        self._momenta: list[float] = [_momentum(group) or 0.0 for group in optimizer.param_groups]
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """The rates after `last_epoch` steps, with the factors that others have put on those before."""
        groups = self.optimizer.param_groups
        present = [float(group["lr"]) for group in groups]
        factors = [1.0] * len(groups)
        if self.last_epoch > 0 and len(self._set) == len(groups):
            factors = [now / then if then else 1.0 for now, then in zip(present, self._set, strict=True)]
        values: list[float | Tensor] = []
        self._set = []
        for number, (base, factor) in enumerate(zip(self.base_lrs, factors, strict=True)):
            value = self.schedule(self.last_epoch, float(base)) * factor
            self._set.append(value)
            values.append(value)
            self._give_momentum(number)
        return values

    def _get_closed_form_lr(self) -> list[float | Tensor]:
        """As `get_lr`, whatever the rates were before: torch asks for it where it sets the number of steps."""
        self._set = []
        return self.get_lr()

    def _give_momentum(self, number: int) -> None:
        group = self.optimizer.param_groups[number]
        base = self._momenta[number] if number < len(self._momenta) else (_momentum(group) or 0.0)
        value = self.schedule.momentum(self.last_epoch, base)
        if value is None or _momentum(group) is None:
            return
        if "betas" in group:
            group["betas"] = (value, *group["betas"][1:])
        else:
            group["momentum"] = value

    def state_dict(self) -> dict[str, Any]:
        """Numbers only: what `load_state_dict` goes on from, with a scheduler made with the same schedule."""
        return {key: value for key, value in self.__dict__.items() if key not in ("optimizer", "schedule")}


def _momentum(group: dict[str, Any]) -> float | None:
    """The momentum of a group, or its β1; None where it has neither."""
    if "betas" in group:
        return float(group["betas"][0])
    return float(group["momentum"]) if "momentum" in group else None
