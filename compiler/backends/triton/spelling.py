"""How Triton spells expressions: the primitives of `optc.runtime.gpu`, and constants that keep their precision.

Triton gives a bare number the dtype of the other operand, but an argument of a function has no other operand: there a constant
is written `tl.full((), 0.1, real)`, or it would be rounded to float32 in float64 code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from optc.compiler.backends.exprs import Dialect, print_expression, python_number
from optc.compiler.backends.names import PYTHON
from optc.compiler.ir import reads
from optc.dsl.kinds import Sort
from optc.dsl.program import DRAW, LOGIC, Apply, Constant, Expression, Read, Role, Symbol

_UNARY = ("sqrt", "square", "neg", "sign", "floor", "exp", "log", "sin", "cos", "cospi", "tanh")
_BINARY = {o: o for o in ("div", "mod", "pow", "atan2", "round_bf16")} | {"min": "minimum", "max": "maximum"}
RESERVED = PYTHON | {
    "tl",
    "gpu",
    "gpu_codes",
    "gpu_pairs",
    "gpu_signs",
    "triton_kernel",
    "libdevice",
    "float",
    "range",
    "real",
    "mask",
}
"""Names that no value of a spec may have in a kernel."""

_CALLS: dict[str, Callable[..., str]] = {
    **{o: f"gpu.{o}({{}})".format for o in _UNARY},
    **{o: f"gpu.{name}({{}}, {{}})".format for o, name in _BINARY.items()},
    DRAW: f"gpu.{DRAW}({{}}, {{}}, {{}}, {{}}, {{}}, {{}}, mask is None)".format,
    "abs": "tl.abs({})".format,
    "where": "tl.where({}, {}, {})".format,
    "choose": "({1} if {0} else {2})".format,
}
_NEED_TYPES = frozenset({*_UNARY, *_BINARY, DRAW, "abs"})
_ELEMENTWISE = {"or": ("|", 40), "and": ("&", 44), "not": ("~", 75)}
_SCALAR = {"or": ("or", 10), "and": ("and", 15), "not": ("not ", 20)}
_VERBATIM = "\0"


class Spelling:
    """Prints expressions for one scope.

    `spell` spells names, `real` is the arithmetic dtype as the scope calls it, `static` says whether a condition is known when
    the kernel is compiled: then `where` prints as Python's conditional, whose other side is never looked at.
    """

    def __init__(self, spell: Callable[[str], str], real: str, static: Callable[[Expression], bool]) -> None:
        def symbol(symbol: Symbol) -> str:
            if symbol.name.startswith(_VERBATIM):
                return symbol.name.removeprefix(_VERBATIM)
            return spell(f"new_{symbol.name}" if symbol.role is Role.NEW else symbol.name)

        self.spell = spell
        self._real = real
        self._static = static
        self._values = Dialect(_CALLS, symbol, python_number, str, _ELEMENTWISE)
        self._conditions = Dialect(_CALLS, symbol, python_number, str, _SCALAR)

    def value(self, expression: Expression) -> str:
        """An expression over elements or lanes."""
        text = print_expression(self._settled(expression), self._values)
        bracketed = isinstance(expression, Apply) and expression.operation == "where" and text.startswith("(")
        return text[1:-1] if bracketed else text

    def condition(self, expression: Expression) -> str:
        """A condition over flags, for `if`."""
        return print_expression(expression, self._conditions)

    def _settled(self, expression: Expression) -> Expression:
        if not isinstance(expression, Apply):
            return expression
        if expression.operation in LOGIC and all(r.symbol.role is Role.FLAG or self._static(r) for r in reads(expression)):
            # `~` on a compile-time flag would be -2, which is true
            return _verbatim(f"({self.condition(expression)})", expression)
        operation, arguments = expression.operation, expression.arguments
        if operation == "where" and self._static(arguments[0]):
            choice = replace(expression, arguments=(_verbatim(self.condition(arguments[0]), arguments[0]), *arguments[1:]))
            return self._arguments_settled(replace(choice, operation="choose"))
        if operation == "pow" and isinstance(arguments[1], Constant) and arguments[1].value == 2:
            return self._arguments_settled(replace(expression, operation="square", arguments=arguments[:1]))
        return self._arguments_settled(expression)

    def _arguments_settled(self, expression: Apply) -> Expression:
        arguments = tuple(self._settled(a) for a in expression.arguments)
        constant = [next(reads(a), None) is None for a in arguments]
        if expression.operation in _NEED_TYPES or (expression.operation in ("where", "choose") and all(constant[1:])):
            arguments = tuple(
                self._typed(a) if c else self._with_typed_sides(a) for a, c in zip(arguments, constant, strict=True)
            )
        return replace(expression, arguments=arguments)

    def _with_typed_sides(self, expression: Expression) -> Expression:
        """A choice of which a side is a constant may be nothing else in a variant."""
        if not isinstance(expression, Apply) or expression.operation != "choose":
            return expression
        condition, *sides = expression.arguments
        typed = (self._typed(s) if next(reads(s), None) is None else self._with_typed_sides(s) for s in sides)
        return replace(expression, arguments=(condition, *typed))

    def _typed(self, expression: Expression) -> Expression:
        kind = "tl.int1" if expression.type.sort is Sort.BOOL else self._real
        return _verbatim(f"tl.full((), {print_expression(expression, self._values)}, {kind})", expression)


def _verbatim(text: str, expression: Expression) -> Expression:
    """Something already printed, in an expression's place."""
    return Read(Symbol(Role.LOCAL, _VERBATIM + text), expression.type)
