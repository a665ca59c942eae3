"""What a training step does around the update: unscaling, clipping and schedules, in the step and beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

import optc
from benchmarks.cpu_many import IN_A_ROW
from benchmarks.report import Row, Table
from benchmarks.timing import Contestant, Timings, alternate, wall_clock
from benchmarks.workloads import Model, large, many

FUSED = 1.4
"""Times as fast as separate passes, at least."""
COST = 1.03
"""Times as long with a schedule in the step as without, at most: what cannot be told from nothing here."""
SETS = 6
ABOVE = 250e-6
"""Seconds of `step()` on 1,000 parameters beside its kernel, at most."""
TINY = [(64,)] * 1000
MAX_NORM = 1.0
NOTE = (
    "Median time of all that follows `backward()` on {elements:.1f} M float32 parameters, by turns in one loop of {rounds} "
    "rounds: gradients are divided by the loss scale, checked for inf and NaN, bounded in their norm and given to AdamW. In "
    "passes: `GradScaler.unscale_`, `clip_grad_norm_`, `GradScaler.step`, `update`. In the step: an optimizer with "
    "`clip_global_norm` and a `LossScale`. Gradients are put back before every turn, which is not timed. A schedule in the "
    "step (`one_cycle`: rate and momentum) against the same optimizer without, on these and on {tensors} small tensors, the "
    "median of six sets of models each; a twin is a second one without. Above the kernel: `step()` of AdamW on 1,000 tensors "
    "of 64 elements, each gradient at a new address in every step, less what its one kernel took in it; eight times in a row, "
    "of which the first two are not counted."
)
WARMUP = 3


@dataclass(slots=True)
class _Gradients:
    """The gradients of a model, put back before every turn: passes over them change them."""

    model: Model

    def __call__(self) -> None:
        for p, g in zip(self.model.parameters, self.model.gradients[0], strict=True):
            if p.grad is None or p.grad is g:
                p.grad = torch.empty_like(g)
            p.grad.copy_(g)


def in_passes(name: str, shapes: Sequence[tuple[int, ...]], make: Callable[[list[nn.Parameter]], Any]) -> Contestant:
    """An optimizer behind a scaler and a clipping function."""
    model = Model.of(shapes)
    optimizer, scaler = make(model.parameters), torch.amp.GradScaler("cpu", init_scale=1.0)
    scaler.scale(torch.zeros(()))

    def run() -> None:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters, MAX_NORM)
        scaler.step(optimizer)
        scaler.update()

    return Contestant(name, run, _Gradients(model))


def in_the_step(name: str, shapes: Sequence[tuple[int, ...]]) -> Contestant:
    """One optimizer that does it all."""
    model = Model.of(shapes)
    cls = optc.compile("adamw", modifiers=[f"clip_global_norm(max_norm = {MAX_NORM})"])
    optimizer = cls(model.parameters, backend="native", loss_scale=optc.LossScale(init=1.0))
    return Contestant(name, optimizer.step, _Gradients(model))


def scheduled(name: str, shapes: Sequence[tuple[int, ...]], modifiers: Sequence[str]) -> Contestant:
    """AdamW with a schedule in its step, or without one."""
    model = Model.of(shapes)
    optimizer = optc.compile("adamw", modifiers=modifiers)(model.parameters, backend="native")
    return Contestant(name, optimizer.step)


def run(scale: float = 1.0, rounds: int = 15) -> Iterator[Row]:
    """The rows: unscaling and clipping, then schedules."""
    shapes = large(scale)
    timings = alternate(
        [
            in_the_step("optc, in the step", shapes),
            in_passes("optc, in passes", shapes, lambda p: optc.create("adamw", p, backend="native")),
            in_passes("torch fused, in passes", shapes, lambda p: torch.optim.AdamW(p, fused=True)),
        ],
        rounds,
        WARMUP,
    )
    seconds = timings.median("optc, in the step")
    spread = {"seconds": seconds, "spread": timings.spread("optc, in the step")}
    yield Row("AdamW, clipping and unscaling in the step", "", f"{1e3 * seconds:.1f} ms", None, spread)
    for peer in ("optc, in passes", "torch fused, in passes"):
        faster = timings.speedup("optc, in the step", peer)
        numbers = {"seconds": timings.median(peer), "speedup": faster}
        measured = f"{faster:.2f} x  ({1e3 * timings.median(peer):.1f} ms)"
        yield Row(f"… vs {peer}", f"≥ {FUSED} x", measured, faster >= FUSED, numbers)
    for label, sizes in (("large tensors", shapes), ("small tensors", many(scale))):
        yield _schedule(label, sizes, rounds * (1 if sizes is shapes else 4))
    yield _above_the_kernel(rounds * 4)


def _schedule(label: str, shapes: Sequence[tuple[int, ...]], rounds: int) -> Row:
    """Medians over sets of models, each made first by turns; a twin of the one without says what is noise."""
    found: list[Timings] = []
    kinds: list[tuple[str, list[str]]] = [("without", []), ("with", ["one_cycle(T = 100000)"]), ("twin", [])]
    for _ in range(SETS):
        found.append(alternate([scheduled(name, shapes, modifiers) for name, modifiers in kinds], rounds, WARMUP))
        kinds = [*kinds[1:], kinds[0]]
    seconds, without, twin = (median(timings.median(name) for timings in found) for name in ("with", "without", "twin"))
    least = min(without, twin)
    ratio, noise = 2 * seconds / (without + twin), max(without, twin) / least
    measured = f"{ratio:.3f} x the time  ({1e6 * (seconds - least):+.0f} µs of {1e6 * least:.0f} µs; a twin {noise:.3f} x)"
    numbers = {"seconds": seconds, "without": without, "twin": twin, "ratio": ratio}
    return Row(f"a schedule in the step, {label}", f"≤ {COST} x the time", measured, ratio <= COST, numbers)


def _above_the_kernel(rounds: int) -> Row:
    """What a step takes less what its kernel takes in the same step, where it finds new gradients and waiting threads."""
    model = Model.of(TINY)
    optimizer: Any = optc.create("adamw", model.parameters, backend="native")
    optimizer.step()
    [launcher] = [one for bound in optimizer._plans[0]["step"].bindings for one in bound.launchers]
    kernel, within = launcher.run, [0.0]

    def timed(factor: float) -> None:
        within[0] = wall_clock(lambda: kernel(factor))

    launcher.run = timed
    step = Contestant("step", optimizer.step, model.next_gradients())
    clocks: list[Callable[[Callable[[], object]], float]] = [wall_clock, lambda run: wall_clock(run) - within[0]]
    whole, above = (alternate([step], rounds, WARMUP, clock, IN_A_ROW).median("step") for clock in clocks)
    measured = f"{1e6 * above:.0f} µs  ({1e6 * whole:.0f} µs in all)"
    numbers = {"seconds": whole, "above": above}
    return Row("step() on 1,000 tensors, above the kernel", f"≤ {1e6 * ABOVE:.0f} µs", measured, above <= ABOVE, numbers)


def table(rows: Sequence[Row], scale: float, rounds: int) -> Table:
    """The rows with what they mean."""
    elements = sum(torch.Size(shape).numel() for shape in large(scale)) / 1e6
    note = NOTE.format(elements=elements, rounds=rounds, tensors=f"{len(many(scale)):,}")
    return Table("Clipping, unscaling and schedules in the step, CPU", note, tuple(rows))
