"""A character-level transformer, trained on Python's own documentation with an optimizer that is written in 15 lines next door.

`optc build my_optimizer.opt -o <folder>` makes a module of the spec, which is imported like any other; AdamW runs beside it.

    python examples/char_transformer/train.py            # about 2 minutes on two cores
    python examples/char_transformer/train.py --quick    # a few seconds, to see that it works
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Settings:
    """Sizes: sequence length, batch, width, heads and layers of the transformer."""

    context: int = 64
    batch: int = 16
    width: int = 64
    heads: int = 4
    layers: int = 3


QUICK = Settings(context=16, batch=4, width=32, heads=2, layers=2)


class Corpus:
    """Text as numbers; the last twentieth is for validation."""

    def __init__(self, text: str) -> None:
        self.alphabet = "".join(sorted(set(text)))
        numbers = {c: i for i, c in enumerate(self.alphabet)}
        data = torch.tensor([numbers[c] for c in text])
        self.train, self.validation = data[: -len(data) // 20], data[-len(data) // 20 :]

    @staticmethod
    def documentation() -> Corpus:
        """The reference texts that `help("if")` shows, about 460,000 characters of ASCII."""
        return Corpus("\n".join(text for _, text in sorted(topics.items())).encode("ascii", "ignore").decode())

    def text(self, numbers: Tensor) -> str:
        """Back to characters."""
        return "".join(self.alphabet[i] for i in numbers.tolist())


def batch_of(data: Tensor, settings: Settings, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random pieces of text, and the same moved on by one character."""
    starts = torch.randint(len(data) - settings.context - 1, (settings.batch,), generator=generator)
    index = starts[:, None] + torch.arange(settings.context + 1)
    return data[index[:, :-1]], data[index[:, 1:]]


class Block(nn.Module):
    """Attention to what came before, then a perceptron; both with normalisation in front and a shortcut around."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        width = settings.width
        self.heads = settings.heads
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        split: Tensor = self.queries_keys_values(self.before_attention(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = split.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        result: Tensor = x + self.perceptron(self.before_perceptron(x))
        return result


class Transformer(nn.Module):
    """Predicts the next character at every place."""

    def __init__(self, alphabet: int, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.characters = nn.Embedding(alphabet, settings.width)
        self.places = nn.Embedding(settings.context, settings.width)
        self.blocks = nn.Sequential(*(Block(settings) for _ in range(settings.layers)))
        self.end = nn.Sequential(nn.LayerNorm(settings.width), nn.Linear(settings.width, alphabet))
        for table in (self.characters, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        places = self.places(torch.arange(x.shape[1]))
        result: Tensor = self.end(self.blocks(self.characters(x) + places))
        return result

    @torch.no_grad()
    def write(self, start: Tensor, length: int, temperature: float = 0.8) -> Tensor:
        """Goes on with a text, one character at a time."""
        generator = torch.Generator().manual_seed(3)
        text = start
        for _ in range(length):
            logits = self(text[None, -self.settings.context :])[0, -1] / temperature
            text = torch.cat([text, torch.multinomial(logits.softmax(0), 1, generator=generator)])
        return text


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy per character."""
    return functional.cross_entropy(model(x).flatten(0, 1), y.flatten())


def validate(model: Transformer, corpus: Corpus, batches: int = 20) -> float:
    """Loss on the same unseen pieces for everyone."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        losses = [loss_of(model, *batch_of(corpus.validation, model.settings, generator)).item() for _ in range(batches)]
    return sum(losses) / batches


def train(
    make: Callable[..., torch.optim.Optimizer], corpus: Corpus, settings: Settings, steps: int, label: str
) -> Transformer:
    """From the same weights, over the same pieces, with the same schedule: a warm-up, then a cosine down to a tenth."""
    torch.manual_seed(0)
    model = Transformer(len(corpus.alphabet), settings)
    optimizer = make(model.parameters(), lr=3e-3)
    warmup = max(1, steps // 20)

    def schedule(n: int) -> float:
        return min((n + 1) / warmup, 0.55 + 0.45 * math.cos(math.pi * n / steps))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    pieces = torch.Generator().manual_seed(1)
    losses = []
    start = time.perf_counter()
    with click.progressbar(range(steps), label=label if sys.stderr.isatty() else "", file=sys.stderr) as bar:
        for _ in bar:
            loss = loss_of(model, *batch_of(corpus.train, settings, pieces))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
    seconds = time.perf_counter() - start
    last = losses[-50:]
    click.echo(f"{label:12s} loss {sum(last) / len(last):.3f}, on unseen text {validate(model, corpus):.3f}, {seconds:.0f} s")
    return model


def build(folder: Path) -> Any:
    """The class made of the spec beside this file. Stops the example where the spec is wrong."""
    spec = HERE / "my_optimizer.opt"
    click.echo(f"$ optc build {spec.name} -o {folder}")
    if subprocess.run([sys.executable, "-m", "optc", "build", str(spec), "-o", str(folder)], check=False).returncode != 0:
        raise click.ClickException("the spec could not be built; the reason is above")
    sys.path.insert(0, str(folder.parent.resolve()))
    return import_module(f"{folder.name}.my_optimizer").MyOptimizer


@click.command()
@click.option("--steps", type=click.IntRange(1), help="Steps of each run.  [default: 1500]")
@click.option("--quick", is_flag=True, help="A tiny model and 20 steps.")
@click.option("--length", type=click.IntRange(1), default=400, show_default=True, help="Characters to write at the end.")
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path), default=Path("out/my_package"), show_default=True)
def main(steps: int | None, quick: bool, length: int, folder: Path) -> None:
    """Train a small transformer with an optimizer of your own, and with AdamW."""
    from optc.generated import AdamW

    mine = build(folder)
    corpus = Corpus.documentation()
    settings = QUICK if quick else Settings()
    steps = steps or (20 if quick else 1500)
    size = sum(p.numel() for p in Transformer(len(corpus.alphabet), settings).parameters())
    click.echo(f"{len(corpus.train):,} characters, {size:,} parameters, {steps} steps\n")
    train(AdamW, corpus, settings, steps, "AdamW")
    model = train(mine, corpus, settings, steps, "MyOptimizer")
    start = corpus.validation[: settings.context]
    click.echo(f"\nWhat it writes:\n\n{corpus.text(model.write(start, length)[settings.context :])}")


if __name__ == "__main__":
    main()
