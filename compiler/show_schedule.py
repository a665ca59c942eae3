"""Schedules for people: what `optc explain cosine` prints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from optc.compiler.latex import schedule_latex
from optc.compiler.schedule_facts import MOMENTUM, Curve, Found, curve, schedules_in
from optc.compiler.schedules import written_out
from optc.compiler.show_program import show_tree
from optc.dsl import nodes
from optc.dsl.errors import OptcError
from optc.dsl.parse import parse_file
from optc.dsl.show import format_text
from optc.dsl.source import Source

_ROWS = 20
_WIDE = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"


def show_schedules(source: Source, stage: str) -> str:
    """What one stage shows of a file of schedules. Raises SpecError for mistakes, OptcError for a stage without any."""
    if stage not in _STAGES:
        known = ", ".join(_STAGES)
        raise OptcError(f"{source.name}: schedules are plain functions on the host, without a stage {stage}; they have {known}")
    return _STAGES[stage](source)


def _overview(source: Source) -> str:
    parts = [format_text(source, mathematical=True).strip()]
    parts += ["\n".join(_values(found)) for found in schedules_in(source)]
    return "\n\n".join(parts)


def _values(found: Found) -> Iterator[str]:
    """A table of values, with a bar for each rate."""
    schedule = found.kind()
    last = found.horizon(schedule)
    apart = max(1, -(-last // _ROWS))
    values = curve(found.name, schedule, range(0, last + 1, apart), 1.0)
    given = f"; momentum where {MOMENTUM:g} was given" if values.momenta is not None else ""
    yield f"{found.name} after n steps, where the rate 1 was given{given}"
    yield from _rows(values)


def _rows(values: Curve) -> Iterator[str]:
    wide = max(len(f"{values.steps[-1]}"), 4)
    momentum = "  momentum" if values.momenta is not None else ""
    yield f"    {'n':>{wide}}  {'lr':>8}{momentum}"
    highest = max((rate for rate in values.rates if math.isfinite(rate)), default=0.0)
    for number, (n, rate) in enumerate(zip(values.steps, values.rates, strict=True)):
        beta = f"  {values.momenta[number]:8.4f}" if values.momenta is not None else ""
        share = rate / highest if highest > 0 and math.isfinite(rate) else 0.0
        yield f"    {n:>{wide}}  {rate:8.4g}{beta}  {_bar(share)}".rstrip()


def _bar(share: float) -> str:
    whole, part = divmod(round(max(0.0, min(1.0, share)) * _WIDE * 8), 8)
    return "█" * whole + _EIGHTHS[part].strip()


def _parse(source: Source) -> str:
    return show_tree(parse_file(source), source)


def _torch(source: Source) -> str:
    return "\n\n".join(one.emit().rstrip("\n") for one in written_out(source))


def _latex(source: Source) -> str:
    files = [parse_file(one.source) for one in written_out(source)]
    written = [(node, file.defines) for file in files if isinstance(file, nodes.Composition) for node in file.schedules]
    return "\n\n".join(schedule_latex(node, defines) for node, defines in written if isinstance(node, nodes.Schedule))


_STAGES: dict[str, Callable[[Source], str]] = {
    "overview": _overview,
    "parse": _parse,
    "torch": _torch,
    "latex": _latex,
}
