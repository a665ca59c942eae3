"""The Triton backend: every tensor of a batch in one launch per pass, and the host program on the device for `capturable`.

Nothing here waits for the device or reads from it. There is no autotuning: it would apply an in-place update several times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from optc.runtime.backend import BackendUnavailable, Launcher, Residents, arithmetic_dtype
from optc.runtime.columns import Columns
from optc.runtime.draws import draws_for
from optc.runtime.schema import Kernel, Procedure
from optc.runtime.triton_device import (
    WARPS,
    Geometry,
    geometry,
    largest_block,
    on_device,
    require_triton,
    stream_dtypes,
    triton_dtype,
    warp_size,
)
from optc.runtime.triton_divided import divided
from optc.runtime.triton_kernel import LazyKernel
from optc.runtime.triton_passes import ReducingLauncher, prepare_reducing
from optc.runtime.triton_tables import Chunks, VaryingTable, capturing, in_memory, on_host, resident_table, upload

LANES_PER_PROGRAM = 128
"""Tensors per program of the scalars kernel."""


@dataclass(slots=True)
class TritonLauncher:
    """A kernel bound to a batch."""

    kernel: Kernel
    function: LazyKernel
    device: torch.device
    real: torch.dtype
    variant: Mapping[str, bool]
    dtypes: dict[str, torch.dtype]
    geometry: Geometry
    table: Tensor
    varying: VaryingTable
    chunks: Chunks

    def only(self, members: Sequence[int]) -> TritonLauncher:
        """See `optc.runtime.backend.Launcher`."""
        with on_device(self.device):
            varying, chunks = self.varying.only(members), self.chunks.only(members)
        return replace(self, dtypes=dict(self.dtypes), varying=varying, chunks=chunks)

    def parts(self) -> Tensor:
        """See `optc.runtime.backend.Launcher`: code per element leaves none."""
        return torch.empty(self.varying.count, 0, dtype=torch.float64, device=self.device)

    def launch(
        self, varying: Columns, scalars: Sequence[float | Tensor], flags: Sequence[bool], gradient_factor: float
    ) -> None:
        """See `optc.runtime.backend.Launcher`. float64 scalars travel through memory, as Triton's arguments are float32.

        So do all scalars where one of them is on the device.
        """
        known = on_host(scalars)
        if self.real != torch.float64 and known is not None:
            self.run(varying, gradient_factor, None, None, 1, known, flags)
            return
        memory = in_memory(scalars, flags, gradient_factor, self.device)
        self.run(varying, memory[-1:], None, memory, 1, [0.0] * len(scalars), [False] * len(flags))

    def run(
        self,
        varying: Columns,
        gradient_factor: float | Tensor,
        found_inf: Tensor | None,
        memory: Tensor | None,
        rows: int,
        scalars: Sequence[float],
        flags: Sequence[bool],
    ) -> None:
        """One launch. With `memory` ([rows][scalars + flags]) scalars, flags and g's factor are read from the device."""
        if not self.chunks.count:
            return
        columns = [varying[s.name] for s in self.kernel.streams if not s.stays]
        for stream in self.kernel.streams:
            if not stream.stays:
                self.dtypes[stream.name] = varying[stream.name][0].dtype
        with on_device(self.device):
            self.function.jit[(self.chunks.count,)](
                self.table,
                self.varying.of(columns),
                self.chunks.tensors,
                self.chunks.first,
                self.chunks.length,
                gradient_factor,
                found_inf,
                memory,
                rows,
                *scalars,
                *stream_dtypes(self.kernel.streams, self.dtypes),
                *(bool(self.variant[f]) for f in self.kernel.static_flags),
                *flags,
                triton_dtype(self.real),
                self.geometry.lanes,
                self.geometry.block,
                self.geometry.tail,
                memory is not None,
                found_inf is not None,
                num_warps=self.geometry.warps,
            )


