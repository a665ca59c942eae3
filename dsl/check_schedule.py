"""Schedule -> program: what a hyper is after `n` steps. All errors of a schedule come at once."""

from __future__ import annotations

from optc.dsl import calls, nodes
from optc.dsl.check_blocks import ProcedureChecker
from optc.dsl.check_hypers import check_hypers
from optc.dsl.errors import SpecError
from optc.dsl.infer import Inference
from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.names import PYTHON_KEYWORDS
from optc.dsl.program import Read, Role, Schedule, ScheduledValue, Symbol
from optc.dsl.scope import Context, Env, Local, Place, walk
from optc.dsl.source import Source, Span

KNOWN = ("n", "base")
"""What the lines of a schedule know besides its hypers: the steps done, and the value that the group was given."""

_SCHEDULE = Place(
    "a schedule", frozenset({Role.HYPER}), "it knows `n`, the steps done, `base`, the value that was given, and its own hypers"
)
_NUMBER = Type(Sort.REAL, Extent.GROUP, host=True)


def check_schedule(node: nodes.Schedule, source: Source, beside: tuple[nodes.Define, ...] = ()) -> Schedule:
    """The checked schedule; `beside` are functions of its file. Raises SpecError with every mistake."""
    return _Checker(node, source).check(beside)


class _Checker:
    def __init__(self, node: nodes.Schedule, source: Source) -> None:
        self._node = node
        self._context = Context(source)
        self._inference = Inference(self._context)

    def check(self, beside: tuple[nodes.Define, ...]) -> Schedule:
        node, context = self._node, self._context
        context.taken = {n.id for n in walk(node) if isinstance(n, nodes.Name)} | {hyper.name for hyper in node.hypers}
        hypers = check_hypers(context, node.hypers)
        for name in KNOWN:
            if name in context.hypers:
                message = f"`{name}` has a meaning in schedules"
                context.error("reserved-name", message, context.hypers[name].span, "choose another name")
        for hyper in node.hypers:
            if hyper.counts:
                message = "a schedule counts no steps of its own"
                context.error("counts", message, context.head(hyper), "leave `counts` out, and read `n`")
        calls.declare(self._inference, beside, _SCHEDULE)
        context.called |= {define.name for define in beside}  # others may need them
        calls.declare(self._inference, node.defines, _SCHEDULE)
        calls.check_bodies(self._inference)
        requires = self._inference.requires(node.requires)
        values = [self._value(value) for value in node.values]
        context.check_used()
        if node.name in PYTHON_KEYWORDS:
            context.error("python-keyword", f"`{node.name}` cannot be a name in Python", node.span, "choose another name")
        if context.diagnostics:
            raise SpecError(context.source, context.diagnostics)
        right = tuple(value for value in values if value is not None)
        return Schedule(node.name, node.text, node.cites, node.notes, hypers, requires, right, context.source)

    def _value(self, node: nodes.Scheduled) -> ScheduledValue | None:
        context = self._context
        head = Span(node.span.start, node.span.start + len(node.target))
        define = nodes.Define(node.target, (), node.body, span=head)
        if not calls.well_formed(self._inference, define):
            return None
        known = {name: Local(Read(Symbol(Role.LOCAL, name), _NUMBER)) for name in KNOWN}
        lines, value = ProcedureChecker(self._inference).check_value(node.body, Env(_SCHEDULE, locals=known))
        if value is not None and value.type.sort is not Sort.REAL:
            context.error("expected-number", f"`{node.target}` is a number, and this is none", value.span, "return a number")
        return None if value is None else ScheduledValue(node.target, lines, value)
