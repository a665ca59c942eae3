"""One picture: nanoseconds per parameter of every spec beside the floor that memory sets, and what peers need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Row

OPTC, PEER, FLOOR, TEXT = "#1f6feb", "#d0d7de", "#d1242f", "#57606a"
COLUMNS = ((1.02, "ns/param"), (1.16, "x floor"), (1.28, "x faster than"))
"""Columns of numbers beside the bars, in widths of the axes."""


def floors(rows: Sequence[Row], path: Path, title: str) -> None:
    """Horizontal bars on a logarithmic scale, fastest first: optc, the fastest peer behind it, a line at the floor."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    own = {row.what.removesuffix(" vs floor"): row.numbers for row in rows if row.what.endswith(" vs floor")}
    names = sorted(own, key=lambda name: own[name]["seconds"], reverse=True)
    height = 0.34 * len(names) + 1.9
    figure, axes = plt.subplots(figsize=(11, height))
    figure.subplots_adjust(left=0.18, right=0.66, bottom=0.9 / height, top=1 - 0.72 / height)
    widest = 0.0
    for y, name in enumerate(names):
        numbers = own[name]
        scale = 1e9 / numbers["elements"]
        seconds, floor = numbers["seconds"], numbers["floor_seconds"]
        peers = [row for row in rows if row.what.startswith(f"{name} vs ") and "speedup" in row.numbers]
        peer = min(peers, key=lambda row: row.numbers["seconds"], default=None)
        cells = [f"{seconds * scale:.2f}", f"{seconds / floor:.2f}", ""]
        widest = max(widest, seconds * scale)
        if peer is not None:
            width = peer.numbers["seconds"] * scale
            widest = max(widest, width)
            axes.barh(y, width, height=0.78, color=PEER, zorder=1)
            cells[2] = f"{peer.numbers['speedup']:.1f}  {peer.what.removeprefix(f'{name} vs ')}"
        axes.barh(y, seconds * scale, height=0.42, color=OPTC, zorder=2)
        axes.plot([floor * scale] * 2, [y - 0.38, y + 0.38], color=FLOOR, linewidth=2.2, zorder=3)
        for (x, _), cell in zip(COLUMNS, cells, strict=True):
            axes.text(x, y, cell, transform=axes.get_yaxis_transform(), va="center", fontsize=9, color=TEXT)
    for x, header in COLUMNS:
        place = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 9, "fontweight": "bold"}
        axes.text(x, len(names), header, **place)  # type: ignore[arg-type]
    axes.set_xscale("log")
    axes.set_xlim(0.1, 1.3 * widest)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_yticks(range(len(names)), names)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("ns per parameter and step, float32, logarithmic (less is better)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#eaeef2")
    axes.set_axisbelow(True)
    figure.suptitle(title, x=0.02, y=1 - 0.22 / height, ha="left", va="center", fontsize=12, fontweight="bold")
    kinds = [Patch(color=OPTC), Patch(color=PEER), Line2D([], [], color=FLOOR, linewidth=2.2)]
    figure.legend(kinds, ["optc native", "fastest peer", "memory floor"], loc="lower right", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)
