"""The PyTorch backend: works on every device, one parameter after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optc.runtime import shapes
from optc.runtime.backend import Launcher, Residents, arithmetic_dtype
from optc.runtime.columns import Columns
from optc.runtime.draws import Elements
from optc.runtime.schema import Kernel, Stream


@dataclass(frozen=True, slots=True)
class TorchLauncher:
    """One batch; `kernel.torch` is called with each parameter's tensors in the arithmetic dtype, others in float64.

    `statistics`: for each parameter what the procedure's kernels have left for later ones, and for totals.
    """

    kernel: Kernel
    residents: Residents
    device: torch.device
    statistics: Sequence[dict[str, Tensor]]

    def only(self, members: Sequence[int]) -> Launcher:
        """See `Launcher.only`."""
        residents = self.residents
        tensors = {name: [column[i] for i in members] for name, column in residents.tensors.items()}
        of_members = [residents.shapes[i] for i in members] if residents.shapes else ()
        numbers = residents.column_of_elements(len(self.statistics))
        chosen = replace(residents, tensors=tensors, shapes=of_members, elements=[numbers[i] for i in members])
        return TorchLauncher(self.kernel, chosen, self.device, [self.statistics[i] for i in members])

    def launch(
        self,
        varying: Columns,
        scalars: Sequence[float | Tensor],
        flags: Sequence[bool],
        gradient_factor: float,
    ) -> None:
        """See `Launcher.launch`."""
        kernel = self.kernel
        static = [self.residents.variant[name] for name in kernel.static_flags]
        tensors = self.residents.tensors
        streams = [s for s in kernel.streams if s.role != "element"]
        columns = [tensors.get(s.name) if s.stays else varying[s.name] for s in streams]
        dtypes = self._dtypes(columns)
        told = self.residents.sizes(kernel) if all(s.role == "state" for s in kernel.streams) else None
        for index, statistics in enumerate(self.statistics):
            dtype = dtypes[index]
            given = [None if column is None else column[index] for column in columns]
            used = [
                None if x is None else self._seen(x, stream, dtype, gradient_factor)
                for stream, x in zip(streams, given, strict=True)
            ]
            elements = [self._elements(index, dtype) for s in kernel.streams if s.role == "element"]
            known = [statistics[name] for name in kernel.given]
            size = [] if told is None else [float(told[index])]
            left = kernel.torch(*used, *elements, *scalars, *static, *flags, *known, *size)
            statistics.update(zip(kernel.leaves, left or (), strict=True))
            for stream, stored, value in zip(streams, given, used, strict=True):
                if stream.writes and stored is not None and value is not None and not _shares(value, stored):
                    stored.copy_(value.view(stored.shape))

    def _dtypes(self, columns: Sequence[Sequence[Tensor] | None]) -> list[torch.dtype]:
        """The arithmetic dtype for each parameter: that of what it keeps per element, if this kernel moves that."""
        streams = [s for s in self.kernel.streams if s.role != "element"]
        found = [(s, c) for s, c in zip(streams, columns, strict=True) if c is not None and s.per_element]
        found.sort(key=lambda each: each[0].role not in ("theta", "state"))
        return [arithmetic_dtype(x.dtype) for x in found[0][1]] if found else [torch.float64] * len(self.statistics)

    def _elements(self, index: int, dtype: torch.dtype) -> Elements:
        """The elements of a parameter, as the kernel sees it."""
        theta = self.residents.tensors["theta"][index]
        first = self.residents.column_of_elements(len(self.statistics))[index]
        return Elements(first, shapes.view(theta.shape, self.kernel.matrix), dtype, theta.device)

    def _seen(self, x: Tensor, stream: Stream, dtype: torch.dtype, gradient_factor: float) -> Tensor:
        """`x` as the kernel sees it; `x` itself or a view of it where nothing differs, so that writes reach it."""
        if not stream.per_element:
            return x.to(torch.float64)
        if self.kernel.matrix and x.ndim > 2:
            x = x.reshape(shapes.view(x.shape, True))
        value = x.to(dtype)
        return value if stream.role != "gradient" or gradient_factor == 1.0 else value * gradient_factor

    def parts(self) -> Tensor:
        """See `Launcher.parts`."""
        left = [statistics[name] for statistics in self.statistics for name in self.kernel.parts]
        shape = len(self.statistics), len(self.kernel.parts)
        if not left:
            return torch.empty(shape, dtype=torch.float64, device=self.device)
        return torch.stack([x.to(self.device, non_blocking=True) for x in left]).view(shape)


def _shares(value: Tensor, stored: Tensor) -> bool:
    """Whether what a kernel wrote lies where it is to be kept."""
    return value is stored or value.data_ptr() == stored.data_ptr()


@dataclass(frozen=True, slots=True)
class TorchBackend:
    """Runs `kernel.torch`."""

    name: str = "torch"

    def prepare(self, kernels: Sequence[Kernel], residents: Sequence[Residents]) -> list[Launcher]:
        """Nothing to compile; works everywhere."""
        count = max((len(r.sizes(k)) for k, r in zip(kernels, residents, strict=True)), default=0)
        statistics: list[dict[str, Tensor]] = [{} for _ in range(count)]
        every = (column[0] for r in residents for column in r.tensors.values() if len(column))
        device = next((tensor.device for tensor in every), torch.device("cpu"))
        return [TorchLauncher(k, r, device, statistics) for k, r in zip(kernels, residents, strict=True)]


TORCH = TorchBackend()
