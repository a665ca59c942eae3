"""What stands around a body: constants and pointers before its loop, loads and stores in it, the choice of an instance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optc.compiler.backends.native.flow import bound_in, names_in
from optc.compiler.backends.native.kept import row_type
from optc.compiler.backends.native.lines import Lines, Names
from optc.compiler.conditions import FALSE, both, written_when
from optc.compiler.ir import expressions, walk
from optc.compiler.plan import Kernel, Stream
from optc.dsl.kinds import Extent
from optc.dsl.program import ELEMENT, TRUE, Apply, Expression, Read, Role, Statement, Symbol
from optc.dsl.storages import REST

_ROW_TYPES = {Role.THETA: "param_t", Role.GRADIENT: "grad_t", Role.STATE: "state_t", Role.INPUT: "input_t"}


@dataclass(frozen=True, slots=True)
class Streams:
    """The streams of some code, by their rows in the table of pointers, and the code, whose names are `names`.

    Numbers (one float64 per tensor) are loaded and stored by code per tensor alone, everything else by code per element.
    `place` is the present element; that of picked ones is `i`, and `all_picked` says whether these are all. What is kept as
    codes has its pointers elsewhere (`kept.py`), unless `in_pieces` is off: then it is read as plain numbers. Those that are
    `buffered` have theirs elsewhere, too (`buffered.py`), and lie at `from + i`.
    """

    names: Names
    lines: Lines
    rows: Mapping[int, Stream]
    body: tuple[Statement, ...]
    place: str = "i"
    all_picked: str = ""
    in_pieces: bool = True
    buffered: frozenset[str] = frozenset()

    def pointers(self) -> list[str]:
        """A constant or variable row per stream."""
        plain = [(row, s) for row, s in self.rows.items() if s.coded is None or not self.in_pieces]
        streams = [(row, s) for row, s in plain if s.name not in self.buffered]
        return [self._pointer(row, s, written_when(self.body, s.name)) for row, s in streams]

    def loads(self) -> list[str]:
        """A variable per stream; what θ lacks is read with it."""
        streams = (s for s in self.rows.values() if s.role is not Role.REST)
        if ELEMENT.name not in names_in(self.body):  # where numbers are drawn before the loop
            streams = (s for s in streams if s.role is not Role.ELEMENT)
        return [self._load(s, written_when(self.body, s.name)) for s in streams]

    def stores(self) -> list[str]:
        """What the body wrote goes to memory."""
        lines = [self._store(s, written_when(self.body, s.name)) for s in self.rows.values()]
        return [line for line in lines if line]

    def _pointer(self, row: int, stream: Stream, written: Expression) -> str:
        const = "const " if written == FALSE else ""
        name = self.names.beside(stream.name, "at")
        if stream.extent is Extent.TENSOR:
            return f"{const}double* {name} = tensor.number({row});"
        if stream.role is Role.ELEMENT:
            return f"const Elements {name}(chunk, {row});"
        if stream.role is Role.REST:
            kind = f"{stream.pair}::rest_t"
            return f"{'' if stream.writes else 'const '}{kind}* __restrict {name} = chunk.row<{kind}>({row});"
        kind = row_type(stream, _ROW_TYPES[stream.role])
        where = f"picked<{kind}>({row}, {self.all_picked})" if stream.extent is Extent.PICK else f"row<{kind}>({row})"
        return f"{const}{kind}* __restrict {name} = chunk.{where};"

    def _load(self, stream: Stream, written: Expression) -> str:
        """A written stream is loaded too where it may be read first or keep its value."""
        name = self.names(Symbol(stream.role, stream.name))
        at = self.names.beside(stream.name, "at")
        if stream.role is Role.ELEMENT:
            return f"const uint64_t {name} = {at}({self.place});"
        real, value = ("math_t", f"load({at}[{self._place(stream)}])")
        if stream.pair is not None:
            value = f"joined<{stream.pair}>({at}, {self.names.beside(REST, 'at')}, {self._place(stream)})"
        if stream.extent is Extent.TENSOR:
            real, value = ("double", f"*{at}")
        if not stream.reads and written == TRUE:
            return f"{real} {name};"
        if stream.role is Role.GRADIENT:
            value += "*gradient_factor"
        if stream.exists != TRUE:
            value = f"{self.lines.expression(stream.exists, 11)} ? {value} : {real}(0)"
        const = "" if written != FALSE or bound_in(self.body, stream.name) else "const "
        return f"{const}{real} {name} = {value};"

    def _place(self, stream: Stream) -> str:
        if stream.name in self.buffered:
            return "from + i"
        return "i" if stream.extent is Extent.PICK else self.place

    def _store(self, stream: Stream, written: Expression) -> str:
        if written == FALSE or stream.role is Role.REST:
            return ""
        at, name = self.names.beside(stream.name, "at"), self.names(Symbol(stream.role, stream.name))
        call = f"*{at} = {name};" if stream.extent is Extent.TENSOR else f"store({at}[{self._place(stream)}], {name});"
        if stream.pair is not None:
            rest = self.names.beside(REST, "at")
            call = f"split_into<{stream.pair}>({at}, {rest}, {self._place(stream)}, {name});"
        guard = both(stream.exists, written)
        return call if guard == TRUE else f"if ({self.lines.expression(guard)}) {call}"


def static_flags(kernel: Kernel, names: Names) -> list[str]:
    """What the macro OPTC_VARIANT says."""
    return [f"constexpr bool {names.flag(f)} = OPTC_VARIANT >> {at} & 1;" for at, f in enumerate(kernel.static_flags)]


MOST_FLAGS = 4
"""Host flags with a compiled loop for either value; further ones are tested in the loop (each doubles the compile time)."""


@dataclass(frozen=True, slots=True)
class Instances:
    """What a loop over elements is compiled for in several instances: the values of host flags, the kind of its exponents.

    An exponent that is the same for all elements, like p in `v^p` for a hyper p, is known before the loop, and ½ is but a root.
    """

    flags: tuple[str, ...]
    exponents: tuple[str, ...]  # scalars

    @staticmethod
    def of(body: tuple[Statement, ...], flags: Sequence[str]) -> Instances:
        """Those of a body that tests these flags. The kinds of exponents are four: as many as the values of two flags."""
        found = dict.fromkeys(s for e in expressions(body) for part in walk(e) if (s := _exponent(part)) is not None)
        return Instances(tuple(flags[: MOST_FLAGS - (2 if found else 0)]), tuple(found))

    def __bool__(self) -> bool:
        return bool(self.flags or self.exponents)

    def template(self, names: Names) -> str:
        """The head of the function."""
        kinds = ["Power kind"] if self.exponents else []
        return f"template <{', '.join([*kinds, *(f'bool {names.flag(f)}' for f in self.flags)])}>" if self else ""

    def selection(self, kernel: Kernel, function: str, kind: str) -> list[str]:
        """Lines that return the instance for this call's scalars and host flags."""
        lines = [f"static constexpr {kind} instances[] = {{"]
        for power in (f"Power::{p}" for p in _POWERS) if self.exponents else ("",):
            for index in range(1 << len(self.flags)):
                values = ["true" if index >> bit & 1 else "false" for bit in range(len(self.flags))]
                lines.append(f"    {function}<{', '.join([power, *values] if power else values)}>,")
        bits = [f"flags[{kernel.host_flags.index(f)}] << {bit}" for bit, f in enumerate(self.flags)]
        if self.exponents:
            exponents = ", ".join(f"scalars[{kernel.scalars.index(e)}]" for e in self.exponents)
            bits.append(f"int(kind_of({exponents})) << {len(self.flags)}")
        return [*lines, "};", f"return instances[{' | '.join(bits)}];"]


_POWERS = ("any", "one", "half", "root")
"""In the order of `Power` in `elementary.hpp`."""


def _exponent(expression: Expression) -> str | None:
    """The scalar that a power per element is raised to."""
    match expression:
        case Apply(operation="pow", arguments=(_, Read(symbol=Symbol(role=Role.SCALAR, name=name)))):
            return name
    return None


def flag_constants(kernel: Kernel, names: Names, flags: Iterable[str]) -> list[str]:
    """Host flags that are tested when the code runs."""
    return [f"const bool {names.flag(f)} = flags[{kernel.host_flags.index(f)}] != 0;" for f in flags]


def scalar_constants(
    kernel: Kernel, names: Names, scalars: Iterable[str], real: str = "math_t", exponents: Sequence[str] = ()
) -> list[str]:
    """Scalars; those of code per element are rounded once. `exponents` are those whose kind the function's instance knows."""
    lines = []
    for scalar in scalars:
        value = f"scalars[{kernel.scalars.index(scalar)}]"
        name = names(Symbol(Role.SCALAR, scalar))
        if scalar in exponents:
            lines.append(f"const Exponent<kind> {name}({value});")
        else:
            lines.append(f"const {real} {name} = {value if real == 'double' else f'{real}({value})'};")
    return lines
