"""Changing trees of nodes as written: what has not changed stays the same object, so that a change can be seen with `is`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, TypeAlias, TypeVar

from optc.dsl import nodes
from optc.dsl.functions import BUILTINS
from optc.dsl.scope import walk

N = TypeVar("N", bound=nodes.Node)
P = TypeVar("P", nodes.Modifier, nodes.Schedule)

Change: TypeAlias = Callable[[nodes.Node, nodes.Node], "nodes.Node | tuple[nodes.Node, ...]"]
"""From a node whose parts have been changed, and the node as it was, to what takes its place; an item may become several."""


def transformed(node: N, change: Change) -> N:
    """The tree with every node changed, from the leaves up."""
    result = _transformed(node, change)
    if not isinstance(result, type(node)):
        raise TypeError("the root of a tree stays what it is")
    return result


def transformed_items(items: tuple[N, ...], change: Change) -> tuple[N, ...]:
    """A list of trees, in which an item may become several."""
    result: tuple[N, ...] = _changed(items, change)
    return result


def _transformed(node: nodes.Node, change: Change) -> nodes.Node | tuple[nodes.Node, ...]:
    updates: dict[str, Any] = {}
    for field in fields(node):
        if field.name != "span":
            value = getattr(node, field.name)
            new = _changed(value, change)
            if new is not value:
                updates[field.name] = new
    return change(replace(node, **updates) if updates else node, node)


def _changed(value: Any, change: Change) -> Any:
    if isinstance(value, nodes.Node):
        return _transformed(value, change)
    if not isinstance(value, tuple) or not any(isinstance(item, nodes.Node) for item in value):
        return value
    items: list[Any] = []
    same = True
    for item in value:
        new = _transformed(item, change) if isinstance(item, nodes.Node) else item
        same = same and new is item
        items += new if isinstance(new, tuple) else (new,)
    return value if same else tuple(items)


def substituted(node: N, values: Mapping[str, nodes.Expression]) -> N:
    """The tree with names replaced by expressions. The parameters and locals of a `define` hide names outside it."""
    if not values:
        return node
    if isinstance(node, nodes.Define):
        hidden = {*node.parameters, *bound(node)}
        values = {name: value for name, value in values.items() if name not in hidden}

    def change(new: nodes.Node, old: nodes.Node) -> nodes.Node:
        return values.get(new.id, new) if isinstance(new, nodes.Name) else new

    return transformed(node, change)


def renamed(node: N, names: Mapping[str, str]) -> N:
    """The tree with values under other names: where they are declared, bound and read."""
    if isinstance(node, nodes.Define):
        hidden = {*node.parameters, *bound(node)}
        names = {old: new for old, new in names.items() if old not in hidden}

    def change(new: nodes.Node, old: nodes.Node) -> nodes.Node:
        if isinstance(new, nodes.Name) and new.id in names:
            return replace(new, id=names[new.id])
        if isinstance(new, (nodes.Hyper, nodes.Element, nodes.State)) and new.name in names:
            return replace(new, name=names[new.name])
        return new

    return transformed(node, change)


def renamed_calls(node: N, names: Mapping[str, str]) -> N:
    """The tree with functions under other names."""

    def change(new: nodes.Node, old: nodes.Node) -> nodes.Node:
        if isinstance(new, nodes.Call) and new.function in names:
            return replace(new, function=names[new.function])
        return replace(new, name=names[new.name]) if isinstance(new, nodes.Define) and new.name in names else new

    return transformed(node, change)


def bound(*roots: object) -> set[str]:
    """Names that lines bind with `=`."""
    return {target.id for node in walk(*roots) if isinstance(node, nodes.Assign) for target in node.targets}


def reads(*roots: object) -> set[str]:
    """Names that expressions read; in a list of statements, the targets of its lines are none."""
    return {name.id for name in read_names(*roots)}


def read_names(*roots: object) -> Iterator[nodes.Name]:
    """The places where names are read."""
    targets = {id(target) for node in walk(*roots) if isinstance(node, (nodes.Assign, nodes.Write)) for target in node.targets}
    yield from (node for node in walk(*roots) if isinstance(node, nodes.Name) and id(node) not in targets)


def called(*roots: object) -> set[str]:
    """Functions that are called."""
    return {node.function for node in walk(*roots) if isinstance(node, nodes.Call)}


def declared_hypers(hypers: tuple[nodes.Hyper, ...]) -> set[str]:
    """The names that hypers give to values: of the elements, for a tuple."""
    return {name for hyper in hypers for name in values_of(hyper)}


def values_of(hyper: nodes.Hyper) -> tuple[str, ...]:
    """The names of a hyper's values."""
    return tuple(e.name for e in hyper.default) if isinstance(hyper.default, tuple) else (hyper.name,)


