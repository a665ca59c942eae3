"""Learning-rate schedules: plain functions of the steps done, which are schedulers as well.

    rate = optc.schedules.Cosine(T=1000, warmup=100)
    rate(250, 1e-3)                      # after 250 steps, for a group that was given 1e-3
    scheduler = rate.on(optimizer)       # a torch LRScheduler, for any torch optimizer
    optc.compile("adamw", modifiers=["cosine(T = 1000, warmup = 100)"])    # or compiled into the step

`available()` are the names of the shipped ones, all classes of this module; `optc.schedule` makes one by its name, from a spec
of one's own, or a chain of several.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optc.runtime.schedule_registry import available
from optc.runtime.schedules import Chain, Schedule, Value

if TYPE_CHECKING:
    from optc.generated.schedules import *  # noqa: F403

__all__ = ["Chain", "Schedule", "Value", "available"]  # and the shipped schedules, see __dir__


def __getattr__(name: str) -> Any:
    from optc.generated import schedules

    return getattr(schedules, name)


def __dir__() -> list[str]:
    return sorted([*__all__, *available()])
