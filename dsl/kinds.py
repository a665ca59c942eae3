"""Extents and types: where a value varies, whether the host knows it, whether it selects code."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum


class Extent(Enum):
    """Where a value varies, narrowest first: one value for every model, group, tensor, …, element.

    `model ⊂ group ⊂ tensor ⊂ matrix ⊂ row, col ⊂ elem`; `row` joined with `col` is `elem`. `pick` is every p-th element of the
    flattened tensor, with the p of the program; it combines with `tensor` or less alone.
    """

    MODEL = "model"
    GROUP = "group"
    TENSOR = "tensor"
    MATRIX = "matrix"
    ROW = "row"
    COL = "col"
    PICK = "pick"
    ELEM = "elem"

    def join(self, other: Extent) -> Extent:
        """The smallest extent that holds both, if they combine."""
        if self is other:
            return self
        if {self, other} == {Extent.ROW, Extent.COL}:
            return Extent.ELEM
        return self if _RANK[self] > _RANK[other] else other

    def within(self, other: Extent) -> bool:
        """Whether a value of this extent broadcasts to `other`."""
        return self.join(other) is other and self.combines(other)

    def combines(self, other: Extent) -> bool:
        """Whether values of these extents can be combined: picked elements meet nothing else that differs within a tensor."""
        return self is other or Extent.PICK not in (self, other) or bool({self, other} & SCALARS)

    def varies(self, ndim: int) -> tuple[bool, ...]:
        """For each dimension of a tensor, whether a value of this extent varies along it.

        Rows lie along the last dimension, columns along the one before it; leading dimensions count matrices.
        """
        leading = ndim - len(_LAST[self])
        return (*(self not in SCALARS,) * leading, *_LAST[self]) if leading >= 0 else (True,) * ndim

    def shape(self, shape: tuple[int, ...], p: int = 1) -> tuple[int, ...]:
        """The shape of a value for a tensor of shape `shape`: its dimensions, () for one number, one for picked elements."""
        if self in SCALARS:
            return ()
        if self is Extent.PICK:
            return (-(-math.prod(shape) // p),)
        return tuple(size if varies else 1 for size, varies in zip(shape, self.varies(len(shape)), strict=True))


_RANK = {
    Extent.MODEL: 0,
    Extent.GROUP: 1,
    Extent.TENSOR: 2,
    Extent.MATRIX: 3,
    Extent.ROW: 4,
    Extent.COL: 4,
    Extent.PICK: 4,
    Extent.ELEM: 5,
}

SCALARS = frozenset({Extent.MODEL, Extent.GROUP, Extent.TENSOR})
"""Extents of one number per tensor, or fewer."""

PER_ELEMENT = frozenset({Extent.ELEM, Extent.PICK})
"""Extents of code that moves through a tensor's memory: all elements of it, or every p-th."""

IN_MATRICES = frozenset({Extent.MATRIX, Extent.ROW, Extent.COL})
"""Extents that only tensors of two dimensions or more have."""

_LAST = dict.fromkeys(Extent, ()) | {Extent.MATRIX: (False, False), Extent.ROW: (True, False), Extent.COL: (False, True)}


class Sort(Enum):
    """What a value is. CHOICE values (texts, `none`) only exist statically, to be compared."""

    REAL = "real"
    BOOL = "bool"
    CHOICE = "choice"


@dataclass(frozen=True, slots=True)
class Type:
    """`host`: known on the host before the step, computed in float64. `static`: selects a variant of the code; implies host."""

    sort: Sort
    extent: Extent
    host: bool = False
    static: bool = False

    def __str__(self) -> str:
        words = [self.extent.value, self.sort.value]
        if self.static:
            words.insert(0, "static")
        elif self.host:
            words.insert(0, "host")
        return " ".join(words)
