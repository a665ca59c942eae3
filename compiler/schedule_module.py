"""Schedule -> the text of a generated Python module: plain functions of the steps done, and a class that holds its hypers."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from optc.compiler.backends import host
from optc.compiler.backends.names import PYTHON, Namer
from optc.compiler.ir import expressions, reads
from optc.compiler.layout import names, rows, without_unused_imports
from optc.compiler.module_parts import (
    ENVIRONMENT,
    TEXT_WIDTH,
    argument_lines,
    escaped,
    hyper_row,
    listed,
    parameter,
    reference_lines,
    require_row,
    with_header,
)
from optc.dsl.check_schedule import KNOWN
from optc.dsl.program import Role, Schedule, ScheduledValue

_TEXTS = {
    "lr": "The learning rate after `n` steps, for a group that was given `base`.",
    "momentum": "The momentum (or β1) after `n` steps, for a group that was given `base`.",
}


@dataclass(frozen=True, slots=True)
class _ValueText:
    target: str
    arguments: tuple[str, ...]
    text: str
    lines: tuple[str, ...]


def class_name(name: str) -> str:
    """`one_cycle` -> `OneCycle`; a name that has capitals keeps them."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def emit_schedule(schedule: Schedule, module: str) -> str:
    """The whole module."""
    table = {value.target: _arguments(schedule, value) for value in schedule.values}
    body = ENVIRONMENT.get_template("schedule.py.j2").render(
        rows=rows,
        name=class_name(schedule.name),
        spec_name=schedule.name,
        values=[_value(schedule, value, table[value.target]) for value in schedule.values],
        docstring="\n".join(f"    {line}".rstrip() for line in _docstring(schedule)).strip(),
        hypers=[hyper_row(hyper) for hyper in schedule.hypers],
        requires=[require_row(require, schedule) for require in schedule.requires],
        table=[f'"{target}": Value({target}, {names(arguments)})' for target, arguments in table.items()],
        signature=[parameter(hyper, live=False) for hyper in schedule.hypers],
        given=", ".join(f"{hyper.key}={hyper.key}" for hyper in schedule.hypers),
    )
    title = f"{schedule.name}: {schedule.text}" if schedule.text else schedule.name
    listing = listed(schedule.source.text, ("define ", "lr:", "momentum:"))
    return with_header(
        title, module, schedule.source.text, schedule.cites, listing, (), without_unused_imports(_without_empty(body))
    )


def _without_empty(body: str) -> str:
    """Without brackets around no parameters."""
    return body.replace("(\n        self,\n    )", "(self)")


def _arguments(schedule: Schedule, value: ScheduledValue) -> tuple[str, ...]:
    """What a value reads: `n`, `base` and hypers by their names inside, in this order."""
    read = [r.symbol for e in (*expressions(value.lines), value.value) for r in reads(e)]
    wanted = {symbol.name for symbol in read if symbol.role is Role.HYPER or symbol.name in KNOWN}
    order = (*KNOWN, *(name for hyper in schedule.hypers for name in hyper.names))
    return tuple(name for name in order if name in wanted)


def _value(schedule: Schedule, value: ScheduledValue, arguments: tuple[str, ...]) -> _ValueText:
    namer = Namer(PYTHON | {"ieee"})
    spelled = host.dialect(schedule, namer)
    lines = list(host.block(value.lines, spelled, schedule.source, ""))
    result = host.top(value.value, spelled)
    annotated = tuple(f"{namer(a)}: {host.annotation(a, schedule)}" for a in arguments)
    return _ValueText(value.target, annotated, _TEXTS[value.target], (*lines, f"return {result}"))


def _docstring(schedule: Schedule) -> list[str]:
    lines = [escaped(schedule.text or schedule.name), ""]
    for note in schedule.notes:
        lines += [*textwrap.wrap(escaped(note), TEXT_WIDTH), ""]
    if schedule.hypers:
        lines += [*argument_lines(schedule.hypers), ""]
    lines += ["Raises:", "    ValueError: a hyper is out of range; the message names it, its value and the range."]
    return [*lines, *reference_lines(schedule.cites)]
