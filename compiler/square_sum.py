"""Whether a step adds up the squares of the whole gradient before it changes anything, and whether it rescales it by them."""

from __future__ import annotations

from optc.compiler.ir import reads
from optc.compiler.plan import ProcedurePlan
from optc.dsl.program import GRADIENT, Apply, Constant, Expression, Let, Read, Symbol


def square_sum(procedure: ProcedurePlan) -> str | None:
    """The part that the first kernel leaves of Σg², over the gradient as it came, where this kernel writes nothing.

    With a total of it, inf and NaN are seen before anything has changed, and the norm of the gradient is known after the step.
    """
    first = procedure.phases[0]
    kernel = first.kernel
    if first.model is not None or kernel is None or not kernel.passes or any(s.writes for s in kernel.streams):
        return None
    if any(s.writes for one in kernel.passes for s in one.moves):
        return None
    totals = {part for phase in procedure.phases if phase.model is not None for _, part in phase.model.totals}
    for statement in kernel.passes[0].body:
        if isinstance(statement, Let) and statement.target == GRADIENT:
            return None  # what follows reads another gradient
        if isinstance(statement, Let) and statement.target.name in totals and _is_sum_of_squares(statement.value):
            return statement.target.name
    return None


def rescales(procedure: ProcedurePlan) -> bool:
    """Whether what follows reads a gradient that is rescaled by a total of `square_sum`, as where its norm is bounded.

    An optimizer that reads the total itself, for a step size of its own, does not.
    """
    part = square_sum(procedure)
    numbers: set[str] = set()
    for phase in procedure.phases if part is not None else ():
        if phase.model is not None and part in dict(phase.model.totals).values():
            numbers.update(phase.model.exports)
        derived: set[Symbol] = set()
        for statement in phase.kernel.body if phase.kernel is not None else ():
            if not isinstance(statement, Let):
                continue
            if any(read.symbol.name in numbers or read.symbol in derived for read in reads(statement.value)):
                derived.add(statement.target)
                if statement.target == GRADIENT:
                    return True
    return False


def _is_sum_of_squares(value: Expression) -> bool:
    if not isinstance(value, Apply) or value.operation != "sum":
        return False
    (inside,) = value.arguments
    if not isinstance(inside, Apply) or len(inside.arguments) != 2:
        return False
    left, right = inside.arguments
    power = inside.operation == "pow" and isinstance(right, Constant) and right.value == 2
    return _is_gradient(left) and (power or (inside.operation == "mul" and _is_gradient(right)))


def _is_gradient(value: Expression) -> bool:
    return isinstance(value, Read) and value.symbol == GRADIENT
