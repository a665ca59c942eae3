"""State dicts: torch's layout both ways, exact resume, errors that change nothing."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from tests.runtime.handmade import SGD, AdamW
from tests.runtime.training import SHAPES, assert_close, assert_equal, give_gradients, parameters, train, twins


def through_a_file(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Saved and loaded as trainers do."""
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [AdamW, SGD])
def test_a_resumed_run_is_bit_exact(kind: Any, dtype: torch.dtype) -> None:
    options = {"amsgrad": True} if kind is AdamW else {"momentum": 0.9, "every": 2}
    params = parameters(dtype=dtype)
    optimizer = kind(params, lr=0.01, **options)
    train(range(3), (optimizer, params[:3]))
    train(range(3, 5), (optimizer, params))
    others = twins(params)
    resumed = kind(others)
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    assert resumed.param_groups[0]["lr"] == 0.01
    for p, q in zip(params, others, strict=True):
        assert {k: v.dtype for k, v in optimizer.state[p].items()} == {k: v.dtype for k, v in resumed.state[q].items()}
    train(range(5, 9), (optimizer, params), (resumed, others))
    assert_equal(params, others)


def test_state_dicts_share_nothing_with_the_optimizer_they_are_loaded_into() -> None:
    params = parameters()
    optimizer, other = AdamW(params), AdamW(parameters())
    train(range(2), (optimizer, params))
    saved = optimizer.state_dict()
    counts = [slot["step"] for slot in saved["state"].values()]
    assert len({id(c) for c in counts}) == len(params) and all(c == 2 for c in counts)
    other.load_state_dict(saved)
    train([2], (optimizer, params))
    assert all(c == 2 for c in counts)
    q = other.param_groups[0]["params"][0]
    assert other.state[q]["step"] == 2 and other.state[q]["exp_avg"] is not optimizer.state[params[0]]["exp_avg"]
    counts[0].fill_(77.0)
    assert optimizer.state[params[0]]["step"] == 3


@pytest.mark.parametrize("amsgrad", [False, True])
def test_torchs_adamw_and_ours_load_each_others_files(amsgrad: bool) -> None:
    params = parameters(dtype=torch.float64)
    others = twins(params)
    ours, torchs = AdamW(params, amsgrad=amsgrad, lr=0.1), torch.optim.AdamW(others, amsgrad=amsgrad, lr=0.1, foreach=False)
    train(range(3), (ours, params), (torchs, others))
    ours_then, torchs_then = AdamW(params), torch.optim.AdamW(others, foreach=False)
    ours_then.load_state_dict(through_a_file(torchs.state_dict()))
    torchs_then.load_state_dict(through_a_file(ours.state_dict()))
    train(range(3, 6), (ours_then, params), (torchs_then, others))
    assert_close(params, others)
    assert ours_then.param_groups[0]["amsgrad"] is amsgrad and ours_then.state[params[0]]["step"] == 6
    again = torch.optim.AdamW(twins(params))
    again.load_state_dict(through_a_file(ours_then.state_dict()))
    train([0], (again, again.param_groups[0]["params"]))


def test_torchs_sgd_and_ours_load_each_others_files() -> None:
    schema_keys: dict[str, Any] = {"momentum": 0.9, "lr": 0.1, "dampening": 0.5}
    params = parameters(dtype=torch.float64)
    others = twins(params)
    ours, torchs = SGD(params, **schema_keys), torch.optim.SGD(others, foreach=False, **schema_keys)
    train(range(3), (ours, params), (torchs, others))
    torchs_then = torch.optim.SGD(others, foreach=False)
    torchs_then.load_state_dict(through_a_file(ours.state_dict()))
    torchs_then.param_groups[0]["weight_decay"] = 0  # the one by hand has none
    train([3], (ours, params), (torchs_then, others))
    assert_close(params, others)
    saved = torchs_then.state_dict()
    for index, p in enumerate(params):
        saved["state"][index] |= {"slow": p.detach().clone(), "count": 4}
        saved["state"][index].pop("step", None)
    ours_then = SGD(params)
    ours_then.load_state_dict(through_a_file(saved))
    train([4], (ours_then, params), (torchs_then, others))
    assert_close(params, others)


def test_a_buffer_saved_as_none_is_absent() -> None:
    params = parameters([(2,)])
    optimizer = SGD(params)
    train([0], (optimizer, params))
    saved = optimizer.state_dict()
    saved["state"][0]["momentum_buffer"] = None
    optimizer.load_state_dict(saved)
    assert "momentum_buffer" not in optimizer.state[params[0]]


