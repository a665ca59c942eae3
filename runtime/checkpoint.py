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
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optc.runtime import hypers, layout, shapes
from optc.runtime import state as states
from optc.runtime.backend import arithmetic_dtype
from optc.runtime.callers import stacklevel
from optc.runtime.checkpoint_codes import STORING, Kept, told
from optc.runtime.foreign import Foreign
from optc.runtime.hypers import Values
from optc.runtime.pairs import REST, rest_dtype
from optc.runtime.schema import Schema, State
from optc.runtime.storage import kept_dtype, readable

_MOST_SHOWN = 10


def unshared(schema: Schema, packed: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict whose step counts and host states belong to one parameter each, numbers of the model to one group each."""
    scalars = {states.STEP, *(state.key for state in schema.states if state.host)}
    slots = {
        index: {key: entry.clone() if key in scalars and isinstance(entry, Tensor) else entry for key, entry in slot.items()}
        for index, slot in packed["state"].items()
    }
    own = {state.key for state in schema.of_model}
    groups = [
        {key: entry.clone() if key in own and isinstance(entry, Tensor) else entry for key, entry in group.items()}
        for group in packed["param_groups"]
    ]
    return {**packed, "state": slots, "param_groups": told(schema, groups)}


def load(optimizer: Any, state_dict: Mapping[str, Any]) -> None:
    """Puts a state dict into an `optc.runtime.Optimizer`. Raises ValueError with all that does not fit."""
    packed = dict(state_dict)
    for before in optimizer._optimizer_load_state_dict_pre_hooks.values():
        replaced = before(optimizer, packed)
        packed = packed if replaced is None else dict(replaced)
    present: list[dict[str, Any]] = optimizer.param_groups
    schema: Schema = optimizer.schema
    saved = _matching_groups(schema, present, packed)
    problems: list[str] = []
    foreign = Foreign.of(schema, packed["state"], problems)
    if foreign is not None:
        saved = [foreign.group(other, f"group {number}") for number, other in enumerate(saved)]
    groups = [_merged(group, other) for group, other in zip(present, saved, strict=True)]
    problems += _numbers_of_model(schema, saved, packed)
    changes: list[str] = []
    slots: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
    known = set()
    for number, (group, other) in enumerate(zip(groups, saved, strict=True)):
        if not isinstance(other.get(STORING, {}), Mapping):
            problems.append(f"group {number}: {STORING!r} must say of states what their codes mean, not {other[STORING]!r}")
        try:
            values = hypers.validate(schema, group)
        except ValueError as error:
            problems.append(f"group {number}: {error}")
            continue
        for index, p in zip(other["params"], group["params"], strict=True):
            known.add(index)
            label, entries = f"parameter {index}", packed["state"].get(index)
            if entries is not None and not isinstance(entries, Mapping):
                problems.append(f"{label}: must have a table of states, not {_shown(entries)}")
            elif entries:
                file = Kept.of(other, entries, label, problems) if foreign is None else foreign.kept(entries, p, label)
                loaded = _slot(schema, values, p, file, problems, changes) if file is not None else {}
                if loaded:
                    slots[p] = loaded
    if not problems:
        problems += [f"state for {index!r}, which no group has" for index in packed["state"] if index not in known]
    if problems:
        more = [f"… and {len(problems) - _MOST_SHOWN} more"] if len(problems) > _MOST_SHOWN else []
        lines = [f"this state dict does not fit {schema.name}, nothing was loaded:", *problems[:_MOST_SHOWN], *more]
        raise ValueError("\n  ".join(lines))
    for message in dict.fromkeys(changes):
        warnings.warn(f"{schema.name}: {message}", stacklevel=stacklevel())
    for group, old in zip(groups, present, strict=True):
        _keep_tensors(group, old)
    optimizer.__setstate__({"state": slots, "param_groups": groups})
    for after in optimizer._optimizer_load_state_dict_post_hooks.values():
        after(optimizer)


def _matching_groups(schema: Schema, present: Sequence[dict[str, Any]], packed: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not isinstance(packed.get("state"), Mapping) or not isinstance(packed.get("param_groups"), Sequence):
        raise ValueError(f"not a state dict of an optimizer: {schema.name} needs `state` and `param_groups` in it")
    saved: list[dict[str, Any]] = list(packed["param_groups"])
    for number, group in enumerate(saved):
        indices = group.get("params") if isinstance(group, Mapping) else None
        if not isinstance(indices, list | tuple) or not all(isinstance(index, int | str) for index in indices):
            raise ValueError(f"not a state dict of an optimizer: group {number} must be a table with a list of `params`")
    have, want = [len(g["params"]) for g in saved], [len(g["params"]) for g in present]
    if have != want:
        raise ValueError(f"the loaded state dict has groups of {have} parameters, this {schema.name} of {want}")
    return saved


def _numbers_of_model(schema: Schema, saved: Sequence[Mapping[str, Any]], packed: Mapping[str, Any]) -> list[str]:
    """What is wrong with the states of the whole model: every group must have them, and the same."""
    problems = []
    for state in schema.of_model:
        entries = [group.get(state.key) for group in saved]
        numbers = [_number(entry) for entry in entries if entry is not None]
        if None in numbers:
            shown = next(_shown(entry) for entry in entries if entry is not None and _number(entry) is None)
            problems.append(f"{state.key!r} of the groups must be a number, not {shown}")
        elif len(set(map(repr, numbers))) > 1:
            problems.append(f"{state.key!r} is one number of the model, but differs between groups: {numbers}")
        elif packed["state"] and not numbers and state.exists is None:
            problems.append(f"the groups lack {state.key!r}, a number of the model")
    return problems


def _merged(group: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """The loaded group; what it lacks comes from the present one."""
    loaded = {key: copy.deepcopy(value) for key, value in saved.items() if key not in ("params", "capturable", STORING)}
    return {**group, **loaded}


def _keep_tensors(group: dict[str, Any], old: Mapping[str, Any]) -> None:
    for key, value in group.items():
        before = old.get(key)
        if isinstance(before, Tensor) and value is not before and (isinstance(value, float | int) or _is_scalar(value)):
            before.copy_(value) if isinstance(value, Tensor) else before.fill_(value)
            group[key] = before


def _is_scalar(entry: Any) -> bool:
    return isinstance(entry, Tensor) and entry.numel() == 1 and not entry.is_complex()


def _slot(schema: Schema, values: Values, p: Tensor, file: Kept, problems: list[str], changes: list[str]) -> dict[str, Any]:
    """One parameter's state, converted; appends to `problems` what does not fit, to `changes` what is kept otherwise here."""
    own = schema.of_parameters
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
        elif state.extent == "elem" and (state.codebook(p.numel()) is not None or key in file.scales):
            slot |= file.converted(state, p, problems, changes)
        else:
            tensor = _tensor(schema, values, state, p, entry)
            if tensor is None:
                shape = shapes.of_state(state, schema, p.shape, values)
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
        if state.key not in found and states.exists(state, values, p):
            problems.append(f"{label}: {state.key!r} is missing")
    return slot


def _tensor(schema: Schema, values: Values, state: State, p: Tensor, entry: Any) -> Tensor | None:
    """A copy of a state as it is kept here; None where it does not fit.

    Rows and columns may lack dimensions of length 1; where every element is picked, these may be in the parameter's shape.
    """
    shape = shapes.of_state(state, schema, p.shape, values)
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
