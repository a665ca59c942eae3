"""The canonical text of expressions, in ASCII or in mathematical spelling."""

from __future__ import annotations

from functools import partial

from optc.dsl import literals, nodes
from optc.dsl.names import pretty

# Precedence, loosest first. A part is bracketed where its level is below what its place needs.
_OR, _AND, _NOT, _COMPARISON, _SUM, _PRODUCT, _SIGN, _POWER, _POSTFIX, _ATOM = range(10)
_LEVELS: dict[str, int] = (
    {"or": _OR, "and": _AND, "^": _POWER}
    | dict.fromkeys(("<", "<=", ">", ">=", "==", "!="), _COMPARISON)
    | dict.fromkeys(("+", "-"), _SUM)
    | dict.fromkeys(("*", "/", "@", "mod"), _PRODUCT)
)
_TIGHT = frozenset("*/^")
_MATHEMATICAL = {"*": "·", "<=": "≤", ">=": "≥", "!=": "≠", "and": "∧", "or": "∨"}
_FENCES = {"abs": ("|", "|"), "norm": ("‖", "‖"), "floor": ("⌊", "⌋"), "dot": ("⟨", "⟩")}
_FENCED_ARGUMENTS = {"abs": 1, "norm": 1, "floor": 1, "dot": 2}
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


class ExpressionPrinter:
    """Names and expressions in one spelling."""

    def __init__(self, mathematical: bool) -> None:
        self.mathematical = mathematical

    def name(self, identity: str) -> str:
        return pretty(identity) if self.mathematical else identity

    def expression(self, expression: nodes.Expression, needed: int = _OR) -> str:
        """The text of an expression in a place that takes at least the level `needed` without brackets."""
        text, level = self.leveled(expression)
        return f"({text})" if level < needed else text

    def leveled(self, expression: nodes.Expression) -> tuple[str, int]:
        match expression:
            case nodes.Number(value=value):
                return literals.write_number(value), _ATOM
            case nodes.Boolean(value=truth):
                return "true" if truth else "false", _ATOM
            case nodes.Text(value=text):
                return literals.write_text(text), _ATOM
            case nodes.Nothing():
                return "none", _ATOM
            case nodes.Name(id=identity):
                return self.name(identity), _ATOM
            case nodes.Index(value=value, index=index):
                return f"{self.expression(value, _POSTFIX)}[{self.expression(index)}]", _POSTFIX
            case nodes.Unary():
                return self.unary(expression)
            case nodes.Binary():
                return self.binary(expression)
            case nodes.Call():
                return self.call(expression)

    def unary(self, unary: nodes.Unary) -> tuple[str, int]:
        if unary.operator == "'":
            return self.expression(unary.operand, _POSTFIX) + ("ᵀ" if self.mathematical else "'"), _POSTFIX
        if unary.operator == "not":
            return f"not {self.expression(unary.operand, _NOT)}", _NOT
        return f"-{self.expression(unary.operand, _SIGN)}", _SIGN

    def binary(self, binary: nodes.Binary) -> tuple[str, int]:
        operator, level = binary.operator, _LEVELS[binary.operator]
        if operator == "^":
            base = self.expression(binary.left, _POSTFIX)
            raised = _superscript(binary.right) if self.mathematical else None
            return base + (f"^{self.expression(binary.right, _SIGN)}" if raised is None else raised), level
        # A comparison takes no comparison on either side; all others group to the left.
        left = self.expression(binary.left, level + (level == _COMPARISON))
        right = self.expression(binary.right, level + 1)
        sign = _MATHEMATICAL.get(operator, operator) if self.mathematical else operator
        return left + (sign if operator in _TIGHT else f" {sign} ") + right, level

    def call(self, call: nodes.Call) -> tuple[str, int]:
        listed = partial(map, self.expression)
        if self.mathematical and call.function == "sqrt" and len(call.arguments) == 1:
            argument = call.arguments[0]
            nested = isinstance(argument, nodes.Call) and argument.function == "sqrt"
            return "√" + self.expression(argument, _SIGN if nested else _ATOM), _SIGN
        if self.mathematical and _FENCED_ARGUMENTS.get(call.function) == len(call.arguments):
            opening, closing = _FENCES[call.function]
            return opening + ", ".join(listed(call.arguments)) + closing, _ATOM
        return f"{self.name(call.function)}({', '.join(listed(call.arguments))})", _ATOM


def _superscript(exponent: nodes.Expression) -> str | None:
    if isinstance(exponent, nodes.Number) and isinstance(exponent.value, int):
        return str(exponent.value).translate(_SUPERSCRIPTS)
    if isinstance(exponent, nodes.Unary) and exponent.operator == "-" and isinstance(exponent.operand, nodes.Number):
        raised = _superscript(exponent.operand)
        return None if raised is None else "⁻" + raised
    return None
