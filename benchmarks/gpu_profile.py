"""Bytes that one step moves by the counters of the GPU's memory, against the plan; each spec in a process under Nsight Compute.

The counters are those of the memory itself (`dram__bytes_*`): what L2 keeps does not count, and what a kernel wrote may still
be in L2 when it ends. Caches are emptied before each kernel, so nothing read is missed, and of the writes at most the size of
L2 is: below 0.6 % of the 10 GB that the smallest of these steps moves, on a GPU with 60 MB.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.nsight import NoCounters, NotMeasured, find_ncu, profile
from benchmarks.report import Row
from benchmarks.traffic import BFLOAT16, FLOAT32, Precision
from benchmarks.workloads import CASES, Case, Model, in_64, on_device, step_traffic

ROOT = Path(__file__).resolve().parent.parent
ELEMENTS = 1 << 29
SECONDS = 60.0
WARMUP = 4
TOLERANCE = 0.03
TARGET = "within 3 %"
NOTE = (
    "Bytes that the counters of the memory saw (Nsight Compute, `dram__bytes_read.sum` and `dram__bytes_write.sum`) in all "
    "kernels of one step after {warmup} others, on {elements:.0f} M parameters, relative to the bytes of the plan. Caches were "
    "empty when a kernel began; up to the size of L2 of what it wrote may be missing."
)


def _case(spec: str, momentum: bool = False) -> Case:
    return next(case for case in CASES if case.spec == spec and ("momentum" in case.hypers) == momentum)


PROFILED: tuple[tuple[Case, Precision], ...] = (
    (_case("adamw"), FLOAT32),
    (_case("adamw"), BFLOAT16),
    (_case("lion"), FLOAT32),
    (_case("sgd", momentum=True), FLOAT32),
    (_case("adan"), FLOAT32),
    (_case("ademamix"), FLOAT32),
)


def note(elements: int) -> str:
    """How it is measured."""
    return NOTE.format(warmup=WARMUP, elements=elements / 1e6)


def rows(elements: int, device: str, until: float, ncu: Path | None = None) -> Iterator[Row]:
    """One row per spec, with words where there is no number; `until` in the time of `time.monotonic`."""
    ncu, hopeless = ncu or find_ncu(), ""
    for index, (case, precision) in enumerate(PROFILED):
        what = f"{case.label}, {precision.theta}: bytes of a step"
        seconds = min(SECONDS, until - time.monotonic())
        try:
            if ncu is None:
                raise NoCounters("Nsight Compute (ncu) is not installed")
            if hopeless or seconds <= 0:
                raise NotMeasured(hopeless or "no time was left")
            yield _measured(ncu, index, elements, device, seconds, what)
        except NotMeasured as error:
            hopeless = str(error) if isinstance(error, NoCounters) else hopeless
            yield Row(what, TARGET, f"not measured: {error}", None)


def _measured(ncu: Path, index: int, elements: int, device: str, seconds: float, what: str) -> Row:
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    program = [sys.executable, "-m", "benchmarks.gpu_profile", str(index), str(elements), device]
    launches = profile(ncu, program, seconds, ROOT, {**os.environ, "PYTHONPATH": paths})
    case, precision = PROFILED[index]
    planned = step_traffic(case, precision).total * sum(n for (n,) in in_64(elements))
    read, written = sum(k.read for k in launches), sum(k.written for k in launches)
    ratio = (read + written) / planned
    return Row(
        what,
        TARGET,
        f"{100 * ratio:.1f} % of plan  ({read / 1e9:.3f} GB read, {written / 1e9:.3f} GB written, {len(launches)} kernels)",
        abs(ratio - 1) <= TOLERANCE,
        {"read": read, "written": written, "planned": float(planned), "ratio": ratio, "kernels": len(launches)},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The program under the profiler: some steps, and one that the profiler sees."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_profile", description=main.__doc__)
    parser.add_argument("index", type=int, choices=range(len(PROFILED)), help="which of the profiled specs")
    parser.add_argument("elements", type=int, help="number of parameters")
    parser.add_argument("device", choices=("cuda", "cpu"))
    given = parser.parse_args(arguments)
    case, precision = PROFILED[given.index]
    model = Model.of(in_64(given.elements), getattr(torch, precision.theta), given.device)
    step = on_device(case, model, given.device)
    for _ in range(WARMUP):
        step.prepare()
        step.run()
    step.prepare()
    if given.device == "cpu":
        step.run()
        return
    cudart: Callable[[], Any] = torch.cuda.cudart  # PyTorch leaves it without types
    runtime = cudart()
    torch.cuda.synchronize()
    runtime.cudaProfilerStart()
    step.run()
    torch.cuda.synchronize()
    runtime.cudaProfilerStop()


if __name__ == "__main__":
    main()
