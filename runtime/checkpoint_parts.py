"""State dicts of parameters that are divided among processes: what is saved are parts, what is loaded parts, or the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from optc.runtime import hypers, shapes
from optc.runtime.hypers import Values
from optc.runtime.pairs import REST
from optc.runtime.parts import Part, Place, elements_of, place_of
from optc.runtime.schema import Schema
from optc.runtime.sharding import Shard, Shards, is_divided, local
from optc.runtime.state import Home


def places_of(schema: Schema, values: Values, shard: Shard) -> dict[str, Place]:
    """Where what is here of a parameter's state is in the whole, by key; without what all processes have alike."""
    found: dict[str, Place | None] = {REST: elements_of(shard)}
    period = shapes.period(schema, values)
    for state in schema.of_parameters:
        book = state.codebook(shard.shape.numel())
        found[state.key] = place_of(state.extent, book, False, period, shard)
        if book is not None:
            found[state.scale_key] = place_of(state.extent, book, True, period, shard)
    return {key: place for key, place in found.items() if place is not None}


def in_parts(
    schema: Schema, numbers: Sequence[int], groups: Sequence[Mapping[str, Any]], shards: Shards, packed: Mapping[str, Any]
) -> dict[str, Any]:
    """A state dict whose tensors say where they are in the whole, for the groups with these numbers."""
    slots = dict(packed["state"])
    for number in numbers:
        values = None
        for index, p in zip(packed["param_groups"][number]["params"], groups[number]["params"], strict=True):
            shard = shards.shard(p) if index in slots else None
            if shard is None:
                continue
            values = hypers.validate(schema, groups[number]) if values is None else values
            places = places_of(schema, values, shard)
            slots[index] = {key: _part(entry, places.get(key), p) for key, entry in slots[index].items()}
    return {**packed, "state": slots}


def _part(entry: Any, place: Place | None, p: Tensor) -> Any:
    if place is None or is_divided(entry):
        return entry
    return entry.new_ones(place.shape) if place.ones else Part.of(entry, place, place.whole(p))


def is_part(entry: Any) -> bool:
    """Whether it is what one process has of a tensor."""
    return isinstance(entry, Part) or is_divided(entry)


def home_of(p: Tensor, shards: Shards, entries: Mapping[str, Any]) -> tuple[Home, bool]:
    """A parameter as a file has it, and whether that is the whole, which takes no memory here, of one that is divided.

    Raises ValueError where a file has parts of a parameter that is here as a whole.
    """
    in_parts = any(map(is_part, entries.values()))
    here = shards.here(p)
    if shards.shard(p) is None:
        if in_parts and not shards.divides(p):
            raise ValueError("the state dict has a part of it, and here it is whole: load what optc.dist.full_state_dict gives")
        return Home(p, here, shards), False
    return Home(p, here if in_parts else here.new_empty(()).expand(p.shape), shards), not in_parts


def entries_here(schema: Schema, values: Values, home: Home, entries: Mapping[str, Any], whole: bool) -> dict[str, Any]:
    """What is here of the entries of a file; all of them, where it has the `whole`."""
    found = {key: entry.here if isinstance(entry, Part) else local(entry) for key, entry in entries.items()}
    shard = None if whole else home.shards.shard(home.p)
    for key, place in ({} if shard is None else places_of(schema, values, shard)).items():
        if place.ones and isinstance(found.get(key), Tensor) and found[key].shape == place.shape:
            found[key] = place.of(found[key])
    return found


def settled(schema: Schema, values: Values, home: Home, slot: Mapping[str, Any], whole: bool) -> dict[str, Any]:
    """A parameter's entries, read from a file, as its state has them: of the `whole` only what belongs here."""
    p, shards, here = home.p, home.shards, home.shards.here(home.p)
    found = cut_entries(schema, values, p, shards, slot) if whole else slot
    return {key: shards.kept(p, entry) if _per_element(schema, key, entry, here) else entry for key, entry in found.items()}


def cut_entries(schema: Schema, values: Values, p: Tensor, shards: Shards, slot: Mapping[str, Any]) -> dict[str, Any]:
    """What belongs here of the entries of a whole parameter, in memory of its own."""
    shard = shards.shard(p)
    places = {} if shard is None else places_of(schema, values, shard)
    return {
        key: places[key].of(entry).clone() if key in places and isinstance(entry, Tensor) else entry
        for key, entry in slot.items()
    }


def _per_element(schema: Schema, key: str, entry: Any, here: Tensor) -> bool:
    elements = {REST, *(state.key for state in schema.of_parameters if state.extent == "elem")}
    return key in elements and isinstance(entry, Tensor) and entry.shape == here.shape
