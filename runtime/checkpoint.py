"""State dicts in torch's layout, both ways.

What differs from `torch.optim.Optimizer.load_state_dict`: states keep their own dtype instead of taking the parameter's; every
problem of a file is reported at once, and then nothing has changed; loaded tensors are copied, never shared; hypers that an
older file lacks keep their present values; `capturable` stays what it is here, being a matter of the machine; a tensor (say lr)
that is in a group stays the same object and gets the loaded value, since a captured graph reads its address.
"""

from __future__ import annotations

import copy
import difflib
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from optc.runtime import checkpoint_coders, checkpoint_spec, hypers, layout, shapes
from optc.runtime import state as states
from optc.runtime.backend import arithmetic_dtype
from optc.runtime.callers import stacklevel
from optc.runtime.checkpoint_coders import CODERS
from optc.runtime.checkpoint_codes import STORING, Kept, told
from optc.runtime.checkpoint_names import NAMES, by_name
from optc.runtime.checkpoint_parts import entries_here, home_of, in_parts, settled
from optc.runtime.checkpoint_spec import SPEC, changed
from optc.runtime.foreign import Foreign
from optc.runtime.hypers import Values
from optc.runtime.names import listed
from optc.runtime.pairs import REST, rest_dtype
from optc.runtime.schema import Schema, State
from optc.runtime.sharding import PLACEMENTS, Shards
from optc.runtime.state import Home
from optc.runtime.storage import kept_dtype, readable

_OWN = ("params", "capturable", STORING, CODERS, SPEC)
"""Keys of a group that a file does not change."""

Parts: TypeAlias = Sequence[tuple[Schema, Sequence[int]]]
"""The schemas of an optimizer, and which groups, by their numbers, each of them has."""


def saved(parts: Parts, packed: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], shards: Shards) -> dict[str, Any]:
    """A state dict as it is given out, of an optimizer with these groups: what is in it belongs to nobody else."""
    found = unshared(parts, packed)
    for schema, numbers in parts:
        found = in_parts(schema, numbers, groups, shards, found)
    return found


def unshared(parts: Parts, packed: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict whose step counts and host states belong to one parameter each, numbers of the model to one group each."""
    slots, groups = dict(packed["state"]), list(packed["param_groups"])
    for schema, numbers in parts:
        scalars = {states.STEP, *(state.key for state in schema.states if state.host)}
        own = {state.key for state in schema.of_model}
        for number in numbers:
            for index in groups[number]["params"]:
                if index in slots:
                    slots[index] = _cloned(slots[index], scalars)
            kept = checkpoint_coders.told(schema, told(schema, _cloned(groups[number], own)))
            groups[number] = checkpoint_spec.told(schema, kept)
    return {**packed, "state": slots, "param_groups": groups}


def _cloned(entries: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    return {key: entry.clone() if key in keys and isinstance(entry, Tensor) else entry for key, entry in entries.items()}


@dataclass(slots=True)
class _Found:
    """What a file has for an optimizer; `problems`: what does not fit, `changes`: what is kept otherwise here."""

    groups: list[dict[str, Any]]
    shards: Shards
    slots: defaultdict[Tensor, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))
    problems: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    known: set[int | str] = field(default_factory=set)


def loading(
    optimizer: torch.optim.Optimizer,
    name: str,
    parts: Parts,
    state_dict: Mapping[str, Any],
    fits: Callable[[Sequence[Mapping[str, Any]]], None] = lambda groups: None,
    shards: Shards = PLACEMENTS,
) -> Callable[[], None]:
    """What puts a state dict into an optimizer, called `name`, and cannot fail; until then nothing has changed.

    Raises ValueError with all that does not fit, TypeError for no dict. `fits` looks at the groups of the file first, and
    raises where the others need not be looked at.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"load_state_dict of {name} takes a dict, what state_dict() has given, not {type(state_dict).__name__}")
    packed = dict(state_dict)
    for before in optimizer._optimizer_load_state_dict_pre_hooks.values():
        replaced = before(optimizer, packed)
        packed = packed if replaced is None else dict(replaced)
    present = optimizer.param_groups
    saved = _well_formed(name, packed)
    fits(saved)
    have, want = [len(g["params"]) for g in saved], [len(g["params"]) for g in present]
    if have != want:
        raise ValueError(f"the loaded state dict has groups of {have} parameters, this {name} of {want}")
    found = _Found(list(present), shards)
    matched = by_name(name, saved, present, found.problems)
    for schema, numbers in parts:
        _read(schema, numbers, present, matched, packed["state"], found)
    since = [line for schema, numbers in parts for line in changed(schema, [saved[number] for number in numbers])]
    problems = found.problems
    if not problems:
        problems += [f"state for {index!r}, which no group has" for index in packed["state"] if index not in found.known]
    if problems:
        raise ValueError(listed(f"this state dict does not fit {name}, nothing was loaded:", [*since, *problems]))

    def put() -> None:
        for message in dict.fromkeys([*since, *found.changes]):
            warnings.warn(f"{name}: {message}", stacklevel=stacklevel())
        for group, old in zip(found.groups, present, strict=True):
            _keep_tensors(group, old)
        optimizer.__setstate__({"state": found.slots, "param_groups": found.groups})
        for after in optimizer._optimizer_load_state_dict_post_hooks.values():
            after(optimizer)

    return put


