"""Gradients that are inf or NaN, an own loss scale, and the norm of the gradient."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optc
from optc.generated import SGD, AdamW
from tests.runtime.training import assert_equal, give_gradients, parameters, train, twins

SHAPES = ((4, 3), (5,), (), (0, 2))
BAD = [float("inf"), float("-inf"), float("nan")]


def clipping() -> Any:
    return optc.compile("adamw", modifiers=["clip_global_norm(max_norm = 0.5)"])


def kinds() -> list[Any]:
    """One that has to look, and one whose norm tells."""
    return [AdamW, clipping()]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("bad", BAD)
def test_a_skipped_step_leaves_everything_as_it_was(fused: bool, backend: str, bad: float) -> None:
    cls = kinds()[fused]
    params = parameters(SHAPES)
    others = twins(params)
    ours, plain = cls(params, lr=0.1, backend=backend, nonfinite="skip"), cls(others, lr=0.1, backend=backend)
    for t in range(6):
        give_gradients(t, params, others)
        if t in (0, 3):
            before = [p.detach().clone() for p in params]
            params[1].grad = params[1].grad.clone()  # type: ignore[union-attr]
            params[1].grad[2] = bad
            ours.step()
            assert ours.last_step_skipped is True
            assert_equal(params, before)
            if t == 0:
                assert not ours.state, "a skipped first step creates nothing"
            continue
        ours.step()
        plain.step()
        assert ours.last_step_skipped is False
        assert_equal(params, others)
    assert ours.state[params[0]]["step"] == 4


@pytest.mark.parametrize("fused", [False, True])
def test_a_raised_error_names_the_parameters(fused: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = kinds()[fused](model.named_parameters(), lr=0.1, nonfinite="raise")
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    before = [p.detach().clone() for p in model.parameters()]
    first, last = model[0].weight, model[1].bias
    assert isinstance(first, Tensor) and isinstance(last, Tensor) and first.grad is not None and last.grad is not None
    first.grad[1, 2] = float("nan")
    last.grad[:] = float("inf")
    message = r"the gradient of 0\.weight \(1 of 12\), 1\.bias \(2 of 2\) is inf or NaN, and nothing has changed: look at"
    with pytest.raises(FloatingPointError, match=message):
        optimizer.step()
    assert_equal(list(model.parameters()), before)
    assert optimizer.state[first]["step"] == 1
    unnamed = kinds()[fused]([{"params": [p]} for p in twins(parameters(((2,),) * 6))], nonfinite="raise")
    for group in unnamed.param_groups:
        group["params"][0].grad = torch.full((2,), float("nan"))
    with pytest.raises(FloatingPointError, match=r"parameter 0 of group 0 \(2 of 2\), .* and of 3 more is inf or NaN"):
        unnamed.step()


def test_nothing_is_done_where_it_is_not_asked_for() -> None:
    params = parameters(((3,),))
    optimizer = AdamW(params)
    params[0].grad = torch.tensor([1.0, float("nan"), 1.0])
    optimizer.step()
    assert params[0].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_large_gradients_are_no_infinite_ones(dtype: torch.dtype) -> None:
    """Their norm overflows, they do not."""
    params = [nn.Parameter(torch.zeros(70, dtype=dtype))]
    optimizer = SGD(params, lr=1.0, nonfinite="skip", backend="torch")
    largest = torch.finfo(dtype).max
    params[0].grad = torch.full((70,), largest, dtype=dtype)
    optimizer.step()
    assert optimizer.last_step_skipped is False
    assert (params[0] == -largest).all()
    params[0].grad[69] = float("inf")
    optimizer.step()
    assert optimizer.last_step_skipped is True


@pytest.mark.parametrize("policy", ["skip", "raise"])
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_a_norm_that_overflows_is_no_infinite_gradient(backend: str, policy: str) -> None:
    """The sum of squares that tells is in float32 and overflows; all numbers are finite, so the step is the unguarded one."""
    params = parameters(((70,), (3,)))
    others = twins(params)
    cls = clipping()
    ours, plain = cls(params, lr=0.1, backend=backend, nonfinite=policy), cls(others, lr=0.1, backend=backend)
    for t in range(3):
        give_gradients(t, params, others)
        if t == 1:
            for p in (params[0], others[0]):
                p.grad = torch.full((70,), 1e20)
        ours.step()
        plain.step()
        assert ours.last_step_skipped is False
        assert_equal(params, others)
    assert ours.state[params[0]]["step"] == 3


def test_the_norm_tells_without_reading_the_gradients_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted: passes over gradients that are not the kernels' own."""
    calls: list[int] = []
    norm = torch._foreach_norm

    def counted(tensors: list[Tensor], *given: Any) -> Any:
        calls.append(len(tensors))
        return norm(tensors, *given)

    monkeypatch.setattr(torch, "_foreach_norm", counted)
    for cls, expected in zip(kinds(), ([2], []), strict=True):
        calls.clear()
        params = parameters(((4, 3), (5,)))
        optimizer = cls(params, nonfinite="skip")
        train(range(1), (optimizer, params))
        assert calls == expected


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_the_norm_of_the_gradient(backend: str) -> None:
    params = parameters(SHAPES)
    optimizer = clipping()(params, backend=backend)
    assert optimizer.gradient_norm is None
    for seed in range(3):
        give_gradients(seed, params)
        expected = torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
        optimizer.step()
        found = optimizer.gradient_norm
        assert isinstance(found, Tensor) and found.shape == () and found.dtype == torch.float64
        torch.testing.assert_close(found.float(), expected)
    assert AdamW(params).gradient_norm is None


