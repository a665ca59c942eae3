"""What only bitsandbytes has: schedules of AdEMAMix, blocks of before, numbers beside codes, momentum that begins anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import optc
from optc.generated import Adagrad8bit, AdamW, AdamW8bit, AdamWBf16, AdEMAMix8bit, SGD8bit
from optc.runtime import storage
from tests.runtime.storing import loading
from tests.runtime.training import assert_equal, parameters, train, twins
from tests.specs.low_memory import OF_BITSANDBYTES, assert_same_codes, books_of, in_memory, loaded, one_thread

SHAPES = ((64, 64), (4097,), (70, 66), (16, 300, 2), (4095,), (5, 3), ())


@pytest.fixture(scope="module", autouse=True)
def single() -> Iterator[None]:
    with one_thread():
        yield


def test_schedules_of_ademamix_come_along(bitsandbytes: Any) -> None:
    """They are counted on from the step in the file."""
    params = parameters(SHAPES[3:])
    theirs = bitsandbytes.optim.AdEMAMix8bit(params, lr=1e-3, alpha=4.0, t_alpha=9, t_beta3=7)
    train(range(3), (theirs, params))
    others = twins(params)
    ours = AdEMAMix8bit(others)
    loaded(ours, theirs.state_dict())
    (group,) = ours.param_groups
    assert (group["alpha"], group["alpha_warmup"], group["beta3_warmup"]) == (4.0, 9, 7)
    (exported,) = optc.export_state(ours, "bitsandbytes")["param_groups"]
    assert {**exported, "params": None} == {**theirs.param_groups[0], "params": None}
    train(range(3, 6), (ours, others), (theirs, params))
    torch.testing.assert_close(others, params, rtol=1e-5, atol=1e-5)


def test_numbers_for_bitsandbytes_are_numbers_there(bitsandbytes: Any) -> None:
    """States in float32 or 16 bits: it goes on with float32, be it asked for 8 bits or not."""
    for kind in (AdamW, AdamWBf16):
        params = parameters(SHAPES)
        ours = kind(params, lr=1e-3)
        train(range(3), (ours, params))
        others = twins(params)
        theirs = bitsandbytes.optim.AdamW8bit(others)
        theirs.load_state_dict(optc.export_state(ours, "bitsandbytes"))
        assert all(theirs.state[q]["state1"].dtype == torch.float32 for q in others)
        train(range(3, 6), (ours, params), (theirs, others))
        torch.testing.assert_close(params, others, rtol=1e-6, atol=1e-6 if kind is AdamW else 2e-4)
        back = kind(twins(others))
        loaded(back, theirs.state_dict())


def test_the_sum_of_adagrad_is_converted(bitsandbytes: Any) -> None:
    """Ours has codes for numbers of 0 or above, the library codes for signed numbers."""
    params = parameters(SHAPES)
    theirs = bitsandbytes.optim.Adagrad8bit(params)
    train(range(3), (theirs, params))
    others = twins(params)
    ours = Adagrad8bit(others)
    name = "8-bit codes of bitsandbytes in blocks of 256"
    assert loading(ours, theirs.state_dict()) == [
        f"Adagrad8bit: 'sum' is kept as {name} in the file and as udynamic8 here: converted"
    ]
    state, book = theirs.state[params[0]], books_of(ours)["sum"]
    numbers = bitsandbytes.functional.dequantize_blockwise(
        state["state1"], absmax=state["absmax1"], code=state["qmap1"], blocksize=256
    )
    assert_equal(in_memory(ours, others[0])["sum"], [x.view(-1) for x in storage.encoded(numbers, book, numbers.device)])


def test_codes_of_bitsandbytes_become_numbers(bitsandbytes: Any) -> None:
    """With its own table of levels, in whatever optimizer; and codes of small tensors, which it can be told to keep."""
    params = parameters(((64, 64), (70, 66), (100, 3)))
    theirs = bitsandbytes.optim.AdamW8bit(params, min_8bit_size=1)
    train(range(3), (theirs, params))
    others, small = twins(params), twins(params)
    plain, coded = AdamW(others), AdamW8bit(small)
    assert len(loading(plain, theirs.state_dict())) == len(loading(coded, theirs.state_dict())) == 2
    for p, q in zip(params, others, strict=True):
        state = theirs.state[p]
        for number, key in ((1, "exp_avg"), (2, "exp_avg_sq")):
            numbers = bitsandbytes.functional.dequantize_blockwise(
                state[f"state{number}"], absmax=state[f"absmax{number}"], code=state[f"qmap{number}"], blocksize=256
            )
            assert_equal([plain.state[q][key]], [numbers])
    assert_equal([coded.state[small[2]]["exp_avg"]], [plain.state[others[2]]["exp_avg"]])


def test_blocks_of_old_versions_of_bitsandbytes(bitsandbytes: Any) -> None:
    params = parameters(((64, 64), (70, 66)))
    theirs = bitsandbytes.optim.Lion8bit(params)
    train([0], (theirs, params))
    saved = theirs.state_dict()
    for slot, p in zip(saved["state"].values(), params, strict=True):
        inner = slot.pop("__bnb_optimizer_quant_state__")  # nor had they this table
        slot.update(inner, absmax1=torch.arange(1.0, 1 + -(-p.numel() // 2048)))
    others = twins(params)
    ours = optc.create("lion", others)
    assert loading(ours, saved) == [
        "Lion: 'exp_avg' is kept as 8-bit codes of bitsandbytes in blocks of 2048 in the file and as numbers here: converted"
    ]
    for p, q in zip(params, others, strict=True):
        slot = saved["state"][0 if p is params[0] else 1]
        expected = slot["qmap1"][slot["state1"].long()].view(-1) * slot["absmax1"].repeat_interleave(2048)[: p.numel()]
        assert_equal([ours.state[q]["exp_avg"].view(-1)], [expected])


def test_a_momentum_that_came_from_torch_goes_on_in_bitsandbytes(bitsandbytes: Any) -> None:
    """torch's SGD counts no steps, and at its first step the library takes the gradient for the buffer."""
    params = parameters(((5, 3),))
    plain = torch.optim.SGD(params, lr=0.1, momentum=0.9)
    train(range(3), (plain, params))
    ours = SGD8bit(twins(params))
    loaded(ours, plain.state_dict())
    others = twins(params)
    theirs = bitsandbytes.optim.SGD8bit(others, lr=1.0, momentum=0.5)
    theirs.load_state_dict(optc.export_state(ours, "bitsandbytes"))
    train([3], (plain, params), (theirs, others))
    torch.testing.assert_close(params, others, rtol=1e-6, atol=1e-6)


def test_what_is_told_to_be_done_can_be_done(bitsandbytes: Any) -> None:
    params = parameters(((64, 64), (5,)))
    ours = Adagrad8bit(params)
    train([0], (ours, params))
    other = optc.compile("adagrad", storing={"G": "dynamic8"})(twins(params))
    assert len(loading(other, ours.state_dict())) == 1
    theirs = bitsandbytes.optim.Adagrad8bit(twins(params))
    theirs.load_state_dict(optc.export_state(other, "bitsandbytes"))
    assert_same_codes(other, theirs, OF_BITSANDBYTES[5].exported)
