"""PyTorch code that reduces, over tensors of which other processes have parts.

It is one function per kernel, which cannot stop between two passes. So it runs on the whole parameter: each is gathered in
turn, with all that it has per element, updated alike on all processes, and every process keeps its part. That is correct for
every program, and the price of the fallback: as much is sent as the parameter has elements, times what is kept of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from optc.runtime.backend import Launcher, Residents
from optc.runtime.collectives import gathered
from optc.runtime.columns import Columns
from optc.runtime.draws import first_element
from optc.runtime.parts import Place, elements_of, place_of
from optc.runtime.schema import SCALE, Kernel
from optc.runtime.shapes import Integers
from optc.runtime.sharding import Shard
from optc.runtime.torch_launch import TorchLauncher


@dataclass(slots=True)
class DividedTorch:
    """One kernel, one batch: see `optc.runtime.exchange.Divided`. Everything happens when the last pass would have run."""

    kernel: Kernel
    residents: Residents
    device: torch.device
    statistics: Sequence[dict[str, Tensor]]
    members: Sequence[int]
    _given: tuple[Columns, Sequence[float | Tensor], Sequence[bool], float] = field(default=({}, (), (), 1.0))

    @property
    def places(self) -> Sequence[int]:
        """See `Divided.places`."""
        return [self.residents.numbers[member] for member in self.members]

    def only(self, members: Sequence[int]) -> DividedTorch:
        """See `optc.runtime.backend.Launcher`."""
        return replace(self, members=list(members))

    def launch(
        self, varying: Columns, scalars: Sequence[float | Tensor], flags: Sequence[bool], gradient_factor: float
    ) -> None:
        """Keeps what it is given."""
        self._given = varying, scalars, flags, gradient_factor

    def parts(self) -> Tensor:
        """See `optc.runtime.backend.Launcher`."""
        chosen = [self.statistics[member] for member in self.members]
        return TorchLauncher(self.kernel, self.residents, self.device, chosen).parts()

    def measured(self, k: int) -> None:
        """Nothing: only who takes part is told."""

    def lines(self, k: int) -> Sequence[Sequence[Integers]]:
        """See `Divided.lines`; nothing of them is told."""
        none = [np.zeros(0, dtype=np.int64)] * len(self.members)
        return [none for _ in self.kernel.vectors(k)]

    def take(self, k: int, numbers: Tensor, vectors: Sequence[Tensor]) -> None:
        """Nothing has been measured."""

    def advance(self, k: int) -> None:
        """Runs everything when nothing is to be waited for any more."""
        if k < len(self.kernel.passes):
            return
        varying, scalars, flags, factor = self._given
        for at, member in enumerate(self.members):
            self._update(member, {name: column[at] for name, column in varying.items()}, scalars, flags, factor)

    def _update(
        self,
        member: int,
        varying: dict[str, Tensor],
        scalars: Sequence[float | Tensor],
        flags: Sequence[bool],
        factor: float,
    ) -> None:
        """One parameter, the whole of it."""
        residents, shard = self.residents, self.residents.shards[member]
        columns = {name: column[member] for name, column in residents.tensors.items()}
        places = {name: self._place(name, shard) for name in columns}
        whole = {name: _gathered(here, places[name], shard) for name, here in columns.items()}
        elements = elements_of(shard)
        of_step = {name: _gathered(x, elements, shard) for name, x in varying.items()}
        kept = replace(
            residents,
            tensors={name: [tensor] for name, tensor in whole.items()},
            shapes=[shard.shape],
            elements=[first_element(residents.numbers[member])],
            shards=(),
        )
        launcher = TorchLauncher(self.kernel, kept, self.device, [self.statistics[member]])
        launcher.launch({name: [tensor] for name, tensor in of_step.items()}, scalars, flags, factor)
        for name, here in columns.items():
            place = places[name]
            if place is not None:
                here.copy_(whole[name][place.box])

    def _place(self, name: str, shard: Shard) -> Place | None:
        """Where what lies here of a column is; None where that is all."""
        stream = next(s for s in self.kernel.streams if s.name == name.removesuffix(SCALE))
        is_scale = name.endswith(SCALE)
        return place_of(stream.extent, stream.codebook(self.residents.variant), is_scale, self._period(), shard)

    def _period(self) -> int:
        scalars = self._given[1]
        return 1 if self.kernel.pick is None else int(float(scalars[self.kernel.scalars.index(self.kernel.pick)]))


def _gathered(here: Tensor, place: Place | None, shard: Shard) -> Tensor:
    """The whole of a tensor."""
    if place is None:
        return here
    if place.ones:
        return here.new_ones(place.shape)
    return gathered(place.shape, [(place.box, here)], here, shard.groups, shard.device)


def divided(
    kernels: Sequence[Kernel], residents: Sequence[Residents], device: torch.device, statistics: Sequence[dict[str, Tensor]]
) -> list[Launcher]:
    """Binds the kernels of a procedure that reduces to a batch of tensors that are divided."""
    members = range(len(statistics))
    return [DividedTorch(k, r, device, statistics, members) for k, r in zip(kernels, residents, strict=True)]
