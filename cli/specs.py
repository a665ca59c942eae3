"""SPEC arguments: files, names of shipped specs, `-` for standard input."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from optc.compiler.compose.library import SPECS, named, shipped, shipped_modifiers, shipped_schedules, shipped_storages
from optc.dsl.errors import OptcError
from optc.dsl.read import decode, read
from optc.dsl.source import Source

if TYPE_CHECKING:
    from optc.compiler.compose.expand import Expanded
    from optc.dsl.program import Program

__all__ = [
    "SCHEDULE",
    "SPEC",
    "SPECS",
    "all_shipped",
    "is_schedule",
    "is_shipped",
    "program",
    "shipped",
    "shipped_modifiers",
    "shipped_schedules",
    "source",
    "sources",
    "spec_of",
    "store_option",
    "with_option",
]


def source(argument: str, what: str = "spec") -> Source:
    """The spec, or the schedule, that an argument names. Raises OptcError with near names where there is none."""
    if argument == "-":
        return decode(sys.stdin.buffer.read(), "<stdin>")
    path = Path(argument)
    folded = _fold(argument)
    if not path.exists() and path.suffix != ".opt" and path.name == argument:
        files = list(shipped_schedules().items()) if what == "schedule" else all_shipped()
        for name, file in files:
            if _fold(name) == folded:
                return named(file)
        raise OptcError(f"{argument}: there is no such file or shipped {what}{_near(folded, {_fold(n): n for n, _ in files})}")
    if not path.exists():
        if path.is_symlink():
            raise OptcError(f"{argument}: is a link that leads nowhere")
        here = [p.name for p in path.parent.glob("*.opt")] if path.parent.is_dir() else []
        raise OptcError(f"{argument}: there is no such file{_near(path.name, {name: name for name in here}, '')}")
    return read(path)


def sources(arguments: Sequence[str]) -> list[Source]:
    """The specs of all arguments; all shipped optimizers and schedules without any."""
    if arguments:
        return [source(argument) for argument in arguments]
    return [named(path) for path in (*shipped().values(), *shipped_schedules().values())]


def is_shipped(source: Source) -> bool:
    """Whether a source is one of the optimizers and schedules that come with optc."""
    path = SPECS.parent / source.name
    return path.is_relative_to(SPECS) and (path in shipped().values() or path in shipped_schedules().values())


def program(source: Source) -> Program:
    """The checked program of a spec, without loading the rest of the compiler. Raises SpecError with every mistake."""
    from optc.dsl.check import check

    expanded = spec_of(source)
    return check(expanded.spec, expanded.source)


def spec_of(source: Source, modifiers: Sequence[str] = (), storing: Sequence[str] = ()) -> Expanded:
    """The optimizer of a spec, with modifiers and storages (`m: dynamic8`), written out.

    Raises SpecError for what cannot be read or combined.
    """
    from optc.compiler.compose.expand import expand, with_modifiers

    return with_modifiers(source, modifiers, storing) if modifiers or storing else expand(source)


def is_schedule(name: str, expanded: Expanded) -> bool:
    """Whether what a composition adds by this name is a schedule."""
    from optc.dsl import nodes

    found = expanded.library.find(name) if expanded.library is not None else None
    return found is not None and isinstance(found.node, (nodes.Schedule, nodes.Chain))


def all_shipped() -> list[tuple[str, Path]]:
    """What can be named instead of a file: an optimizer goes before a modifier of its name, and so on."""
    return [item for part in (shipped(), shipped_modifiers(), shipped_schedules(), shipped_storages()) for item in part.items()]


def _fold(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _near(name: str, names: Mapping[str, str], otherwise: str = "; optc list shows what is shipped") -> str:
    near = [names[found] for found in get_close_matches(name, names, n=3, cutoff=0.7)]
    return f"; did you mean {' or '.join(near)}?" if near else otherwise


Decorated = TypeVar("Decorated", bound="Callable[..., Any]")


class SpecArgument(click.types.StringParamType):
    """Completes the names of what is shipped, and files."""

    name = "spec"

    def names(self) -> Iterable[str]:
        """What can be named."""
        return dict(all_shipped())

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        items = [CompletionItem(n) for n in self.names() if n.startswith(incomplete)]
        return [*items, CompletionItem(incomplete, type="file")]


def with_option(command: Decorated) -> Decorated:
    """`--with`, which may be given several times."""
    text = "Modifiers to add, as in a composition: cautious, 'lookahead(k = 6)'; optc list shows them."
    option = click.option("-w", "--with", "modifiers", multiple=True, metavar="MODIFIER[,…]", help=text)
    return option(command)


def store_option(command: Decorated) -> Decorated:
    """`--store`, which may be given several times."""
    text = "How states are kept in memory, by their names in the spec: m=dynamic8,v=udynamic8; optc list shows the storages."
    option = click.option("--store", "storing", multiple=True, metavar="STATE=STORAGE[,…]", help=text, callback=_clauses)
    return option(command)


def _clauses(context: click.Context, option: click.Parameter, entries: tuple[str, ...]) -> tuple[str, ...]:
    """What `--store` asks for as clauses of a composition (`m: dynamic8`)."""
    from optc.compiler.compose.expand import split_terms

    wanted = "write STATE=STORAGE or STATE: STORAGE, such as --store m=dynamic8; optc list shows the storages"
    clauses = []
    for entry in entries:
        terms = split_terms(entry)
        if not terms:
            raise click.UsageError(f"--store {entry!r} names no state: {wanted}")
        for term in terms:
            match = re.fullmatch(r"\s*([^\s=:(]+)\s*[=:]\s*(\S.*)", term, re.DOTALL)
            if match is None:
                raise click.UsageError(f"--store {term!r} does not say which state is kept how: {wanted}")
            clauses.append(f"{match[1]}: {match[2]}")
    return tuple(clauses)


class ScheduleArgument(SpecArgument):
    """Completes the names of shipped schedules, and files."""

    name = "schedule"

    def names(self) -> Iterable[str]:
        return shipped_schedules()


SPEC = SpecArgument()
SCHEDULE = ScheduleArgument()
