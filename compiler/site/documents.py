"""Pages from Markdown, such as that on the language; specs in them are coloured like those of the other pages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from optc.compiler.site.coloring import color

if TYPE_CHECKING:
    from markdown_it.token import Token


@dataclass(frozen=True, slots=True)
class Heading:
    """A section to jump to."""

    text: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Document:
    """A page: its title (the first heading), its sections and its HTML. HTML in the Markdown is shown as text."""

    title: str
    contents: tuple[Heading, ...]
    body: Markup


def document(markdown: str, pages: Mapping[str, str] | None = None) -> Document:
    """Converts CommonMark with tables. Links to the files in `pages` lead to their pages, those to other files are dropped."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    headings: list[Heading] = []
    title = ""
    for place, token in enumerate(tokens):
        if token.type == "heading_open":
            text = re.sub(r"[`*]", "", tokens[place + 1].content)
            anchor = anchor_of(text)
            token.attrSet("id", anchor)
            if token.tag == "h1":
                title = title or text
            elif token.tag == "h2":
                headings.append(Heading(text, anchor))
        elif token.type == "table_open":
            token.attrSet("tabindex", "0")
        for child in token.children or ():
            if child.type == "link_open":
                _lead(child, pages or {})

    def fence(tokens: Sequence[Token], index: int, options: object, env: object) -> str:
        token = tokens[index]
        kind = token.info.split()[0] if token.info.split() else ""
        text = token.content.rstrip("\n")
        inside = color(text) if kind.startswith("opt") else Markup.escape(text)
        block = Markup('<div class="code{}"><pre tabindex="0"><code>{}</code></pre></div>\n')
        return block.format(" wrong" if kind == "opt-error" else "", inside)

    parser.renderer.rules["fence"] = fence  # type: ignore[attr-defined]
    body = Markup(parser.renderer.render(tokens, parser.options, {}))  # escapes what is text; HTML is off
    return Document(title or "The language", tuple(headings), body)


def _lead(link: Token, pages: Mapping[str, str]) -> None:
    """Turns a link to a file into one to its page."""
    href = str(link.attrGet("href") or "")
    file, mark, anchor = href.partition("#")
    if file in pages:
        link.attrSet("href", f"{pages[file]}{mark}{anchor}")
    elif file and not file.startswith("https://"):
        link.attrs.pop("href")


def anchor_of(text: str) -> str:
    """The anchor that links in Markdown use for a heading: lower case, `-` for spaces."""
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", text.lower()).strip())
