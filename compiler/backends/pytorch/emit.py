"""Kernel -> PyTorch: runs everywhere, in place, one readable line per line of the spec.

Values are method chains. A chain grows in place (`m.mul_(beta1).add_(g, alpha=one_minus_beta1)`) wherever its start may be
overwritten: the stream being stored, a fresh temporary, or a local at its only use. `alpha=`, `addcmul` and `addcdiv` save the
temporaries of scaled terms. The gradient is never overwritten. A name holds a value per element, a number of the tensor (0-dim,
float64) or a Python number, and is given what its later reads take it for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from optc.compiler.backends.host import INDENT, line_comment
from optc.compiler.backends.names import PYTHON, Namer
from optc.compiler.backends.pytorch.chains import Kind, Piece, Printer
from optc.compiler.backends.pytorch.reductions import FUNCTIONS
from optc.compiler.ir import expressions, reads, statements, walk
from optc.compiler.plan import Kernel
from optc.dsl.kinds import Extent, Sort
from optc.dsl.program import REDUCTIONS, TRUE, Apply, Branch, Expression, Let, Read, Role, Statement, Store
from optc.dsl.source import Source


def emit_kernel(kernel: Kernel, source: Source) -> str:
    """`def {name}_torch(streams, scalars, flags) -> None`."""
    namer = Namer(PYTHON | {"torch", "Tensor", "ieee", "sign"} | FUNCTIONS)
    reduces = any(isinstance(e, Apply) and e.operation in REDUCTIONS for value in expressions(kernel.body) for e in walk(value))
    printer = Printer(namer, like=_like(kernel), numbers=_numbers(kernel.body), whole=reduces)
    emitter = _Emitter(printer, source, _read_once(kernel.body))
    lines = list(emitter.block(kernel.body, kernel.body, INDENT))
    parameters = [f"{namer(s.name)}: Tensor" for s in kernel.streams]
    parameters += [f"{namer(n)}: float" for n in kernel.scalars]
    parameters += [f"{namer(n)}: bool" for n in (*kernel.static_flags, *kernel.host_flags)]
    head = [f"def {kernel.name}_torch(", *(f"{INDENT}{p}," for p in parameters), ") -> None:"]
    return "\n".join([*head, *lines])


def _like(kernel: Kernel) -> str:
    """A stream with one value per element that is always there: θ if it can be."""
    streams = sorted(kernel.streams, key=lambda s: (s.role is not Role.THETA, s.extent is Extent.TENSOR, s.exists != TRUE))
    return streams[0].name if streams else "theta"


def _numbers(body: tuple[Statement, ...]) -> frozenset[str]:
    """Locals that every line gives a Python number or bool."""
    lines = [s for s in statements(body) if isinstance(s, Let) and s.target.role is Role.LOCAL]
    found = frozenset(s.target.name for s in lines)
    size = -1
    while size != len(found):
        size = len(found)
        printer = Printer(str, numbers=found)
        found -= {s.target.name for s in lines if printer.kind(s.value) is not Kind.NUMBER}
    return found


def emit_initial(value: Expression) -> str:
    """The body of a state's `initial` lambda: a float, or a new tensor."""
    namer = Namer(PYTHON | {"torch"})
    piece = Printer(namer).piece(value)
    return f"{piece.text}.clone()" if piece.tensor and not piece.fresh else piece.text


def _read_once(body: tuple[Statement, ...]) -> frozenset[str]:
    """Locals that are bound once and read once: their storage is free for that reader."""
    read = Counter(r.symbol.name for e in expressions(body) for r in reads(e) if r.symbol.role is Role.LOCAL)
    bound = Counter(s.target.name for s in statements(body) if isinstance(s, Let) and s.target.role is Role.LOCAL)
    return frozenset(n for n, count in read.items() if count == 1 and bound[n] == 1)


