"""The norm of the gradient where several optimizers share a model: bounded, told and guarded over all of them."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

import optc
from optc.generated import SGD, AdamW, DoG
from optc.runtime import Routed
from tests.runtime.routing import matrix, network, same, separate, step
from tests.runtime.training import assert_close, assert_equal, give_gradients

CLIPPED = "clip_global_norm(max_norm = 0.5)"


def clipped(model: nn.Module, **options: Any) -> Routed:
    """SGD for matrices, AdamW for the others, both with one bound."""
    rules = [(matrix, {"type": f"SGD + {CLIPPED}", "lr": 0.1, "momentum": 0.9})]
    return optc.route(model, rules, otherwise={"type": f"AdamW + {CLIPPED}", "lr": 0.01, "weight_decay": 0.3}, **options)


def norm_of(model: nn.Module) -> float:
    return math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters() if p.grad is not None))


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_all_are_bounded_by_the_norm_that_torch_bounds(backend: str) -> None:
    models = [network(torch.float64), network(torch.float64)]
    ours, theirs = clipped(models[0], backend=backend), separate(models[1])
    for seed in range(5):
        for model in models:
            give_gradients(seed, list(model.parameters()))
            if seed == 2:  # one optimizer has nothing to do
                for p in (p for p in model.parameters() if p.ndim == 1):
                    p.grad = None
        expected = nn.utils.clip_grad_norm_(models[1].parameters(), 0.5)
        assert expected > 1, "nothing would be bounded"
        ours.step()
        for optimizer in theirs:
            optimizer.step()
        assert_close(list(models[0].parameters()), list(models[1].parameters()))
        assert ours.gradient_norm is not None and math.isclose(float(ours.gradient_norm), float(expected), rel_tol=1e-6)


def test_one_optimizer_with_groups_bounds_the_same() -> None:
    models = [network(torch.float64), network(torch.float64)]
    ours = optc.route(
        models[0], [(matrix, {"type": f"AdamW + {CLIPPED}"})], otherwise={"type": f"AdamW8bit + {CLIPPED}", "weight_decay": 0.0}
    )  # whose states of so few elements are numbers
    theirs = optc.create(f"AdamW + {CLIPPED}", optc.groups.no_decay(models[1]))
    for seed in range(4):
        step(models[0], [ours], seed)
        step(models[1], [theirs], seed)
    assert_close(list(models[0].parameters()), list(models[1].parameters()))


def test_numbers_of_an_optimizer_and_of_groups_stay_their_own() -> None:
    models = [network(torch.float64), network(torch.float64)]
    rules: Any = [("0.*", {"type": "DoG"}), ("1.*", {"type": "SGD + clip_group_norm(max_norm = 0.5)", "lr": 0.1})]
    ours = optc.route(models[0], rules, otherwise={"type": f"AdamW + {CLIPPED}"})
    own = dict(models[1].named_parameters())
    theirs = [
        DoG([own["0.weight"], own["0.bias"]]),
        optc.create("SGD + clip_group_norm(max_norm = 0.5)", [own["1.weight"], own["1.bias"]], lr=0.1),
        optc.create(f"AdamW + {CLIPPED}", [own["3.weight"], own["3.bias"]]),
    ]
    for seed in range(3):
        step(models[0], [ours], seed)
        step(models[1], theirs, seed)
        assert ours.gradient_norm is not None
        assert math.isclose(float(ours.gradient_norm), norm_of(models[0]), rel_tol=1e-6)
    same(*models)


def test_who_does_not_bound_is_not_in_the_norm() -> None:
    models = [network(torch.float64), network(torch.float64)]
    ours = optc.route(models[0], [(matrix, {"type": f"SGD + {CLIPPED}", "lr": 0.1})], otherwise={"type": "AdamW"})
    matrices, others = ([p for p in models[1].parameters() if (p.ndim == 2) is two] for two in (True, False))
    theirs = [optc.create(f"SGD + {CLIPPED}", matrices, lr=0.1), AdamW(others)]
    for seed in range(3):
        step(models[0], [ours], seed)
        step(models[1], theirs, seed)
    same(*models)
    assert ours.gradient_norm is None and theirs[0].gradient_norm is not None
    assert ours.parts[f"SGD + {CLIPPED}"].gradient_norm == theirs[0].gradient_norm


def test_the_norm_is_known_after_the_first_step_and_is_that_of_the_last() -> None:
    model = network()
    optimizer = clipped(model)
    assert optimizer.gradient_norm is None
    step(model, [optimizer])
    assert optimizer.gradient_norm is not None
    assert math.isclose(float(optimizer.gradient_norm), norm_of(model), rel_tol=1e-6)
    optimizer.zero_grad()
    optimizer.step()
    assert optimizer.gradient_norm == 0


def test_counting_on_the_device_bounds_the_same() -> None:
    models = [network(torch.float64), network(torch.float64)]
    ours, theirs = clipped(models[0], backend="triton", capturable=True), clipped(models[1], backend="torch")
    for seed in range(2):
        step(models[0], [ours], seed)
        step(models[1], [theirs], seed)
    assert_close(list(models[0].parameters()), list(models[1].parameters()))


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_all_skip_or_raise_where_one_gradient_is_not_finite(value: float) -> None:
    for policy in ("skip", "raise"):
        model = network()
        optimizer = clipped(model, nonfinite=policy)
        step(model, [optimizer])
        before = copy.deepcopy(list(model.parameters())), repr(optimizer.state_dict())
        gradient = list(model.parameters())[-1].grad
        assert gradient is not None
        gradient[0] = value
        if policy == "skip":
            optimizer.step()
            assert optimizer.last_step_skipped is True
        else:
            with pytest.raises(FloatingPointError, match=r"the gradient of 3.bias \(1 of 3\) is inf or NaN"):
                optimizer.step()
        assert_equal(list(model.parameters()), before[0])
        assert repr(optimizer.state_dict()) == before[1]


def test_a_loss_scale_is_divided_out_of_the_norm() -> None:
    models = [network(torch.float64), network(torch.float64)]
    scale = optc.LossScale(1024.0, interval=2)
    ours, theirs = clipped(models[0], loss_scale=scale), clipped(models[1])
    values = []
    for seed in range(5):
        give_gradients(seed, *(list(model.parameters()) for model in models))
        factor = scale(torch.tensor(1.0))
        for p in models[0].parameters():
            assert p.grad is not None
            p.grad *= factor
        if seed == 3:
            gradient = next(models[0].parameters()).grad
            assert gradient is not None
            gradient[0, 0] = math.inf
        ours.step()
        if seed != 3:
            theirs.step()
        values.append(scale.value)
        assert ours.last_step_skipped is (seed == 3)
        assert_close(list(models[0].parameters()), list(models[1].parameters()))
    assert values == [1024.0, 2048.0, 2048.0, 1024.0, 1024.0]
    assert math.isclose(float(ours.gradient_norm or 0), float(theirs.gradient_norm or 0), rel_tol=1e-6)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"nonfinite": "skip"}, "nonfinite='skip'"),
        ({"loss_scale": optc.LossScale()}, "a loss_scale"),
        ({"amp": True}, "amp=True"),
    ],
)
def test_what_needs_all_gradients_is_not_released(options: dict[str, Any], reason: str) -> None:
    rules = [(matrix, {"type": "SGD"})]
    optimizer = optc.route(network(), rules, otherwise={"type": "AdamW"}, **options)
    with pytest.raises(ValueError, match=f"SGD has {reason}: whether a step is skipped is known only when"):
        optc.release(optimizer)
    with pytest.raises(ValueError, match=r"it adds up .* over all parameters, which takes all gradients at once"):
        optc.release(clipped(network()))


def test_a_schedule_in_the_step_goes_on_for_a_type_that_joins() -> None:
    model, more = network(), nn.Linear(3, 3)
    first = {"type": "SGD + cosine(T = 10)", "lr": 0.1}
    optimizer = optc.route(model, [(matrix, first)], otherwise={"type": "AdamW + cosine(T = 10)"})
    for seed in range(4):
        step(model, [optimizer], seed)
    key = next(key for key in optimizer.param_groups[0] if optimizer.param_groups[0][key] == 4)
    optimizer.add_param_group({"params": list(more.named_parameters()), "type": "Lion + cosine(T = 10)"})
    assert [group[key] for group in optimizer.param_groups] == [4, 4, 4]
    plain = SGD([nn.Parameter(torch.ones(2))])
    assert key not in plain.param_groups[0]
