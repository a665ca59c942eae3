"""What the methods of all grammar rules share: the diagnostics, the marks, and clauses of declarations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lark import Token

from optc.dsl import nodes
from optc.dsl.errors import Diagnostic
from optc.dsl.source import Span


@dataclass(frozen=True, slots=True)
class Clause:
    """What a rule below a declaration or an optimizer gives: its kind, value and place."""

    kind: str
    value: Any
    span: Span


def place_of(token: Token) -> Span:
    """The place of a token."""
    return Span(token.start_pos or 0, token.end_pos or 0)


class Rules:
    """Diagnostics go to the list given; marks are collected."""

    def __init__(self, diagnostics: list[Diagnostic]) -> None:
        self.diagnostics = diagnostics
        self.marks: list[nodes.Mark] = []

    def report(self, code: str, message: str, span: Span, hint: str | None = None) -> None:
        self.diagnostics.append(Diagnostic(code, message, span, hint))

    def mark(self, word: str, span: Span) -> None:
        self.marks.append(nodes.Mark(word, span=span))

    def constant(self, value: nodes.Expression, what: str, texts: bool = False) -> None:
        """Reports what is no literal; texts, flags and `none` are some where `texts` says so."""
        inner = value
        while isinstance(inner, nodes.Unary) and inner.operator == "-":
            inner = inner.operand
        number = isinstance(inner, nodes.Number) or (isinstance(inner, nodes.Name) and inner.id in ("inf", "pi"))
        if number or (texts and isinstance(value, (nodes.Boolean, nodes.Text, nodes.Nothing))):
            return
        kinds = 'a number, `true`, `false`, `none` or a text in `"…"`' if texts else "a number, `inf` or `pi`"
        self.report("not-constant", f"{what} is not a constant", value.span, f"write {kinds}")

    def members(self, parts: list[Any], what: str) -> dict[str, list[Any]]:
        """The sections of an optimizer or a modifier by their kind; those that may stand once only are reported."""
        kinds: dict[str, list[Clause]] = {}
        for member in parts:
            clause = member if isinstance(member, Clause) else Clause(type(member).__name__, member, member.span)
            kinds.setdefault(clause.kind, []).append(clause)
        for kind in ("doc", "shape", "hyper", "state", "storing", "step", "decode", "encode"):
            for other in kinds.get(kind, [])[1:]:
                name = "text" if kind == "doc" else f"`{kind}` section"
                self.report("duplicate-section", f"a second {name} in one {what}", other.span, "join the two")
        return {kind: [clause.value for clause in clauses] for kind, clauses in kinds.items()}
