"""State dicts between storages that keep other states, such as means of rows and columns, and all others."""

from __future__ import annotations

import copy
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import optc
from optc.dsl.storages import shipped

SHAPES = [(100, 64), (7,), (), (3, 4, 5), (6, 5)]
BY_STATES = sorted(name for name, storage in shipped().items() if storage.decode is not None)
UNSIGNED = {"rowcol", "root_rowcol", "rank1", "linear4_rank1"}
KEEPING = """
optimizer Keeping:
    hyper: lr = 1.0 in [0, inf)
    state: m = 0 as kept
    {storing}
    step:
        m <- {value}
        θ <- θ - lr*m
"""
OWN = """
storage by_rows:
    rank = 2
    state: mean = 0 per row; code = 0
    storing code: dynamic8(smallest = 0)
    decode: mean + code
    encode x:
        mean <- rowmean(x)
        code <- x - mean
"""


def parameters(shapes: list[tuple[int, ...]] = SHAPES) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))) for shape in shapes]


def steps(optimizer: Any, present: list[torch.nn.Parameter], count: int, first: int = 0) -> None:
    for step in range(first, first + count):
        for p in present:
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step))
        optimizer.step()


def keeping(storage: str = "", *, plain: bool = False) -> Any:
    """An optimizer that keeps the gradient by a storage, or one that keeps the same as it is."""
    value = "abs(g)" if storage in UNSIGNED else "g"
    return optc.compile(KEEPING.format(storing="" if plain or not storage else f"storing m: {storage}", value=value))


