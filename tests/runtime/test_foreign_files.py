"""Files of bitsandbytes and torchao that do not fit: refused as a whole with one message, and nothing has changed.

Whatever is in the place of an entry, the answer is the same or the file is loaded; it is never another exception.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optc
from optc.generated import AdamW, AdamW4bit, AdamW8bit, AdamWFp8, AdEMAMix8bit, LAMB8bit, LARS8bit, Lion8bit, SGD8bit
from tests.runtime.storing import loading
from tests.runtime.test_storage_files import trained
from tests.runtime.training import parameters, train, twins
from tests.specs.low_memory import one_thread, quietly

NAN, INF = float("nan"), float("inf")
SHAPES = ((70, 130), (64, 64), (100,))
"""A short last block, whole ones, and numbers: 70·130 and 100 are numbers in torchao."""
HIDDEN = "__bnb_optimizer_quant_state__"


@pytest.fixture(scope="module", autouse=True)
def eager() -> Iterator[None]:
    with one_thread(), torch.compiler.set_stance("force_eager"):
        yield


@cache
def saved_by(library: str, name: str) -> dict[str, Any]:
    """A state dict of the library, to be copied before it is changed; in memory its tensors lie beside `step`."""
    with quietly():
        import bitsandbytes.optim
        import torchao.optim
    kind = getattr(torchao.optim if library == "torchao" else bitsandbytes.optim, name)
    params = parameters(SHAPES)
    optimizer = kind(params, **({"lr": 0.1, "momentum": 0.9} if name in ("SGD8bit", "LARS8bit") else {}))
    train(range(2), (optimizer, params))
    saved = copied(optimizer.state_dict())
    for slot in saved["state"].values():
        slot.update(slot.pop(HIDDEN, {}))
    return saved


def copied(saved: Mapping[str, Any], parameters: int = len(SHAPES)) -> dict[str, Any]:
    """Tables of its own, with the same tensors of the first few parameters: those of torchao cannot be copied."""
    return {
        "state": {index: dict(slot) for index, slot in saved["state"].items() if index < parameters},
        "param_groups": [{**group, "params": group["params"][:parameters]} for group in saved["param_groups"]],
    }


def refused(saved: dict[str, Any], kind: Any = AdamW8bit, message: str = "") -> None:
    """Loading raises one ValueError of the usual form and changes nothing, though other entries of the file are good."""
    saved["param_groups"][0]["lr"] = 0.125
    params, optimizer = one_step(kind)
    unchanged = snapshot(params, optimizer)
    with pytest.raises(ValueError, match=message) as error:
        optimizer.load_state_dict(saved)
    assert str(error.value).startswith(f"this state dict does not fit {kind.__name__}, nothing was loaded:\n  ")
    unchanged()


one_step = cache(lambda kind: trained(kind, 1, SHAPES))
"""Shared by all tests, which leave it as it is, or load another state into it."""


def snapshot(params: list[nn.Parameter], optimizer: Any) -> Callable[[], None]:
    """A function that asserts that an optimizer has the same tensors with the same bits, and the same groups."""
    groups, told = list(optimizer.param_groups), [hypers_in(group) for group in optimizer.param_groups]
    kept = [{key: (x, x.clone()) for key, x in optimizer.state[p].items()} for p in params]

    def unchanged() -> None:
        assert all(a is b for a, b in zip(groups, optimizer.param_groups, strict=True))
        assert [hypers_in(group) for group in optimizer.param_groups] == told
        for p, slot in zip(params, kept, strict=True):
            assert optimizer.state[p].keys() == slot.keys()
            for key, (x, was) in slot.items():
                assert optimizer.state[p][key] is x and torch.equal(x, was)

    return unchanged


def hypers_in(group: Mapping[str, Any]) -> str:
    return str({key: value for key, value in group.items() if key != "params"})


# --- bitsandbytes -------------------------------------------------------------------------------------------------------------

BYTES = torch.zeros(70, 130, dtype=torch.uint8)
LEVELS = torch.linspace(-1, 1, 256)
ONES = torch.ones(36)
NO_LEVELS, NO_SCALES = "parameter 0: 'qmap1' must be 256 finite float32 levels", "'absmax1' must be scales of shape \\(36,\\)"
NO_STATE = r"'state1' must be a tensor of shape \(70, 130\), as AdamW8bit has it, not "
OF_BITSANDBYTES: dict[str, tuple[Mapping[str, Any], str]] = {
    "codes of another size": ({"state1": BYTES[:, 1:]}, NO_STATE + r"a tensor of shape \(70, 129\)"),
    "codes of another shape": ({"state1": BYTES.view(-1)}, NO_STATE),
    "codes that are a text": ({"state1": "x"}, NO_STATE + "'x'"),
    "codes without memory": ({"state1": BYTES.to("meta")}, NO_STATE),
    "codes that are sparse": ({"state1": BYTES.float().to_sparse()}, NO_STATE),
    "codes of another dtype": ({"state1": BYTES.char()}, "'state1' must be numbers, or bytes with 'qmap1' and 'absmax1'"),
    "codes in another order": ({"state1": BYTES.t().contiguous().t()}, "'state1' is not contiguous"),
    "complex numbers": ({"state1": BYTES.to(torch.complex64)}, "'state1' must be numbers"),
    "two averages": ({"state1": torch.stack((BYTES, BYTES))}, NO_STATE),
    "no first state": ({"state1": ...}, "has 'state2', but AdamW8bit of bitsandbytes keeps 'state1' and 'state2'"),
    "no second state": ({"state2": None}, "has 'state1', but AdamW8bit of bitsandbytes keeps 'state1' and 'state2'"),
    "no levels": ({"qmap1": ...}, "'state1' must be numbers, or bytes with 'qmap1' and 'absmax1'"),
    "no scales": ({"absmax2": None}, "'state2' must be numbers, or bytes with 'qmap2' and 'absmax2'"),
    "levels of another number": ({"qmap1": LEVELS[:255]}, NO_LEVELS),
    "levels of half bytes": ({"qmap1": LEVELS[:16]}, NO_LEVELS),
    "levels of two dimensions": ({"qmap1": LEVELS.view(16, 16)}, NO_LEVELS),
    "levels in float64": ({"qmap1": LEVELS.double()}, NO_LEVELS),
    "levels that are a list": ({"qmap1": LEVELS.tolist()}, NO_LEVELS),
    "levels that are equal": ({"qmap1": torch.ones(256)}, NO_LEVELS),
    "a level that is infinite": ({"qmap1": LEVELS * INF}, NO_LEVELS),
    "a level that is NaN": ({"qmap1": LEVELS.where(LEVELS > -1, NAN)}, NO_LEVELS),
    "scales of another number": ({"absmax1": ONES[1:]}, NO_SCALES),
    "scales of two dimensions": ({"absmax1": ONES.view(6, 6)}, NO_SCALES),
    "scales in 16 bits": ({"absmax1": ONES.half()}, NO_SCALES),
    "scales that are negative": ({"absmax1": -ONES}, NO_SCALES),
    "scales that are NaN": ({"absmax1": ONES * NAN}, NO_SCALES),
    "scales that are infinite": ({"absmax1": ONES * INF}, NO_SCALES),
    "scales that are a number": ({"absmax1": 1.0}, NO_SCALES),
    "one scale for the tensor": ({"max1": ONES[:1], "new_max1": ONES[:1]}, "has one scale for the whole tensor"),
    "a bound on updates": ({"unorm_vec": ONES[:1]}, "was trained with max_unorm"),
    "a further state": ({"state3": BYTES}, "unknown state 'state3'"),
    "a step that is a text": ({"step": "x"}, "'step' must be a number"),
    "a negative step": ({"step": -1}, "'step' must be a number"),
    "an endless step": ({"step": 10**400}, "'step' must be a number"),
    "no step": ({"step": ...}, "'step' is missing"),
}


def changed(saved: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with other entries of the first parameter; `...` leaves one out."""
    saved = copied(saved)
    slot = {**saved["state"][0], **changes}
    saved["state"][0] = {key: entry for key, entry in slot.items() if entry is not ...}
    return saved


