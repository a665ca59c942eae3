"""Gradients that are inf or NaN: found before anything changes, and skipped or raised; with a loss scale of one's own.

Where the optimizer bounds the norm of the whole gradient and counts on the host, the norm's own sum of squares tells, and the
gradients are read no more often, unless the sum is not finite: that of large gradients is not, either. Otherwise a pass over
them looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from optc.runtime.amp import Scaling
from optc.runtime.collectives import any_of, told_to_all
from optc.runtime.loss_scale import LossScale
from optc.runtime.sharding import Shard, Shards

Policy: TypeAlias = Literal["propagate", "skip", "raise"]
POLICIES: tuple[Policy, ...] = ("propagate", "skip", "raise")

_MOST_NAMED = 3
_Groups: TypeAlias = Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class Guard:
    """What an optimizer does about gradients that are not finite; `scale` multiplies its loss, if there is one."""

    policy: Policy
    scale: LossScale | None = None

    @staticmethod
    def of(nonfinite: str, scale: LossScale | None, amp: bool, owner: object) -> Guard | None:
        """The guard that an optimizer asks for, None where it asks for none. Raises ValueError for what cannot be."""
        if nonfinite not in POLICIES:
            raise ValueError(f"nonfinite = {nonfinite!r}, but it must be one of {', '.join(map(repr, POLICIES))}")
        if scale is None:
            return None if nonfinite == "propagate" else Guard(nonfinite)
        if not isinstance(scale, LossScale):
            raise TypeError(f"loss_scale is an optc.LossScale, not {type(scale).__name__}")
        if amp:
            raise ValueError("either amp=True, for a GradScaler, or a loss_scale: both scale the loss")
        if nonfinite == "raise":
            raise ValueError("with a loss_scale, gradients overflow now and then, and the step is skipped: leave nonfinite out")
        scale.belong_to(owner)
        return Guard("skip", scale)

    def before(self, groups: _Groups, told: bool, shards: Shards) -> Scaling:
        """The scaling of a step; `told`: the step itself will find out. Raises FloatingPointError where that is the policy."""
        device = next((shards.here(p).device for group in groups for p in group["params"]), torch.device("cpu"))
        scale = None if self.scale is None else self.scale.on(device)
        if told:
            return Scaling(scale)
        found = any_of(_found([g for *_, g in gradients(groups, shards)], device), groups, shards).to(device)
        if self.policy == "raise" and found.item() > 0:
            raise self.error(groups, shards)
        return Scaling(scale, found)

    def after(self, skipped: bool | Tensor, groups: _Groups, shards: Shards) -> None:
        """Moves the loss scale. Raises FloatingPointError where a step that found out itself has to."""
        if self.policy == "raise" and skipped is True:
            raise self.error(groups, shards)
        if self.scale is not None:
            self.scale.update(skipped)

    def error(self, groups: _Groups, shards: Shards) -> FloatingPointError:
        """Names the parameters whose gradients are not finite, those of other processes included, which all call it."""
        wrong: dict[tuple[str, int], tuple[int, int]] = {}  # by name and process: how many, and of how many
        for name, shard, g in gradients(groups, shards):
            count = int((~torch.isfinite(g)).sum().item())
            if count:
                here, numel = (-1, g.numel()) if shard is None else (_rank(), shard.shape.numel())
                wrong[name, here] = count, numel
        wrong = told_to_all(wrong, groups, shards)
        counts: dict[str, tuple[int, int]] = {}
        for (name, _), (count, numel) in wrong.items():
            counts[name] = counts.get(name, (0, 0))[0] + count, numel
        shown = ", ".join(f"{name} ({count} of {numel})" for name, (count, numel) in [*counts.items()][:_MOST_NAMED])
        more = f" and of {len(counts) - _MOST_NAMED} more" if len(counts) > _MOST_NAMED else ""
        return FloatingPointError(
            f"the gradient of {shown}{more} is inf or NaN, and nothing has changed: look at what feeds it, or give the "
            'optimizer nonfinite="skip"'
        )


def _rank() -> int:
    import torch.distributed as dist

    return dist.get_rank()


def gradients(groups: _Groups, shards: Shards) -> Iterable[tuple[str, Shard | None, Tensor]]:
    """The gradients that a step would see, each with its parameter's name, or where it stands, and what is here of it."""
    for number, group in enumerate(groups):
        names = group.get("param_names")
        for place, p in enumerate(group["params"]):
            g = shards.gradient(p)
            if g is not None and g.layout is torch.strided:
                name = f"parameter {place} of group {number}" if names is None or place >= len(names) else str(names[place])
                yield name, shards.shard(p), g.detach()


@dataclass(frozen=True, slots=True)
class Watch:
    """Looks, within a step, at the sum of the squares of the gradients of `groups`."""

    groups: _Groups
    shards: Shards

    def finds(self, total: Tensor) -> bool:
        """Whether a gradient is inf or NaN; waits for the device. Where only the total overflows, none is."""
        if bool(total.isfinite()):  # which all processes know
            return False
        wrong = not all(_is_finite(g) for *_, g in gradients(self.groups, self.shards))
        return bool(any_of(torch.tensor(float(wrong)), self.groups, self.shards) > 0)


def _is_finite(g: Tensor) -> bool:
    return bool(torch.isfinite(g).all())


def _found(grads: Sequence[Tensor], device: torch.device) -> Tensor:
    """1 where a number is inf or NaN, else 0; on `device`, where only that knows."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for g in grads:
        if g.numel():
            by_device.setdefault(g.device, []).append(g)
    found = torch.zeros((), device=device)
    for place, own in by_device.items():
        if place.type == "cpu":
            wrong = torch.tensor(float(_on_cpu(own)))
        else:
            largest = torch.stack([n.to(torch.float32) for n in torch._foreach_norm(own, torch.inf)])
            wrong = largest.isfinite().all().logical_not().to(torch.float32)
        found = torch.maximum(found, wrong.to(device, non_blocking=True))
    return found


def _on_cpu(grads: Sequence[Tensor]) -> bool:
    """Norms are finite where all numbers are; where they overflow, the numbers are looked at one by one."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for g in grads:
        by_dtype.setdefault(g.dtype, []).append(g)
    for dtype, own in by_dtype.items():
        wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
        norms = torch.stack(torch._foreach_norm(own, 2, wide))
        suspects = norms.isfinite().logical_not().nonzero().flatten().tolist()
        if not all(_is_finite(own[place]) for place in suspects):
            return True
    return False
