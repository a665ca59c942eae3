"""What may happen to a state that is kept as codes: late gradients, moved parameters, edits by hand, copies, skipped steps."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import optc
from optc.generated import AdamW4bit, AdamW8bit, AdamWFp8
from optc.runtime.codebook import Codebook
from optc.runtime.storage import encoded
from tests.runtime.storing import BACKENDS, entries, every
from tests.runtime.training import assert_equal, give_gradients, parameters, train, twins

INF = float("inf")


@BACKENDS
def test_frozen_and_late_parameters_keep_their_own_time(backend: str) -> None:
    params = parameters([(80, 64), (4100,), (6,)])
    optimizer = AdamW4bit(params, lr=0.1, backend=backend)
    late = twins(params[1:2])
    other = AdamW4bit(late, lr=0.1, backend=backend)
    for seed in range(6):
        give_gradients(seed, params)
        if seed < 2 or seed == 4:
            params[1].grad = None
        params[2].requires_grad_(seed != 3)
        late[0].grad = None if params[1].grad is None else params[1].grad.clone()
        before = [x.clone() for x in entries(optimizer, params[1:2])]
        optimizer.step()
        other.step()
        if params[1].grad is None:
            assert_equal(before, entries(optimizer, params[1:2]))
    assert_equal(params[1:2], late)
    assert_equal(entries(optimizer, params[1:2]), entries(other, late))


@BACKENDS
def test_parameters_may_move(backend: str) -> None:
    """To other memory, to another dtype and back: codes stay where they are."""
    params = parameters([(80, 64), (5,)])
    others = twins(params)
    optimizer, other = AdamW8bit(params, backend=backend), AdamW8bit(others, backend=backend)
    train(range(2), (optimizer, params), (other, others))
    kept = optimizer.state[params[0]]["exp_avg"]
    for p in params:
        p.data = p.data.clone()
    train(range(2, 4), (optimizer, params), (other, others))
    for p in params:
        p.data = p.data.double()
        p.data = p.data.t().contiguous().t() if p.ndim == 2 else p.data
        p.grad = None
    optimizer.zero_grad()
    train([4], (optimizer, params))
    assert optimizer.state[params[0]]["exp_avg"] is kept and kept.dtype == torch.uint8
    assert optimizer.state[params[1]]["exp_avg"].dtype == torch.float64


@BACKENDS
@pytest.mark.parametrize(
    "change", [lambda x: x, lambda x: x.double(), lambda x: x.bfloat16(), lambda x: x.t().contiguous().t()]
)
def test_numbers_put_into_the_state_are_kept_as_codes(backend: str, change: Any) -> None:
    params = parameters([(80, 64)])
    optimizer = AdamW8bit(params, backend=backend)
    train(range(2), (optimizer, params))
    (p,) = params
    slot = optimizer.state[p]
    x = change(torch.randn(p.shape, generator=torch.Generator().manual_seed(5)))
    book = optimizer.schema.states[0].storage
    assert isinstance(book, Codebook)
    others = twins(params)
    other = AdamW8bit(others, backend=backend)
    other.load_state_dict(optimizer.state_dict())
    other.state[others[0]]["exp_avg"], other.state[others[0]]["exp_avg_scale"] = encoded(x, book, p.device)
    slot["exp_avg"] = x
    train(range(2, 4), (optimizer, params), (other, others))
    assert slot["exp_avg"].dtype == torch.uint8
    assert_equal(params, others)
    assert_equal(entries(optimizer, params), entries(other, others))


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("exp_avg", torch.ones(3)),
        ("exp_avg", torch.ones(64, 80)),
        ("exp_avg", torch.ones(80, 64, dtype=torch.int32)),
        ("exp_avg", torch.ones(64, 80, dtype=torch.uint8)),
        ("exp_avg_scale", torch.ones(21)),
        ("exp_avg_scale", None),
    ],
)
def test_a_state_that_does_not_fit_is_told_and_changes_nothing(key: str, wrong: Any) -> None:
    params = parameters([(80, 64), (4100,)])
    optimizer = AdamW8bit(params, backend="torch")
    train(range(2), (optimizer, params))
    before, slot = twins(params), optimizer.state[params[0]]
    slot[key] = wrong
    if wrong is None:
        del slot[key]
    with pytest.raises(ValueError, match=r"must be codes of shape \(80, 64\) with 20 scales under 'exp_avg_scale', or numbers"):
        train([2], (optimizer, params))
    assert_equal(params, before)
    assert optimizer.state[params[1]]["step"] == 2


def test_copies_and_pickles_are_complete_and_apart() -> None:
    params = parameters([(80, 64), (7,)])
    optimizer = AdamW4bit(params, backend="torch")
    train(range(2), (optimizer, params))
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        others = other.param_groups[0]["params"]
        assert_equal(entries(optimizer, params), entries(other, others))
        assert all(
            a.data_ptr() != b.data_ptr() for a, b in zip(entries(optimizer, params), entries(other, others), strict=True)
        )
        ours = twins(params)
        again = AdamW4bit(ours, backend="torch")
        again.load_state_dict(optimizer.state_dict())
        train(range(2, 4), (other, others), (again, ours))
        assert_equal(others, ours)


def test_states_can_be_made_before_the_first_step() -> None:
    params = parameters([(80, 64), (7,)])
    others = twins(params)
    optimizer, other = every()(params, backend="torch"), every()(others, backend="torch")
    optimizer.init_state()
    assert optimizer.state[params[0]]["z"].dtype == torch.uint8
    train(range(3), (optimizer, params), (other, others))
    assert_equal(params, others)
    assert_equal(entries(optimizer, params), entries(other, others))


def test_a_skipped_step_leaves_codes_alone() -> None:
    params = parameters([(80, 64)])
    optimizer = AdamW4bit(params, backend="torch", amp=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    train([0], (optimizer, params))
    before = [x.clone() for x in (*params, *entries(optimizer, params))]
    scaler.scale(torch.tensor(1.0))
    give_gradients(1, params)
    assert params[0].grad is not None
    params[0].grad[3, 3] = INF
    scaler.step(optimizer)
    assert_equal(before, [x.detach() for x in (*params, *entries(optimizer, params))])


@pytest.mark.parametrize("ties", ["up", "down", "even"])
def test_zeros_of_either_sign_have_one_code(ties: str) -> None:
    """Where the bound between two levels is 0, native code must not go by the sign bit."""
    text = f'storage q:\n    codes = 16\n    ties = "{ties}"\n    smallest = 0\n    define level(c) = (c - 7.5)/8\n'
    text += "optimizer Last:\n    hyper: lr = 0.1\n    state: m = 0\n    storing m: q\n    step:\n        m <- g\n"
    kind = optc.compile(text + "        theta <- theta - lr*m\n")
    kept = []
    for backend in ("torch", "native"):
        p = nn.Parameter(torch.ones(64))
        optimizer = kind([p], backend=backend)
        p.grad = torch.tensor([1.0, -0.0, 0.0, -0.0, 1e-45, -1e-45, *[0.0] * 58])
        optimizer.step()
        kept.append(optimizer.state[p]["m"])
    assert kept[0].tolist() == kept[1].tolist()


def test_states_in_one_storage_that_leaves_codes_out_compile() -> None:
    params = parameters([(80, 64)])
    others = twins(params)
    optimizer, other = AdamWFp8(params, backend="native"), AdamWFp8(others, backend="torch")
    train([0], (optimizer, params), (other, others))
    torch.testing.assert_close(params, others)


@pytest.mark.parametrize(("one", "two"), [("q", "Q"), ("q(block = 128)", "q_block_128")])
def test_storages_of_similar_names_are_two(one: str, two: str) -> None:
    before = "".join(
        f"storage {name.split('(')[0]}:\n    codes = 16\n    block = 64\n    define level(c) = (c - 7)/{by}\n"
        for name, by in ((one, 8), (two, 9))
    )
    text = f"optimizer Two:\n    hyper: lr = 0.1\n    state: m = 0; w = 0\n    storing m: {one}, w: {two}\n    step:\n"
    try:
        optimizer = optc.compile(before + text + "        m <- m + g\n        w <- w - g\n        theta <- theta - lr*m*w\n")
    except optc.SpecError:
        return  # that would do, too
    levels = [s.storage.levels[0] for s in optimizer.schema.states]
    assert levels == [-7 / 8, float(np.float32(-7 / 9))]


@pytest.mark.parametrize("state", ["m_scale = 0 per tensor", "n = 0 as m_scale per tensor", "m_scale = theta"])
def test_no_state_takes_the_place_of_scales(state: str) -> None:
    name = state.split()[0]
    text = f"optimizer Two:\n    hyper: lr = 0.1\n    state: m = 0; {state}\n    storing m: dynamic8\n    step:\n"
    text += f"        m <- m + g\n        {name} <- {name} + 1\n        theta <- theta - lr*m*{name}\n"
    with pytest.raises(optc.SpecError, match="m_scale"):
        optc.compile(text)


@BACKENDS
@pytest.mark.parametrize("storage", ["fp64", "fp32", "bf16", "dynamic8(smallest = 0)"])
def test_entries_compute_in_the_dtype_of_their_parameters(storage: str, backend: str) -> None:
    """Also where the only thing that they read and write is kept in another: it is rounded on the way back, once."""
    text = "optimizer Two:\n    hyper: lr = 0.1\n    state: h = 0\n    STORING\n    step: theta <- theta - lr*g/(1 + h)\n"
    text += "    entry feed(x per elem): h <- h + x*x/3\n"
    stored, plain = (optc.compile(text.replace("STORING", clause)) for clause in (f"storing h: {storage}", "# as it is"))
    for dtype in (torch.float32, torch.float64):
        x, found = torch.linspace(0.1, 2, 70, dtype=dtype), []
        for kind in (stored, plain):
            p = torch.nn.Parameter(torch.ones(70, dtype=dtype))
            p.grad = torch.ones_like(p)
            optimizer = kind([p], backend=backend)
            optimizer.feed(x=[x])
            found.append(optimizer.state[p])
        state, exact = stored.schema.states[0], found[1]["h"]
        if state.codebook(70) is not None:
            expected = dict(zip(("h", "h_scale"), encoded(exact, state.codebook(70), exact.device), strict=True))
        else:
            expected = {"h": exact.to(found[0]["h"].dtype)}
        assert exact.dtype == dtype
        assert all(torch.equal(found[0][key], value) for key, value in expected.items()), (storage, dtype)
