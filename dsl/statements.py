"""The code of a spec as written: expressions and statements. Everything here is known as part of `optc.dsl.nodes`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from optc.dsl.source import NOWHERE, Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Anything with a place in the text."""

    span: Span = field(default=NOWHERE, compare=False, repr=False)


# --- expressions --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Number(Node):
    """A literal. `1` is an int, `1.0` and `1e-3` are floats; neither is ever negative (see `Unary`)."""

    value: int | float


@dataclass(frozen=True, slots=True)
class Boolean(Node):
    value: bool


@dataclass(frozen=True, slots=True)
class Text(Node):
    value: str


@dataclass(frozen=True, slots=True)
class Nothing(Node):
    """`none`."""


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A name by its ASCII identity; `theta`, `g`, `t`, `pi`, `inf`, `numel`, … are names too."""

    id: str


UnaryOperator: TypeAlias = Literal["-", "not", "'"]
BinaryOperator: TypeAlias = Literal["+", "-", "*", "/", "@", "mod", "^", "<", "<=", ">", ">=", "==", "!=", "and", "or"]


@dataclass(frozen=True, slots=True)
class Unary(Node):
    operator: UnaryOperator
    operand: Expression


@dataclass(frozen=True, slots=True)
class Binary(Node):
    operator: BinaryOperator
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Call(Node):
    """`f(x, y)`; also `√x`, `|x|`, `‖x‖`, `⟨a, b⟩`, `⌊x⌋` under the names sqrt, abs, norm, dot, floor."""

    function: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Index(Node):
    value: Expression
    index: Expression


Expression: TypeAlias = Number | Boolean | Text | Nothing | Name | Unary | Binary | Call | Index

# --- statements ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Assign(Node):
    """`name = value`: names a value."""

    targets: tuple[Name, ...]
    value: Expression | tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Write(Node):
    """`state <- value` or `(a, b) <- (x, y)`: changes what lives on; several are written together, reading old values."""

    targets: tuple[Name, ...]
    value: Expression | tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class If(Node):
    """`if … else …`; `else if` is an `If` alone in `otherwise`."""

    condition: Expression
    then: tuple[Statement, ...]
    otherwise: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Every(Node):
    """`every k from s:`."""

    period: Expression
    start: Expression | None
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Stop(Node):
    """`stop`: ends the step for this parameter."""


@dataclass(frozen=True, slots=True)
class Return(Node):
    """`return value`, at the end of a `define` block only."""

    value: Expression


Statement: TypeAlias = Assign | Write | If | Every | Stop | Return
