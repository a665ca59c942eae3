"""`optc plot`: schedules over the steps, in the terminal or as a picture."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from optc.cli import output, specs
from optc.dsl.errors import OptcError
from optc.dsl.names import fold
from optc.dsl.source import Source

if TYPE_CHECKING:
    from optc.cli.panels import Panel
    from optc.compiler.schedule_facts import Curve, Found
    from optc.runtime.schedules import Schedule

MOST_STEPS = 10_000_000
POINTS = 2001
"""Steps that a picture and JSON have at most."""
KINDS = (".png", ".svg", ".pdf")
_WORDS: dict[str, Any] = {
    "true": True, "false": False, "none": None, "inf": math.inf, "∞": math.inf,
}  # fmt: skip
_LONGEST_NAME = 48


@dataclass(frozen=True, slots=True)
class Named:
    """A schedule of an argument, as the legend calls it."""

    name: str
    found: Found


@dataclass(frozen=True, slots=True)
class Setting:
    """What `--set` gives a hyper: as it was written, and its value."""

    text: str
    value: Any


@click.command(short_help="Draw schedules over the steps.")
@click.argument("schedule", nargs=-1, required=True, type=specs.SCHEDULE)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A hyper of the schedules that have it.")
@click.option("--steps", type=click.IntRange(1, MOST_STEPS), help="Steps to draw; if not given, as many as the longest takes.")
@click.option(
    "--base", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="The rate that a group is given."
)
@click.option("--momentum", is_flag=True, help="Draw the momentum below, of the schedules that give one.")
@click.option("--log", is_flag=True, help="A logarithmic scale for the rate.")
@click.option("-o", "--output", "file", type=click.Path(path_type=Path), help="A picture instead: .png, .svg or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: errors, schedules (name, steps, lr, momentum).")
def plot(
    schedule: tuple[str, ...],
    settings: tuple[str, ...],
    steps: int | None,
    base: float,
    momentum: bool,
    log: bool,
    file: Path | None,
    as_json: bool,
) -> None:
    """Draw each SCHEDULE over the steps: the name of a shipped one, a file, a call with settings, or a chain.

    In the terminal it takes plotext, as a picture matplotlib: pip install 'optc[plot]'. With --json only the numbers are
    printed: at most 2001 steps, evenly spaced.

    \b
    Examples:
      optc plot cosine
      optc plot cosine one_cycle --set T=500 -o rates.png
      optc plot "cosine(T = 500)" "cosine(T = 500, warmup = 50)"
      optc plot "ramp(T = 100) for 100, cosine(T = 900)"
      optc plot one_cycle --momentum
      optc plot exponential --set gamma=0.99 --steps 2000 --base 3e-4 --log
      optc plot my.opt
      optc plot multi_step --set milestones=30,80 --json
    """
    if as_json and file is not None:
        raise click.UsageError("--json prints the numbers and -o draws a picture: give one of them")
    if file is not None and file.suffix.lower() not in KINDS:
        raise click.UsageError(f"{file}: is no kind of picture that is known; call it {file.stem or 'rates'}.png, .svg or .pdf")
    if not math.isfinite(base):
        raise click.UsageError(f"--base {base}: is no rate; give a finite number above 0")
    given = dict(map(_setting, settings))
    shown = [one for argument in schedule for one in _schedules(argument)]
    made = _made(shown, given)
    last = steps or max(found.horizon(rate) for _, found, rate in made)

    from optc.compiler.schedule_facts import curve, evenly

    curves = [curve(name, rate, evenly(last, POINTS), base) for name, _, rate in made]
    if as_json:
        output.say_json(schedules=[_numbers(one) for one in curves])
        return

    from optc.cli import panels, pictures

    drawn = _panels(curves, base, momentum, log)
    if file is not None:
        written = pictures.write(drawn, file)
        output.say(f"{output.good('wrote' if written else 'unchanged')} {file}")
        return
    size = shutil.get_terminal_size()
    width = size.columns if sys.stdout.isatty() else min(size.columns, 80)
    output.say(panels.text(drawn, width, size.lines if sys.stdout.isatty() else 24))


def _schedules(argument: str) -> list[Named]:
    """What an argument stands for: the schedules of a file, a shipped one, or a text with brackets or several parts."""
    from optc.compiler.schedule_facts import schedules_in

    if "\n" not in argument and not os.path.exists(argument) and any(sign in argument for sign in "(,"):
        text = " ".join(argument.split())
        (found,) = schedules_in(Source("<schedule>", f"schedule chain = {text}\n"))
        return [Named(text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 1] + "…", found)]
    source = specs.source(argument, "schedule")
    found_in = schedules_in(source)
    if not found_in:
        raise OptcError(f"{source.name}: holds no schedule; optc list shows those that are shipped")
    return [Named(found.name, found) for found in found_in]


def _setting(text: str) -> tuple[str, Setting]:
    key, sign, value = text.partition("=")
    if not sign or not key.strip() or not value.strip():
        raise click.UsageError(f"--set {text!r} sets nothing: write KEY=VALUE, such as --set T=500 or --set shape=linear")
    return fold(key.strip()), Setting(value.strip(), _value(value.strip()))


def _value(text: str) -> Any:
    """A number, a flag, none, several of them with commas between, or else a text."""
    inside = text[1:-1] if text[0] in "([" and text[-1] in ")]" else text
    if "," in inside or inside != text:
        return tuple(_value(part.strip()) for part in inside.split(",") if part.strip())
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text.strip("\"'")


def _made(shown: Sequence[Named], given: dict[str, Setting]) -> list[tuple[str, Found, Schedule]]:
    """The schedules with their settings. Raises OptcError for one that none of them has, and for values out of range."""
    kinds = {one.name: [hyper.key for hyper in one.found.kind.hypers] for one in shown}
    for key in given:
        if not any(key in keys for keys in kinds.values()):
            known = "; ".join(f"{name} has {', '.join(keys) or 'none to set'}" for name, keys in kinds.items())
            raise OptcError(f"--set {key}: no schedule that is drawn has this setting; {known}")
    made: list[tuple[str, Found, Schedule]] = []
    for one in shown:
        hypers = {hyper.key: hyper for hyper in one.found.kind.hypers if hyper.key in given}
        own = {key: _fitting(given[key].value, hyper.kind == "integer", hyper.is_tuple) for key, hyper in hypers.items()}
        said = ", ".join(f"{key} = {given[key].text}" for key in own)
        try:
            made.append((f"{one.name}({said})" if said else one.name, one.found, one.found.kind(**own)))
        except ValueError as error:
            raise OptcError(f"--set: {error}") from error
    return made


def _fitting(value: Any, whole: bool, several: bool) -> Any:
    """`1e3` is a whole number, and one number is a tuple of one."""
    if several and not isinstance(value, tuple):
        return (value,)
    return int(value) if whole and isinstance(value, float) and value.is_integer() else value


def _numbers(curve: Curve) -> dict[str, Any]:
    momenta = None if curve.momenta is None else _finite(curve.momenta)
    return {"name": curve.name, "steps": list(curve.steps), "lr": _finite(curve.rates), "momentum": momenta}


def _finite(values: Sequence[float]) -> list[float | None]:
    """JSON has no word for what is not finite."""
    return [value if math.isfinite(value) else None for value in values]


def _panels(curves: Sequence[Curve], base: float, momentum: bool, log: bool) -> list[Panel]:
    """The rate, and where it is asked for and given the momentum."""
    from optc.cli.panels import Line, Panel

    title = "learning rate, as a share of the one given" if base == 1 else f"learning rate, where {base:g} was given"
    rates = [[y if y > 0 or not log else math.nan for y in curve.rates] for curve in curves]
    lines = [Line(c.name, c.steps, y, number) for number, (c, y) in enumerate(zip(curves, rates, strict=True))]
    drawn = [Panel(title, lines, log, from_zero=True)]
    if not any(line.shown for line in drawn[0].lines):
        why = (
            "no rate is above 0, and others have no place on a logarithmic scale; leave --log out"
            if log
            else "no rate is finite"
        )
        raise OptcError(f"{' and '.join(curve.name for curve in curves)}: {why}")
    beta = [Line(curve.name, curve.steps, curve.momenta, number) for number, curve in enumerate(curves) if curve.momenta]
    if momentum and not beta:
        raise OptcError(f"--momentum: none is given by {' or '.join(c.name for c in curves)}; cyclic and one_cycle give one")
    return [*drawn, Panel("momentum", beta)] if momentum else drawn
