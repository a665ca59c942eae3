"""Results as tables: JSON for programs, Markdown for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. `met` is None where there is no target (or the sizes were scaled, so that it does not apply)."""

    what: str
    target: str
    measured: str
    met: bool | None
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one benchmark; `note` says how it was measured."""

    name: str
    note: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that one command measured."""

    machine: Mapping[str, str]
    scale: float
    tables: tuple[Table, ...]

    def without_targets(self) -> Report:
        """The same numbers with no verdicts: targets are stated for full sizes."""
        bare = [replace(table, rows=tuple(replace(row, met=None) for row in table.rows)) for table in self.tables]
        return replace(self, tables=tuple(bare))

    def json(self) -> str:
        """All numbers."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    def markdown(self, title: str) -> str:
        """One table per benchmark."""
        lines = [f"# {title}", "", *(f"- {key}: {value}" for key, value in self.machine.items())]
        if self.scale != 1:
            lines += ["", f"Sizes were scaled by {self.scale:g}: the targets, which are for full sizes, were not judged."]
        for table in self.tables:
            lines += ["", f"## {table.name}", "", table.note, "", *markdown_table(table.rows)]
        return "\n".join(lines) + "\n"


def markdown_table(rows: Sequence[Row]) -> list[str]:
    """The lines of a table with a column for the verdict."""
    verdict = {True: "yes", False: "**no**", None: ""}
    lines = ["| what | target | measured | met |", "|---|---|---|---|"]
    return lines + [f"| {r.what} | {r.target} | {r.measured} | {verdict[r.met]} |" for r in rows]


def text_table(table: Table) -> str:
    """For the terminal."""
    rows = [("what", "target", "measured", "met")]
    rows += [(r.what, r.target, r.measured, {True: "yes", False: "NO", None: ""}[r.met]) for r in table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([table.name, "-" * len(table.name), *lines, ""])


def write(report: Report, folder: Path, stem: str, title: str) -> tuple[Path, Path]:
    """Writes `stem.json` and `stem.md`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{stem}.json", folder / f"{stem}.md"
    for path, text in zip(paths, (report.json(), report.markdown(title)), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths
