"""What the codes of a storage stand for, as a picture: its levels, and how far numbers of every size are off."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from optc.compiler.site.pictures import COLORS, Picture, page_svg, settings
from optc.compiler.storage_facts import Codes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAST = 1e-10
"""The smallest share of the largest that is shown: one scale for all pages."""
_WIDE, _HIGH = 7.2, 3.75  # inches
_LEFT, _RIGHT = 0.62, 0.12
_SMALL, _MOST = 1e-3, 3.0
"""The errors that are shown."""
_BELOW = 60
"""Points of the curve below the smallest level, where none of them is 0."""


def level_picture(name: str, codes: Codes) -> Picture:
    """The picture of a storage's levels."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    prefix = f"levels-{name}"
    levels = np.array(codes.levels)
    with matplotlib.rc_context(settings(prefix)):  # type: ignore[arg-type]
        figure = Figure(figsize=(_WIDE, _HIGH))
        FigureCanvasSVG(figure)
        width = (_WIDE - _LEFT - _RIGHT) / _WIDE
        ticks = figure.add_axes((_LEFT / _WIDE, 2.75 / _HIGH, width, 0.75 / _HIGH))
        errors = figure.add_axes((_LEFT / _WIDE, 0.45 / _HIGH, width, 1.85 / _HIGH))
        _levels(ticks, levels)
        _errors(errors, levels)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    title = "Levels"
    caption = "The numbers that codes stand for; and how far a number is off at most, between one level and the next."
    return Picture(page_svg(out.getvalue(), prefix, f"{title} of {name}", describe(codes)), title, caption)


def describe(codes: Codes) -> str:
    """The picture in words."""
    first = codes.decades[0]
    parts = [f"{len(codes.levels)} levels from {codes.levels[0]:.3g} to {codes.levels[-1]:.3g} of the largest of the block"]
    parts.append(
        f"{first.levels} of those above 0 are in the highest decade, where numbers are off by {first.error:.2g} at most"
    )
    zero = "0 or " if codes.has_zero else ""
    parts.append(f"what is smaller than {codes.smallest:.2g} is kept as {zero}{codes.smallest:.2g}")
    return "; ".join(parts) + "."


def _levels(axes: Axes, levels: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    """A stroke for each level: those above 0 above the line, those below 0 under it."""
    for sign, color in ((1, "path"), (-1, "fill")):
        of_sign = sign * levels[sign * levels > 0]
        # one path, with gaps: hundreds would make the file three times as large
        ends = np.array([0.06 * sign, 0.94 * sign, np.nan])
        axes.plot(np.repeat(of_sign, 3), np.tile(ends, len(of_sign)), color=COLORS[color], linewidth=0.7)
    signed = bool(levels[0] < 0)
    axes.set(xscale="log", xlim=(_LEAST, 1.35), ylim=(-1 if signed else 0, 1))
    axes.set_yticks([0.5, -0.5] if signed else [0.5], ["x > 0", "x < 0"] if signed else ["x > 0"])
    axes.tick_params(axis="y", length=0)
    _decades(axes)
    axes.set_xticklabels([])
    axes.tick_params(axis="x", length=0)
    axes.axhline(0, color=COLORS["faint"], linewidth=0.8)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.text(0, 1.08, "levels", transform=axes.transAxes, va="bottom")


def _errors(axes: Axes, levels: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    """How far x is off at most around each size: where two levels are equally near. What is below the smallest is shaded."""
    above = levels[levels > 0]
    middles = (levels[:-1] + levels[1:])[levels[1:] > 0] / 2
    middles = middles[middles > 0]
    off = np.abs(levels[:, None] - middles).min(axis=0) / middles
    look: dict[str, Any] = {"color": COLORS["path"], "linewidth": 1.0, "solid_joinstyle": "round"}
    if 0.0 in levels:
        middles, off = np.concatenate([[_LEAST], middles]), np.concatenate([[1.0], off])
    else:
        below = np.geomspace(above[0] / (1 + _MOST), above[0] / (1 + _SMALL), _BELOW)
        axes.plot(below, above[0] / below - 1, **look)
    axes.plot(middles, off, **look)
    axes.plot(middles, off, ".", color=COLORS["path"], markersize=3.2, markeredgewidth=0)
    small = above[0] / 2 if 0.0 in levels else above[0]
    axes.axvspan(_LEAST, small, color=COLORS["fill"], alpha=0.13, linewidth=0)
    if small > _LEAST * 100:  # there is room
        words = "kept as 0" if 0.0 in levels else "kept as the smallest level"
        axes.text(np.sqrt(_LEAST * small), 0.02, words, ha="center", va="center")
    axes.set(xscale="log", yscale="log", xlim=(_LEAST, 1.35), ylim=(_SMALL, _MOST))
    axes.set_yticks([1e-3, 1e-2, 1e-1, 1], ["0.1 %", "1 %", "10 %", "100 %"])
    axes.minorticks_off()
    _decades(axes)
    axes.grid(axis="y", color=COLORS["faint"], linewidth=0.5, alpha=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.text(0, 1.03, "off by, as a share of x", transform=axes.transAxes, va="bottom")
    axes.set_xlabel("|x| as a share of the largest of its block", labelpad=1)


def _decades(axes: Axes) -> None:
    shown = range(-10, 1, 2)
    axes.set_xticks(
        [10.0**k for k in shown], ["1" if k == 0 else f"10⁻{'⁰¹²³⁴⁵⁶⁷⁸⁹'[-k % 10] if k > -10 else '¹⁰'}" for k in shown]
    )
    axes.minorticks_off()
