"""State dicts of several optimizers in one: torch's layout, exact resumes, and refusals that change nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

import optc
from optc.generated import AdamW
from optc.runtime import Routed
from tests.runtime.routing import matrix, network, routed, same, step
from tests.runtime.test_checkpoint import through_a_file
from tests.runtime.training import assert_equal, give_gradients


def other_kinds(model: nn.Module, **options: Any) -> Routed:
    """States in 8 bits, a composition, and numbers of the whole model."""
    rules = [("0.*", {"type": "AdamW8bit"}), ("1.*", {"type": "Lion + cautious"})]
    return optc.route(model, rules, otherwise={"type": "Prodigy"}, **options)


@pytest.mark.parametrize("make", [routed, other_kinds])
def test_a_resumed_run_is_bit_exact(make: Callable[..., Routed]) -> None:
    model = network()
    model[0] = nn.Linear(4, 6).bfloat16() if make is routed else nn.Linear(80, 60)
    optimizer = make(model)
    for seed in range(3):
        step(model, [optimizer], seed)
    saved = through_a_file(optimizer.state_dict())
    twin = copy.deepcopy(model)
    resumed = make(twin)
    for group in resumed.param_groups:
        group["lr"] = 0.7
    resumed.load_state_dict(saved)
    for seed in range(3, 6):
        step(model, [optimizer], seed)
        step(twin, [resumed], seed)
    same(model, twin)
    assert repr(optimizer.state_dict()) == repr(resumed.state_dict())


def test_the_layout_is_torchs() -> None:
    model = network()
    optimizer = routed(model)
    step(model, [optimizer])
    saved = optimizer.state_dict()
    assert set(saved) == {"state", "param_groups"} and sorted(saved["state"]) == list(range(6))
    assert [group["params"] for group in saved["param_groups"]] == [[0, 1], [2, 3, 4, 5]]
    assert [group["type"] for group in saved["param_groups"]] == ["SGD", "AdamW"]
    assert saved["param_groups"][0]["param_names"] == ["0.weight", "3.weight"]
    assert set(saved["state"][2]) == {"step", "exp_avg", "exp_avg_sq"} and "momentum_buffer" in saved["state"][0]
    counts = [slot["step"] for slot in saved["state"].values()]
    assert len({id(count) for count in counts}) == 6
    step(model, [optimizer])
    assert all(count == 1 for count in counts), "they belong to the state dict"


def test_groups_of_one_optimizer_and_torchs_load_each_others_states() -> None:
    """A part's slots are that optimizer's: a file by hand from torch's resumes the same."""
    model = network()
    optimizer = routed(model)
    step(model, [optimizer])
    twin = copy.deepcopy(model)
    torchs = torch.optim.AdamW([p for p in twin.parameters() if p.ndim == 1], lr=0.01, weight_decay=0.3)
    saved = optimizer.state_dict()
    own: dict[str, Any] = {
        "state": {i - 2: saved["state"][i] for i in range(2, 6)},
        "param_groups": [dict(saved["param_groups"][1])],
    }
    own["param_groups"][0]["params"] = [0, 1, 2, 3]
    torchs.load_state_dict(own)
    plain = AdamW([p for p in twin.parameters() if p.ndim == 1])
    plain.load_state_dict(torchs.state_dict())
    step(model, [optimizer])
    step(twin, [plain])
    assert_equal([p for p in model.parameters() if p.ndim == 1], [p for p in twin.parameters() if p.ndim == 1])


def test_torchs_distributed_checkpoints_take_it() -> None:
    model = network()
    optimizer = routed(model)
    step(model, [optimizer])
    saved = get_optimizer_state_dict(model, optimizer)
    twin = copy.deepcopy(model)
    resumed = routed(twin)
    set_optimizer_state_dict(twin, resumed, saved)
    for seed in range(3):
        step(model, [optimizer], seed)
        step(twin, [resumed], seed)
    same(model, twin)


