"""Text to text: a file with a composition to the spec of the optimizer that comes out, written out.

Every later stage reads the text that comes out: its lines are what diagnostics, generated files and their digests speak of, and
behind a line that a modifier has added stands the modifier's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from optc.compiler.compose.arguments import Parts, configured, with_arguments
from optc.compiler.compose.chains import schedule_of
from optc.compiler.compose.library import Library, library_around, library_of, parts_of, shipped_modifiers, shipped_parts
from optc.compiler.compose.modifier import mistakes_of
from optc.compiler.compose.places import check_storages
from optc.compiler.compose.rounding import rounded
from optc.compiler.compose.scheduling import as_modifier
from optc.compiler.compose.stages import Applied, Composed, Report, compose
from optc.compiler.compose.tree import called_by, self_contained
from optc.compiler.compose.unfold import unfolded
from optc.dsl import nodes
from optc.dsl.check import check
from optc.dsl.check_storing import not_like_theta, second_storage
from optc.dsl.errors import Diagnostic, OptcError, Reports, SpecError
from optc.dsl.parse import parse, parse_file
from optc.dsl.scope import nearest, walk
from optc.dsl.show import show
from optc.dsl.source import Source, Span
from optc.dsl.storages import mistakes, resolve
from optc.dsl.storages import shipped as shipped_storages


@dataclass(frozen=True, slots=True)
class Expanded:
    """A spec that is written out, and its text: the file's own, or what its composition comes to.

    `file` is the name of the file that was read, empty where the composition stands in none. `derived` is the composition and
    `library` where its names are found; None where the spec was written out already. `folded` is the spec before storages by
    other states were written out; None where it has none.
    """

    spec: nodes.Spec
    source: Source
    file: str
    derived: nodes.Derived | None = None
    library: Library | None = None
    folded: nodes.Spec | None = None


def expand(source: Source) -> Expanded:
    """The optimizer of a file, written out. Raises SpecError for what cannot be read or combined."""
    file = parse_file(source)
    if isinstance(file, nodes.Spec):
        optimizer = _unfolded(file.optimizer, file.storages, file.defines, source)
        if optimizer is file.optimizer:
            return Expanded(file, source, source.name)
        check_others(file, source)
        shown = _shown(nodes.Spec(optimizer, file.defines, _named(file.storages, optimizer.storing)), source.name)
        check_storages(shown.spec, shown.source, file.optimizer.storing, file.optimizer.span, source)
        return replace(shown, folded=file)
    check_others(file, source)
    if file.optimizer is None:
        what, first = _first(file)
        names = " + ".join(modifier.name for modifier in file.modifiers) or first.name
        hint = f"write `optimizer NAME = AdamW + {names}`, or give it to a command with `--with`"
        if what == "storage":
            hint = f"put it beside an optimizer with `storing m: {first.name}`"
        head = Span(first.span.start, first.span.start + len(what))
        raise SpecError(source, [Diagnostic("no-optimizer", f"the file holds no optimizer, only {what}s", head, hint)])
    return expand_derived(file.optimizer, source, library_of(source, file))


def _first(file: nodes.Composition) -> tuple[str, nodes.Modifier | nodes.Storage | nodes.Schedule | nodes.Chain]:
    """What a file without an optimizer holds, and the first of it."""
    if file.modifiers:
        return "modifier", file.modifiers[0]
    return ("schedule", file.schedules[0]) if file.schedules else ("storage", file.storages[0])


def expand_derived(derived: nodes.Derived, source: Source, library: Library) -> Expanded:
    """A composition, written out. Raises SpecError for what cannot be combined, and for mistakes in the parts."""
    parts = _gather(derived, source, library, ())
    composed = compose(parts.base, parts.modifiers, source, parts.defines)
    defines = called_by(parts.defines, composed.optimizer)
    optimizer = _documented(composed.optimizer, derived, [applied.term.name for applied in parts.modifiers])
    optimizer = replace(optimizer, storing=_still_kept(optimizer, derived, parts.storages, source))
    folded = nodes.Spec(optimizer, defines, parts.storages)
    optimizer = _unfolded(optimizer, parts.storages, defines, source)
    storages = _named(parts.storages, optimizer.storing)
    result = _written_out(replace(composed, optimizer=optimizer), defines, storages, source.name, derived, library)
    check_storages(result.spec, result.source, derived.storing, _head(derived.base), source)
    return result if optimizer == folded.optimizer else replace(result, folded=folded)


def with_modifiers(source: Source, modifiers: Sequence[str], storing: Sequence[str] = ()) -> Expanded:
    """The optimizer of a spec with modifiers as a composition would write them (`cautious`, `lookahead(k = 6)`), in any order.

    `storing` are storages of states, such as `m: dynamic8`. The name is that of the modifiers before the optimizer's and that
    of the states and storages behind it: CautiousLookaheadAdamW, AdamW_m_dynamic8_v_udynamic8. Raises SpecError for what cannot
    be combined.
    """
    found = parts_of(source)
    name = next((name for name, part in found.items() if isinstance(part.node, (nodes.Optimizer, nodes.Derived))), None)
    if name is None:
        raise OptcError(f"{source.name}: holds no optimizer that could be changed")
    terms = [term for text in modifiers for term in split_terms(text)]
    head = "".join(_camel(re.split(r"\W", term, maxsplit=1)[0]) for term in terms)
    kept = [clause for text in storing for clause in split_terms(text)]
    text = " + ".join((f"optimizer {'_'.join((head + name, *_stored(kept)))} = {name}", *terms))
    text += f" storing {', '.join(kept)}\n" if kept else "\n"
    derived_source = Source("<with>", text)
    file = parse_file(derived_source)
    if not isinstance(file.optimizer, nodes.Derived):
        raise OptcError(f"{' '.join(modifiers)!r}: is no list of modifiers, such as `cautious,lookahead(k = 6)`")
    return expand_derived(file.optimizer, derived_source, library_of(source, parse_file(source)))


def _stored(clauses: Iterable[str]) -> Iterator[str]:
    """Words for a name: states, then their storage, states of one storage together (`m_v_bf16`)."""
    states: dict[str, list[str]] = {}
    for clause in clauses:
        state, storage = (re.sub(r"\W+", "_", part).strip("_") for part in clause.partition(":")[::2])
        states.setdefault(storage, []).append(state)
    for storage, of_it in states.items():
        yield from filter(None, (*of_it, storage))


def split_terms(text: str) -> list[str]:
    """The modifiers in a list with commas or `+` between them, those inside brackets left alone."""
    terms, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character in ",+" and depth == 0:
            terms.append("")
        else:
            terms[-1] += character
    return [term.strip() for term in terms if term.strip()]


def _camel(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def check_others(file: nodes.File, source: Source) -> None:
    """Raises SpecError where a modifier, storage or schedule of a file is wrong by itself."""
    wrong = [mistake for storage in file.storages for mistake in mistakes(storage)]
    if wrong:
        raise SpecError(source, wrong)
    if isinstance(file, nodes.Composition):
        for modifier in file.modifiers:
            check_modifier(modifier, source)
        schedules_of(source, file)


def schedules_of(source: Source, file: nodes.Composition) -> list[nodes.Schedule]:
    """The schedules that a file declares, chains as one. Raises SpecError where one is wrong by itself."""
    report = Reports(source)
    library = library_of(source, file)
    found = [schedule_of(library.given[schedule.name], library, report) for schedule in file.schedules]
    report.check()
    return [schedule for schedule in found if schedule is not None]


def check_modifier(modifier: nodes.Modifier, source: Source) -> None:
    """Raises SpecError where the form of a modifier is wrong, whatever it is added to."""
    diagnostics = mistakes_of(modifier)
    if diagnostics:
        raise SpecError(source, diagnostics)


# --- parts --------------------------------------------------------------------------------------------------------------------


def _gather(derived: nodes.Derived, source: Source, library: Library, path: tuple[str, ...]) -> Parts:
    """The innermost base of a composition, with all that it, and what it stands on, adds."""
    report = Reports(source)
    found = None if derived.base.name in (derived.name, *path) else library.find(derived.base.name)
    added = list(_modifiers(derived.modifiers, source, library, report))
    if derived.base.name in (derived.name, *path):
        hint = "a composition starts with an optimizer that is written out, or with another composition"
        report("circular", f"`{derived.base.name}` is composed of itself", _head(derived.base), hint)
    elif found is None:
        _unknown(derived.base, "optimizer", library, report)
    elif not isinstance(found.node, (nodes.Optimizer, nodes.Derived)):
        what = "modifier" if isinstance(found.node, nodes.Modifier) else "schedule"
        hint = f"write `AdamW + {derived.base.name}`: a {what} has no modifiers of its own"
        report(f"{what}-as-base", f"`{derived.base.name}` is a {what}, not an optimizer", _head(derived.base), hint)
    if report.found or found is None or not isinstance(found.node, (nodes.Optimizer, nodes.Derived)):
        raise SpecError(source, report.found)
    if isinstance(found.node, nodes.Derived):
        parts = _gather(found.node, found.source, library_around(found, source, library), (*path, derived.name))
        parts = replace(parts, modifiers=tuple(_at(applied, derived.base) for applied in parts.modifiers))
    else:
        check(nodes.Spec(found.node, found.defines, _named(found.storages, found.node.storing)), found.source)
        parts = Parts(found.node, found.defines, storages=found.storages)
    parts = configured(parts, derived.base, report)
    report.check()
    own = library.given[derived.name].storages if derived.name in library.given else ()
    storages = {storage.name: storage for storage in (*parts.storages, *own)}
    for storage in parts.storages:
        if storages[storage.name] != storage:
            message = f"`{derived.base.name}` has a storage `{storage.name}` of its own, which is another"
            report("duplicate-name", message, storages[storage.name].span, "choose another name")
    report.check()
    base = replace(parts.base, storing=_overridden(parts.base.storing, derived.storing))
    return replace(parts, base=base, modifiers=(*parts.modifiers, *added), storages=tuple(storages.values()))


def _overridden(before: tuple[nodes.Kept, ...], after: tuple[nodes.Kept, ...]) -> tuple[nodes.Kept, ...]:
    """The storages of a base, with those that a composition gives instead."""
    changed = {kept.state for kept in after}
    return (*(kept for kept in before if kept.state not in changed), *after)


def _named(storages: tuple[nodes.Storage, ...], storing: tuple[nodes.Kept, ...]) -> tuple[nodes.Storage, ...]:
    """The storages that a clause names."""
    wanted = {kept.storage for kept in storing}
    return tuple(storage for storage in storages if storage.name in wanted)


def _still_kept(
    optimizer: nodes.Optimizer, derived: nodes.Derived, storages: tuple[nodes.Storage, ...], source: Source
) -> tuple[nodes.Kept, ...]:
    """What is said of states that are there; a base may have lost some. Raises SpecError for mistakes of the composition."""
    extents = {n.name: n.extent for item in optimizer.states for n in walk(item) if isinstance(n, nodes.State)}
    hint = "the states are " + ", ".join(f"`{name}`" for name in sorted(extents))
    states = {*extents, "theta"}
    wrong = []
    for number, kept in enumerate(derived.storing):
        if kept.state not in states:
            wrong.append(Diagnostic("unknown-state", f"there is no state `{kept.state}`", kept.span, hint))
        elif kept.state in [other.state for other in derived.storing[:number]]:
            wrong.append(second_storage(kept))
        elif (extent := extents.get(kept.state)) not in (None, "elem"):
            wrong.append(not_like_theta(kept, str(extent)))
    lines = {s.name for s in (*shipped_storages().values(), *storages) if s.decode is not None}
    found = (resolve(kept, storages) for kept in derived.storing if kept.storage not in lines and kept.state != "theta")
    wrong += [mistake for mistake in found if isinstance(mistake, Diagnostic)]
    if wrong:
        raise SpecError(source, wrong)
    return tuple(kept for kept in optimizer.storing if kept.state in states)


def _unfolded(
    optimizer: nodes.Optimizer, storages: tuple[nodes.Storage, ...], defines: tuple[nodes.Define, ...], source: Source
) -> nodes.Optimizer:
    """The optimizer with storages by other states written out. Raises SpecError where that cannot be done."""
    report = Reports(source)
    result = rounded(unfolded(optimizer, storages, defines, report), storages, report)
    report.check()
    return result


def _at(applied: Applied, base: nodes.Term) -> Applied:
    """A modifier of the base, whose place in this text is the base's."""
    return replace(applied, term=replace(applied.term, span=base.span))


