"""Storages that keep other states in the place of one: their lines are written out in the spec, before and behind the step.

Under `storing v: rowcol` the state v becomes the states of `rowcol`. The step begins with the value that they stand for,
`v_now`, which takes the place of v in all lines, and ends with the lines that keep its new value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from optc.compiler.compose.tree import (
    Path,
    bound,
    every_name,
    renamed,
    states_with_paths,
    transformed,
    transformed_items,
    under,
)
from optc.dsl import nodes
from optc.dsl.levels import SettingWrong
from optc.dsl.scope import walk
from optc.dsl.source import Span
from optc.dsl.storages import settings_of, shipped

Report: TypeAlias = Callable[[str, str, Span, str], None]


@dataclass(frozen=True, slots=True)
class _Unfolded:
    """A state, the conditions it stands under, the storage, the condition for it, and what takes the names' places."""

    state: nodes.State
    path: Path
    storage: nodes.Storage
    when: nodes.Expression | None
    names: Mapping[str, str]
    now: str


def unfolded(optimizer: nodes.Optimizer, own: Iterable[nodes.Storage], report: Report) -> nodes.Optimizer:
    """The optimizer with such storages written out; itself, if it has none."""
    known = {**shipped(), **{storage.name: storage for storage in own}}
    chosen = {
        k.state: (k, known[k.storage]) for k in optimizer.storing if k.storage in known and known[k.storage].decode is not None
    }
    if not chosen:
        return optimizer
    stops = any(isinstance(node, nodes.Stop) for node in walk(optimizer.step))
    taken = every_name(optimizer)
    found: list[_Unfolded] = []
    for state, path in states_with_paths(optimizer.states):
        if state.name not in chosen:
            continue
        kept, storage = chosen[state.name]
        if stops or optimizer.entries or _written_together(optimizer, state.name) or state.extent is not None:
            hint = "take another storage, or leave the state as it is"
            why = "the step may stop, or an entry or a line that writes several states is in the way, or it is not like θ"
            report("unsupported", f"`{storage.name}` cannot keep `{state.name}`: {why}", kept.span, hint)
            continue
        try:
            settings = settings_of(storage, kept.arguments)
        except SettingWrong as error:
            wrong = error.diagnostic
            report(wrong.code, wrong.message, wrong.span, wrong.hint or "")
            continue
        inside = {n.name for n in walk(storage.states) if isinstance(n, nodes.State)} | bound(storage.encode)
        names = {name: _free(f"{state.name}_{name}", taken) for name in sorted(inside)}
        found.append(_Unfolded(state, path, storage, _condition(settings), names, _free(f"{state.name}_now", taken)))
    return _written_out(optimizer, {one.state.name: one for one in found})


def _written_out(optimizer: nodes.Optimizer, found: Mapping[str, _Unfolded]) -> nodes.Optimizer:
    before: list[nodes.Statement] = []
    behind: list[nodes.Statement] = []
    for one in found.values():
        start, decode = nodes.Name(one.state.name), renamed(one.storage.decode or nodes.Number(0), one.names)
        now, first = nodes.Name(one.now), next(state.name for state, _ in states_with_paths(one.storage.states))
        lines: tuple[nodes.Statement, ...] = (nodes.Assign((now,), decode),)
        if one.state.initial != nodes.Number(0):
            new = nodes.Call("new", (nodes.Name(one.names[first]),))
            lines = (nodes.If(new, (nodes.Assign((now,), one.state.initial),), lines),)
        encode = tuple(renamed(line, {**one.names, one.storage.value: one.now}) for line in one.storage.encode)
        plain: tuple[nodes.Statement, ...] = (nodes.Assign((now,), start),)
        back: tuple[nodes.Statement, ...] = (nodes.Write((start,), now),)
        if one.path:
            before.append(nodes.Assign((now,), nodes.Number(0)))
        before += under(one.path, _either(one.when, lines, plain))
        behind += under(one.path, _either(one.when, encode, back))
    step = _with_values(optimizer.step, found)
    keys = {kept.state for kept in optimizer.storing if kept.state in found}
    return replace(
        optimizer,
        states=_replaced(optimizer.states, found),
        step=(*before, *step, *behind),
        storing=tuple(kept for kept in optimizer.storing if kept.state not in keys),
    )


def _with_values(step: tuple[nodes.Statement, ...], found: Mapping[str, _Unfolded]) -> tuple[nodes.Statement, ...]:
    """The step with the values that are computed with in the places of the states."""

    def change(new: nodes.Node, old: nodes.Node) -> nodes.Node:
        if isinstance(new, nodes.Call) and new.function == "new":
            return old  # the state itself is asked about
        if isinstance(new, nodes.Name) and new.id in found:
            return replace(new, id=found[new.id].now)
        if isinstance(new, nodes.Write) and isinstance(old, nodes.Write) and old.targets[0].id in found:
            return nodes.Assign(new.targets, new.value, span=new.span)
        return new

    return transformed_items(step, change)


def _replaced(items: tuple[nodes.StateItem, ...], found: Mapping[str, _Unfolded]) -> tuple[nodes.StateItem, ...]:
    result: list[nodes.StateItem] = []
    for item in items:
        if isinstance(item, nodes.StateIf):
            result.append(replace(item, then=_replaced(item.then, found), otherwise=_replaced(item.otherwise, found)))
        elif item.name not in found:
            result.append(item)
        else:
            one = found[item.name]
            own = tuple(_named(state, one) for state in one.storage.states)
            result += own if one.when is None else (nodes.StateIf(one.when, own, (item,)),)
    return tuple(result)


def _named(item: nodes.StateItem, one: _Unfolded) -> nodes.StateItem:
    def change(new: nodes.Node, old: nodes.Node) -> nodes.Node:
        if isinstance(new, nodes.State) and isinstance(old, nodes.State):
            outside = f"{one.state.outside or one.state.name}_{old.outside or old.name}"
            return replace(new, name=one.names[old.name], outside=None if outside == one.names[old.name] else outside)
        return new

    return transformed(item, change)


def _written_together(optimizer: nodes.Optimizer, name: str) -> bool:
    """Whether a line writes the state together with others."""
    writes = (node for node in walk(optimizer.step) if isinstance(node, nodes.Write))
    return any(len(write.targets) > 1 and name in {target.id for target in write.targets} for write in writes)


def _condition(settings: Mapping[str, int]) -> nodes.Expression | None:
    parts = [
        nodes.Binary(">=", nodes.Name(name), nodes.Number(settings[key]))
        for name, key in (("ndim", "rank"), ("numel", "smallest"))
        if settings[key] > 0
    ]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else nodes.Binary("and", parts[0], parts[1])


def _either(
    when: nodes.Expression | None, then: tuple[nodes.Statement, ...], otherwise: tuple[nodes.Statement, ...]
) -> tuple[nodes.Statement, ...]:
    return then if when is None else (nodes.If(when, then, otherwise),)


def _free(wish: str, taken: set[str]) -> str:
    while wish in taken:
        wish += "_"
    taken.add(wish)
    return wish
