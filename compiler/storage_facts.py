"""What can be told of a storage, as values: how large codes are, and how near to a number they come."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from optc.dsl import nodes
from optc.dsl.errors import SpecError
from optc.dsl.names import STOCHASTIC
from optc.dsl.program import Storage
from optc.dsl.source import Source
from optc.dsl.storages import resolve

_MOST_DECADES = 12


@dataclass(frozen=True, slots=True)
class Decade:
    """Numbers from `low` to `high`, as shares of the largest |x| of their block.

    So many `levels` above 0 lie there. `error` is how far what is kept may be from x, as a share of x.
    """

    low: float
    high: float
    levels: int
    error: float


@dataclass(frozen=True, slots=True)
class Codes:
    """A storage whose codes stand for levels. `levels` are shares of the largest |x| of a block, ascending, each once.

    `at_random` is the same storage rounded at random; None where that cannot be.
    """

    storage: Storage
    levels: tuple[float, ...]
    decades: tuple[Decade, ...]
    at_random: Storage | None = None

    @property
    def bits(self) -> int:
        """Of one code."""
        return self.storage.bits

    @property
    def has_zero(self) -> bool:
        """Whether 0 is kept as 0."""
        return 0.0 in self.levels

    @property
    def smallest(self) -> float:
        """The smallest level above 0."""
        return min(level for level in self.levels if level > 0)


def codes(node: nodes.Storage, source: Source, name: str | None = None) -> Codes | None:
    """The levels of a definition; None where it keeps other states. Raises SpecError where the definition is wrong."""
    if node.decode is not None:
        return None
    found = resolve(nodes.Kept("x", name or node.name, span=node.span), (node,))
    if not isinstance(found, Storage):
        raise SpecError(source, [found])
    levels = np.unique([level / found.unit for level in found.levels if level == level]) + 0.0  # -0 is 0
    word = nodes.Argument(None, nodes.Name(STOCHASTIC))
    random = resolve(nodes.Kept("x", name or node.name, (word,), span=node.span), (node,))
    at_random = random if isinstance(random, Storage) else None
    return Codes(found, tuple(map(float, levels)), tuple(_decades(levels)), at_random)


def _decades(levels: np.ndarray) -> Iterator[Decade]:
    """From 1 down to the smallest level above 0."""
    above = levels[levels > 0]
    signs = [levels] if levels[0] >= 0 else [levels, -levels[::-1]]
    last = min(_MOST_DECADES, max(1, math.ceil(-math.log10(above[0]) - 1e-9)))
    for k in range(last):
        low, high = max(10.0 ** -(k + 1), float(above[0])), 10.0**-k
        inside = (above > 10.0 ** -(k + 1) * (1 + 1e-9)) & (above <= high * (1 + 1e-9))
        yield Decade(low, high, int(inside.sum()), max(_worst(of_sign, low, high) for of_sign in signs))


def _worst(levels: np.ndarray, low: float, high: float) -> float:
    """The largest |kept - x|/x between two positive numbers: at an end, or where the nearest level changes."""
    middles = (levels[:-1] + levels[1:]) / 2
    x = np.concatenate([[low, high], middles[(middles > low) & (middles < high)]])
    return float((np.abs(levels[:, None] - x).min(axis=0) / x).max())
