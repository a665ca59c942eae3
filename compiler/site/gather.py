"""Everything that is told of one optimizer or one modifier, from its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from optc.compiler.compose.expand import Expanded, expand
from optc.compiler.compose.library import SPECS, named, parts_of, shipped, shipped_modifiers
from optc.compiler.pipeline import plan_program
from optc.compiler.plan import Plan
from optc.compiler.site import facts
from optc.compiler.site.coloring import color
from optc.compiler.site.equations import Equations, equations, formula, lines_of, symbol
from optc.compiler.site.references import Reference, reference
from optc.dsl import nodes
from optc.dsl.check import check
from optc.dsl.errors import OptcError, SpecError
from optc.dsl.names import pretty
from optc.dsl.program import Program
from optc.dsl.source import Source

FAMILIES = {
    "adam": "Adam and kin",
    "adaptive": "Adaptive",
    "momentum": "Momentum",
    "second_order": "Second order",
    "sign": "Sign",
    "trust": "Layerwise",
    "composed": "Composed",
}
"""Title of every folder of specs; a folder that is not here is titled by its own name."""

STAGES = {
    "clip": "bounds the gradient as it comes in",
    "project": "replaces the gradient by another direction",
    "couple": "adds to the gradient what depends on the parameter",
    "mix": "mixes more into the average that a step follows",
    "mask": "leaves out entries of the direction",
    "rewrite": "replaces a pattern of the optimizer’s lines",
    "trust": "gives the direction another length, tensor by tensor",
    "decay": "shrinks the parameter before the step",
    "constrain": "changes the parameter after the step",
    "average": "averages what the steps reach",
}
"""What a modifier does in a stage. Stages run in this order, however the modifiers are written down."""

_DOCUMENTS = {
    "language": "Language",
    "modifiers": "Composing",
    "schedules": "Schedules",
    "distributed": "Many processes",
    "faults": "Faults",
}
"""The texts, by the names of their files, with their titles in the navigation."""

_BASES = ("AdamW", "AdamW without weight_decay", "Lion", "SGD", "Adam", "RAdam", "Yogi")
"""What a modifier is shown on: the first that it can be combined with."""


@dataclass(frozen=True, slots=True)
class Optimizer:
    """One shipped optimizer.

    `composition` is its own file where others are combined in it; `storages` are those that it keeps states in.
    """

    slug: str
    name: str
    family: str
    text: str
    file: str
    references: tuple[Reference, ...]
    notes: tuple[str, ...]
    equations: Equations
    hypers: tuple[facts.HyperRow, ...]
    requires: tuple[str, ...]
    states: tuple[facts.StateRow, ...]
    passes: tuple[facts.PassRow, ...]
    costs: tuple[facts.CostRow, ...]
    options: tuple[facts.OptionRow, ...]
    entries: tuple[tuple[str, tuple[str, ...], int | None], ...]
    spec: Markup
    composition: Markup | None
    parts: tuple[str, ...]
    storages: tuple[str, ...]
    program: Program

    @property
    def cost(self) -> facts.CostRow:
        """Of a step in float32."""
        return self.costs[0]

    @property
    def family_title(self) -> str:
        return FAMILIES.get(self.family, self.family.replace("_", " ").capitalize())

    @property
    def year(self) -> int | None:
        """Of the oldest reference that tells one."""
        return min((r.year for r in self.references if r.year is not None), default=None)


@dataclass(frozen=True, slots=True)
class StageRow:
    """What a modifier does in one stage, at one point."""

    stage: str
    about: str
    point: Markup
    otherwise: Markup | None
    equations: Equations


@dataclass(frozen=True, slots=True)
class Example:
    """A modifier on an optimizer: the composition, what comes out, and what a step costs without and with it (float32)."""

    composition: str
    colored: Markup
    base: Optimizer
    written_out: Markup
    without: facts.CostRow
    cost: facts.CostRow
    program: Program
    base_program: Program


@dataclass(frozen=True, slots=True)
class Modifier:
    """One shipped modifier."""

    slug: str
    name: str
    text: str
    file: str
    references: tuple[Reference, ...]
    notes: tuple[str, ...]
    stages: tuple[StageRow, ...]
    rewrites: tuple[tuple[Markup, Markup], ...]
    hypers: tuple[facts.HyperRow, ...]
    states: tuple[facts.StateRow, ...]
    spec: Markup
    example: Example | None
    used_by: tuple[str, ...]

    @property
    def stage_names(self) -> tuple[str, ...]:
        found = dict.fromkeys(row.stage for row in self.stages)
        return (*found, *(("rewrite",) if self.rewrites else ()))

    @property
    def year(self) -> int | None:
        return min((r.year for r in self.references if r.year is not None), default=None)


def optimizer(slug: str, path: Path) -> Optimizer:
    """All of one optimizer. Raises OptcError where the file cannot be read, SpecError where the spec is wrong."""
    source = named(path)
    expanded = expand(source)
    program, plan = _compiled(expanded)
    node = expanded.spec.optimizer
    derived = expanded.derived
    parts = (derived.base.name, *(term.name for term in derived.modifiers)) if derived is not None else ()
    return Optimizer(
        slug=slug,
        name=program.name,
        family=path.parent.name,
        text=program.text or "",
        file=source.name,
        references=tuple(map(reference, program.cites)),
        notes=program.notes,
        equations=equations(expanded.spec),
        hypers=facts.hyper_rows(program.hypers),
        requires=tuple(require.message for require in program.requires),
        states=facts.state_rows(node.states, program),
        passes=facts.pass_rows(plan),
        costs=facts.cost_rows(plan),
        options=facts.option_rows(plan),
        entries=tuple((p.name, p.inputs, p.every) for p in program.procedures[1:]),
        spec=_marked(expanded.source.text.rstrip(), _known(expanded.spec), parts[1:]),
        composition=color(source.text.rstrip()) if derived is not None else None,
        parts=parts,
        storages=tuple(dict.fromkeys(kept.storage for kept in (*(derived.storing if derived else ()), *node.storing))),
        program=program,
    )


def modifier(slug: str, path: Path, optimizers: Mapping[str, Optimizer]) -> Modifier:
    """All of one modifier; `optimizers` are those of the site by slug. Raises like `optimizer`."""
    source = named(path)
    node = parts_of(source)[slug].node
    if not isinstance(node, nodes.Modifier):
        raise OptcError(f"{source.name}: declares no modifier `{slug}`")
    hooks = [hook for hook in node.hooks if isinstance(hook, nodes.Hook)]
    rewrites = [hook for hook in node.hooks if isinstance(hook, nodes.Rewrite)]
    return Modifier(
        slug=slug,
        name=node.name,
        text=node.text or "",
        file=source.name,
        references=tuple(map(reference, node.cites)),
        notes=node.notes,
        stages=tuple(map(_stage, hooks)),
        rewrites=tuple((formula(rule.pattern), formula(rule.value)) for rule in rewrites),
        hypers=facts.modifier_hyper_rows(node),
        states=facts.state_rows(node.states, None, f"{node.name}_"),
        spec=color(source.text.rstrip(), _known_of(node)),
        example=_example(node.name, optimizers),
        used_by=tuple(o.slug for o in optimizers.values() if node.name in o.parts[1:]),
    )


def optimizers() -> Iterator[tuple[str, Path]]:
    """Slug and file of every shipped optimizer."""
    yield from shipped().items()


def modifiers() -> Iterator[tuple[str, Path]]:
    """Slug and file of every shipped modifier."""
    yield from shipped_modifiers().items()


def documents() -> Iterator[tuple[str, Path]]:
    """Title and file of every text that belongs to the site; an installed package comes without them."""
    for slug, title in _DOCUMENTS.items():
        path = SPECS.parent / "docs" / f"{slug}.md"
        if path.is_file():
            yield title, path


def _compiled(expanded: Expanded) -> tuple[Program, Plan]:
    program = check(expanded.spec, expanded.source)
    return program, plan_program(program)[1]


def _stage(hook: nodes.Hook) -> StageRow:
    otherwise = symbol(hook.otherwise) if hook.otherwise else None
    return StageRow(hook.stage, STAGES[hook.stage], symbol(hook.point), otherwise, lines_of(hook.body))


def _example(name: str, optimizers: Mapping[str, Optimizer]) -> Example | None:
    by_name = {o.name: o for o in optimizers.values()}
    others = [o.name for o in optimizers.values() if not o.parts]
    for term in (*_BASES, *others):
        base = by_name.get(term.split()[0])
        if base is None:
            continue
        title = "".join(part.capitalize() for part in name.split("_")) + base.name
        composition = f"optimizer {title} = {term} + {name}"
        try:
            expanded = expand(Source("<example>", composition + "\n"))
            plain = expand(Source("<example>", f"optimizer Plain{base.name} = {term}\n")) if " " in term else None
            program, plan = _compiled(expanded)
            base_program, base_plan = _compiled(plain) if plain else (base.program, None)
        except SpecError:  # not with this one
            continue
        without = facts.cost_rows(base_plan)[0] if base_plan else base.cost
        colored = _marked(expanded.source.text.rstrip(), _known(expanded.spec), (name,))
        cost = facts.cost_rows(plan)[0]
        return Example(composition, color(composition), base, colored, without, cost, program, base_program)
    return None


def _marked(text: str, known: Mapping[str, tuple[str, str]], names: tuple[str, ...]) -> Markup:
    """The coloured text; lines that come from modifiers, which say so behind a `#`, and their blocks stand in a `<mark>`."""
    marks = tuple(f"# {name}" for name in names)
    lines: list[Markup] = []
    depth: int | None = None  # of the modifier's line that a block could belong to
    for line in text.split("\n"):
        colored = color(line, known)
        indent = len(line) - len(line.lstrip())
        if line.rstrip().endswith(marks):
            depth = indent
        elif depth is not None and not (indent > depth or (indent == depth and line.lstrip().startswith("else"))):
            depth = None
        lines.append(Markup("<mark>{}</mark>").format(colored) if depth is not None else colored)
    return Markup("\n").join(lines)


def _known(spec: nodes.Spec) -> dict[str, tuple[str, str]]:
    return _known_of(spec.optimizer)


def _known_of(part: nodes.Optimizer | nodes.Modifier) -> dict[str, tuple[str, str]]:
    """Kind and meaning of the names that a spec declares."""
    known: dict[str, tuple[str, str]] = {}
    if isinstance(part, nodes.Modifier):
        known |= {hook.stage if isinstance(hook, nodes.Hook) else "rewrite": ("keyword", "") for hook in part.hooks}
    for hyper in part.hypers:
        names = [e.name for e in hyper.default] if isinstance(hyper.default, tuple) else []
        for name in (hyper.name, hyper.outside, *names):
            if name:
                known[name] = ("hyper", hyper.text or "")
    for state in _states(part.states):
        known[state.name] = ("state", f"state, {state.outside or pretty(state.name)} in checkpoints")
    return known


def _states(items: tuple[nodes.StateItem, ...]) -> Iterator[nodes.State]:
    for item in items:
        if isinstance(item, nodes.State):
            yield item
        else:
            yield from _states(item.then)
            yield from _states(item.otherwise)
