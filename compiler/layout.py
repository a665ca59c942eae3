"""How generated Python is laid out: comment rules, tuples and calls over as many lines as they need, and its imports.

Lines end at `WIDTH` where that needs no more than a line break between items. A line of the spec stays one line of code.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

WIDTH = 120
_STEP = 4
_GLUE = "\0"


@dataclass(frozen=True, slots=True)
class Call:
    """A call to lay out: what stands before the bracket, and its arguments; with nothing before the bracket, a tuple."""

    head: str
    arguments: tuple[str | Call, ...]

    def __str__(self) -> str:
        return f"{self.head}({', '.join(map(str, self.arguments))})"


def laid_out(call: str | Call, indent: int) -> str:
    """On one line while it fits after `indent` spaces; else all arguments on a line of their own, or one a line."""
    line = str(call)
    if isinstance(call, str) or indent + len(line) < WIDTH:
        return line
    inner = indent + _STEP
    joined = ", ".join(map(str, call.arguments))
    if inner + len(joined) <= WIDTH:
        return f"{call.head}(\n{' ' * inner}{joined}\n{' ' * indent})"
    return call.head + rows([laid_out(a, inner) for a in call.arguments], indent)


def rule(title: str) -> str:
    """A comment line that opens a part of the file."""
    return f"# --- {title} ".ljust(WIDTH, "-")


def rows(items: Iterable[str], indent: int, brackets: str = "()") -> str:
    """A tuple, dict or call with one item a line; nothing in it, nothing between the brackets."""
    inner = "".join(f"\n{' ' * (indent + _STEP)}{item}," for item in items)
    return f"{brackets[0]}{inner}\n{' ' * indent}{brackets[1]}" if inner else brackets


def names(items: tuple[str, ...]) -> str:
    """A tuple of strings, on one line."""
    return "(" + ", ".join(f'"{n}"' for n in items) + ("," if len(items) == 1 else "") + ")"


def long_names(items: tuple[str, ...], indent: int) -> str:
    """A tuple of strings, on one line while it fits."""
    line = names(items)
    return line if indent + len(line) < WIDTH - 14 else rows([f'"{n}"' for n in items], indent)


def filled(items: Iterable[str], indent: int) -> list[str]:
    """Items with a comma after each, on as few lines as hold them after `indent` spaces; no item is broken."""
    text = " ".join(f"{item},".replace(" ", _GLUE) for item in items)
    lines = textwrap.wrap(text, WIDTH - indent, break_long_words=False, break_on_hyphens=False)
    return [line.replace(_GLUE, " ") for line in lines]


def without_unused_imports(body: str) -> str:
    """Drop the imports that the code does not use; what texts and comments speak of does not count."""
    tree = ast.parse(body)
    used = {name for node in tree.body for name in _names_of(node)}
    lines: list[str | None] = [*body.split("\n")]
    for node in tree.body:
        if isinstance(node, ast.Import):
            head = "import"
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            head = f"from {node.module} import"
        else:
            continue
        kept = [alias.name for alias in node.names if alias.name in used]
        lines[node.lineno - 1] = f"{head} {', '.join(kept)}" if kept else None
    return "\n".join(line for line in lines if line is not None)


def _names_of(part: ast.stmt) -> set[str]:
    """The names that a statement of a module speaks of; what a function calls its arguments is its own."""
    names = {node.id for node in ast.walk(part) if isinstance(node, ast.Name)}
    return names - {argument.arg for argument in part.args.args} if isinstance(part, ast.FunctionDef) else names


def without_unused_names(body: str) -> str:
    """Drop the lines of Triton functions that give a name a value which nothing reads: what one needs, another may not."""
    while True:
        lines = body.split("\n")
        functions = [node for node in ast.parse(body).body if isinstance(node, ast.FunctionDef) and node.decorator_list]
        unread = [node for function in functions for node in _unread(function)]
        if not unread:
            return body
        dropped = {number for node in unread for number in range(node.lineno - 1, (node.end_lineno or node.lineno))}
        body = "\n".join(line for number, line in enumerate(lines) if number not in dropped)


def _unread(function: ast.FunctionDef) -> Iterator[ast.Assign]:
    """Assignments to names that the function never reads, as far as others stand beside them in their block."""
    read = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    for parent in ast.walk(function):
        for block in (getattr(parent, "body", None), getattr(parent, "orelse", None)):
            if not isinstance(block, list) or len(block) < 2:
                continue
            names = [
                s for s in block if isinstance(s, ast.Assign) and len(s.targets) == 1 and isinstance(s.targets[0], ast.Name)
            ]
            yield from [s for s in names if isinstance(s.targets[0], ast.Name) and s.targets[0].id not in read][
                : len(block) - 1
            ]
