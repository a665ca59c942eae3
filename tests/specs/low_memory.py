"""Optimizers that keep codes, ours beside those of torchao and bitsandbytes, on equal gradients; and what they keep."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import optc
from optc.dsl import nodes
from optc.dsl.program import Storage
from optc.dsl.storages import SHIPPED, resolve
from optc.runtime.codebook import Codebook
from optc.runtime.optimizer import Optimizer
from tests.matrix.runners import optimizer_class
from tests.runtime.storing import through_a_file

Codes: TypeAlias = NDArray[np.int64]
InMemory: TypeAlias = Mapping[str, tuple[Tensor, Tensor]]
"""By the keys of states: the bytes of codes, flat, and the scales of blocks."""
Exported: TypeAlias = Callable[[Mapping[str, Any]], InMemory]
"""What an optimizer of another library keeps as codes for a parameter, of what it keeps."""

STEPS = 13
FLIPS = 5e-5
"""The share of codes that may differ: numbers that differ by 3e-7 lie on two sides of a threshold where it is that near; levels
are 1/14 of a number apart at most, and on average more than 1/100."""


@contextmanager
def quietly() -> Iterator[None]:
    """Where libraries are imported that log which of their extensions they lack, and use what is deprecated."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def one_thread() -> Iterator[None]:
    """Small tensors are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def storage_of(name: str) -> Storage:
    """A shipped storage."""
    found = resolve(nodes.Kept("x", name), ())
    assert isinstance(found, Storage), found
    return found


@cache
def book_of(name: str) -> Codebook:
    """What the codes of a shipped storage mean."""
    s = storage_of(name)
    assert s.ties in ("up", "down", "even")
    return Codebook(s.name, s.levels, s.block, s.ties, s.unit, s.least, s.smallest)  # type: ignore[arg-type]


def books_of(optimizer: Optimizer) -> dict[str, Codebook]:
    """What the codes of an optimizer mean, by the keys of its states."""
    return {s.key: s.storage for s in optimizer.schema.states if isinstance(s.storage, Codebook)}


def codes_in(memory: Tensor, book: Codebook) -> Codes:
    """Codes one by one; of two in a byte the first is in the high half."""
    flat = memory.reshape(-1).numpy()
    return (flat if book.bits == 8 else np.stack((flat >> 4, flat & 15), axis=-1).reshape(-1)).astype(np.int64)


@cache
def ranks(levels: tuple[float, ...]) -> Codes:
    """Where the level of each code stands among all levels; 0 and -0 at the same place."""
    values = np.array(levels, dtype=np.float32)
    return np.searchsorted(np.unique(values[~np.isnan(values)]), values)


@dataclass(slots=True)
class Difference:
    """How far two runs are apart.

    `theta`: the largest difference of parameters, as a share of 1 + |θ|, and `exempt` that of those without codes; `off` of
    `numbers` differ by more than 1e-6. `scale`: the same of scales, as a share of them. `flips` of `codes` differ, by `levels`
    at most.
    """

    theta: float = 0.0
    exempt: float = 0.0
    off: int = 0
    numbers: int = 0
    scale: float = 0.0
    flips: int = 0
    codes: int = 0
    levels: int = 0

    def see_parameter(self, ours: Tensor, theirs: Tensor, coded: bool) -> None:
        """Takes account of a parameter after a step."""
        apart = (ours - theirs).detach().abs() / (1 + theirs.detach().abs())
        worst = float(apart.max())
        self.theta, self.exempt = max(self.theta, worst), max(self.exempt, 0.0 if coded else worst)
        self.off, self.numbers = self.off + int((apart > 1e-6).sum()), self.numbers + ours.numel()

    def see_memory(self, ours: InMemory, theirs: InMemory, books: Mapping[str, Codebook]) -> None:
        """Takes account of codes. Blocks whose scale is 0 on both sides are zeros, whatever their codes."""
        assert set(ours) == set(theirs) <= set(books)
        for key, (codes, scales) in ours.items():
            book, (other_codes, other_scales) = books[key], theirs[key]
            assert codes.shape == other_codes.shape and scales.shape == other_scales.shape
            rank = ranks(book.levels)
            found, expected = rank[codes_in(codes, book)], rank[codes_in(other_codes, book)]
            zeros = ((scales == 0) & (other_scales == 0)).numpy().repeat(book.block)[: len(found)]
            apart = np.where(zeros, 0, np.abs(found - expected))
            self.codes, self.flips = self.codes + len(apart), self.flips + int((apart > 0).sum())
            self.levels = max(self.levels, int(apart.max()))
            self.scale = max(self.scale, float(((scales - other_scales).abs() / other_scales.clamp(min=1e-30)).max()))


def in_memory(optimizer: Optimizer, p: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What one of our optimizers keeps as codes for a parameter."""
    slot = optimizer.state[p]
    return {key: (entry.view(-1), slot[f"{key}_scale"]) for key, entry in slot.items() if f"{key}_scale" in slot}