def test_states_made_beforehand_are_those_of_a_first_step() -> None:
    model = network()
    optimizer = other_kinds(model)
    optimizer.init_state()
    made = {name: set(optimizer.state[p]) for name, p in model.named_parameters()}
    twin = network()
    stepped = other_kinds(twin)
    step(twin, [stepped])
    assert made == {name: set(stepped.state[p]) for name, p in twin.named_parameters()}
    optimizer.load_state_dict(stepped.state_dict())
    model.load_state_dict(twin.state_dict())
    step(model, [optimizer])
    step(twin, [stepped])
    same(model, twin)


def test_a_part_that_has_not_stepped_yet_has_nothing_in_the_file() -> None:
    model = network()
    rules: Any = [(matrix, {"type": "Prodigy"})]
    optimizer = optc.route(model, rules, otherwise={"type": "AdamW"})
    give_gradients(0, [p for p in model.parameters() if p.ndim == 1])
    optimizer.step()
    assert "d" not in optimizer.param_groups[0]
    twin = copy.deepcopy(model)
    resumed = optc.route(twin, rules, otherwise={"type": "AdamW"})
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    for seed in range(3):
        step(model, [optimizer], seed)
        step(twin, [resumed], seed)
    same(model, twin)


def test_hooks_see_the_whole_file() -> None:
    model = network()
    optimizer = routed(model)
    step(model, [optimizer])
    seen: list[Any] = []
    optimizer.register_load_state_dict_pre_hook(lambda _, packed: seen.append(len(packed["state"])))
    optimizer.register_load_state_dict_post_hook(lambda _: seen.append("after"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == [6, "after"]


def test_names_of_wrapped_models_are_the_same_names() -> None:
    model = network()
    optimizer = routed(model)
    step(model, [optimizer])
    inner = copy.deepcopy(model)
    wrapped = nn.ModuleDict({"module": inner})
    resumed = routed(wrapped)
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.state[list(inner.parameters())[3]]["step"] == 1


def by_name(model: nn.Module) -> Routed:
    return optc.route(model, [("*.weight", {"type": "SGD"})], otherwise={"type": "AdamW"})


def renamed(model: nn.Module) -> Routed:
    named: Any = [("other" if name == "3.weight" else name, p) for name, p in model.named_parameters()]
    return routed(named)


REFUSED: dict[str, tuple[Callable[[nn.Sequential], Any], str]] = {
    "other types": (
        lambda m: optc.route(m, [(matrix, {"type": "SGD"})], otherwise={"type": "Lion"}),
        "the loaded state dict has groups of SGD, Lion, this optimizer of SGD, AdamW: route both in the same way",
    ),
    "more groups": (
        lambda m: optc.route(
            optc.groups.override(m, {"1.*": {"lr": 0.1}}), [(matrix, {"type": "SGD"})], otherwise={"type": "AdamW"}
        ),
        "the loaded state dict has groups of SGD, AdamW, AdamW, this optimizer of SGD, AdamW: route both in the same way",
    ),
    "other parameters": (by_name, "the loaded state dict has groups of [3, 3] parameters, this Routed of [2, 4]"),
    "other names": (
        renamed,
        "this state dict does not fit Routed, nothing was loaded:\n"
        "  Routed: group 0 has no 'other' here, and no '3.weight' in the state dict",
    ),
    "a plain optimizer": (
        lambda m: AdamW([{"params": [p for p in m.parameters() if (p.ndim == 2) is two]} for two in (True, False)]),
        "the loaded state dict has groups of no types, this optimizer of SGD, AdamW: route both in the same way",
    ),
}


def test_a_file_in_another_order_is_matched_by_name() -> None:
    model = network()
    optimizer = routed(model)
    step(model, [optimizer])
    twin = copy.deepcopy(model)
    named: Any = list(reversed(list(twin.named_parameters())))
    other = routed(named)
    other.load_state_dict(optimizer.state_dict())
    for seed in range(1, 3):
        step(model, [optimizer], seed)
        step(twin, [other], seed)
    same(model, twin)


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_of_another_routing_is_refused(case: str) -> None:
    make, message = REFUSED[case]
    other = network()
    theirs = make(other)
    step(other, [theirs])
    model = network()
    optimizer = routed(model)
    step(model, [optimizer])
    before = repr(optimizer.state_dict())
    with pytest.raises(ValueError) as caught:
        optimizer.load_state_dict(theirs.state_dict())
    assert str(caught.value) == message
    assert repr(optimizer.state_dict()) == before
    step(model, [optimizer])


def test_options_are_no_matter_of_routing() -> None:
    model, other = network(), network()
    optimizer = routed(model)
    theirs = optc.route(optc.groups.no_decay(other), [(matrix, {"type": "SGD", "lr": 0.7})], otherwise={"type": "AdamW"})
    step(other, [theirs])
    optimizer.load_state_dict(theirs.state_dict())
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.7, 0.0), (0.001, 0.0)]


