"""The checked program: names resolved, functions inlined, every value typed. It is what the language means.

`dsl/check.py` makes it, `compiler/interpret.py` runs it in float64 (the oracle), `compiler/lower.py` starts from it.
Only primitive operations are left: `ema`, `debias`, `lerp`, `clamp`, `every` and the user's `define`s have been expanded.
Names are mutable, as in the text: a `Let` or `Store` changes what later reads of the name see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Protocol, TypeAlias

from optc.dsl.kinds import Extent, Sort, Type
from optc.dsl.source import NOWHERE, Source, Span

Scalar: TypeAlias = float | int | bool | str | None


class Role(Enum):
    """What a name stands for."""

    THETA = "theta"
    GRADIENT = "gradient"
    INPUT = "input"  # an extra input of an entry
    ELEMENT = "element"  # the number of each element, by which random numbers are drawn
    RUN_LENGTH = "run_length"  # how these go on: see `optc.runtime.sharding.Runs`
    RUN_STEP = "run_step"
    STATE = "state"
    HYPER = "hyper"
    LOCAL = "local"
    STEP = "step"  # t
    LOSS = "loss"  # what the closure returned
    SHAPE = "shape"  # numel, ndim, and bf16: whether θ is bfloat16
    NEW = "new"  # new(state): created in this very step
    SCALAR = "scalar"  # after lowering: a float64 value of the host program, rounded once
    FLAG = "flag"  # after lowering: a condition known before the kernel starts
    REST = "rest"  # after scheduling: what a parameter that is kept as a pair lacks
    SCALE = "scale"  # after scheduling: the scales of a state that is kept as codes
    BOOK = "book"  # and what its codes mean
    STATISTIC = "statistic"  # after scheduling: a float64 number of the tensor, known between two passes over it


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name and its role. `Symbol(Role.NEW, "b")` is `new(b)`."""

    role: Role
    name: str


THETA = Symbol(Role.THETA, "theta")
GRADIENT = Symbol(Role.GRADIENT, "g")
STEP = Symbol(Role.STEP, "t")
ELEMENT = Symbol(Role.ELEMENT, "element")
LOSS = Symbol(Role.LOSS, "loss")

# --- expressions --------------------------------------------------------------------------------------------------------------

UNARY = frozenset({"neg", "sqrt", "exp", "log", "sin", "cos", "cospi", "tanh", "abs", "sign", "floor", "not"})
COMPARISONS = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})
BINARY = COMPARISONS | {"add", "sub", "mul", "div", "mod", "pow", "min", "max", "atan2", "round_bf16", "and", "or"}
TERNARY = frozenset({"where"})
DRAW = "uniform"
REDUCTIONS = frozenset({"sum", "mean", "largest", "smallest"})
PICK = "pick"
TOTAL = "total"
GATHERING = REDUCTIONS | {TOTAL}
LOGIC = frozenset({"and", "or", "not"})
"""The primitive operations. IEEE rules hold: `1/0` is inf, `0^0` is 1, NaN passes through sign, min and max, nothing raises.
`mod` is the floored modulo (sign of the divisor); `sign(0)` is 0; `where(c, a, b)` evaluates both sides and picks.
A reduction takes a value to the narrower extent of its type: over all its entries, those of each row, or of each column. Over
no entries the sum is 0, the mean NaN, the largest -inf and the smallest inf; NaN passes through all four.
`total` is the sum of a value of extent `tensor` or less over all parameters that take part in the step.
`pick(x, p)` is every p-th element of x, flattened, from the first one; p is a hyper, the same in the whole program.
`uniform` takes the number of the element, the two words of the seed, the two of the step and the place in the text to a number
from [0, 1), a multiple of 2^-24: a function of these six and of nothing else (see `dsl/draws.py`)."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal; a CHOICE type for texts and `none`."""

    value: Scalar
    type: Type
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Read:
    """The present value of a name."""

    symbol: Symbol
    type: Type
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Apply:
    """A primitive operation on one to three arguments."""

    operation: str
    arguments: tuple[Expression, ...]
    type: Type
    span: Span = field(default=NOWHERE, compare=False, repr=False)


