"""The native CPU backend: tables of pointers, and one call per kernel for all tensors of a batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optc.runtime.backend import Backend, BackendUnavailable, Launcher, Residents, arithmetic_dtype, table_entry
from optc.runtime.columns import Columns, addresses
from optc.runtime.native_build import load_kernel, load_matrices, load_passes
from optc.runtime.native_matrices import Vectors, grids, knows_matrices, tile
from optc.runtime.schema import Kernel, Storage, Stream

_NAMES = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16", torch.float16: "fp16"}

ALL = -1
"""Runs all passes and stages of a kernel."""
SMALLEST_CHUNK = 4096
MOST_CHUNKS = 2048
"""Chunks have 4096 elements, more in models of over 8 M elements: at most 2048 entries plus one per tensor."""


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


def uncut(sizes: Sequence[int], members: Sequence[int]) -> ChunkTable:
    """One chunk for each of some tensors with these numbers of elements."""
    chosen = np.asarray(members, dtype=np.int64)
    ones = np.ones(len(chosen), dtype=np.int64)
    return _table(chosen, ones, ones - 1, np.array(sizes, dtype=np.int64)[chosen])


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
    number = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    offset = number * extent
    return _table(chosen, counts, offset, np.minimum(extent, elements[np.repeat(chosen, counts)] - offset))


def _table(
    chosen: np.ndarray[Any, np.dtype[np.int64]],
    counts: np.ndarray[Any, np.dtype[np.int64]],
    offset: np.ndarray[Any, np.dtype[np.int64]],
    sizes: np.ndarray[Any, np.dtype[np.int64]],
) -> ChunkTable:
    member_begin, begin = (np.concatenate([[0], np.cumsum(column)]).astype(np.int64) for column in (counts, sizes))
    return ChunkTable(np.repeat(chosen, counts).astype(np.int32), offset.astype(np.int64), begin, member_begin)


@dataclass(frozen=True, slots=True)
class Shared:
    """What the kernels of a procedure have in common: their arithmetic, and statistics, which are kept from one to the next.

    `numbers` are float64, one row per tensor of the batch, `vectors` those that are more than numbers. `whole`: no matrix is
    cut, so that what a pass measures of its rows and columns is left in one place; `single`: every tensor is one chunk.
    """

    real: torch.dtype
    numbers: np.ndarray[Any, np.dtype[np.float64]]
    vectors: Vectors | None
    whole: bool = False
    single: bool = False


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


class NativeLauncher:
    """One kernel, one batch. The rows of θ and states are filled once, those of gradients and inputs at every launch."""

    def __init__(self, kernel: Kernel, residents: Residents, shared: Shared) -> None:
        tensors = [t for row in residents.tensors.values() for t in row]
        self._kernel = kernel
        self._residents = residents  # keeps the memory behind the pointers
        if any(t.device.type != "cpu" for t in tensors):
            raise BackendUnavailable("native kernels run on CPU tensors")
        self._sizes = residents.sizes(kernel)
        count = len(self._sizes)
        self._table = np.zeros((len(kernel.streams), count), dtype=np.int64)
        self._scalars = np.zeros(len(kernel.scalars))
        self._flags = np.zeros(len(kernel.host_flags), dtype=np.uint8)
        self._members: np.ndarray[Any, np.dtype[np.int64]] | slice = slice(None)
        self._count = count
        self._varying: list[tuple[str, np.ndarray[Any, np.dtype[np.int64]]]] = []
        for row, stream in zip(self._table, kernel.streams, strict=True):
            if not stream.stays:
                self._varying.append((stream.name, row))
            elif (column := residents.column(stream, count)) is not None:
                row[:] = list(map(table_entry, column))
        self._inputs = tuple(s.name for s in kernel.streams if s.role == "input")
        self._input_dtype = residents.gradient_dtype
        # code per tensor keeps its numbers here: what it found, for all kernels of a procedure, and what chunks left of a pass
        self._shared = shared
        self.partials = np.zeros((0, max((len(kernel.numbers(k)) for k in range(len(kernel.passes))), default=0)))
        self._scratch = np.zeros(0)
        self._code, self._by_rows = self._load()
        self._waves = np.zeros(0, dtype=np.int64)
        books = [s.codebook(residents.variant) for s in kernel.streams if not s.beside]
        block = max((book.together for book in books if book is not None and book.bits > 1), default=1)
        self._grids = grids(_shapes(residents), kernel, block, shared.whole) if self._by_rows else self._waves
        self._cut(None)

    def _cut(self, members: Sequence[int] | None) -> None:
        """The chunks, or tiles, of members, and room for what they leave."""
        if self._by_rows:
            chosen = np.arange(len(self._sizes)) if members is None else np.asarray(members, dtype=np.int64)
            tiles = tile(self._grids, self._kernel, chosen)
            chunks = _table(tiles.chosen, tiles.counts, tiles.number, tiles.elements)
            self._grids, self._waves = tiles.grids, tiles.waves
            if len(self._scratch) < tiles.scratch:
                self._scratch = np.zeros(tiles.scratch)
        elif self._shared.single:
            chunks = uncut(self._sizes, range(len(self._sizes)) if members is None else members)
        else:
            chunks = cut(self._sizes, members, per_tensor=bool(self._kernel.passes))
        self.chunks = chunks
        if self._kernel.passes and len(self.partials) < len(chunks):
            self.partials = np.zeros((len(chunks), self.partials.shape[1]))
        columns = (
            self._table, chunks.tensor, chunks.offset, chunks.begin, self._scalars, self._flags,
            chunks.member_begin, self.partials, self._shared.numbers,
        )  # fmt: skip
        self._addresses = tuple(column.ctypes.data for column in columns)
        self._matrices: tuple[int, ...] = ()
        if self._shared.vectors is not None and knows_matrices(self._kernel):
            present = (self._grids, self._shared.vectors.table, self._scratch, self._waves)
            places = tuple(column.ctypes.data if self._by_rows else 0 for column in present)
            self._matrices = (*places, len(self._waves))

    def only(self, members: Sequence[int]) -> NativeLauncher:
        """See `optc.runtime.backend.Launcher`."""
        fewer = copy(self)
        fewer._members = np.asarray(members, dtype=np.int64)
        fewer._count = len(members)
        fewer._cut(members)
        return fewer

    def _load(self) -> tuple[Callable[..., None], bool]:
        """The compiled kernel for this batch's dtypes and variant, and whether it walks along rows."""
        roles = {s.name: s.role for s in self._kernel.streams}
        found: dict[str, torch.dtype] = {"gradient": self._residents.gradient_dtype, "input": self._input_dtype}
        numbers = {s.name for s in self._kernel.streams if s.number}
        stored = {s.name for s in self._kernel.streams if self._storage(s) is not None}
        for name, row in self._residents.tensors.items():
            for t in row[:1]:
                if name in numbers:
                    if t.dtype != torch.float64:
                        raise BackendUnavailable(f"numbers per tensor are float64, `{name}` is {t.dtype}")
                    continue
                if name in stored or roles[name] in ("scale", "rest"):
                    continue
                if found.setdefault(roles[name], t.dtype) != t.dtype:
                    raise BackendUnavailable(f"native kernels want one dtype for all states, not {t.dtype} for `{name}`")
        state = found.setdefault("state", self._shared.real)
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
            "OPTC_MATH_T": _NAMES[self._shared.real],
            "OPTC_VARIANT": str(variant),
        }
        if knows_matrices(self._kernel):
            return load_matrices(self._kernel.native, macros)
        return (load_passes if self._kernel.passes else load_kernel)(self._kernel.native, macros), False

    def _storage(self, stream: Stream) -> Storage | None:
        """How a stream is kept, unless that is in the dtype of states. Raises BackendUnavailable for codes out of order."""
        book = stream.codebook(self._residents.variant)
        if book is not None and any(one.picks for one in self._kernel.passes):
            raise BackendUnavailable("native kernels with picked elements do not keep states as codes")
        return stream.storage if isinstance(stream.storage, str) else book

    @staticmethod
    def _as_many(values: Sequence[Any], count: int) -> Sequence[Any]:
        """Raises ValueError unless there are so many: NumPy would repeat a single one."""
        if len(values) != count:
            raise ValueError(f"{len(values)} values for {count} places")
        return values

    def launch(
        self,
        varying: Columns,
        scalars: Sequence[float | Tensor],
        flags: Sequence[bool],
        gradient_factor: float,
    ) -> None:
        """See `optc.runtime.backend.Launcher`."""
        self.arm(varying, scalars, flags)
        self.run(gradient_factor)

    def arm(self, varying: Columns, scalars: Sequence[float | Tensor], flags: Sequence[bool]) -> None:
        """Fills the tables of a launch."""
        if not len(self.chunks):
            return
        for name in self._inputs:
            if varying[name][0].dtype != self._input_dtype:
                self._input_dtype = varying[name][0].dtype
                self._code, _ = self._load()
        for name, row in self._varying:
            row[self._members] = self._as_many(addresses(varying[name]), self._count)
        self._scalars[:] = self._as_many([float(value) for value in scalars], len(self._scalars))
        self._flags[:] = self._as_many(flags, len(self._flags))

    def run(self, gradient_factor: float, only: int = ALL) -> None:
        """Runs a kernel that is armed, or one part of it: see `ALL` in passes.hpp."""
        if not len(self.chunks):
            return
        table, tensor, offset, begin, scalar_values, flag_values, member_begin, partials, statistics = self._addresses
        if self._kernel.passes:
            self._code(
                table, self._table.shape[1], tensor, offset, begin, len(self.chunks), member_begin, self._count,
                scalar_values, flag_values, gradient_factor,
                partials, self.partials.shape[1], statistics, self._shared.numbers.shape[1],
                only, _THREADS.count(), *self._matrices,
            )  # fmt: skip
        else:
            self._code(
                table, self._table.shape[1], tensor, offset, begin, len(self.chunks),
                scalar_values, flag_values, gradient_factor, _THREADS.count(),
            )  # fmt: skip

    def parts(self) -> Tensor:
        """See `optc.runtime.backend.Launcher`."""
        columns = [self._kernel.statistics.index(name) for name in self._kernel.parts]
        return torch.from_numpy(self._shared.numbers[self._members][:, columns])


