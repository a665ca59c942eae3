"""Update procedure -> host program + element code.

Whatever the host knows (hypers, `t`, shapes, carried scalars and all that follows from them) is computed once per step in
float64; what the kernels need of it are *scalars* (numbers) and *flags* (conditions). Sub-expressions are shared by value
numbering: two uses share a scalar exactly when they are the same expression of the same versions of the same names.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from optc.compiler.describe import describe
from optc.compiler.ir import UpdateProcedure, expressions, reads, statements, value_number, walk
from optc.compiler.picking import is_one, period, picks
from optc.compiler.plan import Flag, HostProgram
from optc.compiler.storing import coded_when
from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.program import (
    LOGIC,
    Apply,
    Branch,
    Constant,
    Expression,
    Let,
    Program,
    Read,
    Role,
    Statement,
    Store,
    Symbol,
)

_ALWAYS_KNOWN = (Role.HYPER, Role.STEP, Role.SHAPE)
_HOST_REAL = Type(Sort.REAL, Extent.TENSOR, host=True)
_HOST_BOOL = Type(Sort.BOOL, Extent.TENSOR, host=True)


@dataclass(frozen=True, slots=True)
class Hoisted:
    """`body` reads only streams, its own locals, SCALARs and FLAGs."""

    host: HostProgram
    body: tuple[Statement, ...]


def static_flags(program: Program, bodies: tuple[tuple[Statement, ...], ...]) -> tuple[Flag, ...]:
    """The atoms of all static conditions that select element code or states, each with its name."""
    atoms: dict[Expression, None] = {}
    p = period(program)
    coded = (coded_when(s) for s in program.states)
    for condition in (*(s.exists for s in program.states), *(c for c in coded if c is not None)):
        atoms.update(dict.fromkeys(_static_atoms(condition)))
    for body in bodies:
        if p is not None and picks(body, program):
            atoms[is_one(p)] = None
        for expression in expressions(body):
            for node in walk(expression):
                if node.type.sort is Sort.BOOL and node.type.static:
                    atoms.update(dict.fromkeys(_static_atoms(node)))
    taken: dict[str, Expression] = {}
    for atom in atoms:
        name = describe(atom, f"variant_{len(taken)}")
        while name in taken:
            name += "_"
        taken[name] = atom
    return tuple(Flag(name, atom, static=True) for name, atom in taken.items())


def _static_atoms(condition: Expression) -> Iterator[Expression]:
    if isinstance(condition, Apply) and condition.operation in LOGIC:
        for argument in condition.arguments:
            yield from _static_atoms(argument)
    elif not isinstance(condition, Constant):
        yield condition


def hoist(procedure: UpdateProcedure, program: Program, flags: tuple[Flag, ...]) -> Hoisted:
    """Split one procedure."""
    coming = Counter(s.target.name for s in statements(procedure.body) if isinstance(s, Let | Store))
    return _Hoister(procedure, program, flags, coming).run()


@dataclass
class _Hoister:
    procedure: UpdateProcedure
    program: Program
    flags: tuple[Flag, ...]
    coming: Counter[str]  # lines not reached yet that give a name another value
    versions: dict[str, int] = field(default_factory=dict)
    counter: int = 0
    prologue: list[Statement] = field(default_factory=list)
    host: list[Statement] = field(default_factory=list)
    # value number -> exported name, for the values available here (scoped by branch)
    numbers: list[dict[object, str]] = field(default_factory=lambda: [{}])
    names: dict[str, object] = field(default_factory=dict)
    scalars: dict[str, bool] = field(default_factory=dict)  # name -> bound on every path
    host_flags: dict[str, bool] = field(default_factory=dict)

    def run(self) -> Hoisted:
        for name in self._reserved():
            self.names[name] = name
        p = period(self.program)
        if p is not None and picks(self.procedure.body, self.program):  # passes ask for it, even if no line does
            self.scalars[self._number(p, p.symbol.name, self.host)[0]] = True
        body = self._block(self.procedure.body, self.host)
        nan = Constant(math.nan, _HOST_REAL)
        false = Constant(False, _HOST_BOOL)
        given = set(self._given())
        defaults: list[Statement] = [
            Let(Symbol(Role.LOCAL, name), value)
            for exported, value in ((self.scalars, nan), (self.host_flags, false))
            for name, always in exported.items()
            if not always and name not in given
        ]
        carried = tuple(
            s.name for s in self.program.states if s.host and any(_stores(s.name, statement) for statement in self.host)
        )
        host = HostProgram(tuple(defaults + self.prologue + self.host), tuple(self.scalars), tuple(self.host_flags), carried)
        return Hoisted(host, tuple(body))

    def _reserved(self) -> Iterator[str]:
        """Names that a hoisted value may not take: everything the spec names, and the static flags."""
        yield from ("theta", "g")
        yield from self.procedure.inputs
        yield from (f.name for f in self.flags)
        yield from self._given()
        for statement in statements(self.procedure.body):
            if isinstance(statement, Let):
                yield statement.target.name

    def _given(self) -> Iterator[str]:
        """What a host program is called with; it has a value on every path."""
        yield from ("t", "numel", "ndim", "bf16")
        for hyper in self.program.hypers:
            yield from hyper.names
        yield from (s.name for s in self.program.states)
        yield from (f"new_{s.name}" for s in self.program.states)

    # --- statements -----------------------------------------------------------------------------------------------------------

    def _block(self, body: tuple[Statement, ...], host: list[Statement]) -> list[Statement]:
        kernel: list[Statement] = []
        for statement in body:
            if isinstance(statement, Let | Store):
                self.coming[statement.target.name] -= 1
            match statement:
                case Let() | Store() if statement.value.type.host and not self._lives_in_memory(statement):
                    host.append(statement)
                    self._new_version(statement.target.name)
                case Let() | Store():
                    line = replace(statement, value=self._element(statement.value, statement, host))
                    if isinstance(line, Store) and line.dither is not None:
                        line = replace(line, dither=self._element(line.dither, statement, host))
                    kernel.append(line)
                    self._new_version(statement.target.name)
                case Branch():
                    self._branch(statement, host, kernel)
        return kernel

    def _lives_in_memory(self, statement: Let | Store) -> bool:
        """θ, ordinary states and the gradient are streams even when their new value is one number."""
        if statement.target.role is Role.STATE:
            return not self.program.state(statement.target.name).host
        return statement.target.role is not Role.LOCAL or statement.target.name in self._element_locals()

    def _element_locals(self) -> set[str]:
        """Locals that some line gives a value per element; they live in the kernel throughout."""
        return {
            s.target.name
            for s in statements(self.procedure.body)
            if isinstance(s, Let) and s.target.role is Role.LOCAL and not s.value.type.host
        }

    def _branch(self, statement: Branch, host: list[Statement], kernel: list[Statement]) -> None:
        kernels: list[list[Statement]] = []
        hosts: list[list[Statement]] = []
        before = dict(self.versions)
        changed: set[str] = set()
        for side in (statement.then, statement.otherwise):
            self.versions = dict(before)
            hosts.append([])
            with self._scope():
                kernels.append(self._block(side, hosts[-1]))
            changed |= {n for n, v in self.versions.items() if before.get(n) != v}
        self.versions = dict(before)
        test = statement.condition
        if kernels[0] or kernels[1]:
            # bound before the branch: the branch may change what the condition reads
            condition = self._condition(statement.condition, host)
            kernel.append(replace(statement, condition=condition, then=tuple(kernels[0]), otherwise=tuple(kernels[1])))
            if isinstance(condition, Read) and not self._is_static(condition.symbol.name):
                test = replace(condition, symbol=Symbol(Role.LOCAL, condition.symbol.name))
        if hosts[0] or hosts[1]:
            host.append(replace(statement, condition=test, then=tuple(hosts[0]), otherwise=tuple(hosts[1])))
        for name in sorted(changed):
            self._new_version(name)

    @contextmanager
    def _scope(self) -> Iterator[None]:
        self.numbers.append({})
        yield
        self.numbers.pop()

    def _new_version(self, name: str) -> None:
        self.counter += 1
        self.versions[name] = self.counter

    # --- expressions ----------------------------------------------------------------------------------------------------------

    def _is_static(self, name: str) -> bool:
        return any(f.name == name for f in self.flags)

    def _element(self, expression: Expression, statement: Let | Store, host: list[Statement]) -> Expression:
        if isinstance(expression, Constant):
            return expression
        if expression.type.host:
            if expression.type.sort is Sort.BOOL:
                return self._condition(expression, host)
            return self._scalar(expression, statement, host)
        if isinstance(expression, Apply):
            return replace(expression, arguments=tuple(self._element(a, statement, host) for a in expression.arguments))
        return expression

    def _scalar(self, expression: Expression, statement: Let | Store, host: list[Statement]) -> Read:
        fallback = f"{statement.target.name}_factor"
        name, always = self._number(expression, fallback, host)
        self.scalars[name] = self.scalars.get(name, True) and always
        return Read(Symbol(Role.SCALAR, name), expression.type, expression.span)

    def _condition(self, condition: Expression, host: list[Statement]) -> Expression:
        """A host condition over FLAG reads; the static ones select code, the others are exported by the host program."""
        if isinstance(condition, Constant):
            return condition
        for flag in self.flags:
            if flag.condition == condition:
                return Read(Symbol(Role.FLAG, flag.name), condition.type, condition.span)
        if isinstance(condition, Apply) and condition.operation in LOGIC:
            return replace(condition, arguments=tuple(self._condition(a, host) for a in condition.arguments))
        name, always = self._number(condition, "condition", host)
        self.host_flags[name] = self.host_flags.get(name, True) and always
        return Read(Symbol(Role.FLAG, name), condition.type, condition.span)

    def _number(self, expression: Expression, fallback: str, host: list[Statement]) -> tuple[str, bool]:
        """The exported name of a host value, binding it if it is new; and whether that binding is on every path."""
        key = value_number(expression, self._version)
        for depth, scope in enumerate(self.numbers):
            if key in scope:
                return scope[key], depth == 0
        always_known = all(r.symbol.role in _ALWAYS_KNOWN and not self._optional(r) for r in reads(expression))
        depth = 0 if always_known else len(self.numbers) - 1
        if isinstance(expression, Read) and expression.symbol.role is Role.NEW:
            name, depth = f"new_{expression.symbol.name}", 0
        elif isinstance(expression, Read) and self._final(expression):
            name = expression.symbol.name
        else:
            name = self._fresh(describe(expression, fallback), key)
            binding = Let(Symbol(Role.LOCAL, name), expression, expression.span)
            (self.prologue if always_known else host).append(binding)
        self.numbers[depth][key] = name
        return name, depth == 0

    def _optional(self, read: Read) -> bool:
        return any(read.symbol.name in h.names and h.optional for h in self.program.hypers)

    def _final(self, read: Read) -> bool:
        """Whether the name itself may be exported: it is never given another value later."""
        if read.symbol.role in _ALWAYS_KNOWN:
            return not self._optional(read)
        return self.coming[read.symbol.name] == 0

    def _fresh(self, wish: str, key: object) -> str:
        name, index = wish, 2
        while self.names.get(name, key) != key:
            name, index = f"{wish}_{index}", index + 1
        self.names[name] = key
        return name

    def _version(self, symbol: Symbol) -> int:
        return self.versions.get(symbol.name, 0) if symbol.role in (Role.LOCAL, Role.STATE) else 0


def _stores(name: str, statement: Statement) -> bool:
    return any(isinstance(s, Store) and s.target.name == name for s in statements((statement,)))
