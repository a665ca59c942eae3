"""When values can be had: in which phase of a step, and before which of its passes over memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from optc.compiler.extents import is_measure, is_total
from optc.compiler.ir import reads
from optc.dsl.program import Apply, Branch, Let, Read, Role, Statement, Store

Level: TypeAlias = tuple[int, int]
"""(phase, pass of the phase): the value can be had before that pass. What a pass measures is known before the next one, a total
in the next phase."""


class Levels:
    """The levels of a separated body.

    `measured`: in which pass a reduction can be measured. `totals`: total -> (its part, the level of the part). `stores`: from
    which pass on the new value of a state or θ can be had.
    """

    def __init__(self, body: tuple[Statement, ...]) -> None:
        self.measured: dict[str, Level] = {}
        self.totals: dict[str, tuple[str, Level]] = {}
        self.stores: dict[str, Level] = {}
        self._block(body, {})

    def _block(self, body: tuple[Statement, ...], levels: dict[str, Level]) -> dict[str, Level]:
        for statement in body:
            match statement:
                case Let(target=target, value=value) | Store(target=target, value=value):
                    level = max([(0, 0), *(self._level(r, levels) for r in reads(value))])
                    if is_measure(statement):
                        self.measured[target.name] = level
                        level = (level[0], level[1] + 1)
                    elif is_total(statement) and isinstance(value, Apply) and isinstance(value.arguments[0], Read):
                        self.totals[target.name] = (value.arguments[0].symbol.name, level)
                        level = (level[0] + 1, 0)
                    levels[target.name] = level
                    if isinstance(statement, Store):
                        self.stores[target.name] = max(level, self.stores.get(target.name, level))
                case Branch(then=then, otherwise=otherwise):
                    sides = self._block(then, dict(levels)), self._block(otherwise, dict(levels))
                    names = sides[0].keys() | sides[1].keys()
                    levels.update({n: max(s.get(n, (0, 0)) for s in sides) for n in names})
        return levels

    def _level(self, read: Read, levels: Mapping[str, Level]) -> Level:
        return (0, 0) if read.symbol.role is Role.FLAG else levels.get(read.symbol.name, (0, 0))
