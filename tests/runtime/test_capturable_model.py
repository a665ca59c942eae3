"""Numbers of the whole model where devices count: the same as where the host counts, and nothing read back."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optc
from optc import generated
from optc.compiler.instant import compile_class
from optc.runtime import devices
from optc.runtime.backend import BackendUnavailable
from optc.runtime.model import gathers
from optc.runtime.triton_launch import CapturableLauncher
from tests.runtime.training import give_gradients, parameters, train, twins

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="runs in Triton's interpreter"),
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),  # NumPy, inside the interpreter
]

SHAPES = ((4, 3), (5,), (), (2, 3))
NAMES = (
    "Prodigy", "LionProdigy", "DAdaptAdam", "DAdaptSGD", "DAdaptAdaGrad", "DAdaptLion", "DAdaptAdan", "DoG", "AdGD",
    "AdaGradNorm", "AdamS", "AvaGrad", "Adai", "Ranger21Core",
)  # fmt: skip
CLIPPED = "AdamW clipped"
SAMPLE = ("Prodigy", "DAdaptSGD", "AvaGrad", CLIPPED)


def class_of(name: str) -> Any:
    return optc.compile("adamw", modifiers=["clip_global_norm"]) if name == CLIPPED else getattr(generated, name)


def groups_of(params: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": params[:3]}, {"params": params[3:]}]


def pair(name: str, **options: Any) -> tuple[list[nn.Parameter], Any, list[nn.Parameter], Any]:
    params = parameters(SHAPES)
    others = twins(params)
    make = class_of(name)
    device = make(groups_of(params), backend="triton", capturable=True, **copy.deepcopy(options))
    return params, device, others, make(groups_of(others), backend="torch", **options)


def numbers(optimizer: Any) -> dict[str, Tensor]:
    first = optimizer.param_groups[0]
    return {state.key: first[state.key] for state in optimizer.schema.of_model if state.key in first}


@pytest.mark.parametrize("name", [*SAMPLE, *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES if n not in SAMPLE)])
def test_devices_count_as_the_host_does(name: str) -> None:
    params, device, others, host = pair(name)
    assert any(map(gathers, device.schema.procedures))
    for seed, missing in enumerate(([], [3], [0], [])):
        give_gradients(seed, params, others)
        for index in missing:
            params[index].grad = others[index].grad = None
        device.step()
        host.step()
    torch.testing.assert_close(params, others, rtol=2e-5, atol=2e-7)
    assert numbers(device).keys() == numbers(host).keys()
    for key, value in numbers(device).items():
        torch.testing.assert_close(value, numbers(host)[key], rtol=2e-6, atol=0.0, equal_nan=True)
        assert all(group[key] is value for group in device.param_groups)
    launchers = [b.launcher for plans in device._plans.values() for b in plans["step"].device_batches]
    assert launchers and all(isinstance(one, CapturableLauncher) for one in launchers)


@pytest.mark.parametrize("name", SAMPLE)
def test_nothing_is_read_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    params, device, _, _ = pair(name)
    train(range(2), (device, params))
    give_gradients(2, params)

    def forbidden(*_: Any) -> Any:
        raise AssertionError("the host waited for the device")

    launches: list[str] = []
    with monkeypatch.context() as patch:
        for method in ("item", "tolist", "__float__", "__bool__", "__int__", "numpy", "cpu"):
            patch.setattr(Tensor, method, forbidden)
        # the kernels themselves are run by NumPy here
        patch.setattr(CapturableLauncher, "begin", lambda *_, **__: launches.append("scalars"))
        patch.setattr(CapturableLauncher, "run", lambda _, kernel, *__, **___: launches.append(f"kernel {kernel}"))
        device.step()
    kernels = len(device.schema.procedures[0].kernels)
    assert sorted(launches) == sorted(["scalars", *(f"kernel {k}" for k in range(kernels))] * 2)


def test_a_skipped_step_changes_no_number_of_the_model() -> None:
    params, device, others, host = pair("Prodigy", amp=True)
    for seed, overflow in enumerate((0.0, 1.0, 0.0, 0.0)):
        before = {key: value.clone() for key, value in numbers(device).items() if isinstance(value, Tensor)}
        for optimizer, model in ((device, params), (host, others)):
            give_gradients(seed, model)
            for p in model:
                assert p.grad is not None
                p.grad.mul_(float("nan") if overflow else 64.0)
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(64.0), torch.tensor(overflow)
            optimizer.step()
        if overflow:
            assert all(torch.equal(value, before[key]) for key, value in numbers(device).items())
    torch.testing.assert_close(params, others, rtol=2e-5, atol=2e-7)
    torch.testing.assert_close(numbers(device), numbers(host), rtol=2e-6, atol=0.0)


def test_checkpoints_move_between_host_and_device() -> None:
    params, device, others, host = pair("Prodigy")
    train(range(3), (device, params))
    host.load_state_dict(device.state_dict())
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p.data)
    train(range(3, 6), (device, params), (host, others))
    torch.testing.assert_close(params, others, rtol=2e-5, atol=2e-7)


def test_conditions_that_the_host_decides_are_refused() -> None:
    make: Any = compile_class(
        """optimizer Conditional:
    hyper: lr = 1e-3 in [0, inf); most = 1.0 shared in (0, inf); least = 1.0 shared in (0, inf)
    step:
        n = total_norm(g)
        if most > least: n = n + 1
        θ <- θ - lr*g/n
"""
    )
    params = parameters(SHAPES)
    optimizer = make(params, backend="triton", capturable=True)
    give_gradients(0, params)
    with pytest.raises(BackendUnavailable, match="leave capturable off"):
        optimizer.step()


class Elsewhere:
    """A device label: tensors that are `moved` there are marked, as a second device is not at hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.moves: list[tuple[Any, bool]] = []

        def to(x: Tensor, device: Any, non_blocking: bool = False) -> Tensor:
            self.moves.append((device, non_blocking))
            return torch.empty_like(x, device=device)

        monkeypatch.setattr(Tensor, "to", to)


def test_numbers_go_to_other_devices_without_waiting_and_stay_where_they_are_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = torch.device("cpu"), torch.device("meta")
    elsewhere, d = Elsewhere(monkeypatch), torch.tensor(2.0, dtype=torch.float64)
    assert devices.placed({"d": d, "t": 3.0}, here) == {"d": d, "t": 3.0} and not elsewhere.moves
    placed = devices.placed({"d": d, "t": 3.0}, there)
    assert isinstance(placed["d"], Tensor) and placed["d"].device == there and placed["t"] == 3.0
    assert elsewhere.moves == [(there, True)]
    parts = [torch.ones(2, 3, dtype=torch.float64), torch.empty(4, 3, dtype=torch.float64, device=there)]
    assert devices.together(parts, there).shape == (6, 3) and elsewhere.moves[1:] == [(there, True)]
    # what comes to the host is waited for: it would read memory that is not there yet
    devices.moved(parts[1], here)
    assert elsewhere.moves[2:] == [(here, False)]
