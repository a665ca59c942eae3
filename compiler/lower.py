"""Program -> Update: early ends become branches.

`if c: A; stop` followed by B is `if c: A else: B`. Where both sides of a branch go on but something inside may stop, what
follows is copied into both, so that every path through the result is a path through the program.
"""

from __future__ import annotations

from dataclasses import replace

from optc.compiler.ir import Update, UpdateProcedure
from optc.dsl.program import Branch, Program, Statement, Stop


def lower(program: Program) -> Update:
    """The program's procedures without `Stop`."""
    return Update(
        program,
        tuple(UpdateProcedure(p.name, p.inputs, p.every, _without_stop(p.body)) for p in program.procedures),
    )


def _without_stop(body: tuple[Statement, ...]) -> tuple[Statement, ...]:
    result: list[Statement] = []
    for index, statement in enumerate(body):
        if isinstance(statement, Stop):
            break
        if isinstance(statement, Branch):
            if _may_stop(statement):
                rest = body[index + 1 :]
                then = _without_stop(statement.then + rest)
                otherwise = _without_stop(statement.otherwise + rest)
                result.append(replace(statement, then=then, otherwise=otherwise))
                break
            statement = replace(statement, then=_without_stop(statement.then), otherwise=_without_stop(statement.otherwise))
        result.append(statement)
    return tuple(result)


def _may_stop(statement: Statement) -> bool:
    match statement:
        case Stop():
            return True
        case Branch():
            return any(_may_stop(s) for s in statement.then + statement.otherwise)
    return False
