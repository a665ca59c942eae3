"""Streams that are kept as codes: decoded before a loop over a piece of elements, encoded behind it (`runtime/codes.hpp`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from optc.compiler.backends.exprs import python_number
from optc.compiler.backends.native.lines import Lines, Names
from optc.compiler.conditions import FALSE, both, written_when
from optc.compiler.plan import Kernel, Stream
from optc.compiler.storing import book_name, book_of, codebook, coded_streams, rows, scales_of
from optc.dsl.program import ELEMENT, TRUE, Apply, Statement, Storage

CODES_NAMES = frozenset("Kept piece_of codes".split())
"""What `codes.hpp` means something else by."""
_DRAWN = "256"
"""Elements whose random numbers are drawn at a time, at least; a multiple of TERMS in `reductions.hpp`."""
_TYPES = {"float64": "fp64", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def book_type(storage: Storage) -> str:
    """The struct that describes a storage's codes."""
    return book_name(storage).lower()


def books_taken(kernel: Kernel) -> set[str]:
    """Names of structs."""
    return {book_type(coded.storage) for coded in coded_streams(kernel)}


def row_type(stream: Stream, usual: str) -> str:
    """The C++ type of a stream's numbers in memory."""
    dtype = None if stream.storage is None else stream.storage.dtype
    return usual if dtype is None else _TYPES[dtype]


def book_structs(kernel: Kernel) -> list[str]:
    """What the text says of each storage, before its functions."""
    return structs_of(coded.storage for coded in coded_streams(kernel))


def structs_of(storages: Iterable[Storage]) -> list[str]:
    """The same of storages, each once."""
    lines: list[str] = []
    for storage in dict.fromkeys(storages):
        book = codebook(storage)
        geometry = f"bits = {book.bits}, shift = {book.shift}, base = {book.base}, buckets = {book.buckets}"
        lines += [
            f"struct {book_type(storage)} {{",
            f"    static constexpr int {geometry};",
            f"    static constexpr int64_t block = {book.together if storage.fixed else storage.block};",
            f"    static constexpr bool scaled = {str(book.scaled).lower()};",
            f"    static constexpr float unit = {python_number(storage.unit)}f, least = {python_number(storage.least)}f;",
            "};",
        ]
    return lines


def piece_constant(kernel: Kernel, names: Names, lines: Lines, draws: bool) -> list[str]:
    """How many elements are decoded at a time, or have their random numbers drawn if `draws`."""
    found = [(c.when, codebook(c.storage).together if c.storage.fixed else c.storage.block) for c in coded_streams(kernel)]
    blocks = dict.fromkeys(
        f"{lines.expression(when, 11)} ? {block} : 0" if when != TRUE else str(block) for when, block in found
    )
    if not blocks:
        return [f"constexpr int64_t PIECE = {_DRAWN};"] if draws else []
    return [f"constexpr int64_t PIECE = piece_of({', '.join([*blocks, _DRAWN] if draws else blocks)});"]


def dither_argument(stream: Stream, names: Names, lines: Lines) -> str:
    """What rounds the codes of a stream at random; nothing where none are."""
    if not isinstance(stream.dither, Apply):
        return ""
    given = ", ".join(map(lines.expression, stream.dither.arguments[1:]))
    return f", Dither{{{names.beside(ELEMENT.name, 'at')}, Draw({given})}}"


class Codes:
    """The coded streams of one function."""

    def __init__(
        self, kernel: Kernel, streams: Sequence[Stream], body: Sequence[Statement], names: Names, lines: Lines
    ) -> None:
        self._row = {s.name: row for row, s in enumerate(rows(kernel))}
        names_here = {s.name for s in streams}
        self._streams = [coded for coded in coded_streams(kernel) if coded.stream.name in names_here]
        self._body, self._names, self._lines = tuple(body), names, lines

    def declared(self) -> list[str]:
        """An object per stream."""
        found = []
        for coded in self._streams:
            s, condition = coded.stream, both(coded.stream.exists, coded.when)  # an absent stream is a null pointer
            when = "true" if condition == TRUE else self._lines.expression(condition, 11)
            places = ", ".join(str(self._row[name]) for name in (s.name, scales_of(s), book_of(s)))
            found.append(f"Kept<{book_type(coded.storage)}, {when}, PIECE> {self._kept(s)}(chunk, {places});")
        return found

    def opened(self) -> list[str]:
        """Where the numbers of a piece are."""
        at = [(self._names.beside(c.stream.name, "at"), self._kept(c.stream)) for c in self._streams]
        return [f"auto* __restrict {name} = {kept}.open(piece, piece_end);" for name, kept in at]

    def closed(self) -> list[str]:
        """What was written is encoded; what was not stays as it is, or it would drift."""
        found = []
        for s in (coded.stream for coded in self._streams):
            written = written_when(self._body, s.name)
            if written != FALSE:
                guard = both(s.exists, written)
                call = f"{self._kept(s)}.close(piece, piece_end{dither_argument(s, self._names, self._lines)});"
                found.append(call if guard == TRUE else f"if ({self._lines.expression(guard)}) {call}")
        return found

    def _kept(self, stream: Stream) -> str:
        return self._names.beside(stream.name, "kept")
