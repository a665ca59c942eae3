"""Checkpoints on disk of several optimizers in one: exact, partial, of other routings and specs, damaged."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import optc
from optc.dist import full_state_dict, latest, load, save
from optc.runtime import Routed
from tests.runtime.routing import matrix, network, routed, same, step
from tests.runtime.test_routing_files import other_kinds
from tests.runtime.test_saving import SPEC


def scheduled(model: nn.Module) -> Routed:
    """Both count steps, and bound one norm."""
    modifiers = "clip_global_norm + cosine(T = 20)"
    return optc.route(model, [(matrix, {"type": f"LAMB + {modifiers}"})], otherwise={"type": f"AdamW8bit + {modifiers}"})


@pytest.mark.parametrize("make", [routed, other_kinds, scheduled])
def test_training_goes_on_to_the_bit(tmp_path: Path, make: Callable[..., Routed]) -> None:
    model = network()
    model[0] = nn.Linear(80, 60)  # large enough for codes
    optimizer = make(model)
    for seed in range(3):
        step(model, [optimizer], seed)
    save(tmp_path, optimizer, model)
    twin = copy.deepcopy(model)
    for p in twin.parameters():
        p.data.zero_()
    resumed = make(twin)
    for group in resumed.param_groups:
        group["lr"] = 0.7
    report = load(tmp_path, resumed, twin)
    assert (report.missing, report.unexpected) == ((), ())
    for seed in range(3, 6):
        step(model, [optimizer], seed)
        step(twin, [resumed], seed)
    same(model, twin)
    assert repr(optimizer.state_dict()) == repr(resumed.state_dict())


def test_the_whole_state_of_one_process_is_its_state(tmp_path: Path) -> None:
    model = network()
    optimizer = other_kinds(model)
    step(model, [optimizer])
    assert repr(full_state_dict(optimizer)) == repr(optimizer.state_dict())


def test_other_rules_that_come_to_the_same_fit(tmp_path: Path) -> None:
    """Groups are in another order, and types are spelled otherwise; parameters go by their names."""
    model = network()
    optimizer = routed(model)
    step(model, [optimizer])
    save(tmp_path, optimizer)
    other = optc.route(model, [("*bias", {"type": "adam_w"}), ("1.*", {"type": "AdamW"})], otherwise={"type": "sgd"})
    load(tmp_path, other)
    assert [group["type"] for group in other.param_groups] == ["AdamW", "AdamW", "SGD"]
    assert [group["lr"] for group in other.param_groups] == [0.01, 0.01, 0.1]
    for p in model.parameters():
        assert other.state[p].keys() == optimizer.state[p].keys()
        for key, entry in optimizer.state[p].items():
            assert torch.equal(other.state[p][key], entry)


def test_a_plain_optimizer_and_a_routed_one_of_its_kind_load_each_other(tmp_path: Path) -> None:
    model = network()
    plain = optc.create("AdamW", optc.groups.no_decay(model))
    step(model, [plain])
    alike = optc.route(optc.groups.no_decay(model), otherwise={"type": "AdamW"})
    save(tmp_path / "plain", plain)
    load(tmp_path / "plain", alike)
    save(tmp_path / "routed", alike)
    again = optc.create("AdamW", optc.groups.no_decay(model))
    load(tmp_path / "routed", again)
    assert repr(again.state_dict()) == repr(plain.state_dict())


def test_another_routing_is_told_by_parameter_and_changes_nothing(tmp_path: Path) -> None:
    model = network()
    optimizer = routed(model)
    step(model, [optimizer])
    save(tmp_path, optimizer)
    other = optc.route(model, [("3.*", {"type": "SGD"})], otherwise={"type": "AdamW"})
    for strict in (True, False):
        with pytest.raises(ValueError) as caught:
            load(tmp_path, other, strict=strict)
        assert str(caught.value).splitlines() == [
            f"{latest(tmp_path)} does not fit this Routed, nothing was loaded:",
            "  '3.bias' was updated by AdamW there, and is by SGD here",
            "  '0.weight' was updated by SGD there, and is by AdamW here",
        ]
    assert not other.state
    strangers = optc.route(model, [(matrix, {"type": "Lion"})], otherwise={"type": "LAMB"})
    with pytest.raises(ValueError, match="was saved by SGD and AdamW, and this is Lion and LAMB"):
        load(tmp_path, strangers)


def test_parts_of_a_model_are_loaded_and_told(tmp_path: Path) -> None:
    model = network()
    optimizer = routed(model)
    step(model, [optimizer])
    save(tmp_path, optimizer)
    first, norm, tanh, _ = model
    grown = nn.Sequential(first, norm, tanh, nn.Identity(), nn.Linear(6, 3))
    other = routed(grown)
    with pytest.raises(ValueError, match=r"  '4.weight' is not in the checkpoint\n  '4.bias' is not .*\n  '3.bias' is only in"):
        load(tmp_path, other)
    with pytest.warns(UserWarning, match="2 parameters are not in the checkpoint"):
        report = load(tmp_path, other, strict=False)
    assert (report.missing, report.unexpected) == (("4.weight", "4.bias"), ("3.bias", "3.weight"))
    here, there = (one.state[next(first.parameters())]["momentum_buffer"] for one in (other, optimizer))
    assert torch.equal(here, there)
    alone = optc.create("AdamW", model)
    with pytest.raises(ValueError, match=r"'0.weight' was updated by SGD there, and is by AdamW here"):
        load(tmp_path, alone)


def test_the_spec_of_one_has_changed(tmp_path: Path) -> None:
    model = network()

    def made(spec: str) -> Routed:
        return optc.route(model, [(matrix, {"type": optc.compile(spec)})], otherwise={"type": "AdamW"})

    optimizer = made(SPEC)
    step(model, [optimizer])
    save(tmp_path, optimizer)
    with pytest.warns(UserWarning, match="the spec of Mine has changed since") as warned:
        load(tmp_path, made(SPEC.replace("0.9", "0.95")))
    assert len(warned) == 1, [str(w.message) for w in warned]
    others = SPEC.replace("m = 0", "n = 0").replace("m ←", "n ←").replace("ema(m", "ema(n").replace("·m", "·n")
    with pytest.raises(ValueError, match=r"this Routed, .*:\n  the spec of Mine has changed since, and has no states 'm' any"):
        load(tmp_path, made(others))


@pytest.mark.parametrize("damage", ["data", "index", "part", "no parts", "type of parts"])
def test_damaged_files_give_one_error_and_change_nothing(tmp_path: Path, damage: str) -> None:
    model = network()
    optimizer = routed(model)
    step(model, [optimizer])
    folder = save(tmp_path, optimizer, model)
    step(model, [optimizer], 1)
    before = repr(optimizer.state_dict()), [p.tolist() for p in model.parameters()]
    manifest = folder / "optc.json"
    told: dict[str, Any] = json.loads(manifest.read_text())
    if damage in ("data", "index"):
        path = next(folder.glob("*.distcp")) if damage == "data" else folder / ".metadata"
        path.write_bytes(path.read_bytes()[:50])
    elif damage == "part":
        told["groups"][1]["part"] = 2
    elif damage == "no parts":
        del told["parts"]
    else:
        told["parts"] = {"0": told["parts"][0]}
    manifest.write_text(json.dumps(told))
    with pytest.raises(ValueError) as raised:
        load(tmp_path, optimizer, model)
    assert "\n" not in str(raised.value) and "save-000001" in str(raised.value)
    assert (repr(optimizer.state_dict()), [p.tolist() for p in model.parameters()]) == before


def test_files_of_another_format_are_told(tmp_path: Path) -> None:
    model = network()
    optimizer = routed(model)
    folder = save(tmp_path, optimizer)
    manifest = folder / "optc.json"
    manifest.write_text(manifest.read_text().replace('"format": 4', '"format": 1'))
    with pytest.raises(ValueError, match="was saved in format 1; this version of optc reads 4"):
        load(tmp_path, optimizer)
