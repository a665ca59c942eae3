"""The loss that a step reads: what closures may return, what is refused, and what it means under scaling and `maximize`."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import optc
from optc.runtime import loss as losses
from tests.reference_cases import giving
from tests.runtime.training import assert_close, assert_equal, give_gradients, parameters, twins

POLYAK = """
optimizer Polyak:
    hyper: lr = 1.0 in [0, inf)
    state: best = inf per model as least; m = 0
    step:
        best <- min(best, loss)
        m <- ema(m, g, 0.5)
        θ <- θ - lr*(loss - best/2)/(total(sum(g^2)) + 1e-8)*m
"""


def made(params: list[Any], **options: Any) -> Any:
    return optc.compile(POLYAK)(params, **options)


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize(
    "given",
    [
        1.5,
        np.float32(1.5),
        torch.tensor(1.5),
        torch.tensor(1.5, requires_grad=True),
        torch.tensor([[1.5]], dtype=torch.float64),
        torch.tensor(1.5, dtype=torch.bfloat16),
        torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64)[1],
    ],
    ids=lambda x: f"{type(x).__name__} {getattr(x, 'dtype', '')}",
)
def test_any_number_will_do(given: Any, backend: str) -> None:
    params = parameters(dtype=torch.float64)
    others = twins(params)
    one, other = made(params, backend=backend), made(others, backend=backend)
    for seed in range(3):
        give_gradients(seed, params, others)
        assert one.step(lambda: given) is given
        other.step(lambda: 1.5)
    assert_equal(params, others)
    assert one.param_groups[0]["least"].item() == 1.5 and not one.param_groups[0]["least"].requires_grad


def test_whole_numbers_will_do() -> None:
    params = parameters(dtype=torch.float64)
    others = twins(params)
    give_gradients(0, params, others)
    made(params).step(lambda: 2)
    made(others).step(lambda: torch.tensor(2))
    assert_equal(params, others)


def test_the_loss_stays_as_it_is() -> None:
    """It is kept as a state's value, not as the tensor that the closure returned."""
    params = parameters(dtype=torch.float64)
    optimizer, loss = made(params), torch.tensor(1.5, dtype=torch.float64)
    give_gradients(0, params)
    optimizer.step(lambda: loss)
    loss.fill_(7.0)
    assert optimizer.param_groups[0]["least"].item() == 1.5
    optimizer.step(lambda: loss)
    assert loss.item() == 7.0


def test_the_closure_runs_with_gradients_and_once() -> None:
    (p,) = parameters([(3,)], torch.float64)
    optimizer, calls = made([p]), []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        torch.autograd.backward(loss)
        calls.append(loss.item())
        return loss

    for _ in range(40):
        returned = optimizer.step(closure)
        assert returned.item() == calls[-1]
    assert len(calls) == 40 and calls[-1] < 1e-3 * calls[0]


WRONG = {
    "nothing": (lambda: None, TypeError, "returned None"),
    "a text": (lambda: "1.5", TypeError, "returned a str"),
    "a truth": (lambda: True, TypeError, "returned a bool"),
    "a pair": (lambda: (1.0, 2.0), TypeError, "returned a tuple"),
    "a complex number": (lambda: 1j, TypeError, "returned a complex"),
    "a complex tensor": (lambda: torch.tensor(1j), TypeError, "dtype torch.complex64"),
    "a tensor of truths": (lambda: torch.tensor(True), TypeError, "dtype torch.bool"),
    "several numbers": (lambda: torch.ones(2, 1), ValueError, r"shape \(2, 1\)"),
    "no number": (lambda: torch.ones(0), ValueError, r"shape \(0,\)"),
}


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_is_no_number_is_refused_before_anything_has_changed(wrong: str) -> None:
    closure, error, message = WRONG[wrong]
    params = parameters()
    optimizer = made(params)
    for started in (False, True):
        give_gradients(0, params)
        before = copy.deepcopy((params, optimizer.state_dict()))
        with pytest.raises(error, match=f"needs a closure that returns the loss as one real number.*{message}"):
            optimizer.step(closure)
        assert_equal(params, before[0])
        assert str(optimizer.state_dict()) == str(before[1])
        assert bool(optimizer.state) is started
        optimizer.step(lambda: 1.0)


def test_a_step_without_a_closure_says_what_it_needs() -> None:
    params = parameters()
    optimizer = made(params)
    give_gradients(0, params)
    with pytest.raises(TypeError, match=r"Polyak.step\(\) needs the loss: pass a closure .* optimizer.step\(lambda: loss\)"):
        optimizer.step()
    assert not optimizer.state and "least" not in optimizer.param_groups[0]


