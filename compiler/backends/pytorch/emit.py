"""Kernel -> PyTorch: runs everywhere, in place, one readable line per line of the spec.

Values are method chains. A chain grows in place (`m.mul_(beta1).add_(g, alpha=one_minus_beta1)`) wherever its start may be
overwritten: the stream being stored, a fresh temporary, or a local at its only use. `alpha=`, `addcmul` and `addcdiv` save the
temporaries of scaled terms. The gradient is never overwritten. A name holds a value per element, per row, column or matrix
(float64), a number of the tensor (0-dim, float64) or a Python number, and is given what its later reads take it for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from optc.compiler.backends.exprs import python_number
from optc.compiler.backends.host import INDENT, line_comment
from optc.compiler.backends.names import PYTHON, Namer
from optc.compiler.backends.pytorch.chains import Kind, Piece, Printer
from optc.compiler.backends.pytorch.reductions import FUNCTIONS
from optc.compiler.ir import expressions, map_expression, map_statements, reads, statements, walk
from optc.compiler.plan import Kernel
from optc.dsl.kinds import Extent, Sort
from optc.dsl.program import DRAW, REDUCTIONS, TRUE, Apply, Branch, Expression, Let, Read, Role, Statement, Store
from optc.dsl.source import Source

_OF_NONE = {"sum": 0.0, "mean": math.nan, "largest": -math.inf, "smallest": math.inf}


def emit_kernel(kernel: Kernel, source: Source, tensors: frozenset[str] = frozenset()) -> str:
    """`def {name}_torch(streams, scalars, flags, given) -> leaves`; `tensors`: scalars that are numbers of the model.

    A kernel without θ, gradient and inputs is told the number of elements, too.
    """
    namer = Namer(PYTHON | {"torch", "Tensor", "ieee", "sign", "cospi", "Elements", DRAW} | FUNCTIONS)
    kernel = replace(kernel, body=_as_bound(kernel.body))
    reduces = any(isinstance(e, Apply) and e.operation in REDUCTIONS for value in expressions(kernel.body) for e in walk(value))
    numbers = numbers_of(kernel.body, tensors, kernel.leaves)
    printer = Printer(namer, like=_like(kernel), numbers=numbers, whole=reduces, tensors=tensors)
    told = all(s.role is Role.STATE for s in kernel.streams)
    given = [s for s in kernel.streams if s.role is not Role.REST]  # θ is given whole
    printer = replace(printer, rounded=_rounded(kernel, printer), size=namer("numel") if told else "")
    of_picked = _names_of_picked(kernel)
    if kernel.pick is not None:
        like = namer(printer.like)
        printer = replace(printer, picked=like if printer.like in of_picked else f"pick({like}, {namer(kernel.pick[0])})")
    emitter = Emitter(printer, source, _read_once(kernel.body), kernel.leaves, of_picked=of_picked)
    lines = [f"{INDENT}{namer(n)} = {namer(n)}.to({namer(printer.like)}.dtype)" for n in kernel.given if n in printer.rounded]
    unsure = [n for n in kernel.leaves if n not in _always_bound(kernel.body)]
    lines += [f"{INDENT}{namer(n)} = {_of_none(n, kernel, printer)}" for n in unsure]
    lines += emitter.block(kernel.body, kernel.body, INDENT)
    if kernel.leaves:
        lines.append(f"{INDENT}return {tuple_of(namer(n) for n in kernel.leaves)}")
    parameters = [f"{namer(s.name)}: {'Elements' if s.role is Role.ELEMENT else 'Tensor'}" for s in given]
    parameters += [f"{namer(n)}: {'Tensor' if n in tensors else 'float'}" for n in kernel.scalars]
    parameters += [f"{namer(n)}: bool" for n in (*kernel.static_flags, *kernel.host_flags)]
    parameters += [f"{namer(n)}: Tensor" for n in kernel.given] + [f"{namer('numel')}: float"] * told
    result = "tuple[Tensor, ...]" if kernel.leaves else "None"
    head = [f"def {kernel.name}_torch(", *(f"{INDENT}{p}," for p in parameters), f") -> {result}:"]
    return "\n".join([*head, *lines])


def _names_of_picked(kernel: Kernel) -> frozenset[str]:
    """The names that hold values of picked elements."""
    lines = (s for s in statements(kernel.body) if isinstance(s, Let) and s.value.type.extent is Extent.PICK)
    return frozenset((*(s.target.name for s in lines), *(s.name for s in kernel.streams if s.extent is Extent.PICK)))


def _as_bound(body: tuple[Statement, ...]) -> tuple[Statement, ...]:
    """The body in which no read of a local is wider than everything that the local is ever given."""
    given: dict[str, Extent] = {}
    for line in statements(body):
        if isinstance(line, Let):
            given[line.target.name] = given.get(line.target.name, Extent.MODEL).join(line.value.type.extent)

    def narrowed(value: Expression) -> Expression:
        if not isinstance(value, Read) or value.symbol.role is not Role.LOCAL:
            return value
        extent = given.get(value.symbol.name, Extent.ELEM)
        return replace(value, type=replace(value.type, extent=extent)) if not value.type.extent.within(extent) else value

    return map_statements(body, lambda value: map_expression(value, narrowed))


def tuple_of(names: Iterable[str]) -> str:
    """A tuple in brackets."""
    listed = list(names)
    return f"({listed[0]},)" if len(listed) == 1 else f"({', '.join(listed)})"


def _like(kernel: Kernel) -> str:
    """A stream with one value per element that is always there: θ if it can be."""
    streams = sorted(kernel.streams, key=lambda s: (s.role is not Role.THETA, s.extent is not Extent.ELEM, s.exists != TRUE))
    return streams[0].name if streams else ""


def numbers_of(body: tuple[Statement, ...], tensors: frozenset[str], leaves: Collection[str]) -> frozenset[str]:
    """Locals that every line gives a Python number or bool."""
    lines = [s for s in statements(body) if isinstance(s, Let) and s.target.role is Role.LOCAL]
    found = frozenset(s.target.name for s in lines).difference(leaves)
    size = -1
    while size != len(found):
        size = len(found)
        printer = Printer(str, numbers=found, tensors=tensors)
        found -= {s.target.name for s in lines if printer.kind(s.value) is not Kind.NUMBER}
    return found


def _rounded(kernel: Kernel, printer: Printer) -> frozenset[str]:
    """Names per matrix, row or column that only meet elements: they are rounded once, where they get their value."""
    found: dict[bool, set[str]] = {True: set(), False: set(kernel.leaves)}

    def visit(value: Expression, meets: bool) -> None:
        match value:
            case Read(symbol=symbol) if symbol.role is Role.LOCAL and printer.kind(value).lined:
                found[meets and value.type.sort is Sort.REAL].add(symbol.name)
            case Apply(operation=operation, arguments=arguments):
                for argument in arguments:
                    visit(argument, operation not in REDUCTIONS and printer.kind(value) is Kind.ELEM)

    for value in expressions(kernel.body):
        visit(value, meets=False)
    return frozenset(found[True] - found[False])


def _of_none(name: str, kernel: Kernel, printer: Printer) -> str:
    """A leaf on paths that do not bind it: a reduction of no elements, a part that adds nothing."""
    operation = next((how for one in kernel.passes for measure, how in one.measures if measure == name), "sum")
    there = any(s.name == printer.like and s.exists == TRUE for s in kernel.streams)
    return replace(printer, like=printer.like if there else "").full(python_number(_OF_NONE[operation]), Kind.TENSOR, Sort.REAL)


def _always_bound(body: tuple[Statement, ...]) -> set[str]:
    """The names that every path gives a value."""
    bound = set[str]()
    for statement in body:
        match statement:
            case Let(target=target):
                bound.add(target.name)
            case Branch(then=then, otherwise=otherwise):
                bound |= _always_bound(then) & _always_bound(otherwise)
    return bound


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


@dataclass(frozen=True, slots=True)
class Emitter:
    """Prints lines in order.

    `read_once`: locals whose memory is free for their only reader. `leaves`: names that are returned. `kept`: names whose
    memory gets another value later on, elsewhere. `owned`: locals with memory of their own. `of_picked`: names
    of values of picked elements.
    """

    printer: Printer
    source: Source
    read_once: frozenset[str]
    leaves: Collection[str] = ()
    kept: set[str] = field(default_factory=set)
    owned: set[str] = field(default_factory=set)
    of_picked: Collection[str] = ()

    def block(self, body: tuple[Statement, ...], rest: tuple[Statement, ...], indent: str) -> Iterator[str]:
        """`rest`: every statement that may still run, to know what will be overwritten later."""
        if not body:
            yield f"{indent}pass"
        for index, statement in enumerate(body):
            later = body[index + 1 :] + (rest if rest is not body else ())
            comment = line_comment(statement, self.source)
            match statement:
                case Let():
                    bound = self._at(statement)._bound(statement, later)
                    yield f"{indent}{self.printer.name(statement.target.name)} = {bound}{comment}"
                    if indent == INDENT:
                        self.kept.discard(statement.target.name)  # it names something new on every path
                case Store():
                    yield f"{indent}{self._at(statement)._store(statement)}{comment}"
                case Branch():
                    condition = self.printer.piece(statement.condition).text
                    yield f"{indent}if {_unbracketed(condition)}:{comment}"
                    yield from self.block(statement.then, later, indent + INDENT)
                    if statement.otherwise:
                        yield f"{indent}else:"
                        yield from self.block(statement.otherwise, later, indent + INDENT)

    def _at(self, line: Let | Store) -> Emitter:
        """What prints a line: its name may hold values of picked elements."""
        picking = line.target.name in self.of_picked
        return replace(self, printer=replace(self.printer, picking=True)) if picking else self

    def _bound(self, statement: Let, later: tuple[Statement, ...]) -> str:
        piece, sort, name = self._piece(statement.value, None), statement.value.type.sort, statement.target.name
        kind, widened = self._kind(statement, piece.kind, later), False
        if kind is not piece.kind:
            if kind is Kind.ELEM and not piece.tensor:
                dtype = ", dtype=torch.bool" if sort is Sort.BOOL else ""
                return f"torch.full_like({self.printer.pattern}, {piece.text}{dtype})"
            widened = piece.fresh or not piece.tensor
            piece = self.printer.widened(piece, kind, sort)
        if name in self.printer.rounded:
            piece = self.printer.as_element(piece, sort)
        if widened:
            return piece.text
        if piece.fresh or piece.root is not None:
            self.owned.add(name)
            return _unbracketed(piece.text)
        # a second name for something that a later line overwrites needs its own memory
        overwritten = {s.target.name for s in statements(later) if isinstance(s, Store)} | self.kept
        aliased = {r.symbol.name for r in reads(statement.value)}
        if aliased & overwritten:
            self.owned.add(name)
            return f"{piece.atom}.clone()"
        return _unbracketed(piece.text)

    def _kind(self, statement: Let, kind: Kind, later: tuple[Statement, ...]) -> Kind:
        """What the reads of this binding take the name for; `kind` is what it is given."""
        name = statement.target.name
        if statement.target.role is Role.GRADIENT:
            return Kind.ELEM
        if kind is Kind.ELEM or name in self.printer.numbers:
            return kind
        found = {self.printer.kind(r) for r in _reached(name, later)[0]}
        found |= {Kind.of(statement.value.type.extent)} if name in self.leaves else set()
        return Kind.joined((*found, kind)) if found or kind is not Kind.NUMBER else Kind.ELEM

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
