"""Ways to divide parameters among processes, and parameters that are hard to divide: uneven, of one row, empty, 0-dim."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

SHAPES: tuple[tuple[int, ...], ...] = ((6, 1024), (5, 6), (1, 4), (8, 3), (7,), (1,), (), (4, 3, 5), (16, 16))
"""Of (1, 4) and (1,) later processes have nothing. Those of 6144 elements are kept as codes where a state is."""

IN_BLOCKS: tuple[tuple[int, ...], ...] = ((6, 1024), (5, 2048), ())
"""However these are divided, parts are whole blocks of codes."""

OF_ANY_SIZE = {"AdamW4bitRank1", "AdamWFactored"}
"""Optimizers that keep small parameters, too, as codes; parts of some cut through a block."""

LAYOUTS = ("fsdp", "hsdp", "columns", "grid", "strided", "zero1")


def mesh_of(layout: str, size: int) -> Any:
    """The mesh of all processes."""
    return mesh(size, "outer", "inner") if layout in ("hsdp", "grid", "strided") else mesh(size)


@cache
def mesh(size: int, *names: str) -> Any:
    """A mesh of all processes, of one dimension or of two, 2 × what is left; made once, as each has groups and threads."""
    return init_device_mesh("cpu", (2, size // 2) if names else (size,), mesh_dim_names=names or None)


def placements(layout: str, shape: Sequence[int], size: int) -> list[Any]:
    """As FSDP2, HSDP, tensor parallelism by columns, FSDP over it, and FSDP over that by rows place parameters."""
    if not shape:
        return [Replicate()] * (2 if layout in ("hsdp", "grid", "strided") else 1)
    if layout == "hsdp":
        return [Replicate(), Shard(0)]
    if layout == "grid":
        return [Shard(0), Shard(len(shape) - 1)] if len(shape) > 1 else [Shard(0), Replicate()]
    if layout == "strided":
        from torch.distributed.tensor.placement_types import _StridedShard

        return [_StridedShard(0, split_factor=size // 2), Shard(0)]
    return [Shard(len(shape) - 1 if layout == "columns" else 0)]


def divided(layout: str, x: Tensor, size: int) -> Tensor:
    """A tensor, placed; every process has the whole of it, and no process asks another."""
    if layout == "zero1":
        return x.clone()
    mesh, placed = mesh_of(layout, size), placements(layout, x.shape, size)
    if layout != "strided" or not x.ndim:
        return distribute_tensor(x, mesh, placed, src_data_rank=None)
    # as FSDP2 makes them: cut along the inner dimension of the mesh first
    inner = x.chunk(mesh.size(1))
    here = inner[mesh.get_local_rank(1)] if mesh.get_local_rank(1) < len(inner) else x[:0]
    parts = here.chunk(mesh.size(0)) if here.numel() else ()
    own = parts[mesh.get_local_rank(0)] if mesh.get_local_rank(0) < len(parts) else here[:0]
    return DTensor.from_local(own.clone(), mesh, placed, run_check=False, shape=x.shape, stride=x.stride())


def whole(x: Tensor) -> Tensor:
    """The whole of what may be divided."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def start(shape: Sequence[int]) -> Tensor:
    """The first value of a parameter: the same in all processes."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


def gradient(shape: Sequence[int], step: int) -> Tensor:
    """A gradient, the same in all processes."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(1000 * step + len(shape) + sum(shape)))
