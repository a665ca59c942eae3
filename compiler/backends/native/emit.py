"""Plan kernel → C++17 text: one function over a contiguous range of elements, one line per statement of the spec.

The text needs `runtime/prelude.hpp` before it and one macro, `OPTC_VARIANT`, the static flags as bits in the order of
`kernel.static_flags`. Loads stand at the top of the loop, stores at its end; what a variant does not need is removed by the
C++ compiler, and streams that it lacks are never dereferenced.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import jinja2

from optc.compiler.backends.exprs import Dialect, print_expression
from optc.compiler.backends.names import CPP, Namer
from optc.compiler.layout import WIDTH
from optc.compiler.plan import Kernel, Stream
from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.program import TRUE, Apply, Branch, Expression, Let, Read, Role, Statement, Store, Symbol
from optc.dsl.source import NOWHERE, Source, Span

_PRELUDE = """load store where square cube sqrt abs floor sign min max mod half_power exp log sin cos tanh pow atan2
bits_of float_of infinity not_a_number is_double first_chunk select_update update optc optc_run optc_key fp32 fp64 bf16 fp16
param_t grad_t state_t input_t math_t Chunk Update CHUNK_COST chunk scalars flags factor gradient_factor i
int32_t int64_t uint8_t uint16_t uint32_t"""
PRELUDE_NAMES = frozenset(_PRELUDE.split())
"""What the text means something else by; a spec's name among these gets a `_`."""

MAX_TEMPLATE_FLAGS = 4
"""Host flags with a compiled loop for either value; further ones are tested in the loop (each doubles the compile time)."""

_ROW_TYPES = {Role.THETA: "param_t", Role.GRADIENT: "grad_t", Role.STATE: "state_t", Role.INPUT: "input_t"}
_HOST_BOOL = Type(Sort.BOOL, Extent.TENSOR, host=True)
_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,
)


def emit_kernel(kernel: Kernel, source: Source) -> str:
    """The C++ text of one kernel of a plan; `source` is the spec that its line numbers refer to."""
    return _Emitter(kernel, source).text()


