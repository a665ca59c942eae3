"""Extents and types: where a value varies, whether the host knows it, whether it selects code."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Extent(Enum):
    """Where a value varies, narrowest first: one value for every model, group, tensor, …, element.

    `model ⊂ group ⊂ tensor ⊂ matrix ⊂ row, col ⊂ elem`; `row` joined with `col` is `elem`.
    """

    MODEL = "model"
    GROUP = "group"
    TENSOR = "tensor"
    MATRIX = "matrix"
    ROW = "row"
    COL = "col"
    ELEM = "elem"

    def join(self, other: Extent) -> Extent:
        """The smallest extent that holds both."""
        if self is other:
            return self
        if {self, other} == {Extent.ROW, Extent.COL}:
            return Extent.ELEM
        return self if _RANK[self] > _RANK[other] else other

    def within(self, other: Extent) -> bool:
        """Whether a value of this extent broadcasts to `other`."""
        return self.join(other) is other


_RANK = {
    Extent.MODEL: 0,
    Extent.GROUP: 1,
    Extent.TENSOR: 2,
    Extent.MATRIX: 3,
    Extent.ROW: 4,
    Extent.COL: 4,
    Extent.ELEM: 5,
}


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
