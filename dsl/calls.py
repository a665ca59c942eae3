"""Calls: primitives, `where`, `new`, and functions that are written out in place (formulas of the language, users' defines)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from optc.dsl import nodes
from optc.dsl.draws import uniform
from optc.dsl.functions import BUILTINS, REDUCING_ALONE
from optc.dsl.implication import is_constant, negation
from optc.dsl.kinds import SCALARS, Extent, Sort, Type
from optc.dsl.names import RESERVED_NAMES
from optc.dsl.picking import picked
from optc.dsl.program import PICK, Apply, Expression, Let, Read, Role, Symbol
from optc.dsl.reducing import reduced, total_in, waits_for_all
from optc.dsl.scope import MAX_DEPTH, MAX_INLINED, DefineEntry, Env, Local, Place, all_of, place_of, walk
from optc.dsl.typing_rules import joined, varying

if TYPE_CHECKING:
    from optc.dsl.infer import Inference


def call(inference: Inference, node: nodes.Call, env: Env) -> Expression | None:
    """The value of a call, typed and written out."""
    context = inference.context
    name, span = node.function, place_of(node, env)
    define = context.defines.get(name)
    builtin = BUILTINS.get(name)
    if define is not None:
        context.called.add(name)
        return _written_out(inference, node, define.node, define, env)
    if builtin is None:
        for argument in node.arguments:
            inference.infer(argument, env)
        context.unknown_name(name, span, {*BUILTINS, *context.defines}, "function")
        return None
    if builtin.refused is not None:
        for argument in node.arguments:
            inference.infer(argument, env)
        context.error("unsupported", builtin.refused, span)
        return None
    if len(node.arguments) == 1:
        builtin = REDUCING_ALONE.get(name, builtin)
    if builtin.formula is not None:
        return _written_out(inference, node, builtin.formula, None, env)
    if not _arity(inference, node, builtin.parameters, env):
        return None
    if name == "where":
        return _where(inference, node, env)
    if name == "new":
        return _new(inference, node.arguments[0], env)
    if name == "uniform":
        return uniform(inference, node, env)
    arguments = [inference.number(a, env) for a in node.arguments]
    known = tuple(a for a in arguments if a is not None)
    if len(known) < len(arguments) or builtin.operation is None:
        return None
    if builtin.operation == PICK:
        kind = picked(context, *known)
        if kind is None:
            return None
        return inference.apply(PICK, known, kind, env.inlined_at or node.span)
    kind = joined(Sort.REAL, known)
    if builtin.reduces is not None:
        extent = reduced(inference, node, builtin.reduces, known[0], env)
        if extent is None:
            return None
        kind = Type(Sort.REAL, extent)
    return inference.apply(builtin.operation, known, kind, env.inlined_at or node.span)


def _arity(inference: Inference, node: nodes.Call, parameters: tuple[str, ...], env: Env) -> bool:
    given, wanted = len(node.arguments), len(parameters)
    if given == wanted:
        return True
    for argument in node.arguments:
        inference.infer(argument, env)
    message = f"`{node.function}` takes {wanted} argument{'s' if wanted != 1 else ''}, {given} given"
    inference.context.error("wrong-arity", message, place_of(node, env), f"write `{node.function}({', '.join(parameters)})`")
    return False


def _where(inference: Inference, node: nodes.Call, env: Env) -> Expression | None:
    condition = inference.condition(node.arguments[0], env)
    then_env = other_env = env
    if condition is not None and condition.type.static:  # only one side is ever evaluated: it may rely on the condition
        then_env, other_env = env.under(condition), env.under(negation(condition))
    then, otherwise = inference.infer(node.arguments[1], then_env), inference.infer(node.arguments[2], other_env)
    if condition is None or then is None or otherwise is None:
        return None
    return pick(inference, condition, then, otherwise, node, env)


def pick(
    inference: Inference, condition: Expression, then: Expression, otherwise: Expression, node: nodes.Node, env: Env
) -> Expression | None:
    """`where(condition, then, otherwise)` of typed arguments."""
    sort = then.type.sort
    if sort is not otherwise.type.sort or sort is Sort.CHOICE:
        message = "both sides must be numbers, or both conditions"
        inference.context.error(
            "expected-number", message, otherwise.span, "use `where(c, 1, 0)` for a number from a condition"
        )
        return None
    arguments = (condition, then, otherwise)
    if not waits_for_all(inference.context, condition, then, otherwise):
        return None
    return inference.apply("where", arguments, joined(sort, arguments), env.inlined_at or node.span)


def _new(inference: Inference, argument: nodes.Expression, env: Env) -> Expression | None:
    context = inference.context
    if not isinstance(argument, nodes.Name) or argument.id not in context.states or argument.id in env.locals:
        if isinstance(argument, nodes.Name) and inference.context.states and argument.id not in {*env.locals, *context.hypers}:
            context.unknown_name(argument.id, place_of(argument, env), context.states, "state")
            return None
        context.error("new-of-state", "`new` takes the name of a state", place_of(argument, env), "write `new(m)`")
        return None
    context.used.add(argument.id)
    if Role.NEW not in env.place.roles:
        message = f"`new` cannot be used in {env.place.title}"
        context.error("not-readable-here", message, place_of(argument, env), env.place.remedy or None)
        return None
    if not inference.exists(argument, env):
        return None
    if context.states[argument.id].extent is Extent.MODEL:
        hint = f"keep a count of its own: `k = 0 per {context.whole}`, and `k <- k + 1` as the first line"
        message = f"`new` asks about a parameter, this state is the whole {context.whole}'s"
        context.error("new-of-state", message, place_of(argument, env), hint)
        return None
    return Read(Symbol(Role.NEW, argument.id), Type(Sort.BOOL, Extent.TENSOR, host=True), env.inlined_at or argument.span)


# --- functions that are written out -------------------------------------------------------------------------------------------


def _written_out(
    inference: Inference, node: nodes.Call, define: nodes.Define, user: DefineEntry | None, env: Env
) -> Expression | None:
    if not _arity(inference, node, define.parameters, env):
        return None
    arguments = [inference.infer(a, env) for a in node.arguments]
    if (user is not None and not user.sound) or any(a is None for a in arguments):
        return None
    context, span = inference.context, env.inlined_at or node.span
    body = walk(define.body)
    if context.inlined > MAX_INLINED:
        return None
    context.inlined += len(body)
    if context.inlined > MAX_INLINED:
        message = f"the functions of this spec become more than {MAX_INLINED} operations when written out"
        context.error("too-large", message, span, "use fewer nested calls")
        return None
    place = env.place
    if user is not None:
        place = Place(place.title, place.roles & user.place.roles, place.remedy)
    inner = Env(
        place,
        path=env.path,
        emit=env.emit if user is not None else None,
        later=frozenset(bound_names(define.body)),
        inlined_at=span,
        prefix=define.name,
        narrow=env.narrow,
    )
    uses = Counter(n.id for n in body if isinstance(n, nodes.Name))
    for parameter, argument in zip(define.parameters, arguments, strict=True):
        named = uses[parameter] > 1 or (argument is not None and total_in(argument) is not None)  # totals are taken here
        inner.locals[parameter] = Local(_shared(inference, parameter, argument, inner) if named else argument)
    return run_define(inference, define, inner)


def _shared(inference: Inference, name: str, value: Expression | None, env: Env) -> Expression | None:
    """The value, under a name of its own in the enclosing block if it is an operation and there is a block."""
    if env.emit is None or not isinstance(value, Apply) or value.type.static or is_constant(value):
        return value
    symbol = Symbol(Role.LOCAL, inference.context.fresh(f"{env.prefix}_{name}"))
    env.emit.append(Let(symbol, value, env.inlined_at or value.span))
    return Read(symbol, value.type, value.span)


def run_define(inference: Inference, define: nodes.Define, env: Env) -> Expression | None:
    """The value that a define returns, its body's names taken from `env`. Its form has been checked."""
    _run_block(inference, define.body[:-1], env)
    last = define.body[-1]
    return inference.infer(last.value, env) if isinstance(last, nodes.Return) else None


