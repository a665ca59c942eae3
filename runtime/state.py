"""What is kept per parameter: `step`, host states and tensors, created when first needed, in the parameter's layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from optc.runtime import layout, shapes
from optc.runtime.backend import arithmetic_dtype
from optc.runtime.hypers import Facts, Values, holds
from optc.runtime.pairs import REST, Pair, first_rest, rest_dtype
from optc.runtime.schema import PER_ELEMENT, Procedure, Schema, State
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


def prepare(
    edits: Edits,
    schema: Schema,
    states: Iterable[State],
    values: Values,
    p: Tensor,
    theta: Tensor,
    gradient: Callable[[], Tensor | None],
) -> frozenset[str]:
    """Creates the missing entries of `p` and brings the others into the dtype, device and memory order of `theta`.

    `theta` is p, or a dense copy of it. `gradient` gives g in the arithmetic dtype with sign and scale applied, or None where
    there is none. Returns the names of the states created here. Raises ValueError where a state has another shape than `p`.
    """
    created = set()
    dtype = arithmetic_dtype(theta.dtype)
    slot = edits.states.get(p, {})
    if STEP not in slot:
        edits.put(p, STEP, counter(0.0))
    for state in states:
        entry = slot.get(state.key)
        if entry is None:
            if exists(state, values, p):
                created.add(state.name)
                value = _initial(schema, state, values, theta, dtype, gradient)
                book = state.codebook(theta.numel())
                kept = {state.key: value} if book is None else kept_as_codes(state, book, value, None, theta)
                for key, part in kept.items():
                    edits.put(p, key, part)
        elif state.number:
            edits.put(p, state.key, _as_number(entry, state, theta))
        elif (book := state.codebook(theta.numel())) is not None:
            for key, part in kept_as_codes(state, book, entry, slot.get(state.scale_key), theta).items():
                edits.put(p, key, part)
        elif not state.host:
            shape = shapes.of_state(state, schema, p.shape, values)
            if entry.shape != shape:
                picked = f" (every {shapes.period(schema, values)}-th element)" if state.extent == "pick" else ""
                raise ValueError(
                    f"state {state.key!r} has shape {tuple(entry.shape)}, for its parameter {tuple(p.shape)} it must have "
                    f"{tuple(shape)}{picked}: after changing a parameter's shape, delete its entry in `state`"
                )
            edits.put(p, state.key, layout.arranged(entry, _like(state, shape, theta), kept_dtype(state, dtype)))
    if schema.pair is not None and (rest := rest_of(schema.pair, slot.get(REST), theta)) is not None:
        edits.put(p, REST, rest)
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


def fits(slot: Slot, schema: Schema, state: State, p: Tensor, values: Values) -> bool:
    """Whether kernels can take what a dense parameter has of a state as it is."""
    entry = slot.get(state.key)
    if not isinstance(entry, Tensor):
        return False
    dtype = kept_dtype(state, arithmetic_dtype(p.dtype))
    if state.host:
        return True
    if (book := state.codebook(p.numel())) is not None:
        return are_codes(state, book, entry, slot.get(state.scale_key), p)
    if state.number:
        return _is_number(entry, p)
    if state.extent == "elem":
        return entry.shape == p.shape and layout.arranged(entry, p, dtype) is entry
    fitting = entry.shape == shapes.of_state(state, schema, p.shape, values) and entry.is_contiguous()
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
    theta: Tensor,
    dtype: torch.dtype,
    gradient: Callable[[], Tensor | None],
) -> Tensor:
    """The first value of a state, in memory of its own."""
    hypers = [values[name] for name in state.arguments]
    if state.host or state.number:
        return scalar(float(state.initial(None, None, *hypers)), theta.device if state.number else None)
    shape = shapes.of_state(state, schema, theta.shape, values)
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


def initialise(edits: Edits, schema: Schema, values: Values, p: Tensor, sign: float) -> None:
    """Creates all states of `p`; those that start from the gradient start from zeros where there is none."""
    theta = p.detach() if layout.is_dense(p) else p.detach().contiguous()
    g = torch.zeros_like(theta) if p.grad is None else p.grad.detach()
    prepare(edits, schema, schema.of_parameters, values, p, theta, lambda: g.to(arithmetic_dtype(p.dtype)) * sign)
