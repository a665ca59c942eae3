r"""LaTeX to MathML, for the commands that `compiler/latex.py` prints and no others.

Browsers lay MathML out themselves: the pages need no script and no font for their equations. The tree is built element by
element, so that a text inside an equation can never become markup.
"""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, SubElement, tostring

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|[0-9]+(?:\.[0-9]+)?|\s+|.", re.DOTALL)

_GREEK = dict(
    zip(
        "alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
        "omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega".split(),
        "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ",
        strict=True,
    )
)
_OPERATORS = {
    "leftarrow": "←", "cdot": "·", "times": "×", "le": "≤", "ge": "≥", "ne": "≠", "wedge": "∧", "vee": "∨", "neg": "¬",
    "bmod": "mod", "rightarrow": "→", "sum": "∑",
}  # fmt: skip
_SIGNS = "+-=<>()[],.:;/|!*'"
_SYMBOLS = {"infty": "∞", "top": "⊤"}
_SCRIPT = {"L": "ℒ", "N": "𝒩", "U": "𝒰"}
_FENCES = {"Vert": "‖", "lfloor": "⌊", "rfloor": "⌋", "langle": "⟨", "rangle": "⟩"}
_FENCE = {"fence": "true", "stretchy": "true", "lspace": "0", "rspace": "0"}
_TALL = frozenset({"mfrac", "msqrt", "mtable"})
"""What brackets grow with; around a subscript alone they look better as they are."""
_SPACES = {"\\,": "0.2em", "\\ ": "0.33em", "\\quad": "1em"}
_ACCENTS = {"hat": "^", "bar": "¯", "tilde": "~"}
_FUNCTIONS = frozenset({"exp", "ln", "log", "sin", "cos", "tanh", "min", "max"})
_IN_TEXT = {"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^"}


def mathml(latex: str) -> str:
    """A `<math>` element in display style, its source in `alttext`. Raises ValueError for a command it does not know."""
    reader = _Reader(latex)
    math = Element("math", {"displaystyle": "true", "alttext": latex})
    _fill(math, reader.row())
    return tostring(math, encoding="unicode", short_empty_elements=False)


