"""Counting on the device: step counts, host states and hypers in device memory, so that a step can be captured in a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optc.runtime import state as states
from optc.runtime.backend import BackendUnavailable, Residents
from optc.runtime.batches import Members, residents_theta, writes_theta
from optc.runtime.choose import Choice, prepare_capturable
from optc.runtime.columns import Columns, chosen
from optc.runtime.devices import placed
from optc.runtime.hypers import Values
from optc.runtime.schema import Procedure, Schema
from optc.runtime.survey import Written


@dataclass(slots=True)
class DeviceBatch:
    """Members whose scalars are computed on the device, each from its own counter, in one launch for all of them.

    `pick`: where in the columns of a step theirs are; None, if they are all.
    """

    launcher: Any
    names: tuple[str, ...]
    hypers: Tensor
    pick: tuple[int, ...] | None
    written: Written | None
    _filled: tuple[float, ...] = ()

    def ready(self, values: Values) -> None:
        """Brings changed numbers to the device. Raises RuntimeError under capture, which would freeze them in the graph."""
        filled = tuple([_as_number(values[name]) for name in self.names])
        if filled != self._filled:
            if self.hypers.is_cuda and torch.cuda.is_current_stream_capturing():
                raise RuntimeError("hypers changed under graph capture: run a step before, or use tensors for what changes")
            self.hypers.copy_(torch.tensor(filled, dtype=torch.float64))
            self._filled = filled

    def start(self, found_inf: Tensor | None, tensors: Mapping[str, Tensor]) -> None:
        """Counts and computes the scalars on the device; counts nothing where `found_inf` is not 0.

        `tensors` are the hypers that live on the device, by inside name.
        """
        for name, tensor in tensors.items():
            if name in self.names:
                self.hypers[self.names.index(name)].copy_(tensor.reshape(()), non_blocking=True)
        self.launcher.begin(self.hypers, found_inf)

    def run(
        self,
        kernel: int,
        varying: Columns,
        numbers: Mapping[str, float | Tensor],
        factor: float | Tensor,
        found_inf: Tensor | None,
    ) -> None:
        """Runs one of the kernels; writes nothing where `found_inf` is not 0. `numbers` are those of the model."""
        if self.pick is not None:
            varying = {name: chosen(column, self.pick) for name, column in varying.items()}
        self.launcher.run(kernel, varying, placed(numbers, self.hypers.device), factor, found_inf)

    def parts(self, kernel: int) -> Tensor:
        """What that kernel has left for totals."""
        left: Tensor = self.launcher.launchers[kernel].parts()
        return left

    def for_model(self) -> Mapping[str, Tensor]:
        """What programs of the model read of the scalars; the values are there after `start`."""
        found: Mapping[str, Tensor] = self.launcher.for_model()
        return found

    def note(self) -> None:
        """Tells autograd that parameters have changed."""
        if self.written is not None:
            self.written.note()


def _as_number(value: object) -> float:
    return float(value) if isinstance(value, float | bool) else math.inf


def bind(
    choice: Choice, schema: Schema, procedure: Procedure, members: Members, parameters: Sequence[Tensor], edits: states.Edits
) -> DeviceBatch:
    """Moves the members' counts into one buffer on the device and binds the kernels to it.

    `parameters` are those of the plan. Raises BackendUnavailable unless these are for the triton backend.
    """
    if members.shards:
        raise BackendUnavailable("capturable=True counts on one device, but other processes have parts of these parameters")
    prepare = prepare_capturable(choice, members.device)
    own = [parameters[i] for i in members.positions]
    counters = _gathered(edits, own, [states.STEP], torch.float32, members.device)[0]
    by_name = {state.name: state.key for state in schema.states if state.host}
    kept = [*procedure.carried, *(name for name in by_name if name in procedure.arguments and name not in procedure.carried)]
    carried = _gathered(edits, own, [by_name[name] for name in kept], torch.float64, members.device)
    numbers = {name for h in schema.hypers if h.kind != "choice" for name in h.names}
    names = tuple(name for name in procedure.arguments if name in numbers)
    every = members.residents(procedure.kernels)
    tensors = {k: v for r in every for k, v in r.tensors.items()}
    union = Residents(tensors, members.gradient_dtype, members.variant, every[0].shapes, members.elements)
    hypers = torch.zeros(len(names), dtype=torch.float64, device=members.device)
    written = Written(residents_theta(every)) if writes_theta(procedure) else None
    launcher = prepare(procedure, names, union, counters, carried, members.choices)
    pick = None if members.positions == tuple(range(len(parameters))) else members.positions
    return DeviceBatch(launcher, names, hypers, pick, written)


def _gathered(
    edits: states.Edits, parameters: Sequence[Tensor], keys: Sequence[str], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """A buffer [keys, parameters] whose elements are the state's entries; the present one, if they are in one already."""
    shape = len(keys), len(parameters)
    entries = [edits.states[p][key] for key in keys for p in parameters]
    buffer = _common_buffer(entries, shape, dtype, device)
    if buffer is None:
        values = [torch.as_tensor(entry, dtype=dtype).reshape(()).to(device) for entry in entries]
        buffer = torch.stack(values).view(shape) if values else torch.empty(shape, dtype=dtype, device=device)
        for row, key in zip(buffer, keys, strict=True):
            for p, element in zip(parameters, row.unbind(), strict=True):
                edits.put(p, key, element)
    return buffer


def _common_buffer(entries: Sequence[Any], shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor | None:
    first = entries[0] if entries else None
    if not isinstance(first, Tensor) or first.dtype != dtype or first.device != device:
        return None
    size, start = dtype.itemsize, first.data_ptr()
    memory = first.untyped_storage().data_ptr()
    for index, entry in enumerate(entries):
        if not isinstance(entry, Tensor) or entry.data_ptr() != start + index * size or entry.dtype != dtype:
            return None
        if entry.untyped_storage().data_ptr() != memory:
            return None
    return first.as_strided(shape, (shape[1], 1), first.storage_offset())
