"""Logical lines and the block structure that their indentation gives."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from optc.dsl.errors import Diagnostic
from optc.dsl.source import Source, Span

MAX_NESTING = 100
"""How deep brackets, blocks and operations may nest: later stages recurse over them."""

PLACEHOLDER = "\x1a"
"""Stands for a line that is already known to be wrong; the grammar takes it wherever a line may stand."""

STAGES = ("clip", "project", "couple", "mix", "mask", "trust", "decay", "constrain", "average")
"""Words that open a stage of a modifier; elsewhere they are names."""

_HEADS = frozenset(["if", "else", "every", "define", "entry", "optimizer", "modifier", "schedule", "hyper", "state", "step"])


@dataclass(frozen=True, slots=True)
class Token:
    """One sign of the text. `kind` is string, number, word, sign, power, foreign (`**`), other or cite."""

    kind: str
    text: str
    start: int
    end: int

    @property
    def span(self) -> Span:
        return Span(self.start, self.end)


@dataclass(frozen=True, slots=True)
class Line:
    """A logical line: its tokens (at least one), its indentation in columns, and the offset where its text ends."""

    tokens: tuple[Token, ...]
    indent: int
    end: int

    @property
    def start(self) -> int:
        return self.tokens[0].start

    @property
    def opens(self) -> bool:
        """Whether a block must follow."""
        return self.tokens[-1].text == ":"


@dataclass(frozen=True, slots=True)
class Blocks:
    """What the check of the indentation found; `bad` and `dropped` as in `Scan`."""

    diagnostics: tuple[Diagnostic, ...]
    bad: frozenset[int]
    dropped: frozenset[int]
    fatal: bool


def check_blocks(lines: tuple[Line, ...], bad: frozenset[int]) -> Blocks:
    """What opens a block has one, nothing else is indented deeper, and the way back leads to a block that is open.

    Lines in `bad` have a diagnostic already and get no second one.
    """
    checker = _Checker(lines, bad)
    checker.run()
    return Blocks(tuple(checker.diagnostics), frozenset(checker.bad), frozenset(checker.dropped), checker.fatal)


def block_of(lines: tuple[Line, ...], number: int) -> frozenset[int]:
    """The lines that belong to a line: those indented deeper, and the `else` parts of a conditional."""
    head = lines[number]
    conditional = head.tokens[0].text in ("if", "else")
    last = number
    for following in range(number + 1, len(lines)):
        line = lines[following]
        if line.indent < head.indent:
            break
        if line.indent == head.indent and not (conditional and line.tokens[0].text == "else"):
            break
        last = following
    return frozenset(range(number + 1, last + 1))


def text_for_grammar(source: Source, lines: tuple[Line, ...], bad: Collection[int], dropped: Collection[int]) -> str:
    """The text at the same offsets, without comments and dropped lines, with a placeholder for each bad line."""
    blank = ["\n" if character == "\n" else " " for character in source.text + "\n"]
    for number, line in enumerate(lines):
        if number in dropped:
            continue
        blank[line.start : line.end] = " " * (line.end - line.start)
        if number in bad:
            blank[line.start] = PLACEHOLDER
            continue
        for token in line.tokens:
            blank[token.start : token.end] = token.text
    return "".join(blank).rstrip() + "\n"


class _Checker:
    """The state of one check."""

    def __init__(self, lines: tuple[Line, ...], bad: frozenset[int]) -> None:
        self.lines = lines
        self.bad = set(bad)
        self.dropped: set[int] = set()
        self.diagnostics: list[Diagnostic] = []
        self.fatal = False

    def run(self) -> None:
        stack = [0]
        astray = -1  # the column of the lines being skipped as wrongly indented
        previous: int | None = None
        for number, line in enumerate(self.lines):
            if astray >= 0 and (line.indent == astray or line.indent > max(astray, stack[-1])):
                self.dropped.add(number)
                continue
            before = None if previous is None else self.lines[previous]
            if line.indent > stack[-1]:
                if before is None or not before.opens:
                    astray = line.indent
                    self.report_deeper(previous, number)
                    continue
                stack.append(line.indent)
                if len(stack) > MAX_NESTING:
                    self.diagnostics.append(
                        Diagnostic("too-deep", f"blocks nest deeper than {MAX_NESTING}", line.tokens[0].span)
                    )
                    self.fatal = True
                    return
            elif before is not None and before.opens and previous is not None:
                self.report_empty(previous)
            if line.indent < stack[-1]:
                if line.indent not in stack:
                    astray = line.indent
                    hint = f"blocks that are open here start in column {', '.join(str(column + 1) for column in stack)}"
                    self.at(number, "indentation", "the indentation matches no block around", hint)
                    self.dropped.add(number)
                    continue
                while stack[-1] > line.indent:
                    stack.pop()
            astray = -1
            previous = number
        if previous is not None and self.lines[previous].opens:
            self.report_empty(previous)

    def report_empty(self, number: int) -> None:
        hint = "write its lines below, indented by four spaces, or on the same line"
        self.at(number, "empty-block", f"nothing stands in the block of `{self.lines[number].tokens[0].text}`", hint, last=True)
        self.bad.add(number)

    def report_deeper(self, previous: int | None, number: int) -> None:
        self.dropped.add(number)
        if previous is not None:
            tokens = self.lines[previous].tokens
            head = tokens[0].text in _HEADS or (tokens[0].text in STAGES and len(tokens) > 1 and tokens[1].kind == "word")
            if head and not any(token.text == ":" for token in tokens):
                if previous not in self.bad:
                    end = tokens[-1].end
                    message = f"`:` is missing at the end of the `{tokens[0].text}` line"
                    self.diagnostics.append(
                        Diagnostic("missing-colon", message, Span(end, end + 1), "write `:` before the block")
                    )
                self.bad.add(previous)
                return
        self.at(
            number,
            "indentation",
            "this line is indented, but no block opens before it",
            "start it in the column of the line before",
        )

    def at(self, number: int, code: str, message: str, hint: str, last: bool = False) -> None:
        if number not in self.bad:
            token = self.lines[number].tokens[-1 if last else 0]
            self.diagnostics.append(Diagnostic(code, message, token.span, hint))
