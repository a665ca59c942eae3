"""The tables of a kernel: where a pass or a stage finds the pointers of its streams, and what a column of statistics holds."""

from __future__ import annotations

from dataclasses import dataclass

from optc.compiler.ir import statements
from optc.compiler.plan import Kernel
from optc.compiler.storing import rows
from optc.dsl.kinds import PER_ELEMENT, Sort
from optc.dsl.program import Let, Role, Symbol

_NUMBERS = (Role.ELEMENT, Role.RUN_LENGTH, Role.RUN_STEP)
STAYING = (Role.THETA, Role.REST, Role.STATE, *_NUMBERS, Role.SCALE, Role.BOOK)
"""What does not change from step to step."""


@dataclass(frozen=True, slots=True)
class TableColumns:
    """Streams by column, in the order that `optc.runtime.triton_launch` fills them in.

    The table of residents ends with a tensor's length, the one of what varies with whether all addresses are aligned.
    """

    resident: tuple[str, ...]
    varying: tuple[str, ...]

    @staticmethod
    def of(kernel: Kernel) -> TableColumns:
        """θ, states of elements and picked ones, numbers of elements, then the rest of what stays; the gradient and inputs."""
        stays = [s for s in rows(kernel) if s.role in STAYING]
        numbers = [s.name for s in stays if s.extent not in PER_ELEMENT or s.role in (Role.SCALE, Role.BOOK)]
        resident = (*(s.name for s in stays if s.name not in numbers), *numbers)
        return TableColumns(resident, tuple(s.name for s in kernel.streams if s.role not in STAYING))


def sort_of(statistic: str, kernel: Kernel) -> Sort:
    """Whether a statistic is a number or a condition, which the table keeps as 1 or 0."""
    symbol = Symbol(Role.STATISTIC, statistic)
    bodies = [body for one in kernel.passes for body in (one.prepare, one.body, one.picked)]
    lines = (s for body in (*bodies, kernel.finish) for s in statements(body))
    return next((s.value.type.sort for s in lines if isinstance(s, Let) and s.target == symbol), Sort.REAL)
