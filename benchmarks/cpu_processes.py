"""One optimizer step on parameters that two processes share, beside what else there is for such parameters."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

import optc
from benchmarks.report import Row, Table
from benchmarks.timing import Contestant, Timings, alternate

PROCESSES = 2
MOST = 10.0
"""Milliseconds that a sharded step of LAMB may take."""
SHAPES = [(32, 32), (32,)] * 60
NOTE = (
    "Median time of `step()` on {count} small float32 parameters (32 × 32 and 32), sharded by rows over {processes} processes "
    "of one thread each, which talk by gloo on this machine; by turns in one loop of {rounds} rounds (ten times as many of "
    "AdamW). LAMB of DTensor operations is a plain loop, whose norms are one collective each. Of AdamW, torch's fused kernel "
    "is given DTensors, and the local tensors alone, which no user of FSDP2 has."
)
WARMUP = 3


class PlainLamb:
    """LAMB as one writes it in PyTorch, on any tensors."""

    def __init__(self, parameters: Sequence[Tensor], lr: float = 1e-3) -> None:
        self.parameters, self.lr, self.steps = parameters, lr, 0
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]

    @torch.no_grad()
    def step(self) -> None:
        """One update."""
        self.steps += 1
        for p, (m, v) in zip(self.parameters, self.moments, strict=True):
            if p.grad is None:
                continue
            m.mul_(0.9).add_(p.grad, alpha=0.1)
            v.mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
            u = (m / (1 - 0.9**self.steps)) / ((v / (1 - 0.999**self.steps)).sqrt() + 1e-6) + 0.01 * p
            p.sub_(self.lr * (p.norm() / u.norm()) * u)


def _sharded(mesh: Any) -> list[nn.Parameter]:
    from torch.distributed.tensor import Shard, distribute_tensor

    found = []
    for shape in SHAPES:
        p = nn.Parameter(distribute_tensor(torch.randn(shape), mesh, [Shard(0)]))
        p.grad = distribute_tensor(torch.randn(shape), mesh, [Shard(0)])
        found.append(p)
    return found


def _local(parameters: Sequence[Any]) -> list[nn.Parameter]:
    found = []
    for p in parameters:
        here = nn.Parameter(p.to_local().detach().clone())
        here.grad = p.grad.to_local().clone()
        found.append(here)
    return found


def _work(rank: int, store: Path, rounds: int, results: Any) -> None:
    """One process: all contestants, in the same order as the others."""
    from torch.distributed.device_mesh import init_device_mesh

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES)
    mesh = init_device_mesh("cpu", (PROCESSES,))

    def contestant(name: str, make: Callable[[list[nn.Parameter]], Any], local: bool = False) -> Contestant:
        parameters = _sharded(mesh)
        return Contestant(name, make(_local(parameters) if local else parameters).step, dist.barrier)

    slow = [
        contestant("LAMB", lambda p: optc.create("LAMB", p)),
        contestant("LAMB of DTensor operations", PlainLamb),
        contestant("Adafactor", lambda p: optc.create("Adafactor", p)),
    ]
    quick = [
        contestant("AdamW", lambda p: optc.create("AdamW", p)),
        contestant("torch fused, DTensors", lambda p: torch.optim.AdamW(p, fused=True)),
        contestant("torch fused, local tensors", lambda p: torch.optim.AdamW(p, fused=True), local=True),
    ]
    seconds = {**alternate(slow, rounds, WARMUP).seconds, **alternate(quick, 10 * rounds, WARMUP).seconds}
    if rank == 0:
        results.put(seconds)
    dist.barrier()
    dist.destroy_process_group()


def measured(rounds: int) -> Timings:
    """Seconds of every contestant in the first process."""
    context = mp.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        processes = [context.Process(target=_work, args=(rank, store, rounds, results)) for rank in range(PROCESSES)]
        for process in processes:
            process.start()
        seconds = results.get(timeout=600)
        for process in processes:
            process.join()
    return Timings(seconds)


def run(rounds: int = 15) -> Iterator[Row]:
    """The rows."""
    timings = measured(rounds)

    def milliseconds(name: str) -> str:
        return f"{1e3 * timings.median(name):.2f} ms"

    lamb = 1e3 * timings.median("LAMB")
    yield Row("LAMB", f"≤ {MOST:g} ms", milliseconds("LAMB"), lamb <= MOST, {"seconds": lamb / 1e3})
    yield _peer(timings, "LAMB", "LAMB of DTensor operations", None)
    yield Row("Adafactor", "", milliseconds("Adafactor"), None, {"seconds": timings.median("Adafactor")})
    yield Row("AdamW", "", milliseconds("AdamW"), None, {"seconds": timings.median("AdamW")})
    yield _peer(timings, "AdamW", "torch fused, DTensors", None)
    yield _peer(timings, "AdamW", "torch fused, local tensors", 1.0)


def _peer(timings: Timings, name: str, peer: str, least: float | None) -> Row:
    faster = timings.speedup(name, peer)
    numbers = {"seconds": timings.median(peer), "speedup": faster}
    told = f"{faster:.2f} x  ({1e3 * timings.median(peer):.2f} ms)"
    target, met = ("", None) if least is None else (f"≥ {least:g} x", faster >= least)
    return Row(f"{name} vs {peer}", target, told, met, numbers)


def table(rows: Sequence[Row], rounds: int) -> Table:
    """The rows with what they mean."""
    note = NOTE.format(count=len(SHAPES), processes=PROCESSES, rounds=rounds)
    return Table("Parameters that processes share, CPU", note, tuple(rows))
