"""The contract between the optimizer and a backend.

The optimizer sorts parameters into *batches* (same group, device, dtypes, variant and, at each step, same scalars and flags)
and guarantees that all tensors of one parameter in a batch are dense with equal strides, so that element `i` of memory is the
same element in each of them. A backend never allocates per element (PyTorch excepted), never reads a value back to the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from optc.runtime.codebook import Codebook
from optc.runtime.columns import Columns
from optc.runtime.draws import first_element
from optc.runtime.schema import Kernel, Stream
from optc.runtime.sharding import Runs, Shard
from optc.runtime.storage import on_device

_OF_RUNS = ("element", "run_length", "run_step")
"""The streams that a table has for the numbers of elements, in the order of `Runs`."""


@dataclass(frozen=True, slots=True)
class Residents:
    """The tensors that stay from step to step.

    `tensors[stream.name]` is a list parallel to the batch's parameters for every THETA and STATE stream of the kernel that
    exists in this variant; absent streams have no key. States are float32, or float64 where θ is, or as their storage says:
    codes have their scales beside them, under the name of that stream. `gradient_dtype` is the dtype of all gradients of the
    batch (usually θ's). `variant` gives every static flag of the kernel its value. `shapes` are those of the parameters; where
    they are not given, those of the tensors per element. `elements` are the numbers of each parameter's elements; where they
    are not given, those of an optimizer with these parameters. `shards`: what this process has of parameters that are
    divided, which are parameters `numbers` of the optimizer; `shapes` are then those of what lies here.
    """

    tensors: Mapping[str, Sequence[Tensor]]
    gradient_dtype: torch.dtype
    variant: Mapping[str, bool]
    shapes: Sequence[torch.Size] = ()
    elements: Sequence[Runs] = ()
    shards: Sequence[Shard] = ()
    numbers: Sequence[int] = ()

    def column(self, stream: Stream, count: int) -> Sequence[Tensor] | Sequence[int] | None:
        """What a table has of a stream that stays, for `count` parameters: tensors, numbers, or nothing if it is absent."""
        if stream.role == "book" and isinstance(stream.storage, Codebook):
            device = next(column[0].device for column in self.tensors.values() if len(column))
            return [on_device(stream.storage, device).memory] * count
        if stream.role in _OF_RUNS:
            return [runs[_OF_RUNS.index(stream.role)] for runs in self.runs(count)]
        return self.tensors.get(stream.name)

    def runs(self, count: int) -> Sequence[Runs]:
        """How the elements of `count` parameters are numbered."""
        return self.elements or [Runs(first_element(parameter)) for parameter in range(count)]

    def sizes(self, kernel: Kernel) -> list[int]:
        """Elements of each parameter. Raises ValueError without `shapes` where `kernel` keeps nothing but numbers."""
        if self.shapes:
            return [shape.numel() for shape in self.shapes]
        numbers = {stream.name for stream in kernel.streams if stream.number}
        columns = [column for name, column in self.tensors.items() if name not in numbers and len(column)]
        if not columns and any(map(len, self.tensors.values())):
            raise ValueError(f"the kernel {kernel.name} keeps numbers only: it needs the shapes of its parameters")
        return [tensor.numel() for tensor in columns[0]] if columns else []


def table_entry(entry: Tensor | int) -> int:
    """What a table of pointers has of an entry of a column: the address of a tensor, or a number as it is."""
    return entry if isinstance(entry, int) else entry.data_ptr()


class Launcher(Protocol):
    """A kernel bound to one batch; tables of pointers are built once and kept.

    The launchers of one procedure share the statistics that they keep from kernel to kernel.
    """

    def only(self, members: Sequence[int]) -> Launcher:
        """The same for some parameters of the batch (indices, ascending), sharing the tables; cheap, compiles nothing.

        What a kernel has left for them, other kernels find, whichever way the batch was divided meanwhile.
        """

    def launch(
        self,
        varying: Columns,
        scalars: Sequence[float | Tensor],
        flags: Sequence[bool],
        gradient_factor: float,
    ) -> None:
        """Run the kernel once over every parameter of the batch.

        `varying` holds the gradients (`g`) and inputs of this step, columns parallel to the parameters, on the same device,
        dense, with θ's strides; `columns.addresses` says where they lie without making tensors of them. `scalars` and `flags`
        are in the order of `kernel.scalars` and `kernel.host_flags`; numbers of the model are 0-dim float64 tensors on the
        device, and are not read on the host. `gradient_factor` multiplies g as it is read.
        """

    def parts(self) -> Tensor:
        """What the last launch has left for totals: float64 [parameters, `kernel.parts`], on the device; waits for nothing."""


class Backend(Protocol):
    """One way of running kernels."""

    name: str

    def prepare(self, kernels: Sequence[Kernel], residents: Sequence[Residents]) -> list[Launcher]:
        """Bind the kernels of a procedure to one batch, `residents` of each; may compile.

        Raises `BackendUnavailable` with the reason where it cannot run.
        """


class BackendUnavailable(RuntimeError):
    """This backend cannot run here; the message says why and what to do."""


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 parameters, float32 for float32, bfloat16 and float16 ones."""
    return torch.float64 if dtype == torch.float64 else torch.float32