def _run_block(inference: Inference, body: tuple[nodes.Statement, ...], env: Env) -> None:
    for statement in body:
        match statement:
            case nodes.Assign(targets=targets, value=value):
                values = value if isinstance(value, tuple) else (value,)
                if len(values) != len(targets):
                    inference.context.error("tuple-length", f"{len(targets)} names, {len(values)} values", statement.span)
                    values = ()
                found = [inference.infer(v, env) for v in values] or [None] * len(targets)
                for target, result in zip(targets, found, strict=True):
                    env.locals[target.id] = Local(_shared(inference, target.id, result, env))
                    env.partial.pop(target.id, None)
            case nodes.If():
                _run_if(inference, statement, env)


def _run_if(inference: Inference, node: nodes.If, env: Env) -> None:
    """A branch becomes a `where` for each name that it binds: a define has no effects."""
    if inference.depth >= MAX_DEPTH:
        inference.context.too_deep(place_of(node, env))
        return
    inference.depth += 1
    condition = block_condition(inference, node.condition, env)
    # values named inside a branch are substituted: outside of it they may not be defined
    then_env = env.under(condition)
    other_env = env.under(None if condition is None else negation(condition))
    _run_block(inference, node.then, then_env)
    _run_block(inference, node.otherwise, other_env)
    inference.depth -= 1
    for name in {**then_env.locals, **other_env.locals}:
        then, otherwise = then_env.locals.get(name), other_env.locals.get(name)
        if then is None or otherwise is None:
            env.partial[name] = node.span
            env.locals.pop(name, None)
        elif then is not otherwise:
            parts = all_of((condition, then.value, otherwise.value))
            value = None
            if parts is not None and condition is not None and then.value is not None and otherwise.value is not None:
                value = pick(inference, condition, then.value, otherwise.value, node, env)
            env.locals[name] = Local(value)


