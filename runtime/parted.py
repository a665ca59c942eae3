"""What any optimizer of ours is to whatever walks over it: one or several parts, with one state and one division.

An optimizer that is alone is its own only part; a routed one has an optimizer for each type. Checkpoints, ZeRO 1, gradient
release and comparisons ask for the parts, and so need not know which of the two they have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optc.runtime import checkpoint, members, model
from optc.runtime.guard import Guard
from optc.runtime.release import Releasable
from optc.runtime.sharding import PLACEMENTS, Shards

if TYPE_CHECKING:
    from optc.runtime.optimizer import Optimizer


TYPE = "type"
"""The key of a group that names its optimizer, where there are several."""


class Parted(Releasable):
    """Parameter groups and a state that belong to one or several optimizers, together."""

    _shards: Shards = PLACEMENTS
    _guard: Guard | None = None

    def _called(self) -> str:
        """What errors call it."""
        raise NotImplementedError

    def _numbered(self) -> list[tuple[Optimizer, Sequence[int]]]:
        """The parts, with the numbers of their groups here."""
        return [(part, range(len(self.param_groups)) if part is self else part._numbers or ()) for part in self._share()]

    def _schemas(self) -> checkpoint.Parts:
        return [(part.schema, numbers) for part, numbers in self._numbered()]

    def forget(self, params: members.Leaving) -> None:
        """Takes parameters out of their groups, with their names and their state.

        `params` is one or several of them: tensors, or the names that groups have of them. Groups stay where they are, even
        empty ones: schedulers count on it. An optimizer that draws random numbers draws them by a parameter's place among all,
        which moves for those behind. Raises ValueError for what is not here; then nothing has changed.
        """
        members.forget(self.param_groups, self.state, params)

    @property
    def gradient_norm(self) -> Tensor | None:
        """The norm of the whole gradient in the last step, unscaled and before it was bounded; None before the first step.

        A 0-dim float64 tensor on the parameters' device, which nothing has waited for. Only optimizers that are compiled with
        `clip_global_norm` know it; None for all others, and where one of several is another.
        """
        sums = [part._square_sum for part in self._share()]
        known = [one for one in sums if one is not None]
        return model.summed(known).sqrt() if known and len(known) == len(sums) else None

    def state_dict(self) -> dict[str, Any]:
        """In torch's layout; step counts and host states are copies of their own."""
        return checkpoint.saved(self._schemas(), super().state_dict(), self.param_groups, self._shards)

    @torch._disable_dynamo  # type: ignore[attr-defined]
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Loads what `state_dict` gave, or the optimizer of the same kind in torch, bitsandbytes or torchao.

        See `optc.runtime.checkpoint` and `optc.runtime.foreign`. Several optimizers in one need the same routing on both
        sides: types, and names where there are any.

        Raises ValueError with everything that does not fit; then nothing has changed.
        """
        self._loading(state_dict)()

    def _loading(self, state_dict: Mapping[str, Any]) -> Callable[[], None]:
        """What puts in a state dict that fits: nothing has changed until it is called. Raises as `load_state_dict` does."""
        return checkpoint.loading(self, self._called(), self._schemas(), state_dict, self._fits, self._shards)

    def _told(self) -> bool:
        """Whether a step itself finds out that a gradient is not finite, before it has changed anything."""
        return False

    def _fits(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Looks at the groups of a file first. Raises ValueError where nothing else need be looked at."""
