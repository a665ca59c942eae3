"""Plan -> the text of a generated Python module.

The text is a function of the spec and the compiler alone: no dates, paths or hash order. Its header carries three digests: of
the spec, of the compiler, and of everything below the header, so that stale files and files edited by hand are told apart.
"""

from __future__ import annotations

import keyword
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path, PurePath

import jinja2

from optc.compiler.backends import host
from optc.compiler.backends.exprs import print_expression, python_number
from optc.compiler.backends.names import PYTHON, Namer
from optc.compiler.backends.pytorch.emit import emit_initial
from optc.compiler.digest import compiler_digest, text_digest
from optc.compiler.ir import reads
from optc.compiler.layout import (
    WIDTH,
    Call,
    filled,
    laid_out,
    long_names,
    names,
    rows,
    rule,
    without_unused_imports,
    without_unused_names,
)
from optc.compiler.module_code import condition_text, procedure_text, unless_always
from optc.compiler.plan import Plan, ProcedurePlan
from optc.compiler.storing import book_name, books_of, storage_text
from optc.compiler.traffic import PRECISIONS, besides, default_variant, state_bytes, traffic
from optc.dsl.kinds import PER_ELEMENT, Extent
from optc.dsl.program import Hyper, HyperKind, Program, Role, Scalar, Storage
from optc.dsl.program import State as ProgramState

_TEXT_WIDTH = WIDTH - 4
_LOSS = (
    "It reads the loss: `step` needs a closure that returns it; after `loss.backward()`, `step(lambda: loss)` will do. It is "
    "the loss before gradient scaling; with `maximize` the update sees minus it."
)
_DIGEST = re.compile(r"^file      sha256 ([0-9a-f]{64})$", re.MULTILINE)
_NO_DIGEST = "0" * 64

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def module_name(name: str) -> str:
    """`SimplifiedAdEMAMix` -> `simplified_ademamix`, `NAdam` -> `nadam`, `SGDW` -> `sgdw`: as a spec's file would be called."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name).lower()


def file_module_name(file: str) -> str | None:
    """The name that a spec file gives its module: `specs/adam/adamw.opt` is `adamw`; None where that is no module name.

    `__init__` is none either: it would take the place of a package's index.
    """
    stem = PurePath(file).stem
    usable = file.endswith(".opt") and re.fullmatch(r"_?[a-z][a-z0-9_]*", stem) and not keyword.iskeyword(stem)
    return stem if usable else None


def emit_module(plan: Plan, module: str) -> str:
    """The whole module."""
    program = plan.program
    body = _ENVIRONMENT.get_template("body.py.j2").render(
        rule=rule,
        rows=rows,
        names=long_names,
        name=program.name,
        spec_digest=text_digest(program.source.text),
        procedures=[procedure_text(p, plan) for p in plan.procedures],
        hypers=[_hyper(h) for h in program.hypers],
        requires=[_require(plan, index) for index in range(len(program.requires))],
        states=[_state(s, plan) for s in program.states],
        flags=[_row("", f'"{f.name}"', condition_text(f.condition, program)) for f in plan.flags],
        docstring="\n".join(f"    {line}".rstrip() for line in _docstring(plan)).strip(),
        signature=[_parameter(h) for h in program.hypers],
        defaults=rows([f'"{h.key}": {h.key}' for h in program.hypers], 8, "{}"),
        entries=[_entry(p) for p in plan.procedures if p.name != "step"],
        seen=program.seen,
        pick=program.pick,
        pair=program.pair,
        books=[_book(s) for s in books_of(program)],
    )
    body = without_unused_imports(without_unused_names(body))
    text = _ENVIRONMENT.get_template("module.py.j2").render(
        title=_escape(f"{program.name}: {program.text}" if program.text else program.name),
        command=f"optc build {module}",
        spec_file=f"{module}.opt",
        spec_digest=text_digest(program.source.text),
        compiler_digest=compiler_digest(),
        file_digest=_NO_DIGEST,
        references=[textwrap.fill(_escape(c), _TEXT_WIDTH, subsequent_indent="    ") for c in program.cites],
        listing=_listing(program),
        cost=_cost(plan),
        body=body.strip("\n"),
    )
    return text.replace(_NO_DIGEST, text_digest(text), 1)


def edited_by_hand(text: str) -> bool:
    """Whether a generated module is not, to the last character, what its header says was written."""
    found = _DIGEST.search(text)
    return found is None or text_digest(_undigested(text, found[1])) != found[1]


def _undigested(text: str, digest: str) -> str:
    return text.replace(digest, _NO_DIGEST, 1)


# --- header -------------------------------------------------------------------------------------------------------------------


def _listing(program: Program) -> list[str]:
    """The spec's step and entries, numbered by its lines, as the comments in the code refer to them."""
    lines = program.source.text.splitlines()
    shown: list[str] = []
    inside = False
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        indented = len(line) - len(line.lstrip())
        if indented <= 4 and stripped:
            inside = stripped.startswith(("step:", "step :", "entry "))
        if inside and stripped:
            shown.append(f"{number:4d}  {line.rstrip()}".replace("\\", "\\\\").replace('"""', "'''"))
    return shown


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


