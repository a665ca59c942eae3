"""What trainers rely on in a `torch.optim.Optimizer`."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from tests.runtime.handmade import SGD, AdamW
from tests.runtime.training import assert_close, assert_equal, give_gradients, parameters, train, twins

_FOR_ALL = register_optimizer_step_pre_hook, register_optimizer_step_post_hook
"""What hooks of all optimizers are registered with."""


def test_updates_are_torchs() -> None:
    params = parameters(dtype=torch.float64)
    others = twins(params)
    every: list[dict[str, Any]] = [{}, {"amsgrad": True}, {"maximize": True, "weight_decay": 0.3, "betas": (0.5, 0.8)}]
    for options in every:
        train(range(5), (AdamW(params, **options), params), (torch.optim.AdamW(others, foreach=False, **options), others))
        assert_close(params, others)


def test_groups_names_and_defaults() -> None:
    model = nn.Linear(3, 2)
    optimizer = AdamW(model.named_parameters(), lr=0.1)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert optimizer.defaults["betas"] == (0.9, 0.999) and optimizer.param_groups[0]["maximize"] is False
    two = SGD([{"params": [model.weight], "lr": 0.5, "tag": "kept"}, {"params": model.bias}], lr=0.25)
    assert [(g["lr"], g.get("tag"), len(g["params"])) for g in two.param_groups] == [(0.5, "kept", 1), (0.25, None, 1)]
    assert "Parameter Group 1" in repr(two) and "momentum: 0.0" in repr(two)


def test_groups_have_their_own_hypers() -> None:
    a, b = parameters([(3,), (3,)])
    before = a.detach().clone(), b.detach().clone()
    optimizer = SGD([{"params": [a], "lr": 1.0}, {"params": [b], "maximize": True}], lr=0.5)
    give_gradients(0, [a, b])
    optimizer.step()
    assert a.grad is not None and b.grad is not None
    assert_equal([a, b], [before[0] - a.grad, before[1] + 0.5 * b.grad])


def test_a_group_added_later_is_trained() -> None:
    a, b = parameters([(3,), (2,)])
    optimizer = AdamW([a])
    train(range(3), (optimizer, [a]))
    optimizer.add_param_group({"params": [b], "lr": 0.1})
    train(range(2), (optimizer, [a, b]))
    assert optimizer.state[a]["step"] == 5 and optimizer.state[b]["step"] == 2


def test_parameters_replaced_in_a_group_are_followed() -> None:
    a, b = parameters([(3,), (4,)])
    optimizer = AdamW([a])
    train(range(2), (optimizer, [a]))
    optimizer.param_groups[0]["params"][0] = b
    before = a.detach().clone()
    train(range(3), (optimizer, [b]))
    assert optimizer.state[b]["step"] == 3 and torch.equal(a, before)


def test_whoever_listens_hears_of_every_step() -> None:
    (p,) = parameters([(3,)])
    optimizer, quiet = AdamW([p]), SGD([p])
    give_gradients(0, [p])
    optimizer.step()
    calls: list[object] = []
    handles = [register(lambda own, *_: calls.append(own)) for register in _FOR_ALL]
    optimizer.step()
    quiet.step()
    assert calls == [optimizer] * 2 + [quiet] * 2
    for handle in handles:
        handle.remove()
    late = optimizer.register_step_post_hook(lambda *_: calls.append("own"))
    optimizer.step()
    quiet.step()
    late.remove()
    optimizer.step()
    assert calls == [optimizer] * 2 + [quiet] * 2 + ["own"]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        optimizer.step()
    assert "Optimizer.step#AdamW.step" in {event.key for event in profiler.key_averages()}


def test_hooks_zero_grad_and_closures() -> None:
    (p,) = parameters([(3,)])
    optimizer = AdamW([p])
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = (p**2).sum()
        torch.autograd.backward(loss)
        calls.append("closure")
        return loss

    with torch.no_grad():
        first, second = optimizer.step(closure), optimizer.step(closure=closure)
    assert second < first and optimizer.step() is None
    assert calls == ["before", "closure", "after"] * 2 + ["before", "after"]
    optimizer.zero_grad(set_to_none=False)
    assert p.grad is not None and not p.grad.any()
    optimizer.zero_grad()
    assert p.grad is None
    assert inspect.ismethod(optimizer.step) and optimizer.step.__func__ is not None


@pytest.mark.parametrize("copied", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_of_model_and_optimizer_trains_alike(copied: str) -> None:
    params = parameters()
    optimizer = SGD(params, momentum=0.9, lr=0.1, maximize=True, amp=True)
    train(range(3), (optimizer, params))
    both: tuple[Any, Any]
    if copied == "deepcopy":
        both = copy.deepcopy((params, optimizer))
    elif copied == "pickle":
        both = pickle.loads(pickle.dumps((params, optimizer)))
    else:
        buffer = io.BytesIO()
        torch.save((params, optimizer), buffer)
        buffer.seek(0)
        both = torch.load(buffer, weights_only=False)
    others, twin = both
    train(range(3, 6), (optimizer, params), (twin, others))
    assert_equal(params, others)
    assert twin.backend == "torch" and twin._step_supports_amp_scaling
    assert twin.state[others[0]]["step"] is twin.state[others[1]]["step"], "a copy keeps sharing counts"
    assert twin.state[others[0]]["step"] is not optimizer.state[params[0]]["step"]


SCHEDULERS: dict[str, Any] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda n: 1 / (n + 1)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda n: 0.9),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 4]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=9),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-3, 1e-1, step_size_up=2, cycle_momentum=True),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("base", ["betas", "momentum"])
def test_schedulers_drive_it_as_they_drive_torchs(name: str, base: str) -> None:
    params = parameters([(3, 2), (4,)], torch.float64)
    others = twins(params)
    ours: torch.optim.Optimizer
    torchs: torch.optim.Optimizer
    if base == "betas":
        ours, torchs = AdamW(params, lr=0.01), torch.optim.AdamW(others, lr=0.01, foreach=False)
    else:
        ours, torchs = SGD(params, lr=0.01, momentum=0.9), torch.optim.SGD(others, lr=0.01, momentum=0.9, foreach=False)
    schedules = [SCHEDULERS[name](ours), SCHEDULERS[name](torchs)]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*lr_scheduler.step.*before.*")
        for seed in range(7):
            train([seed], (ours, params), (torchs, others))
            for schedule in schedules:
                schedule.step(1.0) if name == "ReduceLROnPlateau" else schedule.step()
            assert ours.param_groups[0]["lr"] == torchs.param_groups[0]["lr"]
    assert_close(params, others)


def test_a_misspelt_keyword_is_named() -> None:
    with pytest.raises(TypeError, match=r"AdamW\(\) has no keyword argument 'weigth_decay': did you mean 'weight_decay'"):
        AdamW(parameters(), weigth_decay=0.1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="backend = 'cuda', but it must be one of"):
        AdamW(parameters(), backend="cuda")
    assert list(inspect.signature(AdamW).parameters)[:2] == ["params", "lr"]


def test_a_subclass_may_have_keywords_of_its_own() -> None:
    class Mine(AdamW):
        def __init__(self, params: Any, flavour: str = "", **kwargs: Any) -> None:
            super().__init__(params, **kwargs)

    assert Mine(parameters(), flavour="x", lr=0.5).param_groups[0]["lr"] == 0.5


BAD_PARAMETERS: dict[str, tuple[Any, type[Exception], str]] = {
    "strings": (lambda: ["a"], TypeError, "can only optimize Tensors"),
    "none": (list, ValueError, "empty parameter list"),
    "one tensor": (lambda: nn.Parameter(torch.ones(1)), TypeError, "iterable"),
    "a set": (lambda: [{"params": {nn.Parameter(torch.ones(1))}}], TypeError, "ordered"),
    "not a leaf": (lambda: [nn.Parameter(torch.ones(1)) * 2], ValueError, "non-leaf"),
    "twice": (lambda: [nn.Parameter(torch.ones(1))] * 2, ValueError, "appears twice"),
    "complex": (
        lambda: [nn.Parameter(torch.ones(2, dtype=torch.complex64))],
        ValueError,
        "parameter 0 of group 0: it is complex",
    ),
    "whole numbers": (lambda: [torch.ones(2, dtype=torch.int64)], ValueError, "has dtype torch.int64"),
    "sparse": (lambda: [torch.eye(2).to_sparse().requires_grad_()], ValueError, "it is sparse"),
    "expanded": (lambda: [torch.ones(1).expand(3).requires_grad_()], ValueError, "share memory"),
}


@pytest.mark.parametrize("case", BAD_PARAMETERS)
@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_bad_parameters_are_refused_at_construction(case: str) -> None:
    make, error, message = BAD_PARAMETERS[case]
    with pytest.raises(error, match=message):
        AdamW(make())


def test_a_group_that_is_refused_is_not_added() -> None:
    optimizer = AdamW(parameters())
    for bad in ({"params": [torch.ones(2, dtype=torch.int8)]}, {"params": parameters([(1,)]), "lr": -1.0}):
        with pytest.raises(ValueError):
            optimizer.add_param_group(bad)
        assert len(optimizer.param_groups) == 1


def test_lazy_parameters_are_accepted_before_they_have_a_shape() -> None:
    model = nn.LazyLinear(2)
    optimizer = AdamW(model.parameters())
    torch.autograd.backward(model(torch.ones(1, 3)).sum())
    optimizer.step()
    assert optimizer.state[model.weight]["exp_avg"].shape == (2, 3)


def test_torch_compile_of_a_training_step_falls_back_to_eager() -> None:
    (p,) = parameters([(3,)], torch.float64)
    optimizer = AdamW([p], lr=0.1)

    def step() -> None:
        torch.autograd.backward((p**2).sum())
        optimizer.step()
        optimizer.zero_grad()

    other = nn.Parameter(p.detach().clone())
    reference = torch.optim.AdamW([other], lr=0.1, foreach=False)
    for _ in range(3):
        torch.compile(step, backend="eager")()
        torch.autograd.backward((other**2).sum())
        reference.step()
        reference.zero_grad()
    assert_close([p], [other])
