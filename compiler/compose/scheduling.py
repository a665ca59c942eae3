"""Schedules in compositions: one as a modifier, and its values in the place of hypers.

In `AdamW + cosine(T = 1000)` every line that reads `lr` reads what the schedule gives after as many steps as have been done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from optc.compiler.compose.modifier import Names
from optc.compiler.compose.tree import called, declared_hypers, reads, renamed, transformed, values_of
from optc.dsl import nodes
from optc.dsl.check_hypers import literal
from optc.dsl.check_schedule import KNOWN

COUNTER = "steps_done"
"""The hyper that counts the steps of a schedule: how far it has come."""
STAGE: nodes.Stage = "schedule"
_WHOLE = nodes.Interval(nodes.Number(0), nodes.Name("inf"), True, False, True)
_TEXT = "steps that the schedule has made"
_MOMENTA = ("beta1", "momentum")
"""What `momentum:` gives the value of: the first of these that the optimizer has, as `runtime/scheduler.py` has them."""


def function_of(value: nodes.Scheduled, name: str) -> nodes.Define:
    """A value as a function of what it reads of the steps done and the value given."""
    return nodes.Define(name, tuple(known for known in KNOWN if known in reads(value.body)), value.body)


def as_modifier(schedule: nodes.Schedule) -> nodes.Modifier:
    """A schedule as what a composition adds: its functions, its hypers and the count of steps."""
    functions = {value.target: function_of(value, f"{schedule.name}_{value.target}") for value in schedule.values}
    counter = nodes.Hyper("n", nodes.Number(0), outside=COUNTER, counts=True, domain=_WHOLE, text=_TEXT)
    known = {"n": nodes.Name("n")}
    hooks = []
    for target, function in functions.items():
        arguments = tuple(known.get(p, nodes.Name(target)) for p in function.parameters)
        value = nodes.Return(nodes.Call(function.name, arguments))
        hooks.append(nodes.Hook(STAGE, target, None, None, (value,)))
    return nodes.Modifier(
        name=schedule.name,
        text=schedule.text,
        cites=schedule.cites,
        notes=schedule.notes,
        hypers=(*schedule.hypers, counter),
        requires=schedule.requires,
        defines=(*schedule.defines, *functions.values()),
        hooks=tuple(hooks),
        span=schedule.span,
    )


def is_schedule(modifier: nodes.Modifier) -> bool:
    """Whether a modifier gives values to hypers."""
    return any(isinstance(hook, nodes.Hook) and hook.stage == STAGE for hook in modifier.hooks)


def target_of(optimizer: nodes.Optimizer, target: str) -> str | None:
    """The hyper of an optimizer that a schedule gives the value of; None where there is none."""
    wanted = ("lr",) if target == "lr" else _MOMENTA
    return next((name for name in wanted if name in declared_hypers(optimizer.hypers)), None)


def scheduled(
    optimizer: nodes.Optimizer, modifiers: Sequence[nodes.Modifier], names: Names, origins: Mapping[int, str]
) -> tuple[nodes.Optimizer, dict[int, str]]:
    """The optimizer whose lines read the values of this step for scheduled hypers, and where its lines come from.

    Conditions that compare a hyper with a constant stay as they are: they decide which states there are.
    """
    said = dict(origins)
    hooks = [(m.name, h) for m in modifiers for h in m.hooks if isinstance(h, nodes.Hook) and h.stage == STAGE]
    local = {hook.point: names.free(f"{hook.point}_now") for _, hook in hooks}

    def lines(body: tuple[nodes.Statement, ...]) -> tuple[nodes.Statement, ...]:
        changed = tuple(_reading(line, local, said) for line in body)
        first: list[nodes.Statement] = []
        for name, hook in hooks:
            if local[hook.point] in reads(changed):
                first.append(_line(hook, local[hook.point]))
                said[id(first[-1])] = name
        return (*first, *changed)

    if not hooks:
        return optimizer, said
    entries = tuple(replace(entry, body=lines(entry.body)) for entry in optimizer.entries)
    return replace(optimizer, step=lines(optimizer.step), entries=entries), said


def _line(hook: nodes.Hook, local: str) -> nodes.Assign:
    """The line that names what a schedule gives."""
    (last,) = hook.body
    if not isinstance(last, nodes.Return):
        raise RuntimeError("a schedule gives one value")
    return nodes.Assign((nodes.Name(local),), last.value)


def _reading(line: nodes.Statement, local: Mapping[str, str], origins: dict[int, str]) -> nodes.Statement:
    """A line that reads the values of this step; what is inside keeps where it comes from."""

    def change(new: nodes.Node, old: nodes.Node) -> nodes.Node:
        if isinstance(old, nodes.Binary) and _selects(old, local):
            return old
        if isinstance(new, nodes.Name) and new.id in local:
            return replace(new, id=local[new.id])
        if new is not old and id(old) in origins:
            origins[id(new)] = origins[id(old)]
        return new

    return transformed(line, change)


def _selects(node: nodes.Binary, local: Mapping[str, str]) -> bool:
    """Whether this compares a scheduled hyper with a constant."""
    if node.operator not in ("<", "<=", ">", ">=", "==", "!="):
        return False
    sides = ((node.left, node.right), (node.right, node.left))
    return any(isinstance(a, nodes.Name) and a.id in local and literal(b)[0] for a, b in sides)


def for_optimizer(modifier: nodes.Modifier, optimizer: nodes.Optimizer) -> nodes.Modifier:
    """A schedule as far as it concerns an optimizer: what it has no hyper for goes, with all that only this reads."""
    kept: list[nodes.Hook | nodes.Rewrite] = []
    for hook in modifier.hooks:
        if isinstance(hook, nodes.Hook):
            name = target_of(optimizer, hook.point)
            if name is not None:
                kept.append(renamed(replace(hook, point=name), {hook.point: name}) if name != hook.point else hook)
    defines = modifier.defines
    while True:
        used = called(tuple(kept), defines)
        fewer = tuple(define for define in defines if define.name in used)
        if len(fewer) == len(defines):
            break
        defines = fewer
    read = reads(tuple(kept), defines)
    hypers = tuple(hyper for hyper in modifier.hypers if set(values_of(hyper)) & read)
    requires = tuple(r for r in modifier.requires if reads(r) <= {n for h in hypers for n in values_of(h)})
    return replace(modifier, hooks=tuple(kept), defines=defines, hypers=hypers, requires=requires)