@dataclass
class _Emitter:
    printer: Printer
    source: Source
    read_once: frozenset[str]
    owned: set[str] = field(default_factory=set)

    def block(self, body: tuple[Statement, ...], rest: tuple[Statement, ...], indent: str) -> Iterator[str]:
        """`rest`: every statement that may still run, to know what will be overwritten later."""
        if not body:
            yield f"{indent}pass"
        for index, statement in enumerate(body):
            later = body[index + 1 :] + (rest if rest is not body else ())
            comment = line_comment(statement, self.source)
            match statement:
                case Let():
                    yield f"{indent}{self.printer.name(statement.target.name)} = {self._bound(statement, later)}{comment}"
                case Store():
                    yield f"{indent}{self._store(statement)}{comment}"
                case Branch():
                    condition = self.printer.piece(statement.condition).text
                    yield f"{indent}if {_unbracketed(condition)}:{comment}"
                    yield from self.block(statement.then, later, indent + INDENT)
                    if statement.otherwise:
                        yield f"{indent}else:"
                        yield from self.block(statement.otherwise, later, indent + INDENT)

    def _bound(self, statement: Let, later: tuple[Statement, ...]) -> str:
        piece, sort = self._piece(statement.value, None), statement.value.type.sort
        kind = self._kind(statement, piece.kind, later)
        if kind is not piece.kind:
            if kind is Kind.ELEM and not piece.tensor:
                dtype = ", dtype=torch.bool" if sort is Sort.BOOL else ""
                return f"torch.full_like({self.printer.name(self.printer.like)}, {piece.text}{dtype})"
            if piece.fresh or not piece.tensor:
                return self.printer.widened(piece, kind, sort).text
            piece = self.printer.widened(piece, kind, sort)
        if piece.fresh or piece.root is not None:
            self.owned.add(statement.target.name)
            return _unbracketed(piece.text)
        # a second name for something that a later line overwrites needs its own memory
        overwritten = {s.target.name for s in statements(later) if isinstance(s, Store)}
        aliased = {r.symbol.name for r in reads(statement.value)}
        if aliased & overwritten:
            self.owned.add(statement.target.name)
            return f"{piece.atom}.clone()"
        return _unbracketed(piece.text)

    def _kind(self, statement: Let, kind: Kind, later: tuple[Statement, ...]) -> Kind:
        """What the reads of this binding take the name for; `kind` is what it is given."""
        if statement.target.role is not Role.LOCAL:
            return Kind.ELEM
        if kind is Kind.ELEM or statement.target.name in self.printer.numbers:
            return kind
        found = {self.printer.kind(r) for r in _reached(statement.target.name, later)[0]}
        return Kind.ELEM if Kind.ELEM in found or (kind is Kind.NUMBER and not found) else Kind.TENSOR

    def _store(self, statement: Store) -> str:
        target = statement.target.name
        piece = self._piece(statement.value, target)
        if piece.root == target:
            return piece.text
        if not piece.tensor:
            return f"{self.printer.name(target)}.fill_({_unbracketed(piece.text)})"
        return f"{self.printer.name(target)}.copy_({_unbracketed(piece.text)})"

    def _piece(self, value: Expression, target: str | None) -> Piece:
        """`target` may be overwritten while the value is computed if it is read once, and not only to be kept."""
        count = Counter(r.symbol.name for r in reads(value))
        free = {n for n in self.owned if n in self.read_once}
        if target is not None and count[target] == 1 and not isinstance(value, Read):
            free.add(target)
        return replace(self.printer, free=frozenset(free)).piece(value)


def _reached(name: str, body: tuple[Statement, ...]) -> tuple[list[Read], bool]:
    """The reads of a name that see its present value, and whether every path ends with another one."""
    found: list[Read] = []
    for statement in body:
        match statement:
            case Let(target=target, value=value) | Store(target=target, value=value):
                found += [r for r in reads(value) if r.symbol.name == name]
                if target.name == name:
                    return found, True
            case Branch(condition=condition, then=then, otherwise=otherwise):
                sides = _reached(name, then), _reached(name, otherwise)
                found += [r for r in reads(condition) if r.symbol.name == name]
                found += sides[0][0] + sides[1][0]
                if sides[0][1] and sides[1][1]:
                    return found, True
    return found, False


def _unbracketed(text: str) -> str:
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0 and index < len(text) - 1:
            return text
    return text[1:-1]
