"""`python -m benchmarks`: all measurements for the CPU, into benchmarks/results/cpu-<date>.{json,md,png}."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks import cpu_large, cpu_many, cpu_storage, figure, memory, startup
from benchmarks.machine import machine
from benchmarks.report import Report, Row, Table, text_table, write
from benchmarks.streams import NoCompiler

RESULTS = Path(__file__).resolve().parent / "results"
PARTS = ("large", "many", "storage", "startup", "memory")


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
    if part == "startup":
        return startup.table(_collect(part, startup.run(min(rounds or 3, 5), only)), min(rounds or 3, 5))
    return memory.table(_collect(part, memory.run(scale)) if memory.available() else [])


@click.command()
@click.option("--scale", default=1.0, show_default=True, type=click.FloatRange(1e-4, 1), help="Fraction of the full sizes.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds per measurement.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only this part (may be repeated).")
@click.option("--spec", "only", multiple=True, help="Only this spec (may be repeated).")
@click.option("-o", "--output", "folder", default=RESULTS, type=click.Path(path_type=Path), help="Where the results go.")
def main(scale: float, rounds: int | None, parts: tuple[str, ...], only: tuple[str, ...], folder: Path) -> None:
    """Measure on the CPU; about 10 minutes at full size, on a machine that does nothing else."""
    warnings.filterwarnings("ignore", category=UserWarning, module="pytorch_optimizer")
    described = machine()
    try:
        tables = tuple(measure(part, scale, rounds, only) for part in parts or PARTS)
    except NoCompiler as error:
        raise click.ClickException(str(error)) from None
    report = Report(described, scale, tables)
    if scale != 1:
        report = report.without_targets()
    stem = f"cpu-{datetime.now(UTC):%Y-%m-%d}"
    paths = write(report, folder, stem, f"CPU benchmarks, {datetime.now(UTC):%Y-%m-%d}")
    for table in report.tables:
        click.echo(text_table(table))
        if table.name == "Large tensors, CPU" and table.rows:
            figure.floors(table.rows, folder / f"{stem}.png", f"One optimizer step on a CPU ({described['threads']} threads)")
    click.echo("wrote " + ", ".join(map(str, paths)))


if __name__ == "__main__":
    main()
