"""State dicts of bitsandbytes and torchao, both ways in the middle of a run: codes bit for bit, and both go on alike.

The libraries are the real ones. How far two free runs may be apart is the same as where both start anew (`low_memory.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optc
from optc.generated import AdamW, AdamW8bit
from optc.runtime import storage
from optc.runtime.optimizer import Optimizer
from optc.runtime.peers import LIBRARIES, Library
from tests.runtime.storing import BACKENDS, entries, loading, through_a_file
from tests.runtime.training import assert_equal, parameters, train, twins
from tests.specs.low_memory import (
    OF_ADAM,
    OF_ADAMW,
    OF_BITSANDBYTES,
    STEPS,
    Exported,
    Theirs,
    assert_near,
    assert_same_codes,
    books_of,
    in_memory,
    loaded,
    of_torchao,
    one_thread,
    ours_like,
    side_by_side,
)

SHAPES = ((64, 64), (4097,), (70, 66), (16, 300, 2), (4095,), (5, 3), ())
"""Whole blocks, short last blocks, and tensors that are too small for codes."""
WHOLE = ((64, 64), (8192,), (16, 64, 8), (4095,), (5, 3), ())
"""torchao keeps numbers where ours would have a short last block."""
OF_TORCHAO = ["Adam8bit", "AdamW8bit", "Adam4bit", "AdamW4bit", "AdamFp8", "AdamWFp8"]


@pytest.fixture(scope="module", autouse=True)
def single() -> Iterator[None]:
    with one_thread():
        yield


def assert_same_groups(one: Optimizer, other: Optimizer) -> None:
    for a, b in zip(one.param_groups, other.param_groups, strict=True):
        assert {**a, "params": None} == {**b, "params": None}


# --- bitsandbytes -------------------------------------------------------------------------------------------------------------


@BACKENDS
@pytest.mark.parametrize("like", OF_BITSANDBYTES, ids=lambda like: like.name)
def test_states_of_bitsandbytes_go_on_here(like: Theirs, backend: str, bitsandbytes: Any) -> None:
    params = parameters(SHAPES)
    theirs = getattr(bitsandbytes.optim, like.name)(params, **like.hypers)
    train(range(3), (theirs, params))
    ours = like.ours()(twins(params), backend=backend)  # hypers are in the file
    loaded(ours, theirs.state_dict())
    assert_same_codes(ours, theirs, like.exported)
    seen = side_by_side(ours, theirs, like.exported, STEPS, imports=False)
    assert seen.codes and seen.exempt <= 1e-6
    assert_near(seen, like.hypers["lr"])


@BACKENDS
@pytest.mark.parametrize("like", OF_BITSANDBYTES, ids=lambda like: like.name)
def test_bitsandbytes_goes_on_from_states_of_ours(like: Theirs, backend: str, bitsandbytes: Any) -> None:
    kind = shipped(like)
    params = parameters(SHAPES)
    ours = kind(params, **like.hypers, backend=backend)
    train(range(3), (ours, params))
    others = twins(params)
    other_hypers = {"lr": 1.0, **({"momentum": 0.5} if like.name == "SGD8bit" else {})}
    theirs = getattr(bitsandbytes.optim, like.name)(others, **other_hypers)
    theirs.load_state_dict(through_a_file(optc.export_state(ours, "bitsandbytes")))
    assert_same_codes(ours, theirs, like.exported)

    back = kind(twins(params), backend=backend)
    loaded(back, theirs.state_dict())
    assert_equal(entries(ours, params), entries(back, back.param_groups[0]["params"]))
    assert_same_groups(ours, back)

    for optimizer in (ours, theirs):
        optimizer.zero_grad()
    seen = side_by_side(ours, theirs, like.exported, STEPS, imports=False, zeros=False)
    assert_near(seen, like.hypers["lr"])


def shipped(like: Theirs) -> type[Any]:
    """Ours by another storage of the same levels, with the name that `optc.compile` gives it."""
    made: type[Any] = optc.compile(like.base.lower(), storing=dict(like.kept))
    return made


# --- torchao ------------------------------------------------------------------------------------------------------------------


def torchao_hypers(name: str) -> Mapping[str, Any]:
    return OF_ADAMW if name.startswith("AdamW") else OF_ADAM


@BACKENDS
@pytest.mark.parametrize("name", OF_TORCHAO)
def test_states_of_torchao_go_on_here(name: str, backend: str, torchao: Any) -> None:
    hypers = torchao_hypers(name)
    params = parameters(WHOLE)
    theirs = getattr(torchao, name)(params, **hypers)
    train(range(3), (theirs, params))
    ours = ours_like(name)(twins(params), backend=backend)
    loaded(ours, theirs.state_dict())
    assert_same_codes(ours, theirs, of_torchao)
    seen = side_by_side(ours, theirs, of_torchao, STEPS, imports=False)
    assert seen.codes
    assert_near(seen, hypers["lr"])


@BACKENDS
@pytest.mark.parametrize("name", OF_TORCHAO)
def test_torchao_goes_on_from_states_of_ours(name: str, backend: str, torchao: Any) -> None:
    hypers = torchao_hypers(name)
    params = parameters(WHOLE)
    ours = ours_like(name)(params, **{**hypers, "lr": 2.0**-10}, backend=backend)  # it keeps lr in float32
    train(range(3), (ours, params))
    theirs = getattr(torchao, name)(twins(params))
    theirs.load_state_dict(through_a_file(optc.export_state(ours, "torchao")))
    assert_same_codes(ours, theirs, of_torchao)

    back = ours_like(name)(twins(params), backend=backend)
    loaded(back, theirs.state_dict())
    assert_equal(entries(ours, params), entries(back, back.param_groups[0]["params"]))
    assert_same_groups(ours, back)
    assert_near(side_by_side(ours, theirs, of_torchao, STEPS, imports=False), hypers["lr"])


@pytest.mark.parametrize("name", OF_TORCHAO)
def test_short_last_blocks_are_numbers_in_torchao(name: str, torchao: Any) -> None:
    params = parameters(((70, 66),))
    theirs = getattr(torchao, name)(params)
    train(range(3), (theirs, params))
    (q,) = others = twins(params)
    ours = ours_like(name)(others)
    assert len(loading(ours, theirs.state_dict())) == 2
    for key, book in books_of(ours).items():
        if key in ours.state[q]:
            codes, scales = storage.encoded(theirs.state[params[0]][key], book, q.device)
            assert_equal(in_memory(ours, q)[key], [codes.view(-1), scales])
    back = getattr(torchao, name)(twins(params))
    back.load_state_dict(optc.export_state(ours, "torchao"))
    (slot,) = back.state.values()
    for key, (codes, scales) in in_memory(ours, q).items():
        assert type(slot[key]) is Tensor
        assert_equal([slot[key].view(-1)], [storage.decode(codes, scales, books_of(ours)[key], q.numel())])
    train([3], (back, back.param_groups[0]["params"]))


@pytest.mark.parametrize("name", OF_TORCHAO)
def test_codes_of_torchao_become_numbers(name: str, torchao: Any) -> None:
    params = parameters(WHOLE)
    theirs = getattr(torchao, name)(params, block_size=64)
    train(range(3), (theirs, params))
    others = twins(params)
    plain = AdamW(others)
    assert len(loading(plain, theirs.state_dict())) == 2
    for p, q in zip(params, others, strict=True):
        for key in ("exp_avg", "exp_avg_sq"):
            kept = theirs.state[p][key]
            assert_equal([plain.state[q][key] + 0.0], [(kept.dequantize() if hasattr(kept, "codes") else kept) + 0.0])


def test_other_blocks_of_torchao(torchao: Any) -> None:
    """Any length that both have: the same codes."""
    params = parameters(WHOLE)
    theirs = torchao.AdamW8bit(params, block_size=1024)
    train(range(3), (theirs, params))
    kind = optc.compile("adamw", storing={"m": "dynamic8(1024)", "v": "udynamic8(1024)"})
    ours = kind(twins(params))
    loaded(ours, theirs.state_dict())
    assert_same_codes(ours, theirs, of_torchao)
    back = torchao.AdamW8bit(twins(params), block_size=1024)
    back.load_state_dict(optc.export_state(ours, "torchao"))
    assert_same_codes(ours, back, of_torchao)


# --- both --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Peer:
    """The AdamW8bit of a library, and how to find its codes."""

    library: Library
    kind: Any
    exported: Exported


@pytest.fixture(params=LIBRARIES)
def peer(request: pytest.FixtureRequest, bitsandbytes: Any, torchao: Any) -> Peer:
    if request.param == "torchao":
        return Peer("torchao", torchao.AdamW8bit, of_torchao)
    return Peer("bitsandbytes", bitsandbytes.optim.AdamW8bit, OF_BITSANDBYTES[0].exported)


def test_each_group_keeps_its_hypers(peer: Peer) -> None:
    params = parameters(((64, 64), (3,)))
    ours = AdamW8bit([{"params": params[:1], "lr": 0.5, "betas": (0.5, 0.75)}, {"params": params[1:], "eps": 0.25}], lr=0.125)
    scheduler = torch.optim.lr_scheduler.StepLR(ours, 1, 0.5)
    train(range(2), (ours, params))
    scheduler.step()
    others = twins(params)
    theirs = peer.kind([{"params": others[:1]}, {"params": others[1:]}])
    theirs.load_state_dict(optc.export_state(ours, peer.library))
    first, second = theirs.param_groups
    assert (float(first["lr"]), first["betas"], first["eps"], first["initial_lr"]) == (0.25, (0.5, 0.75), 1e-8, 0.5)
    assert (float(second["lr"]), second["betas"], second["eps"]) == (0.0625, (0.9, 0.999), 0.25)
    more = twins(params)
    back = AdamW8bit([{"params": more[:1]}, {"params": more[1:]}])
    loaded(back, theirs.state_dict())
    assert_same_groups(ours, back)
    assert isinstance(back.param_groups[0]["lr"], float)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parameters_of_16_bits(dtype: torch.dtype, peer: Peer) -> None:
    params = parameters(((64, 64), (5, 3)), dtype)
    ours = AdamW8bit(params, lr=2.0**-7)
    train(range(3), (ours, params))
    theirs = peer.kind(twins(params))
    theirs.load_state_dict(optc.export_state(ours, peer.library))
    assert_same_codes(ours, theirs, peer.exported)
    back = AdamW8bit(twins(params))
    loaded(back, theirs.state_dict())
    assert_same_codes(back, theirs, peer.exported)
    train([3], (ours, params), (theirs, theirs.param_groups[0]["params"]))
    torch.testing.assert_close(params, theirs.param_groups[0]["params"], rtol=1e-2, atol=1e-4)


def test_parameters_in_any_memory_order(peer: Peer) -> None:
    params = parameters(((64, 64), (20, 30)))
    turned = [nn.Parameter(p.detach().t().contiguous().t()) for p in params]
    ours, other = AdamW8bit(params), AdamW8bit(turned)
    train(range(2), (ours, params), (other, turned))
    theirs, from_other = peer.kind(twins(params)), peer.kind(twins(params))
    theirs.load_state_dict(optc.export_state(ours, peer.library))
    from_other.load_state_dict(optc.export_state(other, peer.library))
    assert_same_codes(ours, from_other, peer.exported)
    loaded(other, theirs.state_dict())
    train([2], *((optimizer, optimizer.param_groups[0]["params"]) for optimizer in (ours, other, theirs, from_other)))
    assert_equal(params, turned)
    assert_equal(*(optimizer.param_groups[0]["params"] for optimizer in (theirs, from_other)))


def test_an_exported_state_is_a_copy(peer: Peer) -> None:
    params = parameters(WHOLE)
    ours = AdamW8bit(params)
    train([0], (ours, params))
    before = copy.deepcopy(ours.state_dict())
    exported = optc.export_state(ours, peer.library)
    for slot in exported["state"].values():
        for entry in slot.values():
            for part in (getattr(entry, "codes", entry), getattr(entry, "scale", entry)):
                if isinstance(part, Tensor):
                    part.zero_()
    now = ours.state_dict()
    for index, slot in before["state"].items():
        assert_equal(list(slot.values()), list(now["state"][index].values()))


def test_before_the_first_step_there_is_nothing_to_export(bitsandbytes: Any) -> None:
    ours = AdamW8bit(parameters(((64, 64),)), lr=0.5)
    exported = optc.export_state(ours, "bitsandbytes")
    assert exported["state"] == {}
    theirs = bitsandbytes.optim.AdamW8bit(parameters(((64, 64),)))
    theirs.load_state_dict(exported)
    assert theirs.param_groups[0]["lr"] == 0.5
