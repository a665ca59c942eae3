"""1,000 small tensors on a CPU: what a step costs beside the arithmetic, through the public class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks import workloads
from benchmarks.report import Row, Table
from benchmarks.timing import alternate
from benchmarks.workloads import Model, chosen, many, ours, step_passes

TARGETS = {("adamw", "torch fused"): 6.0, ("adamw", "torch foreach"): 20.0}
AGAINST_PEERS = 20.0
"""Reducing optimizers, against the same optimizer of another library."""
IN_A_ROW = 8
NOTE = (
    "Median time of a whole `step()` through the public class: 500 tensors of 64 x 64 and 500 of 64 (2.08 M float32 "
    "parameters), every gradient at a new address in every step, all contestants by turns in one loop of {rounds} rounds. "
    "In a row: a turn is {row} steps, of which the first two are not counted, so a step finds in the caches what the step "
    "before left there (33 MB of parameters, gradients and states). Cold: a turn is one step, after the other contestants have "
    "used the caches; then the time of the memory, which is the same for all, weighs more."
)


def run(scale: float = 1.0, rounds: int = 60, only: Sequence[str] = ()) -> Iterator[Row]:
    """Two rows for every spec and for every peer: steps in a row, and cold."""
    for case in chosen(only):
        rivals = workloads.rivals(case, many(scale))
        usual = AGAINST_PEERS if len(step_passes(case)) > 1 and case.peers else None
        model = Model.of(many(scale))
        contestants = [ours(case, model), *rivals]
        for kind, turns, in_a_row in (("in a row", max(1, rounds // IN_A_ROW), IN_A_ROW), ("cold", rounds, 1)):
            timings = alternate(contestants, turns, warmup=3 if in_a_row > 1 else 20, in_a_row=in_a_row)
            seconds = timings.median("optc native")
            numbers = {"seconds": seconds, "tensors": len(model.parameters)}
            yield Row(f"{case.label}, {kind}", "", f"{1e3 * seconds:.2f} ms", None, numbers)
            for rival in rivals:
                speedup = timings.speedup("optc native", rival.name)
                target = TARGETS.get((case.spec, rival.name), usual) if in_a_row > 1 else None
                yield Row(
                    f"{case.label} vs {rival.name}, {kind}",
                    f"≥ {target:.1f} x" if target else "",
                    f"{speedup:.1f} x  ({1e3 * timings.median(rival.name):.2f} ms)",
                    speedup >= target if target else None,
                    {"seconds": timings.median(rival.name), "speedup": speedup},
                )


def table(rows: Sequence[Row], rounds: int) -> Table:
    """The rows with what they mean."""
    return Table("Many small tensors, CPU", NOTE.format(rounds=rounds, row=IN_A_ROW), tuple(rows))
