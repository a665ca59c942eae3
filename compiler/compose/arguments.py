"""Arguments and `without` in a composition: other defaults, and hypers that are fixed and leave the signature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from optc.compiler.compose.fold import cleaned, fixed, never_none
from optc.compiler.compose.stages import Applied, Report
from optc.compiler.compose.tree import substituted, values_of
from optc.dsl import nodes
from optc.dsl.check_hypers import literal
from optc.dsl.implication import within
from optc.dsl.program import Bounds
from optc.dsl.scope import nearest
from optc.dsl.source import Span

Part = TypeVar("Part", nodes.Optimizer, nodes.Modifier, nodes.Schedule)
Added = TypeVar("Added", nodes.Modifier, nodes.Schedule)


@dataclass(frozen=True, slots=True)
class Parts:
    """A composition in the making: the innermost base, functions and storages beside it, and what is added to it."""

    base: nodes.Optimizer
    defines: tuple[nodes.Define, ...] = ()
    modifiers: tuple[Applied, ...] = ()
    storages: tuple[nodes.Storage, ...] = ()


def configured(parts: Parts, term: nodes.Term, report: Report) -> Parts:
    """The parts with the arguments of a term as defaults, and without what it leaves out."""
    before = parts.base
    for argument in term.arguments:
        if argument.name is None:
            hint = f"name it: `{term.name}({parts.base.hypers[0].name if parts.base.hypers else 'lr'} = …)`"
            report("bare-argument", "only a modifier takes a bare value", argument.span, hint)
            continue
        found = _holder(parts, argument.name)
        if found is None:
            _unknown(parts, term.name, argument.name, argument.span, report)
        elif found == -1:
            parts = replace(parts, base=_with_default(parts.base, argument, report))
        else:
            changed = replace(parts.modifiers[found], modifier=_with_default(parts.modifiers[found].modifier, argument, report))
            parts = replace(parts, modifiers=(*parts.modifiers[:found], changed, *parts.modifiers[found + 1 :]))
    for number, name in enumerate(term.without):
        if _holder(parts, name.id) is None and _left_unread(before, name, term.without[:number]):
            _off(before, before.hypers, name, report)
        else:
            parts = _without(parts, term.name, name, report)
    return parts


def with_arguments(modifier: Added, term: nodes.Term, report: Report) -> Added:
    """The modifier or schedule with the arguments of its term as defaults; a bare value is its first hyper."""
    for number, argument in enumerate(term.arguments):
        if argument.name is None:
            if number or not modifier.hypers:
                hint = "a bare value stands first and is the first hyper" if modifier.hypers else "leave the brackets out"
                message = f"`{modifier.name}` has no hyper for this value"
                report("bare-argument", message, argument.span, hint)
                continue
            argument = replace(argument, name=modifier.hypers[0].name)
        if not any(_called(modifier, hyper, argument.name or "") for hyper in modifier.hypers):
            _unknown_of(modifier, argument.name or "", argument.span, report)
            continue
        modifier = _with_default(modifier, argument, report)
    return modifier


# --- defaults -----------------------------------------------------------------------------------------------------------------


def _called(part: nodes.Optimizer | nodes.Modifier | nodes.Schedule, hyper: nodes.Hyper, name: str) -> bool:
    """Whether a hyper, or an element of it, goes by a name: inside, or outside."""
    prefixed = f"{part.name}_{hyper.name}" if not isinstance(part, nodes.Optimizer) and hyper.outside is None else None
    return name in (hyper.name, hyper.outside, prefixed, *values_of(hyper))


def _holder(parts: Parts, name: str) -> int | None:
    """Whose hyper a name is: -1 for the base, else the number of the modifier."""
    if any(_called(parts.base, hyper, name) for hyper in parts.base.hypers):
        return -1
    for number, applied in enumerate(parts.modifiers):
        modifier = applied.modifier
        if any(name in (h.outside, f"{modifier.name}_{h.name}" if h.outside is None else None) for h in modifier.hypers):
            return number
    return None


def _unknown(parts: Parts, of: str, name: str, span: Span, report: Report) -> None:
    known = [key for hyper in parts.base.hypers for key in (hyper.outside or hyper.name, *values_of(hyper))]
    for applied in parts.modifiers:
        known += [hyper.outside or f"{applied.modifier.name}_{hyper.name}" for hyper in applied.modifier.hypers]
    near = nearest(name, known)
    hint = f"did you mean `{near}`?" if near else "it has " + ", ".join(f"`{key}`" for key in dict.fromkeys(known))
    report("unknown-hyper", f"`{of}` has no hyper `{name}`", span, hint)


def _unknown_of(modifier: nodes.Modifier | nodes.Schedule, name: str, span: Span, report: Report) -> None:
    known = [key for hyper in modifier.hypers for key in (hyper.name, *values_of(hyper))]
    near = nearest(name, known)
    listed = "it has " + ", ".join(f"`{key}`" for key in dict.fromkeys(known)) if known else "it has none"
    report("unknown-hyper", f"`{modifier.name}` has no hyper `{name}`", span, f"did you mean `{near}`?" if near else listed)


def _with_default(part: Part, argument: nodes.Argument, report: Report) -> Part:
    def change(hyper: nodes.Hyper) -> nodes.Hyper:
        if argument.name is None or not _called(part, hyper, argument.name):
            return hyper
        return _changed(hyper, argument, report)

    result = replace(part, hypers=tuple(map(change, part.hypers)))
    there = [new.name for new, old in zip(result.hypers, part.hypers, strict=True) if _optional(old) and not _optional(new)]
    return never_none(result, there)


def _optional(hyper: nodes.Hyper) -> bool:
    return isinstance(hyper.default, nodes.Nothing)


def _changed(hyper: nodes.Hyper, argument: nodes.Argument, report: Report) -> nodes.Hyper:
    value, elements = argument.value, hyper.default
    if not isinstance(elements, tuple):
        if isinstance(value, tuple):
            report("argument-type", f"`{hyper.name}` takes one value", argument.span, f"write `{hyper.name} = …`")
            return hyper
        return replace(hyper, default=value) if _fits(hyper, elements, value, report) else hyper
    if isinstance(value, tuple):
        rest = [element.default for element in elements[len(value) :]]
        if all(default == nodes.Name("inf") for default in rest):  # what never comes may be left out
            value = (*value, *rest)
        if argument.name not in (hyper.name, hyper.outside) or len(value) != len(elements):
            message = f"`{argument.name}` takes {len(elements)} values in brackets, {len(value)} given"
            if argument.name not in (hyper.name, hyper.outside):
                message = f"`{argument.name}` takes one value"
            report("argument-type", message, argument.span, "give each element one value")
            return hyper
        new = dict(zip((e.name for e in elements), value, strict=True))
    elif argument.name in values_of(hyper):
        new = {argument.name or "": value}
    else:
        given = ", ".join(f"`{e.name}`" for e in elements)
        message = f"`{argument.name}` takes {len(elements)} values in brackets, for {given}"
        report("argument-type", message, argument.span, "write all of them, or one element by its name")
        return hyper
    if not all(_fits(hyper, element.default, new.get(element.name, element.default), report) for element in elements):
        return hyper
    return replace(hyper, default=tuple(replace(e, default=new.get(e.name, e.default)) for e in elements))


def _fits(hyper: nodes.Hyper, default: nodes.Expression, value: nodes.Expression, report: Report) -> bool:
    """Whether a value is of the kind and in the range that a hyper has; `none` fits a hyper whose default is `none`."""
    known, given = literal(value)
    _, usual = literal(default)
    domain = hyper.domain
    if isinstance(domain, nodes.Choice):
        choices = ", ".join(f'"{choice}"' for choice in domain.values)
        if given not in domain.values and not (given is None and usual is None):
            report("argument-type", f"`{hyper.name}` is one of {choices}", value.span, "write one of the texts")
            return False
        return True
    if usual is None and given is None:
        return True
    if isinstance(usual, bool) or isinstance(given, (bool, str)) or given is None:
        if not (isinstance(usual, bool) and isinstance(given, bool)):
            kind = "`true` or `false`" if isinstance(usual, bool) else "a number"
            report("argument-type", f"`{hyper.name}` takes {kind}", value.span, f"write {kind}")
            return False
        return True
    if isinstance(domain, nodes.Interval) and known:
        bounds = _bounds(domain)
        if bounds is not None and (not within(float(given), bounds) or (domain.integer and not float(given).is_integer())):
            kind = "whole number" if domain.integer else "number"
            interval = f"{'[' if bounds.low_closed else '('}{bounds.low:g}, {bounds.high:g}{']' if bounds.high_closed else ')'}"
            message = f"`{hyper.name}` is a {kind} in {interval}, {given:g} is not"
            report("argument-out-of-range", message, value.span, "give another value")
            return False
    return True


def _bounds(domain: nodes.Interval) -> Bounds | None:
    (_, low), (_, high) = literal(domain.low), literal(domain.high)
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        return Bounds(float(low), float(high), domain.low_closed, domain.high_closed)
    return None


# --- without ------------------------------------------------------------------------------------------------------------------


def _left_unread(before: nodes.Optimizer, name: nodes.Name, earlier: Sequence[nodes.Name]) -> bool:
    """Whether a name is of a hyper that went with what was left out before it, and was not left out itself."""
    hypers = [hyper for hyper in before.hypers if _called(before, hyper, name.id)]
    return any(not any(_called(before, hyper, other.id) for other in earlier) for hyper in hypers)


def _without(parts: Parts, of: str, name: nodes.Name, report: Report) -> Parts:
    found = _holder(parts, name.id)
    if found is None:
        _unknown(parts, of, name.id, name.span, report)
        return parts
    if found >= 0:
        applied = parts.modifiers[found]
        off = _off(applied.modifier, applied.modifier.hypers, name, report)
        if off is None:
            return parts
        modifier = fixed(applied.modifier, {off[0]: off[1]})
        modifiers = (*parts.modifiers[:found], replace(applied, modifier=modifier), *parts.modifiers[found + 1 :])
        return replace(parts, modifiers=modifiers)
    off = _off(parts.base, parts.base.hypers, name, report)
    if off is None:
        return parts
    base = cleaned(fixed(parts.base, {off[0]: off[1]}), parts.base)
    for require in base.requires:
        if require.condition == nodes.Boolean(False):
            report("requirement", f"without `{name.id}`, {of} cannot be: {require.message}", name.span, "keep it")
    return replace(parts, base=base, modifiers=_seen_fixed(parts.modifiers, {off[0]: off[1]}))


def _seen_fixed(modifiers: Sequence[Applied], values: dict[str, nodes.Expression]) -> tuple[Applied, ...]:
    """Modifiers that read a hyper of the base see its fixed value; one of their own of that name hides it."""
    result: list[Applied] = []
    for applied in modifiers:
        own = {name for hyper in applied.modifier.hypers for name in values_of(hyper)}
        seen = {name: value for name, value in values.items() if name not in own}
        result.append(replace(applied, modifier=substituted(applied.modifier, seen)))
    return tuple(result)


def _off(
    part: nodes.Optimizer | nodes.Modifier, hypers: Sequence[nodes.Hyper], name: nodes.Name, report: Report
) -> tuple[str, nodes.Expression] | None:
    """The name inside of a hyper, and the value that switches it off."""
    hyper = next(hyper for hyper in hypers if _called(part, hyper, name.id))
    default = hyper.default
    if isinstance(default, tuple):
        hint = f"set a value instead: `{part.name}({hyper.name} = (…))`"
        report("without-tuple", f"`{name.id}` is a tuple or an element of one, which cannot be left out", name.span, hint)
        return None
    if isinstance(hyper.domain, nodes.Choice):
        hint = f'set it instead: `{part.name}({hyper.name} = "…")`'
        report("without-choice", f"`{name.id}` is a choice of texts, none of which switches it off", name.span, hint)
        return None
    if isinstance(default, nodes.Nothing):
        return hyper.name, nodes.Nothing()
    if isinstance(default, nodes.Boolean):
        return hyper.name, nodes.Boolean(False)
    bounds = _bounds(hyper.domain) if isinstance(hyper.domain, nodes.Interval) else None
    if bounds is not None and not within(0.0, bounds):
        message = f"`without {name.id}` means 0, which is out of its range"
        report("argument-out-of-range", message, name.span, f"set a value instead: `{part.name}({hyper.name} = …)`")
        return None
    return hyper.name, nodes.Number(0)
