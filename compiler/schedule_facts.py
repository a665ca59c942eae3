"""What can be told of a schedule, as values: its numbers over the steps, and how many steps are worth showing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optc.compiler.compose.arguments import with_arguments
from optc.compiler.compose.chains import schedule_of
from optc.compiler.compose.library import library_around, library_of
from optc.compiler.instant import schedule_class
from optc.compiler.schedules import written_out
from optc.dsl import nodes
from optc.dsl.errors import Reports, SpecError
from optc.dsl.parse import parse_file
from optc.dsl.show import show
from optc.dsl.source import Source

if TYPE_CHECKING:
    from optc.runtime.schedules import Schedule

MOMENTUM = 0.95
"""What a group was given as its momentum, or β1, wherever that matters."""
_USUAL = 1000
"""Steps that are shown of a schedule that says nothing of how long it takes."""
_LONGEST = 1 << 17
_LATER = (1.0, 1.3, 2.7, 7.9, 31.1)
"""Where a schedule is looked at to see whether it has come to rest, as multiples of its length."""
_PERIODS = 4
_PARTS = 16


@dataclass(frozen=True, slots=True)
class Found:
    """A schedule of a file: its class, what it was called, and the steps of the chain before its last part."""

    name: str
    kind: type[Schedule]
    before: int = 0
    last: type[Schedule] | None = None

    def horizon(self, schedule: Schedule) -> int:
        """How many steps are worth showing; `schedule` is of this kind."""
        return self.before + horizon(schedule if self.last is None else self.last())


@dataclass(frozen=True, slots=True)
class Curve:
    """Numbers after `steps`; `momenta` is None where the schedule gives no momentum."""

    name: str
    steps: tuple[int, ...]
    rates: tuple[float, ...]
    momenta: tuple[float, ...] | None


def schedules_in(source: Source) -> list[Found]:
    """The schedules of a file, chains as one; none of a file with an optimizer. Raises SpecError with every mistake."""
    found: list[Found] = []
    file = parse_file(source)
    written = file.schedules if isinstance(file, nodes.Composition) else ()
    for node, one in zip(written, written_out(source), strict=False):
        kind = schedule_class(one)
        before, last = _end_of(node, source) if isinstance(node, nodes.Chain) else (0, None)
        found.append(Found(node.name, kind, before, last))
    return found


def curve(name: str, schedule: Schedule, steps: Sequence[int], base: float) -> Curve:
    """The numbers of a schedule, for a group that was given `base`, and the momentum `MOMENTUM`."""
    rates = tuple(schedule(n, base) for n in steps)
    momenta = tuple(schedule.momentum(n, MOMENTUM) or 0.0 for n in steps) if schedule.has_momentum else None
    return Curve(name, tuple(steps), rates, momenta)


def evenly(last: int, most: int) -> list[int]:
    """Whole steps from 0 to `last`: all of them, or `most` that are as far apart as can be."""
    if last < most:
        return list(range(last + 1))
    return sorted({round(number * last / (most - 1)) for number in range(most)})


def horizon(schedule: Schedule) -> int:
    """How many steps show what a schedule does.

    Those that it takes until it rests, a part more where it jumps there or has just warmed up; a few of its periods where it
    never does. Its length is the largest of its whole numbers, and of what may be ∞ and is not (milestones).
    """
    lengths = _lengths(schedule)
    if not lengths:
        steps = _USUAL
        while not _rests(schedule, steps) and schedule(steps) > schedule(0) / 2 and steps < _LONGEST:
            steps *= 2
        return steps
    length = max(lengths)
    if not _rests(schedule, length):
        return _PERIODS * length
    highest = max(schedule(length * part / _PARTS) for part in range(_PARTS))
    if schedule(length) > highest:
        return 2 * length
    jumps = abs(schedule(length) - schedule(length - 1)) > 0.02 * highest
    return math.ceil(1.25 * length) if jumps else length


def _rests(schedule: Schedule, length: int) -> bool:
    return len({schedule(length * times) for times in _LATER}) == 1


def _lengths(schedule: Schedule) -> list[int]:
    found: list[int] = []
    for hyper in schedule.hypers:
        value = getattr(schedule, hyper.key)
        endless = hyper.kind == "real" and hyper.high_closed and hyper.high == math.inf
        if hyper.kind == "integer" or endless:
            numbers = value if isinstance(value, tuple) else (value,)
            found += [math.ceil(n) for n in numbers if isinstance(n, int | float) and 1 <= n < math.inf]
    return found


def _end_of(chain: nodes.Chain, source: Source) -> tuple[int, type[Schedule]]:
    """When the last part of a chain begins, and that part."""
    before = sum(link.steps for link in chain.links if link.steps is not None)
    term = chain.links[-1].term
    library = library_of(source, parse_file(source))
    part = library.find(term.name)
    if part is None:
        raise RuntimeError("a chain that was checked names schedules that there are")
    if isinstance(part.node, nodes.Chain):
        more, last = _end_of(part.node, part.source)
        return before + more, last
    report = Reports(source)
    node = schedule_of(part, library_around(part, source, library), report)
    if node is not None:
        node = with_arguments(node, term, report)
    if node is None or report.found:
        raise SpecError(source, report.found)
    alone = Source("<last>", show(nodes.Composition(schedules=(node,)), mathematical=True))
    (one,) = written_out(alone)
    return before, schedule_class(one)
