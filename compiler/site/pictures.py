"""Pictures as SVG that stand in a page: their colours are the page's, so that they are readable in light and dark.

Drawn by matplotlib, with placeholders for colours that are then replaced by the variables of the style sheet. What was drawn is
kept in the user's cache by a digest of all that goes into it.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from optc.compiler.site import trajectories
from optc.compiler.site.trajectories import SURFACES, Surface, best_path, describe
from optc.dsl.program import Program

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {"ink": "#010101", "faint": "#020202", "fill": "#030303", "path": "#040404", "first": "#050505", "second": "#060606"}
"""Placeholder of every variable `--plot-…`."""

_LEVELS = 9
_WIDE, _HIGH = 4.75, 6.32  # inches
_GRID = 200
_TOLERANCE = 0.12  # pixels
_MOST_SKIPPED = 6  # points in a row, so that small turns do not add up
_MARKERS = re.compile(r'<g([^>]*)>\s*((?:<use [^>]*?( style="[^"]*")/>\s*){2,})</g>')
"""Markers of one look; said once around them, it makes the file a third."""
_TAG = re.compile(r"<[^>]*>")
_FRAGMENT = re.compile(r"(?<![\d.#\w])-?\d+\.\d{2,}")


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG with a title and a description in it, and its caption."""

    svg: Markup
    title: str
    caption: str


class Painter:
    """Draws paths. `references` are optimizers by name whose losses are drawn for comparison, two at most."""

    def __init__(self, references: Mapping[str, Program], cache: Path | None = None) -> None:
        self.references = references
        self.cache = cache
        self._paths: dict[tuple[str, str], trajectories.Path | None] = {}

    def pictures(self, program: Program, names: Mapping[str, Program] | None = None) -> tuple[Picture, ...]:
        """One picture for every surface; none for a surface on which no step size works. `names` replaces the references."""
        others = self.references if names is None else names
        drawn = (self._picture(program, surface, others) for surface in SURFACES)
        return tuple(picture for picture in drawn if picture is not None)

    def _picture(self, program: Program, surface: Surface, others: Mapping[str, Program]) -> Picture | None:
        key = self._key(program, surface, others)
        kept = self.cache / f"{key}.txt" if self.cache is not None else None
        if kept is not None and kept.is_file():
            caption, _, svg = kept.read_text(encoding="utf-8").partition("\n")
            return Picture(Markup(svg), surface.title, caption) if svg else None
        drawn = self._draw(program, surface, others, f"p{key[:8]}")
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            new = kept.with_suffix(".new")
            new.write_text(f"{drawn.caption}\n{drawn.svg}" if drawn else "\n", encoding="utf-8")
            new.replace(kept)
        return drawn

    def _key(self, program: Program, surface: Surface, others: Mapping[str, Program]) -> str:
        texts = [self._code, surface.slug, program.source.text]
        for name, other in others.items():
            texts += [name, other.source.text]
        return hashlib.sha256("\0".join(texts).encode()).hexdigest()

    @cached_property
    def _code(self) -> str:
        """What else decides how a picture looks: this code, the oracle's, the versions of what draws."""
        import matplotlib

        here = Path(__file__)
        parts = [here, Path(trajectories.__file__), here.parents[1] / "interpret.py", here.parents[2] / "dsl" / "semantics.py"]
        return "\0".join([matplotlib.__version__, np.__version__, *(part.read_text(encoding="utf-8") for part in parts)])

    def _path(self, program: Program, surface: Surface) -> trajectories.Path | None:
        """The best path, run once only for a reference."""
        key = (program.source.text, surface.slug)
        if key not in self._paths:
            self._paths[key] = best_path(program, surface)
        return self._paths[key]

    def _draw(self, program: Program, surface: Surface, others: Mapping[str, Program], prefix: str) -> Picture | None:
        path = self._path(program, surface)
        if path is None:
            return None
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        with matplotlib.rc_context(settings(prefix)):  # type: ignore[arg-type]
            figure = Figure(figsize=(_WIDE, _HIGH))
            FigureCanvasSVG(figure)
            map_of = figure.add_axes((0.42 / _WIDE, 2.05 / _HIGH, 4.2 / _WIDE, 4.2 / _HIGH))
            curves = figure.add_axes((0.42 / _WIDE, 0.4 / _HIGH, 4.2 / _WIDE, 1.15 / _HIGH))
            _map(map_of, surface, path.points)
            named = [(program.name, path.losses)]
            for name, other in others.items():
                found = None if other.name == program.name else self._path(other, surface)
                if found is not None:
                    named.append((name, found.losses))
            _curves(curves, named)
            out = io.StringIO()
            figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
        caption = f"lr = {path.lr:g}, the best of {len(trajectories.STEP_SIZES)} step sizes; {surface.steps} steps."
        return Picture(page_svg(out.getvalue(), prefix, surface.title, describe(path, surface)), surface.title, caption)


