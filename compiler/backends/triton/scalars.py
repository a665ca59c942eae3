"""The host program on the device, for `capturable`: float64, one lane per tensor, nothing read back.

Every tensor has its own step count, so a condition holds for some lanes and not for others: both branches run, and `tl.where`
keeps what each lane asked for. Conditions on flags and choices, and `new(state)`, are known when the kernel is compiled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from optc.compiler.backends.host import host_arguments, line_comment
from optc.compiler.backends.names import Namer
from optc.compiler.backends.triton.environment import ENVIRONMENT
from optc.compiler.backends.triton.spelling import RESERVED, Spelling
from optc.compiler.ir import expressions, map_statements, reads, statements
from optc.compiler.plan import Plan, ProcedurePlan
from optc.dsl.kinds import Sort
from optc.dsl.program import Apply, Branch, Constant, Expression, HyperKind, Let, Read, Role, Statement, Store, Symbol
from optc.dsl.source import Source

INDENT = "    "
POINTERS = ("hypers", "counters", "carried", "shapes", "found_inf", "scalars", "n")
"""The first parameters: float64 hypers, float32 counters [n], float64 host states [k][n], int64 (numel, ndim) [n][2], the flag
of loss scaling, the buffer the kernels read, the number of tensors."""
GEOMETRY = ("LANES", "HAS_FOUND_INF")
_LOCALS = frozenset({"lane", "row", "nan"})


class ScalarsPrinter:
    """Prints one procedure's host program."""

    def __init__(self, procedure: ProcedurePlan, plan: Plan) -> None:
        self.procedure = procedure
        self.source: Source = plan.program.source
        self._flags = {flag.condition: flag for flag in plan.flags}
        self._booleans = {n for h in plan.program.hypers if h.kind is HyperKind.FLAG for n in h.names}
        body = map_statements(procedure.host.body, self._with_flags)
        read = {r.symbol for e in expressions(body) for r in reads(e)}
        arguments = host_arguments(procedure, plan)
        bound = {s.target.name for s in statements(body) if isinstance(s, Let | Store)}
        exported = {*procedure.host.scalars, *procedure.host.flags} - bound
        wanted = {s.name for s in read if s.role is not Role.FLAG} | exported
        choices = {n for h in plan.program.hypers if h.kind is HyperKind.CHOICE for n in h.names}
        hypers = [n for h in plan.program.hypers for n in h.names if n in wanted]
        self.numbers = [n for n in hypers if n not in choices]
        self.static = [f.name for f in plan.flags if Symbol(Role.FLAG, f.name) in read] + [n for n in hypers if n in choices]
        others = [s.name for s in plan.program.states if s.host and s.name in wanted - {*procedure.host.carried}]
        self.states = [*procedure.host.carried, *others]
        self.news = [
            a for a in arguments if a.removeprefix("new_") in {s.name for s in plan.program.states} and a.startswith("new_")
        ]
        self.counts = procedure.name == "step" or "t" in wanted
        self.shapes = [n for n in ("numel", "ndim") if n in wanted]
        self.name = Namer(RESERVED | _LOCALS | set(POINTERS) | set(GEOMETRY))
        for known in sorted({*arguments, *wanted, *self.static, "t"}):
            self.name(known)
        self.spelling = Spelling(self.name, "tl.float64", self._is_static)
        self._body = body
        self._bound: set[str] = {*arguments}

    def constants(self) -> list[str]:
        """Compile-time parameters: places of hypers in their buffer, static flags, choices, `new(state)`."""
        return [self.name(n) for n in (*(f"at_{n}" for n in self.numbers), *self.static, *self.news)]

    def loads(self) -> Iterator[str]:
        """What the program starts from."""
        if self.counts:
            ahead = " + 1.0" if self.procedure.name == "step" else ""
            yield f"{self.name('t')} = tl.load(counters + lane, mask, 1.0).to(tl.float64){ahead}"
        for shape in self.shapes:
            column = ("numel", "ndim").index(shape)
            yield f"{self.name(shape)} = tl.load(shapes + 2 * lane + {column}, mask, 1).to(tl.float64)"
        for index, state in enumerate(self.states):
            yield f"{self.name(state)} = tl.load(carried + {index} * n + lane, mask, 1.0)"
        for number in self.numbers:
            yield f"{self.name(number)} = tl.load(hypers + {self.name(f'at_{number}')})"

    def body(self) -> Iterator[str]:
        """The host program."""
        yield from self._block(self._body, "", None)

    def stores(self) -> Iterator[str]:
        """Each kernel's scalars and flags, one row per tensor, then those of the model; numbers of the model come later."""
        procedure, width = self.procedure, 0
        known = {*procedure.host.scalars, *procedure.host.flags}
        for names in (*((*k.scalars, *k.host_flags) for k in procedure.kernels), procedure.model_scalars):
            given = [(index, name) for index, name in enumerate(names) if name in known]
            if given:
                yield f"row = scalars + {width} * n + {len(names)} * lane"
            for index, name in given:
                value = self.name(name)
                yield f"tl.store(row + {index}, {self._as_number(name, value)}, mask)"
            width += len(names)

    def _as_number(self, name: str, value: str) -> str:
        return f"tl.where({value}, 1.0, 0.0)" if name in self.procedure.host.flags else value

    def history(self) -> Iterator[str]:
        """What lives on to the next step."""
        if self.procedure.name == "step":
            yield f"tl.store(counters + lane, {self.name('t')}.to(tl.float32), mask)"
        for index, state in enumerate(self.states):
            if state in self.procedure.host.carried:
                yield f"tl.store(carried + {index} * n + lane, {self.name(state)}, mask)"

    def _is_static(self, expression: Expression) -> bool:
        if isinstance(expression, Read):
            return expression.symbol.role in (Role.NEW, Role.FLAG) or expression.symbol.name in self.static
        return isinstance(expression, Constant) or all(self._is_static(a) for a in expression.arguments)

    def _with_flags(self, expression: Expression) -> Expression:
        """Static conditions as flags of the variant; others on what the buffer of hypers holds: 1 or 0, inf for none."""
        if expression in self._flags:
            return Read(Symbol(Role.FLAG, self._flags[expression].name), expression.type)
        if isinstance(expression, Apply):
            return replace(expression, arguments=tuple(self._with_flags(a) for a in expression.arguments))
        if isinstance(expression, Read) and expression.symbol.name in self._booleans:
            number = replace(expression, type=replace(expression.type, sort=Sort.REAL))
            return Apply("ne", (number, Constant(0.0, number.type)), expression.type)
        if isinstance(expression, Constant) and expression.value is None:
            return replace(expression, value=math.inf)
        return expression

    def _block(self, body: tuple[Statement, ...], indent: str, lanes: str | None) -> Iterator[str]:
        for statement in body:
            comment = line_comment(statement, self.source)
            match statement:
                case Let(target=target, value=value) | Store(target=target, value=value):
                    yield f"{indent}{self.name(target.name)} = {self._value(target.name, value, lanes)}{comment}"
                    self._bound.add(target.name)
                case Branch(condition=condition) if self._is_static(condition):
                    yield f"{indent}if {self.spelling.condition(condition)}:{comment}"
                    before = set(self._bound)
                    yield from self._side(statement.then, indent, lanes)
                    after, self._bound = self._bound, before
                    yield f"{indent}else:"
                    yield from self._side(statement.otherwise, indent, lanes)
                    self._bound |= after
                case Branch(condition=condition, then=then, otherwise=otherwise):
                    number = self.source.position(statement.span.start)[0] if comment else len(self._bound)
                    when = self.name(f"when_{number}" if lanes is None else f"{lanes}_{number}")
                    yield f"{indent}{when} = {self._and(lanes, self.spelling.value(condition))}{comment}"
                    yield from self._block(then, indent, when)
                    if otherwise:
                        unless = self.name(when.replace("when", "unless"))
                        yield f"{indent}{unless} = {self._and(lanes, f'~{when}')}"
                        yield from self._block(otherwise, indent, unless)

    def _side(self, body: tuple[Statement, ...], indent: str, lanes: str | None) -> Iterator[str]:
        if body:
            yield from self._block(body, indent + INDENT, lanes)
        else:
            yield f"{indent}{INDENT}pass"

    def _and(self, lanes: str | None, condition: str) -> str:
        return condition if lanes is None else f"{lanes} & ({condition})"

    def _value(self, target: str, value: Expression, lanes: str | None) -> str:
        boolean = value.type.sort is Sort.BOOL
        text = self.spelling.value(value)
        if self._is_static(value):
            text = f"tl.full((), {text}, {'tl.int1' if boolean else 'tl.float64'})"
        if lanes is None:
            return text
        before = self.name(target) if target in self._bound else "False" if boolean else 'float("nan")'
        return f"tl.where({lanes}, {text}, {before})"


def emit_scalars(procedure: ProcedurePlan, plan: Plan) -> str:
    """The host program as one Triton function, `{procedure.name}_scalars_triton`, with a final newline."""
    printer = ScalarsPrinter(procedure, plan)
    body = list(printer.body())
    return ENVIRONMENT.get_template("scalars.py.j2").render(
        name=procedure.name,
        pointers=POINTERS,
        constants=[*printer.constants(), *GEOMETRY],
        lines=[*printer.loads(), *body, *printer.stores()],
        history=list(printer.history()),
    )
