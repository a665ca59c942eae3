"""One picture: losses by step, a column of panels for every model, a row for every group of optimizers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REFERENCE, TEXT, GRID = "#24292f", "#57606a", "#eaeef2"
COLORS = ("#1f6feb", "#d1242f", "#1a7f37", "#8250df", "#bf8700", "#0f766e", "#bc4c99")
SKIPPED = 3
"""Evaluations at the beginning that are left out where there are more: all curves fall there, far and alike."""
APART = 0.095
"""Between two labels, in heights of a panel."""

Curves = Mapping[str, Mapping[str, float]]
"""The numbers of rows by the name of the optimizer."""


def panels(rows: Sequence[Row]) -> dict[str, dict[str, Curves]]:
    """Rows called `model, group: optimizer`, by group and model, in their order."""
    found: dict[str, dict[str, dict[str, Mapping[str, float]]]] = {}
    for row in rows:
        place, _, name = row.what.partition(": ")
        model, _, group = place.partition(", ")
        found.setdefault(group, {}).setdefault(model, {})[name] = row.numbers
    return {group: dict(models) for group, models in found.items()}


def points(numbers: Mapping[str, float]) -> tuple[list[int], list[float]]:
    """Steps and losses, from the numbers called `loss_at_<step>`."""
    found = {int(key.removeprefix("loss_at_")): value for key, value in numbers.items() if key.startswith("loss_at_")}
    begin = SKIPPED if len(found) > SKIPPED + 1 else 0
    return list(found)[begin:], list(found.values())[begin:]


def spread(places: Sequence[float], apart: float) -> list[float]:
    """Places for labels, as near to the wanted ones as their order, the distance and the panel (0 to 1) let them be."""
    order = sorted(range(len(places)), key=places.__getitem__)
    found = list(places)
    for rank, i in enumerate(order):
        low = rank * apart if rank == 0 else found[order[rank - 1]] + apart
        found[i] = max(found[i], low)
    above = 1.0
    for i in reversed(order):
        found[i] = min(found[i], above)
        above = found[i] - apart
    return found


def losses(rows: Sequence[Row], path: Path) -> None:
    """Every curve ends at its name and its distance from the reference, in its colour; a cross where a target is missed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = panels(rows)
    missed = {row.what for row in rows if row.met is False}
    models = list(dict.fromkeys(model for group in shown.values() for model in group))
    figure, grid = plt.subplots(len(shown), len(models), figsize=(13.6, 3.4 * len(shown) + 0.6), squeeze=False)
    figure.subplots_adjust(left=0.055, right=0.825, bottom=0.06, top=0.91, wspace=0.8, hspace=0.32)
    for line, (group, by_model) in zip(grid, shown.items(), strict=True):
        for axes, model in zip(line, models, strict=True):
            curves = by_model[model]
            panel(axes, curves, [name for name in curves if f"{model}, {group}: {name}" in missed])
            axes.set_title(f"{model}, {group}", loc="left", fontsize=10, fontweight="bold")
    for axes in grid[-1]:
        axes.set_xlabel("step")
    title = "Loss on validation images (mean of the seeds), and how far it ends above float32"
    figure.suptitle(title, x=0.02, ha="left", fontsize=12, fontweight="bold")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def panel(axes: Axes, curves: Curves, missed: Collection[str]) -> None:
    """The curves of a group on one model; the first is the reference. Those called in `missed` get a cross."""
    drawn = {name: points(numbers) for name, numbers in curves.items()}
    every = [value for _, values in drawn.values() for value in values if isfinite(value)]
    low, high = min(every, default=0.0), max(every, default=1.0)
    margin = 0.06 * (high - low) or 0.1
    axes.set_ylim(low - margin, high + margin)
    axes.set_xlim(min(steps[0] for steps, _ in drawn.values()), max(steps[-1] for steps, _ in drawn.values()))
    colors = dict(zip(curves, (REFERENCE, *COLORS), strict=False))
    lasts = [values[-1] if isfinite(values[-1]) else high for _, values in drawn.values()]
    ends = [(last - low + margin) / (high - low + 2 * margin) for last in lasts]
    for (name, (steps, values)), end, place in zip(drawn.items(), ends, spread(ends, APART), strict=True):
        first = name == next(iter(drawn))
        color = colors.get(name, TEXT)
        axes.plot(
            steps, values, color=color, linewidth=3.2 if first else 1.4, zorder=1 if first else 2, alpha=0.45 if first else 1
        )
        across = axes.transAxes
        axes.plot([1.0, 1.045], [end, place], color=color, linewidth=0.8, transform=across, clip_on=False)
        above = curves[name]["above_reference_percent"]
        text = f"{name}  {curves[name]['loss']:.3f}" if first else f"{name}  {above:+.2f} %{'  ✗' if name in missed else ''}"
        weight = "bold" if first else "normal"
        axes.text(1.055, place, text, color=color, fontsize=9, fontweight=weight, va="center", transform=across)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=TEXT)
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
