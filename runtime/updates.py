"""Updates: everything that could fail is done, what is left is to run kernels, phase by phase, over all groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from optc.runtime.batches import Launch
from optc.runtime.capturable import DeviceBatch
from optc.runtime.columns import Columns
from optc.runtime.exchange import Divided, Exchange
from optc.runtime.model import Gathering
from optc.runtime.rows import Outcome
from optc.runtime.schema import Procedure
from optc.runtime.turns import Turn


@dataclass(frozen=True, slots=True)
class Update:
    """A group's turn with its gradients, in batches that count on the host (`launches`) or on their device.

    `tensors` are the hypers that live on the device.
    """

    procedure: Procedure
    turn: Turn
    varying: Columns
    outcomes: Sequence[Outcome]
    launches: Sequence[tuple[Launch, Outcome]]
    device_batches: Sequence[DeviceBatch]
    factor: float | Tensor
    found_inf: Tensor | None
    tensors: Mapping[str, Tensor]

    def start(self) -> None:
        """Parameters that are not dense are updated in copies; devices count."""
        for p, copy in self.turn.staged:
            copy.copy_(p)
        for batch in self.device_batches:
            batch.start(self.found_inf, self.tensors)

    def run(self, kernel: int, numbers: Mapping[str, float | Tensor]) -> None:
        """Runs one of the procedure's kernels; `numbers` are those of the model."""
        for launch, outcome in self.launches:
            launch.run(kernel, outcome, numbers, self.varying, float(self.factor))
        for batch in self.device_batches:
            batch.run(kernel, self.varying, numbers, self.factor, self.found_inf)

    def divided(self, kernel: int) -> list[Divided]:
        """The launchers of one of the kernels that go on when all processes do."""
        launchers = [launch.binding.launchers[kernel] for launch, _ in self.launches]
        return [launcher for launcher in launchers if isinstance(launcher, Divided)]

    def parts(self, kernel: int) -> list[Tensor]:
        """What that kernel has left for totals."""
        found = [launch.binding.launchers[kernel].parts() for launch, _ in self.launches]
        return found + [batch.parts(kernel) for batch in self.device_batches]

    def for_model(self) -> tuple[Mapping[str, float | Tensor], Mapping[str, bool]] | None:
        """Scalars and flags of the host program as programs of the model read them; None where nothing takes part."""
        if self.launches:
            scalars, flags, _ = self.launches[0][1]
            return dict(zip(self.procedure.scalars, scalars, strict=True)), dict(zip(self.procedure.flags, flags, strict=True))
        return (self.device_batches[0].for_model(), {}) if self.device_batches else None

    def finish(self) -> None:
        """Parameters get their new values where they lie; counts and host states go on."""
        for launch, _ in self.launches:
            launch.binding.note()
        for batch in self.device_batches:
            batch.note()
        for p, copy in self.turn.staged:
            p.copy_(copy)
        for row, outcome in zip(self.turn.rows, self.outcomes, strict=True):
            row.commit(self.procedure, outcome)


def run(
    procedure: Procedure,
    updates: Sequence[Update],
    gatherings: Sequence[Gathering] = (),
    exchange: Exchange | None = None,
    part: str | None = None,
) -> Iterator[None]:
    """Runs the updates of all groups side by side; between two phases what they have left is added up, by gatherings if any.

    Where other processes have parts of the parameters, an `exchange` joins what passes measure. Pauses once gatherings have
    added up `part`: whoever runs it may look, change the sum, or leave it at that.
    """
    for update in updates:
        update.start()
    kernel = 0
    for phase in procedure.phases:
        given = [(gathering.updates, gathering.run(phase)) for gathering in gatherings]
        if phase.kernel is None:
            continue
        for some, numbers in given or [(updates, {})]:
            for update in some:
                update.run(kernel, numbers)
        if exchange is not None:
            exchange.run(kernel, phase.kernel, [launcher for update in updates for launcher in update.divided(kernel)])
        if gatherings and phase.kernel.parts:
            for gathering in gatherings:
                gathering.add(kernel, phase.kernel.parts)
            if part in phase.kernel.parts:
                yield
        kernel += 1
    for update in updates:
        update.finish()
    for gathering in gatherings:
        gathering.keep()