def _read(
    schema: Schema,
    numbers: Sequence[int],
    present: Sequence[Mapping[str, Any]],
    all_saved: Sequence[Mapping[str, Any]],
    all_slots: Mapping[Any, Any],
    found: _Found,
) -> None:
    """Adds what a file has for the groups of one schema."""
    problems = found.problems
    saved = [all_saved[number] for number in numbers]
    indices = {index for group in saved for index in group["params"]}
    slots = all_slots if len(saved) == len(all_saved) else {i: slot for i, slot in all_slots.items() if i in indices}
    foreign = Foreign.of(schema, slots, problems)
    if foreign is not None:
        saved = [foreign.group(other, f"group {number}") for number, other in zip(numbers, saved, strict=True)]
    problems += _numbers_of_model(schema, saved, slots)
    for number, other in zip(numbers, saved, strict=True):
        group = found.groups[number] = _merged(present[number], other)
        if not isinstance(other.get(STORING, {}), Mapping):
            problems.append(f"group {number}: {STORING!r} must say of states what their codes mean, not {other[STORING]!r}")
        try:
            values = hypers.validate(schema, group)
        except ValueError as error:
            problems.append(f"group {number}: {error}")
            continue
        for index, p in zip(other["params"], group["params"], strict=True):
            found.known.add(index)
            label, entries = f"parameter {index}", slots.get(index)
            if entries is not None and not isinstance(entries, Mapping):
                problems.append(f"{label}: must have a table of states, not {_shown(entries)}")
            elif entries:
                try:
                    home, whole = home_of(p, found.shards, entries)
                    decoded: Mapping[str, str] = {}
                    if foreign is None:
                        entries, decoded = checkpoint_coders.recoded(schema, other, entries, home, found.changes)
                    entries = entries_here(schema, values, home, entries, whole)
                except ValueError as error:
                    problems.append(f"{label}: {error}")
                    continue
                file = foreign.kept(entries, p, label) if foreign else Kept.of(other, entries, label, problems, decoded)
                before = len(problems)
                loaded = _slot(schema, values, home, file, problems, found.changes) if file is not None else {}
                if loaded and len(problems) == before:
                    found.slots[p] = settled(schema, values, home, loaded, whole)