def test_bf16_states_of_torch_become_float32() -> None:
    others = parameters(dtype=torch.bfloat16)
    torchs = torch.optim.AdamW(others)
    train(range(2), (torchs, others))
    params = twins(others)
    ours = AdamW(params)
    ours.load_state_dict(torchs.state_dict())
    assert_equal([ours.state[p]["exp_avg"] for p in params], [torchs.state[q]["exp_avg"].float() for q in others])


@pytest.mark.parametrize("step", [5, 5.0, torch.tensor(5), torch.tensor([5.0]), torch.tensor(5.0, dtype=torch.float64)])
def test_counts_may_be_saved_as_any_number(step: Any) -> None:
    params = parameters([(2,)])
    optimizer = AdamW(params)
    train([0], (optimizer, params))
    saved = optimizer.state_dict()
    saved["state"][0]["step"] = step
    optimizer.load_state_dict(saved)
    train([1], (optimizer, params))
    count = optimizer.state[params[0]]["step"]
    assert count == 6 and count.shape == () and count.dtype == torch.float32


def test_an_older_file_keeps_the_present_values_of_what_it_lacks() -> None:
    params = parameters([(2,)])
    saved = AdamW(params, lr=0.5).state_dict()
    for key in ("amsgrad", "eps", "maximize", "capturable"):
        del saved["param_groups"][0][key]
    optimizer = AdamW(params, eps=0.25)
    optimizer.load_state_dict(saved)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["eps"], group["amsgrad"], group["maximize"], group["capturable"]) == (
        0.5,
        0.25,
        False,
        False,
        False,
    )


def test_capturable_is_not_taken_from_a_file_and_maximize_is() -> None:
    params = parameters([(2,)])
    saved = AdamW(params, maximize=True).state_dict()
    saved["param_groups"][0]["capturable"] = True
    optimizer = AdamW(params)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["capturable"] is False and optimizer.param_groups[0]["maximize"] is True
    train([0], (optimizer, params))


def change(path: str, value: Any) -> Any:
    """A function that writes one entry of a saved state dict; `...` deletes it."""

    def apply(saved: Any) -> None:
        *way, last = (int(part) if part.isdigit() else part for part in path.split("/"))
        for part in way:
            saved = saved[part]
        if value is ...:
            del saved[last]
        else:
            saved[last] = value

    return apply


