"""Curves as text: drawn by plotext, in colours on a terminal, and with a sign for each curve in a pipe."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import click

from optc.cli import output
from optc.dsl.errors import OptcError

_COLORS = (
    ("blue+", "bright_blue"), ("orange+", "bright_yellow"), ("green+", "bright_green"), ("red+", "bright_red"),
    ("magenta+", "bright_magenta"), ("cyan+", "bright_cyan"),
)  # fmt: skip
"""What plotext and click call them."""
_SIGNS = "*ox+#@"
_LEAST_WIDE, _MOST_WIDE = 40, 120
_LEAST_HIGH, _MOST_HIGH = 10, 20
_ASCII = str.maketrans("┌┐└┘┤├┬┴┼─│", "+++++++++-|")


@dataclass(frozen=True, slots=True)
class Line:
    """A curve; `number` says which colour, or sign, it has."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    number: int

    @property
    def shown(self) -> list[tuple[float, float]]:
        """The points that are numbers."""
        return [(x, y) for x, y in zip(self.x, self.y, strict=True) if math.isfinite(y)]


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves over the same steps, on a scale that begins at 0, or is logarithmic; there, what is 0 has no place."""

    title: str
    lines: Sequence[Line]
    log: bool = False
    from_zero: bool = False

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest number of the scale."""
        values = [y for line in self.lines for _, y in line.shown]
        low, high = min(values, default=0.0), max(values, default=1.0)
        if low == high:  # a straight line stands in the middle
            low, high = (low / 2, high * 2) if self.log else (low - abs(low) / 2, high + abs(high) / 2)
        if self.from_zero and not self.log:
            low = min(low, 0.0)
        return low, high if high > low else low + 1.0


def text(panels: Sequence[Panel], width: int, height: int) -> str:
    """The panels one below the other, in lines of at most `width`. Raises OptcError where plotext is not installed."""
    if find_spec("plotext") is None:
        raise OptcError("drawing in the terminal needs plotext: pip install 'optc[plot]', or write a picture: -o rates.png")
    wide = max(_LEAST_WIDE, min(width, _MOST_WIDE))
    high = max(_LEAST_HIGH, min((height - 2) // len(panels) - 3, _MOST_HIGH))
    parts = []
    for number, panel in enumerate(panels):
        parts += [*_heading(panel, wide), _drawn(panel, wide, high, "step" if number == len(panels) - 1 else None)]
    return "\n".join(parts)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from `low` to `high`, at most so many: multiples of 1, 2 or 5 times a power of ten."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    apart = next(power * times for times in (1, 2, 5, 10, 20) if span / (power * times) <= most - 1)
    first = math.ceil(low / apart - 1e-9)
    return [round(number * apart, 12) for number in range(first, math.floor(high / apart + 1e-9) + 1)]


def decades(low: float, high: float, most: int) -> list[float]:
    """Whole numbers from `low` to `high`, at most so many: powers of ten. Both ends where there are fewer than two."""
    powers = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
    found = [float(power) for power in powers[:: max(1, -(-len(powers) // most))]]
    return found if len(found) > 1 else [low, high]


def _heading(panel: Panel, wide: int) -> list[str]:
    """The title, and behind it or below it what the curves are called."""
    if len(panel.lines) == 1:
        return [f"{output.bold(panel.lines[0].name)}: {panel.title}"]
    entries = [f"{_sign(line)} {line.name}" for line in panel.lines]
    rows = [""]
    for entry in entries:
        if rows[-1] and output.width(f"{rows[-1]}   {entry}") > wide:
            rows.append("")
        rows[-1] += ("   " if rows[-1] else "") + entry
    return [output.bold(panel.title), *rows]


def _sign(line: Line) -> str:
    if output.colored():
        return click.style("──", fg=_COLORS[line.number % len(_COLORS)][1])
    return _SIGNS[line.number % len(_SIGNS)]


def _drawn(panel: Panel, wide: int, high: int, below: str | None) -> str:
    import plotext

    colored, unicode = output.colored(), _writes("⢕┌")
    figure = plotext.figure
    plotext.terminal.limit(False, False)
    figure.clear()
    figure.theme("colorless")  # of the terminal: the curves bring their own
    low, top = map(math.log10, panel.range) if panel.log else panel.range
    for line in panel.lines:
        points = [(x, math.log10(y) if panel.log else y) for x, y in line.shown]
        fine = unicode and (colored or len(panel.lines) == 1)
        marker = "braille" if fine else _SIGNS[line.number % len(_SIGNS)]
        if colored:
            marker = plotext.marker(marker, _COLORS[line.number % len(_COLORS)][0])
        signal = figure.signal([x for x, _ in points], [y for _, y in points], marker=marker)
        signal.lines().density("full")
        figure.draw(signal)
    last = max((x for line in panel.lines for x in line.x), default=1)
    across = figure.ruler("x")
    places = ticks(0, last, 6)
    across.lim(0, last)
    across.ticks(places, [f"{place:g}" for place in places])
    up = figure.ruler("y")
    heights = decades(low, top, 6) if panel.log else ticks(low, top, max(3, high // 4))
    up.lim(low, top)
    up.ticks(heights, [f"{10**place if panel.log else place:.4g}" for place in heights])
    figure.plot_size(wide, high)
    figure.label(below, axis="x")
    drawn: str = figure.build().string(colorless=not colored)
    lines = [row.rstrip() for row in drawn.rstrip("\n").split("\n")]
    return "\n".join(lines if unicode else [row.translate(_ASCII) for row in lines])


def _writes(text: str) -> bool:
    """Whether standard output can take these letters."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
