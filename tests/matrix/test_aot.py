"""Every shipped kernel, compiled ahead of time for every GPU target on a machine without one.

Asserted of the unmasked loop: exactly the planned bytes per element, accesses of at least min(16, 4·itemsize) bytes a thread;
of the whole kernel: no spills, no stack (but see `KEPT_IN_FLOAT64`), no shared memory, no atomics, at most 64 registers (96
where the maths has powers, and in float64).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from optc.compiler.aot import TARGETS, AotReport, Request, reports
from optc.compiler.ir import expressions, walk
from optc.compiler.pipeline import plan_program
from optc.compiler.plan import Kernel, Plan
from optc.compiler.traffic import PRECISIONS, Precision, default_variant, streams_in, variants
from optc.dsl.program import Apply, Role
from tests.oracle import program_of
from tests.references import SPECS

pytest.importorskip("triton")
FLOAT32, BFLOAT16, FLOAT16, FLOAT64 = PRECISIONS
PROCESSES = min(8, os.cpu_count() or 1)
"""Compilers at work at once, each a process of its own."""
MOST_REGISTERS, MOST_WITH_POWERS = 64, 96
KEPT_IN_FLOAT64 = (8, 4)
"""Bytes of stack and accesses to it (32 bits each). The float64 division and root of NVIDIA's compiler call a subroutine for
rare operands; of what lives across these calls it keeps one double on the stack in some kernels. All others keep nothing."""


@dataclass(frozen=True, slots=True)
class Job:
    """One kernel (or host program, with `kernel` None) of one spec for one target."""

    spec: str
    procedure: str
    kernel: Kernel | None
    precision: Precision
    variant: dict[str, bool]
    target: str
    in_memory: bool = False

    @property
    def module(self) -> str:
        return self.spec.rpartition("/")[2]

    def request(self) -> Request:
        if self.kernel is None:
            name = f"{self.module}__{self.procedure}_scalars_triton"
            return Request(name, self.target, flags=self.variant, found_inf=True)
        of_role = {Role.THETA: self.precision.theta, Role.STATE: self.precision.state}
        streams = streams_in(self.kernel, self.variant)
        dtypes = {name: of_role.get(role, self.precision.gradient) for name, role, _, _ in streams}
        double = self.precision.theta == "float64"
        name = f"{self.module}__{self.kernel.name}_triton"
        real = "float64" if double else "float32"
        return Request(name, self.target, dtypes, self.variant, self.in_memory or double, self.in_memory, real)


def plan_of(spec: str) -> Plan:
    return plan_program(program_of(spec))[1]


def default_jobs() -> Iterator[Job]:
    for spec in SPECS:
        plan = plan_of(spec)
        variant = default_variant(plan)
        for procedure in plan.procedures:
            for kernel in procedure.kernels:
                yield from (Job(spec, procedure.name, kernel, FLOAT32, variant, target) for target in TARGETS)
                yield from (Job(spec, procedure.name, kernel, BFLOAT16, variant, target) for target in ("sm_90", "gfx942"))
            yield from (Job(spec, procedure.name, None, FLOAT32, variant, target) for target in ("sm_90", "gfx942"))


def all_jobs() -> Iterator[Job]:
    for spec in SPECS:
        plan = plan_of(spec)
        for procedure in plan.procedures:
            for variant in variants(plan):
                for kernel in procedure.kernels:
                    for precision in PRECISIONS:
                        yield from (Job(spec, procedure.name, kernel, precision, variant, target) for target in TARGETS)
                    yield Job(spec, procedure.name, kernel, FLOAT32, variant, "sm_90", in_memory=True)


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
    label = f"{job.spec} {job.procedure} {job.precision} {job.target} {[f for f, on in job.variant.items() if on]}"
    stack, spills = KEPT_IN_FLOAT64 if job.precision is FLOAT64 else (0, 0)
    if any((report.stack > stack, report.local, report.spills > spills, report.shared, report.atomics)):
        yield f"{label}: stack, local memory, spills, shared memory or atomics: {report}"
    if job.kernel is None:
        return
    powers = any(isinstance(n, Apply) and n.operation == "pow" for e in expressions(job.kernel.body) for n in walk(e))
    most = MOST_WITH_POWERS if powers or job.precision is FLOAT64 else MOST_REGISTERS
    if report.registers > most:
        yield f"{label}: {report.registers} registers"
    moved = list(streams_in(job.kernel, job.variant))
    planned = tuple(sum(job.precision.size(role) for _, role, *used in moved if used[side]) for side in (0, 1))
    if (report.bytes_loaded, report.bytes_stored) != planned:
        yield f"{label}: {report.bytes_loaded} + {report.bytes_stored} bytes per element, planned {planned[0]} + {planned[1]}"
    smallest = min(job.precision.size(role) for _, role, *_ in moved)
    if min(report.load_widths + report.store_widths) < min(16, 4 * smallest):
        yield f"{label}: accesses of {sorted(set(report.load_widths + report.store_widths))} bytes"


def test_default_variants(tmp_path: Path) -> None:
    run(list(default_jobs()), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_all_variants(tmp_path: Path, part: int) -> None:
    run(list(all_jobs())[part::4], tmp_path)
