"""What the commands print: colours on a terminal, plain text in a pipe, tables, JSON and rendered diagnostics."""

from __future__ import annotations

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import click

from optc.dsl.errors import MAX_SHOWN, Diagnostic, OptcError, Several, SpecError
from optc.dsl.source import Source


def wants_color() -> bool | None:
    """False where colours are unwanted (NO_COLOR, a dumb terminal), True where they are forced, None: as the stream is."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return True if os.environ.get("FORCE_COLOR") else None


def colored() -> bool:
    """Whether what goes to standard output has colours."""
    wanted = wants_color()
    return sys.stdout.isatty() if wanted is None else wanted


def say(text: str = "") -> None:
    """A line of the answer, on standard output."""
    click.echo(text, color=wants_color())


def note(text: str) -> None:
    """A remark or an error, on standard error."""
    click.echo(text, err=True, color=wants_color())


def say_json(errors: Iterable[OptcError] = (), /, **reported: object) -> None:
    """The answer for programs, of one shape whatever the command: an object with `errors`, then what the command reports."""
    entries = [entry for error in errors for entry in error_json(error)]
    say(json.dumps({"errors": entries, **reported}, indent=2, ensure_ascii=False, allow_nan=False))


def good(text: str) -> str:
    return click.style(text, fg="green")


def dim(text: str) -> str:
    return click.style(text, dim=True)


def bold(text: str) -> str:
    return click.style(text, bold=True)


def width(text: str) -> int:
    """Columns on a terminal: combining marks take none."""
    return sum(not unicodedata.combining(c) for c in click.unstyle(text))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Aligned columns, two spaces apart; `right` are the columns of numbers. On a terminal the last is cut to what fits."""
    lines = [[bold(cell) for cell in header], *(list(row) for row in rows)]
    widths = [max(width(line[i]) for line in lines) for i in range(len(header))]

    if sys.stdout.isatty():
        room = max(20, shutil.get_terminal_size().columns - sum(w + 2 for w in widths[:-1]))
        for line in lines[1:]:
            line[-1] = line[-1] if width(line[-1]) <= room else line[-1][: room - 1].rstrip() + "…"

    def pad(cell: str, column: int) -> str:
        space = " " * (widths[column] - width(cell))
        return space + cell if column in right else cell + space

    return "\n".join("  ".join(pad(cell, i) for i, cell in enumerate(line)).rstrip() for line in lines)


@contextmanager
def progress(items: Sequence[str], label: str) -> Iterator[Iterable[str]]:
    """Goes through `items` with a bar on standard error; without one where that is no terminal or there is only one item."""
    if len(items) < 2 or not sys.stderr.isatty():
        yield items
        return
    with click.progressbar(
        items,
        label=label,
        file=sys.stderr,
        show_pos=True,
        item_show_func=lambda item: item,
        color=wants_color(),
    ) as bar:
        yield bar


# --- errors -------------------------------------------------------------------------------------------------------------------


def show_error(error: OptcError) -> None:
    """The user's mistake, on standard error."""
    if isinstance(error, Several):
        for one in error.errors:
            show_error(one)
        return
    if not isinstance(error, SpecError):
        place, mark, message = str(error).rpartition(": error: ")  # some messages open with the place, as diagnostics do
        note(f"{bold(place) + ': ' if mark else ''}{click.style('error:', fg='red', bold=True)} {message}")
        return
    for diagnostic in error.diagnostics[:MAX_SHOWN]:
        note(paint(diagnostic, error.source))
    *_, closing = error.render().splitlines()
    if len(error.diagnostics) > MAX_SHOWN:
        note(f"... and {len(error.diagnostics) - MAX_SHOWN} more")
    note(closing)


def paint(diagnostic: Diagnostic, source: Source) -> str:
    """`Diagnostic.render` with colours: place bold, `error:` and caret red, hint cyan."""
    header, line, caret, *hint = diagnostic.render(source).splitlines()
    place, _, message = header.partition(" error: ")
    gutter, _, mark = caret.partition("| ")
    painted = [
        f"{bold(place)} {click.style('error:', fg='red', bold=True)} {message}",
        line,
        f"{gutter}| {click.style(mark, fg='red', bold=True)}",
    ]
    return "\n".join(painted + [click.style(row, fg="cyan") for row in hint])


def error_json(error: OptcError) -> list[dict[str, object]]:
    """The diagnostics as editors want them; lines and columns count from 1, the end is exclusive.

    All have the same keys; where a mistake has no place in a spec (a file that is not there), the place is null.
    """
    if isinstance(error, Several):
        return [entry for one in error.errors for entry in error_json(one)]
    if not isinstance(error, SpecError):
        place = dict.fromkeys(("file", "line", "column", "end_line", "end_column"))
        return [{**place, "code": "file", "message": str(error), "hint": None}]
    result: list[dict[str, object]] = []
    for diagnostic in error.diagnostics:
        line, column = error.source.position(diagnostic.span.start)
        end_line, end_column = error.source.position(diagnostic.span.end)
        result.append(
            {
                "file": error.source.name,
                "line": line,
                "column": column,
                "end_line": end_line,
                "end_column": end_column,
                "code": diagnostic.code,
                "message": diagnostic.message,
                "hint": diagnostic.hint,
            }
        )
    return result
