"""Models in checkpoints on disk: layers and buffers that only one side has, and those of other shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import optc
from optc.dist import load, save
from tests.runtime.test_saving import state_of, train


class Net(nn.Module):
    """Two layers; by wish a third one, a frozen one, and a buffer."""

    def __init__(self, *, third: bool = False, frozen: int = 0, stats: int = 0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
        if third:
            self.third = nn.Linear(2, 2)
        if frozen:
            self.frozen = nn.Linear(2, frozen).requires_grad_(False)
        if stats:
            self.register_buffer("stats", torch.full((stats,), float(seed)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(torch.tanh(self.first(x)))
        return found


def made(**more: Any) -> tuple[Net, Any]:
    net = Net(**more)
    optimizer = optc.create("AdamW", net)
    train(net, optimizer, range(2))
    return net, optimizer


def numbers(net: nn.Module) -> dict[str, Any]:
    return {key: x.tolist() for key, x in net.state_dict().items()}


def refused(path: Path, net: nn.Module, optimizer: Any, **options: Any) -> list[str]:
    """The lines of what a load raises, which has changed nothing."""
    before = numbers(net), state_of(optimizer)
    with pytest.raises(ValueError) as raised:
        load(path, optimizer, net, **options)
    assert (numbers(net), state_of(optimizer)) == before
    head, *lines = str(raised.value).splitlines()
    assert head == f"{path / 'save-000001'} does not fit this AdamW, nothing was loaded:"
    return [line.strip() for line in lines]


def test_what_only_the_model_has_is_left_alone_and_told(tmp_path: Path) -> None:
    net, optimizer = made()
    save(tmp_path, optimizer, net)
    larger, other = made(third=True, stats=3, seed=5)
    assert refused(tmp_path, larger, other) == [
        "'third.weight' is not in the checkpoint",
        "'third.bias' is not in the checkpoint",
        "the model's 'stats' is not in the checkpoint",
        "the model's 'third.weight' is not in the checkpoint",
        "the model's 'third.bias' is not in the checkpoint",
    ]
    own = {key: x for key, x in numbers(larger).items() if key.startswith(("third", "stats"))}
    with pytest.warns(
        UserWarning, match=r"3 tensors of the model are not in the checkpoint \('stats', .*the others were loaded"
    ):
        report = load(tmp_path, other, larger, strict=False)
    assert report.missing == ("third.weight", "third.bias") and report.unexpected == report.model_unexpected == ()
    assert report.model_missing == ("stats", "third.weight", "third.bias")
    assert numbers(larger) == numbers(net) | own
    assert torch.equal(other.state[larger.first.weight]["exp_avg"], optimizer.state[net.first.weight]["exp_avg"])


def test_what_only_the_checkpoint_has_of_a_model_is_told(tmp_path: Path) -> None:
    net, optimizer = made(frozen=2, stats=3)
    save(tmp_path, optimizer, net)
    smaller, other = made(seed=5)
    assert refused(tmp_path, smaller, other) == [
        "the model's 'frozen.bias' is only in the checkpoint",
        "the model's 'frozen.weight' is only in the checkpoint",
        "the model's 'stats' is only in the checkpoint",
    ]
    with pytest.warns(UserWarning, match=r"0 tensors of the model are not .*\(none\), 3 are only there \('frozen.bias', "):
        report = load(tmp_path, other, smaller, strict=False)
    assert report.missing == report.unexpected == report.model_missing == ()
    assert report.model_unexpected == ("frozen.bias", "frozen.weight", "stats")
    assert numbers(smaller) == {key: x for key, x in numbers(net).items() if key in smaller.state_dict()}


@pytest.mark.parametrize("strict", [True, False])
def test_all_tensors_of_other_shapes_are_told(tmp_path: Path, strict: bool) -> None:
    net, optimizer = made(frozen=2, stats=3)
    save(tmp_path, optimizer, net)
    other = made(frozen=3, stats=4, seed=5)
    assert refused(tmp_path, *other, strict=strict) == [
        "the model's 'stats' has shape (3,) there and (4,) here",
        "the model's 'frozen.weight' has shape (2, 2) there and (3, 2) here",
        "the model's 'frozen.bias' has shape (2,) there and (3,) here",
    ]


@pytest.mark.parametrize("wrapped", ["there", "here"])
def test_a_wrapped_model_is_matched_without_its_wrapper(tmp_path: Path, wrapped: str) -> None:
    """What is told of it has plain names, too."""

    def around(net: nn.Module, side: str) -> nn.Module:
        return torch.compile(net, backend="eager") if side == wrapped else net  # type: ignore[return-value]

    net, optimizer = made(frozen=2, stats=3)
    save(tmp_path, optimizer, around(net, "there"))
    other_net, other = made(stats=3, third=True, seed=5)
    with pytest.warns(UserWarning):
        report = load(tmp_path, other, around(other_net, "here"), strict=False)
    assert report.model_missing == ("third.weight", "third.bias")
    assert report.model_unexpected == ("frozen.bias", "frozen.weight")
    assert torch.equal(other_net.get_buffer("stats"), net.get_buffer("stats")) and torch.equal(
        other_net.first.weight, net.first.weight
    )


def test_a_model_that_was_not_saved(tmp_path: Path) -> None:
    net, optimizer = made()
    save(tmp_path, optimizer)
    with pytest.raises(ValueError, match="save-000001 has no model: load the optimizer alone"):
        load(tmp_path, optimizer, net, strict=False)


def test_another_dtype_is_converted(tmp_path: Path) -> None:
    net, optimizer = made()
    save(tmp_path, optimizer, net)
    half = Net(seed=5).bfloat16()
    load(tmp_path, optc.create("AdamW", half), half)
    assert half.first.weight.dtype == torch.bfloat16 and torch.equal(half.first.weight, net.first.weight.bfloat16())
