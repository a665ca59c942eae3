"""What is kept per parameter: `step`, host states and tensors, created when first needed, in the parameter's layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from optc.runtime import layout, shapes
from optc.runtime.backend import arithmetic_dtype
from optc.runtime.codebook import Codebook
from optc.runtime.hypers import Facts, Values, holds
from optc.runtime.pairs import REST, Pair, first_rest, rest_dtype
from optc.runtime.schema import PER_ELEMENT, Procedure, Schema, State
from optc.runtime.sharding import PLACEMENTS, Shards, local
from optc.runtime.storage import are_codes, kept_as_codes, kept_dtype

STEP = "step"
"""The key of the step count, as in torch."""

Slot: TypeAlias = dict[str, Any]
States: TypeAlias = MutableMapping[Tensor, Slot]


def step_dtype() -> torch.dtype:
    """The dtype of step counts: float32, or float64 where that is the default dtype (as in torch)."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def counter(value: float) -> Tensor:
    """A new step count on the host."""
    return torch.tensor(value, dtype=step_dtype())


def scalar(value: float, device: torch.device | None = None) -> Tensor:
    """A new host state or, on its parameter's device, a new number per tensor: float64, 0-dim."""
    return torch.tensor(value, dtype=torch.float64, device=device)


def number(entry: Any) -> float:
    """The value of a step count or host state, whatever it was loaded as."""
    return float(entry.item() if isinstance(entry, Tensor) else entry)


def exists(state: State, values: Values, p: Tensor) -> bool:
    """Whether a parameter of this shape and dtype has the state under these hypers."""
    return state.exists is None or holds(state.exists, values, Facts.of(p))


def needed(schema: Schema, procedure: Procedure) -> tuple[State, ...]:
    """The states that a procedure creates for each parameter: `step` all of them, an entry those it touches."""
    own = schema.of_parameters
    if procedure.name == "step":
        return own
    touched = {stream.name for kernel in procedure.kernels for stream in kernel.streams}
    touched.update(procedure.arguments, procedure.carried)
    return tuple(state for state in own if state.name in touched)


@dataclass(slots=True)
class Edits:
    """Writes to the optimizer's state that can be taken back if the step cannot be done after all."""

    states: States
    _log: list[tuple[Tensor, str, Any]] = field(default_factory=list)

    def put(self, p: Tensor, key: str, value: Any) -> None:
        """Writes one entry, unless it is there already."""
        slot = self.states[p]
        old = slot.get(key, _ABSENT)
        if old is not value:
            self._log.append((p, key, old))
            slot[key] = value

    def __bool__(self) -> bool:
        return bool(self._log)

    def undo(self) -> None:
        """Puts back what was there before."""
        for p, key, old in reversed(self._log):
            slot = self.states[p]
            if old is _ABSENT:
                del slot[key]
            else:
                slot[key] = old
            if not slot:
                del self.states[p]
        self._log.clear()


_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Home:
    """A parameter whose state is looked at: p, and in memory what this process has of it, `theta`, or a dense copy of that."""

    p: Tensor
    theta: Tensor
    shards: Shards = PLACEMENTS

    def shape(self, state: State, schema: Schema, values: Values) -> tuple[int, ...]:
        """That of a state here: what belongs to elements is where they are, all else is the same on all processes."""
        return shapes.of_state(state, schema, self.theta.shape if state.extent in PER_ELEMENT else self.p.shape, values)

    def codebook(self, state: State) -> Codebook | None:
        """What codes mean, which the whole parameter decides."""
        return state.codebook(self.p.numel())

    def kept(self, entry: Tensor) -> Tensor:
        """An entry as the state has it."""
        return self.shards.kept(self.p, entry) if entry.shape == self.theta.shape else entry


def prepare(
    edits: Edits,
    schema: Schema,
    states: Iterable[State],
    values: Values,
    home: Home,
    gradient: Callable[[], Tensor | None],
) -> frozenset[str]:
    """Creates the missing entries of a parameter and brings the others into the dtype, device and memory order of θ here.

    `gradient` gives g in the arithmetic dtype with sign and scale applied, or None where there is none. Returns the names of
    the states created here. Raises ValueError where a state has another shape than the parameter.
    """
    created = set()
    p, theta = home.p, home.theta
    dtype = arithmetic_dtype(theta.dtype)
    slot = edits.states.get(p, {})

    def put(state: State, entry: Tensor) -> None:
        """What is there already stays the same object."""
        before = slot.get(state.key)
        same = isinstance(before, Tensor) and entry is local(before)
        edits.put(p, state.key, before if same else home.kept(entry) if state.extent in PER_ELEMENT else entry)

    if STEP not in slot:
        edits.put(p, STEP, counter(0.0))
    for state in states:
        entry, book = local(slot.get(state.key)), home.codebook(state)
        if entry is None and not exists(state, values, p):
            continue
        if entry is None:
            created.add(state.name)
            entry = _initial(schema, state, values, home, dtype, gradient)
        elif state.number:
            entry = _as_number(entry, state, theta)
        if book is not None:
            kept = kept_as_codes(state, book, entry, slot.get(state.scale_key), theta)
            put(state, kept[state.key])
            edits.put(p, state.scale_key, kept[state.scale_key])
        elif state.number or state.host:
            edits.put(p, state.key, entry)
        else:
            shape = home.shape(state, schema, values)
            if entry.shape != shape:
                picked = f" (every {shapes.period(schema, values)}-th element)" if state.extent == "pick" else ""
                raise ValueError(
                    f"state {state.key!r} has shape {tuple(entry.shape)}, for its parameter {tuple(p.shape)} it must have "
                    f"{tuple(shape)}{picked}: after changing a parameter's shape, delete its entry in `state`"
                )
            put(state, layout.arranged(entry, _like(state, shape, theta), kept_dtype(state, dtype)))
    if schema.pair is not None:
        before = slot.get(REST)
        rest = rest_of(schema.pair, local(before), theta)
        if rest is not None:
            edits.put(p, REST, before if rest is local(before) else home.kept(rest))
    return frozenset(created)