@dataclass(slots=True)
class CapturableLauncher:
    """A procedure bound to a batch that counts on the device: one launch for the scalars, then those of its kernels.

    `blocks`: what each kernel reads its scalars and flags from, a row for each tensor; then what programs of the model read.
    """

    procedure: Procedure
    function: LazyKernel
    launchers: tuple[TritonLauncher | ReducingLauncher, ...]
    counters: Tensor
    carried: Tensor
    shapes: Tensor
    memory: Tensor
    blocks: tuple[Tensor, ...]
    constants: dict[str, Any]
    news: tuple[str, ...]
    _factor: tuple[float, Tensor] | None = None

    def launch(
        self,
        varying: Columns,
        hypers: Tensor,
        gradient_factor: float | Tensor,
        found_inf: Tensor | None,
        new: Sequence[str] = (),
    ) -> None:
        """Count, compute the scalars and run the kernels of a procedure without numbers of the model."""
        self.begin(hypers, found_inf, new)
        for kernel in range(len(self.launchers)):
            self.run(kernel, varying, {}, gradient_factor, found_inf)

    def begin(self, hypers: Tensor, found_inf: Tensor | None, new: Sequence[str] = ()) -> None:
        """Counts and computes the scalars; where `found_inf` (one element) is not 0, nothing is counted.

        `hypers` is float64, in the order of the names given to `prepare_capturable`. `new` names the states created just now.
        """
        n, device = self.counters.numel(), self.memory.device
        if n == 0:
            return
        constants = self.constants | {name: name.removeprefix("new_") in new for name in self.news}
        with on_device(device):
            self.function.jit[(-(-n // LANES_PER_PROGRAM),)](
                hypers,
                self.counters,
                self.carried,
                self.shapes,
                found_inf,
                self.memory,
                n,
                **constants,
                LANES=LANES_PER_PROGRAM,
                HAS_FOUND_INF=found_inf is not None,
                num_warps=WARPS,
            )

    def for_model(self) -> dict[str, Tensor]:
        """What programs of the model read, which is the same for all tensors: 0-dim float64, as `begin` leaves it."""
        return (
            dict(zip(self.procedure.model_scalars, self.blocks[-1][0].unbind(), strict=True)) if self.counters.numel() else {}
        )

    def run(
        self,
        kernel: int,
        varying: Columns,
        numbers: Mapping[str, float | Tensor],
        gradient_factor: float | Tensor,
        found_inf: Tensor | None,
    ) -> None:
        """Runs one kernel; where `found_inf` is not 0, nothing is written. `numbers` are those of the model, by name."""
        n, launcher, block = self.counters.numel(), self.launchers[kernel], self.blocks[kernel]
        if n == 0:
            return
        names = launcher.kernel.scalars
        for name, number in numbers.items():
            if name in names:
                column = block[:, names.index(name)]
                column.copy_(number, non_blocking=True) if isinstance(number, Tensor) else column.fill_(number)
        factor = self._as_tensor(gradient_factor, self.memory.device)
        launcher.run(varying, factor, found_inf, block, n, [0.0] * len(names), [False] * len(launcher.kernel.host_flags))

    def _as_tensor(self, factor: float | Tensor, device: torch.device) -> Tensor:
        if isinstance(factor, Tensor):
            return factor
        if self._factor is not None and self._factor[0] == factor:
            return self._factor[1]
        tensor = torch.full((1,), factor, dtype=torch.float64, device=device)
        if not capturing(device):  # what is made under capture belongs to the graph and has no value before a replay
            self._factor = (factor, tensor)
        return tensor


class TritonBackend:
    """Kernels as Triton compiles them for the GPU at hand, or as its interpreter runs them on CPU tensors."""

    name = "triton"

    def prepare(self, kernels: Sequence[Kernel], residents: Sequence[Residents]) -> list[Launcher]:
        """Binds the kernels of a procedure to a batch.

        Raises BackendUnavailable without Triton, for CPU tensors without its interpreter, and for rows too long for panels.
        """
        if not any(r.shards for r in residents):
            return [*_bound(kernels, residents)]
        pairs = [(k, r) for k, r in zip(kernels, residents, strict=True) if k.passes]
        real, device = _arithmetic(kernels, residents)
        reducing = iter(divided([k for k, _ in pairs], [r for _, r in pairs], real, device))
        return [next(reducing) if k.passes else _elementwise(k, r, device) for k, r in zip(kernels, residents, strict=True)]


def _bound(kernels: Sequence[Kernel], residents: Sequence[Residents]) -> list[TritonLauncher | ReducingLauncher]:
    """See `TritonBackend.prepare`; of tensors that no other process has parts of."""
    pairs = [(k, r) for k, r in zip(kernels, residents, strict=True) if k.passes]
    real, device = _arithmetic(kernels, residents)
    reducing = iter(prepare_reducing([k for k, _ in pairs], [r for _, r in pairs], real, device))
    return [next(reducing) if k.passes else _elementwise(k, r, device) for k, r in zip(kernels, residents, strict=True)]


def _arithmetic(kernels: Sequence[Kernel], residents: Sequence[Residents]) -> tuple[torch.dtype, torch.device]:
    """In which dtype, and where, the kernels of a batch compute."""
    kept = [column for r in residents for column in r.tensors.values() if len(column)]
    elements = [_first(k, r) for k, r in zip(kernels, residents, strict=True)]
    dtypes = [*(column[0].dtype for column in elements if column), *(r.gradient_dtype for r in residents)]
    device = kept[0][0].device if kept else torch.device("cpu")
    return arithmetic_dtype(dtypes[0]) if dtypes else torch.float32, device


def _first(kernel: Kernel, residents: Residents) -> Sequence[Tensor]:
    """The first tensors per element that are there and are kept in the dtype of the arithmetic; θ, if it is."""
    names = [s.name for s in kernel.streams if s.role in ("theta", "state") and s.per_element and s.storage is None]
    return next((residents.tensors[name] for name in names if residents.tensors.get(name)), ())


def _elementwise(kernel: Kernel, residents: Residents, device: torch.device) -> TritonLauncher:
    function = require_triton(kernel.triton, device)
    kept = [residents.tensors[s.name] for s in kernel.streams if s.name in residents.tensors]
    sizes = [tensor.numel() for tensor in kept[0]]
    dtypes = {name: column[0].dtype for name, column in residents.tensors.items()}
    columns = [residents.column(s, len(sizes)) for s in kernel.streams if s.stays]
    varying = [s.name for s in kernel.streams if not s.stays]
    dtypes |= dict.fromkeys(varying, residents.gradient_dtype)
    numbers = [dtype for dtype in dtypes.values() if dtype != torch.uint8]
    first = _first(kernel, residents)
    real = arithmetic_dtype(first[0].dtype if first else residents.gradient_dtype)
    codes = largest_block(kernel.streams, residents.variant)
    shape = geometry(numbers, warp_size(device), codes, draws_for(kernel.streams))
    with on_device(device):
        table, aligned = resident_table(columns, sizes, device)
        return TritonLauncher(
            kernel,
            function,
            device,
            real,
            residents.variant,
            dtypes,
            shape,
            table,
            VaryingTable(aligned, len(varying), device),
            Chunks.of(sizes, shape.block, device),
        )


TRITON = TritonBackend()


def prepare_capturable(
    procedure: Procedure,
    hyper_names: Sequence[str],
    residents: Residents,
    counters: Tensor,
    carried: Tensor,
    choices: Mapping[str, str] | None = None,
) -> CapturableLauncher:
    """Binds a procedure to a batch whose step counts live on its device.

    `counters`: float32, n elements; `carried`: float64 [len(procedure.carried)][n]; both are advanced in place. `hyper_names`
    are the inside names of the numbers that `launch` gets. `choices` are hypers with texts, if the host program reads any.
    Raises BackendUnavailable as `TritonBackend.prepare` does.
    """
    if any(name in procedure.flags for phase in procedure.phases if phase.model is not None for name in phase.model.flags):
        raise BackendUnavailable(
            f"{procedure.name} decides on the host what its numbers of the model are: leave capturable off"
        )
    launchers = tuple(_bound(procedure.kernels, [_only(kernel, residents) for kernel in procedure.kernels]))
    device, n = launchers[0].device, counters.numel()
    function = require_triton(procedure.triton_scalars, device)
    every = residents.shapes or [p.shape for p in next(iter(residents.tensors.values()))]
    known: dict[str, Any] = {**residents.variant, **(choices or {})}
    known |= {f"at_{name}": index for index, name in enumerate(hyper_names)}
    wanted = [name for name in function.constants if name not in ("LANES", "HAS_FOUND_INF")]
    news = tuple(name for name in wanted if name not in known and name.startswith("new_"))
    if missing := [name for name in wanted if name not in known and name not in news]:
        raise BackendUnavailable(f"the scalars of {procedure.name} need {', '.join(missing)}: not available on the device")
    with on_device(device):
        shapes = upload(torch.tensor([[shape.numel(), len(shape)] for shape in every], dtype=torch.int64), device)
        widths = [*(len(k.scalars) + len(k.host_flags) for k in procedure.kernels), len(procedure.model_scalars)]
        # code per tensor and of the model is float64
        exact = any(k.passes for k in procedure.kernels) or any(phase.model is not None for phase in procedure.phases)
        memory = torch.empty(max(1, sum(widths) * n), dtype=torch.float64 if exact else launchers[0].real, device=device)
    starts = [sum(widths[:k]) * n for k in range(len(widths))]
    blocks = tuple([memory[at : at + width * n].view(n, width) for at, width in zip(starts, widths, strict=True)])
    constants = {name: known[name] for name in wanted if name not in news}
    return CapturableLauncher(procedure, function, launchers, counters, carried, shapes, memory, blocks, constants, news)


def _only(kernel: Kernel, residents: Residents) -> Residents:
    names = {s.name for s in kernel.streams}
    return replace(residents, tensors={k: v for k, v in residents.tensors.items() if k in names})
