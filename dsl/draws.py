"""Calls of `uniform`: which of the numbers of `philox.py` a place in the text gets.

The n-th call in the text, with all functions written out, is place n. Whatever a kernel is given is below 2^24, so that float32
holds it exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from optc.dsl import nodes
from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.philox import PLACES
from optc.dsl.program import DRAW, ELEMENT, STEP, Apply, Expression, HyperKind, Read, Role
from optc.dsl.scope import ENTRY, NOT_RUN, Env, place_of
from optc.dsl.source import Span
from optc.dsl.typing_rules import constant, joined

if TYPE_CHECKING:
    from optc.dsl.infer import Inference

WORD = 1 << 24
"""What a kernel is given is below this."""

_NUMBER = Type(Sort.REAL, Extent.TENSOR, host=True)
_PER_ELEMENT = Type(Sort.REAL, Extent.ELEM)


def uniform(inference: Inference, node: nodes.Call, env: Env) -> Expression | None:
    """The value of a call of `uniform`."""
    context, place = inference.context, place_of(node, env)
    seed = inference.number(node.arguments[0], env)
    if env.place.title in NOT_RUN or env.place.title == ENTRY.title:
        message = f"random numbers cannot be drawn in {env.place.title}"
        context.error("not-readable-here", message, place, "they are drawn in `step`, anew at every step")
        return None
    if seed is None:
        return None
    hyper = context.hypers[seed.symbol.name].hyper if isinstance(seed, Read) and seed.symbol.role is Role.HYPER else None
    if hyper is None or hyper.kind is not HyperKind.INTEGER:
        message = "a seed is a hyper that is a whole number"
        context.error("no-seed", message, seed.span, "declare it: `seed = 0 in int [0, inf)`")
        return None
    number, context.draws = context.draws, context.draws + 1
    if number >= PLACES:
        message = f"random numbers are drawn in more than {PLACES} places, with all functions written out"
        context.error("too-large", message, place, "name a number once, and use it again")
        return None
    return _drawn(seed, number, env.inlined_at or node.span)


def _drawn(seed: Expression, number: int, span: Span) -> Expression:
    step = Read(STEP, _NUMBER, span)
    seed_high = _low(_apply("floor", _apply("div", seed, constant(WORD, span))))
    step_high = _apply("floor", _apply("div", step, constant(WORD, span)))
    place = constant(float(number), span)
    arguments = (Read(ELEMENT, _PER_ELEMENT, span), _low(seed), seed_high, _low(step), step_high, place)
    return Apply(DRAW, arguments, joined(Sort.REAL, arguments), span)


def _low(value: Expression) -> Expression:
    return _apply("mod", value, constant(WORD, value.span))


def _apply(operation: str, *arguments: Expression) -> Expression:
    return Apply(operation, arguments, joined(Sort.REAL, arguments), arguments[0].span)
