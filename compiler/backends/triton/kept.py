"""Streams that are kept as codes: what their tiles are given, and how they are read and written (`runtime/gpu_codes.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from optc.compiler.backends.exprs import python_number
from optc.compiler.conditions import both, opposite
from optc.compiler.storing import Coded, book_of, codebook, scales_of
from optc.dsl.program import TRUE, Expression, Storage

CODES_LOCALS = frozenset({"first", "count", "SIZE"})
"""Names in kernels and tiles that have codes."""

When = Callable[[Expression, str], Iterator[str]]
"""A line under a condition over flags."""


@dataclass(frozen=True, slots=True)
class Codes:
    """One stream: the names of its value, of its pointer, also where it is aligned, of its scales and of its codebook."""

    coded: Coded
    value: str
    pointer: str
    aligned: str
    scales: str
    book: str

    def pointer_lines(self, resident: Sequence[str]) -> list[str]:
        """Where the scales and the codebook are, by the columns of the table."""
        stream = self.coded.stream
        kinds = (self.scales, scales_of(stream), "float32"), (self.book, book_of(stream), "int32")
        return [
            f"{name} = tl.load(resident + {resident.index(row)}).to(tl.pointer_type(tl.{kind}))" for name, row, kind in kinds
        ]

    def chunk_lines(self, condition: Callable[[Expression], str], plain: str) -> list[str]:
        """From the beginning of the tensor to that of the chunk; `plain`: the hint where it is no codes."""
        bits, when = codebook(self.coded.storage).bits, self.coded.when
        start = "base" if bits == 8 else f"base // {8 // bits}"
        address = f"{self.pointer} + {start}"  # a byte of bits is more than a lane
        coded = [
            f"{self.aligned} = " + (f"tl.multiple_of({self.pointer} + {start}, LANES * {bits} // 8)" if bits > 1 else address),
            f"{self.pointer} = {self.pointer} + {start}",
            f"{self.scales} = {self.scales} + base // {self.coded.storage.block}",
        ]
        if when == TRUE:
            return coded
        numbers = [plain, f"{self.pointer} = {self.pointer} + base"]
        head = f"if {condition(when)}:"
        return [head, *(f"    {line}" for line in coded), "else:", *(f"    {line}" for line in numbers)]

    def load(self, when: When) -> Iterator[str]:
        """The numbers of a tile."""
        storage, exists, coded = self.coded.storage, self.coded.stream.exists, self.coded.when
        places = f"{self.pointer}, {self.scales}, {self.book}, first, count"
        call = f"gpu_codes.decode({places}, {codebook(storage).bits}, {_block(storage)}, SIZE, mask is None)"
        yield from when(both(exists, coded), f"{self.value} = {call}.to(real)")
        if coded != TRUE:
            plain = f"tl.load({self.pointer} + first + tl.arange(0, SIZE), mask)"
            yield from when(both(exists, opposite(coded)), f"{self.value} = {plain}.to(real)")

    def store(self, condition: Expression, when: When, dither: str | None = None) -> Iterator[str]:
        """What was written; `dither`: by what codes are rounded at random."""
        storage, coded = self.coded.storage, self.coded.when
        book = codebook(storage)
        number = f"tl.broadcast_to({self.value}, (SIZE,)).to(tl.float32)"
        places = f"{self.pointer}, {self.scales}, {self.book}, first, count"
        table = f"{book.bits}, {_block(storage)}, {book.shift}, {book.base}, {book.buckets}"
        scale = f"{python_number(storage.unit)}, {python_number(storage.least)}"
        at_random = "" if dither is None else f", {dither}.to(tl.float32)"
        call = f"gpu_codes.encode({number}, {places}, {table}, {scale}, SIZE, mask is None{at_random})"
        yield from when(both(condition, coded), call)
        if coded != TRUE:
            plain = f"tl.store({self.pointer} + first + tl.arange(0, SIZE), {self.value}, mask)"
            yield from when(both(condition, opposite(coded)), plain)


def _block(storage: Storage) -> int:
    """Numbers that share a scale; 0 where all scales are 1."""
    return 0 if storage.fixed else storage.block


def tile_parameters(codes: Mapping[str, Codes]) -> list[str]:
    """What a tile is given for its codes."""
    if not codes:
        return []
    pointers = [name for one in codes.values() for name in (one.scales, one.book)]
    return [*(f"{name}: tl.tensor" for name in (*pointers, "first", "count")), "SIZE: tl.constexpr"]


def tile_arguments(codes: Mapping[str, Codes], first: str, end: str, size: str) -> list[str]:
    """The same in a call, for the tile that begins at `first`."""
    if not codes:
        return []
    return [*(name for one in codes.values() for name in (one.scales, one.book)), first, f"{end} - ({first})", size]
