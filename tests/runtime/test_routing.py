"""Several optimizers in one: bit for bit what separate ones do, with one list of groups, one state and one state dict."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

import optc
from optc.generated import SGD, AdamW, Prodigy, SophiaG
from optc.runtime import Routed
from tests.runtime.routing import matrix, network, routed, same, separate, step
from tests.runtime.test_contract import SCHEDULERS
from tests.runtime.test_lives import Life
from tests.runtime.training import assert_close, assert_equal, give_gradients

# --- updates ------------------------------------------------------------------------------------------------------------------


def test_training_on_digits_is_that_of_two_optimizers() -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float64) / 16, torch.tensor(labels)
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 10)).double()]
    models += [copy.deepcopy(models[0]) for _ in range(2)]
    ours: list[torch.optim.Optimizer] = [routed(models[0])]
    pair = separate(models[1])
    matrices, others = ([p for p in models[2].parameters() if (p.ndim == 2) is two] for two in (True, False))
    theirs: list[torch.optim.Optimizer] = [
        torch.optim.SGD(matrices, lr=0.1, momentum=0.9, foreach=False),
        torch.optim.AdamW(others, lr=0.01, weight_decay=0.3, foreach=False),
    ]
    every = [ours, pair, theirs]
    schedules = [[lr_scheduler.CosineAnnealingLR(o, 60) for o in optimizers] for optimizers in every]
    losses = []
    for number in range(60):
        batch = slice(number * 29, number * 29 + 64)
        for model, optimizers, schedule in zip(models, every, schedules, strict=True):
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
            for one in schedule:
                one.step()
        losses.append(loss.item())
    same(models[0], models[1])
    assert_close(list(models[0].parameters()), list(models[2].parameters()))
    assert losses[-1] < 0.5 < losses[0]


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_late_and_missing_gradients(backend: str) -> None:
    models = [network(), network()]
    every: list[list[torch.optim.Optimizer]] = [[routed(models[0], backend=backend)], separate(models[1], backend=backend)]
    for seed in range(12):
        for model, optimizers in zip(models, every, strict=True):
            parameters = list(model.parameters())
            give_gradients(seed, parameters)
            for place, p in enumerate(parameters):
                if (seed + place) % 3 == 0 or (seed < 4 and place % 2):
                    p.grad = None
            for optimizer in optimizers:
                optimizer.step()
        same(*models)


class TwoKinds(Life):
    """A life with parameters of two kinds."""

    def __init__(self, seed: int) -> None:
        super().__init__(AdamW, {"amsgrad": True}, seed)
        first, second = (group["params"] for group in self.optimizer.param_groups)
        count = len(first)
        self.optimizer = Routed(
            [{"params": first, "type": "SGD", "momentum": 0.9}, {"params": second, "type": AdamW, "lr": 0.1}]
        )
        self.singles = [
            *(SGD([q], momentum=0.9) for q in self.alone[:count]),
            *(AdamW([q], lr=0.1) for q in self.alone[count:]),
        ]
        self.events = [event for event in self.events if event.__name__ != "change_group"]


def test_each_parameter_fares_as_if_alone() -> None:
    for seed in range(16):
        life = TwoKinds(seed)
        for _ in range(25):
            life.step()


def test_plans_stay_once_the_states_are_there() -> None:
    model = network()
    optimizer = routed(model)
    for seed in range(2):
        step(model, [optimizer], seed)
    plans = [part._plans[0]["step"] for part in optimizer.parts.values()]
    for seed in range(3):
        step(model, [optimizer], seed)
    assert [part._plans[0]["step"] for part in optimizer.parts.values()] == plans


def test_numbers_of_the_model_are_those_of_one_optimizer_with_groups() -> None:
    models = [network(), network()]
    rules: Any = [(matrix, {"type": "Prodigy", "lr": 1.0}), ("*.bias", {"type": "prodigy", "weight_decay": 0.1})]
    ours = optc.route(models[0], rules, otherwise={"type": "SGD", "lr": 0.5})
    own = list(models[1].named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in own if p.ndim == 2], "lr": 1.0},
        {"params": [p for n, p in own if n.endswith("bias")], "weight_decay": 0.1},
    ]
    theirs = [Prodigy(groups), SGD([p for n, p in own if n == "1.weight"], lr=0.5)]
    for seed in range(4):
        step(models[0], [ours], seed)
        step(models[1], theirs, seed)
    same(*models)
    first, second, third = ours.param_groups
    assert first["d"] is second["d"] and first["d"] == theirs[0].param_groups[0]["d"] and "d" not in third


def test_a_closure_runs_once_and_gives_the_loss_to_whoever_reads_it() -> None:
    models, calls = [network(torch.float64), network(torch.float64)], []
    x = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(5, 4)
    ours = optc.route(models[0], [(matrix, {"type": "AliG", "lr": 0.1})], otherwise={"type": "AdamW"})
    matrices, others = ([p for p in models[1].parameters() if (p.ndim == 2) is two] for two in (True, False))
    theirs = [optc.create("alig", matrices, lr=0.1), AdamW(others)]

    def loss_of(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            assert torch.is_grad_enabled()
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss: Tensor = model(x).square().mean()
            torch.autograd.backward(loss)
            calls.append(model)
            return loss

        return closure

    for _ in range(4):
        value = ours.step(loss_of(models[0], [ours]))
        loss = loss_of(models[1], [*theirs])()
        for optimizer in theirs:
            optimizer.step(lambda loss=loss: loss)  # type: ignore[misc]  # a default argument is none to a closure
        assert value == loss
    same(*models)
    assert calls.count(models[0]) == 4
    before = copy.deepcopy(models[0])
    with pytest.raises(TypeError, match=r"AliG.step\(\) needs the loss: pass a closure"):
        ours.step()
    same(models[0], before)


@pytest.mark.parametrize("amp", [False, True])
def test_scaled_training_is_plain_training(amp: bool) -> None:
    models = [network(torch.float64), network(torch.float64)]
    ours, theirs = routed(models[0], amp=amp), separate(models[1])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    for seed in range(6):
        give_gradients(seed, *(list(model.parameters()) for model in models))
        overflow = seed in (0, 3)
        scale = scaler.scale(torch.tensor(1.0))
        for p in models[0].parameters():
            assert p.grad is not None
            p.grad *= scale
        if overflow:
            gradient = last(models[0]).grad
            assert gradient is not None
            gradient[0] = float("inf")
        scaler.step(ours)
        scaler.update()
        for optimizer in [] if overflow else theirs:
            optimizer.step()
        assert ours.last_step_skipped is (overflow and amp)
        assert_close(list(models[0].parameters()), list(models[1].parameters()))
        if seed == 0:
            assert not ours.state, "a skipped first step creates nothing"


def test_counting_on_the_device() -> None:
    models = [network(), network()]
    ours = routed(models[0], backend="triton", capturable=True)
    theirs = separate(models[1], backend="triton", capturable=True)
    for seed in range(3):
        step(models[0], [ours], seed)
        step(models[1], theirs, seed)
    same(*models)


def test_methods_of_one_optimizer_are_there() -> None:
    models = [network(), network()]
    ours = optc.route(models[0], [(matrix, {"type": "SophiaG", "lr": 0.01})], otherwise={"type": "AdamW"})
    matrices, others = ([p for p in models[1].parameters() if (p.ndim == 2) is two] for two in (True, False))
    theirs = [SophiaG(matrices, lr=0.01), AdamW(others)]
    for seed in range(4):
        if seed % 2:
            noise = [torch.full_like(p, 0.1 * seed) for p in matrices]
            part = ours.parts["SophiaG"]
            assert isinstance(part, SophiaG)
            part.update_hessian(noise)
            theirs[0].update_hessian(noise)  # type: ignore[attr-defined]
        step(models[0], [ours], seed)
        step(models[1], theirs, seed)
    same(*models)


# --- what trainers do ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_drive_all_groups(name: str) -> None:
    models = [network(), network()]
    kinds = {"type": "AdamW", "lr": 0.01}, {"type": "Lion", "lr": 0.001, "betas": (0.8, 0.9)}
    ours = optc.route(models[0], [(matrix, kinds[0])], otherwise=kinds[1])
    matrices, others = ([p for p in models[1].parameters() if (p.ndim == 2) is two] for two in (True, False))
    theirs = [optc.create(kinds[0], matrices), optc.create(kinds[1], others)]
    schedules = [SCHEDULERS[name](optimizer) for optimizer in (ours, *theirs)]
    for seed in range(7):
        step(models[0], [ours], seed)
        step(models[1], theirs, seed)
        for schedule in schedules:
            schedule.step(1.0) if name == "ReduceLROnPlateau" else schedule.step()
        for group, other in zip(ours.param_groups, theirs, strict=True):
            assert (group["lr"], group["betas"]) == (other.param_groups[0]["lr"], other.param_groups[0]["betas"])
    same(*models)


def test_defaults_are_what_all_have() -> None:
    optimizer = routed(network())
    assert set(optimizer.defaults) >= {"lr", "weight_decay", "maximize", "capturable"}
    assert not {"betas", "momentum"} & set(optimizer.defaults)
    assert "momentum" not in optimizer.param_groups[1] and "betas" not in optimizer.param_groups[0]
    with pytest.raises(ValueError, match="must support momentum"):
        lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9)
    lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9, cycle_momentum=False)


def test_hooks_zero_grad_maximize_and_repr() -> None:
    model = network()
    twin = copy.deepcopy(model)
    optimizer = routed(model, maximize=True)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    step(model, [optimizer])
    step(twin, separate(twin, maximize=True))
    same(model, twin)
    assert calls == ["before", "after"]
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    assert "type: SGD" in repr(optimizer) and "type: AdamW" in repr(optimizer)


@pytest.mark.parametrize("copied", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_trains_alike(copied: str) -> None:
    model = network()
    own = optc.compile("lion", modifiers=["cautious"])
    optimizer: Any = optc.route(
        model, [("0.*", {"type": "AdamW + cautious", "lr": 0.1}), ("3.*", {"type": own})], otherwise={"type": "SGD"}, amp=True
    )
    for seed in range(3):
        step(model, [optimizer], seed)
    both: Any
    if copied == "deepcopy":
        both = copy.deepcopy((model, optimizer))
    elif copied == "pickle":
        both = pickle.loads(pickle.dumps((model, optimizer)))
    else:
        buffer = io.BytesIO()
        torch.save((model, optimizer), buffer)
        buffer.seek(0)
        both = torch.load(buffer, weights_only=False)
    twin, other = both
    for seed in range(3, 6):
        step(model, [optimizer], seed)
        step(twin, [other], seed)
    same(model, twin)
    assert other._step_supports_amp_scaling and list(other.parts) == ["AdamW + cautious", "CautiousLion", "SGD"]
    assert all(part.state is other.state for part in other.parts.values())
    assert other.param_groups[0] is other.parts["AdamW + cautious"].param_groups[0]
    other.param_groups[0]["lr"] = 0.7
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_torch_compile_of_a_training_step_falls_back_to_eager() -> None:
    models = [network(), network()]
    ours, theirs = routed(models[0]), separate(models[1])
    x = torch.ones(2, 4)

    def train() -> None:
        torch.autograd.backward(models[0](x).square().sum())
        ours.step()
        ours.zero_grad()

    for _ in range(3):
        torch.compile(train, backend="eager")()
        torch.autograd.backward(models[1](x).square().sum())
        for optimizer in theirs:
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(list(models[0].parameters()), list(models[1].parameters()))


# --- all or nothing -----------------------------------------------------------------------------------------------------------


def last(model: nn.Module) -> Tensor:
    return list(model.parameters())[-1]


def sparse(model: nn.Module, optimizer: Routed) -> None:
    last(model).grad = torch.ones(3).to_sparse()


def out_of_range(model: nn.Module, optimizer: Routed) -> None:
    optimizer.param_groups[-1]["eps"] = -1.0


def state_of_another_shape(model: nn.Module, optimizer: Routed) -> None:
    optimizer.state[last(model)] = {"exp_avg": torch.ones(7), "exp_avg_sq": torch.ones(7), "step": torch.tensor(1.0)}


def repaired(model: nn.Module, optimizer: Routed) -> None:
    optimizer.param_groups[-1]["eps"] = 1e-8
    optimizer.state.pop(last(model), None)


@pytest.mark.parametrize("fault", [sparse, out_of_range, state_of_another_shape])
@pytest.mark.parametrize("first", ["SGD", "Prodigy"])
def test_if_one_cannot_step_none_does(first: str, fault: Callable[[nn.Module, Routed], None]) -> None:
    model = network()
    twin = copy.deepcopy(model)
    ours, theirs = (
        optc.route(m, [(matrix, {"type": first})], otherwise={"type": "AdamW"}, backend="native") for m in (model, twin)
    )
    for parameters in (list(model.parameters()), list(twin.parameters())):
        give_gradients(0, parameters)
    fault(model, ours)
    before = copy.deepcopy((ours.state_dict(), list(model.parameters())))
    with pytest.raises(ValueError):
        ours.step()
    after = ours.state_dict()
    assert_equal(list(model.parameters()), before[1])
    assert repr(after) == repr(before[0])
    repaired(model, ours)
    for seed in range(3):
        step(model, [ours], seed)
        step(twin, [theirs], seed)
    same(model, twin)


@pytest.mark.parametrize("first", ["SGD", "Prodigy"])
def test_a_fault_in_a_later_step_changes_nothing_either(first: str) -> None:
    model = network()
    twin = copy.deepcopy(model)
    ours, theirs = (optc.route(m, [(matrix, {"type": first})], otherwise={"type": "AdamW"}) for m in (model, twin))
    for seed in range(5):
        if seed:
            give_gradients(seed, list(model.parameters()))
            last(model).grad = torch.ones(3).to_sparse()
            before = repr(ours.state_dict())
            with pytest.raises(ValueError, match="its gradient is sparse"):
                ours.step()
            assert repr(ours.state_dict()) == before
        step(model, [ours], seed)
        step(twin, [theirs], seed)
        same(model, twin)
