"""Expressions: names resolved, functions written out, every value typed."""

from __future__ import annotations

import math
from dataclasses import replace

from optc.dsl import calls, nodes, reducing
from optc.dsl.implication import is_constant, negation, static_part
from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.names import RESERVED_NAMES
from optc.dsl.picking import combine
from optc.dsl.program import (
    GRADIENT,
    LOSS,
    PICK,
    STEP,
    THETA,
    Apply,
    Expression,
    HyperKind,
    Read,
    Require,
    Role,
    Symbol,
)
from optc.dsl.scope import MAX_DEPTH, MAX_NODES, REQUIRE, Context, Env, Place, nearest, place_of
from optc.dsl.source import Span
from optc.dsl.typing_rules import constant, joined

ARITHMETIC = {"+": "add", "-": "sub", "*": "mul", "/": "div", "mod": "mod", "^": "pow"}
COMPARISON = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}

_CONSTANTS = {"pi": math.pi, "inf": math.inf}
_ELEM = Type(Sort.REAL, Extent.ELEM)
_COUNT = Type(Sort.REAL, Extent.TENSOR, host=True)
_SHAPE = Type(Sort.REAL, Extent.TENSOR, host=True, static=True)
_GIVEN = {
    "theta": Read(THETA, _ELEM),
    "g": Read(GRADIENT, _ELEM),
    "t": Read(STEP, _COUNT),
    "loss": Read(LOSS, Type(Sort.REAL, Extent.MODEL)),
    "ndim": Read(Symbol(Role.SHAPE, "ndim"), _SHAPE),
    "numel": Read(Symbol(Role.SHAPE, "numel"), _SHAPE),
    "bf16": Read(Symbol(Role.SHAPE, "bf16"), Type(Sort.BOOL, Extent.TENSOR, host=True, static=True)),
}


