"""50 M parameters in float32: every spec's native code against the floor that memory sets, and against other libraries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks import workloads
from benchmarks.report import Row, Table
from benchmarks.streams import Controls
from benchmarks.timing import alternate
from benchmarks.workloads import Case, Model, chosen, large, ours, step_passes

FLOOR = 1.15
FLOOR_REDUCING = 1.25
AGAINST_PEERS = 3.0
"""Reducing optimizers: times their own floor, and at least so many times faster than the same optimizer of another library."""
TARGETS = {("adamw", "torch fused"): 1.0, ("adamw", "torch foreach"): 3.0}
"""At least so many times faster, by spec and peer."""
NOTE = (
    "Median time of `step()` on {elements:.1f} M float32 parameters, all contestants of a row by turns in one loop of {rounds} "
    "rounds. Floor: for every pass max(bytes / in-place bandwidth, bytes read / read bandwidth), with the bytes of the plan "
    "and bandwidths from the same loop. AdamW is judged against torch, the others against {limit} times their floor "
    "({reducing} where they reduce over tensors, in several passes). Where no library has an optimizer, the PyTorch code made "
    "from the same equations stands beside it."
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
    passes = step_passes(case)
    seconds = timings.median("optc native")
    floor = sum(bandwidth.floor(p.bytes_read * elements, p.bytes_written * elements) for p in passes)
    moved = sum(p.total for p in passes)
    judged = (case.spec, "torch fused") not in TARGETS
    limit = FLOOR if len(passes) == 1 else FLOOR_REDUCING
    yield Row(
        f"{case.label} vs floor",
        f"≤ {limit:.2f} x" if judged else "",
        f"{seconds / floor:.2f} x  ({1e9 * seconds / elements:.2f} of {1e9 * floor / elements:.2f} ns/param, {moved} B)",
        seconds <= limit * floor if judged else None,
        {
            "seconds": seconds,
            "spread": timings.spread("optc native"),
            "floor_seconds": floor,
            "elements": elements,
            "passes": len(passes),
            "bytes_read": sum(p.bytes_read for p in passes),
            "bytes_written": sum(p.bytes_written for p in passes),
            "in_place_bytes_per_second": bandwidth.in_place,
            "read_bytes_per_second": bandwidth.read,
        },
    )
    for rival in rivals:
        speedup = timings.speedup("optc native", rival.name)
        usual = AGAINST_PEERS if case.peers and len(passes) > 1 else None
        target = TARGETS.get((case.spec, rival.name), usual)
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
    note = NOTE.format(elements=elements, rounds=rounds, limit=FLOOR, reducing=FLOOR_REDUCING)
    return Table("Large tensors, CPU", note, tuple(rows))
