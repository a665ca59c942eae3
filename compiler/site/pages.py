"""The pages as text: templates filled with what was gathered. All text of a spec is escaped by the templates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import jinja2

from optc import __version__
from optc.compiler.interpret import symbols_of
from optc.compiler.show_storage import percent, span
from optc.compiler.site.coloring import prose
from optc.compiler.site.documents import document
from optc.compiler.site.gather import FAMILIES, STAGES, Modifier, Optimizer
from optc.compiler.site.index import in_order, lines_of, search_text
from optc.compiler.site.pictures import Picture
from optc.compiler.site.schedules import SchedulePage
from optc.compiler.site.storages import StoragePage
from optc.compiler.site.trajectories import SURFACES
from optc.dsl.program import LOSS

_TEMPLATES = Path(__file__).parent / "templates"
_ASSETS = ("style.css", "site.js")
_FIXED = {"mix": "the optimizer’s lines", "constrain": "θ is written"}  # what stands before a stage


@dataclass(frozen=True, slots=True)
class Site:
    """What the pages are made of, by slug; of `texts`, title and Markdown."""

    optimizers: Mapping[str, Optimizer]
    modifiers: Mapping[str, Modifier]
    texts: Mapping[str, tuple[str, str]]
    storages: Mapping[str, StoragePage] = field(default_factory=dict)
    schedules: Mapping[str, SchedulePage] = field(default_factory=dict)


class _Render(Protocol):
    def __call__(self, template: str, here: str, root: str, **values: object) -> str: ...


def pages(site: Site, pictures: Mapping[str, Sequence[Picture]]) -> Iterator[tuple[str, str]]:
    """Path within the site and text of every file. `pictures` by spec file; a page without any does not speak of them."""
    render = _renderer(site)
    yield "index.html", _index(site, render)
    yield from _optimizers(site, pictures, render)
    yield from _modifiers(site, pictures, render)
    yield from _storages(site, pictures, render)
    yield from _schedules(site, pictures, render)
    for slug, (_, markdown) in site.texts.items():
        page = document(markdown, {f"{other}.md": f"{other}.html" for other in site.texts})
        values = {"title": page.title, "contents": page.contents, "body": page.body}
        yield f"{slug}.html", render("document.html.j2", f"text-{slug}", "", **values)
    for asset in _ASSETS:
        yield asset, (_TEMPLATES / asset).read_text(encoding="utf-8")


def _renderer(site: Site) -> _Render:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"prose": prose, "percent": percent}
    environment.globals["span"] = span
    everywhere = {
        "version": __version__,
        "has_modifiers": bool(site.modifiers),
        "has_storages": bool(site.storages),
        "has_schedules": bool(site.schedules),
        "storage_pages": {s.name: f"../storages/{slug}.html" for slug, s in site.storages.items()},
        "texts": {slug: title for slug, (title, _) in site.texts.items()},
        "most_moved": max((row.moved for o in site.optimizers.values() for row in o.costs), default=0) or 1,
        "surfaces": SURFACES,
    }

    def render(template: str, here: str, root: str, **values: object) -> str:
        return environment.get_template(template).render(**everywhere, here=here, root=root, **values)

    return render


def _index(site: Site, render: _Render) -> str:
    optimizers = in_order(site.optimizers.values())
    modifiers = lines_of(site.modifiers.values())
    there = {o.family_title for o in optimizers}
    families = [title for title in FAMILIES.values() if title in there]
    families += sorted(there - set(families))
    others = {"Modifiers": modifiers, "Schedules": site.schedules, "Storages": site.storages}
    families += [title for title, parts in others.items() if parts]
    most = max((o.cost.moved for o in optimizers), default=0) or 1
    values = {"optimizers": optimizers, "modifiers": modifiers, "families": families, "most_in_step": most}
    values["storages"] = list(site.storages.values())
    values["schedules"] = list(site.schedules.values())
    return render("index.html.j2", "index", "", search_text=search_text, **values)


def _optimizers(site: Site, pictures: Mapping[str, Sequence[Picture]], render: _Render) -> Iterator[tuple[str, str]]:
    order = in_order(site.optimizers.values())
    hrefs = {o.name: f"{o.slug}.html" for o in order} | {m.name: f"../modifiers/{m.slug}.html" for m in site.modifiers.values()}
    for o in order:
        values = {
            "o": o,
            "usage": usage_of_optimizer(o),
            "pictures": pictures.get(o.file, ()),
            "parts": [{"name": part, "href": hrefs.get(part)} for part in o.parts],
            "neighbours": [other for other in order if other.family == o.family],
        }
        yield f"optimizers/{o.slug}.html", render("optimizer.html.j2", "optimizers", "../", **values)


def _modifiers(site: Site, pictures: Mapping[str, Sequence[Picture]], render: _Render) -> Iterator[tuple[str, str]]:
    stages = [name for stage in STAGES for name in (_FIXED.get(stage), stage) if name]
    for m in site.modifiers.values():
        values = {
            "m": m,
            "usage": usage_of_modifier(m),
            "pictures": pictures.get(m.file, ()),
            "used_by": [site.optimizers[slug] for slug in m.used_by],
            "stages": stages,
            "fixed": list(_FIXED.values()),
            "neighbours": list(site.modifiers.values()),
        }
        yield f"modifiers/{m.slug}.html", render("modifier.html.j2", "modifiers", "../", **values)


def _storages(site: Site, pictures: Mapping[str, Sequence[Picture]], render: _Render) -> Iterator[tuple[str, str]]:
    for s in site.storages.values():
        values = {
            "s": s,
            "usage": usage_of_storage(s),
            "pictures": pictures.get(s.file, ()),
            "used_by": [site.optimizers[slug] for slug in s.used_by],
            "neighbours": list(site.storages.values()),
        }
        yield f"storages/{s.slug}.html", render("storage.html.j2", "storages", "../", **values)


def _schedules(site: Site, pictures: Mapping[str, Sequence[Picture]], render: _Render) -> Iterator[tuple[str, str]]:
    for s in site.schedules.values():
        values = {
            "s": s,
            "usage": usage_of_schedule(s),
            "compiled": usage_of_schedule_in_specs(s),
            "pictures": pictures.get(s.file, ()),
            "neighbours": list(site.schedules.values()),
        }
        yield f"schedules/{s.slug}.html", render("schedule.html.j2", "schedules", "../", **values)


def usage_of_optimizer(o: Optimizer) -> str:
    """How to import it, how to make it by its name, and which other methods it has."""
    lr = next((row.default for row in o.hypers if row.key == "lr"), None)
    argument = f", lr={lr}" if lr is not None else ""
    lines = [f"from optc.generated import {o.name}", "", f"optimizer = {o.name}(model.parameters(){argument})", ""]
    lines += ["# or by name", f'optc.create("{o.slug}", model.parameters(){argument})']
    if LOSS in symbols_of(o.program.procedures[0].body):
        lines += ["", "# a step reads the loss", "optimizer.step(lambda: loss)"]
    for name, inputs, every in o.entries:
        due = f"  # every {every} steps" if every and every > 1 else "  # every step" if every else ""
        lines += ["", "# besides step()", f"optimizer.{name}({', '.join(inputs)}){due}"]
    return "\n".join(lines)


def usage_of_modifier(m: Modifier) -> str:
    """How to compile an optimizer with it."""
    if m.example is None:
        return ""
    composition, title = m.example.composition, m.example.composition.split()[1]
    if " without " in composition:
        compiled = [f'{title} = optc.compile("""', composition, '""")']
    else:
        compiled = [f"{title} = optc.compile(", f'    "{m.example.base.slug}", modifiers=["{m.name}"]', ")"]
    return "\n".join(["import optc", "", *compiled, f"optimizer = {title}(model.parameters())"])


def usage_of_storage(s: StoragePage) -> str:
    """How to keep a state in it: in Python, in a spec, and on the command line. Second moments are never negative."""
    if s.codes is not None and s.codes.bits == 1:
        lines = ["# in a spec, for a state that is -1 or 1", "state: s = 1", f"storing s: {s.name}", "step:"]
        return "\n".join([*lines, "    s <- where(x > 0, 1, -1)"])
    state = "m" if s.signed else "v"
    lines = ["import optc", "", f'Small = optc.compile("adamw", storing={{"{state}": "{s.name}"}})']
    lines += ["optimizer = Small(model.parameters())", "", "# in a spec", f"storing {state}: {s.name}", ""]
    return "\n".join([*lines, "# on the command line", f"optc build adamw --store {state}={s.name} -o ."])


def usage_of_schedule(s: SchedulePage) -> str:
    """As a function, as a scheduler, and compiled into an optimizer; into one that has the momentum where it gives that."""
    base = "sgd" if "momentum" in s.gives else "adamw"
    lines = ["import optc", f"from optc.schedules import {s.class_name}", "", f"rate = {s.class_name}({s.call})", ""]
    lines += ["# a function of the steps, and of the rate given", "rate(250, 1e-3)"]
    lines += ["rate.momentum(250)", ""] if "momentum" in s.gives else [""]
    lines += ["# a scheduler for any torch optimizer", "scheduler = rate.on(optimizer)", ""]
    title = "".join(part.capitalize() for part in s.name.split("_")) + ("SGD" if base == "sgd" else "AdamW")
    lines += ["# or compiled into the step, which counts for itself", f"{title} = optc.compile("]
    return "\n".join([*lines, f'    "{base}", modifiers=["{s.term}"]', ")"])


def usage_of_schedule_in_specs(s: SchedulePage) -> str:
    """In a composition and a chain, and on the command line."""
    base = "SGD" if "momentum" in s.gives else "AdamW"
    title = "".join(part.capitalize() for part in s.name.split("_")) + base
    lines = ["# in a spec", f"optimizer {title} = {base} + {s.term}", ""]
    lines += ["# one after the other", f"schedule mine = constant for 100, {s.term}", ""]
    return "\n".join([*lines, "# on the command line", f'optc plot "{s.term}"'])
