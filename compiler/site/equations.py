"""The equations of a spec, line by line, as an algorithm box shows them."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from optc.compiler.latex import expression, latex, name, schedule_latex
from optc.compiler.site.mathml import mathml
from optc.dsl import nodes

_BREAK = " \\\\\n"
_INDENT = r"\quad "


@dataclass(frozen=True, slots=True)
class Row:
    """One line: how deep it stands, and its MathML."""

    depth: int
    math: Markup


@dataclass(frozen=True, slots=True)
class Equations:
    """The lines of every procedure in order, and the same as LaTeX to copy."""

    blocks: tuple[tuple[Row, ...], ...]
    latex: str


def equations(spec: nodes.Spec) -> Equations:
    """All procedures of a spec that is written out."""
    text = latex(spec)
    return Equations(tuple(_rows(block) for block in text.split("\n\n")), text)


def lines_of(body: tuple[nodes.Statement, ...]) -> Equations:
    """Statements on their own, such as those of a modifier."""
    return equations(nodes.Spec(nodes.Optimizer("lines", step=body)))


def of_schedule(schedule: nodes.Schedule, defines: tuple[nodes.Define, ...]) -> Equations:
    """What a schedule gives, its definitions first."""
    text = schedule_latex(schedule, defines)
    return Equations(tuple(_rows(block) for block in text.split("\n\n")), text)


def formula(node: nodes.Expression) -> Markup:
    """One expression."""
    return Markup(mathml(expression(node)))  # built as a tree, which escapes every text


def symbol(identity: str) -> Markup:
    """A name by its identity: `beta2` as β₂."""
    return Markup(mathml(name(identity)))


def _rows(block: str) -> tuple[Row, ...]:
    first, _, rest = block.partition("\n")
    inside, _, last = rest.rpartition("\n")
    if (first, last) != (r"\begin{aligned}", r"\end{aligned}"):
        raise ValueError(f"no block of equations: {block!r}")
    return tuple(_row(line.removeprefix("  ").removeprefix("& ")) for line in inside.split(_BREAK))


def _row(line: str) -> Row:
    depth = 0
    while line.startswith(_INDENT):
        line, depth = line.removeprefix(_INDENT), depth + 1
    for sign in ("=", r"\leftarrow"):
        line = line.replace(f" &{sign} ", f" {sign} ", 1)
    return Row(depth, Markup(mathml(line)))
