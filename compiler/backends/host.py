"""Host programs and conditions as Python: float64, IEEE rules, nothing raises."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from optc.compiler.backends.exprs import Dialect, print_expression, python_number
from optc.compiler.backends.names import PYTHON, Namer
from optc.compiler.ir import expressions, reads, statements
from optc.compiler.plan import Plan, ProcedurePlan
from optc.dsl.program import Apply, Branch, Constant, Declares, Expression, HyperKind, Let, Role, Statement, Store, Symbol
from optc.dsl.source import NOWHERE, Source

INDENT = "    "
_LOGIC = {"or": ("or", 10), "and": ("and", 15), "not": ("not ", 20)}


def _eq(left: str, right: str) -> str:
    return f"({left} is None)" if right == "None" else f"({left} == {right})"


def _ne(left: str, right: str) -> str:
    return f"({left} is not None)" if right == "None" else f"({left} != {right})"


_CALLS: dict[str, Callable[..., str]] = {
    "div": "ieee.div({}, {})".format,
    "pow": "ieee.pow({}, {})".format,
    "mod": "ieee.mod({}, {})".format,
    "min": "ieee.minimum({}, {})".format,
    "max": "ieee.maximum({}, {})".format,
    "atan2": "ieee.atan2({}, {})".format,
    "round_bf16": "ieee.round_bf16({}, {})".format,
    "where": "({1} if {0} else {2})".format,
    "eq": _eq,
    "ne": _ne,
    **{f: f"ieee.{f}({{}})".format for f in ("sqrt", "exp", "log", "sin", "cos", "cospi", "tanh", "sign", "floor")},
    "abs": "abs({})".format,
}


def dialect(program: Declares, name: Callable[[str], str]) -> Dialect:
    """Python spelling; a `none`-able number reads as NaN where it is computed with."""
    optional = {n for h in program.hypers if h.optional for n in h.names}

    def symbol(symbol: Symbol) -> str:
        text = name(f"new_{symbol.name}" if symbol.role is Role.NEW else symbol.name)
        return f"ieee.number({text})" if symbol.role is Role.HYPER and symbol.name in optional else text

    def test(operation: Callable[[str, str], str]) -> Callable[[str, str], str]:
        def compare(left: str, right: str) -> str:
            if right == "None":
                left = left.removeprefix("ieee.number(").removesuffix(")") if left.startswith("ieee.number(") else left
            return operation(left, right)

        return compare

    calls = {**_CALLS, "eq": test(_eq), "ne": test(_ne)}
    return Dialect(calls, symbol, python_number, str, _LOGIC)


def line_comment(statement: Statement, source: Source) -> str:
    """`  # 17`: the line of the spec this statement stands for."""
    return "" if statement.span is NOWHERE or statement.span == NOWHERE else f"  # {source.position(statement.span.start)[0]}"


def emit_host(procedure: ProcedurePlan, plan: Plan) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(annotated parameters, lines of the body) of a procedure's host program."""
    arguments = host_arguments(procedure, plan)
    namer = Namer(PYTHON | {"ieee", "nan"})
    spelled = dialect(plan.program, namer)
    lines = list(block(procedure.host.body, spelled, plan.program.source, ""))
    lines.append("return (")
    exported = procedure.host
    for title, names in (("scalars", exported.scalars), ("flags", exported.flags), ("carried", exported.carried)):
        if not names:
            lines.append(f"{INDENT}(),  # {title}")
            continue
        lines += [f"{INDENT}(  # {title}", *(f"{INDENT * 2}{namer(n)}," for n in names), f"{INDENT}),"]
    lines.append(")")
    return tuple(
        f"{namer(a)}: {annotation(a, plan.program, [state.name for state in plan.program.states])}" for a in arguments
    ), tuple(lines)


def annotation(argument: str, program: Declares, states: Iterable[str] = ()) -> str:
    if argument in {"bf16", *(f"new_{state}" for state in states)}:
        return "bool"
    for hyper in program.hypers:
        if argument in hyper.names:
            python = {HyperKind.FLAG: "bool", HyperKind.CHOICE: "str"}.get(hyper.kind, "float")
            return f"{python} | None" if hyper.optional else python
    return "float"


def host_arguments(procedure: ProcedurePlan, plan: Plan) -> tuple[str, ...]:
    """What the host program is called with: hypers by inside name, `t`, `numel`, `ndim`, `bf16`, `new_<state>`, host states."""
    wanted = {
        f"new_{r.symbol.name}" if r.symbol.role is Role.NEW else r.symbol.name
        for e in expressions(procedure.host.body)
        for r in reads(e)
        if r.symbol.role is not Role.LOCAL
    }
    bound = {s.target.name for s in statements(procedure.host.body) if isinstance(s, Let | Store)}
    wanted |= {n for n in (*procedure.host.scalars, *procedure.host.flags) if n not in bound} | set(procedure.host.carried)
    order = [n for h in plan.program.hypers for n in h.names] + ["t", "numel", "ndim", "bf16"]
    order += [f"new_{s.name}" for s in plan.program.states] + [s.name for s in plan.program.states if s.host]
    return tuple(n for n in order if n in wanted)


def block(body: Iterable[Statement], spelled: Dialect, source: Source, indent: str = "") -> Iterable[str]:
    """Statements as lines of Python, each with the line of the spec that it stands for."""
    for statement in body:
        comment = line_comment(statement, source)
        match statement:
            case Let(target=target, value=value) | Store(target=target, value=value):
                yield f"{indent}{spelled.name(target)} = {top(value, spelled)}{comment}"
            case Branch():
                yield from _conditional(statement, spelled, source, indent, "if")


def _conditional(branch: Branch, spelled: Dialect, source: Source, indent: str, word: str) -> Iterable[str]:
    then, otherwise, condition = branch.then, branch.otherwise, branch.condition
    if not then:  # only the other side has host code
        then, otherwise = otherwise, ()
        condition = Apply("not", (condition,), condition.type, condition.span)
    yield f"{indent}{word} {top(condition, spelled)}:{line_comment(branch, source)}"
    yield from block(then, spelled, source, indent + INDENT)
    if len(otherwise) == 1 and isinstance(otherwise[0], Branch):
        yield from _conditional(otherwise[0], spelled, source, indent, "elif")
    elif otherwise:
        yield f"{indent}else:"
        yield from block(otherwise, spelled, source, indent + INDENT)


def top(expression: Expression, spelled: Dialect) -> str:
    """The printed expression without the outer brackets that comparisons bring."""
    text = print_expression(expression, spelled)
    bracketed = isinstance(expression, Apply) and expression.operation in ("eq", "ne", "where")
    return text[1:-1] if bracketed and text.startswith("(") and text.endswith(")") else text


def emit_condition(condition: Expression, program: Declares) -> tuple[str, tuple[str, ...]]:
    """(a lambda, its arguments) for a requirement or static condition over hypers and shapes, or one over static flags."""
    if isinstance(condition, Constant):
        return f"lambda: {condition.value}", ()
    symbols = list(dict.fromkeys(r.symbol for r in reads(condition)))
    names = {s.name for s in symbols if s.role is not Role.FLAG}
    order = [n for h in program.hypers for n in h.names] + ["numel", "ndim", "bf16"]
    arguments = (*(n for n in order if n in names), *(s.name for s in symbols if s.role is Role.FLAG))
    namer = Namer(PYTHON | {"ieee"})
    spelled = dialect(program, namer)
    head = ", ".join(namer(a) for a in arguments)
    return f"lambda {head}: {top(condition, spelled)}" if head else f"lambda: {top(condition, spelled)}", arguments
