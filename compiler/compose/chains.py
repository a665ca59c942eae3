"""Schedules by their names, and chains of them as one schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TypeAlias

from optc.compiler.compose.arguments import with_arguments
from optc.compiler.compose.fold import fixed
from optc.compiler.compose.library import Library, Loaded, library_around
from optc.compiler.compose.scheduling import function_of
from optc.compiler.compose.stages import Report
from optc.compiler.compose.tree import free_name, renamed_calls, self_contained
from optc.dsl import nodes
from optc.dsl.check_schedule import check_schedule
from optc.dsl.scope import nearest
from optc.dsl.source import Span

Find: TypeAlias = Callable[[nodes.Term], "nodes.Schedule | None"]
"""The schedule that a term names, with its arguments as defaults; None, with a diagnostic, where there is none."""
_TARGETS: tuple[nodes.Target, ...] = ("lr", "momentum")


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
        schedule = schedule_of(part, library_around(part, found.source, library), report, inside)
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
        names = {d.name: free_name(f"{d.name}_{number}", taken) for d in constant.defines}
        own = (renamed_calls(value, names) for value in constant.values)
        functions.append({v.target: function_of(v, free_name(f"{v.target}_{number}", taken)) for v in own})
        defines += [*(renamed_calls(define, names) for define in constant.defines), *functions[-1].values()]
    lengths = [link.steps for link in chain.links]
    given = (target for target in _TARGETS if any(target in own for own in functions))
    scheduled = tuple(nodes.Scheduled(target, _pieces([own.get(target) for own in functions], lengths)) for target in given)
    cites = tuple(dict.fromkeys((*chain.cites, *(cite for part in parts for cite in part.cites))))
    return nodes.Schedule(chain.name, chain.text, cites, chain.notes, (), (), tuple(defines), scheduled, span=chain.span)


def _elements(hyper: nodes.Hyper) -> tuple[nodes.Element, ...]:
    return hyper.default if isinstance(hyper.default, tuple) else (nodes.Element(hyper.name, hyper.default),)


def _pieces(functions: Sequence[nodes.Define | None], lengths: Sequence[int | None]) -> tuple[nodes.Statement, ...]:
    """Which of the functions is in force after `n` steps: each counts from the step where the one before ends."""
    n, base, value = nodes.Name("n"), nodes.Name("base"), nodes.Name("value")
    starts = [0, *accumulate(length for length in lengths if length is not None)]
    lines: tuple[nodes.Statement, ...] = ()
    for function, start, length in reversed([*zip(functions, starts, lengths, strict=True)]):
        given: dict[str, nodes.Expression] = {"n": nodes.Binary("-", n, nodes.Number(start)) if start else n, "base": base}
        result = base if function is None else nodes.Call(function.name, tuple(given[p] for p in function.parameters))
        own = (nodes.Assign((value,), result),)
        lines = own if length is None else (nodes.If(nodes.Binary("<", n, nodes.Number(start + length)), own, lines),)
    return (*lines, nodes.Return(value))