def side_by_side(
    ours: Optimizer,
    theirs: torch.optim.Optimizer,
    exported: Exported,
    steps: int,
    imports: bool,
    zeros: bool = True,
) -> Difference:
    """Both on equal gradients; with `zeros` they are 0 over whole blocks in every second step. lr is halved in the middle.

    With `imports` ours starts each step from the codes of theirs. Raises AssertionError where not the same states of the same
    parameters are codes.
    """
    generator, seen = torch.Generator().manual_seed(2), Difference()
    for step in range(steps):
        for p, q in pairs(ours, theirs):
            p.grad = torch.randn(p.shape, generator=generator) * 0.1
            if zeros and step % 2 == 0 and p.ndim:
                p.grad[: p.shape[0] // 4] = 0
            q.grad = p.grad.clone()
        ours.step()
        theirs.step()
        for p, q in pairs(ours, theirs):
            mine, other = in_memory(ours, p), exported(theirs.state[q])
            seen.see_parameter(p, q, bool(other))
            seen.see_memory(mine, other, books_of(ours))
            for key in mine if imports else ():
                for kept, given in zip(mine[key], other[key], strict=True):
                    kept.copy_(given)
        if step == steps // 2:
            for optimizer in (ours, theirs):
                optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"] * 0.5
    return seen


def pairs(ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    """Parameters of both."""
    for group, other in zip(ours.param_groups, theirs.param_groups, strict=True):
        yield from zip(group["params"], other["params"], strict=True)


def starts(shapes: Sequence[tuple[int, ...]]) -> list[list[nn.Parameter]]:
    """The same parameters twice."""
    generator = torch.Generator().manual_seed(1)
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    return [[nn.Parameter(x.clone()) for x in values] for _ in range(2)]


def assert_as_one(seen: Difference) -> None:
    """Each step from the same codes."""
    assert seen.theta <= 1e-6 and seen.off == 0 and seen.exempt <= 1e-6, seen
    assert seen.scale <= 5e-7 and seen.levels <= 1 and seen.flips <= FLIPS * seen.codes, seen


def assert_near(seen: Difference, lr: float) -> None:
    """Both run free: a code that differs moves its parameter by a share of lr in every step from then on."""
    assert seen.theta <= lr and seen.off <= 4 * FLIPS * STEPS * seen.numbers and seen.exempt <= 1e-6, seen
    assert seen.scale <= 2e-6 and seen.flips <= FLIPS * STEPS / 2 * seen.codes, seen


def of_torchao(state: Mapping[str, Any]) -> InMemory:
    """What a parameter has as codes."""
    kept = {key: value for key, value in state.items() if hasattr(value, "codes")}
    return {key: (value.codes.view(torch.uint8).reshape(-1), value.scale) for key, value in kept.items()}


def loaded(optimizer: Any, saved: Mapping[str, Any]) -> None:
    """Loads it from a file, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.load_state_dict(through_a_file(dict(saved)))


def assert_same_codes(
    ours: Optimizer, theirs: torch.optim.Optimizer, exported: Callable[[Mapping[str, Any]], InMemory]
) -> None:
    """Bit for bit, and of the same parameters."""
    for p, q in pairs(ours, theirs):
        mine, other = in_memory(ours, p), exported(theirs.state[q])
        assert mine.keys() == other.keys()
        for key, memory in mine.items():
            assert all(torch.equal(a, b) for a, b in zip(memory, other[key], strict=True)), key


# --- optimizers of both sides -------------------------------------------------------------------------------------------------

OF_ADAM = {"lr": 1e-3, "weight_decay": 0.01, "eps": 1e-4}
"""Where the penalty nearly cancels a gradient the difference is all rounding; a larger eps keeps that small."""
OF_ADAMW = {"lr": 1e-3, "weight_decay": 0.1}


def ours_like(name: str) -> type[Any]:
    """Our class of that name; Adam with fp8 is not shipped."""
    if name == "AdamFp8":
        made: type[Any] = optc.compile("adam", storing={"m": "e4m3", "v": "e4m3"})
        return made
    head, tail = (name[:-3], "fp8") if name.endswith("Fp8") else (name[:-4], name[-4:])
    return optimizer_class(f"low_memory/{head.lower()}_{tail}")


@dataclass(frozen=True, slots=True)
class Theirs:
    """An optimizer of bitsandbytes, and the same of ours: which state is kept as what, and where the library has it."""

    name: str
    base: str
    kept: Mapping[str, str]
    places: Mapping[str, tuple[int, ...]]
    hypers: Mapping[str, Any]

    def ours(self) -> type[Any]:
        """The base with storages that take the lower of two levels, whatever the state, and have no least scale."""
        clauses = ", ".join(f"{state}: own_{name}" for state, name in self.kept.items())
        own = (SHIPPED / f"{name}.opt" for name in sorted(set(self.kept.values())))
        texts = [path.read_text(encoding="utf-8").replace("storage ", "storage own_") for path in own]
        text = "".join([f"optimizer Like = {self.base} storing {clauses}\n", *texts])
        made: type[Any] = optc.compile(text.replace('"up"', '"down"').replace("    least = 1e-12\n", ""))
        return made

    def exported(self, state: Mapping[str, Any]) -> InMemory:
        """What a parameter has as codes."""
        found = {}
        for key, (number, *row) in self.places.items():
            codes, scales = state.get(f"state{number}"), state.get(f"absmax{number}")
            if codes is not None and scales is not None:
                found[key] = (codes[row[0]] if row else codes).reshape(-1), scales[row[0]] if row else scales
        return found


S, U = "dynamic8", "udynamic8"
OF_BITSANDBYTES = (
    Theirs("AdamW8bit", "AdamW", {"m": S, "v": U}, {"exp_avg": (1,), "exp_avg_sq": (2,)}, OF_ADAMW),
    Theirs("Adam8bit", "AdamW", {"m": S, "v": U}, {"exp_avg": (1,), "exp_avg_sq": (2,)}, OF_ADAMW),
    Theirs("Lion8bit", "Lion", {"m": S}, {"exp_avg": (1,)}, {"lr": 1e-3, "weight_decay": 0.1}),
    Theirs("SGD8bit", "SGD", {"b": S}, {"momentum_buffer": (1,)}, {"lr": 1e-2, "momentum": 0.9, "weight_decay": 0.01}),
    Theirs("RMSprop8bit", "RMSprop", {"v": S}, {"square_avg": (1,)}, {"lr": 1e-3, "alpha": 0.99, "weight_decay": 0.01}),
    Theirs("Adagrad8bit", "Adagrad", {"G": S}, {"sum": (1,)}, {"lr": 1e-2, "weight_decay": 0.01}),
    Theirs(
        "AdEMAMix8bit",
        "AdEMAMix",
        {"m": S, "m_slow": S, "v": U},
        {"exp_avg": (1, 0), "exp_avg_slow": (1, 1), "exp_avg_sq": (2,)},
        OF_ADAMW,
    ),
)
