"""The lines of a spec as Triton: per element in a pass over memory, per tensor in a stage between passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from optc.compiler.backends.host import line_comment
from optc.compiler.backends.triton import flow
from optc.compiler.backends.triton.spelling import Spelling
from optc.compiler.conditions import FALSE
from optc.compiler.ir import reads, statements
from optc.dsl.kinds import Sort
from optc.dsl.program import REDUCTIONS, TRUE, Apply, Branch, Expression, Let, Statement, Store
from optc.dsl.source import Source

INDENT = "    "
COMBINED = {"sum": "sum", "mean": "sum", "largest": "largest", "smallest": "smallest"}
"""What is kept of elements for each reduction: `gpu.{…}_with` takes a block in, `gpu.{…}_of` makes one number of all lanes."""
NEUTRAL = {"sum": "0.0", "mean": "0.0", "largest": '-float("inf")', "smallest": 'float("inf")'}
"""What is kept of no elements."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Prints a body.

    `elementwise`: the names that hold a block; `shape`: the text of its shape, for scalars that must become one. `real` is the
    dtype of the arithmetic as the scope calls it.
    """

    body: tuple[Statement, ...]
    elementwise: frozenset[str]
    shape: str
    real: str
    spelling: Spelling
    static_flags: tuple[str, ...]
    source: Source

    def printed(self, bound: set[str]) -> Iterator[str]:
        """The lines. `bound`: the names that have a value before; those that have one afterwards are added."""
        yield from self._block(self.body, bound, "", inside=False)

    def kind(self, target: str) -> str:
        """The dtype of what the body binds to a name."""
        for statement in statements(self.body):
            if isinstance(statement, Let | Store) and statement.target.name == target:
                return "tl.int1" if statement.value.type.sort is Sort.BOOL else self.real
        return self.real

    def zero(self, target: str) -> str:
        """A first value for a name that some path does not bind."""
        kind = self.kind(target)
        text = "False" if kind == "tl.int1" else "0.0"
        return self.spread(text, kind) if target in self.elementwise else f"tl.full((), {text}, {kind})"

    def spread(self, text: str, kind: str) -> str:
        """A scalar as a block."""
        return f"tl.full({self.shape}, {text}, {kind})"

    def spread_out(self, text: str) -> str:
        """A value as a block, whatever it is."""
        return f"tl.broadcast_to({text}, {self.shape})"

    def when(self, condition: Expression, line: str) -> Iterator[str]:
        """A line that runs under a condition over flags."""
        if condition == FALSE:
            return
        if condition == TRUE:
            yield line
            return
        yield f"if {self.spelling.condition(condition)}:"
        yield INDENT + line

    def _block(self, body: tuple[Statement, ...], bound: set[str], indent: str, inside: bool) -> Iterator[str]:
        for statement in body:
            comment = line_comment(statement, self.source)
            match statement:
                case Let(target=target, value=value) | Store(target=target, value=value):
                    name = self.spelling.spell(target.name)
                    yield f"{indent}{name} = {self._value(target.name, value, inside)}{comment}"
                    bound.add(target.name)
                case Branch(condition=condition, then=then, otherwise=otherwise):
                    dynamic = flow.reads_host_flags(condition, self.static_flags)
                    if dynamic:
                        for missing in self._half_bound(statement, bound):
                            yield f"{indent}{self.spelling.spell(missing)} = {self.zero(missing)}"
                            bound.add(missing)
                    yield f"{indent}if {self.spelling.condition(condition)}:{comment}"
                    first, second = set(bound), set(bound)
                    yield from self._branch(then, first, indent, inside or dynamic)
                    if otherwise:
                        yield f"{indent}else:"
                        yield from self._branch(otherwise, second, indent, inside or dynamic)
                    bound |= first & second

    def _branch(self, body: tuple[Statement, ...], bound: set[str], indent: str, inside: bool) -> Iterator[str]:
        if body:
            yield from self._block(body, bound, indent + INDENT, inside)
        else:
            yield f"{indent}{INDENT}pass"

    def _value(self, target: str, value: Expression, inside: bool) -> str:
        if isinstance(value, Apply) and value.operation in REDUCTIONS:
            total, x = self.spelling.spell(target), self.spelling.value(value.arguments[0])
            if not flow.is_elementwise(value.arguments[0], self.elementwise):
                x = f"tl.full((), {x}, {self.real})"
            return f"gpu.{COMBINED[value.operation]}_with({total}, {x}, mask)"
        text = self.spelling.value(value)
        if flow.is_elementwise(value, self.elementwise):
            return text
        kind = "tl.int1" if value.type.sort is Sort.BOOL else self.real
        if target in self.elementwise:
            return self.spread(text, kind)
        constant = next(reads(value), None) is None
        return f"tl.full((), {text}, {kind})" if inside or constant else text

    def _half_bound(self, branch: Branch, bound: set[str]) -> list[str]:
        """Names that only one path through the branch binds and that are read outside of it."""
        always, ever = flow.bound_by((branch,))
        everywhere, within = flow.count_reads(self.body), flow.count_reads((branch,))
        return sorted(n for n in ever - always - bound if everywhere[n] > within[n])