def _modifiers(terms: Iterable[nodes.Term], source: Source, library: Library, report: Report) -> Iterator[Applied]:
    for term in terms:
        found = library.find(term.name)
        if found is None:
            _unknown(term, "modifier", library, report)
        elif isinstance(found.node, (nodes.Schedule, nodes.Chain)):
            schedule = schedule_of(found, library_around(found, source, library), report)
            if schedule is not None:
                yield Applied(term, as_modifier(with_arguments(schedule, term, report)))
        elif not isinstance(found.node, nodes.Modifier):
            hint = "the optimizer stands first, and modifiers behind it"
            report("optimizer-as-modifier", f"`{term.name}` is an optimizer, not a modifier", _head(term), hint)
        else:
            check_modifier(found.node, found.source)
            yield Applied(term, with_arguments(self_contained(found.node, found.defines), term, report))


def _head(term: nodes.Term) -> Span:
    return Span(term.span.start, term.span.start + len(term.name))


def _unknown(term: nodes.Term, what: str, library: Library, report: Report) -> None:
    near = nearest(term.name, library.names())
    others = shipped_modifiers() if what == "modifier" else [n for n in shipped_parts() if n not in shipped_modifiers()]
    hint = f"did you mean `{near}`?" if near else "known are " + ", ".join(others)
    report(f"unknown-{what}", f"there is no {what} `{term.name}`", _head(term), hint)


