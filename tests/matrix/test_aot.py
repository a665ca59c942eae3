"""Every shipped kernel, compiled ahead of time for every GPU target on a machine without one.

Asserted of the unmasked loop: exactly the planned bytes per element, accesses of at least min(16, 4·itemsize) bytes a thread;
of the whole kernel: no spills, no stack (but see `KEPT_IN_FLOAT64`), no atomics, at most 64 registers (96 where the maths has
powers, in float64, in stages and over panels), no shared memory but one number per warp where something is summed. Passes over
panels also read and leave values of rows, and change layouts in one block of shared memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from optc.compiler.aot import TARGETS, AotReport, Request, reports
from optc.compiler.backends.triton.emit import emit_kernel
from optc.compiler.backends.triton.vectors import extents_of, in_panels, stages_of
from optc.compiler.extents import is_measure
from optc.compiler.ir import expressions, reads, walk
from optc.compiler.pipeline import plan_program
from optc.compiler.plan import Kernel, Pass, Plan
from optc.compiler.streams import decide
from optc.compiler.traffic import PRECISIONS, Precision, default_variant, picked_in, streams_in, variants
from optc.dsl.kinds import IN_MATRICES, Extent
from optc.dsl.program import Apply, Branch, Let, Role, Statement, Store
from optc.dsl.source import Source
from tests.oracle import program_of
from tests.references import CORE, SPECS

pytest.importorskip("triton")
FLOAT32, BFLOAT16, FLOAT16, FLOAT64 = PRECISIONS
NO_SOURCE = Source("<none>", "\n")
PROCESSES = min(8, os.cpu_count() or 1)
"""Compilers at work at once, each a process of its own."""
MOST_REGISTERS, MOST_WITH_POWERS, MOST_IN_A_STAGE, MOST_OVER_PANELS = 64, 96, 96, 168
"""A panel keeps what it measures of columns, matrices and the tensor by lane, beside the statistics of rows and columns. Where
it measures rows as well (CAME's third pass, AdamP's first: 157 and 163), what its four nested loops share is kept, too."""
MORE_IN_AN_AMD_STAGE = 48
"""Where a stage joins partials across lanes, AMD's compiler allots 128 registers or a few more for any number of lanes, and
spills none. A stage is one program per tensor."""
MORE_ON_AMD = 8
"""A wave of gfx942 counts vector registers by eights; five streams and two measures want one eight more than on NVIDIA."""
MOST_SHARED, MOST_SHARED_BY_STORES = 64, 4096
"""Bytes: one number per warp where something is summed; one block of one stream where a pass that measures stores as well: its
masked loop has the lanes of the unmasked one, but stores them one by one."""
MOST_SHARED_BY_STEPS = 2048
"""One block of 256 rows or columns in float64: AMD's compiler hands it from the lanes that load it to those that add it up."""
KEPT_IN_FLOAT64 = (8, 4)
"""Bytes of stack and accesses to it (32 bits each). The float64 division and root of NVIDIA's compiler call a subroutine for
rare operands; of what lives across these calls it keeps one double on the stack in some kernels. All others keep nothing."""
KEPT_BY_SINES = (48, 9)
"""The same where a host program has a sine or cosine: libdevice reduces large arguments in an array of five doubles. (Nothing
but the cosine keeps it: with another function in its place the stack is empty.) It runs one lane per tensor."""
KEPT_BESIDE_TREES = (32, 16)
"""The same of passes that measure or go over panels: between two leaves of a tree, or two panels, what a program knows of its
tensor may lie on the stack, and the tree in registers. In the loop over elements nothing is there (`spills_in_loops`), but for
float64 as above."""
MOST_WITH_TREES = 128
"""Registers of a pass that measures: a tree has a number for each level and measure (DAdaptAdan, which measures three: 126)."""
MORE_WITH_POWERS_IN_A_STAGE = 72
"""Registers of a stage whose float64 lines have powers (FAdam's: 162); it is one program per tensor."""
MOST_LEVELS = 16
"""Of a tree that a program builds on the largest models."""


