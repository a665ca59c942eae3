"""One linear scan of a spec's text, before the grammar: limits, characters, strings, brackets and the block structure.

It cuts the text into logical lines (newlines inside brackets do not count), keeps the comments, and reports every mistake that
can be seen without the grammar. What is left for the grammar is a text of the same offsets in which comments are blank and
lines already known to be wrong are replaced by one placeholder, so that one bad line never hides or causes an error in another.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from optc.dsl import literals, names
from optc.dsl.errors import Diagnostic
from optc.dsl.lines import MAX_NESTING, Line, Token, block_of, check_blocks
from optc.dsl.nodes import Comment
from optc.dsl.source import Source, Span

MAX_CHARACTERS = 1_000_000
MAX_LINES = 10_000
MAX_TOKENS = 2_000
_TOKEN = re.compile(
    r"(?P<space>[ ]+)|(?P<tab>\t+)|(?P<newline>\r?\n)|(?P<comment>\#[^\n]*)"
    r'|(?P<string>"(?:[^"\\\n]|\\[^\n])*"?)'
    r"|(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    rf"|(?P<word>{names.NAME_PATTERN})"
    r"|(?P<foreign>\*\*|&&|:=|->)"
    r"|(?P<sign><-|<=|>=|==|!=|[-+*/@^'=<>()\[\]{},;:|]|[←→·⊙√‖∥⟨⟩⌊⌋≤≥≠∧∨¬ᵀ])"
    r"|(?P<power>⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)"
    r"|(?P<other>.)",
    re.DOTALL,
)
_CITE = re.compile(r"cite\b(?![ ]*\")(?:[^\n#]|(?<![ ])#)*")
_CLOSES = {")": "(", "]": "[", "}": "{", "⟩": "⟨", "⌋": "⌊"}
_CLOSER = {opening: closing for closing, opening in _CLOSES.items()}
_STARTS_LINE = re.compile(
    r"\s*(?:(?:if|else|every|define|hyper|state|step|entry|optimizer|modifier|schedule|require)\b"
    rf"|{names.NAME_PATTERN}[ ]*(?:<-|←|=[^=]))"
)
_REMEDIES = {
    ":=": "write `=` to name a value and `<-` to write a state",
    "**": "powers are written `^`: `g^2`",
    "&&": "write `and`",
    "&": "write `and`",
    "!": "write `not`",
    "~": "write `not`",
    "%": "write `mod`",
    "->": "a value is written with `<-`, state on the left",
    "×": "write `*`",
    "∗": "write `*`",
    "÷": "write `/`",
    "−": "write `-`",
    "–": "write `-`",
    "“": 'texts stand in straight quotes: `"…"`',
    "”": 'texts stand in straight quotes: `"…"`',
    ".": "there are no attributes or methods: functions are called as `sqrt(g)`",
    "?": "write `where(condition, a, b)`",
    "\\": "a long line goes on inside brackets",
    "∈": "write `in`",
    "⟵": "write `<-`",
    "\u00a0": "this is a no-break space; write a space",
}


@dataclass(frozen=True, slots=True)
class Scan:
    """`bad` holds the numbers of lines to replace by the placeholder, `dropped` those to leave out (blocks of bad heads).

    `fatal`: the structure cannot be trusted, and the grammar should not be asked.
    """

    lines: tuple[Line, ...]
    comments: tuple[Comment, ...]
    diagnostics: tuple[Diagnostic, ...]
    bad: frozenset[int]
    dropped: frozenset[int]
    fatal: bool


def scan(source: Source) -> Scan:
    """Scan a text. Never raises for what stands in it, and takes time linear in its length."""
    over = _refused(source.text)
    if over is not None:
        return Scan((), (), (over,), frozenset(), frozenset(), fatal=True)
    scanner = _Scanner(source.text)
    scanner.run()
    if scanner.unclosed:
        # Only now is it known that some bracket never closes; look again for the line where it should have.
        scanner = _Scanner(source.text, close_at_lines=True)
        scanner.run()
    lines, bad = tuple(scanner.lines), frozenset(scanner.bad)
    if scanner.fatal:
        return Scan(lines, tuple(scanner.comments), tuple(scanner.diagnostics), bad, frozenset(), fatal=True)
    blocks = check_blocks(lines, bad)
    bad, dropped = bad | blocks.bad, blocks.dropped
    for number in bad:
        dropped |= block_of(lines, number)
    return Scan(
        lines, tuple(scanner.comments), (*scanner.diagnostics, *blocks.diagnostics), bad - dropped, dropped, blocks.fatal
    )


def describe(character: str) -> str:
    """A character by sight, code point and Unicode name."""
    shown = f"`{character}` " if character.isprintable() else ""
    name = unicodedata.name(character, "a control character" if ord(character) < 32 else "unnamed")
    return f"{shown}(U+{ord(character):04X}, {name})"


def _refused(text: str) -> Diagnostic | None:
    hint = "a spec is about a page; put one optimizer in a file"
    if len(text) > MAX_CHARACTERS:
        return Diagnostic("too-large", f"the text has more than {MAX_CHARACTERS} characters", Span(0, 1), hint)
    if text.count("\n") >= MAX_LINES:
        return Diagnostic("too-large", f"the text has more than {MAX_LINES} lines", Span(0, 1), hint)
    nul = text.find("\0")
    if nul >= 0:
        return Diagnostic("nul", "a NUL byte in the text", Span(nul, nul + 1), "this is no text file, or it is damaged")
    return None


class _Scanner:
    """The state of one scan."""

    def __init__(self, text: str, close_at_lines: bool = False) -> None:
        self.text = text
        self.close_at_lines = close_at_lines
        self.lines: list[Line] = []
        self.comments: list[Comment] = []
        self.diagnostics: list[Diagnostic] = []
        self.bad: set[int] = set()
        self.unclosed = False
        self.fatal = False
        self.tokens: list[Token] = []
        self.brackets: list[Token] = []
        self.indent = 0
        self.line_start = 0
        self.line_bad = False

    def report(self, code: str, message: str, start: int, end: int, hint: str | None = None) -> None:
        """One lexical diagnostic for each logical line: more would mostly be echoes."""
        if not self.line_bad:
            self.diagnostics.append(Diagnostic(code, message, Span(start, end), hint))
        self.line_bad = True

    # --- characters to logical lines ------------------------------------------------------------------------------------------

    def run(self) -> None:
        position, end = 0, len(self.text)
        if self.text.startswith("\ufeff"):
            position = self.line_start = 1
        while position < end and not self.fatal:
            cite = None if self.tokens else _CITE.match(self.text, position)
            match = cite or _TOKEN.match(self.text, position)
            if match is None:  # `.` takes any character, so this cannot be
                break
            position = match.end()
            kind = "cite" if cite else match.lastgroup or ""
            if kind == "newline":
                self.newline(position)
            elif kind == "comment":
                self.comments.append(Comment(match[0][1:].strip(), self.alone(match.start()), span=Span(*match.span())))
            elif kind == "tab":
                self.tab(match.start(), position)
            elif kind != "space":
                self.add(
                    Token(kind, match[0].rstrip() if cite else match[0], match.start(), match.start() + len(match[0].rstrip()))
                )
        if self.brackets and not self.fatal:
            self.unclosed = True
            self.report_unclosed()
        self.finish(end)

    def alone(self, start: int) -> bool:
        return not self.text[self.line_start : start].strip()

    def tab(self, start: int, end: int) -> None:
        if self.alone(start) and not self.brackets:
            following = self.text[end : end + 1]
            if following not in ("\n", "\r", "#", ""):
                mixed = self.line_start < start or following == " "
                self.fatal_tab(start, end, mixed)
        else:
            self.report("tab", "a tab between the signs", start, end, "write spaces")

    def fatal_tab(self, start: int, end: int, mixed: bool) -> None:
        if not any(diagnostic.code == "tab" for diagnostic in self.diagnostics):
            message = "tabs and spaces are mixed in the indentation" if mixed else "a tab in the indentation"
            self.report("tab", message, start, end, "indent with spaces, four for each block, in the whole file")
        self.fatal = True

    def newline(self, end: int) -> None:
        if self.brackets and self.close_at_lines and self.looks_like_a_line(end):
            self.report_unclosed()
            self.brackets = []
        if not self.brackets:
            self.finish(end - 1)
        self.line_start = end

    def looks_like_a_line(self, start: int) -> bool:
        """Whether a new line inside brackets reads as the next line of the block around."""
        rest = len(self.text)
        stop = self.text.find("\n", start)
        line = self.text[start : rest if stop < 0 else stop]
        return len(line) - len(line.lstrip(" ")) <= self.indent and _STARTS_LINE.match(line) is not None

    def add(self, token: Token) -> None:
        if not self.tokens:
            self.indent = token.start - self.line_start
        self.tokens.append(token)
        if len(self.tokens) == MAX_TOKENS:
            hint = "give names to parts of it"
            self.report("too-large", f"this line has more than {MAX_TOKENS} signs", token.start, token.end, hint)
            self.fatal = True
        match token.kind:
            case "string":
                self.check_string(token)
            case "number":
                self.check_number(token)
            case "sign":
                self.check_sign(token)
            case "other" | "foreign":
                self.check_other(token)
            case "cite" if not token.text.replace("\t", " ").isprintable():
                self.report("unknown-character", "a control character in a reference", token.start, token.end, "remove it")

    def finish(self, end: int) -> None:
        if self.tokens:
            if self.line_bad:
                self.bad.add(len(self.lines))
            self.lines.append(Line(tuple(self.tokens), self.indent, end))
        self.tokens, self.brackets, self.line_bad = [], [], False

    # --- tokens ---------------------------------------------------------------------------------------------------------------

    def check_string(self, token: Token) -> None:
        text = token.text
        closed = len(text) > 1 and text.endswith('"') and (len(text) - 1 - len(text[:-1].rstrip("\\"))) % 2 == 0
        if not closed:
            self.report(
                "unterminated-string",
                'the text has no closing `"`',
                token.start,
                token.end,
                'close it with `"` on the same line',
            )
            return
        wrong = literals.bad_escape(text)
        if wrong is not None:
            hint = r"known are \" \\ \n \t \r and \u{…}; a plain backslash is written \\"
            self.report("escape", "unknown escape in a text", token.start + wrong, token.start + wrong + 2, hint)

    def check_number(self, token: Token) -> None:
        try:
            literals.read_number(token.text)
        except OverflowError:
            hint = "write `inf`, or a whole number beyond 64 bits as a float (`1e20`)"
            self.report("number", "the number is too large", token.start, token.end, hint)

    def check_other(self, token: Token) -> None:
        if token.text == "->" and self.tokens[0].text == "rewrite":
            return
        if token.kind == "foreign":
            message, hint = f"`{token.text}` is not an operator of the language", _REMEDIES[token.text]
        else:
            other = "names have Latin and Greek letters" if token.text.isalpha() else "take it out"
            message, hint = f"unknown character {describe(token.text)}", _REMEDIES.get(token.text, other)
        code = (
            "operator-spelling" if token.text in ("**", "&&", "&", "!", "~", "%", "->", "×", "÷", "−") else "unknown-character"
        )
        self.report("assignment-operator" if token.text == ":=" else code, message, token.start, token.end, hint)

    def check_sign(self, token: Token) -> None:
        if token.text in _CLOSER:
            self.brackets.append(token)
            if len(self.brackets) > MAX_NESTING:
                self.report(
                    "too-deep", f"brackets nest deeper than {MAX_NESTING}", token.start, token.end, "give names to parts"
                )
                self.brackets, self.fatal = [], True
        elif token.text in _CLOSES:
            if not self.brackets:
                hint = f"remove it, or open it with `{_CLOSES[token.text]}`"
                self.report("missing-bracket", f"`{token.text}` closes nothing", token.start, token.end, hint)
                return
            opening = self.brackets.pop()
            if _CLOSES[token.text] != opening.text and not self.line_bad and not self.interval(opening, token):
                message = f"`{token.text}` closes `{opening.text}`"
                self.report(
                    "missing-bracket",
                    message,
                    token.start,
                    token.end,
                    f"`{opening.text}` is closed by `{_CLOSER[opening.text]}`",
                )

    def interval(self, opening: Token, closing: Token) -> bool:
        """`[0, 1)` after `in` or `in int`."""
        place = self.tokens.index(opening)
        before = [token.text for token in self.tokens[max(0, place - 2) : place]]
        return opening.text + closing.text in ("[)", "(]") and (before[-1:] == ["in"] or before == ["in", "int"])

    def report_unclosed(self) -> None:
        opening = self.brackets[-1]
        hint = f"close it with `{_CLOSER[opening.text]}`"
        self.report("missing-bracket", f"`{opening.text}` is never closed", opening.start, opening.end, hint)
