"""`state:`: extents, initial values, and the static conditions under which states exist."""

from __future__ import annotations

from optc.dsl import nodes
from optc.dsl.check_hypers import check_outside, declare_name
from optc.dsl.implication import conjunction, negation
from optc.dsl.infer import Inference
from optc.dsl.kinds import Extent
from optc.dsl.program import GRADIENT, TRUE, Expression, State
from optc.dsl.scope import CONDITION, HOST_INITIAL, INITIAL, MAX_DEPTH, Env, StateEntry, nearest
from optc.dsl.semantics import reads
from optc.dsl.source import Span

_EXTENTS = {"elem": Extent.ELEM, "tensor": Extent.TENSOR}
_LATER_EXTENTS = ("group", "model", "matrix", "row", "col", "axis", "chunk")


class StateChecker:
    """Declares the states of one spec."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._context = inference.context
        self._keys: dict[str, Span] = {}
        self.states: list[State] = []

    def check(self, items: tuple[nodes.StateItem, ...]) -> tuple[State, ...]:
        """All states that are right, in the order of the text."""
        self._items(items, TRUE, "")
        return tuple(self.states)

    def _items(self, items: tuple[nodes.StateItem, ...], exists: Expression | None, text: str, depth: int = 0) -> None:
        for item in items:
            if isinstance(item, nodes.State):
                self._state(item, exists, text)
            elif depth >= MAX_DEPTH:
                self._context.too_deep(item.span)
            else:
                self._conditional(item, exists, text, depth)

    def _conditional(self, item: nodes.StateIf, exists: Expression | None, text: str, depth: int) -> None:
        path = () if exists is None else (exists,)
        condition = self._inference.condition(item.condition, Env(CONDITION, path=path))
        if condition is not None and not condition.type.static:
            hint = "it reads flags, choices, `none` tests and shapes, or compares a hyper with a number"
            self._context.error("not-static", "states exist under static conditions only", condition.span, hint)
            condition = None
        written = self._context.text(item.condition.span) or "its condition holds"
        then = None if exists is None or condition is None else conjunction((exists, condition))
        otherwise = None if exists is None or condition is None else conjunction((exists, negation(condition)))
        before = f"{text} and " if text else ""
        self._items(item.then, then, f"{before}{written}", depth + 1)
        self._items(item.otherwise, otherwise, f"{before}not ({written})", depth + 1)

    def _state(self, node: nodes.State, exists: Expression | None, text: str) -> None:
        context = self._context
        span = context.head(node)
        extent = self._extent(node)
        if not declare_name(context, node.name, span, keep_outside=node.outside is None):
            return
        check_outside(context, node, self._keys)
        scalar = extent is Extent.TENSOR
        host = scalar and node.name not in context.on_device
        place = HOST_INITIAL if scalar else INITIAL
        initial = self._inference.number(node.initial, Env(place, path=() if exists is None else (exists,)))
        needs_gradient = initial is not None and GRADIENT in reads(initial)
        context.states[node.name] = StateEntry(extent or Extent.ELEM, exists if extent else None, text, needs_gradient, span)
        if initial is not None and extent is not None and exists is not None:
            self.states.append(State(node.name, node.outside or node.name, initial, extent, host, exists, node.span))

    def _extent(self, node: nodes.State) -> Extent | None:
        word = node.extent or "elem"
        if word in _EXTENTS:
            return _EXTENTS[word]
        context = self._context
        span = context.after(node, "per")
        if word in _LATER_EXTENTS:
            message = f"states `per {word}` are not part of this version of the language"
            context.error("unsupported", message, span, "a state is like θ, or `per tensor`")
            return None
        near = nearest(word, (*_EXTENTS, *_LATER_EXTENTS))
        hint = f"did you mean `per {near}`?" if near is not None else "a state is like θ, or `per tensor`"
        context.error("unknown-extent", f"there is no extent `{word}`", span, hint)
        return None