@dataclass(frozen=True, slots=True)
class Job:
    """One function of one spec for one target: a pass, or (with `sweep` None) a stage or the host program."""

    spec: str
    function: str
    sweep: Pass | None
    precision: Precision
    variant: dict[str, bool]
    target: str
    in_memory: bool = False
    reducing: bool = False
    host_flags: tuple[str, ...] = ()
    row_values: tuple[int, int] = (0, 0)
    """How many statistics of rows a pass over panels reads, and leaves."""
    levels: int = 1

    @property
    def module(self) -> str:
        return self.spec.rpartition("/")[2]

    def request(self) -> Request:
        name = f"{self.module}__{self.function}"
        double = self.precision.theta == "float64"
        real = "float64" if double else "float32"
        if self.sweep is None:
            return Request(name, self.target, flags=self.variant, found_inf=True, real=real)
        of_role = {Role.THETA: self.precision.theta, Role.STATE: self.precision.state}
        streams = [*streams_in(self.sweep, self.variant), *picked_in(self.sweep, self.variant)]
        dtypes = {name: of_role.get(role, self.precision.gradient) for name, role, _, _ in streams}
        in_memory = self.in_memory or double
        draws = any(s.role is Role.ELEMENT for s in self.sweep.moves)
        given = name, self.target, dtypes, self.variant, in_memory, self.in_memory, real, self.reducing, self.levels
        return Request(*given, draws=draws)


@cache
def plan_of(spec: str) -> Plan:
    return plan_program(program_of(spec))[1]


def passes_of(
    spec: str, kernel: Kernel, precision: Precision, variant: dict[str, bool], targets: Sequence[str], in_memory: bool = False
) -> Iterator[Job]:
    extents = extents_of(kernel)
    for index, sweep in enumerate(kernel.sweeps):
        if kernel.pick is not None and variant[kernel.pick[1]]:  # every element is picked: one loop for both bodies
            body = sweep.together if sweep.picked else sweep.body
            sweep = replace(sweep, body=body, streams=sweep.moves, picked=(), picked_streams=())
        name, rows = f"{kernel.name}_pass_{index}_triton" if kernel.passes else f"{kernel.name}_triton", (0, 0)
        if in_panels(sweep, kernel, extents) and has_matrices(kernel, variant):
            name = f"{kernel.name}_pass_{index}_panels_triton"
            of_rows = {n for n, extent in extents.items() if extent is Extent.ROW}
            rows = len(of_rows & {*sweep.needs}), len(of_rows & {m for m, _ in sweep.measures})
        for target in targets:
            yield Job(spec, name, sweep, precision, variant, target, in_memory, bool(kernel.passes), kernel.host_flags, rows)


def has_matrices(kernel: Kernel, variant: Mapping[str, bool]) -> bool:
    """Whether a variant is one of tensors that are matrices to a kernel."""
    extents = extents_of(kernel)
    return any(sees_matrices(body, variant, extents) for body in (*(p.body for p in kernel.passes), *stages_of(kernel)))


def sees_matrices(body: tuple[Statement, ...], variant: Mapping[str, bool], extents: Mapping[str, Extent]) -> bool:
    """Whether code reads or leaves values of rows, columns or matrices in a variant."""
    for statement in body:
        if isinstance(statement, Branch):
            decided = decide(statement.condition, dict(variant))
            taken = [statement.then] * (decided is not False) + [statement.otherwise] * (decided is not True)
            if any(sees_matrices(side, variant, extents) for side in taken):
                return True
        elif isinstance(statement, Let | Store):
            names = {statement.target.name, *(r.symbol.name for r in reads(statement.value) if r.symbol.role is Role.STATISTIC)}
            if any(extents.get(n) in IN_MATRICES for n in names):
                return True
    return False


