"""`python -m benchmarks.gpu`: what needs a CUDA device, within eight minutes; writes benchmarks/results/gpu-<date>.{json,md}.

Bandwidth is that of a device-to-device copy (bytes read and written), measured by turns with the optimizers. It needs PyTorch,
Triton and what is in this repository: the compiler and its dependencies are not imported. Results are written after every
part, and a part that fails becomes a row that says so.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch

from benchmarks import gpu_profile
from benchmarks.machine import machine
from benchmarks.report import Report, Row, Table, text_table, write
from benchmarks.timing import Contestant, Timings, alternate, cuda_clock, wall_clock
from benchmarks.traffic import BFLOAT16, FLOAT32, Precision
from benchmarks.workloads import CASES, Case, Model, cases, contestant, in_64, in_64_matrices, on_device, step_traffic

RESULTS = Path(__file__).resolve().parent / "results"
BUDGET = 8 * 60.0
COPY = "control: copy"
PARTS = ("large", "many", "reducing", "profile", "others")
ADAMW = next(case for case in CASES if case.spec == "adamw")
REDUCING = ("stable_adamw", "lamb", "cautious_adamw", "prodigy", "adafactor", "came")
WITHIN = 0.10
"""Of the copy's bandwidth: how far below AdamW's fraction that of an optimizer with several passes may lie."""

LARGE = (
    "One step on {elements:.0f} M parameters in 64 tensors, CUDA events around what the device does (the host is ahead of it), "
    "medians by turns with a device-to-device copy. "
    "Bandwidth: bytes of the plan over time, relative to the copy's. torch fused keeps its state in θ's dtype: with "
    "bfloat16 parameters it moves fewer bytes, so its time is shown and not compared."
)
MANY = "3,000 tensors of 3,500 float32 elements, every gradient at a new address in every step; wall time, device awaited."
MATRICES = (
    "One step on {elements:.0f} M float32 parameters in 64 square matrices, as above: optimizers that reduce beside AdamW. The "
    "bytes of the plan are those of all passes; stages, rows and columns are not in them. Memory is what the allocator holds "
    "more after the first step, without states, and at most during a later one."
)
OTHERS = "Every other shipped spec on {elements:.0f} M float32 parameters, as above."


def _clock(device: str) -> Callable[[Callable[[], object]], float]:
    return cuda_clock if device == "cuda" else wall_clock


def _against_copy(case: Case, precision: Precision, elements: int, device: str, rounds: int, rival: bool) -> Iterator[Row]:
    """One spec against the copy; AdamW also against torch's fused one."""
    dtype = getattr(torch, precision.theta)
    model = Model.of(in_64(elements), dtype, device)
    contestants = [on_device(case, model, device)]
    if rival:
        contestants.append(contestant("torch fused", model, lambda p: torch.optim.AdamW(p, fused=True)))
    timings, row = _beside_copy(case, precision, model, contestants, rounds, device, 0.9 if rival else None)
    yield row
    if rival:
        speedup = timings.speedup("optc", "torch fused")
        same = precision is FLOAT32
        yield Row(
            f"{case.label}, {precision.theta} vs torch fused",
            "≥ 0.95 x" if same else "",
            (f"{speedup:.2f} x  " if same else "") + f"({1e3 * timings.median('torch fused'):.2f} ms)",
            speedup >= 0.95 if same else None,
            {"seconds": timings.median("torch fused"), "speedup": speedup},
        )


def _beside_copy(
    case: Case,
    precision: Precision,
    model: Model,
    contestants: list[Contestant],
    rounds: int,
    device: str,
    least: float | None,
) -> tuple[Timings, Row]:
    """Times contestants, the first of which is the spec, with a copy; `least`: the fraction of its bandwidth to reach."""
    source = torch.ones(min(model.elements, 1 << 28), device=device)
    target = torch.empty_like(source)
    copy = Contestant(COPY, lambda: target.copy_(source))
    timings = alternate([contestants[0], copy, *contestants[1:]], rounds, warmup=8, clock=_clock(device))
    cost = step_traffic(case, precision)
    seconds = timings.median("optc")
    copy_bandwidth = 2 * source.nbytes / timings.median(COPY)
    fraction = cost.total * model.elements / seconds / copy_bandwidth
    row = Row(
        f"{case.label}, {precision.theta}",
        "" if least is None else f"≥ {100 * least:.0f} %",
        f"{100 * fraction:.0f} % of copy  ({1e3 * seconds:.2f} ms, {cost.total} B/param)",
        None if least is None else fraction >= least,
        {"seconds": seconds, "bytes": cost.total, "elements": model.elements, "fraction": fraction, "copy": copy_bandwidth},
    )
    return timings, row


