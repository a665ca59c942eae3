"""Who takes part in a step: all processes must have a parameter's gradient, or none, and all must be able to do the step."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

UNABLE = math.nan
"""What a process tells that cannot do a step: it stays what it is, whatever is added to it or compared with it."""
SOME = 0.5
"""How many processes take part where it is only known that not all do, and not none."""


def require(taking: Tensor, processes: int, label: Callable[[int], str]) -> None:
    """Raises RuntimeError unless each parameter takes part in all processes or in none; `taking`: in how many it does.

    `label`: what errors call a parameter.
    """
    torn = ((taking != 0) & (taking != processes)).nonzero().flatten().tolist()
    if not torn:
        return
    counts = [float(taking[place]) for place in torn]
    if any(map(math.isnan, counts)):
        raise RuntimeError(
            "another process could not do this step, and its own error says why. This one may have updated some of its state: "
            "go on from a checkpoint"
        )
    count = "some" if counts[0] == SOME else f"{counts[0]:.0f}"
    raise RuntimeError(
        f"{label(torn[0])} takes part in this step on {count} of {processes} processes"
        f"{f', and so do {len(torn) - 1} others' if len(torn) > 1 else ''}: all must have its gradient, or none. Processes "
        "may have updated their states differently: go on from a checkpoint"
    )