def _row(head: str, *arguments: str | Call) -> str:
    """A row of one of the schema's tuples."""
    return laid_out(Call(head, arguments), 8)


def _literal(value: Scalar) -> str:
    if isinstance(value, float):
        return python_number(value)
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _values(values: tuple[Scalar, ...]) -> str:
    return "(" + ", ".join(_literal(v) for v in values) + ("," if len(values) == 1 else "") + ")"


def _hyper(hyper: Hyper) -> str:
    parts = [f'"{hyper.key}"', names(hyper.names), _values(hyper.defaults)]
    if hyper.kind is not HyperKind.REAL:
        parts.append(f'kind="{hyper.kind.value}"')
    if hyper.is_tuple:
        parts.append("is_tuple=True")
    if hyper.bounds is not None:
        bounds = hyper.bounds
        parts += [f"low={_literal(bounds.low)}", f"high={_literal(bounds.high)}"]
        parts += [f"{side}=True" for side in ("low_closed", "high_closed") if getattr(bounds, side)]
    if hyper.choices:
        parts.append(f"choices={names(hyper.choices)}")
    parts += [f"{flag}=True" for flag in ("optional", "shared") if getattr(hyper, flag)]
    return _row("Hyper", *parts)


def _require(plan: Plan, index: int) -> str:
    require = plan.program.requires[index]
    return _row("Require", condition_text(require.condition, plan.program), _text(require.message))


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
    return _row("State", *parts)


def _book(storage: Storage) -> str:
    """What the codes of a storage mean, as a constant of the module."""
    levels = ["(", *(f"        {line}" for line in filled(map(python_number, storage.levels), 8)), "    ),"]
    settings = [f"block={storage.block}", f'ties="{storage.ties}"', f"unit={python_number(storage.unit)}"]
    settings += [f"least={python_number(storage.least)}", f"smallest={storage.smallest}"]
    settings += ["fixed=True"] * storage.fixed
    lines = [f"{book_name(storage)} = Codebook(", f'    "{storage.name}",', f"    {levels[0]}", *levels[1:]]
    return "\n".join([*lines, *(f"    {setting}," for setting in settings), ")"])


# --- class --------------------------------------------------------------------------------------------------------------------


def _parameter(hyper: Hyper) -> str:
    scalar = {HyperKind.REAL: "float", HyperKind.INTEGER: "int", HyperKind.FLAG: "bool", HyperKind.CHOICE: "str"}[hyper.kind]
    if hyper.is_tuple:
        annotation, default = f"tuple[{', '.join([scalar] * len(hyper.names))}]", _values(hyper.defaults)
    else:
        annotation, default = scalar, _literal(hyper.defaults[0])
        if hyper.kind is HyperKind.REAL:
            annotation += " | Tensor"
        if hyper.optional:
            annotation += " | None"
    return f"{hyper.key}: {annotation} = {default}"


def _range(hyper: Hyper) -> str:
    if hyper.choices:
        return " or ".join(repr(c) for c in hyper.choices)
    if hyper.bounds is None:
        return ""
    low, high = hyper.bounds.low, hyper.bounds.high
    whole = "int " if hyper.kind is HyperKind.INTEGER else ""
    return f"{whole}{'[' if hyper.bounds.low_closed else '('}{low:g}, {high:g}{']' if hyper.bounds.high_closed else ')'}"


def _docstring(plan: Plan) -> list[str]:
    program = plan.program
    lines = [_escape(program.text or program.name), ""]
    for note in program.notes:
        lines += [*textwrap.wrap(_escape(note), _TEXT_WIDTH), ""]
    if any(phase.model is not None and phase.model.loss for phase in plan.procedures[0].phases):
        lines += [*textwrap.wrap(_LOSS, _TEXT_WIDTH), ""]
    lines.append("Args:")
    for hyper in program.hypers:
        allowed = _range(hyper)
        text = f"{hyper.key}: {_escape(hyper.text or hyper.key.replace('_', ' '))}" + (f", in {allowed}" if allowed else "")
        lines += textwrap.wrap(text + ".", _TEXT_WIDTH, initial_indent="    ", subsequent_indent="        ")
    lines += [
        '    backend: "auto" (Triton on GPUs, native on CPUs with a compiler, else PyTorch), "torch", "native" or "triton".',
        "    maximize: ascend instead of descend.",
        "    capturable: keep step counts and hypers on the device, for CUDA graphs (Triton).",
        "    amp: take part in gradient scaling inside the kernel (see torch.amp.GradScaler).",
        "",
        "Raises:",
        "    ValueError: a hyper is out of range; the message names the key, the value and the range.",
    ]
    if program.cites:
        lines += ["", "References:"]
        for cite in program.cites:
            lines += textwrap.wrap(_escape(cite), _TEXT_WIDTH, initial_indent="    ", subsequent_indent="        ")
    return lines


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', "'")


def _text(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'


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
