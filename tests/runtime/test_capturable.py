"""Counting on the device, with Triton's interpreter: the same numbers as counting on the host, and nothing read back."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optc.generated import AdamW
from tests.runtime.training import give_gradients, parameters, train, twins

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="runs in Triton's interpreter")

SHAPES = ((4, 3), (5,), (), (2, 3))


def assert_near(one: list[nn.Parameter], other: list[nn.Parameter]) -> None:
    """Two backends' float32 after a few steps."""
    torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-7)


def pair(**options: Any) -> tuple[list[nn.Parameter], AdamW, list[nn.Parameter], AdamW]:
    params = parameters(SHAPES)
    others = twins(params)
    device = AdamW(params, backend="triton", capturable=True, **copy.deepcopy(options))
    return params, device, others, AdamW(others, backend="torch", **options)


def test_counts_are_views_of_one_buffer() -> None:
    params, device, others, host = pair(lr=0.1)
    train(range(3), (device, params), (host, others))
    assert_near(params, others)
    counts = [device.state[p]["step"] for p in params]
    assert all(c == 3 and c.shape == () and c.dtype == torch.float32 for c in counts)
    assert [c.data_ptr() - counts[0].data_ptr() for c in counts] == [0, 4, 8, 12]
    saved = device.state_dict()["state"][1]["step"]
    assert saved == 3 and saved.untyped_storage().nbytes() == 4


def test_nothing_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    params, device, _, _ = pair()
    train(range(2), (device, params))
    give_gradients(2, params)

    def forbidden(*_: Any) -> Any:
        raise AssertionError("the host waited for the device")

    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "__float__", "__bool__"):
            patch.setattr(Tensor, name, forbidden)
        device.step()
    assert device.state[params[0]]["step"] == 3


def test_changed_and_missing_parameters_keep_their_own_counts() -> None:
    params, device, others, host = pair(lr=0.1)
    for seed, missing in enumerate(([3], [3], [], [0], [])):
        give_gradients(seed, params, others)
        for index in missing:
            params[index].grad = others[index].grad = None
        device.step()
        host.step()
    assert_near(params, others)
    assert [device.state[p]["step"].item() for p in params] == [4, 5, 5, 3]


def test_live_hypers_and_tensor_lr() -> None:
    lr = torch.tensor(0.1)
    params, device, others, host = pair(lr=lr)
    train(range(2), (device, params), (host, others))
    for optimizer in (device, host):
        optimizer.param_groups[0]["lr"].fill_(0.05)
        optimizer.param_groups[0]["betas"] = (0.5, 0.6)
        optimizer.param_groups[0]["amsgrad"] = True
    train(range(2, 5), (device, params), (host, others))
    assert_near(params, others)


def test_checkpoints_move_between_host_and_device_counts() -> None:
    params, device, others, host = pair(lr=0.1)
    train(range(2), (device, params))
    host.load_state_dict(device.state_dict())
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p.data)
    again = AdamW(params, backend="triton", capturable=True)
    again.load_state_dict(host.state_dict())
    train(range(2, 4), (again, params), (host, others))
    assert_near(params, others)
    copied_params, copied = copy.deepcopy((params, again))
    train(range(4, 6), (copied, copied_params), (host, others))
    assert_near(copied_params, others)
    assert again.state[params[0]]["step"] == 4 and copied.state[copied_params[0]]["step"] == 6


def test_loss_scaling_is_done_on_the_device() -> None:
    params, device, others, host = pair(lr=0.1, amp=True)
    for seed, overflow in enumerate((0.0, 1.0, 0.0)):
        for optimizer, model in ((device, params), (host, others)):
            give_gradients(seed, model)
            for p in model:
                assert p.grad is not None
                p.grad.mul_(64.0)
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(64.0), torch.tensor(overflow)  # type: ignore[attr-defined]
            optimizer.step()
            assert bool(optimizer.last_step_skipped) is bool(overflow)
    assert_near(params, others)
    assert device.state[params[0]]["step"] == host.state[others[0]]["step"] == 2
