"""The body of a pass: load, the spec's lines, store, for one block of elements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from optc.compiler.backends.triton import flow
from optc.compiler.backends.triton.kept import Codes
from optc.compiler.backends.triton.lines import Lines
from optc.compiler.backends.triton.pairs import join_text, split_text
from optc.compiler.backends.triton.signs import Signs
from optc.compiler.backends.triton.spelling import Spelling
from optc.compiler.conditions import both, written_when
from optc.compiler.plan import Pass
from optc.dsl.program import GRADIENT, Role
from optc.dsl.source import Source
from optc.dsl.storages import REST


@dataclass(frozen=True, slots=True)
class Tile:
    """Prints one pass; `pointer[stream]` is the block of addresses a stream is read from and written to.

    What the pass measures is given to the tile and returned with the block in it. `conditions` are the statistics that it gets
    as 1 or 0; they are spread over the block, as Triton's interpreter takes a condition for a number when it does that itself.
    `vectors` are the statistics that differ from row to row or from column to column; they are spread, too.
    """

    sweep: Pass
    conditions: tuple[str, ...]
    vectors: tuple[str, ...]
    static_flags: tuple[str, ...]
    spelling: Spelling
    pointer: dict[str, str]
    source: Source
    codes: Mapping[str, Codes]
    signs: Mapping[str, Signs]

    def lines(self) -> Iterator[str]:
        """Loads, statements, stores."""
        sweep, spell = self.sweep, self.spelling.spell
        elementwise = flow.elementwise_names(sweep.body, (*(s.name for s in sweep.streams), *self.conditions, *self.vectors))
        plain = [s.name for s in sweep.streams if s.name not in self.codes and s.name not in self.signs]
        shape = f"{self.pointer[plain[0]]}.shape" if plain else "(SIZE,)" if sweep.streams else "(1,)"
        body = Lines(sweep.body, elementwise, shape, "real", self.spelling, self.static_flags, self.source)
        bound: set[str] = {name for name, _ in sweep.measures}
        for stream in sweep.streams:
            address = self.pointer[stream.name]
            written = written_when(sweep.body, stream.name)
            if stream.role is Role.REST:
                continue
            if stream.role is Role.ELEMENT:
                yield f"{spell(stream.name)} = {address}"
                bound.add(stream.name)
            elif stream.reads and stream.name in self.codes:
                yield from self.codes[stream.name].load(body.when)
                bound.add(stream.name)
            elif stream.reads and stream.name in self.signs:
                yield from self.signs[stream.name].load(body.when)
                bound.add(stream.name)
            elif stream.reads:
                scale = " * factor" if stream.name == GRADIENT.name else ""
                value = f"tl.load({address}, mask).to(real){scale}"
                if stream.pair is not None:
                    value = join_text(stream.pair, address, self.pointer[REST])
                yield from body.when(stream.exists, f"{spell(stream.name)} = {value}")
                bound.add(stream.name)
            elif flow.reads_host_flags(written, self.static_flags):
                yield f"{spell(stream.name)} = {body.spread('0.0', 'real')}"
                bound.add(stream.name)
        for name in self.vectors:
            test = " != 0.0" if name in self.conditions else ""
            yield f"{spell(name)} = tl.broadcast_to({spell(name)}, {shape}){test}"
        for name in self.conditions:
            if name not in self.vectors:
                yield f"{spell(name)} = {body.spread(spell(name), 'real')} != 0.0"
        yield from body.printed(bound)
        for stream in sweep.streams:
            if stream.writes and stream.role is not Role.REST:
                when = both(stream.exists, written_when(sweep.body, stream.name))
                if stream.name in self.codes:
                    dither = None if stream.dither is None else self.spelling.value(stream.dither)
                    yield from self.codes[stream.name].store(when, body.when, dither)
                    continue
                if stream.name in self.signs:
                    yield from self.signs[stream.name].store(when, body.spread_out(spell(stream.name)), body.when)
                    continue
                store = f"tl.store({self.pointer[stream.name]}, {spell(stream.name)}, mask)"
                if stream.pair is not None:
                    number = body.spread_out(spell(stream.name))
                    store = split_text(stream.pair, number, self.pointer[stream.name], self.pointer[REST])
                yield from body.when(when, store)
        if sweep.measures:
            yield "return " + ", ".join(spell(name) for name, _ in sweep.measures)
