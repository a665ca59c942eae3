"""Optimizers and modifiers by the names that compositions call them: of the same file, beside it, or shipped with optc."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from optc.dsl import nodes
from optc.dsl.errors import OptcError
from optc.dsl.read import read
from optc.dsl.source import Source

SPECS = Path(__file__).resolve().parents[2] / "specs"
MODIFIERS = SPECS / "modifiers"
SCHEDULES = SPECS / "schedules"
STORAGES = SPECS / "storages"

_HEAD = re.compile(r"^ *(optimizer|modifier|schedule) +(\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A part of a composition: what is declared, the functions and storages beside it, and the file it stands in."""

    node: nodes.Optimizer | nodes.Derived | nodes.Modifier | nodes.Schedule | nodes.Chain
    defines: tuple[nodes.Define, ...]
    source: Source
    storages: tuple[nodes.Storage, ...] = ()


@dataclass(frozen=True, slots=True)
class Library:
    """Where names are looked up: what is given first, then the folder, then what is shipped."""

    given: Mapping[str, Loaded] = field(default_factory=dict)
    folder: Path | None = None

    def find(self, name: str) -> Loaded | None:
        """The part of a name, which must be written exactly so. Raises SpecError where its file does not parse."""
        if name in self.given:
            return self.given[name]
        beside = _declared(self.folder.glob("*.opt")) if self.folder is not None else {}
        path = beside.get(name) or shipped_parts().get(name)
        return None if path is None else parts_of(named(path)).get(name)

    def names(self) -> list[str]:
        """All names that `find` knows."""
        beside = _declared(self.folder.glob("*.opt")) if self.folder is not None else {}
        return [*self.given, *beside, *shipped_parts()]


def library_of(source: Source, file: nodes.File) -> Library:
    """Where the names in a file are looked up."""
    path = Path(source.name)
    folder = path.parent if path.suffix == ".opt" and path.is_file() else None
    return Library(_parts(source, file), folder)


def library_around(found: Loaded, source: Source, library: Library) -> Library:
    """Where the names in the file of a part are looked up, which `library` of `source` has found."""
    from optc.dsl.parse import parse_file

    return library if found.source is source else library_of(found.source, parse_file(found.source))


def parts_of(source: Source) -> dict[str, Loaded]:
    """What a file declares. Raises SpecError where it does not parse."""
    from optc.dsl.parse import parse_file  # the names of what is shipped are known without a parser

    return _parts(source, parse_file(source))


def _parts(source: Source, file: nodes.File) -> dict[str, Loaded]:
    others = (*file.modifiers, *file.schedules) if isinstance(file, nodes.Composition) else ()
    declared = [part for part in (*others, file.optimizer) if part is not None]
    return {part.name: Loaded(part, file.defines, source, file.storages) for part in declared}


@cache
def shipped() -> dict[str, Path]:
    """The shipped optimizers by the names of their files (`adamw`)."""
    found = (path for path in SPECS.rglob("*.opt") if path.parent not in (MODIFIERS, STORAGES, SCHEDULES))
    return {path.stem: path for path in sorted(found, key=lambda path: path.stem)}


@cache
def shipped_modifiers() -> dict[str, Path]:
    """The shipped modifiers by name."""
    return _declared(sorted(MODIFIERS.glob("*.opt")))


@cache
def shipped_storages() -> dict[str, Path]:
    """The files of the shipped storages by the names they declare."""
    return {path.stem: path for path in sorted(STORAGES.glob("*.opt"))}


@cache
def shipped_schedules() -> dict[str, Path]:
    """The shipped schedules by name."""
    return _declared(sorted(SCHEDULES.glob("*.opt")))


@cache
def shipped_parts() -> dict[str, Path]:
    """All shipped optimizers, modifiers and schedules by the names they declare (`AdamW`, `cautious`, `cosine`)."""
    return _declared([*shipped().values(), *sorted(MODIFIERS.glob("*.opt")), *sorted(SCHEDULES.glob("*.opt"))])


def named(path: Path) -> Source:
    """The text of a spec file; a shipped one is named by its place in the project, which is the same everywhere."""
    if path.is_relative_to(SPECS):
        return Source(path.relative_to(SPECS.parent).as_posix(), read(path).text)
    return read(path)


def _declared(paths: Iterable[Path]) -> dict[str, Path]:
    """Which file declares which name, seen without parsing."""
    found: dict[str, Path] = {}
    for path in sorted(paths):
        try:
            text = read(path).text
        except OptcError:  # a file beside the composition that is none of its business
            continue
        for match in _HEAD.finditer(text):
            found.setdefault(match[2], path)
    return found
