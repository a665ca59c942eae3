"""What a generated module tells the runtime about its optimizer: plain, frozen data and the functions it was compiled to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Value: TypeAlias = float | int | bool | str | None


@dataclass(frozen=True, slots=True)
class Hyper:
    """A keyword argument and group entry.

    `names` are its names in the spec: one, or one per element when `is_tuple`. Numbers are live (read at every step);
    `kind` is "real", "integer", "flag" or "choice". `optional` admits None.
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


@dataclass(frozen=True, slots=True)
class Condition:
    """A generated function of `arguments` (inside names of hypers; `ndim`, `numel`) that returns a bool."""

    function: Callable[..., bool]
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Require:
    """A condition on hypers; `message` is shown when it does not hold."""

    condition: Condition
    message: str


@dataclass(frozen=True, slots=True)
class State:
    """What is kept per parameter under `key`.

    `initial(theta, g, *hypers)` gets θ and g in the arithmetic dtype (g with its sign and scale already applied; both None for
    a host state) and the hypers named in `arguments`, and returns a float or a new tensor shaped like θ.
    `host`: a carried scalar, float64 on the host. `exists` is None for a state that is always there.
    """

    name: str
    key: str
    initial: Callable[..., Any]
    arguments: tuple[str, ...] = ()
    host: bool = False
    exists: Condition | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """One tensor per parameter that a kernel reads or writes; `name` is `theta`, `g`, an input or a state's name."""

    name: str
    role: Literal["theta", "gradient", "input", "state"]
    reads: bool
    writes: bool


@dataclass(frozen=True, slots=True)
class Kernel:
    """One pass over memory, in three forms with the same lines.

    `torch(*streams, *scalars, *static_flags, *host_flags)`: tensors of one parameter in the arithmetic dtype (None for a stream
    the variant lacks), floats, bools; updates the written streams in place; the gradient factor is already applied.
    `native`: C++ text for `optc.runtime.native`. `triton`: a function for `optc.runtime.triton_launch`.
    """

    name: str
    streams: tuple[Stream, ...]
    scalars: tuple[str, ...]
    static_flags: tuple[str, ...]
    host_flags: tuple[str, ...]
    torch: Callable[..., None]
    native: str
    triton: Any


@dataclass(frozen=True, slots=True)
class Procedure:
    """`step` or an entry.

    `host(*arguments)` is the host program in float64: `arguments` name its inputs (inside names of hypers, `t`, `numel`,
    `ndim`, `new_<state>`, names of host states). It returns `(scalars, flags, carried)`: floats in the order of `scalars`,
    bools in the order of `flags`, new values of the host states in `carried`. Kernels pick theirs by name.
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
    kernels: tuple[Kernel, ...]
    triton_scalars: Any


@dataclass(frozen=True, slots=True)
class Schema:
    """An optimizer. `flags` are its static flags, by name, in the order of every variant tuple."""

    name: str
    digest: str
    hypers: tuple[Hyper, ...]
    requires: tuple[Require, ...]
    states: tuple[State, ...]
    flags: tuple[tuple[str, Condition], ...]
    procedures: tuple[Procedure, ...]

    def procedure(self, name: str) -> Procedure:
        """The procedure of that name."""
        return next(p for p in self.procedures if p.name == name)
