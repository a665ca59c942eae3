"""Slices of a separated body: the lines that given results depend on, of one kind of code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from optc.compiler.ir import reads
from optc.dsl.program import Branch, Expression, Let, Role, Statement, Store

Wanted: TypeAlias = Callable[[Let | Store], bool]


class Impossible(Exception):
    """A pass would have to read the old value of a state that an earlier pass has overwritten."""


@dataclass(frozen=True, slots=True)
class Slice:
    """What to take out of a body.

    `in_scope`: lines of the kind; of others nothing is taken, what they bind is given. `roots`: lines to keep in any case;
    a store that is none only gives its name a value. `done`: states whose memory has its new value already.
    """

    in_scope: Wanted
    roots: Wanted
    done: frozenset[str] = frozenset()

    def of(self, body: tuple[Statement, ...], live: frozenset[str] = frozenset()) -> tuple[Statement, ...]:
        """The lines, and those that the names `live` depend on."""
        return self._block(body, set(live), set())[0]

    def _block(
        self, body: tuple[Statement, ...], live: set[str], later: set[str]
    ) -> tuple[tuple[Statement, ...], set[str], set[str]]:
        """(lines, what is live before them, states that are stored here or later)."""
        kept: list[Statement] = []
        for statement in reversed(body):
            match statement:
                case Let() | Store() if self.in_scope(statement):
                    name, stores = statement.target.name, isinstance(statement, Store)
                    if stores and name in self.done:
                        later = later | {name}  # memory has the new value already; reads before this line want the old one
                        continue
                    root = self.roots(statement)
                    if name in live or root:
                        kept.append(statement if root else Let(statement.target, statement.value, statement.span))
                        live = live - {name} | self._names(statement.value, later)
                    if stores:
                        later = later | {name}
                case Branch():
                    then = self._block(statement.then, live, later)
                    otherwise = self._block(statement.otherwise, live, later)
                    live, later = then[1] | otherwise[1], then[2] | otherwise[2]
                    if then[0] or otherwise[0]:
                        kept.append(replace(statement, then=then[0], otherwise=otherwise[0]))
        return tuple(reversed(kept)), live, later

    def _names(self, value: Expression, later: set[str]) -> set[str]:
        names = {r.symbol.name for r in reads(value) if r.symbol.role is not Role.FLAG}
        if names & later & self.done:
            raise Impossible
        return names
