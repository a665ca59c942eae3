"""What the checker knows while it reads a spec: the declarations, what a line may read, and the errors so far.

A failed check yields None for the value it was about (a poison that silences what follows from it), after one diagnostic.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from optc.dsl import nodes
from optc.dsl.errors import Diagnostic
from optc.dsl.functions import BUILTINS
from optc.dsl.implication import Implication, TooManyCases, conjunction, static_part
from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.names import NAME_PATTERN, RESERVED_NAMES, fold
from optc.dsl.program import Apply, Expression, Hyper, Read, Role, Statement, Symbol
from optc.dsl.source import NOWHERE, Source, Span
from optc.dsl.typing_rules import constant

MAX_DEPTH = 100
"""Nesting of expressions, blocks and defines together. A recursive checker must not meet Python's own limit."""

MAX_INLINED = 10_000
"""Nodes written out by all calls of defines and formulas of one spec."""

MAX_NODES = 10_000
"""Nodes of one expression after its functions have been written out."""


_SHAPE = Type(Sort.REAL, Extent.TENSOR, host=True, static=True)
HAS_MATRIX = Apply("ge", (Read(Symbol(Role.SHAPE, "ndim"), _SHAPE), constant(2, NOWHERE)), replace(_SHAPE, sort=Sort.BOOL))
"""`ndim >= 2`"""


@dataclass(frozen=True, slots=True)
class Place:
    """A part of a spec: what may be read there. `remedy` is the hint where something else is read."""

    title: str
    roles: frozenset[Role]
    remedy: str


_EVERYWHERE = frozenset({Role.HYPER, Role.STEP, Role.SHAPE})
STEP = Place("`step`", _EVERYWHERE | {Role.THETA, Role.GRADIENT, Role.LOSS, Role.STATE, Role.NEW}, "")
ENTRY = Place(
    "an entry",
    _EVERYWHERE | {Role.THETA, Role.INPUT, Role.STATE},
    "an entry runs between steps and sees its inputs, θ, states, hypers and `t`",
)
INITIAL = Place(
    "an initial value",
    frozenset({Role.HYPER, Role.THETA, Role.GRADIENT}),
    "initial values read hypers, θ and g as they are before the step that creates the state",
)
NUMBER_INITIAL = Place("the initial value of such a state", frozenset({Role.HYPER}), "it reads hypers and numbers only")
CONDITION = Place(
    "the condition of a state", frozenset({Role.HYPER, Role.SHAPE}), "it reads hypers, `ndim`, `numel` and `bf16` only"
)
REQUIRE = Place("`require`", frozenset({Role.HYPER}), "it is checked before any step and reads hypers only")
DEFINE = Place("`define`", _EVERYWHERE, "give it to the function as an argument")
FILE_DEFINE = Place(
    "a `define` outside the optimizer", frozenset({Role.STEP, Role.SHAPE}), "give it to the function as an argument"
)


NOT_RUN = frozenset(place.title for place in (INITIAL, NUMBER_INITIAL, CONDITION, REQUIRE))
"""Places that are no lines of a procedure."""


@dataclass(frozen=True, slots=True)
class HyperEntry:
    """A name that a hyper gives; `hyper` is None where its declaration is wrong."""

    hyper: Hyper | None
    span: Span


@dataclass(frozen=True, slots=True)
class StateEntry:
    """A declared state. `exists` is None where its condition or extent is wrong; `condition` is it as written."""

    extent: Extent
    exists: Expression | None
    condition: str
    needs_gradient: bool
    span: Span


@dataclass(frozen=True, slots=True)
class DefineEntry:
    """A user's function; `sound` unless its form is wrong or it calls itself."""

    node: nodes.Define
    place: Place
    sound: bool


@dataclass(frozen=True, slots=True)
class Local:
    """What a local name stands for: the expression that reads it (a static value stands for itself), None if it is wrong."""

    value: Expression | None


