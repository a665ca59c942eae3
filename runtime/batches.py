"""Batches: parameters that one launch can take, and what is launched for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from optc.runtime.backend import Backend, Launcher, Residents
from optc.runtime.columns import Columns, chosen
from optc.runtime.rows import Outcome, same_launch
from optc.runtime.schema import Kernel, Procedure
from optc.runtime.survey import Written

Prepare: TypeAlias = Callable[[Sequence[Kernel], Sequence[Residents], torch.device], tuple[Backend, list[Launcher]]]
"""`choose.prepare` with the choice filled in."""


@dataclass(frozen=True, slots=True)
class Members:
    """Parameters of one group with the same device, dtypes and variant.

    `positions` are their places in the plan; `tensors` has θ and the states that exist, by name, parallel to `positions`.
    """

    positions: tuple[int, ...]
    device: torch.device
    gradient_dtype: torch.dtype
    variant: Mapping[str, bool]
    choices: Mapping[str, str]
    tensors: Mapping[str, Sequence[Tensor]]

    def residents(self, kernels: Sequence[Kernel], places: Sequence[int]) -> list[Residents]:
        """What each kernel keeps of some members (places in `positions`)."""
        found = []
        for kernel in kernels:
            names = [s.name for s in kernel.streams if s.role in ("theta", "state") and s.name in self.tensors]
            columns = {name: [self.tensors[name][i] for i in places] for name in names}
            found.append(Residents(columns, self.gradient_dtype, self.variant))
        return found


@dataclass(frozen=True, slots=True)
class Bound:
    """Kernels bound to the members of a batch that share their scalars. `pick` is None where these are all of the plan.

    `written` are the parameters that they change behind autograd's back, if any.
    """

    launchers: tuple[Launcher, ...]
    picks: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    pick: tuple[int, ...] | None
    written: Written | None

    def launch(self, outcome: Outcome, varying: Columns, factor: float) -> None:
        """Runs the kernels in order."""
        scalars, flags, _ = outcome
        if self.pick is not None:
            varying = {name: chosen(column, self.pick) for name, column in varying.items()}
        for launcher, (of_scalars, of_flags) in zip(self.launchers, self.picks, strict=True):
            launcher.launch(varying, [scalars[i] for i in of_scalars], [flags[i] for i in of_flags], factor)
        if self.written is not None:
            self.written.note()


_MOST_KEPT = 64


@dataclass(slots=True)
class Batch:
    """Members whose scalars come from the host: one launch for all rows that have equal ones.

    `parts` maps a row's number to the places of its members in `members.positions`.
    """

    procedure: Procedure
    members: Members
    parts: Mapping[int, Sequence[int]]
    prepare: Prepare
    total: int
    _bound: dict[tuple[int, ...], Bound] = field(default_factory=dict)

    def ready(self, outcomes: Sequence[Outcome]) -> list[tuple[Bound, Outcome]]:
        """What to launch for these outcomes of the plan's rows; may compile, changes nothing."""
        rows = tuple(self.parts)
        if len(rows) == 1:
            return [(self._bind(rows), outcomes[rows[0]])]
        classes: dict[tuple[bytes, tuple[bool, ...]], list[int]] = {}
        for row in rows:
            classes.setdefault(same_launch(outcomes[row]), []).append(row)
        return [(self._bind(tuple(equal)), outcomes[equal[0]]) for equal in classes.values()]

    def _bind(self, rows: tuple[int, ...]) -> Bound:
        bound = self._bound.get(rows)
        if bound is None:
            if len(self._bound) >= _MOST_KEPT:
                self._bound.clear()
            bound = self._bound[rows] = self._prepared(rows)
        return bound

    def _prepared(self, rows: tuple[int, ...]) -> Bound:
        places = sorted(place for row in rows for place in self.parts[row])
        kernels = self.procedure.kernels
        residents = self.members.residents(kernels, places)
        backend, launchers = self.prepare(kernels, residents, self.members.device)
        of_scalar = {name: i for i, name in enumerate(self.procedure.scalars)}
        of_flag = {name: i for i, name in enumerate(self.procedure.flags)}
        picks = tuple((tuple(of_scalar[n] for n in k.scalars), tuple(of_flag[n] for n in k.host_flags)) for k in kernels)
        pick = tuple(self.members.positions[place] for place in places)
        # PyTorch counts its own in-place writes; for raw pointers autograd must be told that θ changed.
        silent = backend.name != "torch" and writes_theta(self.procedure)
        written = Written(residents_theta(residents)) if silent else None
        return Bound(tuple(launchers), picks, None if pick == tuple(range(self.total)) else pick, written)


def writes_theta(procedure: Procedure) -> bool:
    """Whether the procedure changes parameters (an entry may only change states)."""
    return any(stream.role == "theta" and stream.writes for kernel in procedure.kernels for stream in kernel.streams)


def residents_theta(residents: Sequence[Residents]) -> tuple[Tensor, ...]:
    """The parameters among the residents of a procedure's kernels."""
    return next((tuple(r.tensors["theta"]) for r in residents if "theta" in r.tensors), ())
