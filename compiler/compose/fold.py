"""A hyper fixed to a value: put in its place, conditions decided, and what nothing reads any more taken out.

Arithmetic is folded only where the result is the same number, bit for bit, whatever the rest holds: `1*x`, `x - 0`, and `h*0`
for a hyper that is finite and not negative. `0*θ` stays, for θ may be infinite.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TypeVar

from optc.compiler.compose.tree import bound, called, read_names, reads, substituted, transformed, values_of
from optc.dsl import nodes
from optc.dsl.check_hypers import literal
from optc.dsl.scope import walk

_COMPARE = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_LITERALS = (nodes.Number, nodes.Boolean, nodes.Text, nodes.Nothing)

Part = TypeVar("Part", nodes.Optimizer, nodes.Modifier, nodes.Schedule)


def fixed(part: Part, values: Mapping[str, nodes.Expression]) -> Part:
    """The part with hypers fixed, out of its signature, and everything folded that this decides.

    Locals that become constants are put in their places; states, lines and hypers that are read no more are left out.
    """
    finite = {name for hyper in part.hypers if _finite(hyper) for name in values_of(hyper)}
    result = replace(part, hypers=tuple(hyper for hyper in part.hypers if hyper.name not in values))
    pending = dict(values)
    while pending:
        result = _folded(_put(result, pending), result, finite)
        pending = _constants(result, part)
        result = _without_lines(result, set(pending))
    return result


def never_none(part: Part, names: Collection[str]) -> Part:
    """The part with what asks whether these hypers are `none` decided: they are not."""
    if not names:
        return part

    def change(new: nodes.Node, old: nodes.Node) -> nodes.Node:
        if isinstance(new, nodes.Binary) and new.operator in ("==", "!="):
            sides = ((new.left, new.right), (new.right, new.left))
            if any(isinstance(a, nodes.Name) and a.id in names and isinstance(b, nodes.Nothing) for a, b in sides):
                return nodes.Boolean(new.operator == "!=", span=new.span)
        return new

    return _folded(transformed(part, change), part, set())


def _put(part: Part, values: Mapping[str, nodes.Expression]) -> Part:
    defines = tuple(substituted(define, values) for define in part.defines)
    return replace(substituted(replace(part, defines=()), values), defines=defines)


def _finite(hyper: nodes.Hyper) -> bool:
    """Whether a hyper is always a number in [0, inf)."""
    domain = hyper.domain
    if not isinstance(domain, nodes.Interval) or isinstance(hyper.default, nodes.Nothing):
        return False
    (_, low), (_, high) = literal(domain.low), literal(domain.high)
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        return False
    return low >= 0 and (high < math.inf or not domain.high_closed)


def _folded(part: Part, before: Part, finite: set[str]) -> Part:
    """Everything decided that follows from literals. Folding what the author wrote so is harmless: it is decided as well."""

    def change(new: nodes.Node, old: nodes.Node) -> nodes.Node | tuple[nodes.Node, ...]:
        match new:
            case nodes.If(condition=nodes.Boolean(value=truth)) | nodes.StateIf(condition=nodes.Boolean(value=truth)):
                return new.then if truth else new.otherwise
            case nodes.If() | nodes.StateIf() if new is not old:
                return _without_empty_sides(new)
            case nodes.Every(body=()) | nodes.Hook(body=()):
                return ()
            case nodes.Require(condition=nodes.Boolean(value=True)):
                return ()
            case nodes.Unary() | nodes.Binary() | nodes.Call():
                return folded_expression(new, finite)
        return new

    return transformed(part, change)


def _without_empty_sides(node: nodes.If | nodes.StateIf) -> nodes.Node | tuple[nodes.Node, ...]:
    if node.then:
        return node
    if not node.otherwise:
        return ()
    opposite = nodes.Unary("not", node.condition)
    if isinstance(node, nodes.If):
        return nodes.If(opposite, node.otherwise, (), span=node.span)
    return nodes.StateIf(opposite, node.otherwise, (), span=node.span)


def folded_expression(node: nodes.Unary | nodes.Binary | nodes.Call, finite: set[str]) -> nodes.Expression:
    """One operation whose parts are folded."""
    match node:
        case nodes.Unary(operator="not", operand=nodes.Boolean(value=truth)):
            return nodes.Boolean(not truth, span=node.span)
        case nodes.Call(function="where", arguments=(nodes.Boolean(value=truth), then, otherwise)):
            return then if truth else otherwise
        case nodes.Call(function="where", arguments=(_, then, otherwise)) if then == otherwise:
            return then
        case nodes.Binary(operator="and" | "or" as name, left=left, right=right):
            for one, other in ((left, right), (right, left)):
                if isinstance(one, nodes.Boolean):
                    return other if one.value is (name == "and") else one
        case nodes.Binary(operator=name) if name in _COMPARE:
            return _compared(node)
        case nodes.Binary():
            return _arithmetic(node, finite)
    return node


def _compared(node: nodes.Binary) -> nodes.Expression:
    (left_known, left), (right_known, right) = literal(node.left), literal(node.right)
    if not (left_known and right_known) or not (isinstance(node.left, _LITERALS) or isinstance(node.right, _LITERALS)):
        return node
    if node.operator in ("==", "!="):
        same = left == right and isinstance(left, bool) is isinstance(right, bool)
        return nodes.Boolean(same is (node.operator == "=="), span=node.span)
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return nodes.Boolean(bool(_COMPARE[node.operator](left, right)), span=node.span)
    return node


def _arithmetic(node: nodes.Binary, finite: set[str]) -> nodes.Expression:
    left, right = node.left, node.right
    match node.operator:
        case "*":
            for one, other in ((left, right), (right, left)):
                if _is(one, 1):
                    return other
                if _is(one, 0) and _all_finite(other, finite):
                    return nodes.Number(0, span=node.span)
        case "/" if _is(right, 1):
            return left
        case "-" if _is(right, 0):
            return left
        case "+" if _is(right, 0) and _all_finite(left, finite):
            return left
        case "+" if _is(left, 0) and _all_finite(right, finite):
            return right
    return node


def _is(node: nodes.Expression, value: int) -> bool:
    return isinstance(node, nodes.Number) and node.value == value


def _all_finite(node: nodes.Expression, finite: set[str]) -> bool:
    """Whether this is a literal or a hyper that is finite and not negative (then `+ 0` and `* 0` are exact, the sign too)."""
    return isinstance(node, nodes.Number) or (isinstance(node, nodes.Name) and node.id in finite)


# --- what nothing reads any more ----------------------------------------------------------------------------------------------


def _lines(part: nodes.Optimizer | nodes.Modifier | nodes.Schedule) -> tuple[nodes.Node, ...]:
    if isinstance(part, nodes.Optimizer):
        return (*part.step, *part.entries)
    return part.hooks if isinstance(part, nodes.Modifier) else part.values


def _constants(part: Part, original: Part) -> dict[str, nodes.Expression]:
    """Locals, bound once, that have become literals by folding."""
    lines, was = _assigned(_lines(part)), _assigned(_lines(original))
    return {
        name: values[0]
        for name, values in lines.items()
        if len(values) == 1 and isinstance(values[0], _LITERALS) and was.get(name) != values and name not in ("g", "theta")
    }


def _assigned(lines: tuple[nodes.Node, ...]) -> dict[str, list[nodes.Expression]]:
    found: dict[str, list[nodes.Expression]] = {}
    for node in walk(lines):
        if isinstance(node, nodes.Assign):
            values = node.value if isinstance(node.value, tuple) else (node.value,)
            for target in node.targets:
                found.setdefault(target.id, []).append(values[0] if len(node.targets) == len(values) == 1 else target)
    return found


def _without_lines(part: Part, names: set[str]) -> Part:
    """The part without the lines that bind or write these names only; blocks that this empties go too."""

    def change(new: nodes.Node, old: nodes.Node) -> nodes.Node | tuple[nodes.Node, ...]:
        match new:
            case nodes.Assign(targets=targets) | nodes.Write(targets=targets) if {t.id for t in targets} <= names:
                return ()
            case nodes.State(name=name) if name in names:
                return ()
            case nodes.If() | nodes.StateIf() if new is not old:
                return _without_empty_sides(new)
            case nodes.Every(body=()):
                return ()
        return new

    return transformed(part, change) if names else part


def unread(optimizer: nodes.Optimizer) -> frozenset[str]:
    """Locals that nothing reads, and states that only their own lines read."""
    lines = walk(_lines(optimizer), optimizer.states)
    own: dict[str, set[int]] = {}
    for node in lines:
        if isinstance(node, nodes.Write) and len(node.targets) == 1:
            own.setdefault(node.targets[0].id, set()).update(id(name) for name in read_names(node))
    read: set[str] = set()
    for name in read_names(_lines(optimizer), optimizer.states):
        if id(name) not in own.get(name.id, ()):
            read.add(name.id)
    states = {node.name for node in walk(optimizer.states) if isinstance(node, nodes.State)}
    entered = {t.id for node in walk(optimizer.entries) if isinstance(node, nodes.Write) for t in node.targets}
    return frozenset((bound(optimizer.step) | states - entered) - read - {"g", "theta"})


def cleaned(optimizer: nodes.Optimizer, before: nodes.Optimizer) -> nodes.Optimizer:
    """Without the lines, states, functions and hypers that are read no more; what `before` did not read either stays."""
    while True:
        gone = unread(optimizer) - unread(before)
        if not gone:
            break
        optimizer = _without_lines(optimizer, set(gone))
    while True:
        unused = {d.name for d in optimizer.defines} - called(_lines(optimizer), optimizer.defines)
        if not unused:
            break
        optimizer = replace(optimizer, defines=tuple(d for d in optimizer.defines if d.name not in unused))
    return _without_unread_hypers(optimizer)


def _without_unread_hypers(optimizer: nodes.Optimizer) -> nodes.Optimizer:
    read = reads(_lines(optimizer), optimizer.states, optimizer.defines)
    requires = tuple(r for r in optimizer.requires if not (names := reads(r)) or names & read)
    read |= reads(requires)
    hypers: list[nodes.Hyper] = []
    for hyper in optimizer.hypers:
        if isinstance(hyper.default, tuple):
            kept = tuple(element for element in hyper.default if element.name in read)
            hypers += [hyper if len(kept) == len(hyper.default) else replace(hyper, default=kept)] if kept else []
        elif hyper.name in read:
            hypers.append(hyper)
    return replace(optimizer, hypers=tuple(hypers), requires=requires)