@pytest.mark.parametrize("hidden", [False, True], ids=["plain", "hidden"])
@pytest.mark.parametrize("case", OF_BITSANDBYTES)
def test_a_file_of_bitsandbytes_that_does_not_fit(case: str, hidden: bool) -> None:
    changes, message = OF_BITSANDBYTES[case]
    for kind in (AdamW8bit, AdamW):
        saved = changed(saved_by("bitsandbytes", "AdamW8bit"), changes)
        if hidden:  # as newer versions have them
            for slot in saved["state"].values():
                slot[HIDDEN] = {key: slot.pop(key) for key in list(slot) if key != "step"}
        refused(saved, kind, message)


@pytest.mark.parametrize("value", ["x", None, [1], torch.ones(3)], ids=str)
def test_what_is_hidden_is_a_table(value: Any) -> None:
    saved = changed(saved_by("bitsandbytes", "AdamW8bit"), {HIDDEN: value})
    refused(saved, message=f"parameter 0: '{HIDDEN}' must be a table of tensors")


@pytest.mark.parametrize("value", ["x", [1], 3, torch.ones(3)], ids=str)
def test_states_of_a_parameter_are_a_table(value: Any) -> None:
    for library in ("bitsandbytes", "torchao"):
        saved = copied(saved_by(library, "AdamW8bit"))
        saved["state"][0] = value
        refused(saved, message="parameter 0: must have a table of states, not ")


