"""Diagnostics: what is wrong with a spec, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from optc.dsl.source import Source, Span

MAX_SHOWN = 20

_MESSAGE_WIDTH = 300
_LINE_WIDTH = 160
_BEFORE = 80


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One mistake. `code` is a stable kebab-case identifier (`unknown-name`); `hint` says what to do instead."""

    code: str
    message: str
    span: Span
    hint: str | None = None

    def header(self, source: Source) -> str:
        """`file:line:column: error: message`, as editors and CI systems read it."""
        line, column = source.position(self.span.start)
        message = self.message if len(self.message) <= _MESSAGE_WIDTH else f"{self.message[:_MESSAGE_WIDTH]}…"
        return f"{source.name}:{line}:{column}: error: {message} [{self.code}]"

    def render(self, source: Source) -> str:
        """Header, source line, caret line and hint; of a long line what stands around the caret, without control characters."""
        line, column = source.position(self.span.start)
        text, column = _excerpt(source.line(line), column)
        width = max(1, min(self.span.end - self.span.start, len(text) - column + 1))
        gutter = f"{line:5d} | "
        rows = [self.header(source), gutter + text, " " * (len(gutter) - 2) + "| " + " " * (column - 1) + "^" * width]
        if self.hint is not None:
            rows.append(f"        hint: {self.hint}")
        return "\n".join(rows)


def _excerpt(text: str, column: int) -> tuple[str, int]:
    """The part of a line that is shown, and the column in it."""
    start = 0
    if len(text) > _LINE_WIDTH:
        start = max(0, min(column - 1 - _BEFORE, len(text) - _LINE_WIDTH))
        end = start + _LINE_WIDTH
        text = ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
        column += bool(start) - start
    return "".join(c if c.isprintable() else " " for c in text), column


class OptcError(Exception):
    """The user's mistake, said in one clear text. The command line prints it and exits with 1."""


class Several(OptcError):
    """Mistakes in several files, reported together."""

    def __init__(self, errors: Iterable[OptcError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(map(str, self.errors)))


class SpecError(OptcError):
    """One or more diagnostics about one spec, in the order of the text."""

    def __init__(self, source: Source, diagnostics: Iterable[Diagnostic]) -> None:
        self.source = source
        self.diagnostics = tuple(sorted(set(diagnostics), key=lambda d: (d.span.start, d.span.end, d.code)))
        super().__init__(self.render())

    def render(self) -> str:
        """All diagnostics (at most `MAX_SHOWN`) and a closing count."""
        shown = [d.render(self.source) for d in self.diagnostics[:MAX_SHOWN]]
        count = len(self.diagnostics)
        if count > MAX_SHOWN:
            shown.append(f"... and {count - MAX_SHOWN} more")
        shown.append(f"{count} error{'s' if count != 1 else ''} in {self.source.name}")
        return "\n".join(shown)

    def __reduce__(self) -> tuple[type[SpecError], tuple[Source, tuple[Diagnostic, ...]]]:
        return SpecError, (self.source, self.diagnostics)


@dataclass(frozen=True, slots=True)
class Reports:
    """Called for every mistake in one source, so that they can be raised together."""

    source: Source
    found: list[Diagnostic] = field(default_factory=list)

    def __call__(self, code: str, message: str, span: Span, hint: str) -> None:
        self.found.append(Diagnostic(code, message, span, hint))

    def check(self) -> None:
        """Raises SpecError with every mistake, if there is one."""
        if self.found:
            raise SpecError(self.source, self.found)
