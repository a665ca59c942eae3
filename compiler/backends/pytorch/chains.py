"""Expressions as PyTorch method chains, in place where storage is free.

Only memory of values per element is ever overwritten: a number of the tensor costs nothing to make anew, and may still be
read as an old value. Such numbers are 0-dim and float64, so PyTorch rounds them to the dtype of the elements that they meet;
they are cast by hand where no operand says that dtype. In a 0-dim parameter elements are like numbers, and what meets a number
is computed in float64. Values per row, column or matrix are float64 as well, with dimensions of length 1 where they do not
vary; they are cast by hand before they meet elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum

from optc.compiler.backends.exprs import python_number
from optc.compiler.backends.pytorch import reductions
from optc.dsl.kinds import Extent, Sort
from optc.dsl.program import COMPARISONS, DRAW, LOGIC, PICK, REDUCTIONS, Apply, Constant, Expression, Read, Role

_SYMBOL = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=", "add": "+", "sub": "-", "mul": "*", "div": "/"}
_METHOD = {"neg", "sqrt", "exp", "log", "sin", "cos", "tanh", "abs", "floor"}
_LOOSE, _SUM, _PRODUCT, _ATOM = 1, 50, 60, 100
_PRECEDENCE = {**dict.fromkeys(COMPARISONS, 30), "add": _SUM, "sub": _SUM, "mul": _PRODUCT, "div": _PRODUCT}


_NUMBERS = (Role.SCALAR, Role.FLAG, Role.HYPER, Role.SHAPE)
_NARROW = (Role.LOCAL, Role.STATE)
_OF_NUMBERS = {"min": "minimum", "max": "maximum"}


class Kind(IntEnum):
    """What a printed value is."""

    NUMBER = 0  # a Python number or bool
    TENSOR = 1  # one number or condition of the tensor: 0-dim, float64 or bool
    MATRIX = 2  # one per matrix, row or column: float64 or bool, with the dimensions of a tensor
    ROW = 3
    COL = 4
    ELEM = 5  # a value per element

    @staticmethod
    def of(extent: Extent) -> Kind:
        """The kind of a tensor that varies so."""
        return _KINDS.get(extent, Kind.TENSOR)

    @staticmethod
    def joined(kinds: Iterable[Kind]) -> Kind:
        """What an operation gives: the greatest kind of its operands, and elements where rows meet columns."""
        found = set(kinds)
        return Kind.ELEM if found >= {Kind.ROW, Kind.COL} else max(found)

    @property
    def lined(self) -> bool:
        """Whether it varies with matrices, rows or columns."""
        return Kind.TENSOR < self < Kind.ELEM


_KINDS = {
    Extent.MATRIX: Kind.MATRIX,
    Extent.ROW: Kind.ROW,
    Extent.COL: Kind.COL,
    Extent.PICK: Kind.ELEM,
    Extent.ELEM: Kind.ELEM,
}
_SHAPES = {Kind.MATRIX: "*{0}.shape[:-2], 1, 1", Kind.ROW: "*{0}.shape[:-1], 1", Kind.COL: "*{0}.shape[:-2], 1, {0}.shape[-1]"}


@dataclass(frozen=True, slots=True)
class Piece:
    """Printed text of a value.

    `fresh`: new memory nobody else holds. `root`: the name whose memory the result lies in, where that may be overwritten.
    `rounded`: a value per matrix, row or column that has the dtype of elements already.
    """

    text: str
    precedence: int = _ATOM
    kind: Kind = Kind.ELEM
    fresh: bool = False
    root: str | None = None
    rounded: bool = False

    @property
    def tensor(self) -> bool:
        """Whether it has a tensor's methods."""
        return self.kind is not Kind.NUMBER

    @property
    def free(self) -> bool:
        """Whether an in-place operation may overwrite it."""
        return self.kind is Kind.ELEM and (self.fresh or self.root is not None)

    @property
    def atom(self) -> str:
        """Ready for a method call or an operand of any operator."""
        return self.text if self.precedence == _ATOM else f"({self.text})"

    def within(self, precedence: int) -> str:
        """In brackets if it binds more loosely than its surroundings."""
        return self.text if self.precedence >= precedence else f"({self.text})"


