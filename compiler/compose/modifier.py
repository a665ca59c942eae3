"""One modifier by itself: whether its form is right, and its names as they stand among those of a base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from optc.compiler.compose.tree import (
    bound,
    declared_hypers,
    declared_states,
    every_name,
    reads,
    renamed,
    renamed_calls,
    values_of,
)
from optc.dsl import nodes
from optc.dsl.errors import Diagnostic
from optc.dsl.functions import BUILTINS
from optc.dsl.names import PYTHON_KEYWORDS, RESERVED_NAMES, pretty
from optc.dsl.scope import walk

POINTS = ("g", "m_hat", "v_hat", "u", "theta")
"""Gradient, numerator of the direction, second moment as used, direction, parameter."""


# --- form ---------------------------------------------------------------------------------------------------------------------


def mistakes_of(modifier: nodes.Modifier) -> list[Diagnostic]:
    """What is wrong with a modifier, whatever it is added to."""
    found: list[Diagnostic] = []
    for hook in modifier.hooks:
        found += _rewrite(hook) if isinstance(hook, nodes.Rewrite) else _hook(hook, declared_states(modifier.states))
    used = reads(modifier.hooks, modifier.states, modifier.defines, modifier.requires)
    for hyper in modifier.hypers:
        for name in values_of(hyper):
            if name not in used:
                message = f"no line reads the hyper `{name}`"
                found.append(Diagnostic("unused-hyper", message, hyper.span, "take it out, or use it"))
    return found


def _hook(hook: nodes.Hook, states: set[str]) -> list[Diagnostic]:
    found: list[Diagnostic] = []
    changed = hook.alias or hook.point
    if hook.otherwise is not None and hook.alias is None:
        hint = f"write `{hook.stage} {hook.point} else {hook.otherwise} as z:`, and `z` in its lines"
        found.append(Diagnostic("no-alias", "a stage on one of two points needs a name for it", hook.span, hint))
    effects = 0
    for node in walk(hook.body):
        match node:
            case nodes.Assign(targets=targets):
                effects += any(target.id == changed for target in targets)
                for target in targets:
                    if target.id != changed and (target.id in POINTS or target.id in RESERVED_NAMES):
                        message = f"`{hook.stage}` changes `{changed}` only, not `{target.id}`"
                        hint = "give the value another name, or put the line into a stage on that point"
                        found.append(Diagnostic("wrong-point", message, target.span, hint))
                    elif target.id in states:
                        hint = f"write `{target.id} <- …`"
                        message = f"`{target.id}` is a state: it is written, not named"
                        found.append(Diagnostic("assign-to-state", message, target.span, hint))
            case nodes.Write(targets=targets):
                effects += 1
                for target in targets:
                    if target.id in POINTS:
                        hint = f"write `{target.id} = …`: the point is a value, and θ is written by the base"
                        message = "a modifier names the new value of a point, and writes only its own states"
                        found.append(Diagnostic("write-to-point", message, target.span, hint))
                    elif target.id not in states:
                        message = f"`{target.id}` is no state of this modifier; a state of the base is never changed by one"
                        hint = "declare it in `state:`, or write `=` to give a name a value"
                        found.append(Diagnostic("write-to-non-state", message, target.span, hint))
            case nodes.Stop() | nodes.Return():
                hint = "leave the line out; `where` keeps the point as it was"
                found.append(Diagnostic("stop-in-modifier", "a modifier cannot end the base's step", node.span, hint))
    if not effects:
        hint = f"end it with `{changed} = …`"
        found.append(Diagnostic("no-effect", f"this stage neither changes `{changed}` nor writes a state", hook.span, hint))
    return found


def _rewrite(rule: nodes.Rewrite) -> list[Diagnostic]:
    if isinstance(rule.pattern, nodes.Name):
        hint = "write an operation: `a/(sqrt(b) + c)`"
        return [Diagnostic("open-pattern", "a name alone is no pattern", rule.pattern.span, hint)]
    absent = [name for name in rule.variables if name not in reads(rule.pattern)]
    return [
        Diagnostic("unused-variable", f"the pattern has no `{name}`", rule.span, "take it out of the brackets")
        for name in absent
    ]


# --- names --------------------------------------------------------------------------------------------------------------------


class Names:
    """Names that are taken in the optimizer in the making."""

    def __init__(self, base: nodes.Optimizer, defines: tuple[nodes.Define, ...]) -> None:
        self.taken = every_name(base) | {define.name for define in defines} | RESERVED_NAMES | set(BUILTINS) | {*POINTS}

    def free(self, *wishes: str) -> str:
        """The first of the wished names that is free, else the last with a number; it is taken from now on."""
        for wish in wishes:
            if wish not in self.taken:
                self.taken.add(wish)
                return wish
        number = 2
        while f"{wishes[-1]}_{number}" in self.taken:
            number += 1
        return self.free(f"{wishes[-1]}_{number}")


def apart(modifier: nodes.Modifier, names: Names) -> nodes.Modifier:
    """The modifier with names of its own: `<modifier>_<name>` for hypers and states that have no name outside, and for what
    would clash."""
    prefix = modifier.name
    mapping: dict[str, str] = {}
    for hyper in modifier.hypers:
        for name in values_of(hyper):
            wishes = [hyper.outside] if hyper.outside is not None and name == hyper.name else []
            mapping[name] = names.free(*(w for w in wishes if w not in PYTHON_KEYWORDS), f"{prefix}_{name}")
    for state in (node for node in walk(modifier.states) if isinstance(node, nodes.State)):
        mapping[state.name] = names.free(*filter(None, [state.outside]), f"{prefix}_{state.name}")
    aliases = {hook.alias for hook in modifier.hooks if isinstance(hook, nodes.Hook)}
    for name in sorted(bound(modifier.hooks) - aliases - set(POINTS) - set(mapping)):
        mapping[name] = names.free(name, f"{prefix}_{name}")
    functions = {d.name: names.free(d.name, f"{prefix}_{d.name}") for d in modifier.defines}

    def hyper_named(hyper: nodes.Hyper) -> nodes.Hyper:
        new = renamed(hyper, mapping)
        if isinstance(hyper.default, tuple):
            return replace(new, name=hyper.outside or f"{prefix}_{hyper.name}", outside=None)
        outside = hyper.outside or f"{prefix}_{hyper.name}"
        return replace(new, outside=None if outside == new.name else outside)

    def state_named(state: nodes.StateItem) -> nodes.StateItem:
        if isinstance(state, nodes.State):
            new = renamed(state, mapping)
            outside = state.outside or f"{prefix}_{state.name}"
            return replace(new, outside=None if outside == new.name else outside)
        condition = renamed(replace(state, then=(), otherwise=()), mapping)
        return replace(condition, then=tuple(map(state_named, state.then)), otherwise=tuple(map(state_named, state.otherwise)))

    hypers, states = tuple(map(hyper_named, modifier.hypers)), tuple(map(state_named, modifier.states))
    defines = tuple(renamed(define, mapping) for define in modifier.defines)
    hooks = tuple(_renamed_hook(hook, mapping) for hook in modifier.hooks)
    requires = tuple(renamed(require, mapping) for require in modifier.requires)
    result = replace(modifier, hypers=hypers, requires=requires, states=states, defines=defines, hooks=hooks)
    return renamed_calls(result, functions)


def _renamed_hook(hook: nodes.Hook | nodes.Rewrite, mapping: Mapping[str, str]) -> nodes.Hook | nodes.Rewrite:
    """A rewrite's variables hide names of the modifier, and so does the name of a point."""
    hidden = set(hook.variables) if isinstance(hook, nodes.Rewrite) else {hook.alias}
    return renamed(hook, {old: new for old, new in mapping.items() if old not in hidden})


def unseen(names: set[str], seen: set[str], modifier: nodes.Modifier) -> list[str]:
    """The names that a modifier reads and that it cannot see at this place, those of its own left out."""
    own = declared_hypers(modifier.hypers) | declared_states(modifier.states) | bound(modifier.hooks)
    return sorted(names - seen - own - RESERVED_NAMES)


def listed(names: tuple[str, ...] | list[str]) -> str:
    """Names in the ASCII spelling, and the mathematical one where that is another: `` `m_hat` (m̂), `u` ``."""
    return ", ".join(f"`{name}`" + (f" ({pretty(name)})" if pretty(name) != name else "") for name in names)