# --- the result ---------------------------------------------------------------------------------------------------------------


def _documented(optimizer: nodes.Optimizer, derived: nodes.Derived, modifiers: list[str]) -> nodes.Optimizer:
    """With the name and the texts of the composition."""
    text = optimizer.text
    if text is not None and modifiers:
        listed = f"{', '.join(modifiers[:-1])} and {modifiers[-1]}" if len(modifiers) > 1 else modifiers[0]
        text = f"{text.removesuffix('.')}; with {listed}."
    cites = (*derived.cites, *(cite for cite in optimizer.cites if cite not in derived.cites))
    notes = (*derived.notes, *optimizer.notes)
    return replace(optimizer, name=derived.name, text=derived.text or text, cites=cites, notes=notes)


def _written_out(
    composed: Composed,
    defines: tuple[nodes.Define, ...],
    storages: tuple[nodes.Storage, ...],
    file: str,
    derived: nodes.Derived,
    library: Library,
) -> Expanded:
    """The composed spec as a text of its own, with every node's place in it."""
    name = f"<composed {derived.name}>"
    spec = nodes.Spec(composed.optimizer, defines, storages)
    plain = parse(Source(name, show(spec, mathematical=True)))
    comments = tuple(_comments(composed.optimizer.step, plain.optimizer.step, composed.origins))
    source = Source(name, show(replace(plain, comments=comments), mathematical=True))
    return Expanded(parse(source), source, file, derived, library)


def without_storages(spec: nodes.Spec) -> Expanded:
    """The same spec whose states are kept as they are: its mathematics."""
    return _shown(nodes.Spec(replace(spec.optimizer, storing=()), spec.defines, ()), "")


def _shown(spec: nodes.Spec, file: str) -> Expanded:
    """A spec as a text of its own."""
    source = Source(f"<written out {spec.optimizer.name}>", show(spec, mathematical=True))
    return Expanded(parse(source), source, file)


def _comments(
    lines: Sequence[nodes.Statement], shown: Sequence[nodes.Statement], origins: Mapping[int, str]
) -> Iterator[nodes.Comment]:
    """Behind each line that a modifier has added or changed: its name."""
    for line, place in zip(lines, shown, strict=True):
        if id(line) in origins:
            yield nodes.Comment(origins[id(line)], False, span=Span(place.span.start, place.span.start))
        for body in ("then", "otherwise", "body"):
            yield from _comments(getattr(line, body, ()), getattr(place, body, ()), origins)
