"""Short ways to write a spec, and to say what its checked program is."""

from __future__ import annotations

from optc.dsl.check import check
from optc.dsl.parse import parse
from optc.dsl.program import Apply, Branch, Constant, Expression, Let, Program, Read, Role, Statement, Stop, Store
from optc.dsl.source import Source


def program(text: str) -> Program:
    source = Source("right.opt", text)
    return check(parse(source), source)


def spec(*lines: str, hyper: str = "lr = 0.1", state: tuple[str, ...] = (), more: tuple[str, ...] = ()) -> Program:
    rows = ["optimizer X:", "    hyper:", *(f"        {h}" for h in hyper.split("\n"))]
    rows += ["    state:", *(f"        {s}" for s in state)] if state else []
    rows += ["    step:", *(f"        {line}" for line in lines), *(f"    {m}" for m in more)]
    return program("\n".join(rows) + "\n")


def text(value: Expression | Statement) -> str:
    """A compact notation, for comparing programs at a glance."""
    match value:
        case Constant(value=constant):
            return repr(constant)
        case Read(symbol=symbol):
            return f"new({symbol.name})" if symbol.role is Role.NEW else symbol.name
        case Apply(operation=operation, arguments=arguments):
            return f"{operation}({', '.join(map(text, arguments))})"
        case Let(target=target, value=bound):
            return f"{target.name} = {text(bound)}"
        case Store(target=target, value=stored):
            return f"{target.name} <- {text(stored)}"
        case Branch(condition=condition, then=then, otherwise=otherwise):
            return f"if {text(condition)} {{{lines(then)}}} else {{{lines(otherwise)}}}"
        case Stop():
            return "stop"


def lines(body: tuple[Statement, ...]) -> str:
    return "; ".join(map(text, body))


def body(checked: Program, procedure: int = 0) -> list[str]:
    return [text(s) for s in checked.procedures[procedure].body]


def value_of(checked: Program, name: str) -> Expression:
    """The value that a top-level line of the step gives a name."""
    return next(s.value for s in checked.procedures[0].body if isinstance(s, (Let, Store)) and s.target.name == name)
