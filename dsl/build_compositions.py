"""Nodes of the rules for modifiers and compositions, from the parts that the rules inside have made."""

from __future__ import annotations

from typing import Any, cast

from optc.dsl import nodes
from optc.dsl.names import STOCHASTIC, pretty
from optc.dsl.rules import Clause, Rules, place_of
from optc.dsl.source import Span

POINTS: dict[nodes.Stage, tuple[str, ...]] = {
    "clip": ("g",),
    "project": ("g",),
    "couple": ("g",),
    "mix": ("m_hat",),
    "mask": ("m_hat", "u"),
    "trust": ("u",),
    "decay": ("theta",),
    "constrain": ("theta",),
    "average": ("theta",),
}
"""The stages in the order of their effects, and the points that each may act on."""


class CompositionRules(Rules):
    """One method per rule, `on_RULE(parts, span)`."""

    def told(self, kinds: dict[str, list[Any]]) -> dict[str, Any]:
        """What a part says of itself: its text, references and notes."""
        return {
            "text": next(iter(kinds.get("doc", [])), None),
            "cites": tuple(kinds.get("cite", [])),
            "notes": tuple(kinds.get("note", [])),
        }

    def hypers(self, kinds: dict[str, list[Any]], head: Clause) -> dict[str, Any]:
        """The hypers of a modifier or schedule, from the brackets of its head or from a section, and its requirements."""
        _, parameters = head.value
        section = [item for items in kinds.get("hyper", []) for item in items]
        listed = tuple(item for item in section if isinstance(item, nodes.Hyper))
        if parameters and listed:
            hint = "put all of them in brackets behind the name, or all under `hyper:`"
            self.report("duplicate-section", "hypers both in brackets and in a section", head.span, hint)
        return {
            "hypers": (*parameters, *listed),
            "requires": tuple(item for item in section if isinstance(item, nodes.Require)),
        }

    def on_modifier(self, parts: list[Any], span: Span) -> nodes.Modifier:
        name, _ = parts[0].value
        kinds = self.members(parts[1:], "modifier")
        declared = self.hypers(kinds, parts[0])
        hooks = [*kinds.get("Hook", []), *kinds.get("Rewrite", [])]
        if not hooks and not self.diagnostics:
            hint = "add a stage: `mask m_hat: …`, `decay theta: …`, `rewrite (a, b): a/b -> …`"
            self.report("no-hook", f"the modifier `{name}` changes nothing", parts[0].span, hint)
        return nodes.Modifier(
            name=name,
            **self.told(kinds),
            **declared,
            states=tuple(item for items in kinds.get("state", []) for item in items),
            defines=tuple(kinds.get("Define", [])),
            hooks=tuple(sorted(hooks, key=lambda hook: hook.span.start)),
            shape=next(iter(kinds.get("shape", [])), None),
            span=span,
        )

    def on_modifier_head(self, parts: list[Any], span: Span) -> Clause:
        self.mark("modifier", span)
        return Clause("head", (parts[0].id, tuple(parts[1:])), span)

    def on_hook_head(self, parts: list[Any], span: Span) -> Clause:
        self.mark("hook", span)
        return Clause("hook_head", parts, span)

    def on_else_point(self, parts: list[Any], span: Span) -> Clause:
        return Clause("else", parts[1], span)

    def on_hook(self, parts: list[Any], span: Span) -> nodes.Hook:
        token, point, *clauses = parts[0].value
        stage = cast(nodes.Stage, str(token))
        otherwise: nodes.Name | None = next((clause.value for clause in clauses if clause.kind == "else"), None)
        alias: str | None = next((clause.value for clause in clauses if clause.kind == "as"), None)
        allowed = POINTS[stage]
        for name in (point, otherwise):
            if name is not None and name.id not in allowed:
                known = " and ".join(f"`{p}`" for p in allowed)
                message = f"the stage `{stage}` does not act on `{name.id}`"
                self.report("wrong-point", message, name.span, f"it acts on {known} ({', '.join(map(pretty, allowed))})")
        return nodes.Hook(stage, point.id, None if otherwise is None else otherwise.id, alias, parts[1], span=span)

    def on_rewrite_head(self, parts: list[Any], span: Span) -> Clause:
        self.mark("rewrite", span)
        return Clause("rewrite_head", tuple(part.id for part in parts), span)

    def on_rewrite(self, parts: list[Any], span: Span) -> nodes.Rewrite:
        return nodes.Rewrite(parts[0].value, parts[1], parts[2], span=span)

    # --- compositions ---------------------------------------------------------------------------------------------------------

    def on_derived_head(self, parts: list[Any], span: Span) -> Clause:
        self.mark("derived", span)
        terms = [part for part in parts[1:] if isinstance(part, nodes.Term)]
        storing = next((part.value for part in parts[1:] if isinstance(part, Clause)), ())
        return Clause("head", (parts[0].id, terms, storing), span)

    def on_derived(self, parts: list[Any], span: Span) -> nodes.Derived:
        name, (base, *modifiers), storing = parts[0].value
        kinds = self.members(parts[1:], "optimizer")
        return nodes.Derived(
            name=name,
            base=base,
            modifiers=tuple(modifiers),
            **self.told(kinds),
            storing=storing,
            span=span,
        )

    # --- storages -------------------------------------------------------------------------------------------------------------

    def on_storing(self, parts: list[Any], span: Span) -> Clause:
        self.mark("storing", span)
        return Clause("storing", tuple(parts), span)

    def on_kept(self, parts: list[Any], span: Span) -> nodes.Kept:
        return nodes.Kept(parts[0].id, parts[1].id, tuple(parts[2:]), span=span)

    def on_storage_head(self, parts: list[Any], span: Span) -> Clause:
        self.mark("storage", span)
        return Clause("head", parts[0].id, span)

    def on_storage(self, parts: list[Any], span: Span) -> nodes.Storage:
        kinds = self.members(parts[1:], "storage")
        return nodes.Storage(
            name=parts[0].value,
            **self.told(kinds),
            settings=tuple(kinds.get("Argument", [])),
            defines=tuple(kinds.get("Define", [])),
            shape=next(iter(kinds.get("shape", [])), None),
            states=tuple(item for items in kinds.get("state", []) for item in items),
            storing=tuple(kept for clause in kinds.get("storing", []) for kept in clause),
            decode=next(iter(kinds.get("decode", [])), None),
            value=next(iter(kinds.get("encode", [])), ("", ()))[0],
            encode=next(iter(kinds.get("encode", [])), ("", ()))[1],
            span=span,
        )

    def on_decode(self, parts: list[Any], span: Span) -> Clause:
        self.mark("decode", span)
        return Clause("decode", parts[1], span)

    def on_encode_head(self, parts: list[Any], span: Span) -> Clause:
        self.mark("encode", span)
        return Clause("encode_head", parts[0].id, span)

    def on_encode(self, parts: list[Any], span: Span) -> Clause:
        return Clause("encode", (parts[0].value, parts[1]), span)

    def on_setting(self, parts: list[Any], span: Span) -> nodes.Argument:
        return nodes.Argument(parts[0].id, parts[1], span=span)

    # --- schedules ------------------------------------------------------------------------------------------------------------

    def on_schedule_head(self, parts: list[Any], span: Span) -> Clause:
        self.mark("schedule", span)
        return Clause("head", (parts[0].id, tuple(parts[1:])), span)

    def on_schedule(self, parts: list[Any], span: Span) -> nodes.Schedule:
        name, _ = parts[0].value
        kinds = self.members(parts[1:], "schedule")
        declared = self.hypers(kinds, parts[0])
        values = kinds.get("Scheduled", [])
        if not values and not self.diagnostics:
            hint = "add `lr:` with lines that end in `return …`; they know `n`, the steps done, and `base`, the value given"
            self.report("no-value", f"the schedule `{name}` gives no value", parts[0].span, hint)
        for number, value in enumerate(values):
            if value.target in [other.target for other in values[:number]]:
                head = Span(value.span.start, value.span.start + len(value.target))
                self.report("duplicate-section", f"a second `{value.target}:`", head, "put all lines under the first")
        return nodes.Schedule(
            name=name,
            **self.told(kinds),
            **declared,
            defines=tuple(kinds.get("Define", [])),
            values=tuple(values),
            span=span,
        )

    def on_scheduled(self, parts: list[Any], span: Span) -> nodes.Scheduled:
        self.mark("scheduled", place_of(parts[0]))
        return nodes.Scheduled(cast(Any, str(parts[0])), parts[1], span=span)

    def on_link(self, parts: list[Any], span: Span) -> nodes.Link:
        if len(parts) == 1:
            return nodes.Link(parts[0], span=span)
        term, steps = parts
        if isinstance(steps, nodes.Number) and float(steps.value).is_integer() and steps.value >= 1:
            return nodes.Link(term, int(steps.value), span=span)
        before = len(self.diagnostics)
        self.constant(steps, "a number of steps")
        if len(self.diagnostics) == before:
            message = "a schedule lasts a whole number of steps, at least 1"
            self.report("link-steps", message, steps.span, f"write `{term.name} for 1000`")
        return nodes.Link(term, 1, span=span)

    def on_chain_head(self, parts: list[Any], span: Span) -> Clause:
        self.mark("chain", span)
        return Clause("head", (parts[0].id, tuple(parts[1:])), span)

    def on_chain(self, parts: list[Any], span: Span) -> nodes.Chain:
        name, links = parts[0].value
        for link in links[:-1]:
            if link.steps is None:
                hint = "write `NAME(…) for 1000`: the number of steps after which the next one begins"
                self.report("endless-link", f"`{link.term.name}` does not say how long it lasts", link.span, hint)
        if links[-1].steps is not None:
            hint = "leave `for …` out behind the last one"
            place = Span(links[-1].term.span.end + 1, links[-1].span.end)
            self.report("last-link", "the last schedule of a chain lasts for good", place, hint)
        kinds = self.members(parts[1:], "schedule")
        return nodes.Chain(
            name=name,
            links=links,
            **self.told(kinds),
            span=span,
        )

    def on_base(self, parts: list[Any], span: Span) -> nodes.Term:
        arguments = tuple(part for part in parts[1:] if isinstance(part, nodes.Argument))
        without = tuple(part for part in parts[1:] if isinstance(part, nodes.Name))
        return nodes.Term(parts[0].id, arguments, without, span=span)

    on_term = on_base

    def on_argument(self, parts: list[Any], span: Span) -> nodes.Argument:
        value = parts[-1]
        for single in value if isinstance(value, tuple) else (value,):
            self.constant(single, "an argument", texts=True)
        return nodes.Argument(parts[0].id if len(parts) > 1 else None, value, span=span)

    def on_kept_setting(self, parts: list[Any], span: Span) -> nodes.Argument:
        word = parts[0] if len(parts) == 1 and isinstance(parts[0], nodes.Name) else None
        if word is not None and word.id not in ("inf", "pi"):
            if word.id != STOCHASTIC:
                message = f"`{word.id}` is no setting of a storage"
                self.report("not-constant", message, word.span, f"write a number, or `{STOCHASTIC}`")
            return nodes.Argument(None, word, span=span)
        return self.on_argument(parts, span)
