"""Everything that is told of one schedule, from its file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from optc.compiler.compose.library import named, shipped_schedules
from optc.compiler.schedule_facts import Curve, curve, evenly, schedules_in
from optc.compiler.schedules import written_out
from optc.compiler.site import facts
from optc.compiler.site.coloring import color
from optc.compiler.site.equations import Equations, of_schedule
from optc.compiler.site.references import Reference, reference
from optc.compiler.site.schedule_examples import CALLS, EQUAL, IN_SPECS, SHOWN, SMALL
from optc.dsl import nodes
from optc.dsl.errors import OptcError
from optc.dsl.parse import parse_file

_POINTS = 1201
_SPARK = 90
_SPARK_WIDE, _SPARK_HIGH = 88.0, 22.0
_EDGE = 1.5


@dataclass(frozen=True, slots=True)
class SchedulePage:
    """One shipped schedule.

    `call` are arguments in Python, `term` the same as in a composition. `curves` are the defaults and a few settings, `equal`
    pairs of calls, here and in other libraries, that give the same.
    """

    slug: str
    name: str
    class_name: str
    text: str
    file: str
    references: tuple[Reference, ...]
    notes: tuple[str, ...]
    gives: tuple[str, ...]
    equations: Equations
    hypers: tuple[facts.HyperRow, ...]
    requires: tuple[str, ...]
    spec: Markup
    call: str
    term: str
    equal: tuple[tuple[str, str], ...]
    curves: tuple[Curve, ...]

    @property
    def year(self) -> int | None:
        """Of the oldest reference that tells one."""
        return min((r.year for r in self.references if r.year is not None), default=None)

    @property
    def libraries(self) -> tuple[str, ...]:
        """Those that have the same."""
        names = {"torch": "PyTorch", "transformers": "transformers"}
        return tuple(dict.fromkeys(names[theirs.partition(".")[0]] for _, theirs in self.equal))

    @property
    def spark(self) -> Markup:
        """A telling curve, very small."""
        shown = self.curves[min(SMALL.get(self.slug, 0), len(self.curves) - 1)]
        last, high = shown.steps[-1], max(shown.rates) or 1.0
        points = [(shown.steps[i], shown.rates[i]) for i in evenly(len(shown.steps) - 1, _SPARK)]
        wide, tall = _SPARK_WIDE - 2 * _EDGE, _SPARK_HIGH - 2 * _EDGE
        places = [f"{_EDGE + wide * n / last:.4g},{_EDGE + tall * (1 - rate / high):.4g}" for n, rate in points]
        box = f"0 0 {_SPARK_WIDE:g} {_SPARK_HIGH:g}"
        svg = Markup('<svg class="spark" viewBox="{}" aria-hidden="true"><polyline points="{}"/></svg>')
        return svg.format(box, " ".join(places))


def schedules() -> Iterator[tuple[str, Path]]:
    """Slug and file of every shipped schedule."""
    yield from shipped_schedules().items()


def schedule(slug: str, path: Path) -> SchedulePage:
    """All of one schedule.

    Raises OptcError where the file cannot be read or declares another schedule, SpecError where the definition is wrong.
    """
    source = named(path)
    file = parse_file(source)
    node = next((n for n in file.schedules if n.name == slug), None) if isinstance(file, nodes.Composition) else None
    if not isinstance(node, nodes.Schedule):
        raise OptcError(f"{source.name}: declares no schedule `{slug}`")
    checked, class_name = next((one.schedule, one.class_name) for one in written_out(source) if one.schedule.name == slug)
    found = next(one for one in schedules_in(source) if one.name == slug)
    settings = [{}, *SHOWN.get(slug, ())]
    made = [(_words(given) or "defaults", found.kind(**given)) for given in settings]
    last = max(found.horizon(rate) for _, rate in made)
    call = CALLS.get(slug, "")
    return SchedulePage(
        slug=slug,
        name=node.name,
        class_name=class_name,
        text=node.text or "",
        file=source.name,
        references=tuple(map(reference, node.cites)),
        notes=node.notes,
        gives=tuple(value.target for value in node.values),
        equations=of_schedule(node, file.defines),
        hypers=facts.hyper_rows(checked.hypers),
        requires=tuple(require.message for require in checked.requires),
        spec=color(source.text.rstrip(), _known(node)),
        call=call,
        term=f"{node.name}({IN_SPECS.get(slug, call.replace('=', ' = '))})" if call else node.name,
        equal=EQUAL.get(slug, ()),
        curves=tuple(curve(words, rate, evenly(last, _POINTS), 1.0) for words, rate in made),
    )


def _words(given: object) -> str:
    if not isinstance(given, dict):
        return ""
    return ", ".join(f"{key} = {value:g}" if isinstance(value, float) else f"{key} = {value}" for key, value in given.items())


def _known(node: nodes.Schedule) -> dict[str, tuple[str, str]]:
    """Kind and meaning of the names in a schedule."""
    known = dict.fromkeys(("lr", "momentum"), ("keyword", ""))
    known |= {"n": ("given", "the steps done"), "base": ("given", "what the group was given")}
    for hyper in node.hypers:
        names = [e.name for e in hyper.default] if isinstance(hyper.default, tuple) else []
        known |= dict.fromkeys((hyper.name, *names), ("hyper", hyper.text or ""))
    return known
