"""Expressions as PyTorch method chains, in place where storage is free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from optc.compiler.backends.exprs import python_number
from optc.dsl.program import COMPARISONS, LOGIC, Apply, Constant, Expression, Read, Role

_SYMBOL = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=", "add": "+", "sub": "-", "mul": "*", "div": "/"}
_METHOD = {"neg", "sqrt", "exp", "log", "sin", "cos", "tanh", "abs", "floor"}
_LOOSE, _SUM, _PRODUCT, _ATOM = 1, 50, 60, 100
_PRECEDENCE = {**dict.fromkeys(COMPARISONS, 30), "add": _SUM, "sub": _SUM, "mul": _PRODUCT, "div": _PRODUCT}


@dataclass(frozen=True, slots=True)
class Piece:
    """Printed text of a value.

    `tensor`: a tensor, else a Python number or bool. `fresh`: new memory nobody else holds. `root`: the name whose memory the
    result lies in, where that may be overwritten.
    """

    text: str
    precedence: int = _ATOM
    tensor: bool = True
    fresh: bool = False
    root: str | None = None

    @property
    def free(self) -> bool:
        """Whether an in-place operation may overwrite it."""
        return self.tensor and (self.fresh or self.root is not None)

    @property
    def atom(self) -> str:
        """Ready for a method call or an operand of any operator."""
        return self.text if self.precedence == _ATOM else f"({self.text})"

    def within(self, precedence: int) -> str:
        """In brackets if it binds more loosely than its surroundings."""
        return self.text if self.precedence >= precedence else f"({self.text})"


@dataclass(frozen=True, slots=True)
class Printer:
    """Prints with the spec's names (through `name`); names in `free` may be overwritten at their only read."""

    name: Callable[[str], str]
    free: frozenset[str] = field(default=frozenset())

    def piece(self, value: Expression) -> Piece:
        """The printed form of a value."""
        match value:
            case Constant(value=bool() as literal):
                return Piece(str(literal), tensor=False)
            case Constant(value=int() | float() as literal):
                return Piece(python_number(float(literal)), tensor=False)
            case Read(symbol=symbol):
                tensor = symbol.role not in (Role.SCALAR, Role.FLAG, Role.HYPER)
                return Piece(self.name(symbol.name), tensor=tensor, root=symbol.name if symbol.name in self.free else None)
            case Apply(operation=operation, arguments=arguments):
                return self._apply(operation, arguments)
        raise TypeError(f"not a value: {value!r}")

    def _apply(self, operation: str, arguments: tuple[Expression, ...]) -> Piece:
        if operation in ("add", "sub"):
            scaled = self._scaled_sum(operation, arguments[0], arguments[1])
            if scaled is not None:
                return scaled
        if operation == "pow" and isinstance(arguments[1], Constant) and arguments[1].value == 2:
            base = self.piece(arguments[0])
            if base.tensor:
                return self._chain(base, "square", "")
        pieces = tuple(self.piece(a) for a in arguments)
        if operation == "where":
            return self._where(*pieces)
        if not any(p.tensor for p in pieces):
            return self._numbers(operation, pieces)
        if operation in _METHOD:
            return self._chain(pieces[0], operation, "")
        if operation == "sign":
            return self._sign(pieces[0])
        if operation in LOGIC:
            return self._logic(operation, pieces)
        if operation in COMPARISONS:
            text = f"{pieces[0].within(31)} {_SYMBOL[operation]} {pieces[1].within(31)}"
            return Piece(text, _PRECEDENCE[operation], fresh=True)
        if operation in ("min", "max"):
            return self._bound(operation, *pieces)
        if operation in _PRECEDENCE:
            return self._arithmetic(operation, *pieces)
        return self._function({"mod": "remainder"}.get(operation, operation), pieces)

    # --- sums of scaled terms -------------------------------------------------------------------------------------------------

    def _scaled_sum(self, operation: str, left: Expression, right: Expression) -> Piece | None:
        """`x + s*y`, `x + s*(y*z)` and `x + s*(y/z)` without a temporary for the term."""
        start, term = left, right
        if operation == "add" and self._factor(right) is None and self._factor(left) is not None:
            start, term = right, left
        factor = self._factor(term)
        if factor is None:
            return None
        scale, inner = factor
        first = self.piece(start)
        if not first.tensor or (operation == "add" and not first.free and self.piece(term).free):
            return None
        method, minus = operation, "-" if operation == "sub" else ""
        match inner:
            case Apply(operation="mul", arguments=(y, z)):
                a, b = self.piece(y), self.piece(z)
            case Apply(operation="pow", arguments=(Read() as y, Constant(value=2))):
                a = b = Piece(self.piece(y).text, tensor=True)
            case Apply(operation="div", arguments=(y, z)):
                a, b = self.piece(y), self.piece(z)
                if a.tensor and b.tensor:
                    return self._chain(first, "addcdiv", f"{a.text}, {b.text}, value={minus}{scale.atom}")
                a = b = Piece("", tensor=False)
            case _:
                a = b = Piece("", tensor=False)
        if a.tensor and b.tensor:
            return self._chain(first, "addcmul", f"{a.text}, {b.text}, value={minus}{scale.atom}")
        return self._chain(first, method, f"{self.piece(inner).text}, alpha={scale.text}")

    def _factor(self, term: Expression) -> tuple[Piece, Expression] | None:
        """(scalar, tensor expression) of a product of the two."""
        if isinstance(term, Apply) and term.operation == "mul":
            for scale, inner in (term.arguments, term.arguments[::-1]):
                if not self.piece(scale).tensor and self.piece(inner).tensor:
                    return self.piece(scale), inner
        return None

    # --- operations -----------------------------------------------------------------------------------------------------------

    def _chain(self, start: Piece, method: str, arguments: str) -> Piece:
        if start.free:
            return Piece(f"{start.atom}.{method}_({arguments})", fresh=start.fresh, root=start.root)
        return Piece(f"{start.atom}.{method}({arguments})", fresh=True)

    def _arithmetic(self, operation: str, left: Piece, right: Piece) -> Piece:
        if left.free:
            return self._chain(left, operation, right.text)
        if right.free and operation in ("add", "mul"):
            return self._chain(right, operation, left.text)
        if right.free and left.tensor:
            return self._function(operation, (left, right))
        if right.free:
            inverse = "neg_" if operation == "sub" else "reciprocal_"
            inverted = Piece(f"{right.atom}.{inverse}()", _ATOM, True, right.fresh, right.root)
            return self._chain(inverted, "add" if operation == "sub" else "mul", left.text)
        level = _PRECEDENCE[operation]
        joint = _SYMBOL[operation] if level == _PRODUCT else f" {_SYMBOL[operation]} "
        return Piece(f"{left.within(level)}{joint}{right.within(level + 1)}", level, fresh=True)

    def _function(self, function: str, pieces: tuple[Piece, ...]) -> Piece:
        listed = ", ".join(p.text for p in pieces)
        for piece in pieces:
            if piece.free and all(p.tensor for p in pieces) and piece.root is not None and piece.text == self.name(piece.root):
                return Piece(f"torch.{function}({listed}, out={piece.text})", root=piece.root)
        if function == "atan2" and not all(p.tensor for p in pieces):
            other = next(p for p in pieces if p.tensor)
            listed = ", ".join(p.text if p.tensor else f"torch.full_like({other.text}, {p.text})" for p in pieces)
        return Piece(f"torch.{function}({listed})", fresh=True)

    def _bound(self, operation: str, left: Piece, right: Piece) -> Piece:
        if left.tensor and right.tensor:
            return self._function(f"{operation}imum", (left, right))
        tensor, number = (left, right) if left.tensor else (right, left)
        return self._chain(tensor, "clamp_min" if operation == "max" else "clamp_max", number.text)

    def _sign(self, piece: Piece) -> Piece:
        # torch.sign(NaN) is 0; the language keeps NaN. x/|x| would need a guard at 0, so: sign(x) + (x - x) is wrong at inf;
        # copying NaN back is exact everywhere.
        return Piece(f"sign({piece.text})", fresh=True)

    def _logic(self, operation: str, pieces: tuple[Piece, ...]) -> Piece:
        if operation == "not":
            return Piece(f"~{pieces[0].atom}", fresh=True)
        word = " & " if operation == "and" else " | "
        return Piece(word.join(p.atom for p in pieces), _LOOSE, fresh=True)

    def _where(self, condition: Piece, yes: Piece, no: Piece) -> Piece:
        if not condition.tensor:
            if yes.tensor != no.tensor:  # both sides must answer to tensor methods
                yes, no = (p if p.tensor else Piece(f"{self.name('theta')}.new_full((), {p.text})") for p in (yes, no))
            text = f"({yes.text} if {condition.text} else {no.text})"
            return Piece(text, tensor=yes.tensor or no.tensor)
        if not yes.tensor and not no.tensor:
            return Piece(f"torch.where({condition.text}, {self.name('theta')}.new_full((), {yes.text}), {no.text})", fresh=True)
        return Piece(f"torch.where({condition.text}, {yes.text}, {no.text})", fresh=True)

    def _numbers(self, operation: str, pieces: tuple[Piece, ...]) -> Piece:
        """Flags combined; arithmetic on host values never reaches a kernel."""
        if operation == "not":
            return Piece(f"not {pieces[0].atom}", _LOOSE, tensor=False)
        if operation in LOGIC:
            return Piece(f" {operation} ".join(p.atom for p in pieces), _LOOSE, tensor=False)
        if operation in _PRECEDENCE:
            left, right = pieces
            return Piece(f"{left.atom}{_SYMBOL[operation]}{right.atom}", _PRECEDENCE[operation], tensor=False)
        return Piece(f"ieee.{operation}({', '.join(p.text for p in pieces)})", tensor=False)
