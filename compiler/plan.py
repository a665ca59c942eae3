"""The plan: what runs on the host, which kernels run over memory, and what each of them reads and writes.

The last value before text. Emitters print it and decide nothing that changes a result. Expressions and statements are those of
`dsl/program.py`, restricted (and checked by `compiler/verify.py`):

- the **host program** is float64 code run once per step for all parameters that share its inputs. It reads hypers, `t`, shapes,
  `new(state)` and host states, binds host locals, stores host states, and leaves the values named in `scalars` and `flags`;
- a **kernel** is one launch over all tensors, of one or several passes over memory. Elementwise kernels are one pass, and their
  body is all there is. Where a value depends on a reduction, the kernel has `passes`: between them, and after the last, run
  lines **on statistics** (one value per tensor, matrix, row or column) in float64, which read and leave STATISTICs;
- a **model program** is float64 code that runs once for all parameters of a step, on numbers that may live on the device. Where
  a step needs totals over the model, it has several **phases**, each a model program and a kernel: the totals are those of what
  the kernels before have left per tensor;
- a **kernel body** reads streams, its own locals, SCALARs and FLAGs. `Let` binds a local or rebinds a stream's variable (the
  gradient); `Store` gives a stream's variable its new value (written to memory once, at the end). `Branch` conditions are FLAGs
  combined with and/or/not. There is no `Stop`, `mod` by elements, or CHOICE left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from optc.dsl.kinds import Extent
from optc.dsl.program import TRUE, Expression, Program, Role, Statement, Storage


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
    """One tensor per parameter that a kernel moves through (of picked elements, if its extent is PICK), or one number if that
    is TENSOR.

    `exists`: TRUE or a condition over static FLAG reads. `reads`/`writes`: whether any variant reads its old value or writes
    it. A `storage` says how a state is kept; where that is as codes, `coded` says when: TRUE or a condition like `exists`.
    `pair`: how θ is kept together with what it lacks, which is the stream behind it, of role REST. `dither`: the number from
    [0, 1), of ELEMENT and SCALARs, by which codes of an element are rounded at random when they are written.
    """

    name: str
    role: Role  # THETA, GRADIENT, INPUT, STATE or ELEMENT, whose values are known without a look at memory
    reads: bool
    writes: bool
    exists: Expression
    extent: Extent = Extent.ELEM
    storage: Storage | None = None
    coded: Expression | None = None
    pair: str | None = None
    dither: Expression | None = None


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
class Pass:
    """One pass over memory: its streams are read once and written once.

    `prepare` runs before it for every tensor, in float64: it reads STATISTICs of earlier passes, SCALARs, FLAGs, `numel` and
    states that are not like θ, and binds what the body reads (`needs`). In `body`, `Let` of a STATISTIC to a reduction of a
    value per element measures one of `measures` (name -> `sum`, `mean`, `largest` or `smallest`); on a path without that line
    the result is that of no elements. A `Let` of a state rebinds its variable without a write to memory; another pass does
    that.
    `picked` is a second body, for every p-th element of the flattened tensor (the kernel's `pick`): its streams
    `picked_streams` are read there, those of extent PICK element by element, and it runs before `body` comes there. Both bodies
    read `needs`, and each measure is one of one of them. `together` are both as one body, over the streams `moves`: what runs
    where every element is picked.
    `exists`: TRUE or a condition over static FLAG reads; in other variants the pass has nothing to do.
    """

    prepare: tuple[Statement, ...]
    needs: tuple[str, ...]
    streams: tuple[Stream, ...]
    body: tuple[Statement, ...]
    measures: tuple[tuple[str, str], ...]
    exists: Expression = TRUE
    picked: tuple[Statement, ...] = ()
    picked_streams: tuple[Stream, ...] = ()
    together: tuple[Statement, ...] = ()

    @property
    def moves(self) -> tuple[Stream, ...]:
        """The streams of both bodies."""
        found: dict[str, Stream] = {}
        for s in (*self.streams, *self.picked_streams):
            old = found.get(s.name, s)
            found[s.name] = replace(s, reads=s.reads or old.reads, writes=s.writes or old.writes)
        return tuple(found.values())


@dataclass(frozen=True, slots=True)
class Kernel:
    """One launch over all tensors of a batch.

    Every kernel multiplies the gradient, as it is loaded, by a factor of the launch (−1 to maximize, 1/scale to undo loss
    scaling). `body` is the whole of it, as one program over tensors with reductions in place. An elementwise kernel has no
    `passes`: all streams are read once and written once. Otherwise the passes run in order, then `finish` on statistics.
    `statistics` are the values kept from one pass to the next, in all kernels of a procedure alike, and `extents` theirs: first
    what passes measure, then what they need, then `parts`. `parts` are the numbers per tensor that `finish` leaves for totals.
    `given` are statistics that kernels before have measured and `body` reads, `leaves` what later kernels, or totals, read.
    `pick` is the SCALAR that says which elements passes pick, and the static FLAG that says that these are all; None where
    nothing is picked.
    """

    name: str
    streams: tuple[Stream, ...]
    scalars: tuple[str, ...]
    static_flags: tuple[str, ...]
    host_flags: tuple[str, ...]
    body: tuple[Statement, ...]
    passes: tuple[Pass, ...] = ()
    finish: tuple[Statement, ...] = ()
    statistics: tuple[str, ...] = ()
    extents: tuple[Extent, ...] = ()
    parts: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    pick: tuple[str, str] | None = None

    @property
    def sweeps(self) -> tuple[Pass, ...]:
        """The passes; an elementwise kernel's only one."""
        return self.passes or (Pass((), (), self.streams, self.body, ()),)

    def has_stage(self, index: int) -> bool:
        """Whether something is done per tensor before pass `index` (after the last, if there is no such pass)."""
        if not self.passes:
            return False
        measured = index > 0 and bool(self.passes[index - 1].measures)
        return measured or bool(self.passes[index].prepare if index < len(self.passes) else self.finish)


@dataclass(frozen=True, slots=True)
class ModelProgram:
    """Float64 code that runs once for all parameters, before the kernel of its phase.

    It reads the SCALARs and FLAGs of the host program named in `scalars` and `flags` (the same for all parameters), states of
    extent MODEL, `totals` (name -> the part, left by a kernel of an earlier phase, that is added up over all tensors) and, if
    `loss`, what the closure of the step has returned. It binds the SCALARs `exports` on every path (NaN where they have no
    meaning), and stores the states `carried`.
    """

    body: tuple[Statement, ...]
    scalars: tuple[str, ...]
    flags: tuple[str, ...]
    totals: tuple[tuple[str, str], ...]
    loss: bool
    states: tuple[str, ...]
    exports: tuple[str, ...]
    carried: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Phase:
    """What runs between two gatherings over the model: a program of the model, then a kernel; one of them may be missing."""

    model: ModelProgram | None
    kernel: Kernel | None


@dataclass(frozen=True, slots=True)
class ProcedurePlan:
    """`step` or an entry: the host program once, then the phases in order; without numbers of the model there is one."""

    name: str
    inputs: tuple[str, ...]
    every: int | None
    host: HostProgram
    phases: tuple[Phase, ...]

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The kernels of all phases."""
        return tuple(phase.kernel for phase in self.phases if phase.kernel is not None)

    @property
    def model_scalars(self) -> tuple[str, ...]:
        """What programs of the model read of the host program's scalars."""
        return tuple(dict.fromkeys(name for phase in self.phases if phase.model is not None for name in phase.model.scalars))


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the emitters need. `flags` are all static flags of the optimizer, shared by its procedures."""

    program: Program
    flags: tuple[Flag, ...]
    procedures: tuple[ProcedurePlan, ...]
