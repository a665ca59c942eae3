"""What a schedule gives over the steps, as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from optc.compiler.schedule_facts import Curve
from optc.compiler.site.pictures import COLORS, Picture, page_svg, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDE, _RATE, _MOMENTUM = 7.2, 2.35, 1.05  # inches
_LEFT, _RIGHT, _TOP, _BELOW, _BETWEEN = 0.5, 0.22, 0.55, 0.4, 0.36
_LOOKS: tuple[tuple[str, Any, float], ...] = (
    ("path", "solid", 1.7),
    ("first", (0, (5, 1.8)), 1.4),
    ("second", (0, (1.2, 1.2)), 1.6),
)


def schedule_picture(name: str, curves: Sequence[Curve]) -> Picture:
    """The picture of a schedule: its rates, and below them its momenta where it gives some. Three curves at most."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    prefix = f"rates-{name}"
    momenta = any(curve.momenta is not None for curve in curves)
    high = _TOP + _RATE + _BELOW + (_BETWEEN + _MOMENTUM if momenta else 0.0)
    width = (_WIDE - _LEFT - _RIGHT) / _WIDE
    with matplotlib.rc_context(settings(prefix)):  # type: ignore[arg-type]
        figure = Figure(figsize=(_WIDE, high))
        FigureCanvasSVG(figure)
        rates = figure.add_axes((_LEFT / _WIDE, 1 - (_TOP + _RATE) / high, width, _RATE / high))
        _draw(rates, [(curve.name, curve.steps, curve.rates) for curve in curves], "rate, as a share of the one given", 0.3)
        rates.set_ylim(*_limits([rate for curve in curves for rate in curve.rates], 0.0))
        look = {"frameon": False, "fontsize": 8, "columnspacing": 1.6, "handlelength": 2.4}
        rates.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1, borderpad=0, ncols=3, **look)
        bottom = rates
        if momenta:
            bottom = figure.add_axes((_LEFT / _WIDE, _BELOW / high, width, _MOMENTUM / high))
            given = [(curve.name, curve.steps, curve.momenta) for curve in curves if curve.momenta is not None]
            _draw(bottom, given, "momentum", 0.06)
            bottom.set_ylim(*_limits([beta for _, _, betas in given for beta in betas], None))
            rates.set_xticklabels([])
        bottom.set_xlabel("step", labelpad=1)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    title = "Over the steps"
    return Picture(page_svg(out.getvalue(), prefix, f"{name} over the steps", describe(curves)), title, caption(curves))


def caption(curves: Sequence[Curve]) -> str:
    """What is drawn, in a line."""
    others = " and ".join(f"with {curve.name}" for curve in curves[1:])
    return "The rate as the defaults have it" + (f", {others}." if others else ".")


def describe(curves: Sequence[Curve]) -> str:
    """The picture in words."""
    return " ".join(_describe(curve) for curve in curves)


def _describe(curve: Curve) -> str:
    low, high = min(curve.rates), max(curve.rates)
    words = f"{curve.name}: the rate is {curve.rates[0]:.3g} at first and {curve.rates[-1]:.3g} after {curve.steps[-1]} steps"
    if high not in (curve.rates[0], curve.rates[-1]):
        words += f", {high:.3g} at most (step {curve.steps[curve.rates.index(high)]})"
    if low not in (curve.rates[0], curve.rates[-1]):
        words += f", {low:.3g} at least (step {curve.steps[curve.rates.index(low)]})"
    if curve.momenta is not None:
        words += f"; the momentum lies between {min(curve.momenta):.3g} and {max(curve.momenta):.3g}"
    return words + "."


def _draw(axes: Axes, curves: Sequence[tuple[str, Sequence[float], Sequence[float]]], title: str, above: float) -> None:
    """Curves over the steps, with the title so many inches above them."""
    for order, ((name, x, y), (color, dashes, width)) in enumerate(zip(curves, _LOOKS, strict=False)):
        look: dict[str, Any] = {"color": COLORS[color], "linestyle": dashes, "linewidth": width, "zorder": 9 - order}
        axes.plot(x, y, label=name, solid_joinstyle="round", **look)
    axes.set_xlim(0, max(x[-1] for _, x, _ in curves))
    axes.grid(axis="y", color=COLORS["faint"], linewidth=0.5, alpha=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.annotate(title, (0, 1), (0, 72 * above), xycoords="axes fraction", textcoords="offset points", va="bottom")


def _limits(values: Sequence[float], least: float | None) -> tuple[float, float]:
    """A scale with a little room around the values; from `least` if there are none below it."""
    low, high = min(values), max(values)
    low = low if least is None else min(low, least)
    room = 0.04 * (high - low) or 0.1
    return low - room, high + room
