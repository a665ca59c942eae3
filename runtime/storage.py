"""States that are kept otherwise than in the dtype of the arithmetic: as codes with scales, or in another dtype."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, TypeGuard

import torch
from torch import Tensor

from optc.runtime.codebook import Codebook, table, thresholds
from optc.runtime.schema import State

PIECE = 1 << 18
"""Elements that are decoded or encoded at a time where a whole tensor is: a multiple of every block."""


def kept_dtype(state: State, dtype: torch.dtype) -> torch.dtype:
    """The dtype of a state that is no codes, `dtype` being that of the arithmetic."""
    return getattr(torch, state.storage) if isinstance(state.storage, str) else dtype


def codes_shape(book: Codebook, shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
    """The shape of codes: the parameter's, or one dimension where two codes share a byte."""
    numel = torch.Size(shape).numel()
    return tuple(shape) if book.per_byte == 1 else (book.bytes_of(numel),)


def readable(x: Any) -> TypeGuard[Tensor]:
    """Whether it is a tensor that has its elements in memory: files may hold others, too."""
    return isinstance(x, Tensor) and x.layout == torch.strided and x.device.type != "meta" and not x.is_quantized


def are_codes(state: State, book: Codebook, entry: Any, scales: Any, p: Tensor) -> bool:
    """Whether kernels can take codes and scales of a contiguous parameter as they are."""
    expected = (entry, torch.uint8, codes_shape(book, p.shape)), (scales, torch.float32, (book.blocks_of(p.numel()),))
    return all(
        isinstance(x, Tensor) and x.dtype == dtype and x.shape == shape and x.device == p.device and x.is_contiguous()
        for x, dtype, shape in expected
    ) and (book.bits > 1 or entry.data_ptr() % 4 == 0)


def kept_as_codes(state: State, book: Codebook, entry: Any, scales: Any, p: Tensor) -> dict[str, Tensor]:
    """What is kept under which key for codes with their scales, or for numbers that are no codes yet.

    Raises ValueError where these do not belong to a parameter like `p`.
    """
    if are_codes(state, book, entry, scales, p):
        return {state.key: entry, state.scale_key: scales}
    shape, blocks = codes_shape(book, p.shape), book.blocks_of(p.numel())
    if isinstance(entry, Tensor) and entry.is_floating_point() and entry.shape == p.shape:
        return dict(zip((state.key, state.scale_key), encoded(entry, book, p.device), strict=True))
    tensors = isinstance(entry, Tensor) and isinstance(scales, Tensor) and entry.dtype == torch.uint8
    if tensors and entry.shape == shape and scales.shape == (blocks,):
        codes = entry.detach().to(p.device).contiguous()
        return {state.key: codes, state.scale_key: scales.detach().to(p.device, torch.float32).contiguous()}
    raise ValueError(
        f"state {state.key!r} of a parameter of shape {tuple(p.shape)} must be codes of shape {shape} with {blocks} scales "
        f"under {state.scale_key!r}, or numbers of its shape: after changing a parameter's shape, delete its entries in `state`"
    )


def encoded(x: Tensor, book: Codebook, device: torch.device) -> tuple[Tensor, Tensor]:
    """(codes, scales) of a tensor, piece by piece. Blocks of zeros are zeros, also where no level is 0: states start so.

    Where all scales are 1 there is no such way to say 0.
    """
    codes = torch.empty(codes_shape(book, x.shape), dtype=torch.uint8, device=device)
    scales = torch.empty(book.blocks_of(x.numel()), dtype=torch.float32, device=device)
    flat = x.detach().reshape(-1)
    for first in range(0, flat.numel(), PIECE):
        piece = flat[first : first + PIECE].to(device, torch.float32)
        put(codes, scales, book, first, piece)
        if not book.scaled:
            continue
        of_piece = _places(book, first, piece.numel())[1]
        blocks = torch.zeros(book.blocks_of(piece.numel()) * book.block, dtype=torch.bool, device=device)
        blocks[: piece.numel()] = piece != 0
        scales[of_piece] = torch.where(blocks.view(-1, book.block).any(1), scales[of_piece], 0)
    return codes, scales


def taken(codes: Tensor, scales: Tensor, book: Codebook, first: int, size: int) -> Tensor:
    """The numbers from `first` on, which is the first of a block: flat, float32."""
    places, blocks = _places(book, first, size)
    return decode(codes.view(-1)[places], scales[blocks], book, size)


def put(codes: Tensor, scales: Tensor, book: Codebook, first: int, x: Tensor, dither: Tensor | None = None) -> None:
    """Keeps numbers from `first` on; they end a block, or the tensor."""
    places, blocks = _places(book, first, x.numel())
    codes.view(-1)[places], scales[blocks] = encode(x, book, dither)


