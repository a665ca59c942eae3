"""Storages that keep other states in the place of one: their lines are written out in the spec, before and behind the step.

Under `storing v: rowcol` the state v becomes the states of `rowcol`. The step begins with the value that they stand for,
`v_now`, which takes the place of v in all lines, and ends with the lines that keep its new value.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from optc.compiler.compose.stages import Report
from optc.compiler.compose.tree import (
    Path,
    before_stops,
    bound,
    every_name,
    free_name,
    has_rows,
    renamed,
    row_functions,
    states_with_paths,
    transformed,
    transformed_items,
    under,
)
from optc.dsl import nodes
from optc.dsl.levels import SettingWrong
from optc.dsl.scope import walk
from optc.dsl.storages import is_word, others_of, settings_of, shipped


@dataclass(frozen=True, slots=True)
class _Unfolded:
    """A state, the conditions it stands under, the storage, the condition for it, and what takes the names' places.

    `now` is the value of the state in the step, `next` the one that it gets in a line that writes others, too. `others` is how
    the state is kept where it is not unfolded.
    """

    state: nodes.State
    path: Path
    storage: nodes.Storage
    when: nodes.Expression | None
    names: Mapping[str, str]
    now: str
    next: str
    others: str | None

    @property
    def first(self) -> str:
        """The first of the states in its place."""
        return self.names[next(state.name for state, _ in states_with_paths(self.storage.states))]


def unfolded(
    optimizer: nodes.Optimizer, own: Iterable[nodes.Storage], defines: tuple[nodes.Define, ...], report: Report
) -> nodes.Optimizer:
    """The optimizer with such storages written out; itself, if it has none. `defines` stand beside it."""
    known = known_storages(own)
    chosen = {kept.state: (kept, storage) for kept, storage in by_states(optimizer, known)}
    if not chosen:
        return optimizer
    shape = _shape(optimizer, chosen.values(), defines, report)
    taken = every_name(optimizer)
    found: list[_Unfolded] = []
    for state, path in states_with_paths(optimizer.states):
        if state.name not in chosen:
            continue
        kept, storage = chosen[state.name]
        if state.extent is not None:
            report(
                "wrong-extent", f"`{storage.name}` cannot keep `{state.name}`, which is not like θ", kept.span, "leave it out"
            )
            continue
        if state.initial != nodes.Number(0) and any(_mentions(entry, {state.name}) for entry in optimizer.entries):
            message = f"`{storage.name}` cannot keep `{state.name}`, which does not start as 0 and which an entry names"
            report("unsupported", message, kept.span, "take another storage, or leave the state as it is")
            continue
        try:
            settings, others = settings_of(storage, kept.arguments), others_of(storage)
        except SettingWrong as error:
            wrong = error.diagnostic
            report(wrong.code, wrong.message, wrong.span, wrong.hint or "")
            continue
        if any(map(is_word, kept.arguments)) and not storage.storing:
            message = f"`{storage.name}` keeps no codes that could be rounded at random"
            report("unknown-setting", message, kept.span, "leave `stochastic` out, or take a storage of codes")
            continue
        if others in known and known[others].decode is not None:
            message = f"`{others}` keeps other states, and cannot be what `{storage.name}` leaves other tensors to"
            report("unsupported", message, kept.span, "name a storage of codes, such as `linear4`, or a dtype")
            continue
        inside = {n.name for n in walk(storage.states) if isinstance(n, nodes.State)} | bound(storage.encode)
        names = {name: free_name(f"{state.name}_{name}", taken) for name in sorted(inside)}
        now, after = (free_name(f"{state.name}_{word}", taken) for word in ("now", "next"))
        found.append(_Unfolded(state, path, storage, _condition(settings), names, now, after, others))
    return replace(_written_out(optimizer, {one.state.name: one for one in found}), shape=shape)


def known_storages(own: Iterable[nodes.Storage]) -> dict[str, nodes.Storage]:
    """The shipped ones and these, by name."""
    return {**shipped(), **{storage.name: storage for storage in own}}


def by_states(optimizer: nodes.Optimizer, known: Mapping[str, nodes.Storage]) -> Iterator[tuple[nodes.Kept, nodes.Storage]]:
    """The clauses whose storages keep other states, with these storages."""
    for kept in optimizer.storing:
        if kept.storage in known and known[kept.storage].decode is not None:
            yield kept, known[kept.storage]


def _shape(
    optimizer: nodes.Optimizer,
    chosen: Iterable[tuple[nodes.Kept, nodes.Storage]],
    defines: tuple[nodes.Define, ...],
    report: Report,
) -> str | None:
    """What rows are rows of: one thing for all of a step."""
    beside = row_functions((*defines, *optimizer.defines))
    shape, asked = optimizer.shape, [(k, s) for k, s in chosen if has_rows(s, ())]
    if shape is None and not has_rows(optimizer, beside) and asked:
        shape = asked[0][1].shape
    for kept, storage in asked:
        if storage.shape not in (shape, None) or (storage.shape is None and shape == "square"):
            message = f"`{storage.name}` does not mean the same rows as the lines of the step or another storage: they are "
            message += "those of `shape: square`" if "square" in (shape, storage.shape) else "those of `shape: matrix`"
            report("shapes-differ", f"{message} for one of them only", kept.span, "take another storage")
    return shape


def _written_out(optimizer: nodes.Optimizer, found: Mapping[str, _Unfolded]) -> nodes.Optimizer:
    storing: list[nodes.Kept] = []
    for kept in optimizer.storing:
        one = found.get(kept.state)
        if one is None:
            storing.append(kept)
        else:
            word = tuple(filter(is_word, kept.arguments))  # at random are codes that it keeps, and others
            storing += [
                replace(inner, state=one.names[inner.state], arguments=(*inner.arguments, *word), span=kept.span)
                for inner in one.storage.storing
            ]
            if one.others is not None and one.when is not None:
                storing.append(nodes.Kept(kept.state, one.others, word, span=kept.span))
    entries = []
    for entry in optimizer.entries:
        named = {name: one for name, one in found.items() if _mentions(entry, {name})}
        entries.append(replace(entry, body=_around(entry.body, named)) if named else entry)
    return replace(
        optimizer,
        states=_replaced(optimizer.states, found),
        step=_around(optimizer.step, found),
        entries=tuple(entries),
        storing=tuple(storing),
    )


def _mentions(entry: nodes.Entry, names: Container[str]) -> bool:
    return any(isinstance(node, nodes.Name) and node.id in names for node in walk(entry.body))


def _around(body: tuple[nodes.Statement, ...], found: Mapping[str, _Unfolded]) -> tuple[nodes.Statement, ...]:
    """Lines with those before and behind them, which stand before every `stop`, too."""
    before = tuple(line for one in found.values() for line in _decoded(one))
    behind = tuple(line for one in found.values() for line in _encoded(one))
    return (*before, *before_stops(_with_values(body, found), behind), *behind)


def _decoded(one: _Unfolded) -> Iterator[nodes.Statement]:
    now = nodes.Name(one.now)
    lines: tuple[nodes.Statement, ...] = (nodes.Assign((now,), renamed(one.storage.decode or nodes.Number(0), one.names)),)
    if one.state.initial != nodes.Number(0):
        new = nodes.Call("new", (nodes.Name(one.first),))
        lines = (nodes.If(new, (nodes.Assign((now,), one.state.initial),), lines),)
    if one.path:
        yield nodes.Assign((now,), nodes.Number(0))
    yield from under(one.path, _either(one.when, lines, (nodes.Assign((now,), nodes.Name(one.state.name)),)))


def _encoded(one: _Unfolded) -> tuple[nodes.Statement, ...]:
    lines = tuple(renamed(line, {**one.names, one.storage.value: one.now}) for line in one.storage.encode)
    back: tuple[nodes.Statement, ...] = (nodes.Write((nodes.Name(one.state.name),), nodes.Name(one.now)),)
    return under(one.path, _either(one.when, lines, back))


def _with_values(step: tuple[nodes.Statement, ...], found: Mapping[str, _Unfolded]) -> tuple[nodes.Statement, ...]:
    """The lines with the values that are computed with in the places of the states."""

    def change(new: nodes.Node, old: nodes.Node) -> nodes.Node | tuple[nodes.Node, ...]:
        if isinstance(old, nodes.Call) and old.function == "new":
            return _is_new(old, found)
        if isinstance(new, nodes.Name) and new.id in found:
            return replace(new, id=found[new.id].now)
        if isinstance(new, nodes.Write) and isinstance(old, nodes.Write):
            mine = [target.id in found for target in old.targets]
            if all(mine):
                return nodes.Assign(new.targets, new.value, span=new.span)
            if any(mine):
                return _apart(new, [found[target.id].next if target.id in found else None for target in old.targets])
        return new

    return transformed_items(step, change)


def _is_new(call: nodes.Call, found: Mapping[str, _Unfolded]) -> nodes.Expression:
    """Whether a state is new: the first of those in its place, where they are."""
    asked = call.arguments[0] if len(call.arguments) == 1 else call
    one = found.get(asked.id) if isinstance(asked, nodes.Name) else None
    if one is None:
        return call
    own = nodes.Call("new", (nodes.Name(one.first),), span=call.span)
    return own if one.when is None else nodes.Call("where", (one.when, own, call), span=call.span)


def _apart(write: nodes.Write, names: list[str | None]) -> tuple[nodes.Statement, ...]:
    """A line that writes states and values together, where `names` are those of values that are not written yet."""
    if not isinstance(write.value, tuple) or len(write.value) != len(write.targets):
        return (write,)  # a mistake that the checks find
    parts = list(zip(write.targets, write.value, names, strict=True))
    early = tuple(nodes.Assign((nodes.Name(name),), value, span=write.span) for _, value, name in parts if name is not None)
    others = [(target, value) for target, value, name in parts if name is None]
    value = others[0][1] if len(others) == 1 else tuple(value for _, value in others)
    late = tuple(nodes.Assign((target,), nodes.Name(name), span=write.span) for target, _, name in parts if name is not None)
    return (*early, replace(write, targets=tuple(target for target, _ in others), value=value), *late)


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
