"""Kernels of the optimizers that keep codes, compiled ahead of time for every GPU target on a machine without one.

Asserted of the unmasked loop: a thread moves θ and g by 16 bytes (where dtypes are mixed by four numbers), and as many codes as
numbers at once; each number is moved once, each code is looked up once where it is read and once where it is written, and
besides there are only scales. Of the whole kernel: no spills, no stack, no atomics, few registers, little shared memory.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch

from optc.compiler.aot import TARGETS, AotReport, Request, reports
from optc.compiler.compose.expand import expand
from optc.compiler.pipeline import plan_program
from optc.compiler.plan import Kernel, Pass, Plan
from optc.compiler.storing import Coded, coded_streams
from optc.compiler.streams import decide
from optc.compiler.traffic import default_variant, streams_in, variants
from optc.dsl.check import check
from optc.dsl.program import DTYPE_BYTES, Role
from optc.dsl.read import read
from optc.runtime.triton_device import geometry
from tests.oracle import SPECS_FOLDER

pytest.importorskip("triton")
DTYPES = ("float32", "bfloat16")
SPECS = tuple(
    path.stem
    for path in sorted((SPECS_FOLDER / "low_memory").glob("*.opt"))
    if re.search(r"\w: *(?:u?dynamic|u?linear|e4m3|e5m2)", text := path.read_text(encoding="utf-8")) and "θ:" not in text
)
"""Those that keep codes, and parameters as they are."""
PROCESSES = min(8, os.cpu_count() or 1)
MOST_REGISTERS = 128
MOST_WITH_TREES = 152
"""Of passes that measure: the tree of sums beside eight numbers of each stream. LAMB8bit's first in bfloat16 takes 128 on sm_80
and sm_90, but 148 on sm_100."""
MOST_SHARED = 1024
"""Bytes: the largest numbers of blocks on their way from lane to lane; the halves of bytes, where codes have four bits."""
SCALES_PER_TURN = 2
"""At most, of one stream: a block is several lanes', or a lane has more than one part of it."""


@dataclass(frozen=True, slots=True)
class Job:
    """One pass of one optimizer in one variant, for one dtype of θ and g and one target."""

    spec: str
    kernel: Kernel
    index: int
    variant: Mapping[str, bool]
    dtype: str
    target: str

    @property
    def sweep(self) -> Pass:
        """What it does."""
        return self.kernel.sweeps[self.index]

    @property
    def codes(self) -> dict[str, Coded]:
        """The streams that are codes in this variant."""
        found = (one for one in coded_streams(self.kernel) if decide(one.when, dict(self.variant)) is not False)
        return {one.stream.name: one for one in found}

    @property
    def function(self) -> str:
        """The name in the generated module."""
        return f"{self.kernel.name}_pass_{self.index}_triton" if self.kernel.passes else f"{self.kernel.name}_triton"

    def moved(self) -> Iterator[tuple[str, str, bool, bool]]:
        """Streams with their dtypes, and whether they are read and written."""
        of_codes, kept = self.codes, {s.name: s.storage for s in self.sweep.streams}
        for name, role, reads, writes in streams_in(self.sweep, dict(self.variant)):
            storage = kept[name]
            state = "float32" if storage is None or storage.dtype is None else storage.dtype
            yield name, "uint8" if name in of_codes else state if role is Role.STATE else self.dtype, reads, writes

    def request(self) -> Request:
        """What the compiler is asked for."""
        dtypes = {name: dtype for name, dtype, *_ in self.moved()}
        largest = max((one.storage.block for name, one in self.codes.items() if name in dtypes), default=0)
        name = f"{self.spec}__{self.function}"
        draws, reducing = any(s.role is Role.ELEMENT for s in self.sweep.moves), bool(self.kernel.passes)
        return Request(name, self.target, dtypes, dict(self.variant), reducing=reducing, codes=largest, draws=draws)


@cache
def plan_of(spec: str) -> Plan:
    expanded = expand(read(SPECS_FOLDER / "low_memory" / f"{spec}.opt"))
    return plan_program(check(expanded.spec, expanded.source))[1]


def jobs_of(spec: str, variant: Mapping[str, bool]) -> list[list[Job]]:
    """For each pass that moves codes in a variant: all dtypes and targets."""
    kernels = [kernel for procedure in plan_of(spec).procedures for kernel in procedure.kernels]
    ways = list(product(DTYPES, TARGETS))
    each = [[Job(spec, k, index, variant, *way) for way in ways] for k in kernels for index in range(len(k.sweeps))]
    return [jobs for jobs in each if any(kept == "uint8" for _, kept, *_ in jobs[0].moved())]