def stages(kernel: Kernel, variant: Mapping[str, bool]) -> Iterator[str]:
    """The functions of all stages: of tensors that are matrices the launches, where a stage has any."""
    text, matrices = emit_kernel(kernel, NO_SOURCE) if kernel.passes else "", has_matrices(kernel, variant)
    for k in range(len(kernel.passes) + 1):
        steps = re.findall(rf"^def ({kernel.name}_stage_{k}_\d+_triton)\($", text, re.MULTILINE)
        if kernel.has_stage(k):
            yield from steps if steps and matrices else [f"{kernel.name}_stage_{k}_triton"]


def default_jobs() -> Iterator[Job]:
    """Each kernel for sm_90, those of the core for gfx942, too, and by turns for sm_80 or sm_100; --full has all for all."""
    for number, spec in enumerate(SPECS):
        core = ("sm_90", "gfx942", ("sm_80", "sm_100")[number % 2])
        plan = plan_of(spec)
        variant = default_variant(plan)
        for procedure in plan.procedures:
            per_tensor = [f"{procedure.name}_scalars_triton"]
            for kernel in procedure.kernels:
                found = list(passes_of(spec, kernel, FLOAT32, variant, core if spec in CORE else ("sm_90",)))
                measuring = [job for job in found if job.sweep is not None and job.sweep.measures and job.target in core[:2]]
                yield from (*found, *(replace(job, levels=MOST_LEVELS) for job in measuring if spec in CORE))
                yield from passes_of(spec, kernel, BFLOAT16, variant, ("sm_90", "gfx942") if spec in CORE else ())
                per_tensor += stages(kernel, variant)
            for target in ("sm_90", "gfx942") if spec in CORE else ():
                yield from (Job(spec, name, None, FLOAT32, variant, target) for name in per_tensor)


def all_jobs() -> Iterator[Job]:
    for spec in SPECS:
        plan = plan_of(spec)
        for procedure in plan.procedures:
            for variant, kernel in product(variants(plan), procedure.kernels):
                for precision in PRECISIONS:
                    yield from passes_of(spec, kernel, precision, variant, TARGETS)
                yield from passes_of(spec, kernel, FLOAT32, variant, ("sm_90",), in_memory=True)
                for name in stages(kernel, variant):
                    yield from (Job(spec, name, None, p, variant, t) for p in (FLOAT32, FLOAT64) for t in TARGETS)


def run(jobs: list[Job], folder: Path) -> None:
    lines = [
        f"from optc.generated.{job.module} import {job.request().function.split('__', 1)[1]} as {job.request().function}\n"
        for job in jobs
    ]
    path = folder / "all_kernels.py"
    path.write_text("".join(dict.fromkeys(lines)))
    shares = [jobs[i::PROCESSES] for i in range(PROCESSES)]
    with ThreadPoolExecutor(PROCESSES) as pool:
        found = list(pool.map(lambda share: reports(str(path), [j.request() for j in share]), shares))
    pairs = [pair for share, made in zip(shares, found, strict=True) for pair in zip(share, made, strict=True)]
    wrong = [text for job, report in pairs for text in faults(job, report)]
    assert not wrong, "\n".join(wrong)


