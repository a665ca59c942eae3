"""An optimizer and modifiers to one optimizer that is written out: what goes on from here knows no modifiers.

    compose(adamw, [Applied(term, grams)], source).optimizer    # a nodes.Optimizer, like one that a parser returns

The fixed order of stages settles the order of effects; what cannot be combined is refused at the place of the modifier in the
composition. `expand` finds the parts of a text, and gives the text of what comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from optc.compiler.compose.fold import cleaned
from optc.compiler.compose.insertion import (
    ORDER,
    Placed,
    changes_theta,
    last_binding,
    placed,
    reads_theta,
    seen_points,
    started_late,
    stops_after_theta,
    theta_line,
)
from optc.compiler.compose.modifier import Names, apart, listed, unseen
from optc.compiler.compose.rewrite import found, replacement
from optc.compiler.compose.scheduling import STAGE, for_optimizer, is_schedule, scheduled
from optc.compiler.compose.tree import (
    bound,
    declared_hypers,
    declared_states,
    has_rows,
    reads,
    renamed,
    row_functions,
    transformed_items,
)
from optc.dsl import nodes
from optc.dsl.errors import Reports
from optc.dsl.scope import walk
from optc.dsl.show import show_expression
from optc.dsl.source import Source, Span

ALONE = frozenset({"schedule", "clip", "couple", "mask", "trust", "decay"})
"""Stages that one modifier at most may take."""

Report: TypeAlias = Callable[[str, str, Span, str], None]


@dataclass(frozen=True, slots=True)
class Applied:
    """A modifier with its arguments as defaults, and the term of the composition that it stands for."""

    term: nodes.Term
    modifier: nodes.Modifier


@dataclass(frozen=True, slots=True)
class Composed:
    """An optimizer that is written out; `origins` says by the identity of a line of its step which modifier it comes from."""

    optimizer: nodes.Optimizer
    origins: Mapping[int, str]


def compose(
    base: nodes.Optimizer, modifiers: Sequence[Applied], source: Source, defines: tuple[nodes.Define, ...] = ()
) -> Composed:
    """The base with all modifiers. `source` holds the terms; `defines` are functions beside the base.

    Raises SpecError with every reason why these cannot be combined.
    """
    report = Reports(source)
    modifiers = [replace(a, modifier=_for(base, a, report)) if is_schedule(a.modifier) else a for a in modifiers]
    _stages(modifiers, report)
    if modifiers and theta_line(base.step) is None:
        hint = "a base writes θ in one line, not inside an `if`"
        report("no-theta-write", f"`{base.name}` has no line that writes θ at the top level", modifiers[0].term.span, hint)
    if not report.found:
        _outside(base, modifiers, report)
        _shapes(base, modifiers, defines, report)
        _stops(base, modifiers, report)
    names = Names(base, defines)
    renamed_modifiers = [replace(a, modifier=apart(a.modifier, names)) for a in modifiers] if not report.found else []
    rewritten, origins = _rewritten(base, renamed_modifiers, report)
    hooks = list(_placed(base, rewritten, renamed_modifiers, report))
    report.check()
    result = cleaned(rewritten, base) if rewritten is not base else base
    by_stage = sorted(hooks, key=lambda hook: ORDER.index(hook.stage))
    first = {hook.modifier: number for number, hook in reversed([*enumerate(by_stage)]) if hook.point == "g"}
    starts: list[nodes.Statement] = []
    if first:
        states, lines = started_late(result.states)
        result, starts = replace(result, states=states), [*lines]
    for applied in renamed_modifiers:
        modifier, place = applied.modifier, first.get(applied.term.name)
        if first and place != 0:
            states, lines = started_late(modifier.states)
            modifier = replace(modifier, states=states)
            if place is None:
                starts += lines
            else:
                by_stage[place] = replace(by_stage[place], lines=(*lines, *by_stage[place].lines))
        result = _declared(result, modifier)
    hooks = by_stage
    if hooks:
        step = placed((*starts, *result.step), hooks, names, origins)
        result, origins = replace(result, step=step.lines), dict(step.origins)
    return Composed(*scheduled(result, [a.modifier for a in renamed_modifiers], names, origins))


def _for(base: nodes.Optimizer, applied: Applied, report: Report) -> nodes.Modifier:
    """A schedule as far as it concerns the base; one that does not is reported."""
    modifier = for_optimizer(applied.modifier, base)
    if not modifier.hooks:
        wanted = ", ".join(dict.fromkeys(h.point for h in applied.modifier.hooks if isinstance(h, nodes.Hook)))
        message = f"`{applied.term.name}` gives `{wanted}`, which `{base.name}` does not have"
        known = listed(sorted(declared_hypers(base.hypers)))
        report("missing-hyper", message, applied.term.span, f"the base's hypers are {known or 'none'}")
    return modifier


def _declared(optimizer: nodes.Optimizer, modifier: nodes.Modifier) -> nodes.Optimizer:
    """With a modifier's declarations, and its texts as notes."""
    lead = (f"{modifier.name}: {modifier.text}",) if modifier.text else ()
    return replace(
        optimizer,
        cites=(*optimizer.cites, *(cite for cite in modifier.cites if cite not in optimizer.cites)),
        notes=(*optimizer.notes, *lead, *(f"{modifier.name}: {note}" for note in modifier.notes)),
        hypers=(*optimizer.hypers, *modifier.hypers),
        requires=(*optimizer.requires, *modifier.requires),
        states=(*optimizer.states, *modifier.states),
        defines=(*optimizer.defines, *modifier.defines),
        shape=optimizer.shape or modifier.shape,
    )


