"""The PyTorch backend: works on every device, one parameter after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optc.runtime import shapes
from optc.runtime.backend import Launcher, Residents, arithmetic_dtype
from optc.runtime.codebook import Codebook
from optc.runtime.columns import Columns
from optc.runtime.draws import Elements, uniform
from optc.runtime.pairs import REST, joined, split_into
from optc.runtime.schema import SCALE, Kernel, Stream
from optc.runtime.storage import PIECE, put, taken


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
        numbers = residents.runs(len(self.statistics))
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
        kernel, streams, variant = self.kernel, self._streams, self.residents.variant
        static = [variant[name] for name in kernel.static_flags]
        tensors = self.residents.tensors
        columns = [tensors.get(s.name) if s.stays else varying[s.name] for s in streams]
        scales = [tensors.get(REST if s.pair else f"{s.name}{SCALE}") for s in streams]
        dtypes = self._dtypes(columns)
        told = all(s.role == "state" or s.beside for s in kernel.streams)
        sizes = self.residents.sizes(kernel) if told or any(s.codebook(variant) for s in streams) else None
        for index, statistics in enumerate(self.statistics):
            kept = [
                None
                if column is None
                else _Kept(stream, column[index], stream.codebook(variant), None if of_it is None else of_it[index])
                for stream, column, of_it in zip(streams, columns, scales, strict=True)
            ]
            numel, dtype = 0 if sizes is None else sizes[index], dtypes[index]
            known = [statistics[name] for name in kernel.given]
            for piece in self._pieces(index, kept, numel):
                used = [None if one is None else self._seen(one, piece, dtype, gradient_factor) for one in kept]
                written = [
                    (one, x, one.mark(x))
                    for one, x in zip(kept, used, strict=True)
                    if one is not None and x is not None and one.stream.writes
                ]
                elements = [self._elements(index, piece, dtype) for s in kernel.streams if s.role == "element"]
                size = [float(numel)] if told else []
                left = kernel.torch(*used, *elements, *scalars, *static, *flags, *known, *size)
                statistics.update(zip(kernel.leaves, left or (), strict=True))
                for one, value, mark in written:
                    if one.changed(value, mark):
                        one.put(value, piece, self._dither(one, index, piece, scalars))

    @property
    def _streams(self) -> list[Stream]:
        """Those that the kernel is given as tensors."""
        return [s for s in self.kernel.streams if s.whole]

    def _pieces(self, index: int, kept: Sequence[_Kept | None], numel: int) -> list[_Piece]:
        """What is computed at a time: all, or, so that codes are never all decoded, pieces where no element needs another."""
        if self.kernel.passes or numel <= PIECE or all(one is None or one.book is None for one in kept):
            return [_Piece(0, numel, tuple(self.residents.shapes[index]) if self.residents.shapes else (numel,))]
        return [_Piece(first, min(PIECE, numel - first)) for first in range(0, numel, PIECE)]

    def _dtypes(self, columns: Sequence[Sequence[Tensor] | None]) -> list[torch.dtype]:
        """The arithmetic dtype for each parameter: that for what it keeps per element, if this kernel moves that.

        A state that has a storage says nothing of it; where there is no other, gradients and inputs do.
        """
        found = [(s, c) for s, c in zip(self._streams, columns, strict=True) if c is not None and s.per_element]
        found.sort(key=lambda each: (each[0].storage is not None, each[0].role not in ("theta", "state")))
        return [arithmetic_dtype(x.dtype) for x in found[0][1]] if found else [torch.float64] * len(self.statistics)

    def _elements(self, index: int, piece: _Piece, dtype: torch.dtype) -> Elements:
        """The elements of a parameter, as the kernel sees it."""
        theta = self.residents.tensors["theta"][index]
        runs = self.residents.runs(len(self.statistics))[index]
        shape = shapes.view(theta.shape, self.kernel.seen) if piece.shape is not None else (piece.size,)
        return Elements(runs, shape, dtype, theta.device, piece.first)

    def _dither(self, one: _Kept, index: int, piece: _Piece, scalars: Sequence[float | Tensor]) -> Tensor | None:
        """By what codes are rounded at random, flat; None where they are rounded to nearest."""
        if one.stream.dither is None or one.book is None:
            return None
        values = dict(zip(self.kernel.scalars, map(float, scalars), strict=True))
        numbers = (values[x] if isinstance(x, str) else x for x in one.stream.dither)
        return uniform(self._elements(index, piece, torch.float32), *numbers).flatten()

    def _seen(self, one: _Kept, piece: _Piece, dtype: torch.dtype, gradient_factor: float) -> Tensor:
        """A stream as the kernel sees it; itself or a view of it where nothing differs, so that writes reach it."""
        stream = one.stream
        if not stream.per_element:
            return one.tensor.to(torch.float64)
        x = one.numbers(piece)
        if self.kernel.seen is not None and piece.shape is not None:
            x = x.reshape(shapes.view(x.shape, self.kernel.seen))
        value = x.to(dtype)
        return value if stream.role != "gradient" or gradient_factor == 1.0 else value * gradient_factor

    def parts(self) -> Tensor:
        """See `Launcher.parts`."""
        left = [statistics[name] for statistics in self.statistics for name in self.kernel.parts]
        shape = len(self.statistics), len(self.kernel.parts)
        if not left:
            return torch.empty(shape, dtype=torch.float64, device=self.device)
        return torch.stack([x.to(self.device, non_blocking=True) for x in left]).view(shape)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Elements of a parameter; `shape` is the parameter's where they are all."""

    first: int
    size: int
    shape: tuple[int, ...] | None = None

    def of(self, tensor: Tensor) -> Tensor:
        """These elements of a tensor per element."""
        return tensor if self.shape is not None else tensor.view(-1)[self.first : self.first + self.size]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A stream of one parameter: its tensor, and where that is codes, what they mean and their scales.

    Of a pair, what is beside the parameter stands in the place of scales.
    """

    stream: Stream
    tensor: Tensor
    book: Codebook | None
    scales: Tensor | None

    def numbers(self, piece: _Piece) -> Tensor:
        """Those of a piece; the tensor itself or a view of it where it has them."""
        if self.book is not None and self.scales is not None:
            found = taken(self.tensor, self.scales, self.book, piece.first, piece.size)
            return found if piece.shape is None else found.view(piece.shape)
        stored = piece.of(self.tensor)
        if self.stream.pair is not None and self.scales is not None:
            return joined(self.stream.pair, stored, piece.of(self.scales))
        return stored

    def mark(self, value: Tensor) -> int | Tensor:
        """What tells whether a kernel writes: codes of what it leaves alone must not be made anew, they would drift.

        Tensors made in inference mode do not count their changes.
        """
        if not value.is_inference():
            return value._version
        return value.clone() if self.book is not None else -1

    def changed(self, value: Tensor, mark: int | Tensor) -> bool:
        """Whether it has written, by the mark from before."""
        if isinstance(mark, Tensor):
            return not torch.equal(mark, value)
        return mark < 0 or value._version != mark

    def put(self, value: Tensor, piece: _Piece, dither: Tensor | None = None) -> None:
        """Keeps what a kernel has written, where it does not lie there already."""
        if self.book is not None and self.scales is not None:
            put(self.tensor, self.scales, self.book, piece.first, value, dither)
            return
        stored = piece.of(self.tensor)
        if self.stream.pair is not None and self.scales is not None:
            split_into(self.stream.pair, stored, piece.of(self.scales), value.view(stored.shape))
        elif not _shares(value, stored):
            stored.copy_(value.view(stored.shape))


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
        if any(r.shards for r in residents) and any(k.passes for k in kernels):
            from optc.runtime.torch_divided import divided

            return divided(kernels, residents, device, statistics)
        return [TorchLauncher(k, r, device, statistics) for k, r in zip(kernels, residents, strict=True)]


TORCH = TorchBackend()
