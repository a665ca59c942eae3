"""The spec as written: what the parser returns and `show` prints.

Names are already folded to their one ASCII identity (`β₁` is `beta1`), operators to their ASCII spelling (`√v` is `sqrt(v)`);
everything else stands as in the text. Spans do not take part in equality, so `parse(show(spec)) == spec`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from optc.dsl.statements import (
    Assign as Assign,
    Binary as Binary,
    BinaryOperator as BinaryOperator,
    Boolean as Boolean,
    Call as Call,
    Every as Every,
    Expression as Expression,
    If as If,
    Index as Index,
    Name as Name,
    Node as Node,
    Nothing as Nothing,
    Number as Number,
    Return as Return,
    Statement as Statement,
    Stop as Stop,
    Text as Text,
    Unary as Unary,
    UnaryOperator as UnaryOperator,
    Write as Write,
)


# --- declarations -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Interval(Node):
    """`in [0, 1)`, `in int [1, inf)`. Bounds are constant expressions: numbers, `-number`, `inf`, `-inf`, `pi`."""

    low: Expression
    high: Expression
    low_closed: bool
    high_closed: bool
    integer: bool


@dataclass(frozen=True, slots=True)
class Choice(Node):
    """`in {"original", "match_rms_adamw"}`."""

    values: tuple[str, ...]


Domain: TypeAlias = Interval | Choice


@dataclass(frozen=True, slots=True)
class Element(Node):
    """One element of a tuple hyper: `β1 = 0.9` in `betas = (β1 = 0.9, β2 = 0.999)`."""

    name: str
    default: Expression


@dataclass(frozen=True, slots=True)
class Hyper(Node):
    """`name = default as outside shared in domain "text"`. `default` is a literal or a tuple of elements.

    `counts`: a number that goes up by one with every step.
    """

    name: str
    default: Expression | tuple[Element, ...]
    outside: str | None = None
    shared: bool = False
    counts: bool = False
    domain: Domain | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Require(Node):
    condition: Expression
    message: str


@dataclass(frozen=True, slots=True)
class State(Node):
    """`name = initial as outside per extent`; `extent` is None where the text says none. `per pick(p)` has a period."""

    name: str
    initial: Expression
    outside: str | None = None
    extent: str | None = None
    period: Expression | None = None


@dataclass(frozen=True, slots=True)
class StateIf(Node):
    """`if condition:` in `state:`, with states (or further conditions) that exist only where it holds."""

    condition: Expression
    then: tuple[StateItem, ...]
    otherwise: tuple[StateItem, ...]


StateItem: TypeAlias = State | StateIf


@dataclass(frozen=True, slots=True)
class Define(Node):
    """`define f(x) = value`, or a block: then `body` ends with a `Return`. The one-line form is a body of one `Return`."""

    name: str
    parameters: tuple[str, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Input(Node):
    """An extra input of an entry: `g_s per elem`."""

    name: str
    extent: str


@dataclass(frozen=True, slots=True)
class Entry(Node):
    """`entry update_hessian(g_s per elem) every 10:`; `every` tells callers when it is due."""

    name: str
    inputs: tuple[Input, ...]
    every: int | None
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Argument(Node):
    """`betas = (0.95, 0.999)`; `name` is None for a bare value: the first hyper of a modifier, a storage's block."""

    name: str | None
    value: Expression | tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Kept(Node):
    """`m: dynamic8(block = 128)` in `storing`: how a state is kept in memory."""

    state: str
    storage: str
    arguments: tuple[Argument, ...] = ()


@dataclass(frozen=True, slots=True)
class Optimizer(Node):
    """One optimizer.

    `cites` are references (`arXiv:1711.05101`, `doi:…`, or free text); `notes` say where it deviates from the paper or from
    other implementations. Both are carried into the generated docstring and documentation. `shape` is "matrix" where rows and
    columns are those of θ seen as (first dimension, all others), None where they are those of its last two dimensions.
    """

    name: str
    text: str | None = None
    cites: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    hypers: tuple[Hyper, ...] = ()
    requires: tuple[Require, ...] = ()
    states: tuple[StateItem, ...] = ()
    defines: tuple[Define, ...] = ()
    step: tuple[Statement, ...] = ()
    entries: tuple[Entry, ...] = ()
    shape: str | None = None
    storing: tuple[Kept, ...] = ()