def loaded(optimizer: Any, state_dict: Any) -> list[str]:
    """What is said while it is loaded."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        optimizer.load_state_dict(copy.deepcopy(state_dict))
    return [str(one.message) for one in said]


def same(a: Tensor, b: Tensor) -> bool:
    """Equal codes; numbers up to the order in which they are added up."""
    if a.dtype == torch.uint8 or not a.numel():
        return torch.equal(a, b)
    return a.shape == b.shape and torch.allclose(a, b, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("storage", BY_STATES)
def test_what_is_kept_is_what_the_storage_would_have_kept(storage: str) -> None:
    """Native kernels have kept the same numbers by themselves."""
    ps, qs = parameters(), parameters()
    kept = keeping(storage)(qs, lr=0.0, backend="native")
    steps(kept, qs, 1)
    numbers = keeping(storage, plain=True)(ps, lr=0.0)
    steps(numbers, ps, 1)
    optimizer = keeping(storage)(parameters(), lr=0.0)
    said = loaded(optimizer, numbers.state_dict())
    assert said == [f"Keeping: 'kept' is kept as numbers in the file and as {storage} here: converted"]
    for p, q in zip(optimizer.state, qs, strict=True):
        found, expected = optimizer.state[p], kept.state[q]
        assert found.keys() == expected.keys() and (len(expected) > 2) is (
            q.numel() >= (4096 if "4" in storage else 1) and q.ndim > 1
        )
        for key in expected:
            assert same(found[key], expected[key]), key


@pytest.mark.parametrize("storage", BY_STATES)
def test_numbers_are_those_that_the_states_stand_for(storage: str) -> None:
    """The product of means, of numbers or of their roots, with their signs; codes are no further off than they may be."""
    shape = (100, 64)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    optimizer = keeping(storage)([p := torch.nn.Parameter(torch.zeros(shape))], lr=0.0)
    p.grad = x
    optimizer.step()
    plain = keeping(storage, plain=True)([torch.nn.Parameter(torch.zeros(shape))])
    said = loaded(plain, optimizer.state_dict())
    assert said == [f"Keeping: 'kept' is kept as {storage} in the file and as numbers here: converted"]
    (found,) = (slot["kept"].double().numpy() for slot in plain.state.values())
    size = np.abs(x.double().numpy())
    if storage == "linear4_rank1":
        scale = np.minimum(size.max(1, keepdims=True), size.max(0, keepdims=True))
        assert (np.abs(found - size) <= scale / 16 * (1 + 1e-6)).all() and len(np.unique((found / scale).round(6))) <= 16
        return
    kept = np.sqrt(size) if storage == "root_rowcol" else size
    kept = kept.reshape(80, 80) if storage.endswith("rank1") else kept  # as square as can be
    expected = (kept.mean(1, keepdims=True) * kept.mean(0) / kept.mean()).reshape(shape)
    expected = expected**2 if storage == "root_rowcol" else expected
    signs = np.where(x.numpy() > 0, 1, -1) if storage.startswith("sign") else 1
    assert np.abs(found - expected * signs).max() < 1e-6


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("AdamW", "AdamWFactored"),
        ("AdamWFactored", "AdamW"),
        ("AdamW8bit", "AdamWFactored"),
        ("AdamWFactored", "AdamW8bit"),
        ("AdamW4bitRank1", "AdamWFactored"),
        ("AdamWFactored", "AdamW4bitRank1"),
        ("AdamWFactored", "AdamWBf16"),
    ],
)
@pytest.mark.parametrize("amsgrad", [False, True])
def test_shipped_optimizers_go_on_from_each_other(there: str, here: str, amsgrad: bool) -> None:
    ps, qs = parameters(), parameters()
    first, second = optc.create(there, ps, amsgrad=amsgrad), optc.create(here, qs, amsgrad=amsgrad)
    steps(first, ps, 3)
    said = loaded(second, first.state_dict())
    assert said and all("kept as" in one and one.endswith("here: converted") for one in said)
    fresh = optc.create(here, rs := parameters(), amsgrad=amsgrad)
    steps(fresh, rs, 1)
    for q, r in zip(qs, rs, strict=True):
        for key, entry in fresh.state[r].items():
            assert second.state[q][key].shape == entry.shape and second.state[q][key].dtype == entry.dtype, key
        assert second.state[q].keys() == fresh.state[r].keys() and float(second.state[q]["step"]) == 3
    steps(second, qs, 2, 3)
    assert all(q.isfinite().all() for q in qs)


def test_what_goes_there_and_back_stays() -> None:
    """A product of two vectors is kept exactly as one."""
    ps = parameters()
    first = optc.create("AdamWFactored", ps)
    steps(first, ps, 3)
    plain, back = optc.create("AdamW", parameters()), optc.create("AdamWFactored", qs := parameters())
    loaded(plain, first.state_dict())
    loaded(back, plain.state_dict())
    for p, q in zip(ps, qs, strict=True):
        for key, entry in first.state[p].items():
            other = back.state[q][key]
            assert torch.equal(entry, other) if "sign" in key else torch.allclose(entry, other, rtol=1e-4, atol=1e-9), key


def test_a_storage_of_ones_own() -> None:
    ps = parameters()
    first = optc.compile(OWN + KEEPING.format(storing="storing m: by_rows", value="g"))(ps, lr=0.0)
    steps(first, ps, 1)
    plain = keeping()(qs := parameters(), lr=0.0)
    assert loaded(plain, first.state_dict()) == [
        "Keeping: 'kept' is kept as by_rows in the file and as numbers here: converted"
    ]
    for p, q in zip(ps, qs, strict=True):
        assert isinstance(p.grad, Tensor)
        assert torch.allclose(plain.state[q]["kept"], p.grad, atol=0.05)  # codes of 8 bits


def test_optc_dist_load_converts_too(tmp_path: Path) -> None:
    ps = parameters()
    first = optc.create("AdamW", ps)
    steps(first, ps, 2)
    optc.dist.save(tmp_path, first)
    second, direct = (optc.create("AdamWFactored", parameters()) for _ in range(2))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        optc.dist.load(tmp_path, second)
    storages = {"exp_avg": "sign_rowcol", "exp_avg_sq": "root_rowcol"}
    for key, storage in storages.items():
        text = f"AdamWFactored: {key!r} is kept as numbers in the file and as {storage} here: converted"
        assert text in map(str, (one.message for one in said))
    loaded(direct, first.state_dict())
    for one, other in zip(second.state.values(), direct.state.values(), strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


EVIL = "optimizer Other:\n    hyper: lr = 1 in [0, inf)\n    state: m = 0\n    step:\n        m <- g\n        θ <- θ - lr*m\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda slot, group: slot.pop("exp_avg_row"), "there must be 'exp_avg_row'"),
        (lambda slot, group: slot.update(exp_avg_sq_col=torch.ones(3)), "'exp_avg_sq' cannot be converted"),
        (lambda slot, group: slot.update(exp_avg_sign="no"), "'exp_avg' cannot be converted"),
        (lambda slot, group: group.update(coders=3), "'coders' must say of states how they are kept"),
        (lambda slot, group: group["coders"].update(exp_avg=3), "'coders' must say of states how they are kept"),
        (lambda slot, group: group["coders"].update(exp_avg="adamw"), "no spec that could say how"),
        (lambda slot, group: group["coders"].update(exp_avg="import os\n"), "the spec that says how is wrong"),
        (lambda slot, group: group["coders"].update(exp_avg=EVIL), "keeps other states than x"),
        (lambda slot, group: group["coders"].update(exp_avg="#\n" * 20_000), "no spec that could say how"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_changes(change: Any, message: str) -> None:
    ps = parameters()
    first, second = optc.create("AdamWFactored", ps), optc.create("AdamW", qs := parameters())
    steps(first, ps, 2)
    steps(second, qs, 1)
    before = copy.deepcopy(second.state_dict())
    packed = copy.deepcopy(first.state_dict())
    change(packed["state"][0], packed["param_groups"][0])
    with pytest.raises(ValueError, match="nothing was loaded") as caught:
        second.load_state_dict(packed)
    assert message in str(caught.value), caught.value
    after = second.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert all(torch.equal(x, after["state"][i][key]) for i, slot in before["state"].items() for key, x in slot.items())


def test_without_the_compiler_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ps = parameters()
    first = optc.create("AdamW", ps)
    steps(first, ps, 1)
    from optc.runtime import checkpoint_coders

    checkpoint_coders._class.cache_clear()
    for name in [name for name in sys.modules if name.startswith("optc.compiler")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lark", None)
    for name in [name for name in sys.modules if name.startswith("optc.dsl")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ValueError, match="takes the compiler, which needs lark"):
        optc.create("AdamWFactored", parameters()).load_state_dict(first.state_dict())
