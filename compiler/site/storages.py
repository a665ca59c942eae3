"""Everything that is told of one storage, from its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from optc.compiler.compose.library import named, shipped_storages
from optc.compiler.show_storage import place_of
from optc.compiler.site.coloring import color
from optc.compiler.site.gather import Optimizer
from optc.compiler.site.references import Reference, reference
from optc.compiler.storage_facts import Codes, codes
from optc.dsl import nodes
from optc.dsl.errors import OptcError
from optc.dsl.names import pretty
from optc.dsl.parse import parse_file

_WORDS = ("storage", "codes", "block", "ties", "unit", "least", "smallest", "rank", "decode", "encode")
_FUNCTIONS = {"fp32": ("function", "rounded to float32")}


@dataclass(frozen=True, slots=True)
class StoragePage:
    """One shipped storage. `codes` is None where other states are kept in the place of one: `states`, each with its extent."""

    slug: str
    name: str
    text: str
    file: str
    references: tuple[Reference, ...]
    notes: tuple[str, ...]
    codes: Codes | None
    states: tuple[tuple[str, str], ...]
    spec: Markup
    used_by: tuple[str, ...]

    @property
    def signed(self) -> bool:
        """Whether it keeps negative numbers."""
        return self.codes is not None and self.codes.storage.signed

    @property
    def kind(self) -> str:
        """What is kept, in a few words."""
        if self.codes is None:
            return "rows and columns"
        return "a bit" if self.codes.bits == 1 else f"{self.codes.bits} bits"

    @property
    def year(self) -> int | None:
        """Of the oldest reference that tells one."""
        return min((r.year for r in self.references if r.year is not None), default=None)


def storages() -> Iterator[tuple[str, Path]]:
    """Slug and file of every shipped storage."""
    yield from shipped_storages().items()


def storage(slug: str, path: Path, optimizers: Mapping[str, Optimizer]) -> StoragePage:
    """All of one storage; `optimizers` are those of the site by slug.

    Raises OptcError where the file cannot be read or declares another storage, SpecError where the definition is wrong.
    """
    source = named(path)
    node = next((node for node in parse_file(source).storages if node.name == slug), None)
    if node is None:
        raise OptcError(f"{source.name}: declares no storage `{slug}`")
    states = [state for state in node.states if isinstance(state, nodes.State)]
    known = dict.fromkeys(_WORDS, ("keyword", "")) | _FUNCTIONS | {state.name: ("state", "kept instead") for state in states}
    return StoragePage(
        slug=slug,
        name=node.name,
        text=node.text or "",
        file=source.name,
        references=tuple(map(reference, node.cites)),
        notes=node.notes,
        codes=codes(node, source),
        states=tuple((pretty(state.name), place_of(state)) for state in states),
        spec=color(source.text.rstrip(), known),
        used_by=tuple(o.slug for o in optimizers.values() if node.name in o.storages),
    )
