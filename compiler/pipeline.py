"""The stages in order: text -> spec (composed, where it is a composition) -> program -> update -> plan -> module."""

from __future__ import annotations

from dataclasses import dataclass

from optc.compiler.compose.coders import coders
from optc.compiler.compose.expand import Expanded, expand, without_storages
from optc.compiler.ir import Update
from optc.compiler.lower import lower
from optc.compiler.module import emit_module
from optc.compiler.module_names import file_module_name, module_name
from optc.compiler.plan import Plan
from optc.compiler.schedule import schedule
from optc.compiler.simplify import simplify
from optc.compiler.verify import verify_plan, verify_update
from optc.dsl.check import check
from optc.dsl.nodes import Spec
from optc.dsl.program import Program
from optc.dsl.source import Source


@dataclass(frozen=True, slots=True)
class Compilation:
    """Every stage's value for one spec; `module` is the text of the generated Python module called `module_name`."""

    source: Source
    spec: Spec
    program: Program
    update: Update
    plan: Plan
    module_name: str
    module: str


def check_source(source: Source) -> Program:
    """Parse, compose and check; raises `SpecError` with every mistake found."""
    expanded = expand(source)
    return check(expanded.spec, expanded.source)


def plan_program(program: Program) -> tuple[Update, Plan]:
    """The middle of the compiler: a checked program to a verified plan."""
    update = verify_update(simplify(verify_update(lower(program))))
    return update, verify_plan(schedule(update))


def compile_source(source: Source) -> Compilation:
    """All stages; raises `SpecError` with every mistake found."""
    return compile_expanded(expand(source))


def compile_expanded(expanded: Expanded) -> Compilation:
    """All stages after composition; raises `SpecError` with every mistake found."""
    source, folded = expanded.source, expanded.folded
    found: tuple[tuple[str, str], ...] = ()
    program = plain = check(expanded.spec, source)
    if folded is not None:
        found = coders(folded.optimizer, expanded.spec.optimizer.shape, folded.storages, check_source)
        plain = check((written := without_storages(folded)).spec, written.source)
    update, plan = plan_program(program)
    name = file_module_name(expanded.file) or module_name(program.name)
    return Compilation(source, expanded.spec, program, update, plan, name, emit_module(plan, name, plain, found))