@pytest.mark.parametrize("group", ["x", [1], None, {}, {"params": 3}, {"params": [[0], [1], [2]]}], ids=str)
def test_groups_are_tables(group: Any) -> None:
    params, optimizer = one_step(AdamW8bit)
    unchanged = snapshot(params, optimizer)
    saved = {**saved_by("bitsandbytes", "AdamW8bit"), "param_groups": [group]}
    with pytest.raises(ValueError, match="not a state dict of an optimizer: group 0 must be a table with a list of `params`"):
        optimizer.load_state_dict(saved)
    unchanged()


@pytest.mark.parametrize("library", ["bitsandbytes", "torchao"])
@pytest.mark.parametrize("key", [3, (), None, "exp_avg_scale", "state", b"state1"], ids=repr)
def test_unknown_states_are_named(key: Any, library: str) -> None:
    saved = changed(saved_by(library, "AdamW8bit"), {key: ONES})
    refused(saved, message=f"parameter 0: unknown state {re.escape(repr(key))}")


def test_files_of_another_rule() -> None:
    """The library does not write down which one it was."""
    lion, adam, averages = (saved_by("bitsandbytes", name) for name in ("Lion8bit", "AdamW8bit", "AdEMAMix8bit"))
    cases: list[tuple[dict[str, Any], Any, str]] = [
        (lion, AdamW8bit, "has 'state1', but AdamW8bit of bitsandbytes keeps 'state1' and 'state2'"),
        (adam, Lion8bit, "has 'state1' and 'state2', but Lion8bit of bitsandbytes keeps 'state1'"),
        (lion, SGD8bit, r"group 0: betas = \(0.9, 0.99\), but those of SGD8bit are \(momentum, 0\): a file of bitsandbytes"),
        (averages, AdamW8bit, r"group 0: AdamW8bit: betas = \(0.9, 0.999, 0.9999\), but it must be a tuple of 2 numbers"),
        (adam, AdEMAMix8bit, r"group 0: AdEMAMix8bit: betas = \(0.9, 0.999\), but it must be a tuple of 3 numbers"),
        (lion, optc.compile("adagrad_norm"), "it is of bitsandbytes, whose .* can be read, but AdaGradNorm keeps"),
        (saved_by("bitsandbytes", "LAMB8bit"), LAMB8bit, "was trained with max_unorm"),
        (saved_by("bitsandbytes", "LARS8bit"), LARS8bit, "was trained with max_unorm"),
    ]
    for saved, kind, message in cases:
        refused(copied(saved), kind, message)


@pytest.mark.parametrize("betas", [None, 0.9, "x", [], (0.9,), (0.9, "0"), (0.9, None), (NAN, 0.0), torch.ones(2)], ids=str)
def test_decay_rates_are_two_numbers(betas: Any) -> None:
    saved = copied(saved_by("bitsandbytes", "SGD8bit"))
    saved["param_groups"][0]["betas"] = betas
    refused(saved, SGD8bit, "group 0: ")


def test_an_own_state_may_be_called_as_theirs() -> None:
    kind = optc.compile("""
optimizer Own:
    hyper: lr = 1e-3 in [0, inf)
    state: state1 = 0
    step:
        state1 <- ema(state1, g, 0.9)
        theta <- theta - lr*state1
""")
    params, optimizer = trained(kind)
    other = kind(twins(params))
    assert loading(other, optimizer.state_dict()) == []


# --- torchao ------------------------------------------------------------------------------------------------------------------