def block_condition(inference: Inference, node: nodes.Expression, env: Env) -> Expression | None:
    """The condition of an `if`: one value for the whole tensor."""
    condition = inference.condition(node, env)
    if condition is not None and condition.type.extent not in SCALARS:
        message = f"the condition of `if` is per {condition.type.extent.value}, it must be the same for the whole tensor"
        cause = varying(condition)
        hint = "use `where(condition, a, b)`, which picks element by element"
        inference.context.error("elem-condition", message, cause.span, hint)
        return None
    return condition


def bound_names(body: tuple[nodes.Statement, ...]) -> set[str]:
    """All names that a block binds with `=`, in it or further inside."""
    return {t.id for n in walk(body) if isinstance(n, nodes.Assign) for t in n.targets}


# --- declarations of defines --------------------------------------------------------------------------------------------------


def declare(inference: Inference, defines: tuple[nodes.Define, ...], place: Place) -> None:
    """Enters defines into the context, after checking their form (not yet what they say, see `check_bodies`)."""
    context = inference.context
    for node in defines:
        head = context.head(node, "define")
        if node.name in BUILTINS or node.name in RESERVED_NAMES:
            context.reserved(node.name, head)
            context.called.add(node.name)
            context.defines[node.name] = DefineEntry(node, place, sound=False)
            continue
        if node.name in context.defines:
            context.error("duplicate-name", f"the function `{node.name}` is defined twice", head)
            continue
        context.defines[node.name] = DefineEntry(node, place, well_formed(inference, node))
    calls_of = {
        name: {n.function for n in walk(entry.node.body) if isinstance(n, nodes.Call)} & set(context.defines)
        for name, entry in context.defines.items()
    }
    for name, entry in context.defines.items():
        if name in _reachable(calls_of, name) and entry.sound:
            message = f"`{name}` calls itself"
            context.error("recursive-define", message, context.head(entry.node, "define"), "a function is written out in place")
            context.defines[name] = replace(entry, sound=False)
        if not context.defines[name].sound:
            context.called |= calls_of[name]  # its body is not looked at further


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    stack = list(graph[start])
    while stack:
        name = stack.pop()
        if name not in seen:
            seen.add(name)
            stack.extend(graph[name])
    return seen


def well_formed(inference: Inference, node: nodes.Define) -> bool:
    """Whether a body is one of a function: it writes nothing, and ends in its only `return`."""
    context = inference.context
    before = len(context.diagnostics)
    head = context.head(node, "define")
    for index, parameter in enumerate(node.parameters):
        context.reserved(parameter, context.parameter(node, parameter))
        if parameter in node.parameters[:index]:
            context.error("duplicate-name", f"the parameter `{parameter}` occurs twice", head)
    targets = [t for n in walk(node.body) if isinstance(n, nodes.Assign) for t in n.targets if t.id not in node.parameters]
    first = {t.id: t.span for t in sorted(targets, key=lambda t: t.span.start, reverse=True)}
    for name, span in first.items():
        context.reserved(name, span)
    for inner in walk(node.body):
        match inner:
            case nodes.Write() | nodes.Every():
                hint = "return the value, and write it in `step`"
                context.error("impure-define", "a function writes nothing", inner.span, hint)
            case nodes.Stop():
                context.error("stop-in-define", "`stop` ends a step; a function has none", inner.span, "stop in `step` itself")
            case nodes.Return() if not node.body or inner is not node.body[-1]:
                context.error("misplaced-return", "`return` is the last line of a function", inner.span, "name the value first")
    if not node.body or not isinstance(node.body[-1], nodes.Return):
        context.error("missing-return", f"`{node.name}` does not end in `return`", head, "add `return value` as its last line")
    return len(context.diagnostics) == before


def check_bodies(inference: Inference) -> None:
    """Checks every define by itself, its arguments unknown; one with a mistake is not written out anywhere."""
    context = inference.context
    for name, entry in context.defines.items():
        if entry.sound:
            before = len(context.diagnostics)
            parameters = {p: Local(None) for p in entry.node.parameters}
            env = Env(entry.place, locals=parameters, later=frozenset(bound_names(entry.node.body)), prefix=name)
            run_define(inference, entry.node, env)
            uses = {n.id for n in walk(entry.node.body) if isinstance(n, nodes.Name)}
            for parameter in entry.node.parameters:
                if parameter not in uses:
                    span = context.head(entry.node, "define")
                    context.error("unused-local", f"nothing reads the parameter `{parameter}`", span, "take it out")
            if len(context.diagnostics) > before:
                context.defines[name] = replace(entry, sound=False)