def faults(job: Job, report: AotReport) -> Iterator[str]:
    """What is not as it should be, in words."""
    label = f"{job.spec} {job.function} {job.precision} {job.target} {[f for f, on in job.variant.items() if on]}"
    stack, spills = KEPT_IN_FLOAT64 if job.precision is FLOAT64 else (0, 0)
    if job.function.endswith("_scalars_triton"):
        stack, spills = KEPT_BY_SINES if has_sines(job.spec) else (0, 0)
    stage, panels = "_stage_" in job.function, "_panels_" in job.function
    if job.sweep is not None and (panels or job.sweep.measures):
        stack, spills = KEPT_BESIDE_TREES
    steps = re.search(r"_stage_\d+_\d+_", job.function) is not None
    shared = MOST_SHARED_BY_STEPS if steps else MOST_SHARED if stage else 0
    if job.sweep is not None and job.sweep.measures:
        shared = MOST_SHARED_BY_STORES if any(s.writes for s in job.sweep.streams) else MOST_SHARED
    if panels:
        shared = MOST_SHARED_BY_STORES
    if any((report.stack > stack, report.local, report.spills > spills, report.shared > shared, report.atomics)):
        yield f"{label}: stack, local memory, spills, shared memory or atomics: {report}"
    if report.spills_in_loops > (spills if job.precision is FLOAT64 else 0) and job.sweep is not None:
        yield f"{label}: the loop over elements spills: {report}"
    if job.sweep is None:
        more = MORE_WITH_POWERS_IN_A_STAGE * has_powers(job.spec) + MORE_IN_AN_AMD_STAGE * (job.target == "gfx942")
        if stage and report.registers > MOST_IN_A_STAGE + more:
            yield f"{label}: {report.registers} registers"
        return
    powers = any(isinstance(n, Apply) and n.operation == "pow" for e in expressions(job.sweep.body) for n in walk(e))
    trees = bool(job.sweep.measures)
    plain = MOST_WITH_POWERS if powers or job.precision is FLOAT64 else MOST_REGISTERS
    most = MOST_OVER_PANELS if panels else MOST_WITH_TREES if trees else plain
    if report.registers > most + MORE_ON_AMD * (job.target == "gfx942"):
        yield f"{label}: {report.registers} registers"
    if job.sweep.picked:  # every p-th element: accesses in masked loops, of one element each
        return
    flags = job.variant if job.request().in_memory else job.variant | dict.fromkeys(job.host_flags, False)
    moved = list(streams_in(job.sweep, flags)) if has_effect(job.sweep.body, flags) else []
    planned = tuple(sum(job.precision.size(role) for _, role, *used in moved if used[side]) for side in (0, 1))
    # every element of a thread may load its row's value, and leaves it with the others of the row
    # what it has left of a row it goes on with in the next panel
    beyond = 8 * sum(job.row_values), 8 * job.row_values[1]
    found = report.bytes_loaded, report.bytes_stored
    if not all(low <= value <= low + more for value, low, more in zip(found, planned, beyond, strict=True)):
        yield f"{label}: {report.bytes_loaded} + {report.bytes_stored} bytes per element, planned {planned[0]} + {planned[1]}"
    smallest = min((job.precision.size(role) for _, role, *_ in moved), default=0)
    widths = sorted(report.load_widths + report.store_widths, reverse=True)
    if panels:  # without those of rows
        widths = widths[: sum(read + written for *_, read, written in moved)]
    if min(widths, default=0) < min(16, 4 * smallest):
        yield f"{label}: accesses of {sorted(set(report.load_widths + report.store_widths))} bytes"


def has_powers(spec: str) -> bool:
    """Whether code on statistics has a power."""
    kernels = [k for procedure in plan_of(spec).procedures for k in procedure.kernels]
    bodies = (body for k in kernels for body in (*(p.prepare for p in k.passes), k.finish))
    return any(isinstance(n, Apply) and n.operation == "pow" for body in bodies for e in expressions(body) for n in walk(e))


def has_sines(spec: str) -> bool:
    """Whether a host program has a sine or a cosine."""
    lines = (e for procedure in plan_of(spec).procedures for e in expressions(procedure.host.body))
    return any(isinstance(n, Apply) and n.operation in ("sin", "cos") for e in lines for n in walk(e))


def has_effect(body: tuple[Statement, ...], variant: dict[str, bool]) -> bool:
    """Whether a pass stores or measures anything in a variant; if not, the compiler drops its loads, too."""
    for statement in body:
        if isinstance(statement, Store) or is_measure(statement):
            return True
        if isinstance(statement, Branch):
            decided = decide(statement.condition, variant)
            taken = [statement.then] * (decided is not False) + [statement.otherwise] * (decided is not True)
            if any(has_effect(side, variant) for side in taken):
                return True
    return False


def test_default_variants(tmp_path: Path) -> None:
    run(list(default_jobs()), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_all_variants(tmp_path: Path, part: int) -> None:
    run(list(all_jobs())[part::4], tmp_path)
