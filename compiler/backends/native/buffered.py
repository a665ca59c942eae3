"""Streams that are kept as codes, in kernels that know rows and columns: decoded into a buffer for a piece, encoded behind it.

See `runtime/signs.hpp` and `runtime/row_codes.hpp`.
"""

from __future__ import annotations

from collections.abc import Sequence

from optc.compiler.backends.native.kept import CODES_NAMES, book_type, dither_argument, structs_of
from optc.compiler.backends.native.lines import Lines, Names
from optc.compiler.conditions import FALSE, both, written_when
from optc.compiler.plan import Kernel, Stream
from optc.compiler.storing import book_of, rows, scales_of
from optc.dsl.program import TRUE, Expression, Statement, Storage

_SIGNS = "Signs eight_signs unpack_signs put_some pack_signs signs_of above_zero Octet OctetOfBytes OctetOfNumbers"
_CODES = "RowCodes decode_run"


def buffered(kernel: Kernel) -> dict[str, Storage]:
    """The streams of a kernel that some variant keeps so, by name."""
    found = ((s.name, s.storage) for s in kernel.streams if s.coded is not None)
    return {name: storage for name, storage in found if storage is not None} if kernel.pick is None else {}


def buffer_names(kernel: Kernel) -> frozenset[str]:
    """What the text of such a kernel means something else by."""
    storages = buffered(kernel).values()
    books = {book_type(storage) for storage in storages}
    return frozenset((*_SIGNS.split(), *_CODES.split())) | CODES_NAMES | books if storages else frozenset()


def buffered_structs(kernel: Kernel) -> list[str]:
    """What the text says of each storage, before its functions."""
    return structs_of(storage for storage in buffered(kernel).values() if storage.bits > 1)


class Buffers:
    """Those of one function."""

    def __init__(
        self, kernel: Kernel, streams: Sequence[Stream], body: Sequence[Statement], names: Names, lines: Lines
    ) -> None:
        self._storages = buffered(kernel)
        self._streams = [s for s in streams if s.name in self._storages]
        self._rows = {s.name: row for row, s in enumerate(rows(kernel))}
        self._body, self._names, self._lines = tuple(body), names, lines

    def holders(self) -> list[str]:
        """A buffer per stream, and where its elements are."""
        found = []
        for s in self._streams:
            storage = self._storages[s.name]
            coded = "true" if s.coded in (None, TRUE) else self._lines.expression(s.coded, 11)
            kept, at, row = self._kept(s), self._names.beside(s.name, "at"), self._rows[s.name]
            if storage.bits == 1:
                found.append(f"Signs<by_rows, {coded}> {kept}(chunk, {row});")
            else:
                places = f"{row}, {self._rows[scales_of(s)]}, {self._rows[book_of(s)]}"
                found.append(f"RowCodes<{book_type(storage)}, by_rows, {coded}> {kept}(chunk, {places});")
            found.append(f"math_t* __restrict {at} = {kept}.each;")
        return found

    def opened(self) -> list[str]:
        """Before a piece."""
        return [self._guarded(s.exists, f"{self._kept(s)}.open(piece);") for s in self._streams]

    def closed(self) -> list[str]:
        """Behind it, where the body writes: what it leaves alone would drift."""
        written = [(s, written_when(self._body, s.name)) for s in self._streams]
        return [
            self._guarded(both(s.exists, when), f"{self._kept(s)}.close(piece{dither_argument(s, self._names, self._lines)});")
            for s, when in written
            if when != FALSE
        ]

    def _guarded(self, when: Expression, call: str) -> str:
        return call if when == TRUE else f"if ({self._lines.expression(when)}) {call}"

    def _kept(self, stream: Stream) -> str:
        return self._names.beside(stream.name, "kept")
