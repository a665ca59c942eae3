"""The canonical text of a spec, in ASCII or in mathematical spelling: the inverse of `parse`.

`parse(show(spec)) == spec` in both spellings, and a shown text shows itself again. Sections stand in a fixed order; a comment
that has a line of its own stays before what it preceded, one behind a line stays behind it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from optc.dsl import literals, nodes
from optc.dsl.names import pretty, width
from optc.dsl.parse import parse
from optc.dsl.source import NOWHERE, Source, Span

_INDENT = "    "

# Precedence, loosest first. A part is bracketed where its level is below what its place needs.
_OR, _AND, _NOT, _COMPARISON, _SUM, _PRODUCT, _SIGN, _POWER, _POSTFIX, _ATOM = range(10)
_LEVELS: dict[str, int] = (
    {"or": _OR, "and": _AND, "^": _POWER}
    | dict.fromkeys(("<", "<=", ">", ">=", "==", "!="), _COMPARISON)
    | dict.fromkeys(("+", "-"), _SUM)
    | dict.fromkeys(("*", "/", "@", "mod"), _PRODUCT)
)
_TIGHT = frozenset("*/^")
_MATHEMATICAL = {"*": "·", "<=": "≤", ">=": "≥", "!=": "≠", "and": "∧", "or": "∨"}
_FENCES = {"abs": ("|", "|"), "norm": ("‖", "‖"), "floor": ("⌊", "⌋"), "dot": ("⟨", "⟩")}
_FENCED_ARGUMENTS = {"abs": 1, "norm": 1, "floor": 1, "dot": 2}
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_RAW_CITE = re.compile(r'(?!["#])\S(?:[^\n#]|(?<! )#)*(?<!\s)')


def show(spec: nodes.Spec, mathematical: bool = False) -> str:
    """The canonical text of a spec, ending in a newline."""
    printer = _Printer(mathematical, spec.marks)
    blocks = [printer.define(define, 0) for define in spec.defines]
    blocks.append(printer.optimizer(spec.optimizer))
    rows: list[_Row | None] = []
    for block in blocks:
        rows += [None, *block] if rows else block
    return "".join(line + "\n" for line in _with_comments(rows, spec.comments))


def show_expression(expression: nodes.Expression, mathematical: bool = False) -> str:
    """The canonical text of an expression."""
    return _Printer(mathematical).expression(expression)


def format_text(source: Source, mathematical: bool = False) -> str:
    """A spec's text in canonical form. Raises SpecError where it does not parse."""
    return show(parse(source), mathematical)


@dataclass(frozen=True, slots=True)
class _Row:
    """A line to print: its depth, its columns (padded to those of its neighbours where it has several) and its place in the
    source, by which comments find it."""

    depth: int
    cells: tuple[str, ...]
    span: Span


def _aligned(rows: Sequence[_Row]) -> list[_Row]:
    """The rows, all of equally many columns, with every column as wide as its widest cell and empty columns left out."""
    widths = [max(map(width, column)) for column in zip(*(row.cells for row in rows), strict=True)]

    def pad(row: _Row) -> _Row:
        cells = (cell + " " * (wide - width(cell)) for cell, wide in zip(row.cells, widths, strict=True) if wide)
        return _Row(row.depth, (" ".join(cells).rstrip(),), row.span)

    return [pad(row) for row in rows]


def _with_comments(rows: Sequence[_Row | None], comments: Sequence[nodes.Comment]) -> Iterator[str]:
    """The lines of the rows (None is an empty line) with each comment before, or behind, the row it belongs to."""
    placed = sorted((row.span.start, row.span.end, place) for place, row in enumerate(rows) if row and row.span != NOWHERE)
    starts = [start for start, _, _ in placed]
    before: dict[int, list[str]] = {}
    behind: dict[int, str] = {}
    for comment in comments:
        text = f"# {comment.text}".rstrip()
        at = bisect_right(starts, comment.span.start) - 1
        if at >= 0 and not comment.alone:
            place = placed[at][2]
            if place in behind:
                before.setdefault(place, []).append(behind[place])
            behind[place] = text
            continue
        if at < 0 or comment.span.start >= placed[at][1]:
            at += 1
        before.setdefault(placed[at][2] if at < len(placed) else len(rows), []).append(text)
    for place, row in enumerate(rows):
        if row is None:
            yield ""
            continue
        indent = _INDENT * row.depth
        yield from (indent + text for text in before.get(place, ()))
        comment_text = "  " + behind[place] if place in behind else ""
        yield indent + " ".join(row.cells) + comment_text
    yield from before.get(len(rows), ())


