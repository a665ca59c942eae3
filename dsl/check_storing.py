"""`storing`: which states are kept how."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from optc.dsl import nodes
from optc.dsl.draws import uniform
from optc.dsl.errors import Diagnostic
from optc.dsl.infer import Inference
from optc.dsl.kinds import Extent
from optc.dsl.program import (
    Apply,
    Branch,
    Constant,
    Expression,
    Procedure,
    Program,
    Role,
    State,
    Statement,
    Storage,
    Store,
    Symbol,
)
from optc.dsl.scope import STEP, Context, Env, nearest
from optc.dsl.signs import never_negative
from optc.dsl.storages import PAIRS, REST, SEED, is_dithered, is_stochastic, mistakes, resolve


def check_storing(context: Context, spec: nodes.Spec, states: tuple[State, ...]) -> tuple[State, ...]:
    """The states with their storages; reports what cannot be kept so."""
    for number, storage in enumerate(spec.storages):
        if storage.name in [other.name for other in spec.storages[:number]]:
            message = f"the storage `{storage.name}` is defined twice"
            context.error("duplicate-name", message, context.head(storage, "storage"), "choose another name")
            continue
        context.diagnostics.extend(mistakes(storage))
        if all(kept.storage != storage.name for kept in spec.optimizer.storing):
            message = f"nothing is kept in the storage `{storage.name}`"
            context.error("unused-storage", message, context.head(storage, "storage"), "take it out, or use it in `storing`")
    found = dict(_found(context, spec, {state.name: state for state in states}))
    _check_names(context, spec, states, found)
    return tuple(replace(state, storage=found.get(state.name)) for state in states)


def check_signs(context: Context, spec: nodes.Spec, program: Program) -> None:
    """Reports states that may be negative where their storage keeps no negative numbers."""
    unsigned = {s.name: s.storage.name for s in program.states if s.storage is not None and not s.storage.signed}
    if not unsigned or context.diagnostics:
        return
    safe = never_negative(program)
    for kept in spec.optimizer.storing:
        if kept.state in unsigned and kept.state not in safe:
            message = (
                f"`{unsigned[kept.state]}` keeps no negative numbers, and `{kept.state}` may be negative as far as is known"
            )
            hint = f"take one for signed numbers, such as `dynamic8`, or write `{kept.state} <- max(…, 0)`"
            context.error("unsigned-storage", message, kept.span, hint)


def check_one_bit(context: Context, spec: nodes.Spec, program: Program) -> None:
    """Reports states that may be something else than -1 and 1 where their storage keeps these alone."""
    signs = {s.name: s.storage.name for s in program.states if s.storage is not None and s.storage.bits == 1}
    if not signs or context.diagnostics:
        return
    values = [(s.target, s.value) for p in program.procedures for s in _stores(p.body)]
    values += [(Symbol(Role.STATE, s.name), s.initial) for s in program.states]
    for kept in spec.optimizer.storing:
        own = [value for target, value in values if target == Symbol(Role.STATE, kept.state)]
        if kept.state in signs and not all(map(_is_sign, own)):
            message = f"`{signs[kept.state]}` keeps -1 and 1 only, and `{kept.state}` may be something else as far as is known"
            hint = f"let it start as 1, and write `{kept.state} <- where(x > 0, 1, -1)`"
            context.error("no-sign", message, kept.span, hint)


def _stores(body: Iterable[Statement]) -> Iterator[Store]:
    for statement in body:
        if isinstance(statement, Store):
            yield statement
        elif isinstance(statement, Branch):
            yield from _stores((*statement.then, *statement.otherwise))


def _is_sign(value: Expression) -> bool:
    match value:
        case Constant(value=int() | float() as number):
            return abs(number) == 1
        case Apply(operation="neg", arguments=(inner,)):
            return _is_sign(inner)
        case Apply(operation="where", arguments=(_, then, otherwise)):
            return _is_sign(then) and _is_sign(otherwise)
    return False


def with_dithers(inference: Inference, spec: nodes.Spec, states: tuple[State, ...], step: Procedure) -> Procedure:
    """The step that says by which numbers codes are rounded at random. They are drawn behind those of its lines.

    Before a composition is written out there is no seed yet, and nothing is said.
    """
    context = inference.context
    if any(map(is_dithered, spec.optimizer.storing)):
        context.used.add(SEED)  # also by what is no storage, of which more need not be said
    drawn: dict[str, Expression] = {}
    for kept in spec.optimizer.storing:
        state = next((s for s in states if s.name == kept.state), None)
        if state is None or state.storage is None or state.storage.dtype is not None or not state.storage.stochastic:
            continue
        if SEED in context.hypers:
            call = nodes.Call("uniform", (nodes.Name(SEED, span=kept.span),), span=kept.span)
            number = uniform(inference, call, Env(STEP))
            if number is not None:
                drawn[state.name] = number

    def dithered(body: tuple[Statement, ...]) -> Iterator[Statement]:
        for statement in body:
            match statement:
                case Store(target=Symbol(role=Role.STATE, name=name)) if name in drawn:
                    yield replace(statement, dither=drawn[name])
                case Branch(then=then, otherwise=otherwise):
                    yield replace(statement, then=tuple(dithered(then)), otherwise=tuple(dithered(otherwise)))
                case _:
                    yield statement

    return replace(step, body=tuple(dithered(step.body))) if drawn else step


def pair_of(spec: nodes.Spec) -> str | None:
    """How parameters are kept, with what they lack beside them; None where they are not."""
    return next((k.storage for k in spec.optimizer.storing if k.state == "theta" and not is_stochastic(k)), None)


def _check_names(context: Context, spec: nodes.Spec, states: tuple[State, ...], found: dict[str, Storage]) -> None:
    """Scales have the key of their state with `_scale` behind it; generated code has one name for what codes mean."""
    codes = {name: storage for name, storage in found.items() if storage.dtype is None}
    keys = {state.name: f"{state.key}_scale" for state in states if state.name in codes}
    taken = {state.name for state in states} | {state.key for state in states}
    named: dict[str, Storage] = {}
    for kept in spec.optimizer.storing:
        if kept.state not in codes:
            continue
        if keys[kept.state] in taken:
            message = f"`{keys[kept.state]}` is where the scales of `{kept.state}` are kept: no state can be called so"
            context.error("reserved-name", message, kept.span, "choose another name for it")
        other = named.setdefault(re.sub(r"\W+", "_", codes[kept.state].name).strip("_").upper(), codes[kept.state])
        if other != codes[kept.state]:
            message = f"the names of `{other.name}` and `{codes[kept.state].name}` are too much alike"
            context.error("duplicate-name", message, kept.span, "let them differ by more than case and signs")


def second_storage(kept: nodes.Kept) -> Diagnostic:
    """What is wrong with a second storage of one state."""
    return Diagnostic("duplicate-name", f"`{kept.state}` has a storage already", kept.span, "a state has one storage")


def not_like_theta(kept: nodes.Kept, extent: str) -> Diagnostic:
    """What is wrong with a storage of a state per row, column, tensor or picked element."""
    message = f"`{kept.state}` is per {extent}; storages are for states like θ"
    return Diagnostic("wrong-extent", message, kept.span, "it is small: leave it out of `storing`")


def _check_pair(context: Context, kept: nodes.Kept, states: dict[str, State]) -> None:
    if is_stochastic(kept):
        return
    if kept.storage not in PAIRS or kept.arguments:
        near = nearest(kept.storage, PAIRS)
        hint = (
            f"did you mean `{near}`?"
            if near and not kept.arguments
            else "known are " + ", ".join(PAIRS) + ", without settings, and bf16(stochastic)"
        )
        context.error("unknown-storage", f"θ cannot be kept as `{kept.storage}`", kept.span, hint)
    if REST in states or REST in {state.key for state in states.values()}:
        context.error("reserved-name", f"`{REST}` is what θ lacks: no state can be called so", kept.span, "choose another name")


def _found(context: Context, spec: nodes.Spec, states: dict[str, State]) -> Iterator[tuple[str, Storage]]:
    seen: set[str] = set()
    for kept in spec.optimizer.storing:
        state = states.get(kept.state)
        if kept.state == "theta":
            _check_pair(context, kept, states)
        elif kept.state in seen:
            context.diagnostics.append(second_storage(kept))
        elif kept.state not in context.states:
            near = nearest(kept.state, tuple(states))
            hint = f"did you mean `{near}`?" if near else "the states are " + ", ".join(f"`{name}`" for name in states)
            context.error("unknown-state", f"there is no state `{kept.state}`", kept.span, hint)
        elif state is not None and state.extent is not Extent.ELEM:
            context.diagnostics.append(not_like_theta(kept, state.extent.value))
        elif state is not None:
            storage = resolve(kept, spec.storages)
            if isinstance(storage, Storage):
                yield kept.state, storage
            elif storage not in context.diagnostics:
                context.diagnostics.append(storage)
        seen.add(kept.state)
