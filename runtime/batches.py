"""Batches: parameters that one launch can take, and what is launched for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import Tensor

from optc.runtime.backend import Backend, Launcher, Residents
from optc.runtime.columns import Columns, chosen
from optc.runtime.devices import placed
from optc.runtime.rows import Outcome, same_launch
from optc.runtime.schema import Kernel, Procedure
from optc.runtime.sharding import Runs, Shard
from optc.runtime.survey import Written

Prepare: TypeAlias = Callable[[Sequence[Kernel], Sequence[Residents], torch.device], tuple[Backend, list[Launcher]]]
"""`choose.prepare` with the choice filled in."""


@dataclass(frozen=True, slots=True)
class Members:
    """Parameters of one group with the same device, dtypes and variant.

    `positions` are their places in the plan; `tensors` has θ and the states that exist, by name, parallel to `positions`, and
    `elements` the numbers of their elements (see `draws.py`). `shards`: what is here of parameters that are divided, `numbers`
    those of the parameters in the optimizer.
    """

    positions: tuple[int, ...]
    device: torch.device
    gradient_dtype: torch.dtype
    variant: Mapping[str, bool]
    choices: Mapping[str, str]
    tensors: Mapping[str, Sequence[Tensor]]
    elements: Sequence[Runs] = ()
    shards: Sequence[Shard] = ()
    numbers: Sequence[int] = ()

    def residents(self, kernels: Sequence[Kernel]) -> list[Residents]:
        """What each kernel keeps of the members."""
        found = []
        for kernel in kernels:
            names = [s.name for s in kernel.streams if s.role in ("theta", "rest", "state", "scale") and s.name in self.tensors]
            columns = {name: self.tensors[name] for name in names}
            shapes = [p.shape for p in self.tensors["theta"]]
            more = self.elements, self.shards, self.numbers
            found.append(Residents(columns, self.gradient_dtype, self.variant, shapes, *more))
        return found


@dataclass(frozen=True, slots=True)
class Binding:
    """A procedure's kernels bound to all members, with which of the host program's scalars and flags each of them wants.

    A scalar is a place in what the host program gives, or the name of a number of the model. `written` are the parameters that
    the kernels change behind autograd's back, if any.
    """

    positions: tuple[int, ...]
    launchers: tuple[Launcher, ...]
    picks: tuple[tuple[tuple[int | str, ...], tuple[int, ...]], ...]
    written: Written | None
    device: torch.device

    @staticmethod
    def of(procedure: Procedure, members: Members, prepare: Prepare) -> Binding:
        """May compile. Raises BackendUnavailable as `choose.prepare` does."""
        kernels = procedure.kernels
        residents = members.residents(kernels)
        backend, launchers = prepare(kernels, residents, members.device)
        of_scalar = {name: i for i, name in enumerate(procedure.scalars)}
        of_flag = {name: i for i, name in enumerate(procedure.flags)}
        picks = tuple((tuple(of_scalar.get(n, n) for n in k.scalars), tuple(of_flag[n] for n in k.host_flags)) for k in kernels)
        # PyTorch counts its own in-place writes; for raw pointers autograd must be told that θ changed.
        silent = backend.name != "torch" and writes_theta(procedure)
        written = Written(residents_theta(residents)) if silent else None
        return Binding(members.positions, tuple(launchers), picks, written, members.device)

    def only(self, members: Sequence[int]) -> Binding:
        """The same for some members (indices in `positions`, ascending)."""
        if len(members) == len(self.positions):
            return self
        launchers = tuple(launcher.only(members) for launcher in self.launchers)
        written = None if self.written is None else self.written.only(members)
        return replace(self, positions=tuple([self.positions[i] for i in members]), launchers=launchers, written=written)

    def launch(
        self, kernel: int, outcome: Outcome, numbers: Mapping[str, float | Tensor], varying: Columns, factor: float
    ) -> None:
        """Runs one of the kernels; `varying` has a column entry per member, `numbers` are those of the model by name."""
        of_scalars, of_flags = self.picks[kernel]
        numbers = placed(numbers, self.device) if numbers else numbers
        scalars = [outcome[0][i] if isinstance(i, int) else numbers[i] for i in of_scalars]
        self.launchers[kernel].launch(varying, scalars, [outcome[1][i] for i in of_flags], factor)

    def note(self) -> None:
        """Tells autograd that parameters have changed."""
        if self.written is not None:
            self.written.note()


@dataclass(frozen=True, slots=True)
class Launch:
    """Members with equal scalars, and where in the columns of this step theirs are (`pick`, None: they are all)."""

    binding: Binding
    pick: tuple[int, ...] | None

    def run(
        self, kernel: int, outcome: Outcome, numbers: Mapping[str, float | Tensor], varying: Columns, factor: float
    ) -> None:
        """See `Binding.launch`; `varying` has an entry for everything that takes part."""
        if self.pick is not None:
            varying = {name: chosen(column, self.pick) for name, column in varying.items()}
        self.binding.launch(kernel, outcome, numbers, varying, factor)


_MOST_KEPT = 64


@dataclass(slots=True)
class Batch:
    """The members of a binding that take part: one launch for all rows that have equal scalars.

    `parts` maps a row's number to members (indices in the binding's positions), `column` a position to a place in the columns.
    """

    binding: Binding
    parts: Mapping[int, Sequence[int]]
    column: Mapping[int, int]
    _launches: dict[tuple[int, ...], Launch] = field(default_factory=dict)

    def ready(self, outcomes: Sequence[Outcome]) -> list[tuple[Launch, Outcome]]:
        """What to launch for these outcomes of the rows; changes nothing."""
        rows = tuple(self.parts)
        if len(rows) == 1:
            return [(self._launch(rows), outcomes[rows[0]])]
        classes: dict[tuple[bytes, tuple[bool, ...]], list[int]] = {}
        for row in rows:
            classes.setdefault(same_launch(outcomes[row]), []).append(row)
        return [(self._launch(tuple(equal)), outcomes[equal[0]]) for equal in classes.values()]

    def _launch(self, rows: tuple[int, ...]) -> Launch:
        launch = self._launches.get(rows)
        if launch is None:
            if len(self._launches) >= _MOST_KEPT:
                self._launches.clear()
            members = sorted(member for row in rows for member in self.parts[row])
            pick = tuple([self.column[self.binding.positions[member]] for member in members])
            whole = len(pick) == len(self.column) and pick == tuple(range(len(pick)))
            launch = self._launches[rows] = Launch(self.binding.only(members), None if whole else pick)
        return launch


def writes_theta(procedure: Procedure) -> bool:
    """Whether the procedure changes parameters (an entry may only change states)."""
    return any(stream.role == "theta" and stream.writes for kernel in procedure.kernels for stream in kernel.streams)


def residents_theta(residents: Sequence[Residents]) -> tuple[Tensor, ...]:
    """The parameters among the residents of a procedure's kernels."""
    return next((tuple(r.tensors["theta"]) for r in residents if "theta" in r.tensors), ())