# --- refusals -----------------------------------------------------------------------------------------------------------------


def _stages(modifiers: Sequence[Applied], report: Report) -> None:
    """One modifier at most in a stage that takes one."""
    for stage in ORDER:
        users = [a for a in modifiers for h in a.modifier.hooks if isinstance(h, nodes.Hook) and h.stage == stage]
        if stage in ALONE:
            for second in (a for a in users[1:] if a is not users[0]):
                message = f"`{second.term.name}` and `{users[0].term.name}` both act in the stage `{stage}`, which takes one"
                report("stage-taken", message, second.term.span, "leave one of them out")


def _shapes(base: nodes.Optimizer, modifiers: Sequence[Applied], defines: tuple[nodes.Define, ...], report: Report) -> None:
    """Rows and columns mean the same to all that use them."""
    users: tuple[tuple[nodes.Optimizer | nodes.Modifier, Span], ...]
    users = ((base, base.span), *((applied.modifier, applied.term.span) for applied in modifiers))
    beside = row_functions(defines)
    shaped = [(part, span) for part, span in users if part.shape is not None or has_rows(part, beside)]
    for part, span in shaped[1:]:
        first = shaped[0][0]
        if part.shape != first.shape:
            said = part.shape or first.shape
            message = f"`{part.name}` and `{first.name}` do not mean the same rows: only one of them has `shape: {said}`"
            report("shapes-differ", message, span, "leave one of them out")


def _outside(base: nodes.Optimizer, modifiers: Sequence[Applied], report: Report) -> None:
    """No two hypers, and no two states, of one name outside."""
    for what in ("hyper", "state"):
        taken = dict.fromkeys(outside_names(base, what), base.name)
        for applied in modifiers:
            for key in outside_names(applied.modifier, what):
                if key in taken:
                    message = f"`{applied.term.name}` has a {what} `{key}` outside, which `{taken[key]}` has as well"
                    hint = f"write `{base.name} without {key}`" if taken[key] == base.name else "leave one of the two out"
                    report("name-clash", message, applied.term.span, hint if what == "hyper" else "leave one of the two out")
                taken.setdefault(key, applied.term.name)


def outside_names(part: nodes.Optimizer | nodes.Modifier, what: str) -> list[str]:
    """The names outside of a part's hypers or states."""
    prefix = f"{part.name}_" if isinstance(part, nodes.Modifier) else ""
    declared: Sequence[nodes.Node] = part.hypers if what == "hyper" else walk(part.states)
    return [
        item.outside or prefix + item.name
        for item in declared
        if isinstance(item, (nodes.Hyper, nodes.State))
    ]  # fmt: skip


def _stops(base: nodes.Optimizer, modifiers: Sequence[Applied], report: Report) -> None:
    """What changes θ after the base's last line needs the base to get there."""
    stop = stops_after_theta(base.step)
    for applied in modifiers:
        hooks = [h for h in applied.modifier.hooks if isinstance(h, nodes.Hook) and h.stage == "average"]
        if stop is not None and changes_theta([Placed("", h.stage, h.point, h.body) for h in hooks]):
            message = f"`{applied.term.name}` changes θ at the end, but `{base.name}` may `stop` between there and its θ line"
            report("stop-after-theta", message, applied.term.span, f"leave it out, or write `{base.name}` without that `stop`")


# --- rewrites -----------------------------------------------------------------------------------------------------------------


def _rewritten(base: nodes.Optimizer, modifiers: Sequence[Applied], report: Report) -> tuple[nodes.Optimizer, dict[int, str]]:
    """The base with every rewrite done on it as written, and the lines that come from them."""
    changes: dict[int, nodes.Expression] = {}
    users: list[tuple[nodes.Expression, str]] = []
    for applied in modifiers:
        for rule in applied.modifier.hooks:
            if not isinstance(rule, nodes.Rewrite):
                continue
            places = found(rule.pattern, rule.variables, base.step)
            shown, span = show_expression(rule.pattern), applied.term.span
            if len(places) != 1:
                _not_once(base, applied, shown, places, report)
                continue
            for other, name in users:
                if _overlap(places[0], other):
                    message = f"`{applied.term.name}` and `{name}` rewrite the same place: `{show_expression(places[0])}`"
                    report("rewrites-overlap", message, span, "leave one of them out")
            _unseen(applied, base, reads(rule.value) - set(rule.variables), {"g", "theta", "m_hat", "v_hat", "u"}, report)
            changes[id(places[0])] = replacement(rule, places[0])
            users.append((places[0], applied.term.name))
    if not changes:
        return base, {}
    origins: dict[int, str] = {}

    def change(new: nodes.Node, old: nodes.Node) -> nodes.Node:
        if id(old) in changes:
            return changes[id(old)]
        if isinstance(new, (nodes.Assign, nodes.Write)) and new is not old:
            inside = {id(node) for node in walk(old)}
            origins[id(new)] = ", ".join(dict.fromkeys(name for place, name in users if id(place) in inside))
        return new

    return replace(base, step=transformed_items(base.step, change)), origins