@dataclass(frozen=True, slots=True)
class Storage(Node):
    """A way of keeping a state in memory: settings, and `define level(c)`, the number that a code stands for; or other states,
    how they are kept, what they `decode` to, and the lines that `encode` a value called `value`. `shape`: as in `Optimizer`."""

    name: str
    text: str | None = None
    cites: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settings: tuple[Argument, ...] = ()
    defines: tuple[Define, ...] = ()
    shape: str | None = None
    states: tuple[StateItem, ...] = ()
    storing: tuple[Kept, ...] = ()
    decode: Expression | None = None
    value: str = ""
    encode: tuple[Statement, ...] = ()


# --- modifiers and compositions -----------------------------------------------------------------------------------------------

Stage: TypeAlias = Literal["schedule", "clip", "project", "couple", "mix", "mask", "trust", "decay", "constrain", "average"]


@dataclass(frozen=True, slots=True)
class Hook(Node):
    """`mask m_hat else u as z:`: lines, which call it `alias`, change a point of the base; `otherwise` where it lacks that."""

    stage: Stage
    point: str
    otherwise: str | None
    alias: str | None
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Rewrite(Node):
    """`rewrite (a, b): pattern -> value`; the variables stand for any expression, other names for themselves."""

    variables: tuple[str, ...]
    pattern: Expression
    value: Expression


@dataclass(frozen=True, slots=True)
class Modifier(Node):
    """A change to an optimizer, in one or more stages; sections as in `Optimizer`."""

    name: str
    text: str | None = None
    cites: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    hypers: tuple[Hyper, ...] = ()
    requires: tuple[Require, ...] = ()
    states: tuple[StateItem, ...] = ()
    defines: tuple[Define, ...] = ()
    hooks: tuple[Hook | Rewrite, ...] = ()
    shape: str | None = None


@dataclass(frozen=True, slots=True)
class Term(Node):
    """`RAdam(eps = 1e-5) without weight_decay`: an optimizer or a modifier in a composition; only the first has `without`."""

    name: str
    arguments: tuple[Argument, ...] = ()
    without: tuple[Name, ...] = ()


@dataclass(frozen=True, slots=True)
class Derived(Node):
    """`optimizer NAME = base + modifier + … storing …`. `text` and `cites` say more than what the parts say."""

    name: str
    base: Term
    modifiers: tuple[Term, ...] = ()
    text: str | None = None
    cites: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    storing: tuple[Kept, ...] = ()


# --- schedules ----------------------------------------------------------------------------------------------------------------


Target: TypeAlias = Literal["lr", "momentum"]


@dataclass(frozen=True, slots=True)
class Scheduled(Node):
    """`lr:` or `momentum:`: the value of a hyper after `n` steps, where `base` is the one given. `body` ends in a `Return`."""

    target: Target
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Schedule(Node):
    """Values of hypers as functions of the steps done; sections as in `Optimizer`."""

    name: str
    text: str | None = None
    cites: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    hypers: tuple[Hyper, ...] = ()
    requires: tuple[Require, ...] = ()
    defines: tuple[Define, ...] = ()
    values: tuple[Scheduled, ...] = ()


@dataclass(frozen=True, slots=True)
class Link(Node):
    """`linear(T = 100) for 100`: a schedule and how many steps it lasts; the last one of a chain lasts for good."""

    term: Term
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class Chain(Node):
    """`schedule NAME = first for 100, second`: one schedule after the other, each of which counts its steps from 0."""

    name: str
    links: tuple[Link, ...]
    text: str | None = None
    cites: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comment(Node):
    """`# text`, kept for `optc fmt` only. `alone` where nothing else stands on its line."""

    text: str
    alone: bool


@dataclass(frozen=True, slots=True)
class Mark(Node):
    """The head of a section or block (`step`, `else`, `define f(x)`) by its first word; its span is for `optc fmt` only."""

    word: str


@dataclass(frozen=True, slots=True)
class Spec(Node):
    """A file of an optimizer that is written out: shared `define`s, storages, and one optimizer."""

    optimizer: Optimizer
    defines: tuple[Define, ...] = ()
    storages: tuple[Storage, ...] = ()
    comments: tuple[Comment, ...] = field(default=(), compare=False, repr=False)
    marks: tuple[Mark, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Composition(Node):
    """A file of modifiers, storages and schedules, of an optimizer derived from others, or of both."""

    optimizer: Derived | None = None
    modifiers: tuple[Modifier, ...] = ()
    defines: tuple[Define, ...] = ()
    storages: tuple[Storage, ...] = ()
    schedules: tuple[Schedule | Chain, ...] = ()
    comments: tuple[Comment, ...] = field(default=(), compare=False, repr=False)
    marks: tuple[Mark, ...] = field(default=(), compare=False, repr=False)


File: TypeAlias = Spec | Composition
"""What a file can hold."""
