"""States that are kept in memory as something else than the numbers that a step computes with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from optc.compiler.conditions import both
from optc.compiler.plan import Kernel, Stream
from optc.dsl.errors import OptcError
from optc.dsl.kinds import IN_MATRICES, Extent, Sort, Type
from optc.dsl.program import ELEMENT, TRUE, Apply, Constant, Expression, Program, Read, Role, State, Storage, Symbol
from optc.runtime.codebook import Codebook, table

_SHAPE = Type(Sort.REAL, Extent.TENSOR, host=True, static=True)
_CONDITION = Type(Sort.BOOL, Extent.TENSOR, host=True, static=True)
_COUNT = Type(Sort.REAL, Extent.MODEL, host=True, static=True)


def coded_when(state: State) -> Expression | None:
    """The condition, over shapes, under which a state is kept as codes; None where it never is."""
    storage = state.storage
    if storage is None or storage.dtype is not None:
        return None
    if storage.smallest < 1:
        return TRUE
    numel = Read(Symbol(Role.SHAPE, "numel"), _SHAPE)
    return Apply("ge", (numel, Constant(storage.smallest, _COUNT)), _CONDITION)


def books_of(program: Program) -> tuple[Storage, ...]:
    """The storages of a program that are codes, each once."""
    found = (s.storage for s in program.states if s.storage is not None and s.storage.dtype is None)
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Codes:
    """What kernels must know of a codebook: bits of a code, the table of nearest levels, and how many numbers are encoded
    together, `scaled` by a scale of their own or not (see `optc.runtime.codebook`).
    """

    bits: int
    shift: int
    base: int
    buckets: int
    together: int
    scaled: bool


def codebook(storage: Storage) -> Codes:
    """That of a storage. Raises OptcError where its levels are too close together for the table."""
    book = Codebook(
        storage.name, storage.levels, storage.block, ties(storage), storage.unit, storage.least, storage.smallest, storage.fixed
    )
    try:
        found = table(book)
    except ValueError as error:
        raise OptcError(str(error)) from error
    return Codes(book.bits, found.shift, found.base, found.buckets, book.together, book.scaled)


def ties(storage: Storage) -> Literal["up", "down", "even"]:
    """Which of two levels that are equally near is taken."""
    known: dict[str, Literal["up", "down", "even"]] = {"up": "up", "down": "down", "even": "even"}
    return known[storage.ties]


def book_name(storage: Storage) -> str:
    """What a generated module calls what the codes of a storage mean."""
    return re.sub(r"\W+", "_", storage.name).strip("_").upper() + "_CODES"


def storage_text(storage: Storage) -> str:
    """A storage in the schema of a generated module."""
    return book_name(storage) if storage.dtype is None else f'"{storage.dtype}"'


def rows(kernel: Kernel) -> tuple[Stream, ...]:
    """What tables of pointers hold: the streams, how elements are numbered behind the number of the first, which is the last of
    them, then for each stream that is kept as codes its scales and the table of its codes.
    """
    found = list(kernel.streams)
    if found and found[-1].role is Role.ELEMENT:
        found += [Stream(name, role, True, False, TRUE) for name, role in RUNS]
    for stream in kernel.streams:
        if stream.coded is not None:
            exists = both(stream.exists, stream.coded)
            found.append(Stream(scales_of(stream), Role.SCALE, stream.reads, stream.writes, exists))
            found.append(Stream(book_of(stream), Role.BOOK, True, False, exists, storage=stream.storage))
    return tuple(found)


RUNS = ((f"{ELEMENT.name}.length", Role.RUN_LENGTH), (f"{ELEMENT.name}.step", Role.RUN_STEP))
"""The rows of how elements are numbered; no name in a spec has a dot."""


@dataclass(frozen=True, slots=True)
class Coded:
    """A stream that is kept as codes of a storage where a condition over flags holds."""

    stream: Stream
    storage: Storage
    when: Expression


def coded_streams(kernel: Kernel) -> list[Coded]:
    """Those that some variant keeps as codes; none in kernels that do not go through memory in the order of the elements.

    Where these know rows and columns, native code has its own way of keeping codes, and Triton for those of one bit; else the
    runtime asks for no variant in which there are codes, but of PyTorch.
    """
    if out_of_order(kernel):
        return []
    found = ((s, s.storage, s.coded) for s in kernel.streams)
    return [Coded(s, storage, when) for s, storage, when in found if storage is not None and when is not None]


def out_of_order(kernel: Kernel) -> bool:
    """Whether a kernel goes through memory by rows and columns, or by picked elements."""
    return bool(set(kernel.extents) & IN_MATRICES) or any(one.picked for one in kernel.passes)


def scales_of(stream: Stream) -> str:
    """The row of a stream's scales; no name in a spec has a dot."""
    return f"{stream.name}.scale"


def book_of(stream: Stream) -> str:
    """The row of what its codes mean."""
    return f"{stream.name}.book"
