"""`step` and entries: statements, line by line."""

from __future__ import annotations

from dataclasses import replace

from optc.dsl import nodes
from optc.dsl.calls import block_condition, bound_names
from optc.dsl.implication import negation
from optc.dsl.infer import Inference
from optc.dsl.kinds import SCALARS, Extent, Sort
from optc.dsl.names import RESERVED_NAMES
from optc.dsl.periods import due
from optc.dsl.picking import combine
from optc.dsl.program import (
    GRADIENT,
    THETA,
    Branch,
    Expression,
    Let,
    Read,
    Role,
    Statement,
    Stop,
    Store,
    Symbol,
)
from optc.dsl.reducing import NARROWER
from optc.dsl.scope import MAX_DEPTH, Env, Local
from optc.dsl.source import Span
from optc.dsl.typing_rules import joined, varying


class ProcedureChecker:
    """Checks one procedure; `theta_writes` and `writes` say where it wrote θ, and whether it wrote at all."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._context = inference.context
        self.theta_writes: list[Span] = []
        self.writes = False
        self._first: dict[str, Span] = {}  # where each local is bound first
        self._extents: dict[str, Extent] = {}  # the widest that each local has had
        self._may_have_stopped = False  # at a `stop` that only the tensors decide on

    def check(self, body: tuple[nodes.Statement, ...], env: Env) -> tuple[Statement, ...]:
        """The typed statements. `env` says what the procedure may read."""
        statements = self._statements(body, env)
        self._unused()
        return statements

    def check_value(self, body: tuple[nodes.Statement, ...], env: Env) -> tuple[tuple[Statement, ...], Expression | None]:
        """The typed statements of a block that ends in `return`, and the value that it returns; None if that is wrong."""
        last = body[-1]
        self._statements(body[:-1], env)
        value = self._inference.infer(last.value, env) if isinstance(last, nodes.Return) else None
        self._unused()
        return tuple(env.emit or ()), value  # with the lines of functions in the value

    def _statements(self, body: tuple[nodes.Statement, ...], env: Env) -> tuple[Statement, ...]:
        env.later = frozenset(bound_names(body))
        context = self._context
        context.stopped = None
        context.used -= (
            env.later - set(context.hypers) - set(context.states)
        )  # an earlier procedure's locals are not this one's
        statements, _ = self._block(body, env, top=True)
        return statements

    def _unused(self) -> None:
        for name, span in self._first.items():
            if name not in self._context.used:
                self._context.error("unused-local", f"nothing reads `{name}`", span, "take the line out, or use the value")

    def _block(self, body: tuple[nodes.Statement, ...], env: Env, top: bool) -> tuple[tuple[Statement, ...], bool]:
        """The statements, and whether the block always ends in `stop`."""
        result: list[Statement] = []
        env.emit = result
        ended = reported = False
        for node in body:
            if ended and not reported:
                reported = True
                self._context.error("unreachable", "this line never runs: the step has stopped", node.span, "`stop` comes last")
            match node:
                case nodes.Assign():
                    self._assign(node, env)
                case nodes.Write():
                    self._write(node, env, top)
                case nodes.If() | nodes.Every() if self._inference.depth >= MAX_DEPTH:
                    self._context.too_deep(node.span)
                case nodes.If():
                    condition = block_condition(self._inference, node.condition, env)
                    ended |= self._branch(node, condition, node.then, node.otherwise, env)
                case nodes.Every():
                    ended |= self._branch(node, due(self._inference, node, env), node.body, (), env)
                case nodes.Stop():
                    result.append(Stop(node.span))
                    ended = True
                    self._may_have_stopped |= env.measured
                    self._context.stopped = self._context.stopped or env.narrow
                case nodes.Return():
                    self._context.error("misplaced-return", "`return` ends a `define`", node.span, "use `stop` to end the step")
                    self._inference.infer(node.value, env)
        return tuple(result), ended

    # --- names and states -----------------------------------------------------------------------------------------------------

    def _values(self, node: nodes.Assign | nodes.Write, env: Env) -> list[Expression | None]:
        """One typed value for each target."""
        context = self._context
        values = node.value if isinstance(node.value, tuple) else (node.value,)
        found = [self._inference.infer(v, env) for v in values]
        if len(values) != len(node.targets):
            if isinstance(node.value, tuple):
                message = f"{len(node.targets)} names on the left, {len(values)} values on the right"
                context.error("tuple-length", message, node.span, "give each name one value")
            else:
                message = "functions with several values are not part of this version of the language"
                context.error("unsupported", message, values[0].span, "write `(a, b) = (x, y)`, or one line for each name")
            return [None] * len(node.targets)
        seen: set[str] = set()
        for target in node.targets:
            if target.id in seen:
                context.error("duplicate-name", f"`{target.id}` stands twice on the left", target.span)
            seen.add(target.id)
        return found

    def _assign(self, node: nodes.Assign, env: Env) -> None:
        values = self._values(node, env)
        if len(values) > 1:
            values = [self._next(t.id, v, node.span, env) for t, v in zip(node.targets, values, strict=True)]
        for target, value in zip(node.targets, values, strict=True):
            if self._assignable(target, env):
                self._bind(target, value, node.span, env)

    def _assignable(self, target: nodes.Name, env: Env) -> bool:
        name, error = target.id, self._context.error
        if name == "theta":
            error("assign-to-theta", "θ lives on: it is written, not named", target.span, "write `theta <- …`")
        elif name in self._context.states:
            self._context.written.add(name)
            self._context.used.add(name)
            error("assign-to-state", f"`{name}` is a state: it is written, not named", target.span, f"write `{name} <- …`")
        elif name in self._context.hypers or name in self._context.tuples:
            error("assign-to-hyper", f"`{name}` is a hyper and never changes", target.span, "give the value another name")
        elif name in env.inputs:
            error("assign-to-input", f"`{name}` is an input", target.span, "give the value another name")
        elif name == "g" and Role.GRADIENT in env.place.roles:
            return True
        else:
            return name in self._first or not self._context.reserved(name, target.span)
        return False

    def _bind(self, target: nodes.Name, value: Expression | None, span: Span, env: Env) -> None:
        if env.emit is None:
            raise RuntimeError("statements are only bound inside a block")
        name = target.id
        if name == "g":
            if value is not None and self._is_number(value) and self._alike(name, value, Extent.ELEM):
                env.emit.append(Let(GRADIENT, value, span))
            return
        if value is not None and not self._alike(name, value, self._extents.setdefault(name, value.type.extent)):
            value = None
        self._first.setdefault(name, target.span)
        env.partial.pop(name, None)
        if value is None or value.type.static:
            env.locals[name] = Local(value)
            return
        symbol = Symbol(Role.LOCAL, name)
        env.emit.append(Let(symbol, value, span))
        env.locals[name] = Local(Read(symbol, value.type, target.span))

    def _next(self, name: str, value: Expression | None, span: Span, env: Env) -> Expression | None:
        """The value under a fresh name, for lines that give several names their values together."""
        if value is None or value.type.static or env.emit is None:
            return value
        symbol = Symbol(Role.LOCAL, self._context.fresh(f"{name}_next"))
        env.emit.append(Let(symbol, value, span))
        return Read(symbol, value.type, value.span)

    def _alike(self, name: str, value: Expression, extent: Extent) -> bool:
        """Whether a name can have the value, which is of `extent` elsewhere: none holds picked elements by turns."""
        if extent in SCALARS:
            self._extents[name] = value.type.extent
        if extent.combines(value.type.extent):
            return True
        message = f"`{name}` is per {extent.value} elsewhere, this is per {value.type.extent.value}"
        self._context.error("wrong-extent", message, varying(value).span, "give the value another name")
        return False

    def _is_number(self, value: Expression) -> bool:
        if value.type.sort is Sort.REAL:
            return True
        message = "a number is needed here, this is a condition or a choice"
        self._context.error("expected-number", message, value.span, "use `where(c, 1, 0)`")
        return False

    def _write(self, node: nodes.Write, env: Env, top: bool) -> None:
        values = self._values(node, env)
        checked = [
            v if self._writable(t, node, env, top) and v is not None and self._fits(t, v, env) else None
            for t, v in zip(node.targets, values, strict=True)
        ]
        if len(checked) > 1:
            checked = [self._next(t.id, v, node.span, env) for t, v in zip(node.targets, checked, strict=True)]
        for target, value in zip(node.targets, checked, strict=True):
            if value is not None and env.emit is not None:
                symbol = THETA if target.id == "theta" else Symbol(Role.STATE, target.id)
                env.emit.append(Store(symbol, value, node.span))

    def _writable(self, target: nodes.Name, node: nodes.Write, env: Env, top: bool) -> bool:
        name, context = target.id, self._context
        if name == "theta":
            if Role.INPUT in env.place.roles:
                context.error("entry-writes-theta", "an entry never writes θ", target.span, "write a state, and θ in `step`")
                return False
            if not top:
                hint = "compute the new value in the branches, and write θ once after them"
                context.error("nested-theta-write", "θ is written at the top level of `step` only", target.span, hint)
            self.theta_writes.append(node.span)
            return True
        if name in context.states:
            self.writes = True
            context.written.add(name)
            if Role.INPUT in env.place.roles and context.states[name].extent is Extent.MODEL:
                message = f"`{name}` is one number for the whole {context.whole}, and an entry runs for one parameter at a time"
                context.error("entry-writes-model", message, target.span, "write it in `step`, or a state `per tensor` here")
                return False
            return self._inference.exists(target, env)
        known = name in env.locals or name in env.later or name in env.inputs or name in RESERVED_NAMES
        if known or name in context.hypers or name in context.tuples:
            what = (
                "a hyper"
                if name in context.hypers or name in context.tuples
                else "an input"
                if name in env.inputs
                else "not a state"
            )
            if name in context.hypers:
                hint = "a hyper never changes; keep a state instead"
            elif name in RESERVED_NAMES - {"g"}:
                hint = "give the value another name, or declare a state for it in `state:`"
            else:
                hint = f"write `{name} = …` to give a name a value, or declare it in `state:`"
            context.used.add(name)
            context.error("write-to-non-state", f"`<-` writes a state or θ, `{name}` is {what}", target.span, hint)
        else:
            hint = "declare it in `state:`, or write `=` to give a name a value"
            context.unknown_name(name, target.span, context.states, "state", hint)
        return False

    def _fits(self, target: nodes.Name, value: Expression, env: Env) -> bool:
        if not self._is_number(value):
            return False
        state = self._context.states.get(target.id)
        if state is not None and state.extent is Extent.MODEL and not self._for_all(target, value, env):
            return False
        extent = Extent.ELEM if state is None else state.extent
        if value.type.extent.within(extent):
            measured = env.measured or self._may_have_stopped or not value.type.host
            if state is not None and state.extent is Extent.TENSOR and measured:
                self._context.found_on_device.add(target.id)
            return True
        message = f"`{target.id}` is per {extent.value}, this is per {value.type.extent.value}"
        reduce = NARROWER.get(extent, "`norm(x)`, `mean(x)`, `sum(x)`")
        off = f"take `per {extent.value}` off `{target.id}`, or " if extent is not Extent.ELEM else ""
        hint = f"{off}reduce the value: {reduce}, …"
        self._context.error("wrong-extent", message, varying(value).span, hint)
        return False

    def _for_all(self, target: nodes.Name, value: Expression, env: Env) -> bool:
        """Whether every parameter would write the same."""
        narrow, whole = env.narrow or self._context.stopped, self._context.whole
        if value.type.extent is Extent.MODEL and narrow is None:
            return True
        if narrow is not None:
            message = (
                f"`{target.id}` is one number for the whole {whole}, but this line runs for some parameters or groups only"
            )
            way = "take it out of the condition" if env.narrow is not None else "put it before the `stop`"
            hint = f"{way}, or declare the hypers of the condition `shared`"
        else:
            cause = varying(value)
            message = f"`{target.id}` is one number for the whole {whole}, but this value is per {value.type.extent.value}"
            total = self._context.total
            hint = f"add it up: `{total}(x)`" if value.type.extent in SCALARS else f"reduce it and add it up: `{total}(sum(x))`"
            hint = "declare its hypers `shared`" if value.type.extent is Extent.GROUP else hint
        self._context.error("wrong-extent", message, target.span if narrow is not None else cause.span, hint)
        return False

    # --- branches -------------------------------------------------------------------------------------------------------------

    def _branch(
        self,
        node: nodes.Node,
        condition: Expression | None,
        then: tuple[nodes.Statement, ...],
        otherwise: tuple[nodes.Statement, ...],
        env: Env,
    ) -> bool:
        """Appends a `Branch`; whether both sides end in `stop`."""
        opposite = None if condition is None else negation(condition)
        envs = env.under(condition), env.under(opposite)
        self._inference.depth += 1
        stopped = self._context.stopped
        then_body, then_ended = self._block(then, envs[0], top=False)
        then_stopped, self._context.stopped = self._context.stopped, stopped  # a `stop` of one side is not before the other
        other_body, other_ended = self._block(otherwise, envs[1], top=False)
        self._context.stopped = self._context.stopped or then_stopped
        self._inference.depth -= 1
        bodies = list(then_body), list(other_body)
        if then_ended or other_ended:
            stays = envs[1] if then_ended else envs[0]
            env.locals, env.partial, env.path = stays.locals, stays.partial, stays.path
        else:
            self._merge(node, condition, envs, bodies, env)
        if condition is not None and env.emit is not None:
            env.emit.append(Branch(condition, tuple(bodies[0]), tuple(bodies[1]), node.span))
        return then_ended and other_ended

    def _merge(
        self,
        node: nodes.Node,
        condition: Expression | None,
        envs: tuple[Env, Env],
        bodies: tuple[list[Statement], list[Statement]],
        env: Env,
    ) -> None:
        """What names mean after an `if`: bound in both branches, or before, they live on."""
        for name in {**envs[0].locals, **envs[1].locals}:
            sides = envs[0].locals.get(name), envs[1].locals.get(name)
            if sides[0] is None or sides[1] is None:
                env.partial[name] = node.span
                env.locals.pop(name, None)
            elif sides[0] is not sides[1]:
                values = sides[0].value, sides[1].value
                if condition is None or values[0] is None or values[1] is None:
                    env.locals[name] = Local(None)
                else:
                    env.locals[name] = Local(self._merged(name, condition, values[0], values[1], bodies, node.span))
        for side in envs:
            env.partial |= {name: span for name, span in side.partial.items() if name not in env.locals}

    def _merged(
        self,
        name: str,
        condition: Expression,
        then: Expression,
        otherwise: Expression,
        bodies: tuple[list[Statement], list[Statement]],
        span: Span,
    ) -> Expression | None:
        sort = then.type.sort
        if then == otherwise and then.type.static:
            return then
        if sort is not otherwise.type.sort or sort is Sort.CHOICE:
            message = f"`{name}` is not the same kind of value in both branches"
            hint = "a number in both, or a condition in both"
            self._context.error("branches-differ", message, span, hint)
            return None
        if not combine(self._context, (then, otherwise)):
            return None
        kind = joined(sort, (condition, then, otherwise))
        if kind.static and sort is Sort.BOOL:
            either = self._inference.apply("and", (condition, then), kind, span)
            neither = self._inference.apply("and", (negation(condition), otherwise), kind, span)
            return either and neither and self._inference.apply("or", (either, neither), kind, span)
        symbol = Symbol(Role.LOCAL, name)
        for body, value in zip(bodies, (then, otherwise), strict=True):
            if value.type.static:  # it had no line of its own, as it stood for itself
                body.append(Let(symbol, value, span))
        return Read(symbol, replace(kind, static=False), span)