@dataclass(slots=True)
class Env:
    """The point in the text that is being checked."""

    place: Place
    locals: dict[str, Local] = field(default_factory=dict)
    partial: dict[str, Span] = field(default_factory=dict)  # names bound in one branch of an `if` only
    path: tuple[Expression, ...] = ()  # static conditions that hold here
    emit: list[Statement] | None = None  # the block in the making, for named values of defines; None where there is none
    inputs: frozenset[str] = frozenset()
    later: frozenset[str] = frozenset()  # every name that this procedure binds somewhere
    inlined_at: Span | None = None  # the call, inside a function that is written out
    prefix: str = ""  # of the locals of a function that is written out
    measured: bool = False  # under a condition that is known only when the tensors have been looked at
    narrow: Expression | None = None  # the outermost condition around that is not one for the whole model

    def under(self, condition: Expression | None, emit: list[Statement] | None = None) -> Env:
        """A branch: its own names, and what the condition implies."""
        path = self.path if condition is None else (*self.path, static_part(condition))
        measured = self.measured or (condition is not None and not condition.type.host)
        narrow = self.narrow
        if narrow is None and condition is not None and condition.type.extent is not Extent.MODEL:
            narrow = condition
        return replace(
            self, locals=dict(self.locals), partial=dict(self.partial), path=path, emit=emit, measured=measured, narrow=narrow
        )


