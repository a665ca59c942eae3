"""What the passes of Triton kernels leave for the stages between them, in the device's memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from optc.runtime.schema import Kernel
from optc.runtime.triton_matrices import Matrices, in_matrices
from optc.runtime.triton_memory import left_for_partials, most_measured, most_programs
from optc.runtime.triton_tables import Chunks, choose_chunk, upload

LEAF = 8192
"""Elements of a leaf: a multiple of every block. It is part of what a sum means to the last bit."""


@dataclass(frozen=True, slots=True)
class Reductions:
    """What passes leave, kept for all tensors of a batch and all kernels of a procedure; passes and steps overwrite it.

    `chunks`: what programs take of tensors that are no matrices. `partials`: float64 [most measures of a pass][each]; tensor i
    has those from `first[i]` to `first[i + 1]`. `none` is such a table in which no tensor has any. `statistics`: float64
    [tensors][statistics]. `matrices`: what there is for each row, column and matrix, where the tensors are seen as such.
    """

    chunks: Chunks
    partials: Tensor
    each: int
    first: Tensor
    none: Tensor
    statistics: Tensor
    matrices: Matrices | None

    @staticmethod
    def of(
        kernels: Sequence[Kernel], shapes: Sequence[torch.Size], sizes: Sequence[int], real: torch.dtype, device: torch.device
    ) -> Reductions:
        """For tensors of these shapes."""
        seen, memory = in_matrices(kernels, shapes), left_for_partials(kernels, len(sizes))
        memory = memory // 2 if seen else memory
        matrices = Matrices.of(kernels, shapes, real, device, memory) if seen else None
        length = choose_chunk(sizes, LEAF, most_programs(kernels, len(sizes), memory))
        first = np.zeros(len(sizes) + 1, dtype=np.int32)
        np.cumsum([-(-size // length) for size in sizes], out=first[1:])
        each, rows = int(first[-1]), most_measured(kernels)
        most = max(each, matrices.panel_count if matrices is not None else 0)
        partials = torch.empty(max(1, rows * most), dtype=torch.float64, device=device)
        width = max(len(k.statistics) for k in kernels)
        statistics = torch.empty(len(sizes), max(1, width), dtype=torch.float64, device=device)
        table = upload(torch.from_numpy(first), device)
        chunks = Chunks.of_length(sizes, length, device)
        return Reductions(chunks, partials, each, table, torch.zeros_like(table), statistics, matrices)

    def only(self, members: Sequence[int]) -> Reductions:
        """For launches on some of the tensors; what is kept stays where it is."""
        matrices = None if self.matrices is None else self.matrices.only(members)
        return replace(self, chunks=self.chunks.only(members), matrices=matrices)
