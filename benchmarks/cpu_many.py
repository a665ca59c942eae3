"""1,000 small tensors on a CPU: what a step costs beside the arithmetic, through the public class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.report import Row, Table
from benchmarks.timing import alternate
from benchmarks.workloads import Model, chosen, installed, many, ours, theirs

TARGETS = {("adamw", "torch fused"): 6.0, ("adamw", "torch foreach"): 20.0}
NOTE = (
    "Median time of a whole `step()` through the public class: 500 tensors of 64 x 64 and 500 of 64 (2.08 M float32 "
    "parameters), every gradient at a new address in every step, all contestants by turns in one loop of {rounds} rounds."
)


def run(scale: float = 1.0, rounds: int = 60, only: Sequence[str] = ()) -> Iterator[Row]:
    """One row for every spec and peer."""
    for case in chosen(only):
        peers = [peer for peer in case.peers if installed(peer)]
        model = Model.of(many(scale))
        contestants = [ours(case, model), *(theirs(peer, Model.of(many(scale))) for peer in peers)]
        timings = alternate(contestants, rounds, warmup=20)
        seconds = timings.median("optc native")
        yield Row(f"{case.label}", "", f"{1e3 * seconds:.2f} ms", None, {"seconds": seconds, "tensors": len(model.parameters)})
        for peer in peers:
            speedup = timings.speedup("optc native", peer.label)
            target = TARGETS.get((case.spec, peer.label))
            yield Row(
                f"{case.label} vs {peer.label}",
                f"≥ {target:.1f} x" if target else "",
                f"{speedup:.1f} x  ({1e3 * timings.median(peer.label):.2f} ms)",
                speedup >= target if target else None,
                {"seconds": timings.median(peer.label), "speedup": speedup},
            )


def table(rows: Sequence[Row], rounds: int) -> Table:
    """The rows with what they mean."""
    return Table("Many small tensors, CPU", NOTE.format(rounds=rounds), tuple(rows))