def test_an_update_that_reads_no_loss_takes_any_closure() -> None:
    from optc.generated import SGD

    (p,) = parameters([(2,)])
    p.grad = torch.ones(2)
    optimizer = SGD([p])
    assert optimizer.step(lambda: "anything") == "anything"
    optimizer.step()


def test_maximizing_is_minimizing_minus_the_loss() -> None:
    params = parameters(dtype=torch.float64)
    others = twins(params)
    up, down = made(params, maximize=True), made(others)
    for seed, loss in enumerate((-2.0, 0.5, 3.0)):
        give_gradients(seed, params, others)
        for p in params:
            p.grad = -p.grad  # type: ignore[operator]
        up.step(giving(-loss))
        down.step(giving(torch.tensor(loss)))
    assert_equal(params, others)
    assert up.param_groups[0]["least"] == down.param_groups[0]["least"] == -2.0


def test_groups_that_do_not_agree_on_maximize_are_refused() -> None:
    a, b = parameters([(3,), (2,)])
    optimizer = made([{"params": [a]}, {"params": [b], "maximize": True}])
    give_gradients(0, [a, b])
    with pytest.raises(ValueError, match="`maximize` must be the same in all of them"):
        optimizer.step(lambda: 1.0)
    assert not optimizer.state


@pytest.mark.parametrize("amp", [False, True])
def test_the_loss_is_the_one_before_gradient_scaling(amp: bool) -> None:
    params = parameters([(4, 3), (5,)], torch.float64)
    others = twins(params)
    ours, plain = made(params, amp=amp), made(others)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    for seed in range(4):
        given = []
        for model in (params, others):
            for p in model:
                p.grad = None
            generator = torch.Generator().manual_seed(seed)
            given.append(sum(((p * torch.randn(p.shape, generator=generator).to(p)).sum() for p in model), torch.tensor(0.0)))
        torch.autograd.backward(scaler.scale(given[0]))
        if seed == 1:
            params[0].grad.view(-1)[0] = float("inf")  # type: ignore[union-attr]
        scaler.step(ours, giving(given[0]))
        scaler.update()
        if seed == 1:
            assert not amp or ours.last_step_skipped
            continue
        torch.autograd.backward(given[1])
        plain.step(giving(given[1]))
        assert_close(params, others)
        assert_close([ours.param_groups[0]["least"]], [plain.param_groups[0]["least"]])


def test_a_checkpoint_goes_on_with_the_same_numbers() -> None:
    params = parameters(dtype=torch.float64)
    others = twins(params)
    one, other = made(params), made(others)
    give_gradients(0, params, others)
    one.step(lambda: 2.0)
    other.step(lambda: 2.0)
    fresh = made(others)
    fresh.load_state_dict(one.state_dict())
    give_gradients(1, params, others)
    one.step(lambda: 3.0)
    fresh.step(lambda: 3.0)
    assert_equal(params, others)
    assert fresh.param_groups[0]["least"].item() == 2.0


def test_schedulers_count_steps_with_closures() -> None:
    (p,) = parameters([(2,)])
    optimizer = made([p])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    p.grad = torch.ones(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(lambda: 1.0)
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_the_class_says_that_it_needs_a_closure() -> None:
    assert "`step` needs a closure that returns it" in " ".join((optc.compile(POLYAK).__doc__ or "").split())
    assert "closure" not in (optc.compile("adamw").__doc__ or "")


def test_counting_on_the_device_changes_nothing() -> None:
    pytest.importorskip("triton")
    params = parameters(dtype=torch.float64)
    others = twins(params)
    device, host = made(params, capturable=True, backend="triton"), made(others, backend="torch")
    for seed in range(3):
        give_gradients(seed, params, others)
        device.step(lambda seed=seed: torch.tensor(2.0 - seed))
        host.step(lambda seed=seed: 2.0 - seed)
    assert_close(params, others)
    assert device.param_groups[0]["least"].item() == host.param_groups[0]["least"].item() == 0.0


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_a_loss_on_a_device_is_not_read_back(dtype: torch.dtype, maximize: bool) -> None:
    """A meta tensor has no value to read."""
    given = torch.empty(1, dtype=dtype, device="meta", requires_grad=dtype.is_floating_point)
    found = losses.on(losses.read("X", given, [{"maximize": maximize}] * 2), torch.device("meta"))
    assert (found.is_meta, found.dtype, found.shape, found.requires_grad) == (True, torch.float64, (), False)
