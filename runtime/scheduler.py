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
        self._set: list[float | None] = []  # the rates that this scheduler has set last
        self._factors: list[float] = []
        for group in optimizer.param_groups if schedule.has_momentum else ():
            if (momentum := _momentum(group)) is not None:
                group.setdefault("initial_momentum", momentum)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """The rates after `last_epoch` steps, with the factors that others have put on those before."""
        groups = self.optimizer.param_groups
        if self.last_epoch <= 0:  # torch may start a schedule more than once, and sets the rates back in between
            self._set, self._factors = [], []
        new = len(groups) - len(self._factors)  # groups that were added since
        self._factors += [1.0] * new
        self._set += [None] * new
        values: list[float | Tensor] = []
        for number, (group, base) in enumerate(zip(groups, self.base_lrs, strict=True)):
            present, before = float(group["lr"]), self._set[number]
            if before and present != before:
                self._factors[number] *= present / before
            value = self.schedule(self.last_epoch, float(base)) * self._factors[number]
            self._set[number] = value
            values.append(value)
            self._give_momentum(number)
        return values

    def _get_closed_form_lr(self) -> list[float | Tensor]:
        """As `get_lr`, whatever the rates were before: torch asks for it where it sets the number of steps."""
        self._set, self._factors = [], []
        return self.get_lr()

    def _give_momentum(self, number: int) -> None:
        group = self.optimizer.param_groups[number]
        present = _momentum(group)
        if present is None or not self.schedule.has_momentum:
            return
        value = self.schedule.momentum(self.last_epoch, group.setdefault("initial_momentum", present))
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
