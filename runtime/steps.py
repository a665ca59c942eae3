"""A step of one optimizer, or of several that share one state: first all that may fail is done, then everything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optc.runtime import loss, model, updates
from optc.runtime.batches import writes_theta
from optc.runtime.exchange import Exchange
from optc.runtime.guard import Watch
from optc.runtime.hypers import Values
from optc.runtime.model import Gathering
from optc.runtime.plans import Plan
from optc.runtime.schema import Procedure, Schema
from optc.runtime.sharding import PLACEMENTS
from optc.runtime.state import Edits
from optc.runtime.updates import Update

if TYPE_CHECKING:
    from optc.runtime.optimizer import Optimizer


@dataclass(slots=True)
class Ready:
    """What is left of a step or entry of one optimizer; `updates` is None where the step is skipped.

    `before` are the numbers of the model that the groups had, if there are any. `built`: plans were built for it. `found_inf`:
    a number on the device that says, where it is not 0, that the step does nothing; `watch` finds out during the step.
    `exchange`: what processes tell each other.
    """

    optimizer: Optimizer
    procedure: Procedure
    present: Sequence[Plan | None]
    updates: Sequence[Update] | None
    gatherings: Sequence[Gathering]
    edits: Edits
    before: Sequence[Mapping[str, Any]]
    built: bool = False
    found_inf: Tensor | None = None
    watch: Watch | None = None
    exchange: Exchange | None = None

    def run(self) -> Iterator[None]:
        """Updates the parameters; leaves everything as it was where the step finds out that a gradient is not finite.

        Pauses, with nothing changed yet, where it knows the sum of the squares of its gradients, if it needs that.
        """
        if self.updates is None:
            return
        part = self.optimizer.schema.square_sum if self.procedure.name == "step" else None
        if part is not None and not self.gatherings:
            self.optimizer._square_sum = torch.zeros((), dtype=torch.float64)
        for _ in updates.run(self.procedure, self.updates, self.gatherings, self.exchange, part):
            self.optimizer._square_sum = found = model.total(self.gatherings, str(part))
            if self.watch is not None and self.watch.finds(found):
                self.undo()
                self.optimizer._skipped = True
                return
            yield
        shards = self.optimizer._shards
        if shards is not PLACEMENTS and writes_theta(self.procedure):
            shards.settle(self.optimizer.param_groups)
        self.optimizer._ran(self.procedure.name, bool(self.edits), self.found_inf)

    def undo(self) -> None:
        """Leaves everything as it was before."""
        self.edits.undo()
        self.optimizer._plans.clear()
        for group, before in zip(self.optimizer.param_groups, self.before, strict=False):
            for state in self.optimizer.schema.of_model:
                group.pop(state.key, None)
            group.update(before)


def together(optimizers: Sequence[Optimizer], ready: Callable[[Optimizer], Ready], name: str = "step") -> list[Ready]:
    """One step of several optimizers, or an entry called `name`; if one of them cannot do it, nothing has changed.

    Those that bound the norm of the gradient wait for each other to have measured theirs: it is that of all of them.
    """
    for optimizer in optimizers:
        optimizer._watch()
    works: list[Ready] = []
    try:
        try:
            for optimizer in optimizers:
                works.append(ready(optimizer))
        except BaseException:
            for work in reversed(works):
                work.undo()
            _refuse(optimizers, name)
            raise
        running = [work.run() for work in works]
        paused = [work for work, one in zip(works, running, strict=True) if next(one, work) is None]
        model.share([gathering for work in paused for gathering in work.gatherings])
        for one in running:
            next(one, None)
    finally:
        for work in works:
            release(work.present)
    if any(work.edits or work.built for work in works):
        for optimizer in optimizers:
            optimizer._settle()
    return works


def _refuse(optimizers: Sequence[Optimizer], name: str) -> None:
    """Tells the other processes that this one cannot do a step, so that they need not wait until their patience is over.

    They wait at the first message of the step, which is that of the step before: in a first step nothing is known of it.
    """
    for optimizer in optimizers:
        exchange = optimizer._exchanges.get(name)
        try:
            if exchange is not None and exchange.refuse():
                return
            if name in optimizer._exchanges and optimizer._shards.refuse(optimizer.param_groups):
                return
        except Exception:  # what went wrong first counts
            return


def release(present: Sequence[Plan | None]) -> None:
    """Lets go of gradients."""
    for plan in present:
        if plan is not None:
            plan.release()


def gatherings(
    schema: Schema,
    groups: Sequence[dict[str, Any]],
    values: Sequence[Values],
    works: Sequence[Update],
    given: loss.Loss | None,
) -> list[Gathering]:
    """What adds up the numbers of the whole model in this step, or of each group, where any takes part.

    Raises ValueError where a group holds another number.
    """
    found = []
    for span in [slice(at, at + 1) for at in range(len(works))] if schema.by_group else [slice(None)]:
        for own, update in zip(values[span], works[span], strict=True):
            known = update.for_model()
            if known is not None:
                device = update.turn.thetas[0].device
                numbers = model.settle(schema, own, groups[span], device)
                read = None if given is None else loss.on(given, device)
                found.append(Gathering(schema, works[span], own, numbers, read, *known, device, update.found_inf))
                break
    return found