def _overlap(one: nodes.Expression, other: nodes.Expression) -> bool:
    """Whether two expressions of one tree are the same, or one is a part of the other."""
    return any(node is other for node in walk(one)) or any(node is one for node in walk(other))


def _not_once(base: nodes.Optimizer, applied: Applied, pattern: str, places: list[nodes.Expression], report: Report) -> None:
    name = applied.term.name
    if not places:
        message = f"`{name}` rewrites `{pattern}`, which `{base.name}` does not have"
        report("pattern-not-found", message, applied.term.span, "the pattern must stand in the base's step exactly once")
        return
    several = ", ".join(f"`{show_expression(place)}`" for place in places)
    message = f"`{name}` rewrites `{pattern}`, which `{base.name}` has {len(places)} times: {several}"
    hint = f"fix what selects between them: `{base.name} without …`"
    report("pattern-found-twice", message, applied.term.span, hint)


# --- stages -------------------------------------------------------------------------------------------------------------------


def _placed(
    base: nodes.Optimizer, rewritten: nodes.Optimizer, modifiers: Sequence[Applied], report: Report
) -> Iterator[Placed]:
    """The stages with their points; what a base lacks is reported."""
    end = theta_line(base.step) or 0
    for applied in modifiers:
        for hook in applied.modifier.hooks:
            if isinstance(hook, nodes.Rewrite) or hook.stage == STAGE:
                continue
            wishes = [hook.point] if hook.otherwise is None else [hook.point, hook.otherwise]
            given = [p for p in wishes if p in ("g", "theta") or last_binding(base.step, p, end) is not None]
            if not given:
                _lacks(base, applied, hook, wishes, report)
                continue
            lines = hook.body if hook.alias is None else tuple(renamed(line, {hook.alias: given[0]}) for line in hook.body)
            if hook.stage == "decay" and "theta" in bound(lines) and not reads_theta(base.step):
                message = f"`{applied.term.name}` changes θ before the line that writes it, but in `{base.name}` that line"
                hint = "in a spec of your own, write it as `theta <- theta - lr*u`"
                report("theta-not-read", f"{message} does not read θ", applied.term.span, hint)
            seen = seen_points(base.step, hook.stage, given[0])
            _unseen(applied, base, reads(lines), seen, report)
            yield Placed(applied.term.name, hook.stage, given[0], lines)


def _lacks(base: nodes.Optimizer, applied: Applied, hook: nodes.Hook, wishes: list[str], report: Report) -> None:
    end = theta_line(base.step) or 0
    has = [p for p in ("m_hat", "v_hat", "u") if last_binding(base.step, p, end) is not None]
    message = f"`{applied.term.name}` acts on {' or '.join(listed([w]) for w in wishes)}, which `{base.name}` does not bind"
    bases = f"`{base.name}` binds {listed(has)}" if has else f"`{base.name}` binds no point but `g` and `theta`"
    report("missing-point", message, applied.term.span, f"{bases}; in a spec of your own, name the value `{wishes[0]}`")


def _unseen(applied: Applied, base: nodes.Optimizer, read: set[str], seen: set[str], report: Report) -> None:
    """Reports what a modifier reads and cannot see: other points, and the base's states and locals."""
    hypers, own = declared_hypers(base.hypers), declared_states(base.states) | bound(base.step)
    for name in unseen(read, seen | hypers, applied.modifier):
        if name in ("m_hat", "v_hat", "u"):
            what = "is bound later" if name in bound(base.step) else f"`{base.name}` does not bind"
            message = f"`{applied.term.name}` reads `{name}`, which {what}"
            report(
                "missing-point", message, applied.term.span, f"it can read {listed(sorted(seen))} here, and the base's hypers"
            )
        elif name in own:
            message = f"`{applied.term.name}` reads `{name}`, a state or local of `{base.name}`"
            report("hidden-name", message, applied.term.span, f"it can read {listed(sorted(seen))}, and the base's hypers")
        else:
            message = f"`{applied.term.name}` reads `{name}`, which `{base.name}` does not have"
            known = listed(sorted(hypers)) if hypers else "none"
            report("missing-hyper", message, applied.term.span, f"the base's hypers are {known}")
