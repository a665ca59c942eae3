"""What a generated module tells the runtime about its optimizer: plain, frozen data and the functions it was compiled to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from optc.runtime.codebook import Codebook
from optc.runtime.pairs import Pair

Value: TypeAlias = float | int | bool | str | None
Seen: TypeAlias = Literal["matrix", "square"]
Extent: TypeAlias = Literal["elem", "row", "col", "matrix", "pick", "tensor", "model"]
"""Where a value varies; "pick": over every p-th element of the flattened parameter, p being the hyper `Schema.pick`."""
Storage: TypeAlias = Codebook | Literal["float64", "float32", "bfloat16", "float16"]
"""How a state per element is kept, where that is not in the dtype of the arithmetic."""
SCALE = ".scale"
"""What the name of the stream of a state's scales ends with."""
PER_ELEMENT: tuple[Extent, ...] = ("elem", "pick")
"""Extents of what lies in memory as elements do."""


@dataclass(frozen=True, slots=True)
class Hyper:
    """A keyword argument and group entry.

    `names` are its names in the spec: one, or one per element when `is_tuple`. Numbers are live (read at every step);
    `kind` is "real", "integer", "flag" or "choice". `optional` admits None. `counts`: a step adds one to it.
    """

    key: str
    names: tuple[str, ...]
    defaults: tuple[Value, ...]
    kind: Literal["real", "integer", "flag", "choice"] = "real"
    is_tuple: bool = False
    low: float = -math.inf
    high: float = math.inf
    low_closed: bool = False
    high_closed: bool = False
    choices: tuple[str, ...] = ()
    optional: bool = False
    shared: bool = False
    counts: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """A generated function of `arguments` (inside names of hypers, `ndim`, `numel`, `bf16`; or flags) that returns a bool."""

    function: Callable[..., bool]
    arguments: tuple[str, ...]

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Its value; `values` has all arguments by name."""
        return bool(self.function(*[values[name] for name in self.arguments]))


@dataclass(frozen=True, slots=True)
class Require:
    """A condition on hypers; `message` is shown when it does not hold."""

    condition: Condition
    message: str


@dataclass(frozen=True, slots=True)
class State:
    """What is kept per parameter under `key`.

    `initial(theta, g, *hypers)` gets θ and g in the arithmetic dtype (g with its sign and scale already applied; both None for
    anything but a state per element or picked element) and the hypers named in `arguments`, and returns a float or a new tensor
    of the state's shape. `host`: a carried scalar, float64 on the host. `extent` "tensor": one number per tensor, 0-dim float64
    on the parameter's device; "model": one for all parameters, kept in the groups; "row", "col" and "matrix": a tensor with the
    dimensions of θ as the program sees it, of length 1 where it does not vary; "pick": a tensor of one dimension. `exists` is
    None for a state that is always there. With a codebook as `storage`, codes are kept under `key`, in the parameter's shape
    or, where two share a byte, in one dimension, and the scales of its blocks under `scale_key`.
    """

    name: str
    key: str
    initial: Callable[..., Any]
    arguments: tuple[str, ...] = ()
    host: bool = False
    extent: Extent = "elem"
    exists: Condition | None = None
    storage: Storage | None = None

    @property
    def scale_key(self) -> str:
        """Where scales are kept."""
        return f"{self.key}_scale"

    @property
    def scales(self) -> str:
        """The name of the stream of scales; no state is called so."""
        return f"{self.name}{SCALE}"

    def codebook(self, numel: int) -> Codebook | None:
        """What the codes of a parameter of this size mean; None where it has none."""
        book = self.storage
        return book if isinstance(book, Codebook) and numel >= book.smallest else None

    @property
    def number(self) -> bool:
        """Whether it is one number per tensor, on the parameter's device."""
        return self.extent == "tensor" and not self.host


