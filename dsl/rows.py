"""Lines to print: depth, aligned columns, and the comments that belong to them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optc.dsl import nodes
from optc.dsl.names import width
from optc.dsl.source import NOWHERE, Span

INDENT = "    "


@dataclass(frozen=True, slots=True)
class Row:
    """A line to print: its depth, its columns (padded to those of its neighbours where it has several) and its place in the
    source, by which comments find it."""

    depth: int
    cells: tuple[str, ...]
    span: Span


def aligned(rows: Sequence[Row]) -> list[Row]:
    """The rows, all of equally many columns, with every column as wide as its widest cell and empty columns left out."""
    widths = [max(map(width, column)) for column in zip(*(row.cells for row in rows), strict=True)]

    def pad(row: Row) -> Row:
        cells = (cell + " " * (wide - width(cell)) for cell, wide in zip(row.cells, widths, strict=True) if wide)
        return Row(row.depth, (" ".join(cells).rstrip(),), row.span)

    return [pad(row) for row in rows]


def with_comments(rows: Sequence[Row | None], comments: Sequence[nodes.Comment]) -> Iterator[str]:
    """The lines of the rows (None is an empty line) with each comment before, or behind, the row it belongs to."""
    placed = sorted((row.span.start, row.span.end, place) for place, row in enumerate(rows) if row and row.span != NOWHERE)
    starts = [start for start, _, _ in placed]
    before: dict[int, list[str]] = {}
    behind: dict[int, str] = {}
    for comment in comments:
        text = f"# {comment.text}".rstrip()
        at = bisect_right(starts, comment.span.start) - 1
        if at >= 0 and not comment.alone:
            place = placed[at][2]
            if place in behind:
                before.setdefault(place, []).append(behind[place])
            behind[place] = text
            continue
        if at < 0 or comment.span.start >= placed[at][1]:
            at += 1
        before.setdefault(placed[at][2] if at < len(placed) else len(rows), []).append(text)
    for place, row in enumerate(rows):
        if row is None:
            yield ""
            continue
        indent = INDENT * row.depth
        yield from (indent + text for text in before.get(place, ()))
        comment_text = "  " + behind[place] if place in behind else ""
        yield indent + " ".join(row.cells) + comment_text
    yield from before.get(len(rows), ())
