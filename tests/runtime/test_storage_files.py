"""State dicts with codes: exact resume, conversions between all ways of keeping states, and files that do not fit."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict

import optc
from optc.generated import AdamW, AdamW4bit, AdamW8bit, AdamWBf16, AdamWFp8, Lion8bit
from optc.runtime import checkpoint_codes, storage
from optc.runtime.codebook import Codebook
from optc.runtime.schema import State
from optc.runtime.storage import decode, encoded
from tests.runtime.storing import BACKENDS, entries, every, loading, through_a_file
from tests.runtime.training import assert_equal, parameters, train, twins

SHAPES = ((70, 130), (100,), (4097,), ())
"""Two are kept as codes, the others are too small."""
KINDS: tuple[Any, ...] = (AdamW, AdamW8bit, AdamW4bit, AdamWFp8, AdamWBf16)
NAN, INF = float("nan"), float("inf")


def trained(kind: Any, steps: int = 3, shapes: Any = SHAPES, **options: Any) -> tuple[list[nn.Parameter], Any]:
    params = parameters(shapes)
    optimizer = kind(params, **{"backend": "torch", **options})
    train(range(steps), (optimizer, params))
    return params, optimizer


left_alone = cache(trained)
"""For tests that read the parameters and the optimizer only."""


def numbers(optimizer: Any, p: Tensor, state: State) -> Tensor:
    """What a state stands for, float32."""
    kept, codebook = optimizer.state[p], state.codebook(p.numel())
    if codebook is None:
        return kept[state.key].float()  # type: ignore[no-any-return]
    return decode(kept[state.key], kept[state.scale_key], codebook, p.numel()).view(p.shape)


@BACKENDS
@pytest.mark.parametrize("kind", ["AdamW8bit", "AdamW4bit", "every"])
def test_a_resumed_run_is_bit_exact(kind: str, backend: str) -> None:
    make = {"AdamW8bit": AdamW8bit, "AdamW4bit": AdamW4bit}.get(kind) or every()
    params, optimizer = trained(make, backend=backend)
    others = twins(params)
    resumed = make(others, backend=backend)
    assert loading(resumed, through_a_file(optimizer.state_dict())) == []
    assert_equal(entries(optimizer, params), entries(resumed, others))
    train(range(3, 6), (optimizer, params), (resumed, others))
    assert_equal(params, others)
    assert_equal(entries(optimizer, params), entries(resumed, others))


def test_a_file_says_what_its_codes_mean_and_groups_do_not() -> None:
    params, optimizer = left_alone(AdamW8bit)
    saved = optimizer.state_dict()
    assert all("storing" not in group for group in optimizer.param_groups)
    told = saved["param_groups"][0]["storing"]
    book = optimizer.schema.states[0].storage
    assert set(told) == {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"} and isinstance(book, Codebook)
    assert told["exp_avg"] == {
        "name": "dynamic8", "levels": list(book.levels), "block": 256, "ties": "up", "unit": 1.0, "least": book.least,
        "smallest": 4096, "fixed": False,
    }  # fmt: skip
    assert "storing" not in AdamW(params).state_dict()["param_groups"][0]
    others = twins(params)
    resumed = AdamW8bit(others)
    resumed.load_state_dict(saved)
    assert all("storing" not in group for group in resumed.param_groups)
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(entries(optimizer, params), entries(resumed, others), strict=True))


NAMES = {
    "AdamW": ("numbers", "numbers"), "AdamW8bit": ("dynamic8", "udynamic8"), "AdamW4bit": ("dynamic4", "linear4"),
    "AdamWFp8": ("e4m3", "e4m3"), "AdamWBf16": ("bfloat16", "bfloat16"),
}  # fmt: skip


@pytest.mark.parametrize("there", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("here", KINDS, ids=lambda kind: kind.__name__)
def test_files_are_converted_and_that_is_said(there: Any, here: Any) -> None:
    params, optimizer = left_alone(there)
    others = twins(params)
    other = here(others, backend="torch")
    told = loading(other, through_a_file(optimizer.state_dict()))
    coded = {"AdamW8bit", "AdamW4bit", "AdamWFp8"}
    quiet = there is here or not coded & {there.__name__, here.__name__}
    now, before = NAMES[here.__name__], NAMES[there.__name__] if there.__name__ in coded else ("numbers", "numbers")
    keys = ("exp_avg", "exp_avg_sq")
    assert told == [
        f"{here.__name__}: {key!r} is kept as {was} in the file and as {name} here: converted"
        for key, was, name in zip(keys, before, now, strict=True)
        if not quiet
    ]
    for p, q in zip(params, others, strict=True):
        for ours, theirs in zip(other.schema.states[:2], optimizer.schema.states[:2], strict=True):
            x, codebook, kept = numbers(optimizer, p, theirs), ours.codebook(q.numel()), other.state[q]
            if codebook is None:
                dtype = torch.bfloat16 if here is AdamWBf16 else torch.float32
                assert_equal([kept[ours.key]], [x.to(dtype)])
                assert ours.scale_key not in kept
            elif there is here:
                assert_equal(
                    [kept[k] for k in (ours.key, ours.scale_key)], [optimizer.state[p][k] for k in (ours.key, ours.scale_key)]
                )
            else:
                assert_equal([kept[ours.key], kept[ours.scale_key]], list(encoded(x, codebook, q.device)))
    train([3], (other, others))


def test_another_block_is_another_meaning() -> None:
    params, optimizer = trained(Lion8bit)
    others = twins(params)
    other = optc.compile("lion", storing={"m": "dynamic8(block = 128)"})(others, backend="torch")
    name = f"{type(other).__name__}: 'exp_avg' is kept as dynamic8 in the file and as dynamic8(block = 128) here: converted"
    assert loading(other, through_a_file(optimizer.state_dict())) == [name]
    (state,) = other.schema.states
    assert isinstance(state.storage, Codebook)
    expected = encoded(numbers(optimizer, params[0], optimizer.schema.states[0]), state.storage, params[0].device)
    assert_equal([other.state[others[0]][key] for key in ("exp_avg", "exp_avg_scale")], list(expected))


def test_conversions_go_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    params, optimizer = trained(AdamW8bit, 2, [(90, 101), (8193,)])
    for kind in (AdamW, AdamW4bit):
        loaded = []
        for piece in (1 << 18, 4096):
            monkeypatch.setattr(checkpoint_codes, "PIECE", piece)
            monkeypatch.setattr(storage, "PIECE", piece)
            others = twins(params)
            other = kind(others, backend="torch")
            loading(other, optimizer.state_dict())
            loaded.append(entries(other, others))
        assert_equal(*loaded)


def test_files_go_into_any_memory_order() -> None:
    params, optimizer = trained(AdamW8bit, shapes=[(70, 130)])
    for kind in (AdamW8bit, AdamW, AdamW4bit):
        (q,) = others = [nn.Parameter(params[0].detach().t().contiguous().t())]
        other = kind(others, backend="torch")
        loading(other, optimizer.state_dict())
        twin = twins(params)
        plain = kind(twin, backend="torch")
        loading(plain, optimizer.state_dict())
        train(range(3, 5), (other, others), (plain, twin))
        assert q.stride() == (1, 70) and torch.equal(q, twin[0])
        assert_equal(entries(other, others), entries(plain, twin))


def test_a_file_without_the_meaning_of_its_codes_is_taken_for_our_own() -> None:
    params, optimizer = left_alone(AdamW8bit)
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["param_groups"][0]["storing"]
    others = twins(params)
    other = AdamW8bit(others, backend="torch")
    assert loading(other, saved) == []
    assert_equal(entries(optimizer, params), entries(other, others))


@pytest.mark.parametrize("flat", [False, True])
def test_distributed_checkpoints_resume_exactly(flat: bool) -> None:
    def make(seed: int) -> tuple[nn.Module, Any]:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(80, 80), nn.Linear(80, 3))
        return model, AdamW8bit(model.parameters(), lr=0.1, backend="torch")

    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optimizer = make(0)
    train(range(3), (optimizer, list(model.parameters())))
    other, resumed = make(1)
    other.load_state_dict(model.state_dict())
    saved = through_a_file(get_optimizer_state_dict(model, optimizer, options=options))
    set_optimizer_state_dict(other, resumed, saved, options=options)
    assert resumed.state[other[0].weight]["exp_avg"].dtype == torch.uint8  # type: ignore[index]
    train(range(3, 6), (optimizer, list(model.parameters())), (resumed, list(other.parameters())))
    assert_equal(list(model.parameters()), list(other.parameters()))


# --- files that do not fit ----------------------------------------------------------------------------------------------------

Damage = Callable[[dict[str, Any]], object]


def slot(**changes: Any) -> Damage:
    """Changes entries of the first parameter; `...` deletes one."""

    def apply(saved: dict[str, Any]) -> None:
        for key, value in changes.items():
            saved["state"][0][key] = value
            if value is ...:
                del saved["state"][0][key]

    return apply


def book(**changes: Any) -> Damage:
    """Changes what the file says of the codes of `exp_avg`; `...` deletes it."""

    def apply(saved: dict[str, Any]) -> None:
        told = saved["param_groups"][0]["storing"]["exp_avg"]
        for key, value in changes.items():
            told[key] = value
            if value is ...:
                del told[key]

    return apply


def told(value: Any) -> Damage:
    return lambda saved: saved["param_groups"][0].update(storing=value)


BYTES = torch.zeros(70, 130, dtype=torch.uint8)
NO_BOOK = "what the file says of the codes of 'exp_avg' is no codebook"
DAMAGE: dict[str, tuple[Damage, str]] = {
    "codes of another size": (slot(exp_avg=BYTES[:, 1:]), r"'exp_avg' must be codes of shape \(70, 130\) with 36 scales"),
    "scales of another number": (slot(exp_avg_scale=torch.ones(3)), "with 36 scales"),
    "scales of two dimensions": (slot(exp_avg_scale=torch.ones(36, 1)), "with 36 scales"),
    "scales that are a text": (slot(exp_avg_scale="x"), "with 36 scales"),
    "scales without codes": (slot(exp_avg=...), "unknown state 'exp_avg_scale'(.|\n)*'exp_avg' is missing"),
    "codes of another dtype": (slot(exp_avg=BYTES.char()), "unknown state 'exp_avg_scale'"),
    "numbers with scales": (slot(exp_avg=BYTES.float()), "unknown state 'exp_avg_scale'"),
    "a list": (slot(exp_avg=[1, 2]), "unknown state 'exp_avg_scale'"),
    "a book that is none": (lambda saved: saved["param_groups"][0]["storing"].update(exp_avg=None), NO_BOOK),
    "a book that is a list": (lambda saved: saved["param_groups"][0]["storing"].update(exp_avg=[1]), NO_BOOK),
    "levels of another number": (book(levels=[0.0] * 17), NO_BOOK),
    "levels that are a text": (book(levels="x" * 256), NO_BOOK),
    "levels that are whole numbers": (book(levels=list(range(256))), NO_BOOK),
    "levels that are a tensor": (book(levels=torch.arange(256.0)), NO_BOOK),
    "no levels": (book(levels=...), NO_BOOK),
    "levels of half bytes": (book(levels=[float(i) for i in range(16)]), r"codes of shape \(4550,\) with 36 scales"),
    "a block that is none": (book(block=100), NO_BOOK),
    "a block that is a text": (book(block="256"), NO_BOOK),
    "a block that is a float": (book(block=256.0), NO_BOOK),
    "a block that is a flag": (book(block=True), NO_BOOK),
    "another block": (book(block=64), r"codes of shape \(70, 130\) with 143 scales"),
    "no name": (book(name=...), NO_BOOK),
}


def refused(kind: Any, damage: Damage, message: str) -> None:
    """Loading raises one ValueError of the usual form and changes nothing, though other entries of the file are good."""
    saved = copy.deepcopy(left_alone(AdamW8bit)[1].state_dict())
    saved["param_groups"][0]["lr"] = 0.125
    damage(saved)
    params, optimizer = trained(kind, 1)
    groups, told = list(optimizer.param_groups), str(optimizer.param_groups)
    kept = [(x, x.clone()) for p in params for x in optimizer.state[p].values()]
    with pytest.raises(ValueError, match=message) as error:
        optimizer.load_state_dict(saved)
    assert str(error.value).startswith(f"this state dict does not fit {kind.__name__}, nothing was loaded:\n  ")
    assert all(a is b for a, b in zip(groups, optimizer.param_groups, strict=True)) and str(optimizer.param_groups) == told
    now = [x for p in params for x in optimizer.state[p].values()]
    assert all(a is x and torch.equal(a, was) for x, (a, was) in zip(now, kept, strict=True))


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", [AdamW8bit, AdamW], ids=lambda kind: kind.__name__)
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(damage: str, kind: Any) -> None:
    apply, message = DAMAGE[damage]
    if kind is AdamW and damage == "a list":
        message = "'exp_avg' must be a tensor of shape"
    refused(kind, apply, message)


def test_codes_without_scales_are_refused() -> None:
    for damage in (slot(exp_avg_scale=...), slot(exp_avg_scale=None)):
        refused(AdamW8bit, damage, r"'exp_avg' must be numbers of shape \(70, 130\), or codes with 'exp_avg_scale'")
    refused(AdamW, told({}), "'exp_avg' are codes, and the file does not say what they mean")


def test_all_problems_come_at_once() -> None:
    def damage(saved: dict[str, Any]) -> None:
        book(block=3)(saved)
        saved["state"][2]["exp_avg_sq_scale"] = torch.ones(2)
        saved["state"][1]["exp_avg_sqq"] = torch.ones(3)

    message = (
        f"parameter 0: {NO_BOOK}\n  parameter 1: unknown state 'exp_avg_sqq'(.|\n)*parameter 2: 'exp_avg_sq' must be codes"
    )
    refused(AdamW8bit, damage, message)


@pytest.mark.parametrize("value", [[1], "x", 3], ids=str)
def test_meanings_must_be_a_table(value: Any) -> None:
    refused(AdamW8bit, told(value), "storing")


@pytest.mark.parametrize(
    "levels",
    [[NAN] * 256, [1.0] * 256, [INF, *map(float, range(255))], [1e300 * i for i in range(256)]],
    ids=["nan", "equal", "infinite", "too large"],
)
@pytest.mark.parametrize("kind", [AdamW8bit, AdamW], ids=lambda kind: kind.__name__)
def test_levels_must_be_numbers_that_differ(levels: list[float], kind: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(kind, book(levels=levels), NO_BOOK)


def test_levels_that_are_close_together_can_be_read() -> None:
    """They need no table: nothing is made into such codes."""
    params, optimizer = left_alone(AdamW8bit)
    saved = copy.deepcopy(optimizer.state_dict())
    levels = [1 + c * 2.0**-23 for c in range(256)]
    book(levels=levels)(saved)
    (p, *_) = others = twins(params)
    other = AdamW(others, backend="torch")
    loading(other, saved)
    scales = saved["state"][0]["exp_avg_scale"].repeat_interleave(256)[: p.numel()].view(p.shape)
    assert torch.equal(other.state[p]["exp_avg"], torch.tensor(levels)[saved["state"][0]["exp_avg"].long()] * scales)


@pytest.mark.parametrize("kind", [AdamW8bit, AdamW], ids=lambda kind: kind.__name__)
def test_codes_of_another_shape_are_refused(kind: Any) -> None:
    refused(kind, slot(exp_avg=BYTES.t().contiguous()), r"'exp_avg' must be codes of shape \(70, 130\)")


def test_codes_without_scales_are_no_numbers() -> None:
    refused(AdamW, slot(exp_avg_scale=...), "'exp_avg'")


def test_small_tensors_have_no_codes() -> None:
    refused(
        AdamW8bit, lambda saved: saved["state"][1].update(exp_avg=torch.zeros(100, dtype=torch.uint8)), "parameter 1: 'exp_avg'"
    )


def test_scales_are_floating_point_numbers() -> None:
    refused(AdamW8bit, slot(exp_avg_scale=torch.ones(36, dtype=torch.complex64)), "'exp_avg'")


@pytest.mark.parametrize("scale", [NAN, INF, -INF, -1.0, -1e-45, 1e39], ids=str)
@pytest.mark.parametrize("kind", [AdamW8bit, AdamW, AdamW4bit], ids=lambda kind: kind.__name__)
def test_scales_are_finite_and_not_negative(scale: float, kind: Any) -> None:
    """As all are that encoding makes; 1e39 is infinite in float32."""
    scales = torch.ones(36, dtype=torch.float64)
    scales[35] = scale
    refused(kind, slot(exp_avg_scale=scales), "parameter 0: the scales of 'exp_avg' must be finite numbers, 0 or above$")


@pytest.mark.parametrize("scale", [0.0, -0.0, 1e-45, 3.4e38], ids=str)
def test_scales_may_be_as_small_and_large_as_encoding_makes_them(scale: float) -> None:
    saved = copy.deepcopy(left_alone(AdamW8bit)[1].state_dict())
    saved["state"][0]["exp_avg_scale"][0] = scale
    params = parameters(SHAPES)
    optimizer = AdamW8bit(params)
    assert loading(optimizer, saved) == []
    assert optimizer.state[params[0]]["exp_avg_scale"][0] == torch.tensor(scale)


def test_reading_files_leaves_nothing_behind() -> None:
    """Levels that are NaN make no two codebooks differ."""
    _, optimizer = left_alone(AdamWFp8)
    sizes = []
    for _ in range(3):
        other = AdamW(parameters(SHAPES))
        loading(other, through_a_file(optimizer.state_dict()))
        sizes.append(storage.on_device.cache_info().currsize)
    assert sizes[1] == sizes[2]
