"""PyTorch code that reduces, over tensors of which other processes have parts.

It is one function per kernel, which cannot stop between two passes. So it runs on whole parameters: these are gathered, with
all that they have per element, as many at a time as `BUCKET` holds, updated alike on all processes, and every process keeps its
part. That is correct for every program, and the price of the fallback: as much is sent as parameters have elements, times what
is kept of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from optc.runtime import collectives
from optc.runtime.backend import Launcher, Residents
from optc.runtime.collectives import Whole, gathered
from optc.runtime.columns import Columns
from optc.runtime.draws import first_element
from optc.runtime.parts import Place, elements_of, place_of
from optc.runtime.schema import SCALE, Kernel
from optc.runtime.shapes import Integers
from optc.runtime.sharding import Group, Runs, Shard
from optc.runtime.torch_launch import TorchLauncher


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What of one member's tensors is divided; `at`: its place among those that take part."""

    at: int
    tensors: Mapping[str, Whole]

    @property
    def nbytes(self) -> int:
        """Its bytes in a message."""
        return sum(one.nbytes for one in self.tensors.values())


@dataclass(slots=True)
class DividedTorch:
    """One kernel, one batch: see `optc.runtime.exchange.Divided`. Everything happens when the last pass would have run."""

    kernel: Kernel
    residents: Residents
    device: torch.device
    statistics: Sequence[dict[str, Tensor]]
    members: Sequence[int]
    _given: tuple[Columns, Sequence[float | Tensor], Sequence[bool], float] = field(default=({}, (), (), 1.0))
    _sent: list[tuple[int, int]] = field(default_factory=list)

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
        kinds: dict[tuple[tuple[Group, ...], str], list[_Wanted]] = {}
        for at, member in enumerate(self.members):
            shard = self.residents.shards[member]
            kinds.setdefault((shard.groups, shard.device), []).append(self._wanted(at))
        self._sent = []
        for (groups, device), own in kinds.items():
            for bucket in collectives.buckets(own, lambda one: one.nbytes):
                whole = iter(gathered([tensor for one in bucket for tensor in one.tensors.values()], groups, device))
                for one in bucket:
                    self._update(one.at, {name: next(whole) for name in one.tensors})
                self._sent.append((len(bucket), sum(one.nbytes for one in bucket)))

    def gathers(self) -> Sequence[tuple[int, int]]:
        """See `Divided.gathers`."""
        return self._sent

    def _columns(self, at: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What stays from step to step, and what comes with this one, of a member."""
        member = self.members[at]
        residents = {name: column[member] for name, column in self.residents.tensors.items()}
        return residents, {name: column[at] for name, column in self._given[0].items()}

    def _wanted(self, at: int) -> _Wanted:
        """What is divided of a member's tensors."""
        shard = self.residents.shards[self.members[at]]
        residents, varying = self._columns(at)
        found = {}
        for name, here in {**residents, **varying}.items():
            place = self._place(name, shard) if name in residents else elements_of(shard)
            if place is not None and not place.ones:
                found[name] = Whole(place.shape, [(place.box, here.view(place.size))], here)
        return _Wanted(at, found)

    def _update(self, at: int, whole: Mapping[str, Tensor]) -> None:
        """One parameter, the whole of it; keeps what belongs here."""
        member = self.members[at]
        residents, shard = self.residents, self.residents.shards[member]
        columns, varying = self._columns(at)
        places = {name: self._place(name, shard) for name in columns}
        entries = {
            name: here.new_ones(place.shape) if place.ones else whole[name].view(-1) if place.flat else whole[name]
            for name, here in columns.items()
            if (place := places[name]) is not None
        }
        kept = replace(
            residents,
            tensors={name: [entries.get(name, here)] for name, here in columns.items()},
            shapes=[shard.shape],
            elements=[Runs(first_element(residents.numbers[member]))],
            shards=(),
        )
        launcher = TorchLauncher(self.kernel, kept, self.device, [self.statistics[member]])
        launcher.launch({name: [whole[name]] for name in varying}, *self._given[1:])
        for name, here in columns.items():
            place = places[name]
            if place is not None:
                here.copy_(place.of(kept.tensors[name][0]))

    def _place(self, name: str, shard: Shard) -> Place | None:
        """Where what lies here of a column is; None where that is all."""
        stream = next(s for s in self.kernel.streams if s.name == name.removesuffix(SCALE))
        is_scale = name.endswith(SCALE)
        return place_of(stream.extent, stream.codebook(self.residents.variant), is_scale, self._period(), shard)

    def _period(self) -> int:
        scalars = self._given[1]
        return 1 if self.kernel.pick is None else int(float(scalars[self.kernel.scalars.index(self.kernel.pick)]))


def divided(
    kernels: Sequence[Kernel], residents: Sequence[Residents], device: torch.device, statistics: Sequence[dict[str, Tensor]]
) -> list[Launcher]:
    """Binds the kernels of a procedure that reduces to a batch of tensors that are divided."""
    members = range(len(statistics))
    return [DividedTorch(k, r, device, statistics, members) for k, r in zip(kernels, residents, strict=True)]
