"""Plan -> the text of a generated Python module.

The text is a function of the spec and the compiler alone: no dates, paths or hash order.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from optc.compiler.backends import host
from optc.compiler.backends.exprs import print_expression, python_number
from optc.compiler.backends.names import PYTHON, Namer
from optc.compiler.backends.pytorch.emit import emit_initial
from optc.compiler.digest import text_digest
from optc.compiler.ir import reads
from optc.compiler.layout import (
    Call,
    filled,
    long_names,
    names,
    rows,
    rule,
    without_unused_imports,
    without_unused_names,
)
from optc.compiler.module_code import condition_text, procedure_text, unless_always
from optc.compiler.module_parts import (
    ENVIRONMENT,
    TEXT_WIDTH,
    argument_lines,
    escaped,
    hyper_row,
    listed,
    parameter,
    reference_lines,
    require_row,
    row,
    with_header,
)
from optc.compiler.plan import Plan, ProcedurePlan
from optc.compiler.show_program import show_mathematics
from optc.compiler.square_sum import rescales, square_sum
from optc.compiler.storing import book_name, books_of, storage_text
from optc.compiler.traffic import PRECISIONS, besides, default_variant, state_bytes, traffic
from optc.dsl.kinds import PER_ELEMENT, Extent
from optc.dsl.program import Program, Role, Storage
from optc.dsl.program import State as ProgramState

_LOSS = (
    "It reads the loss: `step` needs a closure that returns it; after `loss.backward()`, `step(lambda: loss)` will do. It is "
    "the loss before gradient scaling; with `maximize` the update sees minus it."
)


def emit_module(plan: Plan, module: str, plain: Program, coders: Sequence[tuple[str, str]] = ()) -> str:
    """The whole module. `plain`: the program without storages by other states, `coders`: those of the states that have some."""
    program = plan.program
    body = ENVIRONMENT.get_template("body.py.j2").render(
        rule=rule,
        rows=rows,
        names=long_names,
        name=program.name,
        digest=text_digest(show_mathematics(plain)),
        coders=[(key, [json.dumps(line) for line in text.splitlines(keepends=True)]) for key, text in coders],
        procedures=[procedure_text(p, plan) for p in plan.procedures],
        hypers=[hyper_row(h) for h in program.hypers],
        requires=[require_row(require, program) for require in program.requires],
        states=[_state(s, plan) for s in program.states],
        flags=[row("", f'"{f.name}"', condition_text(f.condition, program)) for f in plan.flags],
        docstring="\n".join(f"    {line}".rstrip() for line in _docstring(plan)).strip(),
        signature=[parameter(h) for h in program.hypers],
        defaults=rows([f'"{h.key}": {h.key}' for h in program.hypers], 8, "{}"),
        entries=[_entry(p) for p in plan.procedures if p.name != "step"],
        seen=program.seen,
        pick=program.pick,
        pair=program.pair,
        by_group=program.by_group,
        square_sum=square_sum(plan.procedures[0]),
        rescales=rescales(plan.procedures[0]),
        books=[_book(s) for s in books_of(program)],
    )
    body = without_unused_imports(without_unused_names(body))
    title = f"{program.name}: {program.text}" if program.text else program.name
    listing = listed(program.source.text, ("step:", "step :", "entry "))
    return with_header(title, module, program.source.text, program.cites, listing, _cost(plan), body)


# --- header -------------------------------------------------------------------------------------------------------------------


def _cost(plan: Plan) -> list[str]:
    variant = default_variant(plan)
    lines = []
    for procedure in plan.procedures:
        for precision in PRECISIONS:
            cost = traffic(procedure, variant, precision)
            more = cost.picked
            picked = f", {more.bytes_read} + {more.bytes_written} and {more.operations} for every {more.p}-th element"
            lines.append(
                f"{procedure.name}: {cost.passes} pass{'es' if cost.passes > 1 else ''}, "
                f"{cost.bytes_read:.5g} + {cost.bytes_written:.5g} bytes read + written and "
                f"{cost.operations} operations per element{picked if more.p else ''} ({precision})"
            )
    picked = besides(plan, variant) if plan.program.pick is not None else ""
    kept = " + ".join(filter(None, (f"{state_bytes(plan, variant, PRECISIONS[0]):.4g}", picked)))
    lines.append(f"state: {kept} bytes per parameter with the default hypers (float32)")
    return lines


# --- schema -------------------------------------------------------------------------------------------------------------------


def _state(state: ProgramState, plan: Plan) -> str:
    wanted = {r.symbol.name for r in reads(state.initial) if r.symbol.role is Role.HYPER}
    arguments = tuple(n for h in plan.program.hypers for n in h.names if n in wanted)
    namer = Namer(PYTHON | {"torch"})
    if state.extent in PER_ELEMENT:
        initial = emit_initial(state.initial)
    else:
        initial = print_expression(state.initial, host.dialect(plan.program, namer))
    head = ", ".join(["theta", "g", *(namer(a) for a in arguments)])
    parts: list[str | Call] = [f'"{state.name}"', f'"{state.key}"', f"lambda {head}: {initial}"]
    if arguments:
        parts.append(f"arguments={names(arguments)}")
    if state.host:
        parts.append("host=True")
    if state.extent is not Extent.ELEM:
        parts.append(f'extent="{state.extent.value}"')
    parts += unless_always("exists", state.exists, plan.program)
    if state.storage is not None:
        parts.append(f"storage={storage_text(state.storage)}")
    return row("State", *parts)


def _book(storage: Storage) -> str:
    """What the codes of a storage mean, as a constant of the module."""
    levels = ["(", *(f"        {line}" for line in filled(map(python_number, storage.levels), 8)), "    ),"]
    settings = [f"block={storage.block}", f'ties="{storage.ties}"', f"unit={python_number(storage.unit)}"]
    settings += [f"least={python_number(storage.least)}", f"smallest={storage.smallest}"]
    settings += ["fixed=True"] * storage.fixed
    lines = [f"{book_name(storage)} = Codebook(", f'    "{storage.name}",', f"    {levels[0]}", *levels[1:]]
    return "\n".join([*lines, *(f"    {setting}," for setting in settings), ")"])


# --- class --------------------------------------------------------------------------------------------------------------------


def _docstring(plan: Plan) -> list[str]:
    program = plan.program
    lines = [escaped(program.text or program.name), ""]
    for note in program.notes:
        lines += [*textwrap.wrap(escaped(note), TEXT_WIDTH), ""]
    if any(phase.model is not None and phase.model.loss for phase in plan.procedures[0].phases):
        lines += [*textwrap.wrap(_LOSS, TEXT_WIDTH), ""]
    lines += argument_lines(program.hypers)
    lines += [
        '    backend: "auto" (Triton on GPUs, native on CPUs with a compiler, else PyTorch), "torch", "native" or "triton".',
        "    maximize: ascend instead of descend.",
        "    capturable: keep step counts and hypers on the device, for CUDA graphs (Triton).",
        "    amp: take part in gradient scaling inside the kernel (see torch.amp.GradScaler).",
        '    nonfinite: where a gradient is inf or NaN, "propagate" it, "skip" the step, or "raise" an error with names.',
        "    loss_scale: an `optc.LossScale` that has multiplied the loss; overflowing steps are skipped.",
        "",
        "Raises:",
        "    ValueError: a hyper is out of range; the message names the key, the value and the range.",
    ]
    return [*lines, *reference_lines(program.cites)]


@dataclass(frozen=True, slots=True)
class _EntryText:
    name: str
    inputs: tuple[str, ...]
    mapping: str
    text: str


def _entry(procedure: ProcedurePlan) -> _EntryText:
    namer = Namer(PYTHON | {"self"})
    inputs = tuple(namer(n) for n in procedure.inputs)
    mapping = "{" + ", ".join(f'"{n}": {a}' for n, a in zip(procedure.inputs, inputs, strict=True)) + "}"
    due = f" Due every {procedure.every} steps." if procedure.every else ""
    text = f"Run `{procedure.name}` with one tensor per parameter (or a mapping from parameters).{due}"
    return _EntryText(procedure.name, inputs, mapping, text)
