"""`python -m benchmarks.gpu`: what needs a CUDA device, within eight minutes; writes benchmarks/results/gpu-<date>.{json,md}.

Bandwidth is that of a device-to-device copy (bytes read and written), measured by turns with the optimizers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click
import torch

from benchmarks.machine import machine
from benchmarks.report import Report, Row, Table, text_table, write
from benchmarks.timing import Contestant, alternate, cuda_clock, wall_clock
from benchmarks.workloads import CASES, Case, Model, cases, contestant, ours, step_traffic
from optc.compiler.traffic import Precision

RESULTS = Path(__file__).resolve().parent / "results"
BUDGET = 8 * 60.0
COPY = "control: copy"
FP32 = Precision("float32", "float32", "float32")
BF16 = Precision("bfloat16", "bfloat16", "float32")
ADAMW = next(case for case in CASES if case.spec == "adamw")

LARGE = (
    "One step on {elements:.0f} M parameters in 64 tensors, CUDA events, medians by turns with a device-to-device copy. "
    "Bandwidth: bytes of the plan over time, relative to the copy's. torch fused keeps its state in θ's dtype: with "
    "bfloat16 parameters it moves fewer bytes, so its time is shown and not compared."
)
MANY = "3,000 tensors of 3,500 float32 elements, every gradient at a new address in every step; wall time, device awaited."
OTHERS = "Every other shipped spec on {elements:.0f} M float32 parameters, as above."


def _shapes(elements: int) -> list[tuple[int, ...]]:
    return [(max(1, elements // 64),)] * 64


def _ours(case: Case, model: Model, device: str) -> Contestant:
    """The backend is named, so that a fall-back to PyTorch cannot pass for it."""
    return replace(ours(case, model, "triton" if device == "cuda" else "native"), name="optc")


def _clock(device: str) -> Callable[[Callable[[], object]], float]:
    return cuda_clock if device == "cuda" else wall_clock


def _against_copy(case: Case, precision: Precision, elements: int, device: str, rounds: int, rival: bool) -> Iterator[Row]:
    """One spec against the copy; AdamW also against torch's fused one."""
    dtype = getattr(torch, precision.theta)
    model = Model.of(_shapes(elements), dtype, device)
    source = torch.ones(min(elements, 1 << 28), device=device)
    target = torch.empty_like(source)
    contestants = [_ours(case, model, device), Contestant(COPY, lambda: target.copy_(source))]
    if rival:
        contestants.append(contestant("torch fused", model, lambda p: torch.optim.AdamW(p, fused=True)))
    timings = alternate(contestants, rounds, warmup=8, clock=_clock(device))
    cost = step_traffic(case, precision)
    seconds = timings.median("optc")
    copy_bandwidth = 2 * source.nbytes / timings.median(COPY)
    fraction = cost.total * model.elements / seconds / copy_bandwidth
    yield Row(
        f"{case.label}, {precision.theta}",
        "≥ 90 %" if rival else "",
        f"{100 * fraction:.0f} % of copy  ({1e3 * seconds:.2f} ms, {cost.total} B/param)",
        fraction >= 0.9 if rival else None,
        {"seconds": seconds, "bytes": cost.total, "elements": model.elements, "fraction": fraction, "copy": copy_bandwidth},
    )
    if rival:
        speedup = timings.speedup("optc", "torch fused")
        same = precision is FP32
        yield Row(
            f"{case.label}, {precision.theta} vs torch fused",
            "≥ 0.95 x" if same else "",
            (f"{speedup:.2f} x  " if same else "") + f"({1e3 * timings.median('torch fused'):.2f} ms)",
            speedup >= 0.95 if same else None,
            {"seconds": timings.median("torch fused"), "speedup": speedup},
        )


def launches(step: Callable[[], object], device: str) -> int:
    """Kernels, copies and fills that one step puts on the device."""
    if device != "cuda":
        return 0
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        step()
        torch.cuda.synchronize()
    return sum(event.count for event in profiler.key_averages() if "CUDA" in str(event.device_type))


def _many(scale: float, device: str) -> Iterator[Row]:
    shapes = [(3500,)] * max(2, round(3000 * scale))
    kinds = ("torch fused", "torch foreach")
    contestants = [_ours(ADAMW, Model.of(shapes, device=device), device)]
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
    count = launches(contestants[0].run, device)
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
    step = _ours(ADAMW, Model.of(_shapes(elements), device=device), device).run
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    size = torch.cuda.max_memory_allocated() - before
    yield Row("adamw, extra memory of a step", "< 1 MiB", f"{size / 2**20:.2f} MiB", size < 1 << 20, {"bytes": size})


def _collect(parts: Iterable[Iterator[Row]], until: float) -> tuple[Row, ...]:
    found: list[Row] = []
    for part in parts:
        if time.monotonic() > until:
            click.echo("  out of time: the rest was left out", err=True)
            break
        for row in part:
            found.append(row)
            click.echo(f"  {row.what}: {row.measured}", err=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return tuple(found)


def measure(scale: float, device: str, only: Sequence[str]) -> list[Table]:
    """All tables; stops early when the eight minutes are over."""
    until = time.monotonic() + BUDGET
    giga, others = round(1e9 * scale), round(2e8 * scale)
    adamw: list[Iterator[Row]] = [_against_copy(ADAMW, p, giga, device, 15, True) for p in (FP32, BF16)]
    rest = [case for case in cases() if case.spec != "adamw" and (not only or case.spec in only)]
    return [
        Table("AdamW, large", LARGE.format(elements=giga / 1e6), _collect([*adamw, _memory(others, device)], until)),
        Table("AdamW, many small tensors", MANY, _collect([_many(scale, device)], until)),
        Table(
            "Other optimizers",
            OTHERS.format(elements=others / 1e6),
            _collect((_against_copy(case, FP32, others, device, 10, False) for case in rest), until),
        ),
    ]


@click.command()
@click.option("--scale", default=1.0, show_default=True, type=click.FloatRange(1e-5, 1), help="Fraction of the full sizes.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", help="cpu only shows that the script runs.")
@click.option("--spec", "only", multiple=True, help="Of the other optimizers only this one (may be repeated).")
@click.option("-o", "--output", "folder", default=RESULTS, type=click.Path(path_type=Path), help="Where the results go.")
def main(scale: float, device: str, only: tuple[str, ...], folder: Path) -> None:
    """Measure on a GPU; at full size it needs 20 GiB of its memory and less than eight minutes."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("there is no CUDA device here; --device cpu --scale 1e-4 shows that the script runs")
    report = Report(machine(), scale, tuple(measure(scale, device, only)))
    if scale != 1 or device != "cuda":
        report = report.without_targets()
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    stem, title = (f"gpu-{today}", f"GPU benchmarks, {today}") if device == "cuda" else (f"dry-{today}", "A dry run on the CPU")
    paths = write(report, folder, stem, title)
    for table in report.tables:
        click.echo(text_table(table))
    click.echo("wrote " + ", ".join(map(str, paths)))


if __name__ == "__main__":
    main()