def _well_formed(name: str, packed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The groups of a file."""
    if not isinstance(packed.get("state"), Mapping) or not isinstance(packed.get("param_groups"), Sequence):
        raise ValueError(f"not a state dict of an optimizer: {name} needs `state` and `param_groups` in it")
    saved: list[dict[str, Any]] = list(packed["param_groups"])
    for number, group in enumerate(saved):
        indices = group.get("params") if isinstance(group, Mapping) else None
        if not isinstance(indices, list | tuple) or not all(isinstance(index, int | str) for index in indices):
            raise ValueError(f"not a state dict of an optimizer: group {number} must be a table with a list of `params`")
    return saved


def _numbers_of_model(schema: Schema, saved: Sequence[Mapping[str, Any]], slots: Mapping[Any, Any]) -> list[str]:
    """What is wrong with the states of the whole model: every group must have them, and the same unless each has its own."""
    problems = []
    for state in schema.of_model:
        entries = [group.get(state.key) for group in saved]
        numbers = [_number(entry) for entry in entries if entry is not None]
        if None in numbers:
            shown = next(_shown(entry) for entry in entries if entry is not None and _number(entry) is None)
            problems.append(f"{state.key!r} of the groups must be a number, not {shown}")
        elif len(set(map(repr, numbers))) > 1 and not schema.by_group:
            problems.append(f"{state.key!r} is one number of the model, but differs between groups: {numbers}")
        elif slots and not numbers and state.exists is None:
            problems.append(f"the groups lack {state.key!r}, a number of the model")
    return problems


def _merged(group: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """The loaded group; what it lacks comes from the present one, and so do names if there are any."""
    loaded = {
        key: copy.deepcopy(value) for key, value in saved.items() if key not in _OWN and not (key == NAMES and NAMES in group)
    }
    return {**group, **loaded}


def _keep_tensors(group: dict[str, Any], old: Mapping[str, Any]) -> None:
    for key, value in group.items():
        before = old.get(key)
        if isinstance(before, Tensor) and value is not before and (isinstance(value, float | int) or _is_scalar(value)):
            before.copy_(value) if isinstance(value, Tensor) else before.fill_(value)
            group[key] = before


def _is_scalar(entry: Any) -> bool:
    return isinstance(entry, Tensor) and entry.numel() == 1 and not entry.is_complex()


def _slot(schema: Schema, values: Values, home: Home, file: Kept, problems: list[str], changes: list[str]) -> dict[str, Any]:
    """One parameter's state, converted; appends to `problems` what does not fit, to `changes` what is kept otherwise here."""
    own, p = schema.of_parameters, home.theta
    by_key = {state.key: state for state in own}
    found, label = file.entries, file.label
    slot: dict[str, Any] = {}
    for key, entry in found.items():
        state = by_key.get(key)
        if key == states.STEP or (state is not None and (state.host or state.number)):
            number = _number(entry)
            if number is None or (key == states.STEP and not (math.isfinite(number) and number >= 0)):
                problems.append(f"{label}: {key!r} must be a number, not {_shown(entry)}")
            elif state is None:
                slot[key] = states.counter(number)
            else:
                slot[key] = states.scalar(number, p.device if state.number else None)
        elif key == REST and schema.pair is not None:
            dtype = rest_dtype(schema.pair, p.dtype)
            fits = isinstance(entry, Tensor) and entry.dtype == dtype and entry.shape == p.shape and readable(entry)
            if dtype is not None and not fits:
                problems.append(
                    f"{label}: {REST!r} must be a tensor of shape {tuple(p.shape)} and {dtype}, not {_shown(entry)}"
                )
            elif dtype is not None:
                slot[REST] = torch.empty_like(p, dtype=dtype, requires_grad=False).copy_(entry.detach())
        elif state is None:
            near = difflib.get_close_matches(str(key), by_key, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(map(repr, [states.STEP, *by_key]))}"
            problems.append(f"{label}: unknown state {key!r}{hint}")
        elif state.extent == "elem" and (home.codebook(state) is not None or key in file.scales):
            slot |= file.converted(state, home, problems, changes)
        else:
            tensor = _tensor(schema, values, state, home, entry)
            if tensor is None:
                shape = home.shape(state, schema, values)
                picked = f" (every {shapes.period(schema, values)}-th element)" if state.extent == "pick" else ""
                problems.append(f"{label}: {key!r} must be a tensor of shape {shape}{picked}, not {_shown(entry)}")
            else:
                slot[key] = tensor
    if states.STEP not in found:
        if any("t" in procedure.arguments for procedure in schema.procedures):
            problems.append(f"{label}: {states.STEP!r} is missing")
        slot.setdefault(states.STEP, states.counter(0.0))
    started = states.STEP not in found or _number(found[states.STEP]) != 0
    for state in own if started else ():
        if state.key not in found and states.exists(state, values, home.p):
            problems.append(f"{label}: {state.key!r} is missing")
    return slot


def _tensor(schema: Schema, values: Values, state: State, home: Home, entry: Any) -> Tensor | None:
    """A copy of a state as it is kept here; None where it does not fit.

    Rows and columns may lack dimensions of length 1; where every element is picked, these may be in the parameter's shape.
    """
    shape, p = home.shape(state, schema, values), home.theta
    if not isinstance(entry, Tensor):
        return None
    if state.extent == "elem":
        if entry.shape != p.shape or not entry.is_floating_point() or not readable(entry):  # bytes are codes without scales
            return None
        like = p if layout.is_dense(p) else torch.empty_like(p, memory_format=torch.contiguous_format)
        dtype = kept_dtype(state, arithmetic_dtype(p.dtype))
        return torch.empty_like(like, dtype=dtype, requires_grad=False).copy_(entry.detach())
    all_picked = state.extent == "pick" and entry.shape == p.shape and shape == (p.numel(),)
    if not readable(entry) or (
        not all_picked and [size for size in entry.shape if size != 1] != [size for size in shape if size != 1]
    ):
        return None
    kept = torch.empty(shape, dtype=arithmetic_dtype(p.dtype), device=p.device)
    return kept.copy_(entry.detach().reshape(shape))


def _number(entry: Any) -> float | None:
    if not isinstance(entry, float | int) and not (_is_scalar(entry) and readable(entry)):
        return None
    try:
        return states.number(entry)
    except OverflowError:  # a whole number beyond all floats
        return None


def _shown(entry: Any) -> str:
    return f"a tensor of shape {tuple(entry.shape)}" if isinstance(entry, Tensor) else repr(entry)
