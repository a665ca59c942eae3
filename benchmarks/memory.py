"""Memory that a step needs beyond parameters, gradients and state: growth of the resident set's peak in a child process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.report import Row, Table

LIMIT = 1 << 20
NOTE = (
    "A child process takes three steps, so that all state exists, resets its peak (`/proc/self/clear_refs`), takes three more, "
    "and reports how far the peak of its resident set rose above what was resident before. Linux only."
)
SETTINGS = (
    ("10 M in one tensor", 1, 10_000_000),
    ("100 M in one tensor", 1, 100_000_000),
    ("1,000 tensors of 4,096", 1000, 4096),
)
CONTESTANTS = ("optc native", "optc native, 8 bit", "torch fused", "torch foreach")


def available() -> bool:
    """Whether the system can reset the peak of a resident set."""
    return Path("/proc/self/clear_refs").exists()


def growth(contestant: str, tensors: int, elements: int) -> int:
    """Bytes; runs a child process. Raises RuntimeError with its words where it fails."""
    command = [sys.executable, "-m", "benchmarks.memory", contestant, str(tensors), str(elements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parent.parent)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    return int(json.loads(done.stdout)["growth"])


def run(scale: float = 1.0) -> Iterator[Row]:
    """One row for every setting and contestant; only ours has a target."""
    for name, tensors, elements in SETTINGS:
        for contestant in CONTESTANTS:
            size = growth(contestant, tensors, max(1, round(elements * scale)))
            own = contestant.startswith("optc")
            yield Row(
                f"AdamW {contestant}, {name}",
                "< 1 MiB" if own else "",
                f"{size / 2**20:.2f} MiB",
                size < LIMIT if own else None,
                {"bytes": size},
            )


def table(rows: Sequence[Row]) -> Table:
    """The rows with what they mean."""
    return Table("Extra memory of a step", NOTE, tuple(rows))


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}")


def child(contestant: str, tensors: int, elements: int) -> int:
    """What the child process measures, in bytes."""
    import torch

    import optc

    parameters = [torch.nn.Parameter(torch.zeros(elements)) for _ in range(tensors)]
    for p in parameters:
        p.grad = torch.full_like(p, 1e-3)
    if contestant.startswith("optc native"):
        step = optc.create("adamw_8bit" if "8 bit" in contestant else "adamw", parameters, backend="native").step
    else:
        fused = contestant == "torch fused"
        step = torch.optim.AdamW(parameters, fused=fused, foreach=not fused).step
    for _ in range(3):
        step()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    for _ in range(3):
        step()
    return max(0, _status("VmHWM") - before)


if __name__ == "__main__":
    print(json.dumps({"growth": child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))}))
