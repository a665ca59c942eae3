"""What stands around a body: constants and pointers before its loop, loads and stores in it, the choice of an instance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optc.compiler.backends.native.flow import bound_in
from optc.compiler.backends.native.lines import Lines, Names
from optc.compiler.conditions import FALSE, both, written_when
from optc.compiler.plan import Kernel, Stream
from optc.dsl.kinds import Extent
from optc.dsl.program import TRUE, Expression, Role, Statement, Symbol

_ROW_TYPES = {Role.THETA: "param_t", Role.GRADIENT: "grad_t", Role.STATE: "state_t", Role.INPUT: "input_t"}


@dataclass(frozen=True, slots=True)
class Streams:
    """The streams of some code, by their rows in the table of pointers, and the code, whose names are `names`.

    Numbers (one float64 per tensor) are loaded and stored by code per tensor alone, everything else by code per element.
    `place` is the present element; that of picked ones is `i`, and `all_picked` says whether these are all.
    """

    names: Names
    lines: Lines
    rows: Mapping[int, Stream]
    body: tuple[Statement, ...]
    place: str = "i"
    all_picked: str = ""

    def pointers(self) -> list[str]:
        """A constant or variable row per stream."""
        return [self._pointer(row, s, written_when(self.body, s.name)) for row, s in self.rows.items()]

    def loads(self) -> list[str]:
        """A variable per stream."""
        return [self._load(s, written_when(self.body, s.name)) for s in self.rows.values()]

    def stores(self) -> list[str]:
        """What the body wrote goes to memory."""
        lines = [self._store(s, written_when(self.body, s.name)) for s in self.rows.values()]
        return [line for line in lines if line]

    def _pointer(self, row: int, stream: Stream, written: Expression) -> str:
        const = "const " if written == FALSE else ""
        name = self.names.beside(stream.name, "at")
        if stream.extent is Extent.TENSOR:
            return f"{const}double* {name} = tensor.number({row});"
        kind = _ROW_TYPES[stream.role]
        where = f"picked<{kind}>({row}, {self.all_picked})" if stream.extent is Extent.PICK else f"row<{kind}>({row})"
        return f"{const}{kind}* __restrict {name} = chunk.{where};"

    def _load(self, stream: Stream, written: Expression) -> str:
        """A written stream is loaded too where it may be read first or keep its value."""
        name = self.names(Symbol(stream.role, stream.name))
        at = self.names.beside(stream.name, "at")
        real, value = (
            ("double", f"*{at}") if stream.extent is Extent.TENSOR else ("math_t", f"load({at}[{self._place(stream)}])")
        )
        if not stream.reads and written == TRUE:
            return f"{real} {name};"
        if stream.role is Role.GRADIENT:
            value += "*gradient_factor"
        if stream.exists != TRUE:
            value = f"{self.lines.expression(stream.exists, 11)} ? {value} : {real}(0)"
        const = "" if written != FALSE or bound_in(self.body, stream.name) else "const "
        return f"{const}{real} {name} = {value};"

    def _place(self, stream: Stream) -> str:
        return "i" if stream.extent is Extent.PICK else self.place

    def _store(self, stream: Stream, written: Expression) -> str:
        if written == FALSE:
            return ""
        at, name = self.names.beside(stream.name, "at"), self.names(Symbol(stream.role, stream.name))
        call = f"*{at} = {name};" if stream.extent is Extent.TENSOR else f"store({at}[{self._place(stream)}], {name});"
        guard = both(stream.exists, written)
        return call if guard == TRUE else f"if ({self.lines.expression(guard)}) {call}"


def static_flags(kernel: Kernel, names: Names) -> list[str]:
    """What the macro OPTC_VARIANT says."""
    return [f"constexpr bool {names.flag(f)} = OPTC_VARIANT >> {at} & 1;" for at, f in enumerate(kernel.static_flags)]


def flag_constants(kernel: Kernel, names: Names, flags: Iterable[str]) -> list[str]:
    """Host flags that are tested when the code runs."""
    return [f"const bool {names.flag(f)} = flags[{kernel.host_flags.index(f)}] != 0;" for f in flags]


def scalar_constants(kernel: Kernel, names: Names, scalars: Iterable[str], real: str = "math_t") -> list[str]:
    """Scalars; those of code per element are rounded once."""
    lines = []
    for scalar in scalars:
        value = f"scalars[{kernel.scalars.index(scalar)}]"
        value = value if real == "double" else f"{real}({value})"
        lines.append(f"const {real} {names(Symbol(Role.SCALAR, scalar))} = {value};")
    return lines


def template_of(names: Names, templated: Sequence[str]) -> str:
    """The head of a function with an instance for either value of these flags."""
    return f"template <{', '.join(f'bool {names.flag(f)}' for f in templated)}>" if templated else ""


def instance_of(kernel: Kernel, function: str, kind: str, templated: Sequence[str]) -> list[str]:
    """Lines that return the instance for this call's host flags."""
    lines = [f"static constexpr {kind} instances[] = {{"]
    for index in range(1 << len(templated)):
        values = ", ".join("true" if index >> bit & 1 else "false" for bit in range(len(templated)))
        lines.append(f"    {function}<{values}>,")
    index_text = " | ".join(f"flags[{kernel.host_flags.index(f)}] << {bit}" for bit, f in enumerate(templated))
    return [*lines, "};", f"return instances[{index_text}];"]
