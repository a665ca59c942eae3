"""The loss that a step is given: what its closure has returned, as one number of the whole model.

It is the value of what is minimized, at the point where the gradients were taken: under `maximize` minus what the closure has
returned, and never a multiple of a loss scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, TypeAlias

import torch
from torch import Tensor

from optc.runtime import state as states
from optc.runtime.devices import moved

Loss: TypeAlias = float | Tensor


def of_step(optimizers: Sequence[Any], closure: Callable[[], Any] | None) -> tuple[Any, list[Loss | None]]:
    """What the closure, called once, has returned, and the loss for each optimizer of a step, None for those that read none.

    Raises TypeError where one reads it and there is no closure, and as `read` does.
    """
    if closure is None:
        for optimizer in optimizers:
            if optimizer.schema.reads_loss:
                raise needed(optimizer.schema.name)
        return None, [None for _ in optimizers]
    with torch.enable_grad():
        returned = closure()
    return returned, [read(o.schema.name, returned, o.param_groups) if o.schema.reads_loss else None for o in optimizers]


def needed(name: str) -> TypeError:
    """The error of a step without a closure."""
    return TypeError(
        f"{name}.step() needs the loss: pass a closure that returns it, optimizer.step(closure); "
        "after loss.backward(), optimizer.step(lambda: loss) will do"
    )


def read(name: str, returned: Any, groups: Sequence[Mapping[str, Any]]) -> Loss:
    """The loss to minimize, from what the closure has returned; a tensor stays on its device.

    Raises TypeError for what is no number, ValueError for several numbers or where the groups do not agree on `maximize`.
    """
    signs = {bool(group.get("maximize", False)) for group in groups}
    if len(signs) > 1:
        raise ValueError(
            f"{name} reads the loss, which is one number for all groups: `maximize` must be the same in all of them"
        )
    loss = _number(name, returned)
    return -loss if signs == {True} else loss


def _number(name: str, returned: Any) -> Loss:
    wanted = f"{name}.step() needs a closure that returns the loss as one real number"
    if isinstance(returned, Tensor):
        if returned.is_complex() or returned.dtype == torch.bool:
            raise TypeError(f"{wanted}: this one returned a tensor of dtype {returned.dtype}")
        if returned.numel() != 1:
            raise ValueError(f"{wanted}: this one returned a tensor of shape {tuple(returned.shape)}")
        return returned.detach().reshape(()).to(torch.float64)
    if isinstance(returned, bool) or not isinstance(returned, Real):
        what = "None" if returned is None else f"a {type(returned).__name__}"
        raise TypeError(f"{wanted}: this one returned {what}")
    return float(returned)


def on(loss: Loss, device: torch.device) -> Tensor:
    """The loss as a 0-dim float64 tensor on a device. Nothing is waited for unless it has to go from a device to the host."""
    return moved(loss, device) if isinstance(loss, Tensor) else states.scalar(loss, device)