def test_everything_that_does_not_fit_is_told_at_once() -> None:
    model = network()
    optimizer = routed(model)
    step(model, [optimizer])
    saved = optimizer.state_dict()
    before = repr(saved)
    broken = copy.deepcopy(saved)
    broken["state"][0]["momentum_buffer"] = torch.ones(7)
    broken["state"][3]["exp_avgs"] = broken["state"][3].pop("exp_avg")
    broken["param_groups"][1]["lr"] = -1.0
    with pytest.raises(ValueError) as caught:
        optimizer.load_state_dict(broken)
    assert str(caught.value).splitlines() == [
        "this state dict does not fit Routed, nothing was loaded:",
        "  parameter 0: 'momentum_buffer' must be a tensor of shape (6, 4), not a tensor of shape (7,)",
        "  group 1: AdamW: lr = -1.0, but it must be a number in [0, inf)",
    ]
    broken["param_groups"][1]["lr"] = 0.1
    broken["state"][9] = {}
    with pytest.raises(ValueError, match="parameter 3: unknown state 'exp_avgs'; did you mean 'exp_avg'"):
        optimizer.load_state_dict(broken)
    with pytest.raises(ValueError, match="state for 9, which no group has"):
        optimizer.load_state_dict({**saved, "state": {**saved["state"], 9: {}}})
    with pytest.raises(ValueError, match="not a state dict of an optimizer: Routed needs `state` and `param_groups` in it"):
        optimizer.load_state_dict({"model": {}})
    assert repr(optimizer.state_dict()) == before


def test_other_libraries_have_nothing_of_the_kind() -> None:
    with pytest.raises(TypeError) as caught:
        optc.export_state(routed(network()), "bitsandbytes")  # type: ignore[arg-type]
    assert str(caught.value) == (
        "bitsandbytes has no optimizer of several rules: export them one by one, each by itself: parts['SGD'], parts['AdamW']"
    )


def test_a_part_is_exported_as_if_it_were_alone() -> None:
    models = [nn.Sequential(nn.Linear(80, 60), nn.LayerNorm(60)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizer = optc.route(models[0], [(matrix, {"type": "AdamW8bit"})], otherwise={"type": "Lion"})
    alone = optc.create("AdamW8bit", [p for p in models[1].parameters() if p.ndim == 2])
    for seed in range(3):
        step(models[0], [optimizer], seed)
        step(models[1], [alone], seed)
    ours = optc.export_state(optimizer.parts["AdamW8bit"], "bitsandbytes")
    theirs = optc.export_state(alone, "bitsandbytes")
    assert list(ours["state"]) == [0] and ours["state"][0].keys() == theirs["state"][0].keys()
    assert all(torch.equal(torch.as_tensor(ours["state"][0][k]), torch.as_tensor(x)) for k, x in theirs["state"][0].items())
    with pytest.raises(ValueError, match="this AdamW8bit is one of several optimizers in one: load a state dict of the whole"):
        optimizer.parts["AdamW8bit"].load_state_dict(alone.state_dict())
    assert len(optimizer.state) == 4
