"""Do optimizers with small states learn as well? A small transformer and a small CNN, each with the same seeds for everyone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, starmap
from multiprocessing import get_context
from statistics import fmean
from typing import Any

import torch
from torch.func import functional_call

import optc
from benchmarks.cpu_storage import state_bytes
from benchmarks.learning import NOISE, Batch, NextPixels, NoisyDigits, Task, loss_of
from benchmarks.report import Row, Table

NAME = "Convergence"
GROUPS = ADAMW, LION, BF16 = "AdamW", "Lion", "bfloat16 parameters"
PLAIN, PLAIN_STATES = "adamw, bf16", "adamw_bf16, bf16"
"""Everything rounded to nearest: parameters, and states as well."""
SMMF = "adamw, m: sign_rank1, v: rank1"
"""As arXiv:2412.08894 keeps the moments."""
SEEDS = 3
EVALUATIONS, LAST = 12, 3
"""How often a run is evaluated, evenly spaced, and the mean of how many of the last ones is its loss."""
TASKS: tuple[Task, ...] = (
    NextPixels("transformer", 400, 16, {ADAMW: 3e-3, LION: 1.2e-3, BF16: 3e-4}),
    NoisyDigits("CNN", 1500, 64, {ADAMW: 8e-3, LION: 8e-4, BF16: 8e-4}),
)
"""With the step sizes of AdamW and Lion that gave their float32 forms the lowest loss, each tried in steps of 2; for parameters
in bfloat16 a tenth of AdamW's, since what rounding takes away are small steps."""
NOTE = (
    "Loss on validation images, mean of the last {last} of {evaluations} evaluations and of {seeds} seeds; in percent, how "
    "far it is above the first row of its group (in brackets: the lowest and the highest seed). Both models learn from "
    "scikit-learn's digits, a fifth of which are for validation: the transformer predicts the next pixel of an image, the "
    "CNN names digits under noise of standard deviation {noise:g}. Everyone starts from the same weights and sees the same "
    "batches, with defaults but the step size: a warm-up, then a cosine down to a tenth, from {rates}. Those of AdamW and "
    "Lion gave their float32 forms the lowest loss among step sizes a factor of 2 apart. For bfloat16 parameters it is a "
    "tenth of AdamW's: small enough that plain rounding loses part of the steps, not so small that nothing is left. There, "
    "models compute in float32 from parameters in bfloat16, gradients are rounded to bfloat16, and states are float32 "
    "unless the name says otherwise. torch.optim.AdamW has no target: it differs from adamw in rounding alone, so its row "
    "shows how far apart equal optimizers end. Bytes are those of state per parameter, with what parameters lack. Tensors "
    "of less than 4096 elements keep their states in float32; rows with a target in percent say what part of all numbers of "
    "state is kept smaller, in fewer bits or as rows and columns."
)


