"""50 M parameters in float32: every spec's native code against the floor that memory sets, and against other libraries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks import workloads
from benchmarks.report import Row, Table
from benchmarks.streams import Controls
from benchmarks.timing import alternate
from benchmarks.workloads import Case, Model, chosen, large, ours, step_traffic

FLOOR = 1.15
TARGETS = {("adamw", "torch fused"): 1.0, ("adamw", "torch foreach"): 3.0}
"""At least so many times faster, by spec and peer."""
AGAINST_OURSELVES = 3.5
"""The same where no library has the optimizer, against the PyTorch code made from the same equations."""

NOTE = (
    "Median time of `step()` on {elements:.1f} M float32 parameters, all contestants of a row by turns in one loop of {rounds} "
    "rounds. Floor: max(bytes / in-place bandwidth, bytes read / read bandwidth), with the bytes of the plan and bandwidths "
    "from the same loop. AdamW is judged against torch, the others against {limit} times their floor."
)


def measure(case: Case, scale: float, rounds: int) -> Iterator[Row]:
    """One row against the floor, and one for every peer that is installed."""
    rivals = workloads.rivals(case, large(scale))
    model = Model.of(large(scale))
    elements = model.elements
    controls = Controls.of(elements)
    contestants = [ours(case, model), *rivals, *controls.contestants()]
    timings = alternate(contestants, rounds, warmup=8)  # RAdam's first five steps are of another kind
    bandwidth = controls.bandwidth(timings)
    cost = step_traffic(case)
    seconds = timings.median("optc native")
    floor = bandwidth.floor(cost.bytes_read * elements, cost.bytes_written * elements)
    judged = (case.spec, "torch fused") not in TARGETS
    yield Row(
        f"{case.label} vs floor",
        f"≤ {FLOOR:.2f} x" if judged else "",
        f"{seconds / floor:.2f} x  ({1e9 * seconds / elements:.2f} of {1e9 * floor / elements:.2f} ns/param, {cost.total} B)",
        seconds <= FLOOR * floor if judged else None,
        {
            "seconds": seconds,
            "spread": timings.spread("optc native"),
            "floor_seconds": floor,
            "elements": elements,
            "bytes_read": cost.bytes_read,
            "bytes_written": cost.bytes_written,
            "in_place_bytes_per_second": bandwidth.in_place,
            "read_bytes_per_second": bandwidth.read,
        },
    )
    for rival in rivals:
        speedup = timings.speedup("optc native", rival.name)
        target = TARGETS.get((case.spec, rival.name), AGAINST_OURSELVES if rival.name == "optc torch" else None)
        yield Row(
            f"{case.label} vs {rival.name}",
            f"≥ {target:.1f} x" if target else "",
            f"{speedup:.2f} x  ({1e9 * timings.median(rival.name) / elements:.2f} ns/param)",
            speedup >= target if target else None,
            {"seconds": timings.median(rival.name), "spread": timings.spread(rival.name), "speedup": speedup},
        )


def run(scale: float = 1.0, rounds: int = 15, only: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of all specs, as they are measured."""
    for case in chosen(only):
        yield from measure(case, scale, rounds)


def table(rows: Sequence[Row], scale: float, rounds: int) -> Table:
    """The rows with what they mean."""
    elements = sum(a * (b[0] if b else 1) for a, *b in large(scale)) / 1e6
    return Table("Large tensors, CPU", NOTE.format(elements=elements, rounds=rounds, limit=FLOOR), tuple(rows))
