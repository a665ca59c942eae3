"""Signs that are kept as bits, in Triton kernels that know rows and columns: see `runtime/codebook.py`.

A tile is ROWS × COLUMNS elements of a matrix, its first at element `at` of the tensor and `width` apart from row to row; with
ROWS 0 it is COLUMNS elements in a row. Without a `mask` all of them exist, and rows begin with a byte: then bytes are written
as they are. Else a byte may have bits of other tiles, which other programs may be writing: bits are set one by one, atomically,
in words of 32. Bits of different elements never meet, so that no order of the programs changes a result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from optc.runtime.triton_kernel import triton_kernel

if TYPE_CHECKING:
    import triton.language as tl


@triton_kernel
def places(at: tl.tensor, width: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr, step: tl.constexpr) -> tl.tensor:
    """The elements of a tile, or of every `step` of them the first."""
    columns = tl.arange(0, COLUMNS // step) * step
    if ROWS == 0:
        return at + columns
    else:
        return at + tl.arange(0, ROWS)[:, None] * width + columns[None, :]


@triton_kernel
def unpack(
    bits_at: tl.tensor, at: tl.tensor, width: tl.tensor, mask: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr
) -> tl.tensor:
    """-1 and 1."""
    if mask is None:
        octets = tl.load(bits_at + (places(at, width, ROWS, COLUMNS, 8) >> 3)).to(tl.int32)
        if ROWS == 0:
            bits = tl.reshape(octets[:, None] >> tl.arange(0, 8)[None, :], (COLUMNS,))
        else:
            bits = tl.reshape(octets[:, :, None] >> tl.arange(0, 8)[None, None, :], (ROWS, COLUMNS))
    else:
        place = places(at, width, ROWS, COLUMNS, 1)
        bits = tl.load(bits_at + (place >> 3), mask, 0).to(tl.int32) >> (place & 7).to(tl.int32)
    return (2 * (bits & 1) - 1).to(tl.float32)


@triton_kernel
def pack(
    x: tl.tensor,
    bits_at: tl.tensor,
    at: tl.tensor,
    width: tl.tensor,
    mask: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Keeps which numbers are above 0."""
    above = tl.where(x > 0.0, 1, 0)
    if mask is None:
        if ROWS == 0:
            octets = tl.sum(tl.reshape(above, (COLUMNS // 8, 8)) << tl.arange(0, 8)[None, :], 1)
        else:
            octets = tl.sum(tl.reshape(above, (ROWS, COLUMNS // 8, 8)) << tl.arange(0, 8)[None, None, :], 2)
        tl.store(bits_at + (places(at, width, ROWS, COLUMNS, 8) >> 3), octets.to(tl.uint8))
    else:
        place = places(at, width, ROWS, COLUMNS, 1)
        word = bits_at.to(tl.pointer_type(tl.int32)) + (place >> 5)
        bit = (place & 31).to(tl.int32)
        tl.atomic_and(word, ~(1 + 0 * bit << bit), mask, sem="relaxed")
        tl.atomic_or(word, above << bit, mask, sem="relaxed")
