"""Numbers kept as codes, in Triton: `runtime/codebook.py` for one tile of a chunk, bit for bit.

A tile has SIZE elements, a power of two and a multiple of the block, and begins at element `first` of its chunk, a multiple of
SIZE. `codes_at` is where the codes of the chunk's element 0 are, `scales_at` where the scale of its block 0 is. Only `count`
elements of the tile exist, unless it is WHOLE: then nothing is masked. Lane i of a tensor is element i of the tile.

With a `block` of 0 all scales are 1, and `scales_at` is not looked at.

`book_at` is the codebook in memory, of int32: the bits of `1 << bits` levels, then the entries of `codebook.table`.

How many codes a thread takes follows from what callers know of `codes_at` (`tl.multiple_of`): as many elements per access as in
the other tensors of the tile, so that no layout is converted but for the largest number of a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from optc.runtime.gpu import div
from optc.runtime.triton_kernel import triton_kernel

if TYPE_CHECKING:
    import triton.language as tl


@triton_kernel
def decode(
    codes_at: tl.tensor,
    scales_at: tl.tensor,
    book_at: tl.tensor,
    first: tl.tensor,
    count: tl.tensor,
    bits: tl.constexpr,
    block: tl.constexpr,
    SIZE: tl.constexpr,
    WHOLE: tl.constexpr,
) -> tl.tensor:
    """The numbers of a tile, float32. Lanes that do not exist hold something."""
    each: tl.constexpr = 8 // bits
    lane = tl.arange(0, SIZE // each)
    # an offset on the scalar pointer keeps what is known of it: `first` of int32 is a multiple of SIZE
    place = codes_at + tl.multiple_of(first // each, SIZE // each) + lane
    if WHOLE:
        codes = tl.load(place).to(tl.int32)
    else:
        codes = tl.load(place, lane * each < count).to(tl.int32)
    if bits == 1:
        return tl.reshape(2 * (codes[:, None] >> tl.arange(0, 8)[None, :] & 1) - 1, (SIZE,)).to(tl.float32)
    if bits == 4:
        codes = tl.reshape(tl.join(codes >> 4, codes & 15), (SIZE,))
    levels = tl.load(book_at + codes).to(tl.float32, bitcast=True)
    if block != 0:
        row = tl.arange(0, SIZE // block)
        place = scales_at + tl.multiple_of(first // block, SIZE // block) + row
        if WHOLE:
            scales = tl.load(place)
        else:
            scales = tl.load(place, row * block < count)
        levels = levels * tl.reshape(tl.broadcast_to(scales[:, None], (SIZE // block, block)), (SIZE,))
    return levels


@triton_kernel
def encode(
    x: tl.tensor,
    codes_at: tl.tensor,
    scales_at: tl.tensor,
    book_at: tl.tensor,
    first: tl.tensor,
    count: tl.tensor,
    bits: tl.constexpr,
    block: tl.constexpr,
    shift: tl.constexpr,
    base: tl.constexpr,
    buckets: tl.constexpr,
    unit: tl.constexpr,
    least: tl.constexpr,
    SIZE: tl.constexpr,
    WHOLE: tl.constexpr,
    dither: tl.tensor = None,
) -> None:
    """Stores the codes and scales of the numbers of a tile; what does not exist counts as 0, up to the end of a byte.

    With `dither`, numbers from [0, 1) for each lane, they are rounded at random (see `codebook.py`).
    """
    each: tl.constexpr = 8 // bits
    if not WHOLE:
        x = tl.where(tl.arange(0, SIZE) < count, x, 0.0)
    if bits == 1:  # signs: their scale is 1 from the start
        above = tl.reshape(tl.where(x > 0.0, 1, 0), (SIZE // 8, 8)) << tl.arange(0, 8)[None, :]
        _put(tl.sum(above, 1), codes_at, first, count, 8, SIZE, WHOLE)
        return
    if block == 0:
        ratio = x
    else:
        # the largest number that is finite: numbers of one sign are in the order of their bits
        size = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
        size = tl.reshape(tl.where(size < 0x7F800000, size, 0), (SIZE // block, block))
        scales = tl.max(size, 1).to(tl.float32, bitcast=True)
        if least > 0.0:
            scales = tl.maximum(scales, least)
        if unit != 1.0:
            scales = div(scales, tl.full((SIZE // block,), unit, tl.float32))
        row = tl.arange(0, SIZE // block)
        place = scales_at + tl.multiple_of(first // block, SIZE // block) + row
        if WHOLE:
            tl.store(place, scales)
        else:
            tl.store(place, scales, row * block < count)
        # where the scale is 0 all ratios are to be 0, those of infinities, too: they become NaN, as those of NaN are, then 0
        by = tl.where(scales > 0.0, scales, float("inf"))
        ratio = div(x, tl.reshape(tl.broadcast_to(by[:, None], (SIZE // block, block)), (SIZE,)))
    size = tl.where(ratio == ratio, ratio.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 0)
    bucket = tl.minimum(tl.maximum((size >> shift) - base, 0), buckets - 1)
    # by comparison, not by the sign bit: -0 is 0
    entry = tl.load(book_at + (1 << bits) + tl.where(ratio < 0.0, bucket + buckets, bucket))
    codes = tl.where((size & ((1 << shift) - 1)) < (entry & 0xFFFF), entry >> 16, entry >> 24) & 0xFF
    if dither is not None:
        ratio = tl.where(ratio == ratio, ratio, 0.0)
        near = tl.load(book_at + codes).to(tl.float32, bitcast=True)
        beside = codes + tl.where(ratio > near, 1, -1)
        there = (beside >= 0) & (beside < (1 << bits))
        if not WHOLE:
            there = there & (tl.arange(0, SIZE) < count)
        other = tl.load(book_at + beside, there, 0).to(tl.float32, bitcast=True)
        there = there & (dither < div(ratio - near, other - near))
        if block == 0:
            there = there & (near != x)
        else:
            there = there & (near * tl.reshape(tl.broadcast_to(scales[:, None], (SIZE // block, block)), (SIZE,)) != x)
        codes = tl.where(there, beside, codes)
    if bits == 4:
        high, low = tl.split(tl.reshape(codes, (SIZE // 2, 2)))
        codes = high << 4 | low
    _put(codes, codes_at, first, count, each, SIZE, WHOLE)


@triton_kernel
def _put(
    codes: tl.tensor,
    codes_at: tl.tensor,
    first: tl.tensor,
    count: tl.tensor,
    each: tl.constexpr,
    SIZE: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Stores bytes with `each` codes in each."""
    lane = tl.arange(0, SIZE // each)
    place = codes_at + tl.multiple_of(first // each, SIZE // each) + lane
    if WHOLE:
        tl.store(place, codes.to(tl.uint8))
    else:
        tl.store(place, codes.to(tl.uint8), lane * each < count)