class _Printer:
    """Rows and expressions in one spelling."""

    def __init__(self, mathematical: bool, marks: Sequence[nodes.Mark] = ()) -> None:
        self.mathematical = mathematical
        self.marks = marks

    # --- places ---------------------------------------------------------------------------------------------------------------

    def head_span(self, word: str, within: Span, last: bool = False) -> Span:
        """The place of the head of a section or block that starts inside `within`."""
        found = [mark.span for mark in self.marks if mark.word == word and within.start <= mark.span.start < within.end]
        return found[-1 if last else 0] if found else NOWHERE

    # --- sections -------------------------------------------------------------------------------------------------------------

    def optimizer(self, optimizer: nodes.Optimizer) -> list[_Row]:
        within = optimizer.span
        heads = {kind: [mark.span for mark in self.marks if mark.word == kind] for kind in ("doc", "cite", "note")}

        def text_rows(kind: str, texts: Sequence[str]) -> list[_Row]:
            spans = heads[kind] if len(heads[kind]) == len(texts) else [NOWHERE] * len(texts)
            return [_Row(1, (text,), span) for text, span in zip(texts, spans, strict=True)]

        def section(word: str, rows: list[_Row]) -> list[_Row]:
            return [_Row(1, (f"{word}:",), self.head_span(word, within)), *rows] if rows else []

        rows = [_Row(0, (f"optimizer {optimizer.name}:",), self.head_span("optimizer", within))]
        rows += text_rows("doc", [] if optimizer.text is None else [literals.write_text(optimizer.text)])
        rows += text_rows("cite", [f"cite {_reference(text)}" for text in optimizer.cites])
        rows += text_rows("note", [f"note {literals.write_text(text)}" for text in optimizer.notes])
        hypers = _aligned([self.hyper(hyper) for hyper in optimizer.hypers])
        rows += section("hyper", hypers + [self.require(require) for require in optimizer.requires])
        rows += section("state", self.states(optimizer.states, 2))
        for define in optimizer.defines:
            rows += self.define(define, 1)
        rows += section("step", self.block(optimizer.step, 2))
        for entry in optimizer.entries:
            rows += self.entry(entry)
        return rows

    def hyper(self, hyper: nodes.Hyper) -> _Row:
        if isinstance(hyper.default, tuple):
            elements = (f"{self.name(element.name)} = {self.expression(element.default)}" for element in hyper.default)
            default = f"({', '.join(elements)})"
        else:
            default = self.expression(hyper.default)
        default += f" as {hyper.outside}" if hyper.outside is not None else ""
        default += " shared" if hyper.shared else ""
        domain = "" if hyper.domain is None else f"in {self.domain(hyper.domain)}"
        text = "" if hyper.text is None else literals.write_text(hyper.text)
        return _Row(2, (self.name(hyper.name), f"= {default}", domain, text), hyper.span)

    def domain(self, domain: nodes.Domain) -> str:
        if isinstance(domain, nodes.Choice):
            return "{" + ", ".join(map(literals.write_text, domain.values)) + "}"
        bounds = f"{self.expression(domain.low)}, {self.expression(domain.high)}"
        return f"{'int ' * domain.integer}{'[' if domain.low_closed else '('}{bounds}{']' if domain.high_closed else ')'}"

    def require(self, require: nodes.Require) -> _Row:
        return _Row(2, (f"require {self.expression(require.condition)}, {literals.write_text(require.message)}",), require.span)

    def states(self, items: Sequence[nodes.StateItem], depth: int) -> list[_Row]:
        rows: list[_Row] = []
        run: list[_Row] = []  # neighbouring states, whose names are aligned
        for item in items:
            if isinstance(item, nodes.State):
                run.append(self.state(item, depth))
                continue
            rows += _aligned(run)
            run = []
            rows += self.conditional(item, depth)
        return rows + _aligned(run)

    def state(self, state: nodes.State, depth: int) -> _Row:
        extent = f" per {state.extent}" if state.extent is not None else ""
        outside = f" as {state.outside}" if state.outside is not None else ""
        return _Row(depth, (self.name(state.name), f"= {self.expression(state.initial)}{extent}{outside}"), state.span)

    def define(self, define: nodes.Define, depth: int) -> list[_Row]:
        head = f"define {self.name(define.name)}({', '.join(map(self.name, define.parameters))})"
        if len(define.body) == 1 and isinstance(define.body[0], nodes.Return):
            return [_Row(depth, (f"{head} = {self.expression(define.body[0].value)}",), define.span)]
        return [_Row(depth, (head + ":",), self.head_span("define", define.span)), *self.block(define.body, depth + 1)]

    def entry(self, entry: nodes.Entry) -> list[_Row]:
        inputs = ", ".join(f"{self.name(item.name)} per {item.extent}" for item in entry.inputs)
        every = f" every {entry.every}" if entry.every is not None else ""
        head = _Row(1, (f"entry {entry.name}({inputs}){every}:",), self.head_span("entry", entry.span))
        return [head, *self.block(entry.body, 2)]

    # --- statements -----------------------------------------------------------------------------------------------------------

    def block(self, statements: Sequence[nodes.Statement], depth: int) -> list[_Row]:
        rows: list[_Row] = []
        for statement in statements:
            if isinstance(statement, nodes.If):
                rows += self.conditional(statement, depth)
            elif isinstance(statement, nodes.Every):
                start = "" if statement.start is None else f" from {self.expression(statement.start)}"
                last = statement.period if statement.start is None else statement.start
                place = _head_of(statement, last)
                rows.append(_Row(depth, (f"every {self.expression(statement.period)}{start}:",), place))
                rows += self.block(statement.body, depth + 1)
            else:
                rows.append(_Row(depth, (self.simple(statement),), statement.span))
        return rows

    def conditional(self, item: nodes.If | nodes.StateIf, depth: int) -> list[_Row]:
        """`if … else if … else …`, of statements or of states."""
        rows: list[_Row] = []
        word, place = "if", _head_of(item, item.condition)
        while True:
            rows.append(_Row(depth, (f"{word} {self.expression(item.condition)}:",), place))
            rows += self.body(item.then, depth + 1)
            otherwise = item.otherwise
            if not otherwise:
                return rows
            after = item.then[-1].span.end
            here = self.head_span("else", Span(after, otherwise[0].span.start + 1))
            inner = otherwise[0]
            if len(otherwise) == 1 and isinstance(inner, (nodes.If, nodes.StateIf)):
                item, word = inner, "else if"
                place = NOWHERE if here == NOWHERE else here.to(inner.condition.span)
                continue
            return [*rows, _Row(depth, ("else:",), here), *self.body(otherwise, depth + 1)]

    def body(self, items: Sequence[nodes.Statement | nodes.StateItem], depth: int) -> list[_Row]:
        states = [item for item in items if isinstance(item, (nodes.State, nodes.StateIf))]
        statements = [item for item in items if not isinstance(item, (nodes.State, nodes.StateIf))]
        return self.states(states, depth) + self.block(statements, depth)

    def simple(self, statement: nodes.Assign | nodes.Write | nodes.Stop | nodes.Return) -> str:
        if isinstance(statement, nodes.Stop):
            return "stop"
        if isinstance(statement, nodes.Return):
            return f"return {self.expression(statement.value)}"
        sign = "=" if isinstance(statement, nodes.Assign) else "←" if self.mathematical else "<-"
        targets = [self.name(target.id) for target in statement.targets]
        left = targets[0] if len(targets) == 1 else f"({', '.join(targets)})"
        if isinstance(statement.value, tuple):
            return f"{left} {sign} ({', '.join(map(self.expression, statement.value))})"
        return f"{left} {sign} {self.expression(statement.value)}"

    # --- expressions ----------------------------------------------------------------------------------------------------------

    def name(self, identity: str) -> str:
        return pretty(identity) if self.mathematical else identity

    def expression(self, expression: nodes.Expression, needed: int = _OR) -> str:
        """The text of an expression in a place that takes at least the level `needed` without brackets."""
        text, level = self.leveled(expression)
        return f"({text})" if level < needed else text

    def leveled(self, expression: nodes.Expression) -> tuple[str, int]:
        match expression:
            case nodes.Number(value=value):
                return literals.write_number(value), _ATOM
            case nodes.Boolean(value=truth):
                return "true" if truth else "false", _ATOM
            case nodes.Text(value=text):
                return literals.write_text(text), _ATOM
            case nodes.Nothing():
                return "none", _ATOM
            case nodes.Name(id=identity):
                return self.name(identity), _ATOM
            case nodes.Index(value=value, index=index):
                return f"{self.expression(value, _POSTFIX)}[{self.expression(index)}]", _POSTFIX
            case nodes.Unary():
                return self.unary(expression)
            case nodes.Binary():
                return self.binary(expression)
            case nodes.Call():
                return self.call(expression)

    def unary(self, unary: nodes.Unary) -> tuple[str, int]:
        if unary.operator == "'":
            return self.expression(unary.operand, _POSTFIX) + ("ᵀ" if self.mathematical else "'"), _POSTFIX
        if unary.operator == "not":
            return f"not {self.expression(unary.operand, _NOT)}", _NOT
        return f"-{self.expression(unary.operand, _SIGN)}", _SIGN

    def binary(self, binary: nodes.Binary) -> tuple[str, int]:
        operator, level = binary.operator, _LEVELS[binary.operator]
        if operator == "^":
            base = self.expression(binary.left, _POSTFIX)
            raised = _superscript(binary.right) if self.mathematical else None
            return base + (f"^{self.expression(binary.right, _SIGN)}" if raised is None else raised), level
        # A comparison takes no comparison on either side; all others group to the left.
        left = self.expression(binary.left, level + (level == _COMPARISON))
        right = self.expression(binary.right, level + 1)
        sign = _MATHEMATICAL.get(operator, operator) if self.mathematical else operator
        return left + (sign if operator in _TIGHT else f" {sign} ") + right, level

    def call(self, call: nodes.Call) -> tuple[str, int]:
        listed = partial(map, self.expression)
        if self.mathematical and call.function == "sqrt" and len(call.arguments) == 1:
            argument = call.arguments[0]
            nested = isinstance(argument, nodes.Call) and argument.function == "sqrt"
            return "√" + self.expression(argument, _SIGN if nested else _ATOM), _SIGN
        if self.mathematical and _FENCED_ARGUMENTS.get(call.function) == len(call.arguments):
            opening, closing = _FENCES[call.function]
            return opening + ", ".join(listed(call.arguments)) + closing, _ATOM
        return f"{self.name(call.function)}({', '.join(listed(call.arguments))})", _ATOM


def _head_of(node: nodes.Node, last: nodes.Node) -> Span:
    return node.span if node.span == NOWHERE else Span(node.span.start, last.span.end)


def _superscript(exponent: nodes.Expression) -> str | None:
    if isinstance(exponent, nodes.Number) and isinstance(exponent.value, int):
        return str(exponent.value).translate(_SUPERSCRIPTS)
    if isinstance(exponent, nodes.Unary) and exponent.operator == "-" and isinstance(exponent.operand, nodes.Number):
        raised = _superscript(exponent.operand)
        return None if raised is None else "⁻" + raised
    return None


def _reference(text: str) -> str:
    """A reference as it stands where that reads back; as a text otherwise."""
    plain = _RAW_CITE.fullmatch(text) and text.isprintable() and literals.write_text(text)[1:-1] == text
    return text if plain else literals.write_text(text)
