"""What launches must know of a device and of dtypes: whether Triton runs there, and the shape of a block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from optc.runtime.backend import BackendUnavailable
from optc.runtime.schema import Stream
from optc.runtime.triton_kernel import LazyKernel
from optc.runtime.triton_tables import ALIGNMENT

WARPS = 4
WITH_CODES = 256
"""Elements of a block per warp where streams are kept as codes: eight for a thread, at 80 registers or fewer."""
BITS = 8
"""Numbers that are encoded at a time where they are bits."""
_NAMES = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.uint8: "uint8",
    torch.int8: "int8",
    torch.int16: "int16",
}


@dataclass(frozen=True, slots=True)
class Geometry:
    """Compile-time constants that follow from dtypes: elements per 16-byte access, per block, per masked block."""

    lanes: int
    block: int
    tail: int
    warps: int = WARPS


def geometry(dtypes: Sequence[torch.dtype], warp_size: int = 32, codes: int = 0, draws: bool = False) -> Geometry:
    """The shape of a block for streams of these dtypes: one access per thread and stream, which keeps registers below 64.

    One dtype: 16-byte accesses. Mixed: four elements per access in every stream, so that no layout is converted through shared
    memory. `codes`: numbers that are encoded at a time where some are kept as codes, 0 otherwise; all blocks have whole such
    ones. `draws`: random numbers are drawn, of which a thread has four neighbouring ones at a time.
    """
    itemsizes = {dtype.itemsize for dtype in dtypes}
    threads = WARPS * warp_size
    lanes = ALIGNMENT // itemsizes.pop() if len(itemsizes) == 1 else 4
    if draws or codes == BITS:  # beside bits there are rows and columns, which take registers enough
        lanes = min(lanes, 4)
    if codes:
        block = max(codes, WITH_CODES * WARPS, threads * lanes)
        return Geometry(lanes, block, max(codes, threads), max(WARPS, block // (WITH_CODES * warp_size // 32)))
    return Geometry(lanes, threads * lanes, threads)


def largest_block(streams: Sequence[Stream], variant: Mapping[str, bool]) -> int:
    """How many numbers are encoded at a time, at most; 0 where none are kept as codes."""
    books = [s.codebook(variant) for s in streams if not s.beside]
    return max((book.together for book in books if book is not None), default=0)


def triton_dtype(dtype: torch.dtype) -> Any:
    """A dtype as Triton calls it."""
    import triton.language as tl

    return getattr(tl, _NAMES[dtype])


def stream_dtypes(streams: Sequence[Stream], dtypes: Mapping[str, torch.dtype]) -> list[Any]:
    """The dtypes of a launch, as the kernel's compile-time parameters want them; absent streams as if float32."""
    return [triton_dtype(dtypes.get(s.name, torch.float32)) for s in streams if not s.numbering and not s.beside]


def require_triton(function: Any, device: torch.device) -> LazyKernel:
    """The kernel, after making sure that it can run on the device."""
    if not isinstance(function, LazyKernel):
        raise BackendUnavailable("this optimizer was generated without Triton kernels: build it again with `optc build`")
    try:
        interpreted = function.interpreted
    except ImportError as error:
        raise BackendUnavailable(f"Triton cannot be imported ({error}): pip install triton, or use another backend") from error
    if device.type == "cpu" and not interpreted:
        raise BackendUnavailable("Triton needs a GPU; for CPU tensors set TRITON_INTERPRET=1 before Triton is imported")
    if device.type not in ("cpu", "cuda"):
        raise BackendUnavailable(f"the Triton backend runs on CUDA and ROCm devices, not on {device.type!r}")
    return function


def warp_size(device: torch.device) -> int:
    """Threads per warp: 32, or 64 on AMD's data-centre GPUs."""
    return int(torch.cuda.get_device_properties(device).warp_size) if device.type == "cuda" else 32


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
