"""Step counts, cohorts, creation of states, entries, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optc.runtime import choose
from optc.runtime.host_number import HostNumber
from tests.runtime.handmade import SGD, AdamW
from tests.runtime.training import assert_close, assert_equal, give_gradients, parameters, train, twins


def test_equal_histories_share_one_count() -> None:
    params = parameters()
    optimizer = AdamW(params)
    train(range(3), (optimizer, params))
    counts = {id(optimizer.state[p]["step"]) for p in params}
    count = optimizer.state[params[0]]["step"]
    assert len(counts) == 1 and count == 3 and count.shape == () and count.dtype == torch.float32 and count.device.type == "cpu"


def test_a_missing_gradient_splits_and_equal_counts_join_again() -> None:
    params = parameters(dtype=torch.float64)
    others = twins(params)
    ours, torchs = AdamW(params), torch.optim.AdamW(others, foreach=False)
    for seed, missing in enumerate(([], [1], [1, 3], [3], [0, 2, 4], [], [0, 2, 4], [])):
        give_gradients(seed, params, others)
        for index in missing:
            params[index].grad = others[index].grad = None
        ours.step()
        torchs.step()
        assert_close(params, others)
    assert [ours.state[p]["step"].item() for p in params] == [6, 6, 6, 6, 6] == [torchs.state[p]["step"].item() for p in others]
    train([99], (ours, params))
    assert len({id(ours.state[p]["step"]) for p in params}) == 1


def test_a_parameter_may_get_its_first_gradient_late() -> None:
    params = parameters(dtype=torch.float64)
    others = twins(params)
    ours, torchs = AdamW(params, amsgrad=True), torch.optim.AdamW(others, amsgrad=True, foreach=False)
    train(range(20), (ours, params[:2]), (torchs, others[:2]))
    assert params[2] not in ours.state
    train(range(20, 23), (ours, params), (torchs, others))
    assert_close(params, others)
    assert ours.state[params[0]]["step"] == 23 and ours.state[params[2]]["step"] == 3


def test_every_parameter_may_have_a_count_of_its_own() -> None:
    params = parameters([(3,)] * 70, torch.float64)
    others = twins(params)
    ours, torchs = AdamW(params), torch.optim.AdamW(others, foreach=False)
    for seed in range(4):
        give_gradients(seed, params, others)
        for index in range(70):
            ours.state[params[index]]["step"] = torch.tensor(float(index + seed))
            torchs.state[others[index]]["step"] = torch.tensor(float(index + seed))
            for o, p in ((ours, params[index]), (torchs, others[index])):
                for key in ("exp_avg", "exp_avg_sq"):
                    o.state[p].setdefault(key, torch.zeros_like(p))
        ours.step()
        torchs.step()
        assert_close(params, others)
    assert [ours.state[p]["step"].item() for p in params] == [index + 4.0 for index in range(70)]


@pytest.mark.parametrize("value", [torch.tensor(41.0), torch.tensor(41), 41, 41.0, torch.tensor(41.0, dtype=torch.float64)])
def test_a_count_written_from_outside_is_the_truth(value: Any) -> None:
    params, others = parameters(), parameters()
    ours, same = AdamW(params), AdamW(others)
    train(range(2), (ours, params), (same, others))
    same.state[others[0]]["step"].fill_(41.0)
    for p in params:
        ours.state[p]["step"] = value.clone() if isinstance(value, Tensor) else value
    train([2], (ours, params), (same, others))
    assert_equal(params, others)
    assert all(ours.state[p]["step"] == 42 for p in params) and same.state[others[4]]["step"] == 42


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_number_on_the_host_is_the_tensors(dtype: torch.dtype) -> None:
    tensor = torch.tensor(0.0, dtype=dtype)
    number = HostNumber(tensor)
    number.write(0.1)
    assert number.read() == tensor.item() == torch.tensor(0.1, dtype=dtype).item()
    tensor.fill_(3.0)
    assert number.read() == 3.0
    tensor.data = torch.tensor(5.0, dtype=dtype)
    assert number.read() == 5.0
    number.write(float("nan"))
    assert tensor.isnan()


def test_replaced_states_are_used() -> None:
    params, others = parameters(), parameters()
    ours, same = AdamW(params), AdamW(others)
    train(range(2), (ours, params), (same, others))
    ours.state[params[0]]["exp_avg"] = torch.zeros_like(params[0])
    same.state[others[0]]["exp_avg"].zero_()
    ours.state[params[1]] = {key: entry.clone() for key, entry in ours.state[params[1]].items()}
    train(range(2, 4), (ours, params), (same, others))
    assert_equal(params, others)
    del ours.state[params[0]]
    train([4], (ours, params))
    assert ours.state[params[0]]["step"] == 1 and ours.state[params[1]]["step"] == 5


def test_counts_follow_the_default_dtype() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        (p,) = parameters([(2,)])
        optimizer = AdamW([p])
        train([0], (optimizer, [p]))
        assert optimizer.state[p]["step"].dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_states_are_float32_or_float64(dtype: torch.dtype) -> None:
    params = parameters(dtype=dtype)
    optimizer = AdamW(params, amsgrad=True)
    train(range(2), (optimizer, params))
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    for p in params:
        assert {optimizer.state[p][k].dtype for k in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")} == {expected}
        assert p.dtype == dtype and not optimizer.state[p]["exp_avg"].requires_grad


def test_bf16_parameters_are_rounded_once_per_step() -> None:
    params = parameters(dtype=torch.bfloat16)
    others = [nn.Parameter(p.detach().float()) for p in params]
    ours, exact = AdamW(params, lr=0.1), AdamW(others, lr=0.1)
    for seed in range(4):
        give_gradients(seed, params)
        for p, q in zip(params, others, strict=True):
            assert p.grad is not None
            q.data = p.detach().float()
            q.grad = p.grad.float()
        ours.step()
        exact.step()
        assert_equal(params, [q.bfloat16() for q in others])


def test_dtypes_may_mix_in_a_group() -> None:
    params = [*parameters([(3,)]), *parameters([(4,)], torch.bfloat16), *parameters([(2, 2)], torch.float64)]
    alone = twins(params)
    together = AdamW(params)
    single = [AdamW([p]) for p in alone]
    for seed in range(3):
        give_gradients(seed, params, alone)
        for p, q in zip(params, alone, strict=True):
            assert p.grad is not None
            q.grad = p.grad.clone()
        together.step()
        for optimizer in single:
            optimizer.step()
    assert_equal(params, alone)


def test_new_is_true_in_the_creating_step_only() -> None:
    params = parameters(dtype=torch.float64)
    others = twins(params)
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}
    ours, torchs = SGD(params, **options), torch.optim.SGD(others, foreach=False, **options)
    train(range(3), (ours, params[:3]), (torchs, others[:3]))
    train(range(3, 7), (ours, params), (torchs, others))
    assert_close(params, others)


def test_a_failed_first_step_leaves_no_state_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    params = parameters([(3,), (3,)])
    others = twins(params)
    ours, same = SGD(params, momentum=0.9), SGD(others, momentum=0.9)
    give_gradients(0, params)

    def prepare(*_: Any) -> Any:
        raise RuntimeError("no compiler")

    with monkeypatch.context() as patch:
        patch.setattr(choose, "load", lambda name: type("Broken", (), {"name": name, "prepare": staticmethod(prepare)})())
        with pytest.raises(RuntimeError, match="no compiler"):
            ours.step()
    assert not ours.state
    train(range(3), (ours, params), (same, others))
    assert_equal(params, others)


def test_states_appear_when_their_condition_turns_true() -> None:
    params = parameters(dtype=torch.float64)
    others = twins(params)
    ours, torchs = AdamW(params), torch.optim.AdamW(others, foreach=False)
    train(range(3), (ours, params), (torchs, others))
    assert "max_exp_avg_sq" not in ours.state[params[0]]
    ours.param_groups[0]["amsgrad"] = torchs.param_groups[0]["amsgrad"] = True
    for q in others:
        torchs.state[q]["max_exp_avg_sq"] = torch.zeros_like(q)
    train(range(3, 6), (ours, params), (torchs, others))
    assert_close(params, others)
    ours.param_groups[0]["amsgrad"] = torchs.param_groups[0]["amsgrad"] = False
    train(range(6, 8), (ours, params), (torchs, others))
    assert_close(params, others)


def test_initial_values_read_the_parameter_before_the_step() -> None:
    params = parameters(dtype=torch.bfloat16)
    before = [p.detach().clone() for p in params]
    optimizer = SGD(params, lr=0.5)
    train([0], (optimizer, params))
    assert_equal([optimizer.state[p]["slow"] for p in params], [b.float() for b in before])


def test_host_states_are_float64_and_shared_like_counts() -> None:
    params = parameters([(2,), (2,)])
    optimizer = SGD(params)
    train(range(2), (optimizer, params))
    train([2], (optimizer, params[:1]))
    params[1].grad = None
    optimizer.step()
    one, two = (optimizer.state[p]["count"] for p in params)
    assert one.dtype == torch.float64 and one.shape == () and one == 4 and two == 3


def test_unusable_gradients_are_refused_before_anything_changes() -> None:
    table = nn.Embedding(4, 2, sparse=True)
    (p,) = parameters([(3,)])
    optimizer = AdamW([{"params": [p]}, {"params": table.parameters()}])
    before = twins([p, table.weight])
    for _ in range(2):
        give_gradients(0, [p])
        torch.autograd.backward(table(torch.tensor([1, 2])).sum())
        with pytest.raises(ValueError, match=r"parameter 0 of group 1: its gradient is sparse .torch.sparse_coo.: use a dense"):
            optimizer.step()
        assert_equal([p, table.weight], before)
        assert not optimizer.state
        table.weight.grad = None
    named = AdamW([("first", p), ("table", table.weight)])
    torch.autograd.backward(table(torch.tensor([1, 2])).sum())
    with pytest.raises(ValueError, match="parameter 'table': its gradient is sparse"):
        named.step()


def test_a_step_tells_autograd_that_parameters_changed() -> None:
    p = nn.Parameter(torch.ones(2))
    loss = (p * p).sum()
    optimizer = AdamW([p])
    give_gradients(0, [p])
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(loss)


def test_nothing_to_do_is_no_error() -> None:
    params = parameters()
    optimizer = AdamW(params)
    optimizer.step()
    assert not optimizer.state


class TestEntries:
    def test_inputs_by_order_by_parameter_or_from_gradients(self) -> None:
        params = parameters([(3,), (4,)], torch.bfloat16)
        frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
        start = [p.detach().float() for p in params]
        optimizer = SGD([params[0], frozen, params[1]], lr=0.5)
        deltas = [torch.ones(3), torch.full((4,), 2.0)]
        optimizer.shift(deltas)
        optimizer.shift({params[1]: deltas[1].double()})
        optimizer.shift([None, deltas[1].bfloat16()])
        give_gradients(0, params)
        optimizer.shift()
        assert params[0].grad is not None and params[1].grad is not None
        slow = [optimizer.state[p]["slow"] for p in params]
        expected = [start[0] + 0.5 + 0.5 * params[0].grad.float(), start[1] + 3.0 + 0.5 * params[1].grad.float()]
        torch.testing.assert_close(slow, expected)
        assert optimizer.state[params[0]]["step"] == 0 and frozen not in optimizer.state
        assert_equal(params, [s.bfloat16() for s in start])

    def test_a_state_that_only_the_step_uses_is_still_new_in_the_first_step(self) -> None:
        params, others = parameters(), parameters()
        ours, plain = SGD(params, momentum=0.9, dampening=0.5), SGD(others, momentum=0.9, dampening=0.5)
        ours.shift([torch.zeros_like(p) for p in params])
        train(range(3), (ours, params), (plain, others))
        ours.shift([torch.zeros_like(p) for p in params])
        train(range(3, 5), (ours, params), (plain, others))
        assert_equal(params, others)
        assert ours.state[params[0]]["step"] == 5

    def test_wrong_inputs_are_refused(self) -> None:
        params = parameters([(3,), (4,)])
        optimizer = SGD(params)
        for given, message in (
            ([torch.ones(3)], "delta must have a tensor or None for each of the 2 parameters"),
            ([torch.ones(3), torch.ones(3)], r"parameter 1 of group 0: its delta has shape \(3,\), the parameter \(4,\)"),
            ({torch.ones(3): torch.ones(3)}, "delta has 1 tensors for parameters that are not in this optimizer"),
            ([torch.ones(3), torch.ones(4, dtype=torch.int32)], "its delta has dtype torch.int32"),
        ):
            with pytest.raises(ValueError, match=message):
                optimizer.shift(given)
            assert not optimizer.state
