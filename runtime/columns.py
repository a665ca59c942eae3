"""Columns: the gradients or an input of a batch, a tensor per parameter; kernels that take pointers need no tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, overload

import torch
from torch import Tensor

Column: TypeAlias = Sequence[Tensor]
Columns: TypeAlias = Mapping[str, Column]


@dataclass(frozen=True, slots=True)
class Gradients(Sequence[Tensor]):
    """Gradients known by their addresses alone. The tensors are asked for when somebody reads them, which costs far more."""

    parameters: Sequence[Tensor]
    places: Sequence[int]

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        gradient = self.parameters[index].grad
        if gradient is None:
            raise RuntimeError("a gradient was taken away while a step used it: keep other threads off until step() returns")
        return gradient

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))


def addresses(column: Column) -> Sequence[int]:
    """Where the elements of each tensor begin."""
    return column.places if isinstance(column, Gradients) else list(map(torch.Tensor.data_ptr, column))


def chosen(column: Column, pick: Sequence[int]) -> Column:
    """Some tensors of a column."""
    if isinstance(column, Gradients):
        return Gradients([column.parameters[i] for i in pick], [column.places[i] for i in pick])
    return [column[i] for i in pick]