@dataclass(frozen=True, slots=True)
class Contestant:
    """An optimizer in one of the groups; the first of a group is its reference, in float32.

    `spec` is a shipped one, whose states are kept as `storing` says, or a class of torch.optim; `hypers` are those that are not
    its defaults. The target: at most `within`
    percent above the loss of the reference, or below the loss of the contestant that is called `below`.
    """

    group: str
    spec: str
    label: str = ""
    dtype: torch.dtype = torch.float32
    within: float | None = None
    below: str = ""
    storing: Mapping[str, str] = field(default_factory=dict)
    hypers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return self.label or self.spec

    def make(self, parameters: list[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """The optimizer, with its defaults but the step size and `hypers`."""
        made: Any
        if self.spec.startswith("torch.optim."):
            made = getattr(torch.optim, self.spec.removeprefix("torch.optim."))
        elif self.storing:
            made = optc.compile(self.spec, storing=self.storing)
        else:
            made = partial(optc.create, self.spec)
        optimizer: torch.optim.Optimizer = made(parameters, lr=lr, **self.hypers)
        return optimizer


CONTESTANTS = (
    Contestant(ADAMW, "adamw"),
    Contestant(ADAMW, "torch.optim.AdamW"),
    Contestant(ADAMW, "adamw_8bit", within=1.0),
    Contestant(ADAMW, "adamw_fp8", within=1.0),
    Contestant(ADAMW, "adamw_4bit", within=2.0),
    Contestant(ADAMW, "adamw_factored", within=2.0),
    Contestant(ADAMW, "adamw", "adamw, β1 = 0.5", hypers={"betas": (0.5, 0.999)}),
    Contestant(ADAMW, "adamw", SMMF, within=2.0, storing={"m": "sign_rank1", "v": "rank1"}),
    Contestant(ADAMW, "adamw", "adamw, v: rowcol", within=2.0, storing={"v": "rowcol"}),
    Contestant(LION, "lion"),
    Contestant(LION, "lion_8bit", within=1.0),
    Contestant(LION, "lion_4bit", within=2.0),
    Contestant(LION, "lion", "lion, β2 = 0.97", hypers={"betas": (0.9, 0.97)}),
    Contestant(LION, "lion", "lion, m: dynamic4", within=2.0, storing={"m": "dynamic4"}),
    Contestant(BF16, "adamw", "adamw, fp32"),
    Contestant(BF16, "adamw", PLAIN, torch.bfloat16),
    Contestant(BF16, "adamw_kahan", "", torch.bfloat16, below=PLAIN),
    Contestant(BF16, "adamw_8bit_split", "", torch.bfloat16, below=PLAIN),
    Contestant(BF16, "adamw_master", "", torch.bfloat16, below=PLAIN),
    Contestant(BF16, "adamw", "adamw, bf16 stochastic", torch.bfloat16, below=PLAIN, storing={"theta": "bf16(stochastic)"}),
    Contestant(BF16, "adamw_bf16", PLAIN_STATES, torch.bfloat16),
    Contestant(BF16, "adamw_bf16_stochastic", "", torch.bfloat16, below=PLAIN_STATES),
)
"""One line each, after those that it is compared with."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run left: losses on the validation images by step, and per parameter the bytes of state and how many of its
    numbers are kept as they are."""

    curve: tuple[tuple[int, float], ...]
    bytes_per_parameter: float
    as_they_are: float

    @property
    def loss(self) -> float:
        """The one that counts."""
        return fmean(loss for _, loss in self.curve[-LAST:])


def kept_as_they_are(optimizer: torch.optim.Optimizer) -> float:
    """Numbers of state per parameter that are float32, one for every element. What a parameter lacks is no state."""
    entries = (
        entry
        for p, slot in optimizer.state.items()
        for key, entry in slot.items()
        if key not in ("step", "theta_rest") and isinstance(entry, torch.Tensor) and entry.shape == p.shape
    )
    kept = sum(entry.numel() for entry in entries if entry.dtype == torch.float32)
    return kept / sum(p.numel() for p in optimizer.state)


def schedule(step: int, steps: int) -> float:
    """Factor of the step size: a warm-up over a twentieth of the steps, then a cosine down to a tenth."""
    return min((step + 1) / max(1, steps // 20), 0.55 + 0.45 * math.cos(math.pi * step / steps))


def train(task: Task, contestant: Contestant, seed: int, scale: float) -> Outcome:
    """One run. The model computes in float32, whatever its parameters are kept in, and gradients have the parameters' dtype."""
    steps = max(LAST, round(task.steps * scale))
    model = task.model(seed).to(contestant.dtype)
    optimizer = contestant.make(list(model.parameters()), task.rates[contestant.group])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, steps))
    due = {round(steps * part / EVALUATIONS) for part in range(1, EVALUATIONS + 1)}

    def loss(batch: Batch) -> torch.Tensor:
        whole = {name: p.float() for name, p in model.named_parameters()}
        return loss_of(functional_call(model, whole, batch[0]), batch[1])

    held, curve = task.held(), []
    for step, batch in enumerate(task.batches(seed, steps), 1):
        optimizer.zero_grad()
        torch.autograd.backward(loss(batch))
        optimizer.step()
        scheduler.step()
        if step in due:
            with torch.no_grad():
                curve.append((step, loss(held).item()))
    return Outcome(tuple(curve), state_bytes(optimizer), kept_as_they_are(optimizer))


Job = tuple[Task, Contestant, int, float]
"""What `train` is given."""


def outcomes(jobs: Sequence[Job]) -> Iterator[Outcome]:
    """In the order of the jobs. Each runs on one thread, so that nothing depends on how many there are; as many run at once as
    PyTorch has threads."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield from starmap(train, jobs)
        return
    with ProcessPoolExecutor(threads, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield from pool.map(train, *zip(*jobs, strict=True))


def percent(loss: float, reference: float) -> float:
    """How far a loss is above the reference."""
    return 100 * (loss / reference - 1)


def verdict(contestant: Contestant, losses: Mapping[str, float], reference: float) -> tuple[str, bool | None]:
    """The target and whether it is met, by the losses of the group so far. A loss that is NaN meets none."""
    loss = losses[contestant.name]
    if contestant.within is not None:
        return f"≤ +{contestant.within:g} %", percent(loss, reference) <= contestant.within
    if contestant.below:
        return f"< {contestant.below}", loss < losses[contestant.below]
    return "", None


def row(task: str, contestant: Contestant, found: Mapping[str, Sequence[Outcome]]) -> Row:
    """That of a contestant; `found` has the runs of its group so far by name: its own last, the reference's first."""
    own, reference = found[contestant.name], next(iter(found.values()))
    losses = {name: fmean(outcome.loss for outcome in outcomes) for name, outcomes in found.items()}
    loss, bar = losses[contestant.name], fmean(outcome.loss for outcome in reference)
    target, met = verdict(contestant, losses, bar)
    numbers = {
        "loss": loss,
        "above_reference_percent": percent(loss, bar),
        "bytes_per_parameter": own[0].bytes_per_parameter,
        "kept_smaller": 1 - own[0].as_they_are / reference[0].as_they_are,
    }
    said = f"loss {loss:.4f}, {own[0].bytes_per_parameter:.2f} bytes"
    if own is not reference:
        apart = [percent(a.loss, b.loss) for a, b in zip(own, reference, strict=True)]
        said = f"{percent(loss, bar):+.2f} %  ({min(apart):+.2f} to {max(apart):+.2f}); {said}"
    if contestant.within is not None:
        said += f", {100 * numbers['kept_smaller']:.0f} % kept smaller"
    if contestant.below:
        numbers["above_other_percent"] = percent(loss, losses[contestant.below])
        said += f"; {numbers['above_other_percent']:+.2f} % against {contestant.below}"
    numbers |= {f"loss_seed_{seed}": outcome.loss for seed, outcome in enumerate(own)}
    for points in zip(*(outcome.curve for outcome in own), strict=True):
        numbers[f"loss_at_{points[0][0]}"] = fmean(value for _, value in points)
    return Row(f"{task}, {contestant.group}: {contestant.name}", target, said, met, numbers)


def chosen(only: Sequence[str]) -> list[Contestant]:
    """Those of the named specs with all that they are compared with; everyone without names."""
    wanted = [c for c in CONTESTANTS if not only or c.spec in only]
    first = {c.group: c.name for c in reversed(CONTESTANTS)}
    needed = {(c.group, name) for c in wanted for name in (c.name, c.below, first[c.group])}
    return [c for c in CONTESTANTS if (c.group, c.name) in needed]


def run(
    scale: float = 1.0,
    seeds: int = SEEDS,
    only: Sequence[str] = (),
    runner: Callable[[Sequence[Job]], Iterator[Outcome]] = outcomes,
) -> Iterator[Row]:
    """One row for every task and contestant. `scale` is that of the steps."""
    contestants = chosen(only)
    results = runner([(task, contestant, seed, scale) for task in TASKS for contestant in contestants for seed in range(seeds)])
    for task in TASKS:
        found: dict[str, dict[str, list[Outcome]]] = {}
        for contestant in contestants:
            group = found.setdefault(contestant.group, {})
            group[contestant.name] = list(islice(results, seeds))
            yield row(task.name, contestant, group)


def table(rows: Sequence[Row], seeds: int = SEEDS) -> Table:
    """The rows with what they mean."""
    rates = "; ".join(f"{group}: {', '.join(f'{task.rates[group]:g} ({task.name})' for task in TASKS)}" for group in GROUPS)
    note = NOTE.format(last=LAST, evaluations=EVALUATIONS, seeds=seeds, noise=NOISE, rates=rates)
    return Table(NAME, note, tuple(rows))
