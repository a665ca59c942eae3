"""Rounding at random: the hyper `seed`, and for `bf16(stochastic)` lines that round the step's last values, up or down.

Codes are rounded where they are encoded: `linear8(stochastic)` asks for no line, but for the seed.

A state is rounded by a line at the end of the step, and before every `stop`; what is bfloat16 already, such as a state that the
step has not changed, stays as it is. θ is rounded where it is written, if it is bfloat16. A step in which all of this stands
already has been given it before: its text says all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from optc.compiler.compose.stages import Report
from optc.compiler.compose.tree import before_stops, every_name, free_name, states_with_paths, under
from optc.dsl import nodes
from optc.dsl.program import Storage
from optc.dsl.storages import SEED, is_dithered, is_stochastic, resolve

_THETA, _NEW = "theta", "theta_new"
_WHOLE = nodes.Interval(nodes.Number(0), nodes.Name("inf"), True, False, True)
_TEXT = "which random numbers values are rounded with"


def rounded(optimizer: nodes.Optimizer, own: tuple[nodes.Storage, ...], report: Report) -> nodes.Optimizer:
    """The optimizer with this rounding, and with a hyper `seed` if it has none; itself, if nothing is kept so.

    `own` are storages beside it. What is no storage is left for the checks to find.
    """
    chosen = {kept.state: kept.span for kept in optimizer.storing if is_stochastic(kept)}
    dithered = [k for k in optimizer.storing if is_dithered(k) and k.state != _THETA and isinstance(resolve(k, own), Storage)]
    asking = [kept.span for kept in optimizer.storing if is_stochastic(kept) or kept in dithered]
    lines = tuple(_lines(optimizer, chosen))
    step = optimizer.step
    if lines and step[-len(lines) :] != lines:
        step = (*before_stops(step, lines), *lines)
    if _THETA in chosen:
        step = tuple(line for statement in step for line in _with_theta(statement, optimizer))
    hypers = optimizer.hypers
    has_seed = any(hyper.name == SEED for hyper in hypers)
    if step == optimizer.step and (has_seed or not dithered):
        return optimizer
    if not has_seed:
        if SEED in every_name(optimizer):
            hint = "call it otherwise, or let it be that hyper: `seed = 0 in int [0, inf)`"
            report("reserved-name", f"`{SEED}` is the hyper of random rounding", asking[0], hint)
        hypers = (*hypers, nodes.Hyper(SEED, nodes.Number(0), domain=_WHOLE, text=_TEXT))
    return replace(optimizer, hypers=hypers, step=step)


def _rounded(value: nodes.Expression) -> nodes.Expression:
    return nodes.Call("round_bf16", (value, nodes.Call("uniform", (nodes.Name(SEED),))))


def _lines(optimizer: nodes.Optimizer, chosen: Iterable[str]) -> Iterator[nodes.Statement]:
    paths = {state.name: path for state, path in states_with_paths(optimizer.states)}
    for name in chosen:
        if name in paths:
            value = nodes.Name(name)
            yield from under(paths[name], (nodes.Write((value,), _rounded(value)),))


def _with_theta(statement: nodes.Statement, optimizer: nodes.Optimizer) -> Iterator[nodes.Statement]:
    """The line that writes θ, which stands at the top level, with the new value named and rounded."""
    targets = [target.id for target in statement.targets] if isinstance(statement, nodes.Write) else []
    if not isinstance(statement, nodes.Write) or _THETA not in targets:
        yield statement
        return
    values = list(statement.value) if isinstance(statement.value, tuple) else [statement.value]
    place = targets.index(_THETA)
    if len(values) != len(targets) or _is_rounded(values[place]):
        yield statement  # a mistake that the checks find, or rounded before
        return
    new = nodes.Name(free_name(_NEW, every_name(optimizer)))
    yield nodes.Assign((new,), values[place])
    values[place] = _where_bf16(new)
    yield replace(statement, value=tuple(values) if isinstance(statement.value, tuple) else values[0])


def _where_bf16(value: nodes.Expression) -> nodes.Expression:
    return nodes.Call("where", (nodes.Name("bf16"), _rounded(value), value))


def _is_rounded(value: nodes.Expression) -> bool:
    return isinstance(value, nodes.Call) and len(value.arguments) > 0 and value == _where_bf16(value.arguments[-1])
