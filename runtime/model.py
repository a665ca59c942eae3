"""Numbers of the whole model: states that all parameters share, and what is added up over them between two phases of a step.

The states are 0-dim float64 tensors on the device of the first parameter, kept in the parameter groups under their keys (where
the authors' implementations of D-Adaptation and Prodigy have them, too); all groups hold the same tensor. Where a schema is
`by_group`, each group is a model for itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optc.runtime import state as states
from optc.runtime.devices import moved, placed, together
from optc.runtime.hypers import Values, holds
from optc.runtime.schema import Phase, Procedure, Schema, State

if TYPE_CHECKING:
    from optc.runtime.updates import Update


def gathers(procedure: Procedure) -> bool:
    """Whether it has numbers of the whole model."""
    return any(phase.model is not None for phase in procedure.phases)


def kept(schema: Schema, groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each group has of the states, by key."""
    keys = [state.key for state in schema.of_model]
    return [{key: group[key] for key in keys if key in group} for group in groups]


def settle(schema: Schema, values: Values, groups: Sequence[dict[str, Any]], device: torch.device) -> dict[str, Tensor]:
    """The states by name, the same tensor in all these groups: what the first one has that has any, else the initial value.

    Raises ValueError for what is not one number; then no group has changed.
    """
    found: dict[str, Tensor] = {}
    for state in schema.of_model:
        if state.exists is not None and not holds(state.exists, values):
            continue
        entry = next((group[state.key] for group in groups if group.get(state.key) is not None), None)
        if entry is None:
            entry = float(state.initial(None, None, *[values[name] for name in state.arguments]))
        found[state.name] = _as_number(entry, state, device)
    for state in schema.of_model:
        if state.name in found:
            for group in groups:
                group[state.key] = found[state.name]
    return found


def total(gatherings: Sequence[Gathering], part: str) -> Tensor:
    """The sum over the whole model of a part that kernels have left, a 0-dim float64 tensor."""
    return summed([gathering._sums[part] for gathering in gatherings])


def summed(numbers: Sequence[Tensor]) -> Tensor:
    """The sum of 0-dim tensors, on the device of the first one."""
    first, *others = numbers
    for other in others:
        first = first + moved(other, first.device)
    return first


def share(gatherings: Sequence[Gathering]) -> None:
    """Gives all that rescale the gradient by the sum of its squares that sum over all of them: they bound one norm.

    What an optimizer adds up for itself (a distance, a step size) stays its own, and so do numbers of a group.
    """
    sharing = [(one, part) for one in gatherings if (part := one.schema.square_sum) and _is_shared(one.schema)]
    if len(sharing) > 1:
        whole = summed([one._sums[part] for one, part in sharing])
        for one, part in sharing:
            one._sums[part] = moved(whole, one.device)


def _is_shared(schema: Schema) -> bool:
    return schema.rescales and not schema.by_group


def _as_number(entry: Any, state: State, device: torch.device) -> Tensor:
    if isinstance(entry, Tensor):
        if entry.numel() != 1 or entry.is_complex():
            raise ValueError(f"{state.key!r} has shape {tuple(entry.shape)} in a group, but it is one number of the model")
        if not entry.ndim and entry.dtype == torch.float64 and entry.device == device and not entry.requires_grad:
            return entry
        return entry.detach().reshape(()).to(device, torch.float64)
    if not isinstance(entry, float | int):
        raise ValueError(f"{state.key!r} = {entry!r} in a group, but it is one number of the model")
    return states.scalar(float(entry), device)


@dataclass(slots=True)
class Gathering:
    """The programs of one step over some groups, run phase by phase. `values` are hypers that these share.

    `updates` are those of the groups, `scalars` and `flags` the host program's, the same for all parameters; `numbers` are the
    states, on `device`, which stay where `found_inf` (one element) is not 0; `loss` may be None.
    """

    schema: Schema
    updates: Sequence[Update]
    values: Values
    numbers: dict[str, Tensor]
    loss: Tensor | None
    scalars: Mapping[str, float | Tensor]
    flags: Mapping[str, bool]
    device: torch.device
    found_inf: Tensor | None
    _sums: dict[str, Tensor] = field(default_factory=dict)
    _left: dict[str, Tensor] = field(default_factory=dict)

    def add(self, kernel: int, names: Sequence[str]) -> None:
        """Adds up what a kernel has left for all its tensors: float64 [tensors][names] of each batch."""
        parts = [part for update in self.updates for part in update.parts(kernel)]
        self._sums |= zip(names, together(parts, self.device).sum(0).unbind(), strict=True)

    def run(self, phase: Phase) -> Mapping[str, float | Tensor]:
        """The numbers that the kernel of a phase is given."""
        program = phase.model
        if program is None:
            return {}
        flags = {**self.flags, **{name: holds(c, self.values) for name, c in self.schema.flags if name in program.flags}}
        scalars = placed({name: self.scalars[name] for name in program.scalars}, self.device)
        sums = [self._sums[part] for _, part in program.totals]
        own = [self.numbers.get(name) for name in program.states]
        given = [scalars[name] for name in program.scalars], [flags[name] for name in program.flags]
        exports, carried = program.function(*given[0], *given[1], *sums, *[self.loss] * program.loss, *own)
        self._left |= zip(program.carried, carried, strict=True)
        return dict(zip(program.exports, exports, strict=True))

    def keep(self) -> None:
        """Writes the states' new values."""
        kept = None if self.found_inf is None else moved(self.found_inf.reshape(()), self.device) != 0
        for name, value in self._left.items():
            if name in self.numbers:
                number = self.numbers[name]
                number.copy_(value if kept is None else torch.where(kept, number, value))
