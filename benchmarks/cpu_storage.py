"""Small states on 50 M parameters: against our own float32 AdamW, bitsandbytes, torchao and adv_optm; bytes of state."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch

import optc
from benchmarks.report import Row, Table
from benchmarks.timing import alternate
from benchmarks.workloads import Model, contestant, installed_module, large

OURS = ("adamw", "adamw_8bit", "adamw_4bit", "adamw_fp8", "adamw_factored", "lion_8bit")
NOTE = (
    "Median time of `step()` on {elements:.1f} M float32 parameters, all contestants by turns in one loop of {rounds} rounds. "
    "Peers with their defaults; torchao as it is meant to run, compiled by torch.compile before the first round. Bytes of "
    "state: what the tensors in `state` take, without step counts, over the number of parameters."
)
WARMUP = 3


@dataclass(frozen=True, slots=True)
class Target:
    """At least so many times faster than the peer, and at most so many bytes of state per parameter."""

    spec: str
    peer: str
    faster: float


TARGETS = (
    Target("adamw_8bit", "bitsandbytes AdamW8bit", 10.0),
    Target("adamw_8bit", "torchao AdamW8bit", 12.0),
    Target("adamw_4bit", "torchao AdamW4bit", 15.0),
    Target("adamw_fp8", "torchao AdamWFp8", 0.0),
    Target("adamw_factored", "adv_optm AdamW_adv", 8.0),
    Target("lion_8bit", "bitsandbytes Lion8bit", 0.0),
)
FACTORED = {"nnmf_factor": True, "vector_reshape": False}
"""What makes of adv_optm's AdamW one that keeps two vectors and signs."""
BYTES = {"adamw_8bit": 2.04, "adamw_4bit": 1.07, "adamw_factored": 0.14}
SLOWER = 2.3
"""Times our own AdamW in float32, at most."""


def _peers() -> dict[str, Callable[[list[torch.nn.Parameter]], Any]]:
    """The peers that are installed."""
    found: dict[str, Callable[[list[torch.nn.Parameter]], Any]] = {}
    for library, module in (("bitsandbytes", "bitsandbytes.optim"), ("torchao", "torchao.optim"), ("adv_optm", "adv_optm")):
        if not installed_module(library):
            continue
        logging.getLogger(library).setLevel(logging.ERROR)
        for target in TARGETS:
            if target.peer.startswith(library):
                peer = getattr(import_module(module), target.peer.split()[1])
                found[target.peer] = partial(peer, **FACTORED) if library == "adv_optm" else peer
    return found


def state_bytes(optimizer: torch.optim.Optimizer) -> float:
    """Bytes of state per parameter, without step counts."""
    elements = sum(p.numel() for p in optimizer.state)
    entries = (entry for slot in optimizer.state.values() for entry in slot.items())
    kept = (x for key, x in entries if key != "step" and isinstance(x, torch.Tensor))
    return sum(x.numel() * x.element_size() for x in kept) / elements


def run(scale: float = 1.0, rounds: int = 9) -> Iterator[Row]:
    """The rows, after all contestants have run."""
    made: dict[str, Any] = {}
    contestants = []
    for spec in OURS:
        model = Model.of(large(scale))

        def build(parameters: list[torch.nn.Parameter], spec: str = spec) -> Any:
            made[spec] = optc.create(spec, parameters, backend="native")
            return made[spec]

        contestants.append(contestant(spec, model, build))
    elements = Model.of(large(scale)).elements
    peers = _peers()
    contestants += [contestant(name, Model.of(large(scale)), make) for name, make in peers.items()]
    timings = alternate(contestants, rounds, WARMUP)
    fp32 = timings.median("adamw")
    for spec in OURS:
        seconds, size = timings.median(spec), state_bytes(made[spec])
        most = BYTES.get(spec)
        met = None if most is None else size <= most
        numbers = {"bytes_per_parameter": size}
        yield Row(f"{spec}: bytes of state", f"≤ {most:.2f}" if most else "", f"{size:.3f}", met, numbers)
        judged = spec == "adamw_8bit"
        yield Row(
            f"{spec} vs adamw",
            f"≤ {SLOWER} x the time" if judged else "",
            f"{seconds / fp32:.2f} x the time  ({1e9 * seconds / elements:.2f} ns/param)",
            seconds <= SLOWER * fp32 if judged else None,
            {"seconds": seconds, "spread": timings.spread(spec), "elements": elements},
        )
    for target in TARGETS:
        if target.peer not in peers:
            continue
        faster = timings.speedup(target.spec, target.peer)
        seconds = timings.median(target.peer)
        yield Row(
            f"{target.spec} vs {target.peer}",
            f"≥ {target.faster:.0f} x" if target.faster else "",
            f"{faster:.1f} x  ({1e9 * seconds / elements:.2f} ns/param)",
            faster >= target.faster if target.faster else None,
            {"seconds": seconds, "spread": timings.spread(target.peer), "speedup": faster},
        )


def table(rows: Sequence[Row], scale: float, rounds: int) -> Table:
    """The rows with what they mean."""
    elements = sum(torch.Size(shape).numel() for shape in large(scale)) / 1e6
    return Table(
        "States in eight and four bits, and in two vectors and signs, CPU",
        NOTE.format(elements=elements, rounds=rounds),
        tuple(rows),
    )
