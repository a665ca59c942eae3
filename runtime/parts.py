"""Parts of tensors that belong to divided parameters: where they are in the whole, and a form that torch.distributed.checkpoint
saves and loads, whatever the number of processes then is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optc.runtime.codebook import Codebook
from optc.runtime.schema import PER_ELEMENT, Extent
from optc.runtime.sharding import Shard
from optc.runtime.storage import codes_shape


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part is in a whole, which is cut in this shape.

    `elements`: these are the parameter's, whose shape the whole has. `flat`: the whole has one dimension, and so has what is
    here. `ones`: all values are 1, and so the parts overlap.
    """

    shape: tuple[int, ...]
    offset: tuple[int, ...]
    size: tuple[int, ...]
    elements: bool = False
    flat: bool = False
    ones: bool = False

    @property
    def here(self) -> tuple[int, ...]:
        """The shape of what is here."""
        return (math.prod(self.size),) if self.flat else self.size

    def whole(self, p: Tensor) -> tuple[int, ...]:
        """The shape of the whole, which belongs to a parameter."""
        return tuple(p.shape) if self.elements else (math.prod(self.shape),) if self.flat else self.shape

    @property
    def box(self) -> tuple[slice, ...]:
        """The part's elements in the shape in which the whole is cut."""
        return box_of(self.offset, self.size)

    def of(self, whole: Tensor) -> Tensor:
        """What is here of the whole: a copy where it is not in one piece."""
        return whole.reshape(self.shape)[self.box].reshape(self.here)

    def spans(self) -> Iterator[tuple[int, int]]:
        """Where the runs of the part begin in the whole, and where they end, in numbers of elements."""
        yield from _spans(self.shape, self.offset, self.size)


