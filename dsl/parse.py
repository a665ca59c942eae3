"""Spec text to `nodes.Spec`: scan, grammar, nodes. Lark's trees never leave this file.

Several mistakes are reported in one run: a line on which the grammar stops is noted, replaced by a placeholder (its block goes
with it), and the rest is read again.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.indenter import DedentError, Indenter

from optc.dsl import mistakes, nodes
from optc.dsl.build import Builder
from optc.dsl.errors import MAX_SHOWN, Diagnostic, SpecError
from optc.dsl.lines import block_of, text_for_grammar
from optc.dsl.scan import Scan, scan
from optc.dsl.source import Source, Span

_MAX_REREAD = 100_000
"""Characters read again, over all repetitions, in search of further mistakes."""

_LOCK = Lock()  # the indenter keeps its state in the shared parser


def parse(source: Source) -> nodes.Spec:
    """The optimizer that is written out in a text. Raises SpecError with every mistake found."""
    file = parse_file(source)
    if isinstance(file, nodes.Spec):
        return file
    parts: tuple[nodes.Derived | nodes.Modifier | nodes.Storage, ...] = (*file.modifiers, *file.storages)
    place = file.optimizer or parts[0]
    if isinstance(place, nodes.Storage):
        message, hint = "the file holds no optimizer, only storages", f"use it in one: `storing m: {place.name}`"
    elif file.optimizer is None:
        message, hint = "the file holds no optimizer, only modifiers", f"name it in one: `optimizer X = AdamW + {place.name}`"
    else:
        message, hint = f"`{place.name}` is composed of others, and not written out here", "compose it first"
    raise SpecError(source, [Diagnostic("not-written-out", message, place.span, hint)])


def parse_file(source: Source) -> nodes.File:
    """What a text holds: an optimizer, or modifiers and compositions. Raises SpecError with every mistake found."""
    scanned = scan(source)
    diagnostics = list(scanned.diagnostics)
    if scanned.fatal:
        raise SpecError(source, diagnostics)
    if not scanned.lines and not diagnostics:
        hint = "a spec is one `optimizer NAME:` with its sections"
        raise SpecError(source, [Diagnostic("empty-file", "the file holds no spec", Span(0, 1), hint)])
    read = _tree(source, scanned, diagnostics)
    if read is not None:
        file = _file(*read, scanned, diagnostics)
        if file is not None and not diagnostics:
            return file
    raise SpecError(source, diagnostics)


def _tree(source: Source, scanned: Scan, diagnostics: list[Diagnostic]) -> tuple[Tree[Token], str] | None:
    """Lark's tree of all lines that can be read, and the text it is of; None where too much is wrong.

    What cannot be read is added to `diagnostics`.
    """
    bad, dropped, lines = set(scanned.bad), set(scanned.dropped), scanned.lines
    budget = _MAX_REREAD
    while True:
        text = text_for_grammar(source, lines, bad, dropped)
        try:
            with _LOCK:
                return _lark().parse(text), text
        except DedentError:  # leaving lines out has broken the blocks around them: say what is known so far
            return None
        except UnexpectedInput as error:
            kept = [number for number in range(len(lines)) if number not in dropped]
            at = _place(error, len(text))
            number = kept[max(0, bisect_right([lines[number].start for number in kept], at) - 1)]
            if number in bad:  # a placeholder where no line may stand: its reason is already noted
                dropped.add(number)
            else:
                line = lines[number]
                place = sum(token.end <= at for token in line.tokens)
                diagnostics.append(mistakes.explain(mistakes.Stop(line, place, _expected(error))))
                bad.add(number)
            dropped |= block_of(lines, number)
        budget -= len(text)
        if len(diagnostics) >= MAX_SHOWN or budget < 0:
            return None


def _file(tree: Tree[Token], text: str, scanned: Scan, diagnostics: list[Diagnostic]) -> nodes.File | None:
    """The nodes, made from the leaves up without recursion, so that no depth of nesting can break it."""
    builder = Builder(diagnostics)
    built: dict[int, Any] = {}
    for part in tree.iter_subtrees():
        children = [built[id(child)] if isinstance(child, Tree) else child for child in part.children]
        if part is tree:
            return builder.file(children, scanned.comments)
        end = part.meta.end_pos
        while text[end - 1] in " \n":  # the newlines that end a line belong to no node
            end -= 1
        built[id(part)] = builder.build(str(part.data), children, Span(part.meta.start_pos, end))
    return None


def _place(error: UnexpectedInput, end: int) -> int:
    if isinstance(error, UnexpectedToken):
        start = error.token.start_pos
        return end if start is None or error.token.type == "$END" else start
    return end if error.pos_in_stream is None else error.pos_in_stream


def _expected(error: UnexpectedInput) -> frozenset[str]:
    if isinstance(error, UnexpectedToken):
        return frozenset(error.expected)
    return frozenset(error.allowed or ()) if isinstance(error, UnexpectedCharacters) else frozenset()


class _Blocks(Indenter):
    NL_type = "_NL"
    OPEN_PAREN_types: list[str] = []  # noqa: RUF012  # as lark declares it; the scan has made newlines in brackets spaces
    CLOSE_PAREN_types: list[str] = []  # noqa: RUF012
    INDENT_type = "_INDENT"
    DEDENT_type = "_DEDENT"
    tab_len = 4


@cache
def _lark() -> Lark:
    """The parser. Its tables are built once in a process: a cache on disk would be a pickle that others might write."""
    grammar = Path(__file__).with_name("grammar.lark").read_text(encoding="utf-8")
    return Lark(
        grammar, parser="lalr", lexer="contextual", postlex=_Blocks(), propagate_positions=True, maybe_placeholders=False
    )
