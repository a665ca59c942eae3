"""Tables that one launch finds its tensors by: pointers and lengths per tensor, chunks of tensors per program.

The rows of a batch's parameters and states are uploaded once. Gradients move from step to step, so their row is uploaded when
it changed, from a pinned buffer of its own: the device may read it long after the host went on.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from optc.runtime.backend import table_entry
from optc.runtime.columns import Column, addresses

ALIGNMENT = 16
"""Bytes; a tensor takes the unmasked path if the addresses of all its streams are multiples of it."""
MOST_CHUNKS = 16384
"""Programs of a launch beyond one per tensor: 4 bytes each in the table, 64 KiB for any size."""
MOST_IN_CHUNK = 1 << 30


def capturing(device: torch.device) -> bool:
    """Whether launches are being recorded into a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def upload(values: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device, without waiting: through pinned memory, which the allocator keeps until the copy has run."""
    if device.type == "cpu":
        return values.clone()
    return values.pin_memory().to(device, non_blocking=True)


def in_memory(scalars: Sequence[float | Tensor], flags: Sequence[bool], factor: float, device: torch.device) -> Tensor:
    """Scalars, flags and g's factor on the device, float64: one upload, and a copy there for each scalar that is a tensor."""
    host = [0.0 if isinstance(scalar, Tensor) else scalar for scalar in scalars]
    memory = upload(torch.tensor([*host, *map(float, flags), factor], dtype=torch.float64), device)
    for place, scalar in enumerate(scalars):
        if isinstance(scalar, Tensor):
            memory[place].copy_(scalar, non_blocking=True)
    return memory


def on_host(scalars: Sequence[float | Tensor]) -> list[float] | None:
    """The scalars, where none of them is a tensor."""
    known = [scalar for scalar in scalars if not isinstance(scalar, Tensor)]
    return known if len(known) == len(scalars) else None


def choose_chunk(sizes: Sequence[int], block: int, most: int = MOST_CHUNKS) -> int:
    """Elements per program: a power of two times `block`, the smallest that needs no more than `most` whole chunks."""
    chunk, total = block, sum(sizes)
    while chunk * most < total and chunk < MOST_IN_CHUNK:
        chunk *= 2
    return chunk


@dataclass(frozen=True, slots=True)
class Chunks:
    """Which tensor each program works on (int32), and which program is the first of each tensor (int32).

    Each takes `length` elements, the last one what is left of the tensor.
    """

    tensors: Tensor
    first: Tensor
    length: int
    sizes: Sequence[int]

    @property
    def count(self) -> int:
        """Programs to launch; empty tensors have none."""
        return self.tensors.numel()

    @staticmethod
    def of(sizes: Sequence[int], block: int, device: torch.device) -> Chunks:
        """The chunks of tensors of these sizes."""
        return Chunks._cut(sizes, range(len(sizes)), choose_chunk(sizes, block), device)

    @staticmethod
    def of_length(sizes: Sequence[int], length: int, device: torch.device) -> Chunks:
        """The chunks of tensors of these sizes, all of one length."""
        return Chunks._cut(sizes, range(len(sizes)), length, device)

    def only(self, members: Sequence[int]) -> Chunks:
        """Those of some tensors."""
        return Chunks._cut(self.sizes, members, self.length, self.tensors.device)

    @staticmethod
    def _cut(sizes: Sequence[int], members: Sequence[int], length: int, device: torch.device) -> Chunks:
        numbers = np.array([-(-sizes[i] // length) for i in members], dtype=np.int64)
        tensors = np.repeat(np.asarray(members, dtype=np.int32), numbers)
        first = np.zeros(len(sizes), dtype=np.int32)
        first[np.asarray(members, dtype=np.int64)] = np.cumsum(numbers) - numbers
        return Chunks(upload(torch.from_numpy(tensors), device), upload(torch.from_numpy(first), device), length, sizes)


def resident_table(
    columns: Sequence[Sequence[Tensor] | Sequence[int] | None],
    sizes: Sequence[int],
    device: torch.device,
    numbers: Sequence[Sequence[Tensor] | Sequence[int] | None] = (),
) -> tuple[Tensor, Tensor]:
    """(table int64 [n][columns + numbers + 1], aligned bool [n] on the host): pointers, 0 where a stream is absent, the length.

    `numbers` are columns that passes do not read: states of another extent, whose alignment does not count.
    """
    rows = np.zeros((len(sizes), len(columns) + len(numbers) + 1), dtype=np.int64)
    for index, column in enumerate((*columns, *numbers)):
        if column is not None:
            rows[:, index] = list(map(table_entry, column))
    aligned = ~(rows[:, : len(columns)] % ALIGNMENT != 0).any(axis=1)
    rows[:, -1] = sizes
    return upload(torch.from_numpy(rows), device), torch.from_numpy(aligned)


@dataclass(slots=True)
class VaryingTable:
    """Pointers of gradients and inputs, and whether all streams of a tensor are aligned: int64 [n][columns + 1]."""

    aligned: Tensor
    columns: int
    device: torch.device
    members: Sequence[int] | None = None
    _pointers: list[Sequence[int]] | None = None
    _table: Tensor | None = None
    _spare: Tensor | None = None
    _recorded: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._spare = self._pinned()

    @property
    def count(self) -> int:
        """Tensors in use."""
        return len(self.aligned) if self.members is None else len(self.members)

    def only(self, members: Sequence[int]) -> VaryingTable:
        """A table of its own for some tensors, with the others' rows unused."""
        return VaryingTable(self.aligned, self.columns, self.device, list(members))

    def of(self, columns: Sequence[Column]) -> Tensor:
        """The table for these tensors, those of `members`, on the device; uploaded again only if one of them moved."""
        pointers = [addresses(column) for column in columns]
        if capturing(self.device):
            return self._record(pointers)
        if self._table is None:
            self._table = torch.empty(len(self.aligned), self.columns + 1, dtype=torch.int64, device=self.device)
        if pointers != self._pointers:
            self._table.copy_(self._fill(self._pinned(), pointers), non_blocking=True)
            self._pointers = [copy(column) for column in pointers]
        return self._table

    def _record(self, pointers: Sequence[Sequence[int]]) -> Tensor:
        """A graph copies from the same buffers at every replay: they are its own, and are kept as long as this table."""
        staging = self._spare if self._spare is not None else self._pinned()
        self._spare = None
        table = torch.empty(len(self.aligned), self.columns + 1, dtype=torch.int64, device=self.device)
        table.copy_(self._fill(staging, pointers), non_blocking=True)
        self._recorded.append((staging, table))
        return table

    def _pinned(self) -> Tensor:
        shape = len(self.aligned), self.columns + 1
        return torch.empty(shape, dtype=torch.int64, pin_memory=self.device.type != "cpu")

    def _fill(self, staging: Tensor, pointers: Sequence[Sequence[int]]) -> Tensor:
        rows = staging.numpy()
        members = slice(None) if self.members is None else self.members
        for index, column in enumerate(pointers):
            rows[members, index] = column
        misplaced = (rows[:, : self.columns] % ALIGNMENT != 0).any(axis=1)
        rows[:, self.columns] = self.aligned.numpy() & ~misplaced
        return staging
