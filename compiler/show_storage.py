"""Storages for people: what `optc explain dynamic8` prints."""

from __future__ import annotations

from collections.abc import Iterator

from optc.compiler.storage_facts import Codes, codes
from optc.dsl import nodes
from optc.dsl.program import Storage
from optc.dsl.show import format_text
from optc.dsl.source import Source
from optc.dsl.storages import resolve

INDENT = "    "


def show_storages(storages: tuple[nodes.Storage, ...], source: Source) -> str:
    """A file of storages in mathematical spelling, and what each keeps. Raises SpecError where one is wrong."""
    parts = [format_text(source, mathematical=True).strip()]
    parts += ["\n".join(_storage(storage, source)) for storage in storages]
    return "\n\n".join(parts)


def _storage(node: nodes.Storage, source: Source) -> Iterator[str]:
    found = codes(node, source)
    yield f"{node.name} keeps"
    if found is not None:
        yield from (f"{INDENT}{line}" if line else "" for line in _codes(found))
        return
    for state in node.states:
        if isinstance(state, nodes.State):
            kept = next((_kept(kept) for kept in node.storing if kept.state == state.name), "in the dtype of the arithmetic")
            yield f"{INDENT}{state.name}: one number per {place_of(state)}, {kept}"
    yield f"{INDENT}in the place of one state; how far that is off depends on the numbers"


def _kept(clause: nodes.Kept) -> str:
    """How a state of a storage is kept itself; with a scale of 1, how far that is off."""
    found = resolve(clause, ())
    if isinstance(found, Storage) and found.fixed:
        return f"{found.name}: {found.bits} bits, off by {found.error:.4g} at most"
    return clause.storage


def place_of(state: nodes.State) -> str:
    """What a state has one number for, in a word."""
    return {None: "element", "col": "column"}.get(state.extent, str(state.extent))


def _codes(found: Codes) -> Iterator[str]:
    storage, levels = found.storage, found.levels
    if found.bits == 1:
        yield f"1 bit, and a scale of 1 for {storage.block} numbers: {storage.bytes:.4g} bytes per number"
        yield "-1 and 1, as they are"
        return
    yield f"{found.bits} bits and a scale for {storage.block} numbers: {storage.bytes:.4g} bytes per number"
    zero = "0 among them" if found.has_zero else "0 not among them"
    yield f"{len(levels)} levels from {levels[0]:.4g} to {levels[-1]:.4g} of the largest of the block, {zero}"
    yield f"numbers that are off by {percent(storage.error)} of the largest of the block at most"
    if found.at_random is not None:
        off = percent(found.at_random.error)
        yield f"{found.at_random.name}: between two levels up or down at random, off by {off} at most; the mean is the number"
    yield f"numbers of their own in tensors of less than {storage.smallest} elements"
    yield ""
    yield "|x|/largest         levels above 0   off by at most"
    for decade in found.decades:
        yield f"{span(decade.low, decade.high):<20}{decade.levels:>14}   {percent(decade.error)} of x"
    least = f"{found.smallest:.2g}"
    yield f"what is smaller is kept as {f'0 or {least}' if found.has_zero else least}"
    if levels[0] >= 0:
        yield f"what is negative is kept as {levels[0]:.2g}"


def percent(share: float) -> str:
    """As `0.7 %`."""
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def span(low: float, high: float) -> str:
    """As `0.01 to 0.1`."""
    return f"{low:.2g} to {high:.2g}".replace("e-0", "e-")
