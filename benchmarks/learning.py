"""Two small things to learn from real data that is there offline: scikit-learn's digits, for a transformer and for a CNN.

Both have losses that stay away from zero, so that a percent of them is more than noise: the transformer predicts the next pixel
of a digit, the CNN names digits under so much noise that some cannot be told apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.workloads import installed_module

Batch = tuple[Tensor, Tensor]
GRAYS = 17
"""Values of a pixel: 0 to 16."""
CLASSES = 10
NOISE = 0.5
"""Standard deviation of what is added to images whose pixels are in [0, 1]."""
WIDTH, HEADS, LAYERS = 64, 4, 2


@dataclass(frozen=True, slots=True)
class Digits:
    """Images of 8 x 8 pixels from 0 to 16 as rows of 64, and their classes; every fifth one is for validation."""

    train: Batch
    validation: Batch

    @staticmethod
    @cache
    def load() -> Digits:
        """The 1,797 digits that ship with scikit-learn."""
        from sklearn.datasets import load_digits

        found = load_digits()
        images, classes = torch.tensor(found.data).round().long(), torch.tensor(found.target).long()
        held = torch.arange(len(images)) % 5 == 0
        return Digits((images[~held], classes[~held]), (images[held], classes[held]))


def available() -> bool:
    """Whether the data is here."""
    return installed_module("sklearn")


class Block(nn.Module):
    """Attention to what came before, then a perceptron; both with normalisation in front and a shortcut around."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_perceptron = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.queries_keys_values, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.perceptron = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        split: Tensor = self.queries_keys_values(self.before_attention(x)).unflatten(-1, (3, HEADS, -1))
        q, k, v = split.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        result: Tensor = x + self.perceptron(self.before_perceptron(x))
        return result


class Transformer(nn.Module):
    """Predicts the next pixel at every place of an image that is read row by row, after its class."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(GRAYS + CLASSES, WIDTH), nn.Embedding(64, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.end = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, GRAYS))
        for table in (self.tokens, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.end(self.blocks(self.tokens(tokens) + self.places.weight))
        return result


def convolutional() -> nn.Module:
    """Two convolutions and a perceptron: names digits."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, CLASSES),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Task(ABC):
    """What is learnt: `steps` at full scale with batches of `batch` images. `rates`: the largest step size of each group."""

    name: str
    steps: int
    batch: int
    rates: Mapping[str, float]
    copies: ClassVar[int] = 1
    """How often an image is shown in a validation."""

    @abstractmethod
    def build(self) -> nn.Module:
        """A new model, from the global generator."""

    @abstractmethod
    def shown(self, images: Tensor, classes: Tensor, generator: torch.Generator) -> Batch:
        """What the model is given, and what it should say."""

    def model(self, seed: int) -> nn.Module:
        """The same initial values for the same seed, without a trace in the global generator."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build()

    def batches(self, seed: int, steps: int) -> Iterator[Batch]:
        """The same for the same seed: all images in a new order, again and again."""
        generator = torch.Generator().manual_seed(1000 + seed)
        images, classes = Digits.load().train
        order = torch.empty(0, dtype=torch.long)
        for _ in range(steps):
            if len(order) < self.batch:
                order = torch.cat([order, torch.randperm(len(images), generator=generator)])
            chosen, order = order[: self.batch], order[self.batch :]
            yield self.shown(images[chosen], classes[chosen], generator)

    def held(self) -> Batch:
        """All that is for validation, the same for every seed."""
        images, classes = Digits.load().validation
        generator = torch.Generator().manual_seed(2)
        return self.shown(images.repeat(self.copies, 1), classes.repeat(self.copies), generator)


@dataclass(frozen=True, slots=True)
class NextPixels(Task):
    """The transformer's: an image read row by row, after its class."""

    def build(self) -> nn.Module:
        return Transformer()

    def shown(self, images: Tensor, classes: Tensor, generator: torch.Generator) -> Batch:
        return torch.cat([classes[:, None] + GRAYS, images[:, :-1]], 1), images


@dataclass(frozen=True, slots=True)
class NoisyDigits(Task):
    """The CNN's: names digits that it never sees twice with the same noise, but for those of the validation."""

    copies: ClassVar[int] = 4

    def build(self) -> nn.Module:
        return convolutional()

    def shown(self, images: Tensor, classes: Tensor, generator: torch.Generator) -> Batch:
        clean = images.view(-1, 1, 8, 8) / (GRAYS - 1)
        return clean + NOISE * torch.randn(clean.shape, generator=generator), classes


def loss_of(said: Tensor, right: Tensor) -> Tensor:
    """Mean cross-entropy, per pixel or per image."""
    return functional.cross_entropy(said.flatten(0, -2), right.flatten())
