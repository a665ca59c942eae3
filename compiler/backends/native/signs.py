"""Signs that are kept as bits, in kernels that know rows and columns: a buffer per piece (`runtime/signs.hpp`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optc.compiler.backends.native.lines import Lines, Names
from optc.compiler.conditions import FALSE, both, written_when
from optc.compiler.plan import Stream
from optc.dsl.program import TRUE, Expression, Statement

SIGNS_NAMES = frozenset(
    "Signs eight_signs unpack_signs put_some pack_signs signs_of above_zero Octet OctetOfBytes OctetOfNumbers".split()
)
"""What `signs.hpp` means something else by."""


def signs_in(streams: Sequence[Stream]) -> list[Stream]:
    """The streams that some variant keeps so."""
    return [s for s in streams if s.coded is not None and s.storage is not None and len(s.storage.levels) == 2]


class Signs:
    """Those of one function."""

    def __init__(
        self, streams: Sequence[Stream], rows: Mapping[str, int], body: Sequence[Statement], names: Names, lines: Lines
    ) -> None:
        self._streams, self._rows, self._body = signs_in(streams), rows, tuple(body)
        self._names, self._lines = names, lines

    def holders(self) -> list[str]:
        """A buffer per stream, and where its elements are."""
        found = []
        for s in self._streams:
            coded = "true" if s.coded in (None, TRUE) else self._lines.expression(s.coded, 11)
            kept, at = self._kept(s), self._names.beside(s.name, "at")
            found += [
                f"Signs<by_rows, {coded}> {kept}(chunk, {self._rows[s.name]});",
                f"math_t* __restrict {at} = {kept}.each;",
            ]
        return found

    def opened(self) -> list[str]:
        """Before a piece."""
        return [self._guarded(s.exists, f"{self._kept(s)}.open(piece);") for s in self._streams]

    def closed(self) -> list[str]:
        """Behind it, where the body writes."""
        written = [(s, written_when(self._body, s.name)) for s in self._streams]
        return [self._guarded(both(s.exists, when), f"{self._kept(s)}.close(piece);") for s, when in written if when != FALSE]

    def _guarded(self, when: Expression, call: str) -> str:
        return call if when == TRUE else f"if ({self._lines.expression(when)}) {call}"

    def _kept(self, stream: Stream) -> str:
        return self._names.beside(stream.name, "kept")
