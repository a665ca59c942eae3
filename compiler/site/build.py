"""From the shipped specs to a folder of pages: what is read, drawn and written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from optc.compiler.site import gather
from optc.compiler.site import schedules as of_schedules
from optc.compiler.site import storages as of_storages
from optc.compiler.site.gather import Modifier, Optimizer
from optc.compiler.site.level_pictures import level_picture
from optc.compiler.site.pages import Site
from optc.compiler.site.pictures import Painter, Picture
from optc.compiler.site.schedule_pictures import schedule_picture
from optc.compiler.write import write_text
from optc.dsl.errors import OptcError

_REFERENCES = ("sgd", "adamw")
_NEEDED = {"matplotlib": "matplotlib", "markdown_it": "markdown-it-py"}
_OURS = "<code>optc docs</code>"  # in the footer of every page

Through: TypeAlias = Callable[[Sequence[str], str], Iterable[str]]
"""Goes through names, under a label; it may show how far it is."""


def missing() -> list[str]:
    """The packages that the site needs and that are not installed."""
    return [package for module, package in _NEEDED.items() if find_spec(module) is None]


def shipped_site(through: Through) -> Site:
    """All shipped specs. Raises OptcError or SpecError where one cannot be read or compiled."""
    files, changes = dict(gather.optimizers()), dict(gather.modifiers())
    optimizers = {slug: gather.optimizer(slug, files[slug]) for slug in through(list(files), "optimizers")}
    modifiers = {slug: gather.modifier(slug, changes[slug], optimizers) for slug in through(list(changes), "modifiers")}
    kept = dict(of_storages.storages())
    storages = {slug: of_storages.storage(slug, kept[slug], optimizers) for slug in through(list(kept), "storages")}
    rates = dict(of_schedules.schedules())
    schedules = {slug: of_schedules.schedule(slug, rates[slug]) for slug in through(list(rates), "schedules")}
    texts = {path.stem: (title, path.read_text(encoding="utf-8")) for title, path in gather.documents()}
    return Site(optimizers, modifiers, texts, storages, schedules)


def draw(site: Site, cache: Path | None, through: Through) -> dict[str, tuple[Picture, ...]]:
    """The pictures by spec file: optimizers beside SGD and AdamW, modifiers beside the optimizer that they are shown on.

    Those of storages show their levels, those of schedules their curves.
    """
    shown = [site.optimizers[slug] for slug in _REFERENCES if slug in site.optimizers]
    painter = Painter({o.name: o.program for o in shown}, cache)
    parts: list[Optimizer | Modifier] = [*site.optimizers.values(), *site.modifiers.values()]
    subjects = {part.file: part for part in parts}
    drawn: dict[str, tuple[Picture, ...]] = {}
    for file in through(list(subjects), "pictures"):
        subject = subjects[file]
        if isinstance(subject, Optimizer):
            drawn[file] = painter.pictures(subject.program)
        elif subject.example is not None:
            example = subject.example
            drawn[file] = painter.pictures(example.program, {example.base.name: example.base_program})
    coded = {s.file: (s.name, s.codes) for s in site.storages.values() if s.codes is not None}
    drawn |= {file: (level_picture(name, codes),) for file, (name, codes) in coded.items()}
    return drawn | {s.file: (schedule_picture(s.name, s.curves),) for s in site.schedules.values()}


def write_site(folder: Path, files: Iterable[tuple[str, str]]) -> tuple[int, int]:
    """Writes the files that changed and removes pages of specs that are gone; how many there are, and how many were written.

    Raises OptcError where the folder holds something that is no site, or a file cannot be written.
    """
    if folder.is_dir() and any(folder.iterdir()) and not _is_site(folder):
        raise OptcError(f"{folder}: the folder holds something else; name an empty or a new one with -o")
    count = written = 0
    kept = set()
    for name, text in files:
        kept.add(folder / name)
        count += 1
        written += write_text(folder / name, text)
    for part in ("optimizers", "modifiers", "storages", "schedules"):
        for path in (folder / part).glob("*.html"):
            if path not in kept:
                path.unlink()
    return count, written


def _is_site(folder: Path) -> bool:
    index = folder / "index.html"
    return index.is_file() and _OURS in index.read_text(encoding="utf-8", errors="replace")
