"""The body of a kernel: load, the spec's lines, store, for one block of elements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from optc.compiler.backends.host import line_comment
from optc.compiler.backends.triton import flow
from optc.compiler.backends.triton.spelling import Spelling
from optc.compiler.ir import reads, statements
from optc.compiler.plan import Kernel
from optc.dsl.kinds import Sort
from optc.dsl.program import GRADIENT, TRUE, Branch, Expression, Let, Statement, Store
from optc.dsl.source import Source

INDENT = "    "


@dataclass(frozen=True, slots=True)
class Tile:
    """Prints one kernel's body; `pointer[stream]` is the block of addresses a stream is read from and written to."""

    kernel: Kernel
    spelling: Spelling
    pointer: dict[str, str]
    source: Source

    def lines(self) -> Iterator[str]:
        """Loads, statements, stores."""
        kernel = self.kernel
        elementwise = flow.elementwise_names(kernel.body, (s.name for s in kernel.streams))
        bound: set[str] = set()
        for stream in kernel.streams:
            address = self.pointer[stream.name]
            written = flow.written_when(kernel.body, stream.name)
            variable = self._variable(stream.name)
            if stream.reads:
                scale = " * factor" if stream.name == GRADIENT.name else ""
                yield from self._when(stream.exists, f"{variable} = tl.load({address}, mask).to(real){scale}")
                bound.add(stream.name)
            elif flow.reads_host_flags(written, kernel.static_flags):
                yield f"{variable} = {self._spread('0.0', 'real')}"
                bound.add(stream.name)
        yield from self._block(kernel.body, elementwise, bound, "", inside=False)
        for stream in kernel.streams:
            if stream.writes:
                when = flow.both(stream.exists, flow.written_when(kernel.body, stream.name))
                yield from self._when(when, f"tl.store({self.pointer[stream.name]}, {self._variable(stream.name)}, mask)")

    def _block(
        self, body: tuple[Statement, ...], elementwise: frozenset[str], bound: set[str], indent: str, inside: bool
    ) -> Iterator[str]:
        for statement in body:
            comment = line_comment(statement, self.source)
            match statement:
                case Let(target=target, value=value) | Store(target=target, value=value):
                    text = self._value(target.name, value, elementwise, inside)
                    yield f"{indent}{self._variable(target.name)} = {text}{comment}"
                    bound.add(target.name)
                case Branch(condition=condition, then=then, otherwise=otherwise):
                    dynamic = flow.reads_host_flags(condition, self.kernel.static_flags)
                    if dynamic:
                        for missing in self._half_bound(statement, bound):
                            kind = self._kind(missing)
                            zero = "False" if kind == "tl.int1" else "0.0"
                            text = self._spread(zero, kind) if missing in elementwise else f"tl.full((), {zero}, {kind})"
                            yield f"{indent}{self._variable(missing)} = {text}"
                            bound.add(missing)
                    yield f"{indent}if {self.spelling.condition(condition)}:{comment}"
                    first, second = set(bound), set(bound)
                    yield from self._branch(then, elementwise, first, indent, inside or dynamic)
                    if otherwise:
                        yield f"{indent}else:"
                        yield from self._branch(otherwise, elementwise, second, indent, inside or dynamic)
                    bound |= first & second

    def _branch(
        self, body: tuple[Statement, ...], elementwise: frozenset[str], bound: set[str], indent: str, inside: bool
    ) -> Iterator[str]:
        if body:
            yield from self._block(body, elementwise, bound, indent + INDENT, inside)
        else:
            yield f"{indent}{INDENT}pass"

    def _value(self, target: str, value: Expression, elementwise: frozenset[str], inside: bool) -> str:
        text = self.spelling.value(value)
        if flow.is_elementwise(value, elementwise):
            return text
        kind = "tl.int1" if value.type.sort is Sort.BOOL else "real"
        if target in elementwise:
            return self._spread(text, kind)
        constant = next(reads(value), None) is None
        return f"tl.full((), {text}, {kind})" if inside or constant else text

    def _half_bound(self, branch: Branch, bound: set[str]) -> list[str]:
        """Names that only one path through the branch binds and that are read outside of it."""
        always, ever = flow.bound_by((branch,))
        everywhere, within = flow.count_reads(self.kernel.body), flow.count_reads((branch,))
        return sorted(n for n in ever - always - bound if everywhere[n] > within[n])

    def _kind(self, target: str) -> str:
        for statement in statements(self.kernel.body):
            if isinstance(statement, Let | Store) and statement.target.name == target:
                return "tl.int1" if statement.value.type.sort is Sort.BOOL else "real"
        return "real"

    def _variable(self, name: str) -> str:
        return self.spelling.spell(name)

    def _spread(self, text: str, kind: str) -> str:
        first = self.pointer[self.kernel.streams[0].name]
        return f"tl.full({first}.shape, {text}, {kind})"

    def _when(self, condition: Expression, line: str) -> Iterator[str]:
        if condition == flow.FALSE:
            return
        if condition == TRUE:
            yield line
            return
        yield f"if {self.spelling.condition(condition)}:"
        yield INDENT + line