def declared_states(items: tuple[nodes.StateItem, ...]) -> set[str]:
    """The names of states, those under conditions included."""
    return {node.name for node in walk(items) if isinstance(node, nodes.State)}


def has_rows(part: nodes.Node, beside: Collection[str]) -> bool:
    """Whether a part has states or reductions of rows or columns, or calls a function `beside` it that does."""
    return any(
        (isinstance(node, nodes.State) and node.extent in ("row", "col", "matrix"))
        or (isinstance(node, nodes.Call) and (node.function in beside or _reduces_rows(node.function)))
        for node in walk(part)
    )


def row_functions(defines: Collection[nodes.Define]) -> set[str]:
    """The functions that reduce rows or columns, or call one that does."""
    found: set[str] = set()
    for _ in defines:  # they call each other, in any order
        found |= {define.name for define in defines if has_rows(define, found)}
    return found


def _reduces_rows(function: str) -> bool:
    builtin = BUILTINS.get(function)
    return builtin is not None and builtin.reduces in ("rows", "columns")


Path: TypeAlias = tuple[nodes.Expression, ...]
"""Conditions, the outermost first."""


def states_with_paths(items: Iterable[nodes.StateItem], path: Path = ()) -> Iterator[tuple[nodes.State, Path]]:
    """The states with the conditions they stand under."""
    for item in items:
        if isinstance(item, nodes.State):
            yield item, path
        else:
            yield from states_with_paths(item.then, (*path, item.condition))
            yield from states_with_paths(item.otherwise, (*path, nodes.Unary("not", item.condition)))


def under(path: Path, lines: tuple[nodes.Statement, ...]) -> tuple[nodes.Statement, ...]:
    """Lines under conditions."""
    for condition in reversed(path):
        lines = (nodes.If(condition, lines, ()),)
    return lines


def every_name(part: nodes.Optimizer | nodes.Modifier) -> set[str]:
    """Every name in a part: of hypers (tuples too), states, functions and parameters, bound or read."""
    found: set[str] = set()
    for node in walk(part):
        match node:
            case nodes.Name(id=name):
                found.add(name)
            case nodes.Hyper() | nodes.Element() | nodes.State() | nodes.Input():
                found.add(node.name)
            case nodes.Define():
                found |= {node.name, *node.parameters}
            case nodes.Call(function=name):
                found.add(name)
    return found


def free_name(wish: str, taken: set[str]) -> str:
    """The wished name, longer if it is taken; it is taken from now on."""
    while wish in taken:
        wish += "_"
    taken.add(wish)
    return wish


def before_stops(body: tuple[nodes.Statement, ...], lines: tuple[nodes.Statement, ...]) -> tuple[nodes.Statement, ...]:
    """A body with lines before every `stop`."""
    found: list[nodes.Statement] = []
    for statement in body:
        match statement:
            case nodes.Stop():
                found += (*lines, statement)
            case nodes.If(then=then, otherwise=otherwise):
                found.append(replace(statement, then=before_stops(then, lines), otherwise=before_stops(otherwise, lines)))
            case nodes.Every(body=inner):
                found.append(replace(statement, body=before_stops(inner, lines)))
            case _:
                found.append(statement)
    return tuple(found)


def called_by(defines: tuple[nodes.Define, ...], part: nodes.Node) -> tuple[nodes.Define, ...]:
    """The functions that a part calls, directly or through others."""
    known = {define.name: define for define in defines}
    wanted: set[str] = set()
    pending = called(part)
    while pending:
        name = pending.pop()
        if name in known and name not in wanted:
            wanted.add(name)
            pending |= called(known[name])
    return tuple(define for define in defines if define.name in wanted)


def self_contained(part: P, beside: tuple[nodes.Define, ...]) -> P:
    """The modifier or schedule with the functions beside it in its file that it calls."""
    own = {define.name for define in part.defines}
    taken: tuple[nodes.Define, ...] = called_by(tuple(define for define in beside if define.name not in own), part)
    return replace(part, defines=(*taken, *part.defines)) if taken else part