def _on_matrices(elements: int, device: str) -> Iterator[tuple[str, Iterator[Row]]]:
    """Optimizers that reduce, and before them AdamW on the same matrices: it sets what they are to reach."""
    reached: list[float] = []

    def one(case: Case) -> Iterator[Row]:
        model = Model.of(in_64_matrices(elements), device=device)
        step = on_device(case, model, device)
        if device == "cuda":
            yield from _memory_of(case, model, step)
        least = reached[0] - WITHIN if reached else None
        row = _beside_copy(case, FLOAT32, model, [step], 12, device, least)[1]
        reached.append(row.numbers["fraction"])
        yield row

    for spec in ("adamw", *REDUCING):
        case = next(case for case in cases() if case.spec == spec and not case.hypers)
        yield case.label, one(case)


def _memory_of(case: Case, model: Model, step: Contestant) -> Iterator[Row]:
    """What a step keeps beside parameters, gradients and states, and what it takes for a while."""
    before = torch.cuda.memory_allocated()
    step.run()
    torch.cuda.synchronize()
    kept = torch.cuda.memory_allocated() - before
    owner = step.run.__self__  # type: ignore[attr-defined]
    states = {id(x): x for slot in owner.state.values() for x in slot.values() if isinstance(x, torch.Tensor) and x.is_cuda}
    kept -= sum(x.nbytes for x in states.values())
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step.run()
    torch.cuda.synchronize()
    size = torch.cuda.max_memory_allocated() - before
    text = f"{kept / 2**20:.2f} MiB kept, {size / 2**20:.2f} MiB more during a step"
    yield Row(f"{case.label}, memory", "", text, None, {"kept": float(kept), "bytes": float(size), "elements": model.elements})


def launches(contestant: Contestant, device: str) -> int:
    """Kernels, copies and fills that one step puts on the device; ranges that PyTorch names are none of them."""
    if device != "cuda":
        return 0
    from torch.profiler import ProfilerActivity, profile

    contestant.prepare()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        contestant.run()
        torch.cuda.synchronize()
    seen = [event for event in profiler.key_averages() if "CUDA" in str(event.device_type)]
    return sum(event.count for event in seen if not event.is_user_annotation)


def _many(scale: float, device: str) -> Iterator[Row]:
    shapes = [(3500,)] * max(2, round(3000 * scale))
    kinds = ("torch fused", "torch foreach")
    contestants = [on_device(ADAMW, Model.of(shapes, device=device), device)]
    for name in kinds:
        fused = name == "torch fused"
        make = partial(torch.optim.AdamW, fused=fused, foreach=not fused)
        contestants.append(contestant(name, Model.of(shapes, device=device), make))

    def awaited(run: Callable[[], object]) -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    timings = alternate(contestants, 60, warmup=10, clock=awaited)
    seconds = timings.median("optc")
    count = launches(contestants[0], device)
    yield Row("adamw", "", f"{1e3 * seconds:.3f} ms", None, {"seconds": seconds})
    yield Row("adamw, launches in one step", "≤ 3", f"{count}", count <= 3, {"launches": count})
    for name in kinds:
        speedup = timings.speedup("optc", name)
        goal = 1.0 if name == "torch fused" else None
        met = speedup >= goal if goal else None
        numbers = {"seconds": timings.median(name), "speedup": speedup}
        measured = f"{speedup:.2f} x  ({1e3 * timings.median(name):.3f} ms)"
        yield Row(f"adamw vs {name}", f"≥ {goal:.1f} x" if goal else "", measured, met, numbers)