@dataclass(frozen=True, slots=True)
class Printer:
    """Prints with the spec's names (through `name`); names in `free` may be overwritten at their only read.

    `like`: a stream with the shape, dtype and device of values per element. `numbers`: locals that hold Python numbers or
    bools. `whole`: a value per element must have memory, or a view, of that shape, since reductions count its elements.
    `tensors`: scalars that are 0-dim tensors. `rounded`: locals per matrix, row or column that have the dtype of elements.
    `size`: the number of elements, where no stream tells it. `picking`: values per element are those of picked ones, whose
    shape, dtype and device `picked` has.
    """

    name: Callable[[str], str]
    free: frozenset[str] = field(default=frozenset())
    like: str = "theta"
    numbers: frozenset[str] = field(default=frozenset())
    whole: bool = False
    tensors: frozenset[str] = field(default=frozenset())
    rounded: frozenset[str] = field(default=frozenset())
    size: str = ""
    picked: str = ""
    picking: bool = False

    @property
    def pattern(self) -> str:
        """The text of a value with the shape, dtype and device of values per element."""
        return self.picked if self.picking else self.name(self.like)

    def kind(self, value: Expression) -> Kind:
        """What the value is when it is printed."""
        match value:
            case Constant():
                return Kind.NUMBER
            case Read(symbol=symbol):
                if symbol.role is Role.SCALAR and symbol.name in self.tensors:
                    return Kind.TENSOR
                if symbol.role in _NUMBERS or (symbol.role is Role.LOCAL and symbol.name in self.numbers):
                    return Kind.NUMBER
                return Kind.of(value.type.extent) if symbol.role in _NARROW else Kind.ELEM
            case Apply(operation=operation, arguments=arguments):
                return Kind.of(value.type.extent) if operation in REDUCTIONS else Kind.joined(map(self.kind, arguments))

    def piece(self, value: Expression) -> Piece:
        """The printed form of a value."""
        match value:
            case Constant(value=bool() as literal):
                return Piece(str(literal), kind=Kind.NUMBER)
            case Constant(value=int() | float() as literal):
                return Piece(python_number(float(literal)), kind=Kind.NUMBER)
            case Read(symbol=symbol) if symbol.role is Role.SHAPE:
                size = self.size or f"float({self.name(self.like)}.{symbol.name}())"
                return Piece(size, kind=Kind.NUMBER)
            case Read(symbol=symbol):
                root = symbol.name if symbol.name in self.free else None
                return Piece(self.name(symbol.name), kind=self.kind(value), root=root, rounded=symbol.name in self.rounded)
            case Apply():
                return self._apply(value)
        raise TypeError(f"not a value: {value!r}")

    def widened(self, piece: Piece, kind: Kind, sort: Sort) -> Piece:
        """The value as one of a greater kind; a view, where the value is one for many elements."""
        if piece.kind is kind:
            return piece
        if not piece.tensor:
            piece = Piece(self.full(piece.text, kind, sort), kind=kind)
            return self._expanded(piece, kind) if self.whole else piece
        return self._expanded(self.as_element(piece, sort) if kind is Kind.ELEM else piece, kind)

    def full(self, number: str, kind: Kind, sort: Sort) -> str:
        """A 0-dim tensor of the dtype of a kind; without a stream it has no device of its own."""
        dtype = ", dtype=torch.bool" if sort is Sort.BOOL else "" if kind is Kind.ELEM else ", dtype=torch.float64"
        return f"{self.pattern}.new_full((), {number}{dtype})" if self.like else f"torch.tensor({number}{dtype})"

    def _expanded(self, piece: Piece, kind: Kind) -> Piece:
        """A view of the shape of a greater kind."""
        like = self.pattern
        if kind is Kind.TENSOR:
            return replace(piece, kind=kind)
        text = f"expand_as({like})" if kind is Kind.ELEM else f"expand({_SHAPES[kind].format(like)})"
        return Piece(f"{piece.atom}.{text}", kind=kind)

    def as_element(self, piece: Piece, sort: Sort) -> Piece:
        """A value that varies less than elements in their dtype."""
        real = Kind.NUMBER < piece.kind < Kind.ELEM and sort is Sort.REAL and not piece.rounded
        text = f"{piece.atom}.to({self.name(self.like)}.dtype)"
        return replace(piece, text=text, precedence=_ATOM, rounded=True) if real else piece

    def _operands(self, arguments: tuple[Expression, ...]) -> tuple[Piece, ...]:
        """What an operation is applied to: values per matrix, row or column are rounded before they meet elements."""
        pieces = tuple(self.piece(a) for a in arguments)
        if _widest(pieces) is not Kind.ELEM:
            return pieces
        sorts = [a.type.sort for a in arguments]
        return tuple(self.as_element(p, sort) if p.kind.lined else p for p, sort in zip(pieces, sorts, strict=True))

    def _apply(self, value: Apply) -> Piece:
        operation, arguments, sort = value.operation, value.arguments, value.type.sort
        reduced = reductions.recognised(value)
        if reduced is not None:
            return self._reduced(reduced)
        if operation == PICK and isinstance(arguments[0], Read) and arguments[0].symbol.role is Role.ELEMENT:
            return Piece(f"{self.piece(arguments[0]).atom}.picked({self.piece(arguments[1]).text})")
        if operation == PICK:
            return Piece(f"pick({', '.join(self.piece(a).text for a in arguments)})")
        if operation in ("add", "sub"):
            scaled = self._scaled_sum(operation, arguments[0], arguments[1])
            if scaled is not None:
                return scaled
        if operation == "pow" and isinstance(arguments[1], Constant) and arguments[1].value == 2:
            base = self.piece(arguments[0])
            if base.tensor:
                return self._chain(base, "square", "")
        pieces = self._operands(arguments)
        if operation == "where":
            return self._where(sort, *pieces)
        if not any(p.tensor for p in pieces):
            return self._numbers(operation, pieces)
        if operation in _METHOD:
            return self._chain(pieces[0], operation, "")
        if operation == "cospi":
            return Piece(f"cospi({pieces[0].text})", kind=pieces[0].kind, fresh=True)
        if operation == "sign":
            return self._sign(pieces[0])
        if operation in LOGIC:
            return self._logic(operation, pieces)
        if operation in COMPARISONS:
            text = f"{pieces[0].within(31)} {_SYMBOL[operation]} {pieces[1].within(31)}"
            return Piece(text, _PRECEDENCE[operation], _widest(pieces), fresh=True)
        if operation in ("min", "max"):
            return self._bound(operation, *pieces)
        if operation in _PRECEDENCE:
            return self._arithmetic(operation, *pieces)
        if operation == "round_bf16":
            number = pieces[0] if pieces[0].tensor else self.widened(pieces[0], pieces[1].kind, sort)
            return Piece(f"round_bf16({number.text}, {pieces[1].text})", kind=_widest(pieces), fresh=True)
        if operation == DRAW:
            return Piece(f"{operation}({', '.join(p.text for p in pieces)})", fresh=True)
        return self._function({"mod": "remainder"}.get(operation, operation), pieces)

    def _reduced(self, reduced: reductions.Reduced) -> Piece:
        if reduced.value.type.extent is Extent.PICK and not self.picking:
            return replace(self, picking=True)._reduced(reduced)
        piece = self.piece(reduced.value)
        if self.picking:
            piece = self.widened(piece, Kind.ELEM, reduced.value.type.sort)
        if reduced.source is not None:
            piece = self.widened(piece, Kind.of(reduced.source), reduced.value.type.sort)
        text = reduced.template.format(piece.text, numel=f"{self.name(self.like)}.numel()")
        return Piece(text, _PRODUCT if reduced.divides else _ATOM, Kind.of(reduced.extent), fresh=True)

    # --- sums of scaled terms -------------------------------------------------------------------------------------------------

    def _scaled_sum(self, operation: str, left: Expression, right: Expression) -> Piece | None:
        """`x + s*y`, `x + s*(y*z)` and `x + s*(y/z)` without a temporary for the term; x, y and z vary over elements."""
        start, term = left, right
        if operation == "add" and self._factor(right) is None and self._factor(left) is not None:
            start, term = right, left
        factor = self._factor(term)
        if factor is None:
            return None
        scale, inner = factor
        first = self.piece(start)
        if first.kind is not Kind.ELEM or (operation == "add" and not first.free and self.piece(term).free):
            return None
        if scale.tensor:
            sign = ", value=-1.0" if operation == "sub" else ""
            return self._chain(first, "addcmul", f"{scale.text}, {self.piece(inner).text}{sign}")
        method, minus = operation, "-" if operation == "sub" else ""
        match inner:
            case Apply(operation="mul", arguments=(_, _) as factors):
                a, b = self._operands(factors)
            case Apply(operation="pow", arguments=(Read() as y, Constant(value=2))):
                a = b = Piece(self.piece(y).text)
            case Apply(operation="div", arguments=(_, _) as factors):
                a, b = self._operands(factors)
                if a.tensor and b.tensor:
                    return self._chain(first, "addcdiv", f"{a.text}, {b.text}, value={minus}{scale.atom}")
                a = b = Piece("", kind=Kind.NUMBER)
            case _:
                a = b = Piece("", kind=Kind.NUMBER)
        if a.tensor and b.tensor:
            return self._chain(first, "addcmul", f"{a.text}, {b.text}, value={minus}{scale.atom}")
        return self._chain(first, method, f"{self.piece(inner).text}, alpha={scale.text}")

    def _factor(self, term: Expression) -> tuple[Piece, Expression] | None:
        """(one number, value per element) of a product of the two."""
        if isinstance(term, Apply) and term.operation == "mul":
            for scale, inner in (term.arguments, term.arguments[::-1]):
                if self.kind(scale) is not Kind.ELEM and self.kind(inner) is Kind.ELEM:
                    factor = self.piece(scale)
                    return self.as_element(factor, scale.type.sort) if factor.kind.lined else factor, inner
        return None

    # --- operations -----------------------------------------------------------------------------------------------------------

    def _chain(self, start: Piece, method: str, arguments: str) -> Piece:
        """What a method gives; it is of the kind of `start`."""
        if start.free:
            return Piece(f"{start.atom}.{method}_({arguments})", fresh=start.fresh, root=start.root)
        return Piece(f"{start.atom}.{method}({arguments})", kind=start.kind, fresh=True)

    def _arithmetic(self, operation: str, left: Piece, right: Piece) -> Piece:
        if left.free:
            return self._chain(left, operation, right.text)
        if right.free and operation in ("add", "mul"):
            return self._chain(right, operation, left.text)
        if right.free and left.tensor and (left.kind is Kind.ELEM or operation == "div"):
            return self._function(operation, (left, right))
        if right.free:
            inverse = "neg_" if operation == "sub" else "reciprocal_"
            inverted = Piece(f"{right.atom}.{inverse}()", _ATOM, Kind.ELEM, right.fresh, right.root)
            return self._chain(inverted, "add" if operation == "sub" else "mul", left.text)
        level = _PRECEDENCE[operation]
        joint = _SYMBOL[operation] if level == _PRODUCT else f" {_SYMBOL[operation]} "
        return Piece(f"{left.within(level)}{joint}{right.within(level + 1)}", level, _widest((left, right)), fresh=True)

    def _function(self, function: str, pieces: tuple[Piece, ...]) -> Piece:
        listed = ", ".join(p.text for p in pieces)
        for piece in pieces:
            if piece.free and all(p.tensor for p in pieces) and piece.root is not None and piece.text == self.name(piece.root):
                return Piece(f"torch.{function}({listed}, out={piece.text})", root=piece.root)
        if function == "atan2" and not all(p.tensor for p in pieces):
            other = next(p for p in pieces if p.tensor)
            listed = ", ".join(p.text if p.tensor else f"torch.full_like({other.text}, {p.text})" for p in pieces)
        return Piece(f"torch.{function}({listed})", kind=_widest(pieces), fresh=True)

    def _bound(self, operation: str, left: Piece, right: Piece) -> Piece:
        if left.tensor and right.tensor:
            return self._function(f"{operation}imum", (left, right))
        tensor, number = (left, right) if left.tensor else (right, left)
        return self._chain(tensor, "clamp_min" if operation == "max" else "clamp_max", number.text)

    def _sign(self, piece: Piece) -> Piece:
        # torch.sign(NaN) is 0; the language keeps NaN. x/|x| would need a guard at 0, so: sign(x) + (x - x) is wrong at inf;
        # copying NaN back is exact everywhere.
        return Piece(f"sign({piece.text})", kind=piece.kind, fresh=True)

    def _logic(self, operation: str, pieces: tuple[Piece, ...]) -> Piece:
        if operation == "not":
            return Piece(f"~{pieces[0].atom}", kind=pieces[0].kind, fresh=True)
        word = " & " if operation == "and" else " | "
        return Piece(word.join(p.atom for p in pieces), _LOOSE, _widest(pieces), fresh=True)

    def _where(self, sort: Sort, condition: Piece, yes: Piece, no: Piece) -> Piece:
        if not condition.tensor:
            kind = Kind.joined((yes.kind, no.kind))  # both sides must answer to tensor methods
            whole = replace(self, whole=self.whole or kind is Kind.ELEM)  # what follows may write to what it makes of the side
            yes, no = whole.widened(yes, kind, sort), whole.widened(no, kind, sort)
            return Piece(f"({yes.text} if {condition.text} else {no.text})", kind=kind)
        kind = _widest((condition, yes, no))
        if not yes.tensor and not no.tensor:
            if kind is not Kind.ELEM and (yes.text, no.text) == ("1.0", "0.0"):
                return Piece(f"{condition.atom}.double()", kind=kind, fresh=True)
            yes = replace(self, whole=False).widened(yes, kind, sort)
        elif kind is Kind.ELEM and Kind.ELEM not in (yes.kind, no.kind):
            yes, no = self.as_element(yes, sort), self.as_element(no, sort)
        return Piece(f"torch.where({condition.text}, {yes.text}, {no.text})", kind=kind, fresh=True)

    def _numbers(self, operation: str, pieces: tuple[Piece, ...]) -> Piece:
        """Flags combined, and arithmetic on the number of elements; other arithmetic on host values never reaches a kernel."""
        if operation == "not":
            return Piece(f"not {pieces[0].atom}", _LOOSE, Kind.NUMBER)
        if operation in LOGIC:
            return Piece(f" {operation} ".join(p.atom for p in pieces), _LOOSE, Kind.NUMBER)
        if operation == "neg":
            return Piece(f"-{pieces[0].atom}", _PRODUCT, Kind.NUMBER)
        if operation in _PRECEDENCE and operation != "div":
            left, right = pieces
            joint = "*" if operation == "mul" else f" {_SYMBOL[operation]} "
            return Piece(f"{left.atom}{joint}{right.atom}", _PRECEDENCE[operation], Kind.NUMBER)
        function = "abs" if operation == "abs" else f"ieee.{_OF_NUMBERS.get(operation, operation)}"
        return Piece(f"{function}({', '.join(p.text for p in pieces)})", kind=Kind.NUMBER)


def _widest(pieces: tuple[Piece, ...]) -> Kind:
    return Kind.joined(p.kind for p in pieces)
