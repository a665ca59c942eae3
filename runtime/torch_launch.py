"""The PyTorch backend: works on every device, one parameter after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optc.runtime.backend import Launcher, Residents, arithmetic_dtype
from optc.runtime.columns import Columns
from optc.runtime.schema import Kernel


@dataclass(frozen=True, slots=True)
class TorchLauncher:
    """One batch; `kernel.torch` is called with each parameter's tensors in the arithmetic dtype; numbers stay as they are."""

    kernel: Kernel
    residents: Residents

    def only(self, members: Sequence[int]) -> Launcher:
        """See `Launcher.only`."""
        tensors = {name: [column[i] for i in members] for name, column in self.residents.tensors.items()}
        return TorchLauncher(self.kernel, replace(self.residents, tensors=tensors))

    def launch(
        self,
        varying: Columns,
        scalars: Sequence[float],
        flags: Sequence[bool],
        gradient_factor: float,
    ) -> None:
        """See `Launcher.launch`."""
        static = [self.residents.variant[name] for name in self.kernel.static_flags]
        streams = self.kernel.streams
        tensors = self.residents.tensors
        columns = [tensors.get(s.name) if s.role in ("theta", "state") else varying[s.name] for s in streams]
        numbers = {s.name for s in streams if s.number}
        elements = [column for name, column in tensors.items() if name not in numbers]
        dtypes = [arithmetic_dtype(x.dtype) for x in next(c for c in (*elements, *varying.values(), *tensors.values()))]
        for index, dtype in enumerate(dtypes):
            given = [None if column is None else column[index] for column in columns]
            used = [
                x if x is None or stream.number else _decoded(x, dtype, gradient_factor if stream.role == "gradient" else 1.0)
                for stream, x in zip(streams, given, strict=True)
            ]
            self.kernel.torch(*used, *scalars, *static, *flags)
            for stream, stored, value in zip(streams, given, used, strict=True):
                if stream.writes and stored is not None and value is not None and value is not stored:
                    stored.copy_(value)


def _decoded(x: Tensor, dtype: torch.dtype, factor: float) -> Tensor:
    """`x` times a factor in this dtype; `x` itself where that changes nothing, so that writes reach it."""
    value = x.to(dtype)
    return value if factor == 1.0 else value * factor


@dataclass(frozen=True, slots=True)
class TorchBackend:
    """Runs `kernel.torch`."""

    name: str = "torch"

    def prepare(self, kernel: Kernel, residents: Residents) -> Launcher:
        """Nothing to compile; works everywhere."""
        return TorchLauncher(kernel, residents)


TORCH = TorchBackend()
