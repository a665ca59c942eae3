"""Parameters that are divided among processes: what one process has of each, and of the tensors that belong to it.

FSDP2 and tensor parallelism divide parameters as DTensors. Kernels work on what lies here; what is measured over a parameter is
joined by `exchange.py`. States per element are divided as their parameter is. States per row, column, matrix or tensor, which
are small, are the same on all processes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from optc.runtime.schema import Schema

Group: TypeAlias = Any
"""A process group."""


class Runs(NamedTuple):
    """Elements by their numbers: from `first` on, or runs of `length` that begin every `step` elements, where that is not 0."""

    first: int
    length: int = 0
    step: int = 0


@dataclass(frozen=True, slots=True)
class Shard:
    """What this process has of a parameter of shape `shape`: a box of `size` elements from `offset` on, in each dimension.

    `groups`: the elements are divided among the processes of each of these groups, one after the other, which talk through
    memory of `device`. The elements of a box are runs of elements that follow one another in the parameter: a single one where
    whole rows are divided. `cuts`: the numbers of elements at which runs begin in some process, those of the first row and of
    the second one; None where runs are not evenly spaced.
    """

    shape: torch.Size
    offset: tuple[int, ...]
    size: tuple[int, ...]
    groups: tuple[Group, ...]
    device: str
    cuts: tuple[int, ...] | None

    @property
    def runs(self) -> Runs:
        """Its elements in the parameter, where their runs are evenly spaced."""
        first = 0
        for place, length in zip(self.offset, self.shape, strict=True):
            first = first * length + place
        cut = [dim for dim, length in enumerate(self.shape) if self.size[dim] < length]
        last = cut[-1] if cut else 0
        if math.prod(self.size[:last]) <= 1:
            return Runs(first)
        return Runs(first, math.prod(self.size[last:]), math.prod(self.shape[last:]))

    @property
    def numel(self) -> int:
        """How many elements are here."""
        return math.prod(self.size)


def is_divided(x: Any) -> bool:
    """Whether it is a DTensor; asks nothing of torch.distributed where that has not been imported."""
    return type(x).__name__ == "DTensor"


def local(x: Any) -> Any:
    """What of a tensor lies here: itself, unless it is a DTensor, and what is no tensor, too."""
    if not is_divided(x):
        return x
    here = x._local_tensor
    if type(here) is Tensor:  # what `to_local` gives where no gradient is asked for, at a fraction of its time
        return here
    with torch.no_grad():
        return x.to_local()


def shard_of(p: Tensor) -> Shard | None:
    """What this process has of a parameter; None where that is all. Raises ValueError for a sum that has not been made yet."""
    return _shard(p.shape, p.device_mesh, p.placements) if is_divided(p) else None  # type: ignore[attr-defined]


@cache
def _shard(shape: torch.Size, mesh: Any, placements: tuple[Any, ...]) -> Shard | None:
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if any(placement.is_partial() for placement in placements):
        raise ValueError(f"it is a sum that has not been made yet ({placements}): redistribute it")
    # not `is_shard()`: what is divided twice along one dimension says no
    dims = [d for d, placement in enumerate(placements) if not placement.is_replicate() and mesh.size(d) > 1]
    if not dims:
        return None
    size, offset = compute_local_shape_and_global_offset(shape, mesh, placements)
    groups = tuple(mesh.get_group(d) for d in dims)
    ways = [(placements[d].dim, mesh.size(d), not placements[d].is_shard()) for d in dims]
    return Shard(shape, tuple(offset), tuple(size), groups, mesh.device_type, cuts_of(shape, ways))


def cuts_of(shape: torch.Size, ways: list[tuple[int, int, bool]]) -> tuple[int, ...] | None:
    """See `Shard.cuts`.

    `ways`: a dimension, the number of parts, and whether other cuts along that dimension come first: those of later ways.
    """
    *outer, dim = sorted({dim for dim, _, _ in ways})
    if outer and math.prod(shape[: outer[-1]]) != 1:
        return None
    spans = [(0, shape[dim])]
    own = [way for way in ways if way[0] == dim]
    for _, parts, _ in [*(way for way in own if not way[2]), *reversed([way for way in own if way[2]])]:
        spans = [part for span in spans for part in _chunks(*span, parts)]
    inner = math.prod(shape[dim + 1 :])
    begins = {start * inner for start, end in spans if end > start}
    return tuple(sorted(begins if math.prod(shape[:dim]) == 1 else {*begins, shape[dim] * inner}))


def _chunks(start: int, end: int, parts: int) -> list[tuple[int, int]]:
    """As torch.chunk cuts."""
    each = -(-(end - start) // parts)
    return [(min(start + i * each, end), min(start + (i + 1) * each, end)) for i in range(parts)]


class Shards:
    """What this process has of an optimizer's parameters: of DTensors what lies here, of all others everything."""

    everywhere = False
    """Whether ordinary tensors may be divided, too."""

    def divides(self, p: Tensor) -> bool:
        """Whether what is here is another tensor than the parameter."""
        return is_divided(p)

    def shard(self, p: Tensor) -> Shard | None:
        """What is here of a parameter that other processes have parts of; None of others."""
        return shard_of(p)

    def here(self, p: Tensor) -> Tensor:
        """What is here of a parameter."""
        found: Tensor = local(p)
        return found

    def gradient(self, p: Tensor) -> Tensor | None:
        """What is here of its gradient."""
        return None if p.grad is None else self.companion(p, p.grad)

    def companion(self, p: Tensor, x: Tensor) -> Tensor:
        """What is here of a tensor that has p's shape and is divided as p is. Raises ValueError where it is not."""
        divided = is_divided(x)
        if divided and is_divided(p) and x._spec is p._spec:  # type: ignore[attr-defined]
            return cast(Tensor, local(x))
        if divided and (not is_divided(p) or x.placements != p.placements):  # type: ignore[attr-defined]
            there = p.placements if is_divided(p) else "no placements"  # type: ignore[attr-defined]
            raise ValueError(f"a tensor for it is placed by {x.placements}, the parameter by {there}: redistribute it")  # type: ignore[attr-defined]
        found: Tensor = local(x)
        return found

    def kept(self, p: Tensor, entry: Tensor) -> Tensor:
        """What the state of a parameter has of a tensor per element."""
        return like(p, entry) if is_divided(p) else entry

    def cut(self, schema: Schema, group: Mapping[str, Any]) -> None:
        """Decides who has what of a group of an optimizer that is new, or has new parameters."""

    def settle(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """What is to be done when parameters have been updated."""

    def refuse(self, groups: Sequence[Mapping[str, Any]]) -> bool:
        """Tells processes that would wait in `settle` for this one that it cannot do a step; False if none would."""
        return False


PLACEMENTS = Shards()


def like(p: Tensor, here: Tensor) -> Tensor:
    """A tensor in p's shape of which every process has `here`, divided as p is: a DTensor where p is one."""
    if not is_divided(p):
        return here
    from torch.distributed.tensor import DTensor

    mesh, placements = p.device_mesh, p.placements  # type: ignore[attr-defined]
    return DTensor.from_local(here, mesh, placements, run_check=False, shape=p.shape, stride=p.stride())
