"""Readable names for hoisted values: `1 - β1` is `one_minus_beta1`, `1/(1 - β1^t)` is `inverse_bias_beta1`; never `tmp0`."""

from __future__ import annotations

from optc.dsl.draws import WORD
from optc.dsl.program import Apply, Constant, Expression, Read, Role

LONGEST = 44

_COMPARE = {"lt": "lt", "le": "le", "gt": "gt", "ge": "ge", "eq": "is", "ne": "is_not"}
_NUMBERS = {0.0: "zero", 1.0: "one", 2.0: "two", 3.0: "three", 4.0: "four", 0.5: "half"}


def describe(expression: Expression, fallback: str) -> str:
    """A name for the value of an expression; `fallback` where a telling one would be too long."""
    name = _describe(expression)
    if name is None or len(name) > LONGEST:
        return fallback
    return f"n{name}" if name[0].isdigit() else name


def _describe(expression: Expression) -> str | None:
    match expression:
        case Read(symbol=symbol):
            return f"new_{symbol.name}" if symbol.role is Role.NEW else symbol.name
        case Constant(value=bool() as value):
            return "true" if value else "false"
        case Constant(value=None):
            return "none"
        case Constant(value=str() as value):
            return "".join(c if c.isalnum() and c.isascii() else "_" for c in value)
        case Constant(value=int() | float() as value):
            return _NUMBERS.get(float(value)) or (f"{value:g}".replace(".", "p").replace("-", "m").replace("+", ""))
        case Apply(operation=operation, arguments=arguments):
            return _operation(operation, arguments)
    return None


def _operation(operation: str, arguments: tuple[Expression, ...]) -> str | None:
    if operation in ("floor", "mod") and (words := _words(operation, arguments)) is not None:
        return words
    if operation == "sub" and _is(arguments[0], 1.0) and _power_of_t(arguments[1]) is not None:
        return f"bias_{_power_of_t(arguments[1])}"
    parts = [_describe(a) for a in arguments]
    if any(p is None for p in parts):
        return None
    first = str(parts[0])
    second = str(parts[1]) if len(parts) > 1 else ""
    match operation:
        case "neg":
            return f"minus_{first}"
        case "add":
            return f"{first}_plus_{second}"
        case "sub":
            return f"{first}_minus_{second}"
        case "mul":
            return f"{first}_{second}"
        case "div":
            return f"inverse_{second}" if _is(arguments[0], 1.0) else f"{first}_over_{second}"
        case "pow":
            return f"{first}_pow_{second}"
        case "not":
            return f"not_{first}"
        case "and" | "or":
            return f"{first}_{operation}_{second}"
        case "where":
            return None
        case "pick":
            return first
    if operation in _COMPARE:
        return f"{first}_{_COMPARE[operation]}_{second}"
    return "_".join([operation, *(str(p) for p in parts)])


def _words(operation: str, arguments: tuple[Expression, ...]) -> str | None:
    """The halves of a large whole number that random numbers are drawn with (`dsl/draws.py`): `seed_low` and `seed_high`."""
    if operation == "floor":
        match arguments[0]:
            case Apply(operation="div", arguments=(Read(symbol=symbol), divisor)) if _is(divisor, WORD):
                return f"{symbol.name}_high"
        return None
    match arguments:
        case (Read(symbol=symbol), divisor) if _is(divisor, WORD):
            return f"{symbol.name}_low"
        case (Apply(operation="floor", arguments=inner), divisor) if _is(divisor, WORD):
            return _words("floor", inner)
    return None


def _is(expression: Expression, value: float) -> bool:
    return isinstance(expression, Constant) and not isinstance(expression.value, bool) and expression.value == value


def _power_of_t(expression: Expression) -> str | None:
    if isinstance(expression, Apply) and expression.operation == "pow":
        base, exponent = expression.arguments
        if isinstance(base, Read) and isinstance(exponent, Read) and exponent.symbol.role is Role.STEP:
            return base.symbol.name
    return None