@dataclass(frozen=True, slots=True)
class Stream:
    """One tensor per parameter that a kernel reads or writes; `name` is `theta`, `g`, an input or a state's name.

    `element` is none in memory: the numbers of the elements, by which random numbers are drawn, from the first one on; they
    may be runs of `run_length` every `run_step` (see `optc.runtime.sharding.Runs`). `scale`: the scales of a state that is kept
    as codes; `book`: what the codes mean, the same for every parameter. `coded` says in which variants a state
    with a codebook as `storage` is kept so. `rest`: what θ lacks, where `pair` says that they are kept together. `dither`: what
    `uniform` of `draws.py` is given besides the elements where codes are rounded at random: scalars of the kernel, by name, and
    numbers.

    Passes move through those of extent "elem" and "pick"; code on statistics reads and writes the others ("tensor": 0-dim
    float64). `read_if`: a condition on static flags without which the code that reads the stream has no effect, so that
    compilers leave the reads out; None where it always has. `write_if`: the same for writes.
    """

    name: str
    role: Literal["theta", "rest", "gradient", "input", "state", "element", "run_length", "run_step", "scale", "book"]
    reads: bool
    writes: bool
    extent: Extent = "elem"
    read_if: Condition | None = None
    write_if: Condition | None = None
    storage: Storage | None = None
    coded: Condition | None = None
    pair: Pair | None = None
    dither: tuple[str | float, ...] | None = None

    @property
    def number(self) -> bool:
        """Whether it is one number per tensor."""
        return self.extent == "tensor"

    @property
    def per_element(self) -> bool:
        """Whether passes move through it, in the dtype of elements."""
        return self.extent in PER_ELEMENT and not self.beside and not self.numbering

    @property
    def beside(self) -> bool:
        """Whether it belongs to another stream: its scales, or what its codes mean."""
        return self.role in ("scale", "book")

    @property
    def numbering(self) -> bool:
        """Whether it says how elements are numbered, and is nothing in memory."""
        return self.role in ("element", "run_length", "run_step")

    @property
    def whole(self) -> bool:
        """Whether PyTorch code is given it as a tensor: it knows no codes and no pairs."""
        return not self.beside and not self.numbering and self.role != "rest"

    @property
    def stays(self) -> bool:
        """Whether a table of it holds from step to step."""
        return self.role not in ("gradient", "input")

    def codebook(self, variant: Mapping[str, bool]) -> Codebook | None:
        """What its codes mean in a variant; None where it has none."""
        book = self.storage
        coded = isinstance(book, Codebook) and (self.coded is None or self.coded.holds(variant))
        return book if coded and isinstance(book, Codebook) else None

    def is_read(self, variant: Mapping[str, bool]) -> bool:
        """Whether its old value is read in a variant."""
        return self.reads and (self.read_if is None or self.read_if.holds(variant))

    def is_written(self, variant: Mapping[str, bool]) -> bool:
        """Whether it is written in a variant."""
        return self.writes and (self.write_if is None or self.write_if.holds(variant))


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass of a kernel that reduces.

    `needs` are the statistics its code per element reads, `measures` the ones that it leaves (name -> `sum`, `mean`, `largest`
    or `smallest`). `stage` is the Triton function that runs before it, once per tensor (None where there is nothing to do): it
    combines what the pass before measured, then runs code per tensor. `triton` is the pass. `exists` is a condition on static
    flags; in other variants the pass has nothing to do and may be left out (its measures are then those of no elements).
    `picks`: it does something at every p-th element, p being the scalar `Kernel.pick`.
    """

    streams: tuple[Stream, ...]
    needs: tuple[str, ...]
    measures: tuple[tuple[str, str], ...]
    stage: Any
    triton: Any
    exists: Condition | None = None
    picks: bool = False

    def runs(self, variant: Mapping[str, bool]) -> bool:
        """Whether it has something to do in a variant."""
        return self.exists is None or self.exists.holds(variant)


@dataclass(frozen=True, slots=True)
class Kernel:
    """What runs over all tensors of a batch, in three forms with the same lines.

    `torch(*streams, *scalars, *static_flags, *host_flags, *given)`: tensors of one parameter in the arithmetic dtype (None for
    a stream the variant lacks), floats (0-dim float64 tensors for numbers of the model), bools, statistics that kernels before
    have left; updates the written streams in place, returns those in `leaves`; the gradient factor is already applied. If all
    streams are states, the number of elements of θ comes last.
    `native`: C++ text for `optc.runtime.native`. `triton`: a function for `optc.runtime.triton_launch`.

    A kernel that reduces has `passes`, no `triton` function, and `statistics`: what is kept from pass to pass in float64, one
    value for each tensor, matrix, row or column as `extents` say, first those that the passes measure, in order. All kernels of
    a procedure have the same ones. `finish` is its last stage; it leaves `parts`, numbers per tensor that are added up over the
    model. `seen`: as in `Schema`. `pick`: the scalar p of passes that
    pick elements.
    """

    name: str
    streams: tuple[Stream, ...]
    scalars: tuple[str, ...]
    static_flags: tuple[str, ...]
    host_flags: tuple[str, ...]
    torch: Callable[..., tuple[Any, ...] | None]
    native: str
    triton: Any
    passes: tuple[Pass, ...] = ()
    statistics: tuple[str, ...] = ()
    extents: tuple[Extent, ...] = ()
    finish: Any = None
    parts: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    seen: Seen | None = None
    pick: str | None = None

    def extent(self, statistic: str) -> Extent:
        """Where a statistic varies: it is one number per tensor unless `extents` say otherwise."""
        return self.extents[self.statistics.index(statistic)] if self.extents else "tensor"

    def numbers(self, k: int) -> list[tuple[str, str]]:
        """What pass k measures that is one number per tensor, with the operations."""
        return [measure for measure in self.passes[k].measures if self.extent(measure[0]) == "tensor"]

    def vectors(self, k: int) -> list[tuple[str, str]]:
        """What pass k measures of rows, columns or matrices."""
        return [measure for measure in self.passes[k].measures if self.extent(measure[0]) != "tensor"]

    def measured(self, one: Pass, extent: Extent) -> int:
        """Of how many statistics of an extent a pass leaves measures."""
        return sum(self.extent(name) == extent for name, _ in one.measures)

    def most_measured(self, extent: Extent) -> int:
        """Of how many statistics of an extent one pass leaves measures, at most."""
        return max((self.measured(one, extent) for one in self.passes), default=0)

    def sweeps(self, variant: Mapping[str, bool]) -> tuple[tuple[Stream, ...], ...]:
        """The streams of each pass over memory that has something to do in a variant."""
        return tuple(p.streams for p in self.passes if p.runs(variant)) if self.passes else (self.streams,)


@dataclass(frozen=True, slots=True)
class ModelProgram:
    """What runs once for all parameters, before the kernel of its phase, on 0-dim float64 tensors.

    `function(*scalars, *flags, *totals, [loss], *states)`: floats and bools of the host program (the same for all parameters;
    static flags, too), sums over all tensors of the step of a part that kernels before have left (name of the total -> the
    part), with `loss` the loss, and numbers of the model. It returns `(exports, carried)`: scalars for kernels, and the new
    values of the states in `carried`.
    """

    function: Callable[..., tuple[tuple[Any, ...], tuple[Any, ...]]]
    scalars: tuple[str, ...]
    flags: tuple[str, ...]
    totals: tuple[tuple[str, str], ...]
    states: tuple[str, ...]
    exports: tuple[str, ...]
    carried: tuple[str, ...]
    loss: bool = False


@dataclass(frozen=True, slots=True)
class Phase:
    """A program of the whole model, then a kernel; one of them may be missing."""

    kernel: Kernel | None
    model: ModelProgram | None = None


@dataclass(frozen=True, slots=True)
class Procedure:
    """`step` or an entry.

    `host(*arguments)` is the host program in float64: `arguments` name its inputs (inside names of hypers, `t`, `numel`,
    `ndim`, `bf16`, `new_<state>`, names of host states). It returns `(scalars, flags, carried)`: floats in the order of
    `scalars`, bools in the order of `flags`, new values of the host states in `carried`. Kernels pick theirs by name.
    `triton_scalars` is the same program for the device, used under `capturable`.
    """

    name: str
    inputs: tuple[str, ...]
    every: int | None
    host: Callable[..., tuple[tuple[float, ...], tuple[bool, ...], tuple[float, ...]]]
    arguments: tuple[str, ...]
    scalars: tuple[str, ...]
    flags: tuple[str, ...]
    carried: tuple[str, ...]
    phases: tuple[Phase, ...]
    triton_scalars: Any

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The kernels of all phases."""
        return tuple(phase.kernel for phase in self.phases if phase.kernel is not None)

    @property
    def model_scalars(self) -> tuple[str, ...]:
        """What programs of the model read of the host program's scalars."""
        return tuple(dict.fromkeys(name for phase in self.phases if phase.model is not None for name in phase.model.scalars))