def _map(axes: Axes, surface: Surface, points: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    """Height lines, the path with a dot for every step, its start (a ring), its end (a disc) and the minimum (a cross)."""
    left, right, bottom, top = surface.window
    x, y = np.meshgrid(np.linspace(left, right, _GRID), np.linspace(bottom, top, _GRID))
    height = np.log10(surface.loss(x, y) + 1e-2)
    levels = np.linspace(height.min(), height.max(), _LEVELS + 2)[1:-1]
    for level in levels:
        inside = axes.contourf(x, y, height, levels=[height.min() - 1, level], colors=[COLORS["fill"] + "18"])
        inside.set(edgecolor=COLORS["faint"] + "a0", linewidth=0.5)
    shown = np.clip(points, (left - 9, bottom - 9), (right + 9, top + 9))
    axes.plot(*shown.T, color=COLORS["path"], linewidth=1.0, alpha=0.8, solid_joinstyle="round")
    axes.plot(*shown[1:-1].T, ".", color=COLORS["path"], markersize=4, alpha=0.6, markeredgewidth=0)
    axes.plot(*surface.minimum, "+", color=COLORS["ink"], markersize=11, markeredgewidth=1.4)
    axes.plot(*shown[0], "o", markerfacecolor="none", markeredgecolor=COLORS["path"], markersize=7, markeredgewidth=1.8)
    axes.plot(*shown[-1], "o", color=COLORS["path"], markersize=6.5, markeredgewidth=0)
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    axes.set_xticks(np.linspace(left, right, 5))
    axes.set_yticks(np.linspace(bottom, top, 5))


def _curves(axes: Axes, named: Sequence[tuple[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]]) -> None:
    """The loss of every step on a logarithmic scale; the optimizer on top of the references."""
    looks = [("path", "solid", 1.6), ("first", (0, (4, 1.6)), 1.1), ("second", (0, (1, 1.2)), 1.2)]
    for order, ((name, losses), (color, dashes, width)) in enumerate(zip(named, looks, strict=False)):
        look = {"color": COLORS[color], "linestyle": dashes, "linewidth": width, "zorder": 9 - order}
        axes.semilogy(np.maximum(losses, 1e-6), label=name, **look)
    axes.set(xlim=(0, len(named[0][1]) - 1), ylim=(1e-4, 1e3))
    axes.set_yticks([1e-4, 1e-2, 1, 1e2], ["10⁻⁴", "10⁻²", "1", "10²"])
    axes.minorticks_off()
    axes.grid(axis="y", color=COLORS["faint"], linewidth=0.5, alpha=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    place = (1, 1)
    axes.legend(loc="lower right", bbox_to_anchor=place, borderaxespad=0, ncols=3, frameon=False, fontsize=8, columnspacing=1.2)
    axes.set_xlabel("step", labelpad=1)
    axes.set_xticks(np.linspace(0, len(named[0][1]) - 1, 5))
    axes.text(0, 1.06, "loss", transform=axes.transAxes, va="bottom")


def settings(salt: str) -> dict[str, object]:
    """How all pictures are drawn; `salt` makes the ids of one differ from those of another."""
    return {
        "svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 9, "text.color": COLORS["ink"],
        "axes.edgecolor": COLORS["faint"], "axes.labelcolor": COLORS["ink"], "xtick.color": COLORS["ink"],
        "ytick.color": COLORS["ink"], "axes.facecolor": "none", "figure.facecolor": "none", "axes.linewidth": 0.8,
        "xtick.major.size": 2.5, "ytick.major.size": 2.5, "path.simplify_threshold": 0.3, "axes.unicode_minus": True,
    }  # fmt: skip


def page_svg(text: str, prefix: str, title: str, about: str) -> Markup:
    """The `<svg>` element alone, small, with unique ids, the page's font and colours, and words for who cannot see it."""
    body = text[text.index("<svg ") :]
    body = re.sub(r"<(metadata|style)\b.*?</\1>\s*", "", body, flags=re.DOTALL)
    body = _MARKERS.sub(lambda match: f"<g{match[1]} {match[3]}>" + re.sub(' style="[^"]*"', "", match[2]) + "</g>", body)
    for name, placeholder in COLORS.items():
        body = body.replace(placeholder, f"var(--plot-{name})")
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", body)
    body = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", body)
    body = _TAG.sub(lambda tag: _FRAGMENT.sub(_rounded, tag.group()), body)  # places; numbers that are read stay
    head, _, rest = body.partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    ids = f"{prefix}-title", f"{prefix}-about"
    opening = Markup('<svg class="plot" {} role="img" aria-labelledby="{} {}"><title id="{}">{}</title><desc id="{}">{}</desc>')
    words = opening.format(Markup(box.group() if box else ""), *ids, ids[0], title, ids[1], about)
    rest = re.sub(r'(?<= d=")[^"]{400,}', lambda match: _thinned(match.group()), rest)
    rest = re.sub(r" ?\n(?=[A-Zz] ?[-\d\"]?)", "", rest)
    return words + Markup(re.sub(r"\s*\n\s*", "\n", rest))


def _rounded(match: re.Match[str]) -> str:
    """A tenth of a pixel cannot be seen."""
    return f"{float(match.group()):.1f}".removesuffix(".0")


def _thinned(data: str) -> str:
    """The data of a path without the points of its lines that lie within a tenth of a pixel of the line without them."""
    kept: list[tuple[float, float]] = []
    words: list[str] = []
    skipped = 0
    commands = re.findall(r"([MLzCQ])([^MLzCQ]*)", data)
    for place, (command, numbers) in enumerate(commands):
        if command not in "ML":
            words.append(command + numbers.strip())
            continue
        x, y = map(float, numbers.split())
        following = commands[place + 1] if place + 1 < len(commands) else ("", "")
        if command == "L" and following[0] == "L" and skipped < _MOST_SKIPPED:
            (a, b), (c, d) = kept[-1], map(float, following[1].split())
            length = ((c - a) ** 2 + (d - b) ** 2) ** 0.5
            if length > 0 and abs((c - a) * (y - b) - (d - b) * (x - a)) / length < _TOLERANCE:
                skipped += 1
                continue
        skipped = 0
        kept.append((x, y))
        words.append(f"{command}{numbers.strip()}")
    return "".join(words)
