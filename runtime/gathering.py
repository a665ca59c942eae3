"""The whole state of an optimizer that is divided among processes, on each of them."""

from __future__ import annotations

from typing import Any

from optc.runtime.collectives import Whole, gathered
from optc.runtime.names import not_ours
from optc.runtime.parted import Parted
from optc.runtime.parts import Part, box_of
from optc.runtime.sharding import Group, is_divided


def full_state_dict(optimizer: Parted) -> dict[str, Any]:
    """A state dict with whole tensors, as the optimizer would have without other processes; all of them must call it.

    It takes the memory of the whole state on every process. `load_state_dict` takes it anywhere, and cuts from it what belongs
    there. Raises TypeError for an optimizer that is none of ours.
    """
    if not isinstance(optimizer, Parted):
        raise not_ours("optc.dist.full_state_dict", optimizer)
    packed = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    slots = {}
    for index, slot in packed["state"].items():
        shard = optimizer._shards.shard(parameters[index])
        groups, device = (shard.groups, shard.device) if shard is not None else ((), "cpu")
        slots[index] = {key: _whole(entry, groups, device) for key, entry in slot.items()}
    return {**packed, "state": slots}


def _whole(entry: Any, groups: tuple[Group, ...], device: str) -> Any:
    if is_divided(entry):
        return entry.full_tensor()
    if not isinstance(entry, Part):
        return entry
    pieces = [(box_of(offset, piece.shape), piece) for offset, piece in entry.views()]
    return gathered([Whole(tuple(entry.whole), pieces, entry.here)], groups, device)[0]