class _Emitter:
    """Prints one kernel. Holds the names and the dialect that all its lines share."""

    def __init__(self, kernel: Kernel, source: Source) -> None:
        self._kernel = kernel
        self._source = source
        self._namer = Namer(CPP | PRELUDE_NAMES)
        self._names: dict[Symbol, str] = {}
        self._pointers: dict[str, str] = {}
        for flag in (*kernel.static_flags, *kernel.host_flags):
            self._name(Symbol(Role.FLAG, flag))
        for scalar in kernel.scalars:
            self._name(Symbol(Role.SCALAR, scalar))
        for stream in kernel.streams:
            self._name(Symbol(stream.role, stream.name))
        for stream in kernel.streams:
            self._pointers[stream.name] = self._free(f"{stream.name}_at")
        self._dialect = Dialect(
            call=_CALLS,
            name=self._name,
            number=_number,
            boolean=lambda value: "true" if value else "false",
            logic={"and": ("&&", 20), "or": ("||", 10), "not": ("!", 80)},
        )

    def text(self) -> str:
        """The whole file."""
        kernel = self._kernel
        written = {s.name: _written_when(kernel.body, s.name) for s in kernel.streams}
        templated = kernel.host_flags[:MAX_TEMPLATE_FLAGS]
        return _ENVIRONMENT.get_template("kernel.cpp.j2").render(
            title=textwrap.wrap(f"Kernel `{kernel.name}`: {_streams_in_words(kernel.streams)}.", WIDTH - len("// ")),
            variant=[f"constexpr bool {self._flag(f)} = OPTC_VARIANT >> {at} & 1;" for at, f in enumerate(kernel.static_flags)],
            template=f"template <{', '.join(f'bool {self._flag(f)}' for f in templated)}>" if templated else "",
            constants=self._constants(),
            pointers=[self._pointer(row, s, written[s.name]) for row, s in enumerate(kernel.streams)],
            loads=[line for s in kernel.streams for line in self._load(s, written[s.name])],
            body=self._block(kernel.body, frozenset(), frozenset()),
            stores=[line for s in kernel.streams for line in self._store(s, written[s.name])],
            selection=self._selection(templated),
        )

    def _name(self, symbol: Symbol) -> str:
        """The spec's name; two symbols of one name are kept apart by a `_`."""
        if symbol not in self._names:
            self._names[symbol] = self._free(symbol.name)
        return self._names[symbol]

    def _free(self, wish: str) -> str:
        while (name := self._namer(wish)) in (*self._names.values(), *self._pointers.values()):
            wish += "_"
        return name

    def _flag(self, name: str) -> str:
        return self._name(Symbol(Role.FLAG, name))

    def _print(self, expression: Expression) -> str:
        return print_expression(expression, self._dialect)

    # --- around the body ---

    def _constants(self) -> list[str]:
        """What is the same for all elements: flags beyond the template's, and scalars, rounded once."""
        flags = enumerate(self._kernel.host_flags[MAX_TEMPLATE_FLAGS:], MAX_TEMPLATE_FLAGS)
        lines = [f"const bool {self._flag(f)} = flags[{at}] != 0;" for at, f in flags]
        for at, scalar in enumerate(self._kernel.scalars):
            lines.append(f"const math_t {self._name(Symbol(Role.SCALAR, scalar))} = math_t(scalars[{at}]);")
        if any(s.role is Role.GRADIENT for s in self._kernel.streams):
            lines.append("const math_t gradient_factor = math_t(factor);")
        return lines

    def _pointer(self, row: int, stream: Stream, written: Expression | None) -> str:
        kind = _ROW_TYPES[stream.role]
        const = "const " if written is None else ""
        return f"{const}{kind}* __restrict {self._pointers[stream.name]} = chunk.row<{kind}>({row});"

    def _load(self, stream: Stream, written: Expression | None) -> list[str]:
        """The variable of a stream. A written stream is loaded too where it may be read first or keep its value."""
        name = self._name(Symbol(stream.role, stream.name))
        if not stream.reads and written == TRUE:
            return [f"math_t {name};"]
        value = f"load({self._pointers[stream.name]}[i])"
        if stream.role is Role.GRADIENT:
            value += "*gradient_factor"
        if stream.exists != TRUE:
            value = f"{print_expression(stream.exists, self._dialect, 11)} ? {value} : math_t(0)"
        const = "" if written is not None or _bound_in(self._kernel.body, stream.name) else "const "
        return [f"{const}math_t {name} = {value};"]

    def _store(self, stream: Stream, written: Expression | None) -> list[str]:
        if written is None:
            return []
        call = f"store({self._pointers[stream.name]}[i], {self._name(Symbol(stream.role, stream.name))});"
        guard = _both(stream.exists, written)
        return [call if guard == TRUE else f"if ({self._print(guard)}) {call}"]

    def _selection(self, templated: Sequence[str]) -> list[str]:
        """Picks the instance for this call's host flags."""
        if not templated:
            return ["(void)flags;", "return update;"]
        lines = ["static constexpr Update instances[] = {"]
        for index in range(1 << len(templated)):
            values = ", ".join("true" if index >> bit & 1 else "false" for bit in range(len(templated)))
            lines.append(f"    update<{values}>,")
        index_text = " | ".join(f"flags[{bit}] << {bit}" for bit in range(len(templated)))
        return [*lines, "};", f"return instances[{index_text}];"]

    # --- the body ---

    def _block(self, statements: Sequence[Statement], declared: frozenset[str], outer: frozenset[str]) -> list[str]:
        """Lines of a block. `declared`: locals declared around it; `outer`: names that occur after it."""
        lines: list[str] = []
        for at, statement in enumerate(statements):
            later = frozenset(_names_in(statements[at + 1 :])) | outer
            match statement:
                case Let(target=Symbol(role=Role.LOCAL, name=name) as target, value=value) if name not in declared:
                    again = _bound_in(statements[at + 1 :], name)
                    head = f"{'' if again else 'const '}{_c_type(value.type)} {self._name(target)}"
                    lines.append(f"{head} = {self._print(value)};{self._line(statement.span)}")
                    declared |= {name}
                case Let(target=target, value=value) | Store(target=target, value=value):
                    lines.append(f"{self._name(target)} = {self._print(value)};{self._line(statement.span)}")
                case Branch():
                    kinds = _locals_bound((statement,))
                    for name in sorted((kinds.keys() & later) - declared):
                        lines.append(f"{kinds[name]} {self._name(Symbol(Role.LOCAL, name))};")
                        declared |= {name}
                    lines.extend(self._branch(statement, declared, later))
                case _:
                    raise TypeError(f"not a statement of a kernel: {statement!r}")
        return lines

    def _branch(self, branch: Branch, declared: frozenset[str], later: frozenset[str]) -> list[str]:
        lines = [f"if ({self._print(branch.condition)}) {{{self._line(branch.span)}"]
        lines += [f"    {line}" for line in self._block(branch.then, declared, later)]
        match branch.otherwise:
            case ():
                return [*lines, "}"]
            case (Branch() as only,):
                rest = self._branch(only, declared, later)
                return [*lines, f"}} else {rest[0]}", *rest[1:]]
        return [*lines, "} else {", *(f"    {line}" for line in self._block(branch.otherwise, declared, later)), "}"]

    def _line(self, span: Span) -> str:
        return "" if span == NOWHERE else f"  // {self._source.position(span.start)[0]}"


