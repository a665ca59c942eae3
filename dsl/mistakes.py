"""What a syntax error means: from the place where the grammar stopped to a diagnostic in the user's words.

The grammar stops at the first sign that cannot follow. The table below knows the mistakes that people make, by the signs around
that place; what it does not know is described plainly. Nothing of the parser's own messages is shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from dataclasses import dataclass

from optc.dsl.errors import Diagnostic
from optc.dsl.lines import STAGES, Line, Token
from optc.dsl.names import RESERVED_WORDS
from optc.dsl.source import Span

LATER = {
    "view": "a view",
    "gradients": "`gradients:`",
    "for": "`for θ:`",
    "otherwise": "`otherwise:`",
    "axes": "`axes:`",
    "repeat": "`repeat`",
    "each": "`each axis`",
    "in": "`in bf16:`",
    "ring": "`ring window`",
    "probe": "a modifier that takes another gradient",
}
"""First words of what the language plans, and this version does not read."""

_FOREIGN = {
    "elif": "write `else if`",
    "elseif": "write `else if`",
    "def": "functions are written `define f(x) = value`",
    "function": "functions are written `define f(x) = value`",
    "let": "write `name = value`",
    "var": "write `name = value`",
    "while": "the language has no open loops",
    "import": "a spec is one file and imports nothing",
    "class": "a spec opens with `optimizer NAME:`",
    "pass": "leave the block out",
    "break": "`stop` ends the step",
    "exit": "`stop` ends the step",
}
_SECTIONS = ("hyper", "state", "step", "define", "entry", "cite", "note", "shape", "optimizer", "modifier", "schedule")
_BLOCK_HEADS = frozenset(
    ("if", "else", "every", "define", "entry", "optimizer", "modifier", "schedule", "hyper", "state", "step")
)
_FORMS = {
    "modifier": "modifier NAME(hyper = default):",
    "rewrite": "rewrite (a, b): a/b -> a*b",
    "entry": "entry NAME(input per extent) every N:",
    "optimizer": "optimizer NAME:",
    "schedule": "schedule NAME:",
    "stop": "stop",
    "note": 'note "text"',
    "shape": "shape: matrix",
}
_COMPARISONS = frozenset(("<", ">", "<=", ">=", "==", "!=", "≤", "≥", "≠"))
_OPENERS = frozenset("([⟨⌊")
_CLOSERS = frozenset(")]⟩⌋")
_VALUES = frozenset(("true", "false", "none"))


@dataclass(frozen=True, slots=True)
class Stop:
    """Where the grammar stopped: the line, the number of the token that cannot follow (the token count at the line's end), and
    the names of the terminals that could."""

    line: Line
    place: int
    expected: Collection[str]

    @property
    def tokens(self) -> tuple[Token, ...]:
        return self.line.tokens

    @property
    def first(self) -> str:
        return self.tokens[0].text

    @property
    def token(self) -> Token | None:
        return self.tokens[self.place] if self.place < len(self.tokens) else None

    @property
    def text(self) -> str:
        """The text of the token that cannot follow; empty at the end of the line."""
        return "" if self.token is None else self.token.text

    @property
    def before(self) -> Token | None:
        return self.tokens[self.place - 1] if self.place else None

    @property
    def span(self) -> Span:
        end = self.tokens[-1].end
        return Span(end, end + 1) if self.token is None else self.token.span

    @property
    def after_operand(self) -> bool:
        return self.before is not None and _ends_operand(self.before)

    @property
    def item(self) -> tuple[Token, ...]:
        """The tokens before this place of the declaration or statement that it is in: a line may hold several."""
        start, depth = 0, 0
        for number, token in enumerate(self.tokens[: self.place]):
            depth += (token.text in _OPENERS or token.text == "{") - (token.text in _CLOSERS or token.text == "}")
            if depth == 0 and token.text in (":", ";"):
                start = number + 1
        return self.tokens[start : self.place]

    @property
    def in_brackets(self) -> bool:
        depth = 0
        for token in self.tokens[: self.place]:
            depth += (token.text in _OPENERS or token.text == "{") - (token.text in _CLOSERS or token.text == "}")
        return depth > 0


def explain(stop: Stop) -> Diagnostic:
    """The diagnostic for the place where the grammar stopped."""
    for mistake in _TABLE:
        found = mistake(stop)
        if found is not None:
            return found
    return _plain(stop)


def _ends_operand(token: Token) -> bool:
    if token.kind == "word":
        return token.text not in RESERVED_WORDS or token.text in _VALUES
    return token.kind in ("number", "power", "string") or token.text in _CLOSERS or token.text in ("'", "ᵀ", "|", "‖", "∥")


def _begins_operand(token: Token) -> bool:
    if token.kind == "word":
        return token.text not in RESERVED_WORDS or token.text in _VALUES
    return token.kind == "number" or token.text in ("(", "√", "⟨", "⌊", "|", "‖", "∥")


def _later(stop: Stop) -> Diagnostic | None:
    first, second = stop.first, stop.tokens[1].text if len(stop.tokens) > 1 else ""
    what = None
    if first in LATER and second not in ("=", "<-", "←") and (stop.place <= 1 or first in ("repeat", "each")):
        what = LATER[first]
    elif stop.text == "ring":
        what = LATER[stop.text]
    elif stop.text == "[" and stop.place == 1:
        what = "writing one element"
    elif stop.text == "(" and stop.before is not None and stop.before.text == "per":
        what = "an extent that is a pair"
    if what is None:
        return None
    span = stop.tokens[0].span if first in LATER else stop.span
    return Diagnostic("unsupported", f"{what} is not part of this version of the language", span)


def _foreign(stop: Stop) -> Diagnostic | None:
    if stop.first not in _FOREIGN or stop.place > 1:
        return None
    code = "elif" if stop.first.startswith("el") else "syntax"
    return Diagnostic(code, f"`{stop.first}` is not a word of the language", stop.tokens[0].span, _FOREIGN[stop.first])


def _stray_else(stop: Stop) -> Diagnostic | None:
    if stop.text != "else" or stop.place:
        return None
    hint = "`else` stands in the column of its `if`, right after the block of the `if`"
    return Diagnostic("stray-else", "`else` without an `if` before it", stop.span, hint)


def _section(stop: Stop) -> Diagnostic | None:
    """The first word of a line does not fit the section around."""
    if stop.place or stop.token is None or stop.token.kind != "word":
        return None
    if stop.text in _SECTIONS:
        where = (
            "at the start of the file's lines"
            if stop.text == "optimizer"
            else "inside `optimizer NAME:`, beside the other sections"
        )
        if stop.text == "shape":
            where = "inside `optimizer NAME:` or `modifier NAME:`, as `shape: matrix`"
        return Diagnostic("section", f"`{stop.text}` cannot stand here", stop.span, f"it stands {where}")
    if "CITE" in stop.expected or "_OPTIMIZER" in stop.expected:
        stages = (*STAGES, "rewrite") if "STAGE" in stop.expected else ()
        close = difflib.get_close_matches(stop.text, (*_SECTIONS, *stages), n=1)
        sections = "`hyper`, `state`, `step`, `define`, `entry`, `cite` and `note`"
        if stages or "CITE" not in stop.expected:
            sections = "a stage, such as `mask m_hat:`" if stages else "`define`, `modifier`, `schedule` and `optimizer`"
        if "SCHEDULED" in stop.expected:
            sections = "`lr:` or `momentum:`, `hyper`, `define`, `cite` and `note`"
        hint = f"did you mean `{close[0]}`?" if close else f"what stands here opens with {sections}"
        return Diagnostic("section", f"`{stop.text}` opens nothing here", stop.span, hint)
    return None


def _root_power(stop: Stop) -> Diagnostic | None:
    if stop.token is None or not (stop.text in ("^", "'", "ᵀ", "[") or stop.token.kind == "power"):
        return None
    place, depth = stop.place - 1, 0
    while place >= 0:
        text = stop.tokens[place].text
        depth += (text in _CLOSERS) - (text in _OPENERS)
        if depth == 0 and not (place and text == "(" and stop.tokens[place - 1].kind == "word"):
            break
        place -= 1
    if place < 1 or stop.tokens[place - 1].text != "√":
        return None
    hint = "write `√(v^2)` for the root of the power, `(√v)^2` for the power of the root"
    return Diagnostic(
        "root-power", f"`√` takes one name, number, call or bracket; `{stop.text}` after it is ambiguous", stop.span, hint
    )


def _assignment(stop: Stop) -> Diagnostic | None:
    """`=`, `<-` and what is mistaken for them."""
    text, item = stop.text, stop.item
    if stop.first == "rewrite":
        return None
    if item and item[0].text not in RESERVED_WORDS and not {"=", "<-", "←"} & {token.text for token in item}:
        return _no_assignment(stop, item)
    if text in ("=", "<-", "←") and stop.after_operand:
        if text == "<-":
            hint = "equality is `==`; for a comparison with a negative number write `x < -1`, with a space"
            return Diagnostic("assignment-operator", "`<-` writes; it cannot stand inside an expression", stop.span, hint)
        if item and item[0].text in ("if", "else", "every", "require"):
            return Diagnostic("assignment-operator", f"`{text}` in a condition", stop.span, "equality is written `==`")
        hint = "equality is written `==`; a new line, `;` or a closing bracket may be missing before"
        return Diagnostic("assignment-operator", f"a second `{text}` on one line", stop.span, hint)
    return None


def _no_assignment(stop: Stop, item: tuple[Token, ...]) -> Diagnostic | None:
    """A line that should name, write or declare a value, and went wrong before it came to that."""
    text, following = stop.text, stop.tokens[stop.place + 1] if stop.place + 1 < len(stop.tokens) else None
    if stop.token is None:
        return Diagnostic(
            "syntax", "a line names or writes a value; this one does neither", item[0].span, "write `name = value`"
        )
    if following is not None and text in ("+", "-", "*", "/") and following.text == "=" and following.start == stop.token.end:
        hint = f"write `name = name {text} value`, or `<-` for a state"
        return Diagnostic("assignment-operator", f"`{text}=` is not part of the language", stop.span.to(following.span), hint)
    if text in _COMPARISONS:
        hint = "`=` names a value, `<-` writes a state"
        return Diagnostic("assignment-operator", f"`{text}` compares; a line names or writes a value", stop.span, hint)
    if text in ("<-", "←"):
        hint = "write `name = initial value`; `<-` writes a state in `step`"
        return Diagnostic("assignment-operator", f"a declaration has `=`, not `{text}`", stop.span, hint)
    if len(item) != 1:
        return None
    if text == ",":
        return Diagnostic("syntax", "several names stand in brackets", stop.span, "write `(a, b) = f(x)`")
    if text == "(":
        hint = "write `name = f(x)` or `state <- f(x)`"
        return Diagnostic("syntax", "a line names or writes a value; a call alone does nothing", stop.span, hint)
    if _begins_operand(stop.token):
        return Diagnostic("syntax", f"`=` or `<-` is missing after `{item[0].text}`", stop.span, "write `name = value`")
    return None


def _comparison(stop: Stop) -> Diagnostic | None:
    if stop.text not in _COMPARISONS or not stop.after_operand:
        return None
    return Diagnostic("chained-comparison", "comparisons cannot be chained", stop.span, "write `a < b and b < c`")


def _double_bar(stop: Stop) -> Diagnostic | None:
    following = stop.tokens[stop.place + 1] if stop.place + 1 < len(stop.tokens) else None
    if (
        stop.text != "|"
        or following is None
        or following.text != "|"
        or not stop.after_operand
        or following.start != stop.span.end
    ):
        return None
    return Diagnostic(
        "operator-spelling", "`||` is not an operator of the language", stop.span.to(following.span), "write `or`"
    )


def _juxtaposition(stop: Stop) -> Diagnostic | None:
    if stop.token is None or stop.before is None or not (stop.after_operand and _begins_operand(stop.token)):
        return None
    in_head = (
        bool(stop.item) and stop.item[0].text in ("optimizer", "define", "entry") and "=" not in [t.text for t in stop.item]
    )
    if stop.before.kind == "string" or (in_head and not stop.in_brackets):
        return None
    left, right = stop.before.text, stop.text
    simple = stop.before.kind in ("word", "number") and stop.token.kind in ("word", "number")
    shown = f"`{left}*{right}`" if simple else "`*` between them"
    hint = f"write {shown}" + (", or `,` where these are two values" if stop.in_brackets else "")
    span = stop.before.span.to(stop.span)
    return Diagnostic("juxtaposition", f"nothing multiplies by standing beside: `{left}` `{right}`", span, hint)


def _nested_block(stop: Stop) -> Diagnostic | None:
    if stop.text not in ("if", "every", "else") or stop.before is None or stop.before.text not in (":", ";"):
        return None
    return Diagnostic("syntax", f"`{stop.text}` inside a one-line block", stop.span, "put it on a line of its own, indented")


def _colon(stop: Stop) -> Diagnostic | None:
    if stop.first not in _BLOCK_HEADS or "_COLON" not in stop.expected:
        return None
    if stop.text and set(stop.expected) - {"_COLON"} and any(token.text == ":" for token in stop.tokens[stop.place :]):
        return None
    if stop.text and not (stop.after_operand or stop.place == 1):
        return None
    if stop.first == "optimizer" and stop.text:
        return None
    if stop.first == "define" and any(token.text == "=" for token in stop.item):
        return None
    end = stop.tokens[stop.place - 1].end
    return Diagnostic(
        "missing-colon",
        f"`:` is missing after `{stop.tokens[stop.place - 1].text}`",
        Span(end, end + 1),
        "write `:` before the block",
    )


def _reserved(stop: Stop) -> Diagnostic | None:
    if stop.text not in RESERVED_WORDS or "NAME" not in stop.expected:
        return None
    if stop.text in ("and", "or", "mod", "not", "in"):
        return None
    return Diagnostic(
        "reserved-word", f"`{stop.text}` is a word of the language and cannot be a name", stop.span, "choose another name"
    )


def _separator(stop: Stop) -> Diagnostic | None:
    if stop.text != "," or stop.in_brackets or not stop.after_operand:
        return None
    return Diagnostic("syntax", "`,` outside brackets", stop.span, "`;` separates what stands on one line")


def _quote(stop: Stop) -> Diagnostic | None:
    if stop.text != "'" or stop.after_operand:
        return None
    return Diagnostic("syntax", "`'` is the transpose of what stands before it", stop.span, 'texts stand in `"…"`')


_TABLE: tuple[Callable[[Stop], Diagnostic | None], ...] = (
    _later,
    _foreign,
    _stray_else,
    _root_power,
    _nested_block,
    _reserved,
    _section,
    _assignment,
    _comparison,
    _double_bar,
    _separator,
    _quote,
    _colon,
    _juxtaposition,
)


def _plain(stop: Stop) -> Diagnostic:
    message = f"`{stop.text}` cannot stand here" if stop.text else "the line ends too early"
    return Diagnostic("syntax", message, stop.span, _needed(stop))


def _needed(stop: Stop) -> str | None:
    expected, few = stop.expected, len(stop.expected) <= 3
    head = stop.item[0].text if stop.item else stop.first
    if head == "optimizer" and any(token.text == "=" for token in stop.item):
        return "write `optimizer NAME = AdamW(lr = 1e-3) without weight_decay + modifier + …`"
    if stop.first == "rewrite":
        head = stop.first
    if head in _FORMS:
        return f"write `{_FORMS[head]}`"
    if stop.first == "optimizer":
        return "its sections stand on lines of their own, indented"
    if "NUMBER" in expected and "NAME" in expected:
        return "a value is expected"
    if "NAME" in expected and few:
        return "a name is expected"
    if "STRING" in expected and few:
        return 'a text in `"…"` is expected'
    if stop.token is not None and stop.token.kind == "string" and head == "require":
        return 'write `require condition, "message"`'
    if "EQUAL" in expected and few:
        return "`=` is expected"
    if "COMPARE" in expected and stop.after_operand:
        return (
            "an operator, `,` or a closing bracket is expected"
            if stop.in_brackets
            else "an operator or the end of the line is expected"
        )
    return None
