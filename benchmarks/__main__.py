"""`python -m benchmarks`: all measurements for the CPU, into benchmarks/results/cpu-<date>.{json,md,png}.

What is no matter of speed goes into convergence-<date>.{json,md,png}.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks import (
    convergence,
    cpu_large,
    cpu_many,
    cpu_processes,
    cpu_storage,
    cpu_training,
    curves,
    figure,
    learning,
    memory,
    startup,
)
from benchmarks.machine import machine
from benchmarks.report import Report, Row, Table, text_table, write
from benchmarks.streams import NoCompiler

RESULTS = Path(__file__).resolve().parent / "results"
REPORTS = {"cpu": ("large", "many", "storage", "training", "processes", "startup", "memory"), "convergence": ("convergence",)}
"""The parts of each report."""
TITLES = {"cpu": "CPU benchmarks", "convergence": "Convergence"}
PARTS = tuple(part for parts in REPORTS.values() for part in parts)


def _collect(name: str, rows: Iterable[Row]) -> list[Row]:
    found: list[Row] = []
    for row in rows:
        found.append(row)
        click.echo(f"  {name}: {row.what}: {row.measured}", err=True)
    return found


def measure(part: str, scale: float, rounds: int | None, only: tuple[str, ...]) -> Table:
    """One part's table. Raises NoCompiler where native code cannot be built."""
    if part == "large":
        return cpu_large.table(_collect(part, cpu_large.run(scale, rounds or 15, only)), scale, rounds or 15)
    if part == "many":
        return cpu_many.table(_collect(part, cpu_many.run(scale, rounds or 60, only)), rounds or 60)
    if part == "storage":
        return cpu_storage.table(_collect(part, cpu_storage.run(scale, rounds or 9)), scale, rounds or 9)
    if part == "training":
        return cpu_training.table(_collect(part, cpu_training.run(scale, rounds or 15)), scale, rounds or 15)
    if part == "processes":
        return cpu_processes.table(_collect(part, cpu_processes.run(rounds or 15)), rounds or 15)
    if part == "startup":
        return startup.table(_collect(part, startup.run(min(rounds or 3, 5), only)), min(rounds or 3, 5))
    if part == "convergence":
        found = convergence.run(scale, rounds or convergence.SEEDS, only) if learning.available() else ()
        return convergence.table(_collect(part, found), rounds or convergence.SEEDS)
    return memory.table(_collect(part, memory.run(scale)) if memory.available() else [])


def save(report: Report, kind: str, folder: Path) -> None:
    """Shows the tables of a report and writes it, with its picture."""
    stem, title = f"{kind}-{datetime.now(UTC):%Y-%m-%d}", f"{TITLES[kind]}, {datetime.now(UTC):%Y-%m-%d}"
    paths = write(report, folder, stem, title)
    for table in report.tables:
        click.echo(text_table(table))
        if table.name == "Large tensors, CPU" and table.rows:
            title = f"One optimizer step on a CPU ({report.machine['threads']} threads)"
            figure.floors(table.rows, folder / f"{stem}.png", title)
        if table.name == convergence.NAME and table.rows:
            curves.losses(table.rows, folder / f"{stem}.png")
    click.echo("wrote " + ", ".join(map(str, paths)))


@click.command()
@click.option("--scale", default=1.0, show_default=True, type=click.FloatRange(1e-4, 1), help="Fraction of the full sizes.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds per measurement; seeds, for convergence.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only this part (may be repeated).")
@click.option("--spec", "only", multiple=True, help="Only this spec (may be repeated).")
@click.option("-o", "--output", "folder", default=RESULTS, type=click.Path(path_type=Path), help="Where the results go.")
def main(scale: float, rounds: int | None, parts: tuple[str, ...], only: tuple[str, ...], folder: Path) -> None:
    """Measure on the CPU; about 20 minutes at full size, on a machine that does nothing else."""
    warnings.filterwarnings("ignore", category=UserWarning, module="pytorch_optimizer")
    described = machine()
    for kind, of_kind in REPORTS.items():
        wanted = [part for part in parts or of_kind if part in of_kind]
        if not wanted:
            continue
        try:
            tables = tuple(measure(part, scale, rounds, only) for part in wanted)
        except NoCompiler as error:
            raise click.ClickException(str(error)) from None
        report = Report(described, scale, tables)
        save(report if scale == 1 else report.without_targets(), kind, folder)


if __name__ == "__main__":
    main()