def box_of(offset: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    """The elements of a box, as an index."""
    return tuple(slice(at, at + length) for at, length in zip(offset, size, strict=True))


def place_of(extent: Extent, book: Codebook | None, is_scale: bool, period: int, shard: Shard) -> Place | None:
    """Where what lies here of a state is; None where that is all, as of rows, columns and numbers.

    `book`: what its codes mean; with `is_scale` the place is that of their scales. Every `period`-th element is picked.
    """
    if extent not in PER_ELEMENT:
        return None
    if is_scale and book is not None and not book.scaled:
        return Place((book.blocks_of(shard.shape.numel()),), (0,), (book.blocks_of(shard.numel),), ones=True)
    if is_scale and book is not None:
        return _interval(shard, book.block, book.blocks_of)
    if extent == "pick":
        return _interval(shard, period, lambda numel: -(-numel // period))
    if book is not None and book.per_byte > 1:
        return _interval(shard, book.per_byte, lambda numel: codes_shape(book, (numel,))[0])
    return elements_of(shard)


def elements_of(shard: Shard) -> Place:
    """Where the elements are that are here."""
    return Place(tuple(shard.shape), shard.offset, shard.size, elements=True)


def _interval(shard: Shard, each: int, length: Callable[[int], int]) -> Place:
    """Of what has one value for `each` elements; `length` says how many values so many elements have."""
    (first, run, step), numel = shard.runs, shard.shape.numel()
    if not step:
        return Place((length(numel),), (first // each,), (length(shard.numel),), flat=True)
    row, column = divmod(first, step)
    return Place((numel // step, length(step)), (row, column // each), (shard.numel // max(run, 1), length(run)), flat=True)


def _spans(shape: Sequence[int], offset: Sequence[int], size: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where the runs of a box begin, and where they end."""
    if not math.prod(size):
        return
    last = max((dim for dim, length in enumerate(shape) if size[dim] < length), default=0)
    inner = math.prod(shape[last + 1 :])
    begins = [0]
    for length, at, many in zip(shape[:last], offset, size, strict=False):
        begins = [begin * length + place for begin in begins for place in range(at, at + many)]
    begin, length = (offset[last], size[last]) if shape else (0, 1)
    row = shape[last] if shape else 1
    yield from (((start * row + begin) * inner, (start * row + begin + length) * inner) for start in begins)


def boxes(shape: Sequence[int], start: int, end: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(offset, size) of boxes that are, one after the other, the elements from `start` to before `end` of a shape.

    At most 2n - 1 of them in n dimensions: the rest of a row, whole rows, the beginning of a row, and so on within these.
    """
    if not shape:
        return [((), ())] if end > start else []
    inner = math.prod(shape[1:])
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    while start < end:
        row, within = divmod(start, inner)
        rows = (end - start) // inner if within == 0 else 0
        if rows:
            found.append(((row, *[0] * (len(shape) - 1)), (rows, *shape[1:])))
            start += rows * inner
            continue
        stop = min(end, (row + 1) * inner)
        of_row = boxes(shape[1:], within, within + stop - start)
        found += [((row, *offset), (1, *size)) for offset, size in of_row]
        start = stop
    return found


class Part(Tensor):
    """What one process has of a tensor of shape `whole`, and where: its pieces follow one another in memory.

    As with a DTensor, its shape is that of the whole; to operations it is the tensor that is here. It has the protocol by which
    torch.distributed.checkpoint finds the pieces of all processes.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    whole: torch.Size
    place: Place

    @staticmethod
    def of(here: Tensor, place: Place, whole: Sequence[int]) -> Part:
        """What is at a place, of a tensor of this shape, in which the elements have the order that the place says."""
        part = Tensor._make_subclass(Part, here.detach().contiguous())
        part.whole, part.place = torch.Size(whole), place
        return part

    @property
    def pieces(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """(offset, size) of the boxes that are here: one, unless the whole has another shape than it was cut in."""
        place = self.place
        if self.whole == place.shape:
            return [(place.offset, place.size)] if math.prod(place.size) else []
        return [box for start, end in place.spans() for box in boxes(self.whole, start, end)]

    @property
    def here(self) -> Tensor:
        """What is here, as an ordinary tensor."""
        return self.as_subclass(Tensor)

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        """That of the whole."""
        return self.whole

    def size(self, dim: Any = None) -> Any:
        """That of the whole."""
        return self.whole if dim is None else self.whole[dim]

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "this state dict has what one process has of an optimizer that is divided among several: save it with "
            "optc.dist.save or torch.distributed.checkpoint, or make a whole one with optc.dist.full_state_dict"
        )

    def views(self) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """The pieces with their offsets."""
        flat, at = self.here.view(-1), 0
        for offset, size in self.pieces:
            length = math.prod(size)
            yield offset, flat[at : at + length].view(size)
            at += length

    # --- as torch.distributed.checkpoint asks ---------------------------------------------------------------------------------

    def __create_write_items__(self, fqn: str, part: Any) -> list[Any]:
        from torch.distributed.checkpoint.metadata import MetadataIndex, TensorProperties
        from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

        properties = TensorProperties.create_from_tensor(self.here)
        return [
            WriteItem(
                index=MetadataIndex(fqn, chunk.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk=chunk, properties=properties, size=self.whole),
            )
            for chunk in self.__create_chunk_list__()
        ]

    def __create_chunk_list__(self) -> list[Any]:
        from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

        return [ChunkStorageMetadata(offsets=torch.Size(offset), sizes=torch.Size(size)) for offset, size in self.pieces]

    def __get_tensor_shard__(self, index: Any) -> Tensor:
        for offset, piece in self.views():
            if index.offset is not None and tuple(index.offset) == offset:
                return piece
        raise ValueError(f"no part of {index.fqn} begins at {index.offset}")


def in_rows(x: Tensor, shape: Sequence[int]) -> Tensor:
    """A vector that belongs to a parameter of this shape, in rows as the parameter has them, if it has as much for each.

    So parts of columns are one piece of it. Everything else is left as it is; memory is shared.
    """
    folded = rows_of(x.shape, shape)
    if folded is None:
        return x
    return Part.of(x.here, x.place, folded) if isinstance(x, Part) else x.view(folded)


def rows_of(own: Sequence[int], shape: Sequence[int]) -> tuple[int, int] | None:
    """The shape of these rows; None where there are none."""
    rows = math.prod(shape[:-1])
    if len(own) != 1 or len(shape) < 2 or not rows or not own[0] or own[0] % rows:
        return None
    return rows, own[0] // rows
