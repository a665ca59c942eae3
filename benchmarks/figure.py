"""One picture: nanoseconds per parameter of every spec beside the floor that memory sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Row

OPTC, PEER, FLOOR = "#1f6feb", "#c9ced6", "#d1242f"


def floors(rows: Sequence[Row], path: Path, title: str) -> None:
    """Horizontal bars: optc native, the fastest peer behind it, and a line at the floor."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    own = {r.what.removesuffix(" vs floor"): r.numbers for r in rows if r.what.endswith(" vs floor")}
    names = sorted(own, key=lambda name: own[name]["seconds"], reverse=True)
    peers = {name: [r for r in rows if r.what.startswith(f"{name} vs ") and r.what != f"{name} vs floor"] for name in names}
    fastest = {name: min(found, key=lambda r: r.numbers["seconds"]) for name, found in peers.items() if found}
    figure, axes = plt.subplots(figsize=(9, 0.42 * len(names) + 1.8), layout="constrained")
    limit = 2.6 * max(own[name]["seconds"] / own[name]["elements"] for name in names) * 1e9
    for y, name in enumerate(names):
        numbers = own[name]
        scale = 1e9 / numbers["elements"]
        if name in fastest:
            peer = fastest[name]
            width = peer.numbers["seconds"] * scale
            axes.barh(y, min(width, limit), height=0.78, color=PEER, zorder=1)
            text = f"{peer.what.split(' vs ')[1]}  {width:.2f}" + (" →" if width > limit else "")
            end = min(width, limit) - 0.01 * limit
            axes.text(end, y, text, va="center", ha="right", fontsize=7.5, color="#57606a", zorder=3)
        axes.barh(y, numbers["seconds"] * scale, height=0.46, color=OPTC, zorder=2)
        axes.text(0.008 * limit, y, f"{numbers['seconds'] * scale:.2f}", va="center", fontsize=8, color="white", zorder=4)
        axes.plot([numbers["floor_seconds"] * scale] * 2, [y - 0.36, y + 0.36], color=FLOOR, linewidth=2, zorder=5)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, limit)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("ns per parameter and step, float32 (less is better)")
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e6e8eb", zorder=0)
    axes.set_axisbelow(True)
    bars = [Rectangle((0, 0), 1, 1, color=OPTC), Rectangle((0, 0), 1, 1, color=PEER)]
    line = Line2D([], [], color=FLOOR, linewidth=2)
    axes.legend([*bars, line], ["optc native", "fastest peer", "memory floor"], loc="lower right", frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)
