"""A spec as HTML with its words in colours, and the texts in it. All of it is escaped; only the tags around it are ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from markupsafe import Markup

from optc.dsl.functions import BUILTINS
from optc.dsl.names import NAME_PATTERN, RESERVED_NAMES, RESERVED_WORDS, fold

_TOKEN = re.compile(
    r'(?P<comment>#[^\n]*)|(?P<text>"(?:[^"\\\n]|\\[^\n])*"?)|(?P<cite>(?<=cite )[^"\n#][^\n#]*)'
    rf"|(?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)|(?P<word>{NAME_PATTERN})|(?P<other>\s+|.)",
    re.DOTALL,
)


def color(text: str, known: Mapping[str, tuple[str, str]] | None = None) -> Markup:
    """The text as spans. `known` are names by identity, each with a kind (`hyper`, `state`) and what to say of it."""
    parts: list[Markup] = []
    for match in _TOKEN.finditer(text):
        piece = match.group()
        kind = match.lastgroup or "other"
        title = ""
        if kind == "word":
            kind, title = _kind_of_word(piece, known or {})
        if kind == "other":
            parts.append(Markup.escape(piece))
        elif title:
            parts.append(Markup('<span class="{}" title="{}">{}</span>').format(f"s-{kind}", title, piece))
        else:
            parts.append(Markup('<span class="{}">{}</span>').format(f"s-{kind}", piece))
    return Markup("").join(parts)


def prose(text: str) -> Markup:
    """A text with what stands between backticks as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # one is left over
        return Markup.escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else Markup.escape(p) for i, p in enumerate(parts))


def _kind_of_word(word: str, known: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    identity = fold(word)
    if word in RESERVED_WORDS:
        return "keyword", ""
    if identity in known:
        return known[identity]
    if identity in ("theta", "g"):
        return "given", "the parameter" if identity == "theta" else "its gradient"
    if identity in BUILTINS:
        return "function", BUILTINS[identity].doc
    return ("given", "") if identity in RESERVED_NAMES else ("other", "")