def _memory(elements: int, device: str) -> Iterator[Row]:
    """Growth of the allocator's peak over a step."""
    if device != "cuda":
        return
    step = on_device(ADAMW, Model.of(in_64(elements), device=device), device).run
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    size = torch.cuda.max_memory_allocated() - before
    yield Row("adamw, extra memory of a step", "< 1 MiB", f"{size / 2**20:.2f} MiB", size < 1 << 20, {"bytes": size})


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _collect(parts: Iterable[tuple[str, Iterator[Row]]], until: float) -> tuple[Row, ...]:
    """The rows of all parts; one that says what went wrong in place of those that a part still owed."""
    found: list[Row] = []
    for name, part in parts:
        if time.monotonic() > until:
            found.append(Row(f"{name} and what follows", "", "not measured: no time was left", None))
            _say(f"  {found[-1].what}: {found[-1].measured}")
            break
        while True:
            try:
                row = next(part, None)
            except Exception as error:
                traceback.print_exc()
                message = " ".join(str(error).split())[:300].replace("|", "\\|")
                row = Row(name, "", f"failed: {type(error).__name__}: {message}", False)
            if row is None:
                break
            found.append(row)
            _say(f"  {row.what}: {row.measured}")
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return tuple(found)


def measure(scale: float, device: str, parts: Sequence[str], only: Sequence[str]) -> Iterator[Table]:
    """The tables, as they are finished; stops early when the eight minutes are over."""
    until = time.monotonic() + BUDGET
    giga, others = round(1e9 * scale), round(2e8 * scale)
    if "large" in parts:
        large = [
            *((f"adamw, {p.theta}", _against_copy(ADAMW, p, giga, device, 15, True)) for p in (FLOAT32, BFLOAT16)),
            ("adamw, extra memory of a step", _memory(others, device)),
        ]
        yield Table("AdamW, large", LARGE.format(elements=giga / 1e6), _collect(large, until))
    if "many" in parts:
        yield Table("AdamW, many small tensors", MANY, _collect([("adamw", _many(scale, device))], until))
    if "reducing" in parts:
        beside = _on_matrices(others, device)
        yield Table("Optimizers that reduce", MATRICES.format(elements=others / 1e6), _collect(beside, until))
    if "profile" in parts:
        size = round(gpu_profile.ELEMENTS * scale)
        counted = gpu_profile.rows(size, device, until)
        yield Table("Bytes by the profiler", gpu_profile.note(size), _collect([("counters", counted)], until))
    if "others" in parts:
        rest = [case for case in cases() if case.spec not in ("adamw", *REDUCING) and (not only or case.spec in only)]
        compared = [(case.label, _against_copy(case, FLOAT32, others, device, 10, False)) for case in rest]
        yield Table("Other optimizers", OTHERS.format(elements=others / 1e6), _collect(compared, until))


def _fraction(text: str) -> float:
    value = float(text)
    if not 1e-5 <= value <= 1:
        raise argparse.ArgumentTypeError("a number from 1e-5 to 1")
    return value


def options() -> argparse.ArgumentParser:
    """The command's options. (click, which the other commands use, belongs to the compiler's dependencies.)"""
    shown = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=main.__doc__, formatter_class=shown)
    parser.add_argument("--scale", default=1.0, type=_fraction, help="fraction of the full sizes")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu only shows that the script runs")
    parser.add_argument("--part", dest="parts", action="append", choices=PARTS, help="only this part (may be repeated)")
    parser.add_argument("--spec", dest="only", action="append", default=[], help="of the others only this (may be repeated)")
    parser.add_argument("-o", "--output", dest="folder", type=Path, default=RESULTS, help="where the results go")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure on a GPU; at full size it needs 25 GiB of its memory and less than eight minutes."""
    parser = options()
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --device cpu --scale 1e-4 shows that the script runs")
    described, tables = machine(), list[Table]()
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    real = given.device == "cuda"
    stem, title = (f"gpu-{today}", f"GPU benchmarks, {today}") if real else (f"dry-{today}", "A dry run on the CPU")
    for table in measure(given.scale, given.device, given.parts or PARTS, given.only):
        tables.append(table)
        report = Report(described, given.scale, tuple(tables))
        if given.scale != 1 or not real:
            report = report.without_targets()
        paths = write(report, given.folder, stem, title)
        print(text_table(report.tables[-1]), flush=True)
    print("wrote " + ", ".join(map(str, paths)))


if __name__ == "__main__":
    main()