@dataclass(frozen=True, slots=True)
class Schema:
    """An optimizer. `flags` are its static flags, by name, in the order of every variant tuple.

    `seen`: rows and columns are those of θ seen as (first dimension, all others) for "matrix", as the two factors of its size
    that are nearest to each other for "square", else those of its last two dimensions.
    `pick`: the inside name of the hyper p for what is kept of every p-th element; it stays as it is once that is there. `pair`:
    how parameters of 16 bits are kept together with a state `theta_rest`, see `pairs.py`. `square_sum`: the part of a total
    that is the sum of all squares of the gradient, left by a kernel of the step that writes nothing. `rescales`: by that sum
    the gradient is rescaled, as where its norm is bounded. `by_group`: numbers of the model are those of a parameter group,
    each group's for itself. `digest`: a hash of states and statements, the same for specs that differ in comments, words or
    defaults only. `coders`: the keys of states that are kept as other ones, each with the text of a spec that says how: see
    `optc.runtime.checkpoint_coders`.
    """

    name: str
    digest: str
    hypers: tuple[Hyper, ...]
    requires: tuple[Require, ...]
    states: tuple[State, ...]
    flags: tuple[tuple[str, Condition], ...]
    procedures: tuple[Procedure, ...]
    seen: Seen | None = None
    pick: str | None = None
    pair: Pair | None = None
    square_sum: str | None = None
    rescales: bool = False
    by_group: bool = False
    coders: tuple[tuple[str, str], ...] = ()

    @property
    def defaults(self) -> dict[str, Value]:
        """The default hypers, by inside name."""
        return {name: value for hyper in self.hypers for name, value in zip(hyper.names, hyper.defaults, strict=True)}

    @property
    def reads_loss(self) -> bool:
        """Whether `step` needs a closure that returns the loss."""
        return any(phase.model is not None and phase.model.loss for phase in self.procedures[0].phases)

    @property
    def of_parameters(self) -> tuple[State, ...]:
        """The states that every parameter has for itself."""
        return tuple(state for state in self.states if state.extent != "model")

    @property
    def of_model(self) -> tuple[State, ...]:
        """The states that all parameters share."""
        return tuple(state for state in self.states if state.extent == "model")

    def procedure(self, name: str) -> Procedure:
        """The procedure of that name."""
        return next(p for p in self.procedures if p.name == name)