CODES = torch.zeros(64, 64, dtype=torch.uint8)
SIXTEEN = torch.ones(16)
NO_CODES, NO_AO_SCALES = "the codes of 'exp_avg' must be bytes or", "the scales of 'exp_avg' must be finite numbers"
NO_BLOCK, NO_MAP = "'exp_avg' has .* scales for 4096 numbers", "the `qmap` of 'exp_avg' must be 16 or 256 finite float32 levels"
OF_TORCHAO: dict[str, tuple[Mapping[str, Any], str]] = {
    "codes of another size": ({"codes": CODES[1:]}, r"'exp_avg' must be of shape \(64, 64\) with codes of shape \(64, 64\)"),
    "codes of another shape": ({"codes": CODES.view(-1)}, r"'exp_avg' must be of shape \(64, 64\)"),
    "codes of another dtype": ({"codes": CODES.int()}, NO_CODES),
    "codes that are numbers": ({"codes": CODES.float()}, NO_CODES),
    "codes that are a text": ({"codes": "x"}, NO_CODES + " .*, not 'x'"),
    "codes without memory": ({"codes": CODES.to("meta")}, NO_CODES),
    "no codes": ({"codes": None}, NO_CODES),
    "scales of no number": ({"scale": SIXTEEN[:0]}, NO_AO_SCALES),
    "scales of two dimensions": ({"scale": SIXTEEN.view(4, 4)}, NO_AO_SCALES),
    "scales in float64": ({"scale": SIXTEEN.double()}, NO_AO_SCALES),
    "scales that are whole numbers": ({"scale": SIXTEEN.int()}, NO_AO_SCALES),
    "scales that are negative": ({"scale": -SIXTEEN}, NO_AO_SCALES),
    "scales that are NaN": ({"scale": SIXTEEN * NAN}, NO_AO_SCALES),
    "a scale for everything": ({"scale": torch.tensor(1.0)}, NO_AO_SCALES),
    "too many scales": ({"scale": torch.ones(4096)}, NO_BLOCK),
    "more scales than numbers": ({"scale": torch.ones(8192)}, NO_BLOCK),
    "scales that do not divide": ({"scale": torch.ones(15)}, NO_BLOCK),
    "levels of another number": ({"qmap": LEVELS[:255]}, NO_MAP),
    "levels of half bytes": ({"qmap": LEVELS[:16]}, r"with codes of shape \(2048,\)"),
    "levels that are a list": ({"qmap": LEVELS.tolist()}, NO_MAP),
    "levels that are equal": ({"qmap": torch.ones(256)}, NO_MAP),
    "a level that is NaN": ({"qmap": LEVELS * NAN}, NO_MAP),
    "no levels": ({"qmap": None}, NO_MAP),
}


