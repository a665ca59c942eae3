"""`state:`: extents, initial values, and the static conditions under which states exist."""

from __future__ import annotations

from optc.dsl import nodes
from optc.dsl.check_hypers import check_outside, declare_name
from optc.dsl.implication import conjunction, negation
from optc.dsl.infer import Inference
from optc.dsl.kinds import IN_MATRICES, PER_ELEMENT, Extent
from optc.dsl.picking import period_of_state
from optc.dsl.program import GRADIENT, TRUE, Expression, State
from optc.dsl.scope import CONDITION, INITIAL, MAX_DEPTH, NUMBER_INITIAL, Env, StateEntry, nearest
from optc.dsl.semantics import reads
from optc.dsl.source import Span
from optc.dsl.typing_rules import varying

_EXTENTS = {e.value: e for e in Extent} | {"group": Extent.MODEL}
_KNOWN = "a state is like θ, or `per row`, `per col`, `per matrix`, `per pick(p)`, `per tensor`, `per group` or `per model`"


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
        host = extent is Extent.TENSOR and node.name not in context.on_device
        place = INITIAL if extent in (*PER_ELEMENT, None) else NUMBER_INITIAL
        initial = self._inference.number(node.initial, Env(place, path=() if exists is None else (exists,)))
        if extent is not None and exists is not None and not self._fits(node, extent, initial, exists):
            extent = None
        needs_gradient = initial is not None and GRADIENT in reads(initial)
        context.states[node.name] = StateEntry(extent or Extent.ELEM, exists if extent else None, text, needs_gradient, span)
        if initial is not None and extent is not None and exists is not None:
            self.states.append(State(node.name, node.outside or node.name, initial, extent, host, exists, node.span))

    def _fits(self, node: nodes.State, extent: Extent, initial: Expression | None, exists: Expression) -> bool:
        """Whether the state can exist as it is declared, for every parameter or the whole model."""
        context, span = self._context, self._context.after(node, "per")
        if initial is not None and extent in PER_ELEMENT and not initial.type.extent.within(extent):
            message = f"`{node.name}` is per {extent.value}, this is per {initial.type.extent.value}"
            hint = None if context.pick is None or extent is Extent.ELEM else f"pick from it: `pick(x, {context.pick[0]})`"
            context.error("wrong-extent", message, varying(initial).span, hint)
            return False
        if extent in IN_MATRICES:
            context.rows = context.rows or span
        if extent in IN_MATRICES and not context.has_matrix(Env(CONDITION, path=(exists,)), span):
            hint = "declare it under `if ndim >= 2:`, and what takes its place under `else:`"
            context.error("needs-matrix", f"only tensors of two dimensions or more have a {extent.value}", span, hint)
            return False
        if extent is Extent.MODEL:
            for part, what in ((exists, "exists under a condition"), (initial, "starts from a value")):
                if part is not None and part.type.extent is not Extent.MODEL:
                    message = (
                        f"`{node.name}` is one number for the whole {context.whole}, and {what} that not all parameters share"
                    )
                    context.error("wrong-extent", message, span, "use hypers that are declared `shared`")
                    return False
        return True

    def _extent(self, node: nodes.State) -> Extent | None:
        word = node.extent or "elem"
        context = self._context
        span = context.after(node, "per")
        if word == "pick":
            return Extent.PICK if period_of_state(self._inference, node, span) else None
        if node.period is not None:
            context.error("unknown-extent", f"only `per pick` takes a number in brackets, not `per {word}`", span)
            return None
        if word in _EXTENTS:
            return _EXTENTS[word]
        near = nearest(word, _EXTENTS)
        hint = f"did you mean `per {near}`?" if near is not None else _KNOWN
        context.error("unknown-extent", f"there is no extent `{word}`", span, hint)
        return None
