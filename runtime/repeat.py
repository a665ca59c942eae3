"""A step like the one before, by the short way: only gradients and hypers are others, so that few questions are left.

The long way (`Optimizer._run`) is ready for everything, and takes as long as a kernel over hundreds of small tensors. What the
short way does not know, it leaves to the long way, with nothing changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optc.runtime import counter, hypers, updates
from optc.runtime import state as states
from optc.runtime.plans import Plan
from optc.runtime.schema import Procedure
from optc.runtime.sharding import PLACEMENTS
from optc.runtime.updates import Update

if TYPE_CHECKING:
    from optc.runtime.optimizer import Optimizer
    from optc.runtime.steps import Ready


@dataclass(frozen=True, slots=True)
class Repeat:
    """The plans of a step, one per group."""

    procedure: Procedure
    plans: Sequence[Plan]

    @staticmethod
    def of(optimizer: Optimizer, work: Ready) -> Repeat | None:
        """After a step that was `work`; None where steps like it need more than kernels that go by addresses.

        That is: numbers of the whole model or the loss, scaled or watched gradients, counts on a device, parameters that are
        divided or not dense, and what one step alone was planned for.
        """
        schema = optimizer.schema
        everywhere = schema.reads_loss or schema.square_sum is not None or work.gatherings
        watched = optimizer._scales or optimizer._guard is not None
        if work.updates is None or everywhere or watched or optimizer._shards is not PLACEMENTS:
            return None
        plans = [plan for plan in optimizer._present("step") if plan is not None and _is_plain(plan)]
        if len(plans) < len(optimizer.param_groups):
            return None
        return Repeat(work.procedure, plans)

    def run(self, optimizer: Optimizer) -> bool:
        """Makes the step, or changes nothing: where anything is not as it was, or goes wrong. The long way says what."""
        groups = optimizer.param_groups
        if len(groups) != len(self.plans) or not optimizer._is_settled():
            return False
        try:
            ready = self._ready(optimizer, groups)
            if ready is None:
                return False
            for _ in updates.run(self.procedure, ready):
                pass
        finally:
            for plan in self.plans:
                plan.release()
        if optimizer._counting is not None:
            counter.count(optimizer._counting, groups)
        return True

    def _ready(self, optimizer: Optimizer, groups: Sequence[Mapping[str, Any]]) -> list[Update] | None:
        """Everything that may fail."""
        ready, read, edits = [], [], states.Edits(optimizer.state)
        try:
            for index, (group, plan) in enumerate(zip(groups, self.plans, strict=True)):
                if optimizer._plan(index, "step") is not plan or group.get("capturable"):
                    return None
                values = optimizer._readers[index].read(group)
                taking = plan.surveyed(group["params"]) if plan.fits(values) else None
                if taking is None or taking.parameters is not plan.turn.parameters:
                    return None
                sign = -1.0 if group.get("maximize") else 1.0
                ready.append(plan.ready(taking, plan.turn.places, edits, sign, None, {}))
                read.append(values)
            hypers.require_shared(optimizer.schema, read)
        except Exception:
            return None
        return ready


def _is_plain(plan: Plan) -> bool:
    """Whether a survey vouches for all of it, and kernels need nothing of PyTorch."""
    by_address = all(binding.written is not None for binding in plan.bindings)
    return plan.survey is not None and by_address and not plan.device_batches and not plan.turn.staged
