"""Curves as a picture, drawn by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from optc.cli.panels import Panel
from optc.dsl.errors import OptcError

_WIDE, _HIGH, _MORE = 7.2, 3.9, 2.2
"""Inches: wide, high with one panel, and what each further panel adds."""
_COLORS = ("#1f6fb4", "#d9822b", "#2a8c5a", "#b8405e", "#7a5bb5", "#5a6470")
_INK, _FAINT = "#23282e", "#d5d9dd"
_DASHES = ("solid", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)))
"""So that curves can be told apart without colours as well."""


def write(panels: Sequence[Panel], file: Path) -> bool:
    """Writes the panels one below the other, whole or not at all; whether the file changed.

    Raises OptcError where matplotlib is not installed or the file cannot be written.
    """
    if find_spec("matplotlib") is None:
        raise OptcError("a picture needs matplotlib: pip install 'optc[plot]'")
    from optc.compiler.write import write_bytes

    return write_bytes(file, drawn(panels, file.suffix.lower().removeprefix(".")))


def drawn(panels: Sequence[Panel], kind: str) -> bytes:
    """The picture as bytes; the same panels give the same."""
    import matplotlib
    from matplotlib.figure import Figure

    settings = {
        "font.size": 9, "text.color": _INK, "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK,
        "axes.edgecolor": _INK, "axes.linewidth": 0.8, "svg.hashsalt": "optc", "svg.fonttype": "none",
    }  # fmt: skip
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]
        figure = Figure(figsize=(_WIDE, _HIGH + _MORE * (len(panels) - 1)), dpi=160, layout="constrained")
        ratios = [_HIGH, *[_MORE] * (len(panels) - 1)]
        several = figure.subplots(len(panels), sharex=True, squeeze=False, gridspec_kw={"height_ratios": ratios})
        for axes, panel in zip(several[:, 0], panels, strict=True):
            for line in panel.lines:
                x, y = zip(*line.shown, strict=True) if line.shown else ((), ())
                look = {"color": _COLORS[line.number % len(_COLORS)], "linestyle": _DASHES[line.number % len(_DASHES)]}
                axes.plot(x, y, label=line.name, linewidth=1.8, solid_joinstyle="round", **look)
            last = max((x for line in panel.lines for x in line.x), default=1)
            low, high = panel.range
            axes.set(xlim=(0, last), yscale="log" if panel.log else "linear")
            axes.set_ylim(*((low / 1.3, high * 1.3) if panel.log else (low - 0.03 * (high - low), high + 0.05 * (high - low))))
            axes.set_title(panel.title, loc="left", fontsize=9)
            axes.grid(color=_FAINT, linewidth=0.6)
            axes.set_axisbelow(True)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        several[-1, 0].set_xlabel("step")
        if len(panels[0].lines) > 1:
            several[0, 0].legend(frameon=False, fontsize=9)
        else:
            several[0, 0].set_title(f"{panels[0].lines[0].name}: {panels[0].title}", loc="left", fontsize=9)
        out = io.BytesIO()
        stamp = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
        figure.savefig(out, format=kind, metadata=stamp)
    return out.getvalue()