def with_attributes(saved: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy whose second parameter has other attributes: files rebuild these tensors from whatever they hold."""
    saved = copied(saved)
    entry = saved["state"][1]["exp_avg"].detach()
    for key, value in changes.items():
        setattr(entry, key, value)
    saved["state"][1]["exp_avg"] = entry
    return saved


@pytest.mark.parametrize("case", OF_TORCHAO)
def test_a_file_of_torchao_that_does_not_fit(case: str) -> None:
    changes, message = OF_TORCHAO[case]
    for kind in (AdamW8bit, AdamW):
        saved = with_attributes(saved_by("torchao", "AdamW8bit"), changes)
        refused(saved, kind, "parameter 1: .*" + message)


def test_codes_of_torchao_belong_to_a_shape() -> None:
    """Four bits lie flat: the shape is what the tensor says."""
    for name, kind in (("AdamW4bit", AdamW4bit), ("AdamWFp8", AdamWFp8)):
        saved = copied(saved_by("torchao", name))
        params = parameters((SHAPES[0], (32, 128), SHAPES[2]))
        optimizer = kind(params)
        with pytest.raises(ValueError, match=r"parameter 1: 'exp_avg' must be of shape \(32, 128\)"):
            optimizer.load_state_dict(saved)
        assert not optimizer.state


def test_codes_are_for_states_per_element() -> None:
    kind = optc.compile("""
optimizer Means:
    hyper: lr = 1e-3 in [0, inf)
    state: exp_avg = 0 per tensor; exp_avg_sq = 0
    step:
        exp_avg <- ema(exp_avg, mean(g), 0.9)
        exp_avg_sq <- ema(exp_avg_sq, g^2, 0.9)
        theta <- theta - lr*g/(1 + exp_avg_sq) - lr*exp_avg
""")
    params = parameters(SHAPES[:2])
    optimizer = kind(params, backend="torch")
    with pytest.raises(ValueError, match="parameter 1: 'exp_avg' are codes, and Means has no number for each element there"):
        optimizer.load_state_dict(copied(saved_by("torchao", "AdamW8bit"), 2))
    assert not optimizer.state


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scales_in_16_bits_are_exact(dtype: torch.dtype) -> None:
    """As torchao has them where that is the default dtype."""
    scales = torch.linspace(0, 1, 16).to(dtype)
    saved = with_attributes(saved_by("torchao", "AdamW8bit"), {"scale": scales})
    params = parameters(SHAPES)
    optimizer = AdamW8bit(params)
    loading(optimizer, saved)
    assert torch.equal(optimizer.state[params[1]]["exp_avg_scale"], scales.float())


@pytest.mark.parametrize("library", ["bitsandbytes", "torchao"])
def test_loading_needs_neither_library(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = saved_by(library, "AdamW8bit")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("bitsandbytes", "torchao")]:
        monkeypatch.setitem(sys.modules, name, None)  # to import it is an ImportError now
    loading(AdamW8bit(parameters(SHAPES)), saved)


def test_a_state_for_other_optimizers() -> None:
    saved = copied(saved_by("torchao", "AdamW8bit"))
    refused(saved, Lion8bit, "parameter 0: unknown state 'exp_avg_sq'")


# --- anything -----------------------------------------------------------------------------------------------------------------


class Odd(Tensor):
    """A tensor of a class of its own that claims to have codes."""

    codes = 1
    scale = "x"


JUNK: tuple[Any, ...] = (
    None, True, -1, 1.5, NAN, 10**400, "x", b"x", [1], (), {}, {"a": 1}, object(), 1j, torch.tensor(3), torch.tensor(NAN),
    torch.ones(3), torch.zeros(0), torch.ones(70, 130), torch.ones(70, 130, requires_grad=True), BYTES, BYTES.bool(),
    BYTES.long(), BYTES.to(torch.complex64), torch.ones(70, 130, device="meta"), torch.ones(70, 130).to_sparse(),
    torch.ones(70, 130).as_subclass(Odd), nn.Parameter(torch.ones(70, 130)),
)  # fmt: skip


def is_loaded_or_refused(saved: dict[str, Any], kind: Any) -> bool:
    """Whether it was loaded; if not, with the usual error, and nothing has changed."""
    params, optimizer = one_step(kind)
    unchanged = snapshot(params, optimizer)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer.load_state_dict(saved)
    except ValueError as error:
        assert "nothing was loaded" in str(error)
        unchanged()
        return False
    train([1], (optimizer, params))
    return True


@pytest.mark.parametrize("library", ["bitsandbytes", "torchao"])
@pytest.mark.parametrize("kind", [AdamW8bit, AdamW], ids=lambda kind: kind.__name__)
def test_anything_in_the_place_of_an_entry(library: str, kind: Any) -> None:
    saved = saved_by(library, "AdamW8bit")
    outcomes = set()
    for key in saved["state"][0]:
        for junk in JUNK:
            other = {**saved, "state": {**saved["state"], 0: {**saved["state"][0], key: junk}}}
            outcomes.add(is_loaded_or_refused(other, kind))
    for key in saved["param_groups"][0]:
        for junk in JUNK if key != "params" else ():
            if isinstance(junk, Odd):  # groups are copied, and PyTorch copies no tensors of unknown classes
                continue
            other = {**saved, "param_groups": [{**saved["param_groups"][0], key: junk}]}
            outcomes.add(is_loaded_or_refused(other, kind))
    assert outcomes == {True, False}


@pytest.mark.parametrize("attribute", ["codes", "scale", "qmap", "signed", "block_size"])
@pytest.mark.parametrize("kind", [AdamW8bit, AdamW], ids=lambda kind: kind.__name__)
def test_anything_in_the_place_of_an_attribute(attribute: str, kind: Any) -> None:
    for junk in JUNK:
        is_loaded_or_refused(with_attributes(saved_by("torchao", "AdamW8bit"), {attribute: junk}), kind)