class _Reader:
    """The tokens of one formula, read from left to right."""

    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)
        self._at = 0
        self._text = text

    @property
    def done(self) -> bool:
        return self._at == len(self._tokens)

    def peek(self) -> str:
        return "" if self.done else self._tokens[self._at]

    def next(self) -> str:
        if self.done:
            raise ValueError(f"{self._text!r} ends too early")
        self._at += 1
        return str(self._tokens[self._at - 1])

    def spaces(self) -> None:
        while self.peek().isspace():
            self.next()

    def expect(self, token: str) -> None:
        self.spaces()
        found = self.next()
        if found != token:
            raise ValueError(f"{found!r} instead of {token!r} in {self._text!r}")

    def row(self, *ends: str) -> list[Element]:
        """Elements up to one of `ends`, which is not consumed."""
        row: list[Element] = []
        while not self.done and self.peek() not in ends:
            token = self.next()
            if token.isspace():
                continue
            if token in "_^":
                row.append(_script(row.pop() if row else Element("mrow"), token, self.argument()))
            else:
                row.append(self.element(token))
        return row

    def argument(self) -> Element:
        """What stands in the braces that follow, or the one token."""
        self.spaces()
        if self.peek() != "{":
            return self.element(self.next())
        self.next()
        inside = self.row("}")
        self.expect("}")
        return _group(inside)

    def text(self) -> str:
        """The plain text in the braces that follow."""
        self.expect("{")
        text = ""
        while (token := self.next()) != "}":
            if token.startswith("\\"):
                special = _IN_TEXT.get(token[1:])
                text += token[1:] if special is None else special
                if special is not None and self.peek() == " ":
                    self.next()
                elif special is not None and self.peek().isspace():
                    text += self.next()[1:]
            else:
                text += token
        return text

    def element(self, token: str) -> Element:
        if token == "{":
            inside = self.row("}")
            self.expect("}")
            return _group(inside)
        if token[0].isdigit():
            return _leaf("mn", token)
        if not token.startswith("\\"):
            if token.isalpha():
                return _leaf("mi", token)
            if token in _SIGNS:
                return _leaf("mo", "−" if token == "-" else token)
            raise ValueError(f"{token!r} does not belong there, in {self._text!r}")
        if token in _SPACES:
            return Element("mspace", {"width": _SPACES[token]})
        return self.command(token[1:])

    def command(self, name: str) -> Element:
        if name in _GREEK:
            return _leaf("mi", _GREEK[name], "capital" if name[0].isupper() else "")
        if name in _OPERATORS:
            return _leaf("mo", _OPERATORS[name])
        if name in _SYMBOLS:
            return _leaf("mi", _SYMBOLS[name])
        if name in _FUNCTIONS:
            return _leaf("mi", name)
        match name:
            case "frac":
                return _group([self.argument(), self.argument()], "mfrac")
            case "sqrt":
                return _group([self.argument()], "msqrt")
            case "hat" | "bar" | "tilde":
                over = Element("mover", {"accent": "true"})
                over.append(self.argument())
                SubElement(over, "mo", {"stretchy": "false"}).text = _ACCENTS[name]
                return over
            case "mathcal":
                return _leaf("mi", _SCRIPT[self.text()])
            case "mathrm" | "operatorname":
                return _leaf("mi", self.text(), "word" if name == "mathrm" else "function")
            case "text" | "textbf":
                return self.words(bold=name == "textbf")
            case "left":
                return self.fenced()
            case "begin":
                return self.cases()
        raise ValueError(f"the command \\{name} is not known, in {self._text!r}")

    def words(self, bold: bool) -> Element:
        text = self.text()
        if text.startswith("``") and text.endswith("''"):
            text = f"“{text[2:-2]}”"
        edges = re.sub(r"^ | $", "\u00a0", text)  # spaces at the edges of mtext collapse
        return _leaf("mtext", edges, "keyword" if bold else "text")

    def fence(self) -> str:
        self.spaces()
        token = self.next()
        return _FENCES.get(token[1:], token) if token.startswith("\\") else token

    def fenced(self) -> Element:
        opening = self.fence()
        inside = self.row("\\right")
        self.expect("\\right")
        closing = self.fence()
        tall = "true" if any(part.tag in _TALL for element in inside for part in element.iter()) else "false"
        row = Element("mrow")
        SubElement(row, "mo", _FENCE | {"form": "prefix", "stretchy": tall}).text = opening
        _fill(row, inside)
        SubElement(row, "mo", _FENCE | {"form": "postfix", "stretchy": tall}).text = closing
        return row

    def cases(self) -> Element:
        if self.text() != "cases":
            raise ValueError(f"an environment other than cases in {self._text!r}")
        table = Element("mtable", {"class": "cases", "displaystyle": "true"})
        while True:
            line = SubElement(table, "mtr")
            while True:
                _fill(SubElement(line, "mtd"), self.row("&", "\\\\", "\\end"))
                if self.peek() != "&":
                    break
                self.next()
            if self.next() == "\\end":
                break
        self.text()
        row = Element("mrow")
        SubElement(row, "mo", _FENCE | {"form": "prefix"}).text = "{"
        row.append(table)
        return row


def _leaf(tag: str, text: str, kind: str = "") -> Element:
    upright = tag == "mi" and len(text) == 1 and (kind != "" or not text.isalpha())
    attributes = ({"class": kind} if kind else {}) | ({"mathvariant": "normal"} if upright else {})
    element = Element(tag, attributes)
    element.text = text
    return element


def _group(parts: list[Element], tag: str = "mrow") -> Element:
    if tag == "mrow" and len(parts) == 1:
        return parts[0]
    element = Element(tag)
    _fill(element, parts)
    return element


def _fill(parent: Element, parts: list[Element]) -> None:
    for part in parts:
        parent.append(part)


def _script(base: Element, mark: str, script: Element) -> Element:
    """`base` with a subscript or superscript; with both, where it has the other already."""
    if (base.tag, mark) in (("msub", "^"), ("msup", "_")):
        inner, other = base
        return _group([inner, *((other, script) if mark == "^" else (script, other))], "msubsup")
    return _group([base, script], "msub" if mark == "_" else "msup")
