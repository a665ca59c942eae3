"""Signs that are kept as bits, in kernels that know rows: how tiles read and write them (`runtime/gpu_signs.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from optc.compiler.backends.triton.kept import When
from optc.compiler.conditions import both, opposite
from optc.compiler.plan import Kernel, Stream
from optc.compiler.storing import out_of_order
from optc.dsl.program import TRUE, Expression

_TILE = "at, width, ROWS, COLUMNS"


@dataclass(frozen=True, slots=True)
class Signs:
    """One stream: the names of its value and of the pointer to its first byte, or to its first number where it has no bits."""

    stream: Stream
    value: str
    pointer: str

    def load(self, when: When) -> Iterator[str]:
        """The numbers of a tile."""
        exists, coded = self.stream.exists, self._coded
        bits = f"gpu_signs.unpack({self.pointer}, at, width, mask, ROWS, COLUMNS)"
        yield from when(both(exists, coded), f"{self.value} = {bits}.to(real)")
        if coded != TRUE:
            plain = f"tl.load({self.pointer} + gpu_signs.places({_TILE}, 1), mask)"
            yield from when(both(exists, opposite(coded)), f"{self.value} = {plain}.to(real)")

    def store(self, condition: Expression, number: str, when: When) -> Iterator[str]:
        """What was written, `number` being its value for every element of the tile."""
        coded = self._coded
        yield from when(both(condition, coded), f"gpu_signs.pack({number}, {self.pointer}, at, width, mask, ROWS, COLUMNS)")
        if coded != TRUE:
            plain = f"tl.store({self.pointer} + gpu_signs.places({_TILE}, 1), {number}, mask)"
            yield from when(both(condition, opposite(coded)), plain)

    @property
    def _coded(self) -> Expression:
        return TRUE if self.stream.coded is None else self.stream.coded


def keeps_signs(kernel: Kernel, stream: Stream) -> bool:
    """Whether a stream of a kernel is kept so."""
    one_bit = stream.coded is not None and stream.storage is not None and stream.storage.bits == 1
    return one_bit and out_of_order(kernel) and kernel.pick is None


def tile_parameters(signs: Mapping[str, Signs]) -> list[str]:
    """What a tile is given for its signs."""
    return ["at: tl.tensor", "width: tl.tensor", "ROWS: tl.constexpr", "COLUMNS: tl.constexpr"] if signs else []


def in_panel(signs: Mapping[str, Signs]) -> list[str]:
    """The same in a call for rows and columns."""
    return ["at", "width", "ROWS", "COLUMNS"] if signs else []


def in_chunk(signs: Mapping[str, Signs], first: str, size: str) -> list[str]:
    """The same in a call for elements in a row, from `first` of the chunk on."""
    return [f"base + {first}", "0", "0", size] if signs else []
