"""Every optimizer that torch has too: files move both ways, in the middle of a run; every shipped one resumes bit for bit."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Mapping, Sequence
from threading import Thread
from typing import Any

import pytest
import torch
from torch import nn

import optc
from tests.runtime.training import assert_equal, parameters, train, twins

BACKENDS = ["torch", "native"]

IN_TORCH: list[tuple[str, Mapping[str, Any]]] = [
    ("SGD", {"lr": 0.01}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("ASGD", {"lr": 0.01, "t0": 3, "lambd": 1e-2, "weight_decay": 0.1}),
    ("Rprop", {"lr": 0.01, "etas": (0.4, 1.3), "step_sizes": (1e-5, 0.1)}),
    ("Adam", {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.01}),
    ("AdamW", {"lr": 0.01, "amsgrad": True}),
    ("NAdam", {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {"lr": 0.01, "weight_decay": 0.1}),
    ("Adamax", {"lr": 0.01, "weight_decay": 0.1}),
    ("Adagrad", {"lr": 0.01, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.1}),
    ("Adadelta", {"lr": 0.1, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.9, "weight_decay": 0.1}),
]
FLOAT32_SCALARS = {"ASGD": 1e-8, "NAdam": 1e-8}
"""torch keeps step sizes and products of these in float32 tensors, which rounds them; here they are float64."""


def through_a_file(state: Mapping[str, Any]) -> Any:
    """As `torch.save` and `torch.load` give it back, without running code from the file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "hypers"), IN_TORCH)
def test_files_move_both_ways(name: str, hypers: Mapping[str, Any], backend: str) -> None:
    theirs: Any = getattr(torch.optim, name)
    first = parameters(dtype=torch.float64)
    ours_first, theirs_first = twins(first), twins(first)
    ours = optc.create(name, ours_first, backend=backend, **hypers)
    plain = theirs(theirs_first, **hypers)
    train(range(5), (ours, ours_first), (plain, theirs_first))

    from_torch, from_ours = twins(theirs_first), twins(ours_first)
    resumed = optc.create(name, from_torch, backend=backend)
    resumed_plain = theirs(from_ours)
    resumed.load_state_dict(through_a_file(plain.state_dict()))
    resumed_plain.load_state_dict(through_a_file(ours.state_dict()))
    train(
        range(5, 10), (resumed, from_torch), (resumed_plain, from_ours), (ours, ours_first), (plain, theirs_first)
    )  # hypers are in the file
    tolerance = FLOAT32_SCALARS.get(name, 1e-12)
    for one in (ours_first, from_torch, from_ours):
        torch.testing.assert_close(one, theirs_first, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", optc.available())
def test_a_run_is_resumed_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    params = parameters(dtype=dtype)
    optimizer = optc.create(name, params, backend="torch")
    train(range(4), (optimizer, params))
    loaded_params = twins(params)
    loaded = optc.create(name, loaded_params, backend="torch")
    loaded.load_state_dict(through_a_file(optimizer.state_dict()))
    pairs: list[tuple[torch.optim.Optimizer, Sequence[nn.Parameter]]] = [(loaded, loaded_params)]
    for copied_params, copied in (copy.deepcopy((params, optimizer)), pickle.loads(pickle.dumps((params, optimizer)))):
        pairs.append((copied, copied_params))
    train(range(4, 8), (optimizer, params), *pairs)
    for _, resumed in pairs:
        assert_equal(params, resumed)


def test_optimizers_in_several_threads_do_not_disturb_one_another() -> None:
    names = ["AdamW", "SGD", "RAdam", "Lion", "AdamW", "Adagrad"]

    def run(index: int) -> Sequence[nn.Parameter]:
        params = parameters(((50,), (7, 3)), seed=index)
        train(range(20), (optc.create(names[index], params), params))
        return params

    alone = [run(index) for index in range(len(names))]
    together: dict[int, Sequence[nn.Parameter]] = {}
    threads = [Thread(target=lambda i=i: together.update({i: run(i)})) for i in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for index, params in enumerate(alone):
        assert_equal(params, together[index])