class _Native:
    """CPU kernels in C++17, compiled on first use."""

    name = "native"

    def prepare(self, kernels: Sequence[Kernel], residents: Sequence[Residents]) -> list[Launcher]:
        """Bind the kernels of a procedure to a batch of CPU tensors; compiles those that no process has yet.

        Raises `BackendUnavailable`.
        """
        count = max((len(r.sizes(k)) for k, r in zip(kernels, residents, strict=True)), default=0)
        numbers = np.zeros((count, max((len(k.statistics) for k in kernels), default=0)))
        real = _real(kernels, residents)
        if any(r.shards for r in residents) and any(k.passes for k in kernels):
            from optc.runtime.native_divided import divided

            return divided(kernels, residents, real, numbers)
        shapes = _shapes(residents[0]) if any(map(knows_matrices, kernels)) else ()
        shared = Shared(real, numbers, vectors_of(kernels, shapes, real))
        return [NativeLauncher(k, r, shared) for k, r in zip(kernels, residents, strict=True)]


def vectors_of(kernels: Sequence[Kernel], shapes: Sequence[torch.Size], real: torch.dtype) -> Vectors | None:
    """Memory for statistics that are more than numbers, if the kernels of a procedure have any."""
    knowing = [k for k in kernels if knows_matrices(k)]
    return Vectors(knowing, shapes, real) if knowing else None


def _shapes(residents: Residents) -> Sequence[torch.Size]:
    """The shapes of the parameters."""
    return residents.shapes or [tensor.shape for tensor in residents.tensors["theta"]]


def _real(kernels: Sequence[Kernel], residents: Sequence[Residents]) -> torch.dtype:
    """The dtype of arithmetic per element: that for θ; where no kernel has it, for a state or the gradient."""
    dtypes = {
        stream.role: stays.tensors[stream.name][0].dtype
        for kernel, stays in zip(kernels, residents, strict=True)
        for stream in kernel.streams
        if len(stays.tensors.get(stream.name, ())) and not stream.number and stream.storage is None
    }
    for role in ("theta", "state"):
        if role in dtypes:
            return arithmetic_dtype(dtypes[role])
    return arithmetic_dtype(residents[0].gradient_dtype) if residents else torch.float32


NATIVE: Backend = _Native()
