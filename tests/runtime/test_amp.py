"""Loss scaling in both of `GradScaler`'s protocols."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.runtime.handmade import SGD, AdamW
from tests.runtime.training import assert_close, assert_equal, parameters, train, twins


def backward(scaler: torch.amp.GradScaler, params: list[Any], seed: int, overflow: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    loss = sum(((p * torch.randn(p.shape, generator=generator).to(p)).sum() for p in params), torch.tensor(0.0))
    torch.autograd.backward(scaler.scale(loss))
    if overflow:
        params[0].grad.view(-1)[0] = float("inf")


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
def test_scaled_training_is_plain_training(amp: bool, unscale: bool, maximize: bool) -> None:
    params = parameters([(4, 3), (5,)], torch.float64)
    others = twins(params)
    options: dict[str, Any] = {"maximize": maximize, "lr": 0.1}
    ours, torchs = AdamW(params, amp=amp, **options), torch.optim.AdamW(others, foreach=False, **options)
    scalers = [torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2) for _ in range(2)]
    for seed in range(6):
        overflow = seed in (0, 3)
        for optimizer, model, scaler in ((ours, params, scalers[0]), (torchs, others, scalers[1])):
            optimizer.zero_grad()
            backward(scaler, model, seed, overflow)
            if unscale:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model, 1.0)
            scaler.step(optimizer)
            scaler.update()
        assert bool(ours.last_step_skipped) is (overflow and amp)
        assert_close(params, others)
        if seed == 0:
            assert not ours.state, "a skipped first step creates nothing"
    assert ours.state[params[0]]["step"] == torchs.state[others[0]]["step"] == 4
    assert scalers[0].get_scale() == scalers[1].get_scale()
    assert not hasattr(ours, "grad_scale") and not hasattr(ours, "found_inf")


def test_fp16_gradients_are_unscaled_as_they_are_read() -> None:
    params = parameters([(64,)], torch.float16)
    exact = [torch.nn.Parameter(p.detach().float()) for p in params]
    ours, plain = SGD(params, lr=1.0, momentum=0.5, amp=True), SGD(exact, lr=1.0, momentum=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    params[0].grad = torch.randn(64, generator=torch.Generator().manual_seed(1)).half()
    exact[0].grad = params[0].grad.float() / 2.0**14
    scaler.scale(torch.tensor(1.0))
    scaler.step(ours)
    plain.step()
    assert_equal([ours.state[params[0]]["momentum_buffer"]], [plain.state[exact[0]]["momentum_buffer"]])


def test_states_that_start_from_the_gradient_start_from_the_unscaled_one() -> None:
    from dataclasses import replace

    first = replace(AdamW.schema.states[0], initial=lambda theta, g: 2 * g)

    class FromGradient(AdamW):
        schema = replace(AdamW.schema, states=(first, *AdamW.schema.states[1:]))

    params = parameters([(3,)])
    ours = FromGradient(params, betas=(0.5, 0.5), amp=True, maximize=True)
    params[0].grad = torch.tensor([8.0, -8.0, 16.0])
    ours.grad_scale, ours.found_inf = torch.tensor(8.0), torch.tensor(0.0)  # type: ignore[attr-defined]
    ours.step()
    expected = -torch.tensor([1.0, -1.0, 2.0]) * (0.5 * 2 + 0.5)
    assert torch.equal(ours.state[params[0]]["exp_avg"], expected)


def test_the_flag_is_off_unless_asked_for() -> None:
    params = parameters()
    assert not getattr(AdamW(params), "_step_supports_amp_scaling", False)
    assert AdamW(params, amp=True)._step_supports_amp_scaling
    optimizer = AdamW(params, amp=True)
    train(range(2), (optimizer, params))
    skipped: bool | Tensor = optimizer.last_step_skipped
    assert skipped is False
