"""The rows of the index, and what they are found by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from optc.compiler.site.gather import Modifier, Optimizer
from optc.compiler.site.references import Reference
from optc.compiler.site.schedules import SchedulePage
from optc.compiler.site.storages import StoragePage


@dataclass(frozen=True, slots=True)
class ModifierLine:
    """A modifier in the index. `added` are bytes of state, bytes moved and passes in float32; None without an example."""

    slug: str
    name: str
    text: str
    stage_names: tuple[str, ...]
    references: tuple[Reference, ...]
    year: int | None
    added: tuple[float | None, float | None, int | None]


def in_order(optimizers: Iterable[Optimizer]) -> list[Optimizer]:
    """By name, as the index lists them first."""
    return sorted(optimizers, key=lambda o: o.name.lower())


def lines_of(modifiers: Iterable[Modifier]) -> list[ModifierLine]:
    """The modifiers as the index lists them."""
    return [
        ModifierLine(m.slug, m.name, m.text, m.stage_names, m.references, m.year, _added(m))
        for m in sorted(modifiers, key=lambda m: m.name)
    ]


def search_text(part: Optimizer | ModifierLine | SchedulePage | StoragePage) -> str:
    """What a row is found by, in lower case: names, text, family, stages or bits, references, year."""
    kind: tuple[str, ...]
    match part:
        case Optimizer():
            kind = (part.family_title, *part.parts, *part.storages)
        case ModifierLine():
            kind = ("modifier", *part.stage_names)
        case SchedulePage():
            kind = ("schedule", part.class_name, *part.gives, *part.libraries, *(theirs for _, theirs in part.equal))
        case StoragePage():
            kind = ("storage", part.kind)
    words = [part.name, part.slug, part.text, *kind, *(r.text for r in part.references), str(part.year or "")]
    return " ".join(words).lower()


def _added(modifier: Modifier) -> tuple[float | None, float | None, int | None]:
    if modifier.example is None:
        return None, None, None
    new, old = modifier.example.cost, modifier.example.without
    return new.state - old.state, new.moved - old.moved, new.passes - old.passes