def _places(book: Codebook, first: int, size: int) -> tuple[slice, slice]:
    start = first // book.per_byte
    return slice(start, start + book.bytes_of(size)), slice(first // book.block, first // book.block + book.blocks_of(size))


# --- codes --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _OnDevice:
    """What encoding reads on one device."""

    bounds: Tensor
    codes: Tensor
    memory: Tensor


@cache
def on_device(book: Codebook, device: torch.device) -> _OnDevice:
    """The thresholds of a codebook in the memory of a device; made once. `memory`: levels and table, for kernels."""
    found = thresholds(book)
    levels = torch.tensor(book.levels, dtype=torch.float32)
    memory = torch.cat((levels.view(torch.int32), torch.from_numpy(table(book).entries)))
    columns = torch.from_numpy(found.bounds), torch.from_numpy(found.codes), memory
    return _OnDevice(*(column.to(device) for column in columns))


@cache
def _levels(levels: tuple[float, ...], device: torch.device) -> Tensor:
    """The levels of a codebook in the memory of a device. They alone make numbers of codes, whoever has made these."""
    return torch.tensor(levels, dtype=torch.float32, device=device)


def decode(codes: Tensor, scales: Tensor, book: Codebook, numel: int) -> Tensor:
    """The numbers, flat and float32: codes are uint8 of any shape, in order, `scales` float32, one per block."""
    flat = _unpacked(codes.reshape(-1), book.bits)[:numel]
    values = _levels(book.levels, codes.device)[flat.int()]
    if not book.scaled:
        return values
    return values.mul_(scales.repeat_interleave(book.block)[:numel])


def encode(x: Tensor, book: Codebook, dither: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(codes, scales) of numbers in the order of their indices: uint8 of one dimension, and float32, one per block.

    With `dither`, float32 numbers from [0, 1) in the same order, they are rounded at random (see `codebook.py`).
    """
    numel = x.numel()
    blocks = torch.zeros(book.blocks_of(numel) * book.block, dtype=torch.float32, device=x.device)
    blocks[:numel] = x.reshape(-1)
    blocks = blocks.view(-1, book.block)
    if book.bits == 1:
        scales = torch.ones(len(blocks), dtype=torch.float32, device=x.device)
        return _packed((blocks > 0).to(torch.uint8).view(-1), 1)[: book.bytes_of(numel)].contiguous(), scales
    if book.fixed:
        scales, ratio = (
            torch.ones(len(blocks), dtype=torch.float32, device=x.device),
            blocks.nan_to_num(0.0, torch.inf, -torch.inf),
        )
    else:
        size = blocks.abs()
        scales = torch.where(size < torch.inf, size, 0).amax(1).clamp_(min=book.least)
        scales = scales / torch.full_like(scales, book.unit)  # PyTorch multiplies by the reciprocal of a number on some devices
        ratio = torch.where((scales > 0)[:, None] & ~blocks.isnan(), blocks / scales[:, None], 0)
    found = on_device(book, x.device)
    codes = found.codes[torch.bucketize(ratio, found.bounds, right=True)]
    codes = codes.view(-1)
    if dither is not None:
        codes[:numel] = _dithered(codes[:numel], blocks.view(-1)[:numel], ratio.view(-1)[:numel], scales, book, dither)
    return _packed(codes, book.bits)[: book.bytes_of(numel)].contiguous(), scales


def _dithered(codes: Tensor, x: Tensor, ratio: Tensor, scales: Tensor, book: Codebook, dither: Tensor) -> Tensor:
    """The codes of nearest levels, or of those on the other side of the numbers."""
    levels = torch.cat((_levels(book.levels, x.device), torch.full((1,), torch.nan, device=x.device)))
    scale = scales.repeat_interleave(book.block)[: len(x)]
    near = levels[codes.int()]
    beside = codes.int() + torch.where(ratio > near, 1, -1)
    other = levels[torch.where(beside < 0, len(book.levels), beside)]
    away = (near * scale != x) & (dither < (ratio - near) / (other - near))
    return torch.where(away, beside, codes.int()).to(torch.uint8)


def _unpacked(memory: Tensor, bits: int) -> Tensor:
    """The codes in bytes."""
    if bits == 8:
        return memory
    places = torch.tensor([4, 0] if bits == 4 else list(range(8)), dtype=torch.uint8, device=memory.device)
    return (memory[:, None] >> places & (1 << bits) - 1).view(-1)


def _packed(codes: Tensor, bits: int) -> Tensor:
    """The bytes of codes; they fill the last one."""
    if bits == 4:
        return codes[0::2] << 4 | codes[1::2]
    if bits == 1:
        places = torch.arange(8, dtype=torch.uint8, device=codes.device)
        return (codes.view(-1, 8) << places).sum(1, dtype=torch.uint8)
    return codes
