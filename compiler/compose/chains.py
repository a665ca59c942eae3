"""Schedules by their names, and chains of them as one schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from optc.compiler.compose.arguments import with_arguments
from optc.compiler.compose.fold import fixed
from optc.compiler.compose.library import Library, Loaded, library_of
from optc.compiler.compose.scheduling import function_of
from optc.compiler.compose.stages import Report
from optc.compiler.compose.tree import renamed_calls, self_contained
from optc.dsl import nodes
from optc.dsl.check_hypers import literal
from optc.dsl.check_schedule import check_schedule
from optc.dsl.parse import parse_file
from optc.dsl.scope import nearest
from optc.dsl.source import Span

Find: TypeAlias = Callable[[nodes.Term], "nodes.Schedule | None"]
"""The schedule that a term names, with its arguments as defaults; None, with a diagnostic, where there is none."""


def schedule_of(found: Loaded, library: Library, report: Report, path: tuple[str, ...] = ()) -> nodes.Schedule | None:
    """What a part of a file declares as a schedule that needs no other; None, with a diagnostic, where a chain is wrong.

    `library` is where the names in that file are looked up, `path` the chains around. Raises SpecError where a schedule is
    wrong by itself.
    """
    node = found.node
    if isinstance(node, nodes.Schedule):
        check_schedule(node, found.source, found.defines)
        return self_contained(node, found.defines)
    if not isinstance(node, nodes.Chain):
        return None
    inside = (*path, node.name)

    def find(term: nodes.Term) -> nodes.Schedule | None:
        head = Span(term.span.start, term.span.start + len(term.name))
        if term.name in inside:
            report("circular", f"`{term.name}` is a chain of itself", head, "name other schedules")
            return None
        part = library.find(term.name)
        if part is None or not isinstance(part.node, (nodes.Schedule, nodes.Chain)):
            near = nearest(term.name, [name for name in library.names() if name != term.name])
            hint = f"did you mean `{near}`?" if near else "optc list shows the schedules"
            report("unknown-schedule", f"there is no schedule `{term.name}`", head, hint)
            return None
        around = library if part.source is found.source else library_of(part.source, parse_file(part.source))
        schedule = schedule_of(part, around, report, inside)
        return None if schedule is None else with_arguments(schedule, term, report)

    return joined(node, find)


def joined(chain: nodes.Chain, find: Find) -> nodes.Schedule | None:
    """The chain as one schedule without hypers; None where one of its parts is unknown."""
    found = [find(link.term) for link in chain.links]
    parts = [part for part in found if part is not None]
    if len(parts) < len(found):
        return None
    defines: list[nodes.Define] = []
    functions: list[dict[str, nodes.Define]] = []
    taken: set[str] = set()
    for number, part in enumerate(parts, 1):
        values = {e.name: e.default for hyper in part.hypers for e in _elements(hyper)}
        constant = replace(fixed(part, values), hypers=(), requires=())
        names = {d.name: _free(f"{d.name}_{number}", taken) for d in constant.defines}
        own = (renamed_calls(value, names) for value in constant.values)
        functions.append({v.target: function_of(v, _free(f"{v.target}_{number}", taken)) for v in own})
        defines += [*(renamed_calls(define, names) for define in constant.defines), *functions[-1].values()]
    targets = [target for target in ("lr", "momentum") if any(target in own for own in functions)]
    ends = [link.steps for link in chain.links]
    values_ = tuple(nodes.Scheduled(_target(t), tuple(_pieces([own.get(t) for own in functions], ends))) for t in targets)
    cites = tuple(dict.fromkeys((*chain.cites, *(cite for part in parts for cite in part.cites))))
    return nodes.Schedule(chain.name, chain.text, cites, chain.notes, (), (), tuple(defines), values_, span=chain.span)


def _target(name: str) -> nodes.Target:
    return "lr" if name == "lr" else "momentum"


def _elements(hyper: nodes.Hyper) -> tuple[nodes.Element, ...]:
    return hyper.default if isinstance(hyper.default, tuple) else (nodes.Element(hyper.name, hyper.default),)


def _free(wish: str, taken: set[str]) -> str:
    while wish in taken:
        wish += "_"
    taken.add(wish)
    return wish


def _pieces(functions: Sequence[nodes.Define | None], steps: Sequence[nodes.Expression | None]) -> Iterator[nodes.Statement]:
    """Which of the functions is in force after `n` steps: each counts from the step where the one before ends."""
    start = 0.0
    pieces: list[tuple[nodes.Expression, nodes.Expression | None]] = []
    for function, length in zip(functions, steps, strict=True):
        since: nodes.Expression = nodes.Name("n") if not start else nodes.Binary("-", nodes.Name("n"), _number(start))
        given = {"n": since, "base": nodes.Name("base")}
        value: nodes.Expression = nodes.Name("base")
        if function is not None:
            value = nodes.Call(function.name, tuple(given[p] for p in function.parameters))
        start += float(_value(length)) if length is not None else 0.0
        pieces.append((value, None if length is None else nodes.Binary("<", nodes.Name("n"), _number(start))))
    last, _ = pieces.pop()
    statements: tuple[nodes.Statement, ...] = (nodes.Assign((nodes.Name("value"),), last),)
    for value, before in reversed(pieces):
        if before is not None:
            statements = (nodes.If(before, (nodes.Assign((nodes.Name("value"),), value),), statements),)
    yield from statements
    yield nodes.Return(nodes.Name("value"))


def _number(value: float) -> nodes.Number:
    return nodes.Number(int(value) if value.is_integer() else value)


def _value(node: nodes.Expression) -> float:
    _, value = literal(node)
    return float(value) if isinstance(value, (int, float)) else 0.0
