"""What `optc explain` prints: the value of any stage, and what is derived from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from optc.dsl.source import Source

if TYPE_CHECKING:
    from optc.compiler.plan import Kernel, Plan
    from optc.dsl.program import Program

# Every stage imports what it needs and no more: the tree of a spec is shown without loading the compiler.


def _parse(source: Source) -> str:
    from optc.compiler.show_program import show_tree
    from optc.dsl.parse import parse

    return show_tree(parse(source), source)


def _program(source: Source) -> str:
    from optc.compiler.show_program import show_program

    return show_program(_checked(source))


def _checked(source: Source) -> Program:
    from optc.dsl.check import check
    from optc.dsl.parse import parse

    return check(parse(source), source)


def _update(source: Source) -> str:
    from optc.compiler.pipeline import plan_program
    from optc.compiler.show_program import show_update

    update, _ = plan_program(_checked(source))
    return show_update(update)


def _plan_of(source: Source) -> Plan:
    from optc.compiler.pipeline import plan_program

    _, plan = plan_program(_checked(source))
    return plan


def _plan(source: Source) -> str:
    from optc.compiler.show_plan import show_plan

    return show_plan(_plan_of(source))


def _cost(source: Source) -> str:
    from optc.compiler.show_plan import show_cost

    return show_cost(_plan_of(source))


def _torch(source: Source) -> str:
    from optc.compiler.backends.pytorch.emit import emit_kernel

    return _kernels(source, lambda kernel, exports: emit_kernel(kernel, source, exports))


def _native(source: Source) -> str:
    from optc.compiler.backends.native.emit import emit_kernel

    return _kernels(source, lambda kernel, _: emit_kernel(kernel, source))


def _triton(source: Source) -> str:
    from optc.compiler.backends.triton.emit import emit_kernel

    return _kernels(source, lambda kernel, _: emit_kernel(kernel, source))


def _kernels(source: Source, emit: Callable[[Kernel, frozenset[str]], str]) -> str:
    """What is generated for one backend; `emit` is given the scalars that the program of the model exports.

    Programs of the model are PyTorch code for all backends.
    """
    from optc.compiler.backends.pytorch.model import emit_model

    texts: list[str] = []
    for procedure in _plan_of(source).procedures:
        for number, phase in enumerate(procedure.phases, 1):
            if phase.model is not None:
                texts.append(emit_model(phase.model, f"{procedure.name}_model_{number}", source))
            if phase.kernel is not None:
                exports = phase.model.exports if phase.model is not None else ()
                texts.append(emit(phase.kernel, frozenset(exports)))
    return "\n\n\n".join(text.strip("\n") for text in texts)


def _latex(source: Source) -> str:
    from optc.compiler.latex import latex
    from optc.dsl.parse import parse

    _checked(source)
    return latex(parse(source))


def _overview(source: Source) -> str:
    from optc.compiler.show_plan import show_cost_of_default, show_storages
    from optc.dsl.show import format_text

    plan = _plan_of(source)
    parts = format_text(source, mathematical=True).strip(), "\n".join(show_storages(plan)), show_cost_of_default(plan)
    return "\n\n".join(filter(None, parts))


STAGES: dict[str, Callable[[Source], str]] = {
    "overview": _overview,
    "parse": _parse,
    "program": _program,
    "update": _update,
    "plan": _plan,
    "torch": _torch,
    "native": _native,
    "triton": _triton,
    "latex": _latex,
    "cost": _cost,
}
"""Stage name to its printed form, in the order of the compiler."""


def explain(source: Source, stage: str) -> str:
    """The printed form of one stage. Raises SpecError where the spec is wrong."""
    return STAGES[stage](source)


def explain_others(source: Source, stage: str) -> str | None:
    """A stage of a file that holds storages or schedules alone; None of any other file.

    Raises SpecError for mistakes, OptcError for a stage that schedules do not have.
    """
    from optc.dsl import nodes
    from optc.dsl.parse import parse_file

    file = parse_file(source)
    if isinstance(file, nodes.Spec) or file.optimizer is not None or file.modifiers:
        return None
    if file.schedules:
        from optc.compiler.show_schedule import show_schedules

        return show_schedules(source, stage)
    if not file.storages or stage != "overview":
        return None
    from optc.compiler.show_storage import show_storages

    return show_storages(file.storages, source)


def explain_json(source: Source, stage: str) -> dict[str, object]:
    """`plan` or `cost` as JSON values; any other stage as `text`."""
    from optc.compiler.show_plan import cost_json, plan_json

    if stage == "plan":
        return {"plan": plan_json(_plan_of(source))}
    if stage == "cost":
        return {"cost": cost_json(_plan_of(source))}
    return {"text": explain(source, stage)}
