"""Handwritten digits, trained with generated optimizers and with torch.optim, side by side: same seeds, same batches.

Builds the specs it needs into out/optimizers (as `optc build adamw lion ... -o out/optimizers` does), trains a small network
with every optimizer, prints a table and draws out/digits.png. Half a minute on two cores:

    python examples/digits.py              # a perceptron; --model conv for a small convolutional network
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn import functional

OUT = Path("out")
BATCH = 64
SPECS = ("adamw", "sgd", "nadam", "lion", "adopt", "ademamix", "adan")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the table: a spec's class, or one of torch's; `twin` names the torch entry that should take the same path."""

    label: str
    make: Callable[[Any], torch.optim.Optimizer]
    twin: str | None = None


@dataclass(slots=True)
class Outcome:
    """What one training run left behind. `apart`: how far the twin ended up when given the same gradients, in every step."""

    losses: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    apart: list[float] = field(default_factory=list)
    accuracy: float = 0.0
    state_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Digits:
    """8 x 8 images in [0, 1] and their classes, split once."""

    train_images: Tensor
    train_classes: Tensor
    test_images: Tensor
    test_classes: Tensor

    @staticmethod
    def load() -> Digits:
        """The 1,797 digits that ship with scikit-learn; every fifth one is for testing."""
        from sklearn.datasets import load_digits

        found = load_digits()
        images = torch.tensor(found.images, dtype=torch.float32).div_(16).unsqueeze_(1)
        classes = torch.tensor(found.target)
        test = torch.arange(len(images)) % 5 == 0
        return Digits(images[~test], classes[~test], images[test], classes[test])


def build(folder: Path) -> None:
    """Compile the specs, with the command that a user would type. Stops the example where it fails."""
    command = ["build", *SPECS, "-o", str(folder), "--force"]
    click.secho(f"$ optc {' '.join(command)}", bold=True)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "optc", *command], check=False)
    if done.returncode != 0:
        raise click.ClickException("the specs could not be built; the reason is above")
    click.echo(f"{len(SPECS)} optimizers in {time.perf_counter() - start:.1f} s\n")


