"""Update -> Update: rewrites that pay at every element, each kept only if it is proved.

Two rewrites, in this order:

- **fold**: literals are combined, and multiplication by 1, addition of 0 (to a host value) and double negation disappear;
- **collect**: in a product per element, all factors that are one number per tensor become one (`lr*m/c1` -> `(lr/c1)*m`), so
  that they are multiplied once in float64 instead of once per element in float32, and a division by a host value becomes a
  multiplication (by a measured one it stays: the inverse of a tiny norm may overflow where the quotient does not).

Error bound: `collect` replaces k roundings by host factors (and a rounded division) by one rounding of the combined factor and
one multiplication, so the result is within 1.5 ulp of the exact product, as the written order is for one factor.
Nothing is cancelled, distributed or reassociated across elements: `(x + y) - y`, `x/(√v + ε)` and guards against 0/0 stay.
"""

from __future__ import annotations

from dataclasses import replace

from optc.compiler import symbolic
from optc.compiler.ir import Update, map_expression, map_statements
from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.program import Apply, Constant, Expression


def simplify(update: Update) -> Update:
    """Rewrite every value of every procedure."""
    procedures = tuple(replace(p, body=map_statements(p.body, _rewrite)) for p in update.procedures)
    return replace(update, procedures=procedures)


def _rewrite(expression: Expression) -> Expression:
    folded = map_expression(expression, _fold)
    collected = map_expression(folded, _collect)
    if collected == expression:
        return expression
    return collected if symbolic.equivalent(expression, collected) else expression


# --- fold ---------------------------------------------------------------------------------------------------------------------


def _number(expression: Expression) -> float | None:
    value = expression.value if isinstance(expression, Constant) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _fold(expression: Expression) -> Expression:
    if not isinstance(expression, Apply) or expression.type.sort is not Sort.REAL:
        return expression
    numbers = [_number(a) for a in expression.arguments]
    if all(n is not None for n in numbers):
        value = symbolic.constant(expression)
        return expression if value is None else Constant(value, expression.type, expression.span)
    match expression.operation:
        case "neg":
            inner = expression.arguments[0]
            if isinstance(inner, Apply) and inner.operation == "neg":
                return inner.arguments[0]
        case "mul":
            if numbers[0] == 1.0:
                return expression.arguments[1]
            if numbers[1] == 1.0:
                return expression.arguments[0]
        case "div" | "pow" if numbers[1] == 1.0:
            return expression.arguments[0]
    return expression


# --- collect ------------------------------------------------------------------------------------------------------------------


def _collect(expression: Expression) -> Expression:
    """`expression` is a product seen from its top; inner products of the same chain have been collected already."""
    if not isinstance(expression, Apply) or expression.operation not in ("mul", "div") or _narrow(expression):
        return expression
    host_up: list[Expression] = []
    host_down: list[Expression] = []
    rest = _strip(expression, host_up, host_down)
    if rest is None or not (host_up or host_down):
        return expression
    if not host_down and len(host_up) == 1:
        factor = host_up[0]
    else:
        factor = _product(host_up)
        for divisor in host_down:
            factor = Apply("div", (factor, divisor), _join(factor, divisor), expression.span)
    return Apply("mul", (factor, rest), expression.type, expression.span)


def _strip(expression: Expression, host_up: list[Expression], host_down: list[Expression]) -> Expression | None:
    """Take the narrow factors out of a product; what is left, or None if nothing per element is left."""
    if _narrow(expression):
        host_up.append(expression)
        return None
    if isinstance(expression, Apply) and expression.operation == "mul":
        left = _strip(expression.arguments[0], host_up, host_down)
        right = _strip(expression.arguments[1], host_up, host_down)
        if left is None or right is None:
            return right if left is None else left
        return replace(expression, arguments=(left, right))
    if isinstance(expression, Apply) and expression.operation == "div":
        dividend, divisor = expression.arguments
        if divisor.type.host:
            left = _strip(dividend, host_up, host_down)
            host_down.append(divisor)
            return left
        if not _narrow(dividend):
            left = _strip(dividend, host_up, host_down)
            return replace(expression, arguments=(left, divisor)) if left is not None else expression
        # number / element, element / measured number: the quotient stays as written, a single rounding
    return expression


def _narrow(expression: Expression) -> bool:
    """Whether it is one number per tensor, or fewer."""
    return expression.type.extent.within(Extent.TENSOR)


def _join(left: Expression, right: Expression) -> Type:
    return Type(Sort.REAL, left.type.extent.join(right.type.extent), left.type.host and right.type.host)


def _product(factors: list[Expression]) -> Expression:
    if not factors:
        return Constant(1.0, Type(Sort.REAL, Extent.MODEL, host=True))
    product = factors[0]
    for factor in factors[1:]:
        product = Apply("mul", (product, factor), _join(product, factor), product.span)
    return product