class Inference:
    """Types expressions of one spec. Its methods return None, after a diagnostic, for what is wrong."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.depth = 0
        self._measures: dict[int, tuple[Expression, int, int]] = {}  # by identity: the expression (kept alive), nodes, depth

    def infer(self, node: nodes.Expression, env: Env) -> Expression | None:
        """The typed expression; a number, a condition or a choice."""
        if self.depth >= MAX_DEPTH:
            self.context.too_deep(place_of(node, env))
            return None
        self.depth += 1
        try:
            return self._infer(node, env)
        finally:
            self.depth -= 1

    def number(self, node: nodes.Expression, env: Env) -> Expression | None:
        """As `infer`, and it must be a number."""
        return self._sorted(self.infer(node, env), Sort.REAL)

    def condition(self, node: nodes.Expression, env: Env) -> Expression | None:
        """As `infer`, and it must be a condition."""
        return self._sorted(self.infer(node, env), Sort.BOOL)

    def requires(self, written: tuple[nodes.Require, ...]) -> tuple[Require, ...]:
        """The requirements that are right; what is checked from here on may count on them."""
        found = [(node, self.condition(node.condition, Env(REQUIRE))) for node in written]
        checked = tuple(Require(condition, node.message, node.span) for node, condition in found if condition is not None)
        self.context.required = tuple(static_part(require.condition) for require in checked)
        return checked

    def apply(self, operation: str, arguments: tuple[Expression, ...], kind: Type, span: Span) -> Expression | None:
        """An operation, if its arguments combine and it is not too large."""
        if operation != PICK and not combine(self.context, arguments):
            return None
        result = Apply(operation, arguments, kind, span)
        measures = [self._measure(a) for a in arguments]
        size, depth = 1 + sum(m[0] for m in measures), 1 + max(m[1] for m in measures)
        if size > MAX_NODES or depth > 2 * MAX_DEPTH:
            self.context.error(
                "too-large", "this becomes too large with its functions written out", span, "use fewer nested calls"
            )
            return None
        self._measures[id(result)] = (result, size, depth)
        return result

    def _measure(self, expression: Expression) -> tuple[int, int]:
        if not isinstance(expression, Apply):
            return 1, 1
        known = self._measures.get(id(expression))
        if known is not None:
            return known[1], known[2]
        parts = [self._measure(a) for a in expression.arguments]  # a copy with another span: its parts are known
        size, depth = 1 + sum(p[0] for p in parts), 1 + max(p[1] for p in parts)
        self._measures[id(expression)] = (expression, size, depth)
        return size, depth

    def _sorted(self, value: Expression | None, sort: Sort) -> Expression | None:
        if value is None or value.type.sort is sort:
            return value
        if sort is Sort.REAL and value.type.sort is Sort.BOOL:
            self.context.error(
                "expected-number", "a number is needed here, this is a condition", value.span, "use `where(c, 1, 0)`"
            )
        elif sort is Sort.REAL:
            self.context.error(
                "expected-number", "a number is needed here, this is a choice", value.span, 'test it: `name == "text"`'
            )
        elif value.type.sort is Sort.REAL:
            self.context.error(
                "expected-condition", "a condition is needed here, this is a number", value.span, "compare it: `x != 0`"
            )
        else:
            self.context.error(
                "expected-condition", "a condition is needed here, this is a choice", value.span, 'use `name == "text"`'
            )
        return None

    def _infer(self, node: nodes.Expression, env: Env) -> Expression | None:
        span = env.inlined_at or node.span
        match node:
            case nodes.Number() | nodes.Boolean():
                return constant(node.value, span)
            case nodes.Name():
                return self.read(node, env)
            case nodes.Unary(operator="-", operand=operand):
                value = self.number(operand, env)
                return value and self.apply("neg", (value,), value.type, span)
            case nodes.Unary(operator="not", operand=operand):
                value = self.condition(operand, env)
                return value and self.apply("not", (value,), value.type, span)
            case nodes.Binary(operator=operator) if operator in ARITHMETIC:
                left, right = self.number(node.left, env), self.number(node.right, env)
                if left is None or right is None:
                    return None
                return self.apply(ARITHMETIC[operator], (left, right), joined(Sort.REAL, (left, right)), span)
            case nodes.Binary(operator="and" | "or"):
                return self._logic(node, env, span)
            case nodes.Binary(operator=operator) if operator in COMPARISON:
                return self._comparison(node, COMPARISON[operator], env, span)
            case nodes.Call():
                return calls.call(self, node, env)
            case nodes.Text() | nodes.Nothing():
                what = "a text" if isinstance(node, nodes.Text) else "`none`"
                self.context.error(
                    "literal-as-value", f"{what} is only ever compared with a hyper (`==`, `!=`)", place_of(node, env)
                )
                return None
        self._unsupported(node, env)
        return None

    def _unsupported(self, node: nodes.Expression, env: Env) -> None:
        parts: tuple[nodes.Expression, ...]
        match node:
            case nodes.Binary(left=left, right=right):
                what, parts = f"`{node.operator}` is matrix algebra; it", (left, right)
            case nodes.Index(value=value, index=index):
                what, parts = "indexing", (value, index)
            case _:
                what, parts = "transposing", (node.operand,) if isinstance(node, nodes.Unary) else ()
        for part in parts:
            self.infer(part, env)
        self.context.error("unsupported", f"{what} is not part of this version of the language", place_of(node, env))

    def _logic(self, node: nodes.Binary, env: Env, span: Span) -> Expression | None:
        left = self.condition(node.left, env)
        if left is not None and left.type.static:
            # where the left side settles it, the right side is never evaluated
            env = env.under(left if node.operator == "and" else negation(left))
        right = self.condition(node.right, env)
        if left is None or right is None or not reducing.waits_for_all(self.context, left, right):
            return None
        return self.apply(node.operator, (left, right), joined(Sort.BOOL, (left, right)), span)

    def _comparison(self, node: nodes.Binary, operation: str, env: Env, span: Span) -> Expression | None:
        if isinstance(node.left, (nodes.Text, nodes.Nothing)):
            return self._choice_test(node, node.right, node.left, operation, env, span)
        if isinstance(node.right, (nodes.Text, nodes.Nothing)):
            return self._choice_test(node, node.left, node.right, operation, env, span)
        left, right = self.infer(node.left, env), self.infer(node.right, env)
        for side in (left, right):
            if side is not None and side.type.sort is Sort.BOOL and node.operator in ("==", "!="):
                hint = "combine conditions with `and`, `or`, `not`"
                self.context.error("expected-number", "a number is needed here, this is a condition", side.span, hint)
                return None
        left, right = self._sorted(left, Sort.REAL), self._sorted(right, Sort.REAL)
        if left is None or right is None:
            return None
        kind = joined(Sort.BOOL, (left, right))
        sides = ((left, right), (right, left))
        if any(isinstance(a, Read) and self._settles(a.symbol) and is_constant(b) for a, b in sides):
            kind = replace(kind, static=True)
        return self.apply(operation, (left, right), kind, span)

    def _settles(self, symbol: Symbol) -> bool:
        """Whether a name is a hyper whose comparison with a constant selects code: not one that changes with every step."""
        hyper = self.context.hypers[symbol.name].hyper if symbol.role is Role.HYPER else None
        return hyper is not None and not hyper.counts

    def _choice_test(
        self,
        node: nodes.Binary,
        tested: nodes.Expression,
        literal: nodes.Text | nodes.Nothing,
        operation: str,
        env: Env,
        span: Span,
    ) -> Expression | None:
        """`adjust == "original"`, `warmup != none`."""
        error = self.context.error
        value = self.read(tested, env, maybe_none=True) if isinstance(tested, nodes.Name) else self.infer(tested, env)
        if value is None:
            return None
        where = place_of(literal, env)
        if operation not in ("eq", "ne"):
            error("literal-as-value", "texts and `none` have no order", place_of(node, env), "use `==` or `!=`")
            return None
        if not isinstance(value, Read) or value.symbol.role is not Role.HYPER:
            error("literal-as-value", "only a hyper is compared with a text or `none`", value.span)
            return None
        name = value.symbol.name
        hyper = self.context.hypers[name].hyper
        if hyper is None:
            return None
        if isinstance(literal, nodes.Nothing):
            if not hyper.optional:
                error("never-none", f"`{name}` is never none", where, "its default would have to be `none`")
                return None
        elif hyper.kind is not HyperKind.CHOICE:
            error("literal-as-value", f"`{name}` is not a choice", where, "compare it with a number")
            return None
        elif literal.value not in hyper.choices:
            near = nearest(literal.value, hyper.choices)
            known = ", ".join(f'"{c}"' for c in hyper.choices)
            hint = f'did you mean "{near}"?' if near is not None else f"it is one of {known}"
            error("unknown-choice", f'`{name}` is never "{literal.value}"', where, hint)
            return None
        text = constant(None if isinstance(literal, nodes.Nothing) else literal.value, literal.span)
        return self.apply(operation, (value, text), replace(joined(Sort.BOOL, (value, text)), static=True), span)

    # --- names ----------------------------------------------------------------------------------------------------------------

    def read(self, node: nodes.Name, env: Env, maybe_none: bool = False) -> Expression | None:
        """What a name stands for here. `maybe_none`: a hyper that may be none is allowed."""
        name, context = node.id, self.context
        local = env.locals.get(name)
        if local is not None:
            if env.inlined_at is None:
                if not env.prefix:
                    context.used.add(name)
                return local.value and replace(local.value, span=node.span)
            return local.value
        span = env.inlined_at or node.span
        if name in env.partial:
            context.used.add(name)
            message = f"`{name}` has a value in one branch of the `if` above only"
            context.error("bound-in-one-branch", message, node.span, "give it a value before the `if` or in every branch")
            return None
        if name in _GIVEN:
            read = _GIVEN[name]
            return replace(read, span=span) if self._allowed(read.symbol.role, name, node, env) else None
        if name in _CONSTANTS:
            return constant(_CONSTANTS[name], span)
        if name in context.hypers:
            return self._hyper(node, env, maybe_none)
        if name in context.states:
            return self._state(node, env)
        if name in env.inputs:
            context.used.add(name)
            return Read(Symbol(Role.INPUT, name), _ELEM, span)
        self._unknown(node, env)
        return None

    def _allowed(self, role: Role, name: str, node: nodes.Node, env: Env) -> bool:
        place: Place = env.place
        if role in place.roles:
            return True
        code = "impure-define" if "define" in place.title else "not-readable-here"
        self.context.error(code, f"`{name}` cannot be read in {place.title}", place_of(node, env), place.remedy)
        return False

    def _hyper(self, node: nodes.Name, env: Env, maybe_none: bool) -> Expression | None:
        name, context = node.id, self.context
        if env.place.title != "`require`":
            context.used.add(name)
        hyper = context.hypers[name].hyper
        if not self._allowed(Role.HYPER, name, node, env) or hyper is None:
            return None
        sort = {HyperKind.FLAG: Sort.BOOL, HyperKind.CHOICE: Sort.CHOICE}.get(hyper.kind, Sort.REAL)
        extent = Extent.MODEL if hyper.shared or context.by_group else Extent.GROUP
        read = Read(
            Symbol(Role.HYPER, name), Type(sort, extent, host=True, static=sort is not Sort.REAL), env.inlined_at or node.span
        )
        if sort is Sort.REAL and hyper.optional and not maybe_none:
            there = self.apply(
                "ne", (read, constant(None, node.span)), Type(Sort.BOOL, extent, host=True, static=True), node.span
            )
            if there is not None and not context.implied(env, there, place_of(node, env)):
                hint = f"put the line under `if {name} != none:`, or use `where({name} != none, …, …)`"
                context.error("maybe-none", f"`{name}` may be none here", place_of(node, env), hint)
                return None
        return read

    def _state(self, node: nodes.Name, env: Env) -> Expression | None:
        name, context = node.id, self.context
        context.used.add(name)
        if not self._allowed(Role.STATE, name, node, env) or not self.exists(node, env):
            return None
        state = context.states[name]
        kind = Type(Sort.REAL, state.extent, host=state.extent is Extent.TENSOR and name not in context.on_device)
        return Read(Symbol(Role.STATE, name), kind, env.inlined_at or node.span)

    def exists(self, node: nodes.Name, env: Env) -> bool:
        """Whether a declared state exists wherever this line runs; a diagnostic if not."""
        state = self.context.states[node.id]
        span = place_of(node, env)
        if state.exists is None:
            return False
        if state.needs_gradient and Role.GRADIENT not in env.place.roles:
            message = f"`{node.id}` starts from the gradient, which {env.place.title} does not have"
            self.context.error("needs-gradient", message, span, "give it another initial value")
            return False
        if self.context.implied(env, state.exists, span):
            return True
        message = f"`{node.id}` exists only if {state.condition}, which does not always hold here"
        self.context.error("state-may-not-exist", message, span, f"put the line under `if {state.condition}:`")
        return False

    def _unknown(self, node: nodes.Name, env: Env) -> None:
        name, context = node.id, self.context
        span = place_of(node, env)
        if name in RESERVED_NAMES:
            context.error("unsupported", f"`{name}` is not part of this version of the language", span)
            return
        if name in context.declared:
            context.used.add(name)
            self._allowed(Role.STATE, name, node, env)
            return
        if name in context.tuples:
            elements = ", ".join(f"`{e}`" for e in context.tuples[name])
            context.error("tuple-as-value", f"`{name}` is a tuple", span, f"use its elements {elements}")
            return
        if name in env.later:
            context.used.add(name)
            hint = "move the line that gives it a value up"
            context.error("use-before-definition", f"`{name}` has no value yet", span, hint)
            return
        if name in context.defines:
            context.called.add(name)
            context.error("expected-number", f"`{name}` is a function", span, f"call it: `{name}(…)`")
            return
        known = {*env.locals, *context.hypers, *env.inputs, *(n for n, r in _GIVEN.items() if r.symbol.role in env.place.roles)}
        if Role.STATE in env.place.roles:
            known |= set(context.states)
        context.unknown_name(name, span, known)
