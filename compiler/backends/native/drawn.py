"""Random numbers: drawn for a piece of elements before the loop over it (`runtime/draws.hpp`), which then finds them in memory.

So a block of Philox serves four neighbours. Kernels that pick elements compute a block where they need a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from optc.compiler.backends.native.lines import Lines, Names
from optc.compiler.conditions import FALSE, either, needed_when, of_sides
from optc.compiler.ir import map_expression, map_statements, statements, walk
from optc.compiler.plan import Kernel
from optc.dsl.program import DRAW, ELEMENT, TRUE, Apply, Constant, Expression, Let, Read, Role, Statement, Store, Symbol


def draws_in(body: tuple[Statement, ...]) -> list[Apply]:
    """The draws of a body's lines, each once."""
    values = [line.value for line in statements(body) if isinstance(line, Let | Store)]
    parts = (part for value in values for part in walk(value))
    return list(dict.fromkeys(part for part in parts if isinstance(part, Apply) and part.operation == DRAW))


def draws_before(kernel: Kernel, *bodies: tuple[Statement, ...]) -> bool:
    """Whether numbers are drawn before the loops over these bodies."""
    return kernel.pick is None and any(map(draws_in, bodies))


@dataclass(frozen=True, slots=True)
class Drawn:
    """Those of one function. Its loops go over pieces of up to PIECE elements."""

    draws: Sequence[Apply]
    flags: frozenset[str]
    body: tuple[Statement, ...]
    names: Names
    lines: Lines

    @staticmethod
    def of(kernel: Kernel, body: tuple[Statement, ...], names: Names, lines: Lines) -> Drawn:
        """Those of a body."""
        flags = frozenset((*kernel.static_flags, *kernel.host_flags))
        return Drawn(draws_in(body) if draws_before(kernel, body) else [], flags, body, names, lines)

    def found(self) -> tuple[Statement, ...]:
        """The body, with names for what is drawn."""
        known: dict[Expression, Read] = {draw: Read(_symbol(draw), draw.type, draw.span) for draw in self.draws}
        return map_statements(self.body, lambda value: map_expression(value, lambda part: known.get(part, part)))

    def declared(self) -> list[str]:
        """What is drawn, and a buffer for it."""
        given = [(self._beside(draw, "drawn"), map(self.lines.expression, draw.arguments[1:])) for draw in self.draws]
        return [f"Drawn<PIECE> {name}({', '.join(numbers)});" for name, numbers in given]

    def opened(self, first: str, count: str) -> list[str]:
        """Before a loop over `count` elements from element `first` of the chunk on."""
        elements = self.names.beside(ELEMENT.name, "at")
        found = []
        for draw in self.draws:
            name, buffer = self._beside(draw, "at"), self._beside(draw, "drawn")
            when = self._needed(draw)
            call = f"{buffer}.of({elements}, {first}, {count})"
            guard = "" if when == TRUE else f"{self.lines.expression(when, 11)} ? "
            found.append(f"const uint32_t* __restrict {name} = {guard}{call}{f' : {buffer}.words' if guard else ''};")
        return found

    def loads(self, place: str) -> list[str]:
        """In the loop; `place`: of an element in the piece."""
        return [f"const math_t {self.names(_symbol(d))} = uniform({self._beside(d, 'at')}[{place}]);" for d in self.draws]

    def _needed(self, draw: Apply) -> Expression:
        """The condition over flags under which the body reads what is drawn."""
        return needed_when(self.body, lambda line: _needed_by(line.value, draw, self.flags), self.flags)

    def _beside(self, draw: Apply, suffix: str) -> str:
        return self.names.beside(_symbol(draw).name, suffix)


def _symbol(draw: Apply) -> Symbol:
    """The name of what is drawn, after its place in the text."""
    place = draw.arguments[-1]
    return Symbol(Role.ELEMENT, f"{DRAW}_{place.value:g}" if isinstance(place, Constant) else DRAW)


def _needed_by(value: Expression, draw: Apply, flags: frozenset[str]) -> Expression:
    """The condition over flags under which a value needs what is drawn; others count as true and as false."""
    if value == draw:
        return TRUE
    if not isinstance(value, Apply):
        return FALSE
    parts = [_needed_by(part, draw, flags) for part in value.arguments]
    if value.operation == "where":
        return either(parts[0], of_sides(value.arguments[0], parts[1], parts[2], flags))
    nothing: Expression = FALSE
    return reduce(either, parts, nothing)
