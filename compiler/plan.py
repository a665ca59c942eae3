"""The plan: what runs on the host, which kernels run over memory, and what each of them reads and writes.

The last value before text. Emitters print it and decide nothing that changes a result. Expressions and statements are those of
`dsl/program.py`, restricted (and checked by `compiler/verify.py`):

- the **host program** is float64 code run once per step for all parameters that share its inputs. It reads hypers, `t`, shapes,
  `new(state)` and host states, binds host locals, stores host states, and leaves the values named in `scalars` and `flags`;
- a **kernel body** reads streams, its own locals, SCALARs and FLAGs. `Let` binds a local or rebinds a stream's variable (the
  gradient); `Store` gives a stream's variable its new value (written to memory once, at the end). `Branch` conditions are FLAGs
  combined with and/or/not. There is no `Stop`, `mod` by elements, or CHOICE left.
"""

from __future__ import annotations

from dataclasses import dataclass

from optc.dsl.program import Expression, Program, Role, Statement


@dataclass(frozen=True, slots=True)
class Flag:
    """A condition known before a kernel starts.

    Static flags depend on hypers and shapes only and select a variant of the code (constexpr); the others (`t == 1`, `new(b)`,
    `rho_t > 5`) are left by the host program at every step. `condition` is over hypers, shapes for static flags; for host
    flags it is the expression bound in the host program.
    """

    name: str
    condition: Expression
    static: bool


@dataclass(frozen=True, slots=True)
class Stream:
    """One tensor per parameter that a kernel moves through. `exists`: TRUE or a condition over static FLAG reads.

    `reads`/`writes`: whether any variant reads its old value or writes it.
    """

    name: str
    role: Role  # THETA, GRADIENT, INPUT or STATE
    reads: bool
    writes: bool
    exists: Expression


@dataclass(frozen=True, slots=True)
class HostProgram:
    """Float64 code; `body` binds every name in `scalars` and `flags` on every path (NaN / False where it has no meaning).

    `carried` are the names of the host states it may store.
    """

    body: tuple[Statement, ...]
    scalars: tuple[str, ...]
    flags: tuple[str, ...]
    carried: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One pass over memory: all streams are read once and written once.

    Every kernel multiplies the gradient, as it is loaded, by a factor of the launch (−1 to maximize, 1/scale to undo loss
    scaling).
    """

    name: str
    streams: tuple[Stream, ...]
    scalars: tuple[str, ...]
    static_flags: tuple[str, ...]
    host_flags: tuple[str, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class ProcedurePlan:
    """`step` or an entry: the host program once, then the kernels in order."""

    name: str
    inputs: tuple[str, ...]
    every: int | None
    host: HostProgram
    kernels: tuple[Kernel, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the emitters need. `flags` are all static flags of the optimizer, shared by its procedures."""

    program: Program
    flags: tuple[Flag, ...]
    procedures: tuple[ProcedurePlan, ...]