def overflowing(t: int) -> bool:
    return t in (0, 1, 5, 9)


@pytest.mark.parametrize("fused", [False, True])
def test_a_loss_scale_moves_as_a_grad_scaler(fused: bool) -> None:
    """The same numbers, bit for bit, as GradScaler with the optimizer that takes part in it."""
    cls = kinds()[fused]
    params = parameters(((4, 3), (5,)))
    others = twins(params)
    scale = optc.LossScale(init=1024.0, interval=3)
    ours, theirs = cls(params, lr=0.1, loss_scale=scale), cls(others, lr=0.1, amp=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    for t in range(14):
        for model in (params, others):
            for p in model:
                p.grad = None
        for model, scaled in ((params, scale), (others, scaler.scale)):
            generator = torch.Generator().manual_seed(t)
            loss = sum(((p * torch.randn(p.shape, generator=generator)).sum() for p in model), torch.zeros(()))
            torch.autograd.backward(scaled(loss))
            if overflowing(t):
                bad = model[1].grad
                assert bad is not None
                bad[3] = float("inf")
        ours.step()
        scaler.step(theirs)
        scaler.update()
        assert scale.value == scaler.get_scale()
        assert ours.last_step_skipped is overflowing(t)
        assert_equal(params, others)
    assert scale.state_dict() == scaler.state_dict()


def test_a_loss_scale_is_saved_and_takes_a_scalers_file() -> None:
    scale = optc.LossScale(init=8.0, interval=2)
    scale.update(False)
    scale.update(False)
    scale.update(True)
    assert (scale.value, repr(scale)) == (8.0, "LossScale(8, growth=2, backoff=0.5, interval=2)")
    other = optc.LossScale()
    other.load_state_dict(scale.state_dict())
    assert other.state_dict() == scale.state_dict() == pickle.loads(pickle.dumps(scale)).state_dict()
    scaler = torch.amp.GradScaler("cpu", init_scale=32.0, growth_interval=7)
    scaler.scale(torch.zeros(()))
    other.load_state_dict(scaler.state_dict())
    assert other.state_dict() == scaler.state_dict()
    scaler.load_state_dict(scale.state_dict())
    assert scaler.get_scale() == 8.0
    before = other.state_dict()
    for wrong in ({}, {**before, "scale": -1.0}):
        with pytest.raises(ValueError, match=r"LossScale|loss scale"):
            other.load_state_dict(wrong)
        assert other.state_dict() == before


def test_copies_have_a_loss_scale_of_their_own() -> None:
    params = parameters(((3,),))
    scale = optc.LossScale()
    optimizer = AdamW(params, loss_scale=scale)
    copied = copy.deepcopy(optimizer)
    params[0].grad = torch.full((3,), float("inf"))
    optimizer.step()
    assert scale.value == 32768.0
    give_gradients(0, copied.param_groups[0]["params"])
    copied.step()
    assert copied.last_step_skipped is False


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"nonfinite": "ignore"}, ValueError, "nonfinite = 'ignore', but it must be one of 'propagate', 'skip', 'raise'"),
        ({"loss_scale": 1024.0}, TypeError, "loss_scale is an optc.LossScale, not float"),
        ({"loss_scale": "new", "amp": True}, ValueError, "both scale the loss"),
        ({"loss_scale": "new", "nonfinite": "raise"}, ValueError, "leave nonfinite out"),
    ],
)
def test_mistakes_are_told(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    if options.get("loss_scale") == "new":
        options = {**options, "loss_scale": optc.LossScale()}
    with pytest.raises(kind, match=message):
        AdamW(parameters(((3,),)), **options)


@pytest.mark.parametrize(
    "options",
    [{"init": 0.0}, {"init": float("inf")}, {"growth": 1.0}, {"backoff": 1.0}, {"interval": 0}, {"interval": 2.5}],
)
def test_a_loss_scale_has_ranges(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=f"LossScale: {name} = .*, but it must be"):
        optc.LossScale(**options)


def test_one_loss_scale_belongs_to_one_optimizer() -> None:
    scale = optc.LossScale()
    first = AdamW(parameters(((3,),)), loss_scale=scale)
    with pytest.raises(ValueError, match="belongs to another optimizer"):
        AdamW(parameters(((3,),)), loss_scale=scale)
    del first
    AdamW(parameters(((3,),)), loss_scale=scale)


@pytest.mark.parametrize("bad", BAD)
def test_several_optimizers_in_one_skip_together(bad: float) -> None:
    """One gradient is not finite, and none of them moves; not even the one whose norm would tell later."""
    first, second = parameters(((4, 3),)), parameters(((5,),), seed=1)
    scale = optc.LossScale(init=4.0)
    named = [("a", first[0]), ("b", second[0])]
    optimizer = optc.route(
        named,
        [("a", {"type": "SGD", "lr": 0.1})],
        otherwise={"type": "AdamW + clip_global_norm(max_norm = 1)", "lr": 0.1},
        loss_scale=scale,
    )
    others = twins([*first, *second])
    plain = [SGD(others[:1], lr=0.1), optc.compile("adamw", modifiers=["clip_global_norm(max_norm = 1)"])(others[1:], lr=0.1)]
    for t in range(4):
        give_gradients(t, [*first, *second], others)
        for p in (*first, *second):
            assert p.grad is not None
            p.grad.mul_(scale.value)
        if t == 2:
            assert second[0].grad is not None
            second[0].grad[1] = bad
        else:
            for one in plain:
                one.step()
        optimizer.step()
        assert optimizer.last_step_skipped is (t == 2)
        assert_equal([*first, *second], others)
    assert scale.value == 2.0
    raising = optc.route(named, [("a", {"type": "SGD"})], otherwise={"type": "AdamW"}, nonfinite="raise")
    assert first[0].grad is not None
    first[0].grad[0, 0] = bad
    with pytest.raises(FloatingPointError, match=r"the gradient of a \(1 of 12\) is inf or NaN"):
        raising.step()
    assert copy.deepcopy(raising)._guard == raising._guard
