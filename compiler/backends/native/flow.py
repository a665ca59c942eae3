"""What the statements of a kernel bind, read and write, and under which flags."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from optc.compiler.ir import expressions
from optc.compiler.ir import reads as reads_of
from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.program import TRUE, Apply, Branch, Expression, Let, Read, Role, Statement, Store, Symbol

HOST_BOOL = Type(Sort.BOOL, Extent.TENSOR, host=True)


def locals_bound(statements: Sequence[Statement]) -> dict[Symbol, Sort]:
    """Locals and statistics bound anywhere in the statements."""
    found: dict[Symbol, Sort] = {}
    for statement in statements:
        match statement:
            case Let(target=Symbol(role=Role.LOCAL | Role.STATISTIC) as target, value=value):
                found[target] = value.type.sort
            case Branch(then=then, otherwise=otherwise):
                found |= locals_bound(then) | locals_bound(otherwise)
    return found


def bound_in(statements: Sequence[Statement], name: str) -> bool:
    """Whether `name` is given a value anywhere in the statements."""
    for statement in statements:
        match statement:
            case Let(target=target) | Store(target=target):
                if target.name == name:
                    return True
            case Branch(then=then, otherwise=otherwise):
                if bound_in(then, name) or bound_in(otherwise, name):
                    return True
    return False


def names_in(statements: Sequence[Statement]) -> set[str]:
    """Every name that is read or bound in the statements."""
    names: set[str] = set()
    for statement in statements:
        match statement:
            case Let(target=target, value=value) | Store(target=target, value=value):
                names |= {target.name} | _reads(value)
            case Branch(condition=condition, then=then, otherwise=otherwise):
                names |= _reads(condition) | names_in(then) | names_in(otherwise)
    return names


def reads_in(statements: tuple[Statement, ...]) -> Iterator[Read]:
    """Every read in the statements, in the order of the text."""
    for expression in expressions(statements):
        yield from reads_of(expression)


def _reads(expression: Expression) -> set[str]:
    return {read.symbol.name for read in reads_of(expression)}


def written_when(statements: Sequence[Statement], name: str) -> Expression | None:
    """The condition, over flags, under which the statements store `name`; TRUE for always, None for never."""
    return _when(statements, lambda statement: isinstance(statement, Store) and statement.target.name == name)


def bound_when(statements: Sequence[Statement], symbol: Symbol) -> Expression | None:
    """The same for a name that they bind."""
    return _when(statements, lambda statement: isinstance(statement, Let) and statement.target == symbol)


def _when(statements: Sequence[Statement], wanted: Callable[[Statement], bool]) -> Expression | None:
    when: Expression | None = None
    for statement in statements:
        match statement:
            case Let() | Store() if wanted(statement):
                return TRUE
            case Branch(condition=condition, then=then, otherwise=otherwise):
                yes, no = _when(then, wanted), _when(otherwise, wanted)
                if yes == TRUE and no == TRUE:
                    return TRUE
                if yes is not None:
                    when = _either(when, both(condition, yes))
                if no is not None:
                    when = _either(when, both(Apply("not", (condition,), HOST_BOOL), no))
    return when


def both(a: Expression, b: Expression) -> Expression:
    """`a and b`, shorter where that is clear."""
    if a in (TRUE, b):
        return b
    return a if b == TRUE else Apply("and", (a, b), HOST_BOOL)


def _either(a: Expression | None, b: Expression) -> Expression:
    return b if a is None or a == b else Apply("or", (a, b), HOST_BOOL)