DAMAGE: dict[str, tuple[Any, str]] = {
    "no groups": (change("param_groups", ...), "needs `state` and `param_groups`"),
    "fewer groups": (lambda saved: saved["param_groups"].pop(), r"has groups of \[2\] parameters, this AdamW of \[2, 3\]"),
    "fewer parameters": (lambda saved: saved["param_groups"][1]["params"].pop(), r"groups of \[2, 2\] parameters"),
    "state missing": (change("state/1/exp_avg", ...), "parameter 1: 'exp_avg' is missing"),
    "step missing": (change("state/1/step", ...), "parameter 1: 'step' is missing"),
    "wrong shape": (
        change("state/4/exp_avg", torch.ones(3)),
        r"'exp_avg' must be a tensor of shape \(2, 3, 4\), not .* \(3,\)",
    ),
    "not a tensor": (change("state/0/exp_avg", 1.0), "'exp_avg' must be a tensor"),
    "not a number": (change("state/0/step", "many"), "'step' must be a number, not 'many'"),
    "negative": (change("state/0/step", -1), "'step' must be a number"),
    "unknown state": (
        change("state/0/exp_avg_sqq", torch.ones(4, 3)),
        "unknown state 'exp_avg_sqq'; did you mean 'exp_avg_sq'",
    ),
    "unknown parameter": (change("state/9", {}), "state for 9, which no group has"),
    "bad hyper": (change("param_groups/1/lr", -1.0), "group 1: AdamW: lr = -1.0, but it must be"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(damage: str) -> None:
    apply, message = DAMAGE[damage]
    params = parameters()
    optimizer = AdamW([{"params": params[:2]}, {"params": params[2:], "lr": torch.tensor(0.5)}])
    train(range(2), (optimizer, params))
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["lr"] = 0.125
    apply(saved)
    before, groups = copy.deepcopy(optimizer.state_dict()), list(optimizer.param_groups)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    assert str(after) == str(before) and all(a is b for a, b in zip(groups, optimizer.param_groups, strict=True))


@pytest.mark.parametrize("given", [None, 3, [1], "saved.pt"])
def test_what_is_no_state_dict_is_told(given: Any) -> None:
    params = parameters()
    with pytest.raises(TypeError, match=f"^load_state_dict of AdamW takes a dict, .* not {type(given).__name__}$"):
        AdamW(params).load_state_dict(given)


def test_all_problems_come_at_once() -> None:
    params = parameters()
    optimizer = AdamW(params)
    train([0], (optimizer, params))
    saved = optimizer.state_dict()
    for index in range(5):
        saved["state"][index] |= {"a": 1, "b": 2, "c": 3}
    with pytest.raises(ValueError) as error:
        optimizer.load_state_dict(saved)
    assert str(error.value).count("unknown state") == 10 and "… and 5 more" in str(error.value)


def test_a_tensor_lr_stays_the_same_tensor_when_a_file_is_loaded() -> None:
    params = parameters([(2,)])
    lr = torch.tensor(0.5)
    optimizer = AdamW(params, lr=lr)
    for saved, expected in ((AdamW(params, lr=0.25), 0.25), (AdamW(params, lr=torch.tensor(0.125)), 0.125)):
        optimizer.load_state_dict(through_a_file(saved.state_dict()))
        assert optimizer.param_groups[0]["lr"] is lr and lr == expected
    plain = AdamW(params, lr=1.0)
    plain.load_state_dict(optimizer.state_dict())
    assert plain.param_groups[0]["lr"] == 0.125 and plain.param_groups[0]["lr"] is not lr
    train([0], (plain, params))


def test_hooks_of_loading_and_saving_run() -> None:
    params = parameters([(2,)])
    optimizer = AdamW(params)
    train([0], (optimizer, params))
    calls: list[Any] = []
    optimizer.register_state_dict_post_hook(lambda o, saved: {**saved, "extra": 1})

    def halve(o: Any, saved: Any) -> Any:
        groups = [{**group, "lr": group["lr"] / 2} for group in saved["param_groups"]]
        return {**saved, "param_groups": groups}

    optimizer.register_load_state_dict_pre_hook(halve)
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append(o.state[params[0]]["step"].item()))
    saved = optimizer.state_dict()
    assert saved["extra"] == 1
    optimizer.load_state_dict(state_dict=saved)
    assert calls == [1.0] and optimizer.param_groups[0]["lr"] == 5e-4


def test_states_are_loaded_into_the_parameters_memory_order() -> None:
    p = nn.Parameter(torch.randn(2, 3, 4, 5))
    q = nn.Parameter(p.detach().clone(memory_format=torch.channels_last))
    optimizer, other = AdamW([p]), AdamW([q])
    train(range(2), (optimizer, [p]), (other, [q]))
    other.load_state_dict(optimizer.state_dict())
    assert other.state[q]["exp_avg"].stride() == q.stride()
    train(range(2, 4), (optimizer, [p]), (other, [q]))
    assert_equal([p], [q])


def test_an_empty_state_round_trips() -> None:
    optimizer = AdamW(parameters())
    optimizer.load_state_dict(through_a_file(optimizer.state_dict()))
    assert not optimizer.state


@pytest.mark.parametrize("kind", [AdamW, SGD])
def test_the_dry_run_of_distributed_checkpoints_moves_nothing(kind: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).bfloat16()
    before = twins(list(model.parameters()))
    optimizer = kind(model.parameters(), lr=0.1)
    get_optimizer_state_dict(model, optimizer)
    assert_equal(list(model.parameters()), before)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_distributed_checkpoints_resume_exactly() -> None:
    def make(seed: int) -> tuple[nn.Module, AdamW]:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).bfloat16()
        return model, AdamW(model.parameters(), lr=0.1)

    model, optimizer = make(0)
    train(range(3), (optimizer, list(model.parameters())))
    other, resumed = make(1)
    other.load_state_dict(model.state_dict())
    set_optimizer_state_dict(other, resumed, get_optimizer_state_dict(model, optimizer))
    train(range(3, 6), (optimizer, list(model.parameters())), (resumed, list(other.parameters())))
    assert_equal(list(model.parameters()), list(other.parameters()))


def test_init_state_makes_what_a_step_would_and_can_be_loaded_into() -> None:
    params = parameters(SHAPES)
    optimizer = AdamW(params, amsgrad=True)
    before = twins(params)
    optimizer.init_state()
    assert_equal(params, before)
    assert all(set(optimizer.state[p]) == {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"} for p in params)
    others = twins(params)
    fresh = AdamW(others, amsgrad=True)
    train(range(3), (optimizer, params), (fresh, others))
    assert_equal(params, others)


def test_old_pickles_get_the_hypers_they_lack() -> None:
    params = parameters([(2,)])
    optimizer = AdamW(params)
    state = optimizer.__getstate__()
    del state["param_groups"][0]["eps"]
    optimizer.__setstate__(state)
    assert optimizer.param_groups[0]["eps"] == 1e-8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        give_gradients(0, params)
        optimizer.step()
