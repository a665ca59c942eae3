"""Random lives: whatever happens between steps, each parameter fares as with an optimizer of its own, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from optc.generated import SGD, AdamW, NAdam
from optc.runtime import survey
from tests.runtime.training import assert_equal

SHAPES: tuple[tuple[int, ...], ...] = ((3,), (), (0,), (4, 5), (2, 3, 2, 2), (1, 7), (5, 1), (130,))
DTYPES = (torch.float32, torch.float32, torch.float64, torch.bfloat16)


class Life:
    """Parameters in groups, and a copy of each with an optimizer of its own."""

    def __init__(self, cls: Any, hypers: dict[str, Any], seed: int) -> None:
        self.chance = random.Random(seed)
        torch.manual_seed(seed)
        self.ours = [self._parameter() for _ in range(self.chance.randint(3, 9))]
        self.alone = [nn.Parameter(p.detach().clone()) for p in self.ours]
        half = len(self.ours) // 2
        self.optimizer = cls([{"params": self.ours[:half]}, {"params": self.ours[half:]}], **hypers)
        self.singles = [cls([q], **hypers) for q in self.alone]
        self.events: list[Callable[[int], None]] = [
            self.none, self.none, self.strided, self.move, self.exchange_memory, self.swap, self.replace_state, self.move_state,
            self.delete_state, self.reload, self.reorder, self.change_group, self.fill_count, self.move_away, self.move_away,
        ]  # fmt: skip

    def _parameter(self) -> nn.Parameter:
        shape = self.chance.choice(SHAPES)
        value = torch.randn(shape).to(self.chance.choice(DTYPES))
        return nn.Parameter(value.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else value)

    def step(self) -> None:
        for p, q in zip(self.ours, self.alone, strict=True):
            p.grad = torch.randn(p.shape).to(p.dtype)
            q.grad = p.grad.clone()
        for _ in range(self.chance.randint(0, 3)):
            self.chance.choice(self.events)(self.chance.randrange(len(self.ours)))
        self.optimizer.step()
        for single in self.singles:
            single.step()
        assert_equal(self.ours, self.alone)

    def _states(self, index: int) -> list[dict[str, Any]]:
        pair = (self.optimizer.state, self.ours[index]), (self.singles[index].state, self.alone[index])
        return [state[p] for state, p in pair if p in state]

    def none(self, index: int) -> None:
        self.ours[index].grad = self.alone[index].grad = None

    def strided(self, index: int) -> None:
        p = self.ours[index]
        if p.ndim and p.grad is not None:
            wide = torch.zeros(*p.shape[:-1], 2 * p.shape[-1], dtype=p.dtype)[..., ::2]
            p.grad = wide.copy_(p.grad)

    def move(self, index: int) -> None:
        self.ours[index].data = self.ours[index].data.clone()

    def move_away(self, index: int) -> None:
        self.none(index)
        self.move(index)

    def exchange_memory(self, index: int) -> None:
        p = self.ours[index]
        if p.ndim == 2:
            p.data = p.data.t().contiguous().t()

    def swap(self, index: int) -> None:
        p, gradient = self.ours[index], self.ours[index].grad
        p.grad = None
        torch.utils.swap_tensors(p, nn.Parameter(p.detach().clone()))  # type: ignore[no-untyped-call]
        p.grad = gradient

    def replace_state(self, index: int) -> None:
        for slot in self._states(index):
            for key, entry in slot.items():
                if entry.ndim:
                    slot[key] = torch.full_like(entry, 0.5)

    def move_state(self, index: int) -> None:
        for entry in self.optimizer.state[self.ours[index]].values():
            entry.data = entry.data.clone()

    def delete_state(self, index: int) -> None:
        self.optimizer.state.pop(self.ours[index], None)
        self.singles[index].state.clear()

    def reload(self, index: int) -> None:
        self.optimizer.load_state_dict(self.optimizer.state_dict())

    def reorder(self, index: int) -> None:
        self.chance.shuffle(self.optimizer.param_groups[index % 2]["params"])

    def change_group(self, index: int) -> None:
        groups = [group["params"] for group in self.optimizer.param_groups]
        source = next(params for params in groups if any(p is self.ours[index] for p in params))
        place = next(place for place, p in enumerate(source) if p is self.ours[index])
        self.chance.choice(groups).append(source.pop(place))

    def fill_count(self, index: int) -> None:
        """All that share it get it."""
        slot = self.optimizer.state.get(self.ours[index])
        if slot:
            for p, q, single in zip(self.ours, self.alone, self.singles, strict=True):
                if self.optimizer.state.get(p, {}).get("step") is slot["step"]:
                    single.state[q]["step"].fill_(7.0)
            slot["step"].fill_(7.0)


@pytest.mark.parametrize("looking", ["surveyed", "in Python"])
@pytest.mark.parametrize(
    ("cls", "hypers"),
    [(AdamW, {"amsgrad": True}), (NAdam, {}), (SGD, {"momentum": 0.9}), (AdamW, {"backend": "torch"})],
    ids=["AdamW", "NAdam", "SGD", "torch"],
)
def test_each_parameter_fares_as_if_alone(
    cls: Any, hypers: dict[str, Any], looking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if looking == "in Python":
        monkeypatch.setattr(survey, "_native", lambda: None)
    for seed in range(16):
        life = Life(cls, hypers, seed)
        for _ in range(25):
            life.step()