@dataclass(slots=True)
class Context:
    """Declarations of one spec, and what has been found out about it."""

    source: Source
    diagnostics: list[Diagnostic] = field(default_factory=list)
    hypers: dict[str, HyperEntry] = field(default_factory=dict)
    tuples: dict[str, tuple[str, ...]] = field(default_factory=dict)
    states: dict[str, StateEntry] = field(default_factory=dict)
    defines: dict[str, DefineEntry] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)  # hypers, states, inputs, locals that some line reads
    called: set[str] = field(default_factory=set)  # defines
    written: set[str] = field(default_factory=set)  # states
    declared: frozenset[str] = frozenset()  # all states of the text, also those that have not been checked yet
    taken: set[str] = field(default_factory=set)  # every name in the text
    required: tuple[Expression, ...] = ()
    implication: Implication = field(default_factory=lambda: Implication({}))
    inlined: int = 0
    draws: int = 0  # places where random numbers are drawn, so far
    deep: bool = False
    undecided: bool = False
    stopped: Expression | None = None  # the condition of an earlier `stop` that is not one for the whole model
    unknown: set[str] = field(default_factory=set)
    on_device: frozenset[str] = frozenset()  # states `per tensor` that are written from what is in tensors
    found_on_device: set[str] = field(default_factory=set)  # those that turned out to be
    pick: tuple[str, Span] | None = None  # the hyper p of picked elements, and where it is named first
    rows: Span | None = None  # where rows, columns or matrices are named first
    by_group: bool = False  # numbers that parameters share are those of a parameter group, not of the whole model

    @property
    def whole(self) -> str:
        """What numbers that parameters share are one for."""
        return "group" if self.by_group else "model"

    @property
    def total(self) -> str:
        """The function that adds up over it."""
        return "group_total" if self.by_group else "total"

    def error(self, code: str, message: str, span: Span, hint: str | None = None) -> None:
        """Notes a mistake."""
        self.diagnostics.append(Diagnostic(code, message, span, hint))

    def unknown_name(self, name: str, span: Span, known: Iterable[str], what: str = "name", hint: str | None = None) -> None:
        """Notes a name that nothing declares, once."""
        if name in self.unknown:
            return
        self.unknown.add(name)
        near = nearest(name, known)
        if near is not None:
            self.used.add(near)  # a misspelt name is not also an unused one
            self.called.add(near)
            hint = f"did you mean `{near}`?"
        elif what == "name" and hint is None:
            hint = "give it a value in a line above, or declare it in `hyper:` or `state:`"
        self.error(f"unknown-{what}", f"there is no {what} `{name}` here", span, hint)

    def reserved(self, name: str, span: Span, keep_outside: bool = False) -> bool:
        """Notes where a declaration takes a name of the language; whether that name is a given one (`g`, `t`).

        The name of a function is an error as well, after which the declaration stands, so that nothing follows from it.
        `keep_outside`: the hint shows how the name stays as it is outside.
        """
        if name in RESERVED_NAMES:
            self.error("reserved-name", f"`{name}` has a meaning in the language", span, "choose another name")
        elif name in BUILTINS:
            free = self.fresh(f"{name}_value")
            hint = f"write `{free} = … as {name}`" if keep_outside else f"choose another name, like `{free}`"
            self.error("reserved-name", f"`{name}` is a function of the language; nothing else can have its name", span, hint)
        return name in RESERVED_NAMES

    def implied(self, env: Env, conclusion: Expression, span: Span) -> bool:
        """Whether a static condition holds at this point."""
        try:
            return self.implication.implied((*self.required, *env.path), conclusion)
        except TooManyCases:
            if not self.undecided:
                self.undecided = True
                self.error(
                    "too-many-conditions",
                    "too many static conditions meet here to see whether the line is always allowed",
                    span,
                    "put the line under the very condition that the declaration has",
                )
            return True

    def has_matrix(self, env: Env, span: Span) -> bool:
        """Whether θ has two dimensions or more wherever this line runs."""
        return self.implied(env, HAS_MATRIX, span)

    def too_deep(self, span: Span) -> None:
        """Notes that a spec nests too deeply, once."""
        if not self.deep:
            self.deep = True
            self.error(
                "too-deep", f"this nests deeper than {MAX_DEPTH} operations or blocks", span, "give names to parts of it"
            )

    def check_used(self) -> None:
        """Reports hypers and states that nothing reads, and functions that nothing calls."""
        for name, hyper in self.hypers.items():
            if name not in self.used:
                self.error("unused-hyper", f"no line reads the hyper `{name}`", hyper.span, "take it out, or use it")
        for name, state in self.states.items():
            if name not in self.used:
                does = "is written, but never read" if name in self.written else "is never used"
                self.error("unused-state", f"the state `{name}` {does}", state.span, "take it out, or use it")
        for name, define in self.defines.items():
            if name not in self.called:
                span = self.head(define.node, "define")
                self.error("unused-define", f"nothing calls `{name}`", span, "take it out, or call it")

    def fresh(self, name: str) -> str:
        """A name that the text does not have, `name` if possible."""
        candidate, number = name, 2
        while candidate in self.taken:
            candidate, number = f"{name}_{number}", number + 1
        self.taken.add(candidate)
        return candidate

    def head(self, node: nodes.Node, skip: str = "") -> Span:
        """The span of the name that opens a declaration, after the word `skip`."""
        text = self.source.text[node.span.start : node.span.end]
        match = re.match(rf"{skip}\s*([^\s=(:,)]+)", text)
        return node.span if match is None else Span(node.span.start + match.start(1), node.span.start + match.end(1))

    def parameter(self, node: nodes.Define, name: str) -> Span:
        """The span of a parameter in the head of a function."""
        start = self.source.text.find("(", node.span.start, node.span.end)
        found = re.compile(NAME_PATTERN).finditer(self.source.text, max(start, 0), node.span.end) if start >= 0 else ()
        return next((Span(*match.span()) for match in found if fold(match[0]) == name), self.head(node, "define"))

    def after(self, node: nodes.Node, word: str) -> Span:
        """The span of the name after `as` or `per` in a declaration, else of the opening name."""
        text = self.source.text[node.span.start : node.span.end]
        match = re.search(rf"\b{word}\s+([^\s,;:)]+)", text)
        return self.head(node) if match is None else Span(node.span.start + match.start(1), node.span.start + match.end(1))

    def text(self, span: Span) -> str:
        """The text of a span, on one line."""
        return " ".join(self.source.text[span.start : span.end].split())


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` is probably meant to be."""
    names = sorted(set(known))
    matches = difflib.get_close_matches(name, names, n=1) or [k for k in names if len(k) > 1 and sorted(k) == sorted(name)]
    return matches[0] if matches else None


def place_of(node: nodes.Node, env: Env) -> Span:
    """Where to point: the node, or the call where the node has no text of its own (a formula of the language)."""
    return env.inlined_at if node.span == NOWHERE and env.inlined_at is not None else node.span


def all_of(conditions: Iterable[Expression | None]) -> Expression | None:
    """Their conjunction; None if one is wrong."""
    known = list(conditions)
    right = [c for c in known if c is not None]
    return conjunction(right) if len(right) == len(known) else None


def walk(*roots: object) -> list[nodes.Node]:
    """All nodes below, without recursion."""
    found: list[nodes.Node] = []
    stack: list[object] = list(roots)
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            stack.extend(item)
        elif isinstance(item, nodes.Node):
            found.append(item)
            stack.extend(getattr(item, name) for name in item.__dataclass_fields__ if name != "span")
    return found