def run(jobs: list[Job], folder: Path) -> None:
    """Compiles in several processes; raises AssertionError with all that is wrong."""
    path = folder / "all_kernels.py"
    lines = (f"from optc.generated.{job.spec} import {job.function} as {job.spec}__{job.function}\n" for job in jobs)
    path.write_text("".join(dict.fromkeys(lines)), encoding="utf-8")
    shares = [jobs[i::PROCESSES] for i in range(PROCESSES)]
    with ThreadPoolExecutor(PROCESSES) as pool:
        made = list(pool.map(lambda share: reports(str(path), [job.request() for job in share]), shares))
    pairs = [pair for share, each in zip(shares, made, strict=True) for pair in zip(share, each, strict=True)]
    wrong = [text for job, report in pairs for text in faults(job, report)]
    assert not wrong, "\n".join(wrong)


def faults(job: Job, report: AotReport) -> Iterator[str]:
    """What is not as it should be, in words."""
    on = [name for name, value in job.variant.items() if value]
    label = f"{job.spec} {job.function} {job.dtype} {job.target} {on}"
    if any((report.stack, report.local, report.spills, report.atomics)) or report.shared > MOST_SHARED:
        yield f"{label}: stack, local memory, spills, atomics or shared memory: {report}"
    if report.registers > (MOST_WITH_TREES if job.sweep.measures else MOST_REGISTERS):
        yield f"{label}: {report.registers} registers"
    moved = list(job.moved())
    warp = 64 if job.target.startswith("gfx") else 32
    shape = geometry(
        [getattr(torch, kept) for _, kept, *_ in moved if kept != "uint8"], warp, job.request().codes, job.request().draws
    )
    per_thread = shape.block // (shape.warps * warp)
    lanes = min(shape.lanes, per_thread)
    turns = per_thread // lanes
    for side, widths in ((0, report.load_widths), (1, report.store_widths)):
        scales, coded = Counter(widths), 0
        for name, kept, *used in moved:
            if kept != "uint8":
                scales.subtract([lanes * DTYPE_BYTES[kept]] * turns * used[side])
                continue
            bits = 8 if len(job.codes[name].storage.levels) == 256 else 4
            scales.subtract([lanes * bits // 8] * turns * used[side])
            coded += used[side]
            if side == 0:  # levels of codes that are read, entries of the table for those that are written
                scales.subtract([4] * per_thread * sum(used))
        left = scales.pop(4, 0)
        if not coded <= left <= SCALES_PER_TURN * turns * coded or any(scales.values()):
            yield f"{label}: {'stores' if side else 'loads'} of {sorted(Counter(widths).items())} bytes, {left} of scales"


def test_default_variants(tmp_path: Path) -> None:
    """Each pass for one dtype and target, in turn."""
    passes = [jobs for spec in SPECS for jobs in jobs_of(spec, default_variant(plan_of(spec)))]
    run([jobs[3 * turn % len(jobs)] for turn, jobs in enumerate(passes)], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
def test_every_variant(spec: str, tmp_path: Path) -> None:
    """The default one for every dtype and target, the others for these in turn."""
    plan = plan_of(spec)
    passes = [jobs for variant in variants(plan) for jobs in jobs_of(spec, variant)]
    every = [job for jobs in jobs_of(spec, default_variant(plan)) for job in jobs]
    run([*every, *(jobs[3 * turn % len(jobs)] for turn, jobs in enumerate(passes))], tmp_path)


BITS_IN = ("adamw_factored",)
MOST_BESIDE_BITS = 24, 64
"""Spilled instructions and bytes of stack, outside of loops over elements: AdamWFactored's pass, which reads and measures rows
and columns of two states, has 12 and 40 on sm_90."""


def test_bits_over_panels(tmp_path: Path) -> None:
    """A pass over rows and columns with a bit per element: bytes are written whole, and bit by bit in masked loops alone."""
    path = tmp_path / "all_kernels.py"
    lines = (f"import optc.generated.{spec} as {spec}\n{spec}__panels = {spec}.step_pass_0_triton.panels\n" for spec in BITS_IN)
    path.write_text("".join(lines), encoding="utf-8")
    requests = [
        Request(
            f"{spec}__panels",
            target,
            {"theta": dtype, "g": dtype, "m_sign": "uint8"},
            {"ndim_ge_two": True},
            reducing=True,
            codes=8,
        )
        for spec in BITS_IN
        for target in TARGETS
        for dtype in ("float32", "bfloat16")
    ]
    for request, report in zip(requests, reports(str(path), requests), strict=True):
        spills, stack = MOST_BESIDE_BITS
        assert not report.local and report.spills <= spills and report.stack <= stack and not report.spills_in_loops, report
        assert report.atomics and 1 in report.load_widths, report  # atomics of masked loops
        assert min(report.store_widths) >= (2 if request.target.startswith("gfx") else 1), report
