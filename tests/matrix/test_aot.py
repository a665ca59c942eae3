"""Every shipped kernel, compiled ahead of time for every GPU target on a machine without one.

Asserted of the unmasked loop: exactly the planned bytes per element, accesses of at least min(16, 4·itemsize) bytes a thread;
of the whole kernel: no spills, no stack (but see `KEPT_IN_FLOAT64`), no atomics, at most 64 registers (96 where the maths has
powers, in float64 and in stages), no shared memory but one number per warp where something is summed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from optc.compiler.aot import TARGETS, AotReport, Request, reports
from optc.compiler.ir import expressions, walk
from optc.compiler.pipeline import plan_program
from optc.compiler.plan import Kernel, Pass, Plan
from optc.compiler.separate import is_measure
from optc.compiler.streams import decide
from optc.compiler.traffic import PRECISIONS, Precision, default_variant, streams_in, variants
from optc.dsl.program import Apply, Branch, Role, Statement, Store
from tests.oracle import program_of
from tests.references import CORE, SPECS

pytest.importorskip("triton")
FLOAT32, BFLOAT16, FLOAT16, FLOAT64 = PRECISIONS
PROCESSES = min(8, os.cpu_count() or 1)
"""Compilers at work at once, each a process of its own."""
MOST_REGISTERS, MOST_WITH_POWERS, MOST_IN_A_STAGE = 64, 96, 96
MOST_SHARED, MOST_SHARED_BY_STORES = 64, 4096
"""Bytes: one number per warp where something is summed; one block of one stream where a pass that measures stores as well: its
masked loop has the lanes of the unmasked one, but stores them one by one."""
KEPT_IN_FLOAT64 = (8, 4)
"""Bytes of stack and accesses to it (32 bits each). The float64 division and root of NVIDIA's compiler call a subroutine for
rare operands; of what lives across these calls it keeps one double on the stack in some kernels. All others keep nothing."""
KEPT_BY_HOST_PROGRAMS = (48, 9)
"""The same for host programs, which run one lane per tensor in float64: those with several powers or `mod` keep up to six."""


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
        streams = streams_in(self.sweep, self.variant)
        dtypes = {name: of_role.get(role, self.precision.gradient) for name, role, _, _ in streams}
        in_memory = self.in_memory or double
        return Request(name, self.target, dtypes, self.variant, in_memory, self.in_memory, real, self.reducing)


def plan_of(spec: str) -> Plan:
    return plan_program(program_of(spec))[1]


def passes_of(
    spec: str, kernel: Kernel, precision: Precision, variant: dict[str, bool], targets: Sequence[str], in_memory: bool = False
) -> Iterator[Job]:
    for index, sweep in enumerate(kernel.sweeps):
        name = f"{kernel.name}_pass_{index}_triton" if kernel.passes else f"{kernel.name}_triton"
        for target in targets:
            yield Job(spec, name, sweep, precision, variant, target, in_memory, bool(kernel.passes), kernel.host_flags)


def stages(kernel: Kernel) -> Iterator[str]:
    return (f"{kernel.name}_stage_{k}_triton" for k in range(len(kernel.passes) + 1) if kernel.has_stage(k))


def default_jobs() -> Iterator[Job]:
    for spec in SPECS:
        plan = plan_of(spec)
        variant = default_variant(plan)
        for procedure in plan.procedures:
            per_tensor = [f"{procedure.name}_scalars_triton"]
            for kernel in procedure.kernels:
                yield from passes_of(spec, kernel, FLOAT32, variant, TARGETS if spec in CORE else ("sm_90", "gfx942"))
                yield from passes_of(spec, kernel, BFLOAT16, variant, ("sm_90", "gfx942") if spec in CORE else ())
                per_tensor += stages(kernel)
            for target in ("sm_90", "gfx942") if spec in CORE else ("sm_90",):
                yield from (Job(spec, name, None, FLOAT32, variant, target) for name in per_tensor)


def all_jobs() -> Iterator[Job]:
    for spec in SPECS:
        plan = plan_of(spec)
        for procedure in plan.procedures:
            for variant, kernel in product(variants(plan), procedure.kernels):
                for precision in PRECISIONS:
                    yield from passes_of(spec, kernel, precision, variant, TARGETS)
                yield from passes_of(spec, kernel, FLOAT32, variant, ("sm_90",), in_memory=True)
                for name in stages(kernel):
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
        stack, spills = KEPT_BY_HOST_PROGRAMS
    stage = "_stage_" in job.function
    shared = MOST_SHARED if stage else 0
    if job.sweep is not None and job.sweep.measures:
        shared = MOST_SHARED_BY_STORES if any(s.writes for s in job.sweep.streams) else MOST_SHARED
    if any((report.stack > stack, report.local, report.spills > spills, report.shared > shared, report.atomics)):
        yield f"{label}: stack, local memory, spills, shared memory or atomics: {report}"
    if job.sweep is None:
        if stage and report.registers > MOST_IN_A_STAGE:
            yield f"{label}: {report.registers} registers"
        return
    powers = any(isinstance(n, Apply) and n.operation == "pow" for e in expressions(job.sweep.body) for n in walk(e))
    most = MOST_WITH_POWERS if powers or job.precision is FLOAT64 else MOST_REGISTERS
    if report.registers > most:
        yield f"{label}: {report.registers} registers"
    flags = job.variant if job.request().in_memory else job.variant | dict.fromkeys(job.host_flags, False)
    moved = list(streams_in(job.sweep, flags)) if has_effect(job.sweep.body, flags) else []
    planned = tuple(sum(job.precision.size(role) for _, role, *used in moved if used[side]) for side in (0, 1))
    if (report.bytes_loaded, report.bytes_stored) != planned:
        yield f"{label}: {report.bytes_loaded} + {report.bytes_stored} bytes per element, planned {planned[0]} + {planned[1]}"
    smallest = min((job.precision.size(role) for _, role, *_ in moved), default=0)
    if min(report.load_widths + report.store_widths, default=0) < min(16, 4 * smallest):
        yield f"{label}: accesses of {sorted(set(report.load_widths + report.store_widths))} bytes"


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
