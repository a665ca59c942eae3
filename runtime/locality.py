"""Whether a step can be made parameter by parameter, as the schema tells: not where it needs numbers of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from optc.runtime import exchange
from optc.runtime.hypers import NOTHING, Values, holds
from optc.runtime.model import gathers
from optc.runtime.schema import Kernel, Schema

if TYPE_CHECKING:
    from optc.runtime.optimizer import Optimizer


def refusal(schema: Schema, values: Values | None = None) -> str | None:
    """Why a step of this optimizer cannot be made parameter by parameter, in words; None where it can.

    `values` are hypers that all groups share: with some of them nothing is added up. Without them it counts if it ever is.
    """
    procedure = schema.procedure("step")
    why = []
    if schema.reads_loss:
        why.append("it reads the loss, which only step(closure) is given")
    parts = [part for kernel in procedure.kernels for part in _parts(schema, kernel, values)]
    if parts:
        why.append(f"it adds up {', '.join(parts)} over all parameters, which takes all gradients at once")
    shared = [state.name for state in schema.of_model]
    if not why and shared and gathers(procedure):
        why.append(f"it has numbers that all parameters share ({', '.join(shared)})")
    return f"{schema.name} cannot update one parameter before the others have a gradient: {'; '.join(why)}" if why else None


def _parts(schema: Schema, kernel: Kernel, values: Values | None) -> Iterator[str]:
    """What a kernel leaves to be added up: all its parts, but those whose pass has nothing to do with these hypers."""
    variant: dict[str, bool] = {}
    if values is not None:
        variant = {n: holds(c, values) for n, c in schema.flags if set(c.arguments).isdisjoint(NOTHING._fields)}
    for part in kernel.parts:
        passes = [one for one in kernel.passes if part in dict(one.measures)]
        known = all(one.exists is not None and set(one.exists.arguments) <= variant.keys() for one in passes)
        if not (passes and known) or any(one.runs(variant) for one in passes):
            yield part


def _tells(optimizer: Optimizer, values: Values) -> bool:
    """Whether processes tell each other something in a step."""
    groups = optimizer.param_groups
    exchanged = exchange.of(
        optimizer.schema, optimizer.schema.procedure("step"), groups, [values] * len(groups), optimizer._shards
    )
    return exchanged is not None and bool(exchanged.rounds)


def require(optimizer: Optimizer, values: Values) -> None:
    """Raises ValueError with the reason where an optimizer cannot step parameter by parameter as it is now.

    `values` are the hypers of one of its groups.
    """
    name = optimizer.schema.name
    late = "whether a step is skipped is known only when all gradients are there"
    reason = refusal(optimizer.schema, values)
    if reason is None and optimizer._scales:
        reason = f"{name} has amp=True: {late}"
    if reason is None and optimizer._guard is not None:
        scale, policy = optimizer._guard.scale, optimizer._guard.policy
        reason = f"{name} has {'a loss_scale' if scale is not None else f'nonfinite={policy!r}'}: {late}"
    if reason is None and _tells(optimizer, values):
        reason = f"{name} joins what it measures of divided parameters over the processes, for all parameters at once"
    if reason is None and any(group.get("capturable", False) for group in optimizer.param_groups):
        reason = f"{name} has capturable=True: it counts on the device, for all parameters at once"
    if reason is not None:
        raise ValueError(f"{reason}; leave out optc.release, and call step() after backward")