Expression: TypeAlias = Constant | Read | Apply

TRUE = Constant(True, Type(Sort.BOOL, Extent.MODEL, host=True, static=True))

# --- statements ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Let:
    """Gives a local name (or the gradient: `g = g + λθ`) a value."""

    target: Symbol
    value: Expression
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Store:
    """Writes a state or θ. Reads after it see the new value.

    `dither`: what codes are rounded at random by where the value is kept, a number from [0, 1) for each element.
    """

    target: Symbol
    value: Expression
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    dither: Expression | None = None


@dataclass(frozen=True, slots=True)
class Branch:
    """Runs one of two blocks. The condition is one value for the whole tensor, never per element."""

    condition: Expression
    then: tuple[Statement, ...]
    otherwise: tuple[Statement, ...]
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Stop:
    """Ends the step for this parameter; what was written stays written."""

    span: Span = field(default=NOWHERE, compare=False, repr=False)


Statement: TypeAlias = Let | Store | Branch | Stop

# --- declarations -------------------------------------------------------------------------------------------------------------


class HyperKind(Enum):
    REAL = "real"
    INTEGER = "integer"
    FLAG = "flag"
    CHOICE = "choice"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Allowed values of a number."""

    low: float
    high: float
    low_closed: bool
    high_closed: bool


@dataclass(frozen=True, slots=True)
class Hyper:
    """One keyword argument and group entry `key`; inside, one name, or one per element of a tuple.

    `optional`: the value may be None (its default is `none`). `counts`: a number that goes up by one with every step of the
    optimizer, whoever takes part.
    """

    key: str
    names: tuple[str, ...]
    defaults: tuple[Scalar, ...]
    is_tuple: bool
    kind: HyperKind
    bounds: Bounds | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False
    shared: bool = False
    counts: bool = False
    text: str | None = None
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Require:
    """A static or host condition on hypers, checked at construction and when a group changes."""

    condition: Expression
    message: str
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Storage:
    """How a state per element is kept in memory: in another `dtype`, or as codes.

    Codes are those of `levels`, 2 (-1 and 1), 16 or 256 float32 numbers (NaN: no code). `block` numbers in a row of
    the flattened tensor share a float32 scale, max(largest |x|, `least`)/`unit`, and x is kept as the code whose level is
    nearest to x/scale; `ties` says which of two that are equally near ("down", "up", or "even": the even code). Tensors with
    fewer than `smallest` elements are kept as they are. `fixed`: the scale is 1, whatever the numbers are; those beyond the
    outermost levels are kept as these. `stochastic`: a number is kept as one of the two that are next to it, at random; codes
    are so by the `dither` of a `Store`, a dtype is by the step, which rounds its last value.
    """

    name: str
    dtype: str | None = None
    levels: tuple[float, ...] = ()
    block: int = 0
    ties: str = "down"
    unit: float = 1.0
    least: float = 0.0
    smallest: int = 0
    stochastic: bool = False
    fixed: bool = False

    @property
    def bits(self) -> int:
        """Bits of one code; 0 where there are none."""
        return {256: 8, 16: 4, 2: 1, 0: 0}[len(self.levels)]

    @property
    def bytes(self) -> float:
        """Bytes per element."""
        return self.bits / 8 + 4 / self.block if self.dtype is None else DTYPE_BYTES[self.dtype]

    @property
    def signed(self) -> bool:
        """Whether it keeps negative numbers."""
        return self.dtype is not None or any(level < 0 for level in self.levels)

    @property
    def error(self) -> float:
        """How far one encoding may move a number: of codes as a share of the largest |x| of the block, else of the number.

        It is half of the widest gap between levels, or the distance to the outermost one where that is more; numbers of a sign
        that no level has are not thought of. At random it is the whole of a gap. Numbers that are kept as one of two levels are
        one of them. With a scale of 1 it
        is no share, and of numbers as large as the outermost levels at most.
        """
        if self.bits == 1:
            return 0.0
        if self.dtype is not None:
            nearest = 2.0 ** -{"float64": 53, "float32": 24, "bfloat16": 8, "float16": 11}[self.dtype]
            return 2 * nearest if self.stochastic else nearest
        known = sorted(level / self.unit for level in self.levels if level == level)
        gaps = [(b - a) * (1 if self.stochastic else 0.5) for a, b in pairwise(known)]
        if self.fixed:
            return max(*gaps, known[0])
        return max(*gaps, 1 - known[-1], known[0] if known[0] >= 0 else known[0] + 1)


DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class State:
    """What is kept per parameter under `key`.

    `initial` reads hypers, θ and g (values before the step that creates it). States `per row`, `per col` and `per matrix` are
    shaped like θ with the dimensions of length 1 that they do not vary along, those `per pick` have one dimension. States
    `per tensor` are float64 numbers; those written from host values only are `host` states and stay on the host. States
    `per model` are float64 numbers that all parameters share. `exists` is a static condition (TRUE without one). Without a
    `storage` a state per element has the dtype of the arithmetic.
    """

    name: str
    key: str
    initial: Expression
    extent: Extent
    host: bool
    exists: Expression = TRUE
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    storage: Storage | None = None


@dataclass(frozen=True, slots=True)
class Procedure:
    """`step`, or an `entry` with extra inputs (`per elem` tensors shaped like θ). `every` is advice to callers."""

    name: str
    inputs: tuple[str, ...]
    every: int | None
    body: tuple[Statement, ...]


def squarest(size: int) -> tuple[int, int]:
    """(rows, columns): the factors of a size that are nearest to each other, more rows than columns where they differ."""
    columns = next((k for k in range(math.isqrt(size), 0, -1) if size % k == 0), 1)
    return size // columns, columns


@dataclass(frozen=True, slots=True)
class Program:
    """A checked optimizer. `procedures[0]` is `step`.

    `seen`: rows and columns are those of θ seen as (first dimension, all others) for "matrix", as the two factors of its size
    that are nearest to each other for "square", else those of its last two dimensions.
    `pick`: the hyper p of values and states of extent `pick`, if there are any. `pair`: how parameters of 16 bits are kept
    together with what they lack ("split24", "split32", "kahan" or "master"). `by_group`: values and states of extent `model`
    are those of a parameter group, each group's for itself.
    """

    name: str
    text: str | None
    cites: tuple[str, ...]
    notes: tuple[str, ...]
    hypers: tuple[Hyper, ...]
    requires: tuple[Require, ...]
    states: tuple[State, ...]
    procedures: tuple[Procedure, ...]
    source: Source = field(compare=False, repr=False)
    seen: str | None = None
    pick: str | None = None
    pair: str | None = None
    by_group: bool = False

    def view(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in which the program sees a parameter of shape `shape`."""
        if self.seen == "matrix" and len(shape) > 2:
            return shape[0], math.prod(shape[1:])
        return squarest(math.prod(shape)) if self.seen == "square" and len(shape) >= 2 else shape

    def state(self, name: str) -> State:
        """The state of that name."""
        return next(s for s in self.states if s.name == name)


class Declares(Protocol):
    """What has hypers: an optimizer or a schedule."""

    @property
    def hypers(self) -> tuple[Hyper, ...]: ...


@dataclass(frozen=True, slots=True)
class ScheduledValue:
    """One hyper over the steps: `lines` name parts of `value`. They read hypers and the locals `n` and `base`.

    `target` is the hyper, "lr" or "momentum".
    """

    target: str
    lines: tuple[Statement, ...]
    value: Expression


@dataclass(frozen=True, slots=True)
class Schedule:
    """A checked schedule: what hypers are after `n` steps, from what they were given as, `base`."""

    name: str
    text: str | None
    cites: tuple[str, ...]
    notes: tuple[str, ...]
    hypers: tuple[Hyper, ...]
    requires: tuple[Require, ...]
    values: tuple[ScheduledValue, ...]
    source: Source = field(compare=False, repr=False)
