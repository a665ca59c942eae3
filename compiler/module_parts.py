"""What modules of optimizers and of schedules have in common: hypers, requirements, texts and numbers in Python."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import jinja2

from optc.compiler.backends.exprs import python_number
from optc.compiler.digest import compiler_digest, text_digest
from optc.compiler.layout import WIDTH, Call, laid_out, names
from optc.compiler.module_code import condition_text
from optc.dsl.program import Declares, Hyper, HyperKind, Require, Scalar

TEXT_WIDTH = WIDTH - 4

ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_DIGEST = re.compile(r"^file      sha256 ([0-9a-f]{64})$", re.MULTILINE)
_NO_DIGEST = "0" * 64


# --- the file -----------------------------------------------------------------------------------------------------------------


def with_header(
    title: str, module: str, spec_text: str, cites: Sequence[str], listing: Sequence[str], cost: Sequence[str], body: str
) -> str:
    """The whole module: what it is, how it is built again, three digests, references, lines of the spec and cost; the code.

    The digests are of the spec, of the compiler, and of everything below the header, so that stale files and files edited by
    hand are told apart.
    """
    text = ENVIRONMENT.get_template("module.py.j2").render(
        title=escaped(title),
        command=f"optc build {module}",
        spec_file=f"{module}.opt",
        spec_digest=text_digest(spec_text),
        compiler_digest=compiler_digest(),
        file_digest=_NO_DIGEST,
        references=[textwrap.fill(escaped(cite), TEXT_WIDTH, subsequent_indent="    ") for cite in cites],
        listing=listing,
        cost=cost,
        body=body.strip("\n"),
    )
    return text.replace(_NO_DIGEST, text_digest(text), 1)


def edited_by_hand(text: str) -> bool:
    """Whether a generated module is not, to the last character, what its header says was written."""
    found = _DIGEST.search(text)
    return found is None or text_digest(text.replace(found[1], _NO_DIGEST, 1)) != found[1]


def listed(text: str, heads: tuple[str, ...]) -> list[str]:
    """The sections of a spec that open with one of `heads`, numbered by its lines as the comments in the code are."""
    shown: list[str] = []
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        indented = len(line) - len(line.lstrip())
        if indented <= 4 and stripped:
            inside = stripped.startswith(heads)
        if inside and stripped:
            shown.append(f"{number:4d}  {line.rstrip()}".replace("\\", "\\\\").replace('"""', "'''"))
    return shown


# --- hypers -------------------------------------------------------------------------------------------------------------------


def row(head: str, *arguments: str | Call) -> str:
    """A row of one of the schema's tuples."""
    return laid_out(Call(head, arguments), 8)


def literal(value: Scalar) -> str:
    """A number, flag or text in Python."""
    if isinstance(value, float):
        return python_number(value)
    return f'"{value}"' if isinstance(value, str) else repr(value)


def values(numbers: tuple[Scalar, ...]) -> str:
    """A tuple of them."""
    return "(" + ", ".join(map(literal, numbers)) + ("," if len(numbers) == 1 else "") + ")"


def hyper_row(hyper: Hyper) -> str:
    """A hyper as the runtime has it."""
    parts = [f'"{hyper.key}"', names(hyper.names), values(hyper.defaults)]
    if hyper.kind is not HyperKind.REAL:
        parts.append(f'kind="{hyper.kind.value}"')
    if hyper.is_tuple:
        parts.append("is_tuple=True")
    if hyper.bounds is not None:
        bounds = hyper.bounds
        parts += [f"low={literal(bounds.low)}", f"high={literal(bounds.high)}"]
        parts += [f"{side}=True" for side in ("low_closed", "high_closed") if getattr(bounds, side)]
    if hyper.choices:
        parts.append(f"choices={names(hyper.choices)}")
    parts += [f"{flag}=True" for flag in ("optional", "shared", "counts") if getattr(hyper, flag)]
    return row("Hyper", *parts)


def require_row(require: Require, program: Declares) -> str:
    """A requirement as the runtime has it."""
    return row("Require", condition_text(require.condition, program), quoted(require.message))


def parameter(hyper: Hyper, live: bool = True) -> str:
    """A parameter of the constructor; `live` numbers may be tensors."""
    scalar = {HyperKind.REAL: "float", HyperKind.INTEGER: "int", HyperKind.FLAG: "bool", HyperKind.CHOICE: "str"}[hyper.kind]
    if hyper.is_tuple:
        short = not live and all(default == math.inf for default in hyper.defaults)  # what never comes may be left out
        elements = f"{scalar}, ..." if short else ", ".join([scalar] * len(hyper.names))
        annotation, default = f"tuple[{elements}]", values(hyper.defaults)
    else:
        annotation, default = scalar, literal(hyper.defaults[0])
        if hyper.kind is HyperKind.REAL and live:
            annotation += " | Tensor"
        if hyper.optional:
            annotation += " | None"
    return f"{hyper.key}: {annotation} = {default}"


def allowed(hyper: Hyper) -> str:
    """What a hyper may be; empty where it may be anything."""
    if hyper.choices:
        return " or ".join(repr(c) for c in hyper.choices)
    if hyper.bounds is None:
        return ""
    low, high = hyper.bounds.low, hyper.bounds.high
    whole = "int " if hyper.kind is HyperKind.INTEGER else ""
    return f"{whole}{'[' if hyper.bounds.low_closed else '('}{low:g}, {high:g}{']' if hyper.bounds.high_closed else ')'}"


# --- texts --------------------------------------------------------------------------------------------------------------------


def argument_lines(hypers: Sequence[Hyper]) -> list[str]:
    """The arguments of a constructor, as its docstring explains them."""
    lines = ["Args:"]
    for hyper in hypers:
        said = escaped(hyper.text or hyper.key.replace("_", " "))
        text = f"{hyper.key}: {said}" + (f", in {allowed(hyper)}" if allowed(hyper) else "")
        lines += textwrap.wrap(text + ".", TEXT_WIDTH, initial_indent="    ", subsequent_indent="        ")
    return lines


def reference_lines(cites: Sequence[str]) -> list[str]:
    """The references of a docstring, after an empty line; none where there are none."""
    lines = ["", "References:"] if cites else []
    for cite in cites:
        lines += textwrap.wrap(escaped(cite), TEXT_WIDTH, initial_indent="    ", subsequent_indent="        ")
    return lines


def escaped(text: str) -> str:
    """A text inside a docstring."""
    return text.replace("\\", "\\\\").replace('"', "'")


def quoted(text: str) -> str:
    """A text as a Python string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'
