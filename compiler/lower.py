"""Program -> Update: early ends become branches, and branches on what only the tensors tell become selections.

`if c: A; stop` followed by B is `if c: A else: B`. Where both sides of a branch go on but something inside may stop, what
follows is copied into both, so that every path through the result is a path through the program.
"""

from __future__ import annotations

from dataclasses import replace

from optc.compiler.ir import Update, UpdateProcedure
from optc.compiler.place import place
from optc.dsl.program import Branch, Program, Statement, Stop


def lower(program: Program) -> Update:
    """The program's procedures without `Stop`, placed (see `place.py`)."""
    bodies = (place(_without_stop(p.body), program) for p in program.procedures)
    procedures = (UpdateProcedure(p.name, p.inputs, p.every, b) for p, b in zip(program.procedures, bodies, strict=True))
    return Update(program, tuple(procedures))


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
