"""The native CPU backend: tables of pointers, and one call per kernel for all tensors of a batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from optc.runtime.backend import Backend, BackendUnavailable, Launcher, Residents, arithmetic_dtype
from optc.runtime.columns import Columns, addresses
from optc.runtime.native_build import load_kernel, load_passes
from optc.runtime.schema import Kernel

_NAMES = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16", torch.float16: "fp16"}

SMALLEST_CHUNK = 4096
MOST_CHUNKS = 8192
"""Chunks have 4096 elements, more in models of over 32 M elements: at most 8192 entries plus one per tensor."""


@dataclass(frozen=True, slots=True)
class ChunkTable:
    """How tensors are cut: chunk `c` is `begin[c + 1] - begin[c]` elements of tensor `tensor[c]` from element `offset[c]` on.

    A tensor has the chunks from one entry of `member_begin` to before the next. All this depends on the sizes only,
    not on the threads. All chunks but a tensor's last have the same power of two of elements.
    """

    tensor: np.ndarray[Any, np.dtype[np.int32]]
    offset: np.ndarray[Any, np.dtype[np.int64]]
    begin: np.ndarray[Any, np.dtype[np.int64]]  # one more than chunks
    member_begin: np.ndarray[Any, np.dtype[np.int64]]  # one more than tensors

    def __len__(self) -> int:
        return len(self.tensor)

    @property
    def nbytes(self) -> int:
        """Bytes of the four columns."""
        return sum(column.nbytes for column in (self.tensor, self.offset, self.begin, self.member_begin))


def cut(sizes: Sequence[int], members: Sequence[int] | None = None, per_tensor: bool = False) -> ChunkTable:
    """The chunks of tensors with these numbers of elements; with `members` only theirs, cut as if all were there.

    `per_tensor`: for kernels with code per tensor, too. A tensor without elements then has a chunk, and tensors of one chunk
    come first: their passes run one after the other.
    """
    extent = SMALLEST_CHUNK
    while extent * MOST_CHUNKS < sum(sizes):
        extent *= 2
    elements = np.array(sizes, dtype=np.int64)
    chosen = np.arange(len(sizes)) if members is None else np.asarray(members, dtype=np.int64)
    counts = -(-elements[chosen] // extent)
    if per_tensor:
        chosen = np.concatenate([chosen[counts <= 1], chosen[counts > 1]])
        counts = np.maximum(-(-elements[chosen] // extent), 1)
    member_begin = np.concatenate([[0], np.cumsum(counts)])
    tensor = np.repeat(chosen, counts)
    offset = (np.arange(len(tensor)) - np.repeat(member_begin[:-1], counts)) * extent
    begin = np.concatenate([[0], np.cumsum(np.minimum(extent, elements[tensor] - offset))])
    return ChunkTable(tensor.astype(np.int32), offset.astype(np.int64), begin.astype(np.int64), member_begin.astype(np.int64))


class _Threads:
    """How many threads a kernel may use: torch's number, one in a forked child.

    The workers of an OpenMP runtime do not survive a fork, and a child that waits for them hangs. Whether any library of the
    process had started them cannot be known, so a child always works alone.
    """

    def __init__(self) -> None:
        self._alone = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._stay_alone)

    def _stay_alone(self) -> None:
        self._alone = True

    def count(self) -> int:
        """Threads for the next call."""
        return 1 if self._alone else torch.get_num_threads()


_THREADS = _Threads()


class _NativeLauncher:
    """One kernel, one batch. The rows of θ and states are filled once, those of gradients and inputs at every launch."""

    def __init__(self, kernel: Kernel, residents: Residents) -> None:
        tensors = [t for row in residents.tensors.values() for t in row]
        self._kernel = kernel
        self._residents = residents  # keeps the memory behind the pointers
        count = max((len(row) for row in residents.tensors.values()), default=0)
        numbers = {s.name for s in kernel.streams if s.number}
        first = next((row for name, row in residents.tensors.items() if len(row) and name not in numbers), None)
        if any(t.device.type != "cpu" for t in tensors):
            raise BackendUnavailable("native kernels run on CPU tensors")
        self._sizes = [0] * count if first is None else [t.numel() for t in first]
        self._sized = first is not None or not count  # else by what varies: only numbers stay
        self._table = np.zeros((len(kernel.streams), count), dtype=np.int64)
        self._scalars = np.zeros(len(kernel.scalars))
        self._flags = np.zeros(len(kernel.host_flags), dtype=np.uint8)
        self._members: np.ndarray[Any, np.dtype[np.int64]] | slice = slice(None)
        self._count = count
        self._varying: list[tuple[str, np.ndarray[Any, np.dtype[np.int64]]]] = []
        for row, stream in zip(self._table, kernel.streams, strict=True):
            if stream.role in ("gradient", "input"):
                self._varying.append((stream.name, row))
            elif stream.name in residents.tensors:
                row[:] = [t.data_ptr() for t in residents.tensors[stream.name]]
        self._inputs = tuple(s.name for s in kernel.streams if s.role == "input")
        self._input_dtype = residents.gradient_dtype
        # code per tensor keeps its numbers here: what chunks left of a pass, and what it found
        self._statistics = np.zeros((count, len(kernel.statistics)))
        self._partials = np.zeros((0, max((len(p.measures) for p in kernel.passes), default=0)))
        self._cut(None)
        self._run = self._load()

    def _cut(self, members: Sequence[int] | None) -> None:
        chunks = cut(self._sizes, members, per_tensor=bool(self._kernel.passes))
        self._chunks = chunks
        if self._kernel.passes and len(self._partials) < len(chunks):
            self._partials = np.zeros((len(chunks), self._partials.shape[1]))
        columns = (
            self._table, chunks.tensor, chunks.offset, chunks.begin, self._scalars, self._flags,
            chunks.member_begin, self._partials, self._statistics,
        )  # fmt: skip
        self._addresses = tuple(column.ctypes.data for column in columns)

    def only(self, members: Sequence[int]) -> _NativeLauncher:
        """See `optc.runtime.backend.Launcher`."""
        fewer = copy(self)
        fewer._members = np.asarray(members, dtype=np.int64)
        fewer._count = len(members)
        fewer._cut(members)
        return fewer

    def _load(self) -> Callable[..., None]:
        """The compiled kernel for this batch's dtypes and variant."""
        roles = {s.name: s.role for s in self._kernel.streams}
        found: dict[str, torch.dtype] = {"gradient": self._residents.gradient_dtype, "input": self._input_dtype}
        numbers = {s.name for s in self._kernel.streams if s.number}
        for name, row in self._residents.tensors.items():
            for t in row[:1]:
                if name in numbers:
                    if t.dtype != torch.float64:
                        raise BackendUnavailable(f"numbers per tensor are float64, `{name}` is {t.dtype}")
                    continue
                if found.setdefault(roles[name], t.dtype) != t.dtype:
                    raise BackendUnavailable(f"native kernels want one dtype for all states, not {t.dtype} for `{name}`")
        state = found.get("state", torch.float32)
        found.setdefault("state", state)
        found.setdefault("theta", state)
        for dtype in found.values():
            if dtype not in _NAMES:
                raise BackendUnavailable(f"native kernels do not know {dtype}")
        variant = sum(self._residents.variant[flag] << bit for bit, flag in enumerate(self._kernel.static_flags))
        macros = {
            "OPTC_PARAM_T": _NAMES[found["theta"]],
            "OPTC_GRAD_T": _NAMES[found["gradient"]],
            "OPTC_STATE_T": _NAMES[found["state"]],
            "OPTC_INPUT_T": _NAMES[found["input"]],
            "OPTC_MATH_T": _NAMES[arithmetic_dtype(found["theta"])],
            "OPTC_VARIANT": str(variant),
        }
        return (load_passes if self._kernel.passes else load_kernel)(self._kernel.native, macros)

    @staticmethod
    def _as_many(values: Sequence[Any], count: int) -> Sequence[Any]:
        """Raises ValueError unless there are so many: NumPy would repeat a single one."""
        if len(values) != count:
            raise ValueError(f"{len(values)} values for {count} places")
        return values

    def launch(
        self,
        varying: Columns,
        scalars: Sequence[float],
        flags: Sequence[bool],
        gradient_factor: float,
    ) -> None:
        """See `optc.runtime.backend.Launcher`."""
        if not self._sized:
            self._size(varying)
        if not len(self._chunks):
            return
        for name in self._inputs:
            if varying[name][0].dtype != self._input_dtype:
                self._input_dtype = varying[name][0].dtype
                self._run = self._load()
        for name, row in self._varying:
            row[self._members] = self._as_many(addresses(varying[name]), self._count)
        self._scalars[:] = self._as_many(scalars, len(self._scalars))
        self._flags[:] = self._as_many(flags, len(self._flags))
        table, tensor, offset, begin, scalar_values, flag_values, member_begin, partials, statistics = self._addresses
        if self._kernel.passes:
            self._run(
                table, self._table.shape[1], tensor, offset, begin, len(self._chunks), member_begin, self._count,
                scalar_values, flag_values, gradient_factor,
                partials, self._partials.shape[1], statistics, self._statistics.shape[1], _THREADS.count(),
            )  # fmt: skip
        else:
            self._run(
                table, self._table.shape[1], tensor, offset, begin, len(self._chunks),
                scalar_values, flag_values, gradient_factor, _THREADS.count(),
            )  # fmt: skip

    def _size(self, varying: Columns) -> None:
        """Cuts tensors of which only numbers stay: what comes with this launch has their sizes."""
        sizes = np.zeros(len(self._sizes), dtype=np.int64)
        for name, _ in self._varying:
            sizes[self._members] = self._as_many([t.numel() for t in varying[name]], self._count)
        if sizes.tolist() != self._sizes:
            self._sizes = sizes.tolist()
            self._cut(None if isinstance(self._members, slice) else self._members.tolist())


class _Native:
    """CPU kernels in C++17, compiled on first use."""

    name = "native"

    def prepare(self, kernel: Kernel, residents: Residents) -> Launcher:
        """Bind a kernel to a batch of CPU tensors; compiles it where no process has yet. Raises `BackendUnavailable`."""
        return _NativeLauncher(kernel, residents)


NATIVE: Backend = _Native()