def entries(folder: Path) -> list[Entry]:
    """The generated classes, imported from where they were built, and torch's."""
    sys.path.insert(0, str(folder.parent.resolve()))

    def generated(module: str, name: str, **hypers: object) -> Callable[[Any], torch.optim.Optimizer]:
        made = getattr(import_module(f"{folder.name}.{module}"), name)
        return lambda parameters: made(parameters, **hypers)

    return [
        Entry("torch AdamW", lambda p: torch.optim.AdamW(p, lr=3e-3)),
        Entry("torch AdamW fused", lambda p: torch.optim.AdamW(p, lr=3e-3, fused=True), twin="torch AdamW"),
        Entry("optc AdamW", generated("adamw", "AdamW", lr=3e-3), twin="torch AdamW"),
        Entry("torch SGD", lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
        Entry("optc SGD", generated("sgd", "SGD", lr=0.05, momentum=0.9), twin="torch SGD"),
        Entry("torch NAdam", lambda p: torch.optim.NAdam(p, lr=3e-3)),
        Entry("optc NAdam", generated("nadam", "NAdam", lr=3e-3), twin="torch NAdam"),
        Entry("optc Lion", generated("lion", "Lion", lr=5e-4)),
        Entry("optc ADOPT", generated("adopt", "ADOPT", lr=3e-3)),
        Entry("optc AdEMAMix", generated("ademamix", "AdEMAMix", lr=1e-3, beta3_warmup=500, alpha_warmup=500)),
        Entry("optc Adan", generated("adan", "Adan", lr=5e-3)),
    ]


def network(kind: str) -> nn.Module:
    """The same initial values in every call."""
    torch.manual_seed(0)
    if kind == "conv":
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


class Shadow:
    """The twin of an optimizer: it gets every gradient that the other one gets, and keeps parameters of its own.

    Two training runs drift apart by themselves, since rounding errors feed back through the gradients; this does not.
    """

    def __init__(self, model: nn.Module, make: Callable[[Any], torch.optim.Optimizer]) -> None:
        self.followed = list(model.parameters())
        self.parameters = [nn.Parameter(p.detach().clone()) for p in self.followed]
        self.optimizer = make(self.parameters)

    def step(self) -> float:
        """Follow one step; the largest difference of a parameter."""
        for own, other in zip(self.parameters, self.followed, strict=True):
            own.grad = None if other.grad is None else other.grad.clone()
        self.optimizer.step()
        pairs = zip(self.parameters, self.followed, strict=True)
        return max(float((own.detach() - other.detach()).abs().max()) for own, other in pairs)


def train(entry: Entry, twin: Entry | None, data: Digits, kind: str, epochs: int, tick: Callable[[], None]) -> Outcome:
    """One run. Batches come from a generator of its own, so that all runs see the same ones."""
    model = network(kind)
    optimizer = entry.make(model.parameters())
    shadow = Shadow(model, twin.make) if twin else None
    shuffle = torch.Generator().manual_seed(1)
    outcome = Outcome()
    for _ in range(epochs):
        order = torch.randperm(len(data.train_images), generator=shuffle)
        for batch in torch.split(order, BATCH):
            loss = functional.cross_entropy(model(data.train_images[batch]), data.train_classes[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            start = time.perf_counter()
            optimizer.step()
            outcome.step_seconds.append(time.perf_counter() - start)
            outcome.losses.append(loss.item())
            if shadow:
                outcome.apart.append(shadow.step())
        tick()
    with torch.no_grad():
        outcome.accuracy = (model(data.test_images).argmax(1) == data.test_classes).float().mean().item()
    tensors = [x for slots in optimizer.state.values() for x in slots.values() if isinstance(x, Tensor) and x.numel() > 1]
    outcome.state_bytes = sum(x.nbytes for x in tensors)
    return outcome


def smooth(losses: Sequence[float], width: int = 23) -> list[float]:
    """Entry i is the mean of the last `width` losses up to i; there are 23 batches in an epoch."""
    return [sum(losses[max(0, i + 1 - width) : i + 1]) / min(i + 1, width) for i in range(len(losses))]


def show(found: dict[str, Outcome]) -> None:
    """The table."""
    from optc.cli.output import table

    header = ("optimizer", "test accuracy", "final loss", "step, median", "state", "apart from torch's")
    rows = []
    for label, outcome in found.items():
        micro = f"{1e6 * median(outcome.step_seconds):.0f} µs"
        state = f"{outcome.state_bytes / 1024:.0f} KiB"
        distance = f"{max(outcome.apart):.0e}" if outcome.apart else ""
        rows.append((label, f"{100 * outcome.accuracy:.1f} %", f"{smooth(outcome.losses)[-1]:.5f}", micro, state, distance))
    click.echo(table(header, rows, right=range(1, 6)))
    click.echo("\napart from torch's: the largest difference of a parameter in any step when torch's gets the same gradients")


def draw(found: dict[str, Outcome], path: Path, title: str) -> None:
    """Loss curves on a logarithmic scale, and how long a step takes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    palette = iter(("#1f6feb", "#d1242f", "#1a7f37", "#8250df", "#bf8700", "#bc4c99", "#0f766e"))
    colors = {label: next(palette) for label in found if label.startswith("optc")}
    shade = {label: colors.get(label.replace("torch", "optc").removesuffix(" fused"), "#57606a") for label in found}
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), width_ratios=(3, 2), layout="constrained")
    for label, outcome in found.items():
        own = label in colors
        if label.endswith("fused"):
            continue
        width, alpha = (1.8, 1.0) if own else (5.0, 0.25)
        steps = range(1, len(outcome.losses) + 1)
        left.plot(steps, smooth(outcome.losses), color=shade[label], label=label, linewidth=width, alpha=alpha, zorder=1 + own)
    left.set_yscale("log")
    left.set_xlabel("step")
    left.set_ylabel("training loss, mean over one epoch")
    left.set_title(title, loc="left", fontweight="bold")
    left.legend(frameon=False, fontsize=9, ncols=2, loc="lower left")
    left.grid(which="major", color="#e6e8eb")
    names = list(found)[::-1]
    times = [1e6 * median(found[name].step_seconds) for name in names]
    bars = right.barh(names, times, color=[shade[name] for name in names], height=0.7)
    for bar, name in zip(bars, names, strict=True):
        bar.set_alpha(1.0 if name in colors else 0.35)
    right.bar_label(bars, [f"{t:.0f} µs" for t in times], padding=4, fontsize=9)
    right.set_xlim(0, 1.15 * max(times))
    right.set_title("one optimizer step, median", loc="left", fontweight="bold")
    right.tick_params(axis="y", length=0)
    right.set_xticks([])
    for axes, sides in ((left, ("top", "right")), (right, ("top", "right", "bottom"))):
        axes.spines[list(sides)].set_visible(False)
        axes.set_axisbelow(True)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


@click.command()
@click.option("--model", "kind", type=click.Choice(["mlp", "conv"]), default="mlp", show_default=True)
@click.option("--epochs", type=click.IntRange(1), default=15, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="These networks are too small for many.")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), default=OUT, show_default=True)
def main(kind: str, epochs: int, threads: int, out: Path) -> None:
    """Train on handwritten digits with generated optimizers, next to torch.optim."""
    build(out / "optimizers")
    torch.set_num_threads(threads)
    data = Digits.load()
    listed = entries(out / "optimizers")
    size = sum(p.numel() for p in network(kind).parameters())
    click.echo(f"{len(data.train_images)} digits, {size:,} parameters, {epochs} epochs, threads: {threads}")
    found: dict[str, Outcome] = {}
    by_label = {entry.label: entry for entry in listed}
    label = "training" if sys.stderr.isatty() else ""
    with click.progressbar(length=len(listed) * epochs, label=label, file=sys.stderr) as bar:
        for entry in listed:
            twin = by_label[entry.twin] if entry.twin else None
            found[entry.label] = train(entry, twin, data, kind, epochs, lambda: bar.update(1))
    click.echo()
    show(found)
    picture = out / "digits.png"
    draw(found, picture, f"handwritten digits, {'convolutional network' if kind == 'conv' else 'perceptron'}")
    click.echo(f"\nloss curves and step times: {picture}\nthe generated code:         {out / 'optimizers' / 'adamw.py'}")


if __name__ == "__main__":
    main()
