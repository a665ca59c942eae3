"""Printed forms of trees and statements: the spec as parsed, the checked program, the update.

Names are ASCII identities, the same as in generated code; the number in front of a line is the spec's line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace

from optc.compiler.backends.exprs import Dialect, print_expression
from optc.compiler.ir import Update, UpdateProcedure, map_expression
from optc.dsl import nodes
from optc.dsl.kinds import SCALARS, Extent
from optc.dsl.literals import write_text
from optc.dsl.program import (
    DRAW,
    REDUCTIONS,
    TRUE,
    Apply,
    Branch,
    Expression,
    Hyper,
    HyperKind,
    Let,
    Procedure,
    Program,
    Role,
    Scalar,
    State,
    Statement,
    Stop,
    Store,
    Symbol,
)
from optc.dsl.source import NOWHERE, Source, Span

INDENT = "    "
TYPE_COLUMN = 64


def _symbol(symbol: Symbol) -> str:
    return f"new({symbol.name})" if symbol.role is Role.NEW else symbol.name


def _number(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value!r}"


def _function(name: str) -> Callable[..., str]:
    return lambda *arguments: f"{name}({', '.join(arguments)})"


_CALLS = "sqrt exp log sin cos cospi tanh abs sign floor mod min max atan2 round_bf16 where pow sum mean total pick"
_REDUCTIONS = {"sum": "sum", "mean": "mean", "largest": "max", "smallest": "min"}
_ALONG = {(Extent.ELEM, Extent.ROW): "row", (Extent.ELEM, Extent.COL): "col", (Extent.ELEM, Extent.MATRIX): "matrix"}
_ALONG |= {(Extent.COL, Extent.MATRIX): "row", (Extent.ROW, Extent.MATRIX): "col"}
"""What a reduction from one extent to another goes along; over all entries where it is not here."""

_DIALECT = Dialect(
    call={name: _function(name) for name in (*_CALLS.split(), DRAW)}
    | {
        along + operation: _function(along + name)
        for operation, name in _REDUCTIONS.items()
        for along in ("", *_ALONG.values())
    },
    name=_symbol,
    number=_number,
    boolean=lambda value: "true" if value else "false",
    logic={"or": ("or", 10), "and": ("and", 15), "not": ("not ", 20)},
)


def show_expression(expression: Expression) -> str:
    """An expression of a program, update or plan, fully bracketed where the order of evaluation needs it."""
    return print_expression(map_expression(expression, _spelled), _DIALECT)


def _spelled(node: Expression) -> Expression:
    """A reduction along rows or columns under a name of its own."""
    if not isinstance(node, Apply) or node.operation not in REDUCTIONS:
        return node
    along = _ALONG.get((node.arguments[0].type.extent, node.type.extent), "")
    return replace(node, operation=along + node.operation)


# --- the parsed tree ----------------------------------------------------------------------------------------------------------


def show_tree(spec: nodes.File, source: Source) -> str:
    """The nodes as an indented tree, each with its line and column."""
    return "\n".join(_tree("spec", spec, source, 0))


def _tree(label: str, value: object, source: Source, depth: int) -> Iterator[str]:
    pad = "  " * depth
    if isinstance(value, tuple) and not (value and all(isinstance(v, str) for v in value)):
        if value:
            yield f"{pad}{label}:"
            for item in value:
                yield from _tree("", item, source, depth + 1)
    elif isinstance(value, nodes.Node):
        plain: list[tuple[str, object]] = []
        nested: list[tuple[str, object]] = []
        for field in fields(value):
            inner = getattr(value, field.name)
            if field.name in ("span", "comments", "marks") or inner is None or (inner is False and field.name != "value"):
                continue
            (nested if isinstance(inner, (nodes.Node, tuple)) and not _is_words(inner) else plain).append((field.name, inner))
        words = " ".join(f"{name}={_plain(inner)}" for name, inner in plain)
        place = "" if value.span == NOWHERE else "  @{}:{}".format(*source.position(value.span.start))
        yield f"{pad}{label + ': ' if label else ''}{type(value).__name__}{' ' if words else ''}{words}{place}"
        for name, inner in nested:
            yield from _tree(name, inner, source, depth + 1)
    else:
        yield f"{pad}{label + ': ' if label else ''}{_plain(value)}"


def _is_words(value: object) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(v, str) for v in value)


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_plain, value)) + ")"
    return write_text(value) if isinstance(value, str) and not value.isidentifier() else str(value)


# --- the checked program and the update ---------------------------------------------------------------------------------------


_SEEN = {"matrix": "(first dimension, all others)", "square": "the two factors of its size that are nearest to each other"}


def show_program(program: Program) -> str:
    """Declarations and typed statements: after `:` what a value is (static, host, extent, sort)."""
    rows = [f"optimizer {program.name}", *([f"shape {program.seen}: {_SEEN[program.seen]}"] if program.seen else [])]
    rows += ["hypers", *(INDENT + _hyper(h) for h in program.hypers)]
    if program.requires:
        rows.append("requires")
        rows += [f"{INDENT}{show_expression(r.condition)}  else {write_text(r.message)}" for r in program.requires]
    if program.states:
        rows += ["states", *map(_state, program.states)]
    for procedure in program.procedures:
        rows += [_heading(procedure), *show_block(procedure.body, program.source)]
    return "\n".join(rows)


def show_mathematics(program: Program) -> str:
    """States and statements alone: equal for specs that differ in comments, layout, words or defaults only."""
    rows = [str(program.seen), *map(_state, program.states)]
    for procedure in program.procedures:
        lines = show_block(procedure.body, program.source)
        rows += [_heading(procedure), *(line.partition("| ")[2] for line in lines)]
    return "\n".join(rows)


def _state(state: State) -> str:
    where = "" if state.exists == TRUE else f" if {show_expression(state.exists)}"
    place = "host float64" if state.host else "float64" if state.extent in SCALARS else "memory"
    left = f"{INDENT}{state.name} = {show_expression(state.initial)} as {state.key}{where}"
    return f"{left:<{TYPE_COLUMN}}  : {state.extent.value}, {place}"


def _heading(procedure: Procedure | UpdateProcedure) -> str:
    inputs = f"({', '.join(procedure.inputs)})" if procedure.inputs else ""
    return procedure.name + inputs + (f" every {procedure.every}" if procedure.every else "")


def show_update(update: Update) -> str:
    """The statements of every procedure after early ends are resolved and expressions simplified."""
    rows: list[str] = []
    for procedure in update.procedures:
        rows += [_heading(procedure), *show_block(procedure.body, update.program.source)]
    return "\n".join(rows)


def show_block(body: Iterable[Statement], source: Source, depth: int = 0, typed: bool = True) -> Iterator[str]:
    """The lines of a block."""
    for statement in body:
        match statement:
            case Let() | Store():
                arrow = "=" if isinstance(statement, Let) else "<-"
                text = f"{statement.target.name} {arrow} {show_expression(statement.value)}"
                kind = f"  : {statement.value.type}" if typed else ""
                yield _line(text, statement.span, source, depth, kind)
            case Branch():
                yield _line(f"if {show_expression(statement.condition)}", statement.span, source, depth)
                yield from show_block(statement.then, source, depth + 1, typed)
                if statement.otherwise:
                    yield _line("else", NOWHERE, source, depth)
                    yield from show_block(statement.otherwise, source, depth + 1, typed)
            case Stop():
                yield _line("stop", statement.span, source, depth)


def _line(text: str, span: Span, source: Source, depth: int, kind: str = "") -> str:
    number = "" if span == NOWHERE else str(source.position(span.start)[0])
    left = f"{number:>4} | {'  ' * depth}{text}"
    return f"{left:<{TYPE_COLUMN}}{kind}" if kind else left


def _hyper(hyper: Hyper) -> str:
    values = [_scalar(v) for v in hyper.defaults]
    if hyper.is_tuple:
        default = "(" + ", ".join(f"{n} = {v}" for n, v in zip(hyper.names, values, strict=True)) + ")"
    else:
        default = values[0] + (f" as {hyper.names[0]} inside" if hyper.names[0] != hyper.key else "")
    words = [f"{hyper.key} = {default}", "int" if hyper.kind is HyperKind.INTEGER else ""]
    if hyper.bounds is not None:
        b = hyper.bounds
        words.append(f"in {'[' if b.low_closed else '('}{b.low:g}, {b.high:g}{']' if b.high_closed else ')'}")
    if hyper.choices:
        words.append("in {" + ", ".join(map(write_text, hyper.choices)) + "}")
    words += ["or none"] * hyper.optional + ["shared"] * hyper.shared + ["counts"] * hyper.counts
    words.append(write_text(hyper.text) if hyper.text else "")
    return " ".join(w for w in words if w)


def _scalar(value: Scalar) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case str():
            return write_text(value)
        case _:
            return f"{value:g}"