def rest_of(pair: Pair, entry: Any, theta: Tensor) -> Tensor | None:
    """What a parameter lacks, as kernels want it: the entry itself, if it is so; None where nothing is lacking."""
    dtype = rest_dtype(pair, theta.dtype)
    if dtype is None:
        return None
    if not isinstance(entry, Tensor):
        return first_rest(pair, theta)
    if entry.shape != theta.shape:
        raise ValueError(
            f"state {REST!r} has shape {tuple(entry.shape)}, for its parameter {tuple(theta.shape)} it must have the same: "
            "after changing a parameter's shape, delete its entry in `state`"
        )
    return layout.arranged(entry, theta, dtype)


def _like(state: State, shape: tuple[int, ...], theta: Tensor) -> Tensor:
    """A tensor with the shape, device and memory order of a state."""
    return theta if state.extent == "elem" else theta.new_empty(shape)


def fits(slot: Slot, schema: Schema, state: State, home: Home, values: Values) -> bool:
    """Whether kernels can take what a dense parameter has of a state as it is."""
    entry, p = local(slot.get(state.key)), home.theta
    if not isinstance(entry, Tensor):
        return False
    dtype = kept_dtype(state, arithmetic_dtype(p.dtype))
    if state.host:
        return True
    if (book := home.codebook(state)) is not None:
        return are_codes(state, book, entry, slot.get(state.scale_key), p)
    if state.number:
        return _is_number(entry, p)
    if state.extent == "elem":
        return entry.shape == p.shape and layout.arranged(entry, p, dtype) is entry
    fitting = entry.shape == home.shape(state, schema, values) and entry.is_contiguous()
    return fitting and entry.dtype == dtype and entry.device == p.device


def _is_number(entry: Tensor, p: Tensor) -> bool:
    return not entry.ndim and entry.dtype == torch.float64 and entry.device == p.device and not entry.requires_grad


def _as_number(entry: Any, state: State, p: Tensor) -> Tensor:
    """A number per tensor as kernels want it; itself, if it is one already."""
    if not isinstance(entry, Tensor):
        return scalar(float(entry), p.device)
    if _is_number(entry, p):
        return entry
    if entry.numel() != 1:
        raise ValueError(f"state {state.key!r} has shape {tuple(entry.shape)}, but it is one number per parameter")
    return entry.detach().reshape(()).to(p.device, torch.float64)


def _initial(
    schema: Schema,
    state: State,
    values: Values,
    home: Home,
    dtype: torch.dtype,
    gradient: Callable[[], Tensor | None],
) -> Tensor:
    """The first value of a state, in memory of its own."""
    hypers, theta = [values[name] for name in state.arguments], home.theta
    if state.host or state.number:
        return scalar(float(state.initial(None, None, *hypers)), theta.device if state.number else None)
    shape = home.shape(state, schema, values)
    if state.extent not in PER_ELEMENT:
        return torch.full(shape, float(state.initial(None, None, *hypers)), dtype=dtype, device=theta.device)
    tensor = torch.empty_like(_like(state, shape, theta), dtype=kept_dtype(state, dtype), requires_grad=False)
    g = gradient()
    try:
        value = state.initial(theta.detach().to(dtype), g, *hypers)
    except (TypeError, AttributeError) as error:
        if g is not None:
            raise
        raise RuntimeError(f"state {state.key!r} starts from the gradient, and there is none: call step() first") from error
    return tensor.copy_(value) if isinstance(value, Tensor) else tensor.fill_(value)


def initialise(edits: Edits, schema: Schema, values: Values, p: Tensor, sign: float, shards: Shards = PLACEMENTS) -> None:
    """Creates all states of `p`; those that start from the gradient start from zeros where there is none."""
    here = shards.here(p).detach()
    theta = here if layout.is_dense(here) else here.contiguous()
    found = shards.gradient(p)
    g = torch.zeros_like(theta) if found is None else found.detach()
    home = Home(p, theta, shards)
    prepare(edits, schema, schema.of_parameters, values, home, lambda: g.to(arithmetic_dtype(p.dtype)) * sign)