# --- spelling -----------------------------------------------------------------------------------------------------------------


def _number(value: float) -> str:
    """A literal in the arithmetic type, rounded once from double."""
    if math.isnan(value):
        return "not_a_number"
    if math.isinf(value):
        return "infinity" if value > 0 else "-infinity"
    whole = value == int(value) and abs(value) < 2**31 and repr(value) != "-0.0"
    return f"math_t({int(value) if whole else repr(value)})"


_POWERS = {_number(2): "square", _number(3): "cube", _number(0.5): "half_power"}
"""Exponents with an exact or shorter form; every other power is `pow`."""


def _pow(base: str, exponent: str) -> str:
    return f"{_POWERS[exponent]}({base})" if exponent in _POWERS else f"pow({base}, {exponent})"


def _call(function: str, *arguments: str) -> str:
    return f"{function}({', '.join(arguments)})"


_FUNCTIONS = ("sqrt", "exp", "log", "sin", "cos", "tanh", "abs", "sign", "floor", "mod", "min", "max", "atan2", "where")
_CALLS: Mapping[str, Callable[..., str]] = {
    **{name: partial(_call, name) for name in _FUNCTIONS},
    "pow": _pow,
}


def _c_type(kind: Type) -> str:
    return "bool" if kind.sort is Sort.BOOL else "math_t"


def _streams_in_words(streams: Iterable[Stream]) -> str:
    words = []
    for s in streams:
        words.append(f"{s.name} ({' and '.join(w for w, on in (('read', s.reads), ('written', s.writes)) if on)})")
    return ", ".join(words)


# --- what a body binds and reads ----------------------------------------------------------------------------------------------


def _locals_bound(statements: Sequence[Statement]) -> dict[str, str]:
    """Locals bound anywhere in the statements, with their C++ types."""
    found: dict[str, str] = {}
    for statement in statements:
        match statement:
            case Let(target=Symbol(role=Role.LOCAL, name=name), value=value):
                found[name] = _c_type(value.type)
            case Branch(then=then, otherwise=otherwise):
                found |= _locals_bound(then) | _locals_bound(otherwise)
    return found


def _bound_in(statements: Sequence[Statement], name: str) -> bool:
    """Whether `name` is given a value anywhere in the statements."""
    for statement in statements:
        match statement:
            case Let(target=target) | Store(target=target):
                if target.name == name:
                    return True
            case Branch(then=then, otherwise=otherwise):
                if _bound_in(then, name) or _bound_in(otherwise, name):
                    return True
    return False


def _names_in(statements: Sequence[Statement]) -> set[str]:
    """Every name that is read or bound in the statements."""
    names: set[str] = set()
    for statement in statements:
        match statement:
            case Let(target=target, value=value) | Store(target=target, value=value):
                names |= {target.name} | _reads(value)
            case Branch(condition=condition, then=then, otherwise=otherwise):
                names |= _reads(condition) | _names_in(then) | _names_in(otherwise)
    return names


def _reads(expression: Expression) -> set[str]:
    match expression:
        case Read(symbol=symbol):
            return {symbol.name}
        case Apply(arguments=arguments):
            return set().union(*(_reads(a) for a in arguments))
    return set()


def _written_when(statements: Sequence[Statement], name: str) -> Expression | None:
    """The condition, over flags, under which the statements store `name`; TRUE for always, None for never."""
    when: Expression | None = None
    for statement in statements:
        match statement:
            case Store(target=Symbol(name=target)) if target == name:
                return TRUE
            case Branch(condition=condition, then=then, otherwise=otherwise):
                yes, no = _written_when(then, name), _written_when(otherwise, name)
                if yes == TRUE and no == TRUE:
                    return TRUE
                if yes is not None:
                    when = _either(when, _both(condition, yes))
                if no is not None:
                    when = _either(when, _both(Apply("not", (condition,), _HOST_BOOL), no))
    return when


def _both(a: Expression, b: Expression) -> Expression:
    if a in (TRUE, b):
        return b
    return a if b == TRUE else Apply("and", (a, b), _HOST_BOOL)


def _either(a: Expression | None, b: Expression) -> Expression:
    return b if a is None or a == b else Apply("or", (a, b), _HOST_BOOL)
