"""Descriptions of checkpoints that are damaged: one error with the file and the place, and nothing changes."""

from __future__ import annotations

import copy
import json
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import optc
from optc.dist import load, save
from tests.runtime.test_saving import model, state_of, train, trained

Manifest = dict[str, Any]
NOT_ONE = "is not the description of a checkpoint: "


def group(found: Manifest) -> Any:
    return found["groups"][0]


def entry(found: Manifest) -> Any:
    return found["parameters"]["0.bias"]["entries"]["exp_avg"]


DAMAGES: dict[str, tuple[Callable[[Manifest], Any], str]] = {
    "names: 3": (lambda m: group(m).update(names=3), NOT_ONE + "groups[0].names must be a list, not 3"),
    "a number for a name": (lambda m: group(m).update(names=[1]), NOT_ONE + "groups[0].names[0] must be a text, not 1"),
    "names twice": (lambda m: group(m).update(names=group(m)["names"] * 2), NOT_ONE + "the groups name '0.weight' twice"),
    "no names": (lambda m: group(m).pop("names"), NOT_ONE + "groups[0] lacks 'names'"),
    "hypers: null": (lambda m: group(m).update(hypers=None), NOT_ONE + "groups[0].hypers must be a table, not None"),
    "no hypers": (lambda m: group(m).pop("hypers"), NOT_ONE + "groups[0] lacks 'hypers'"),
    "no tensor": (
        lambda m: group(m)["hypers"].update(lr={"tensor": "x"}),
        NOT_ONE + "groups[0].hypers['lr'] must be a tensor, not {'tensor': 'x'}",
    ),
    "a tensor of texts": (
        lambda m: group(m)["hypers"].update(lr={"tensor": ["x"], "dtype": "float32"}),
        NOT_ONE + "groups[0].hypers['lr'] must be a tensor, not ",
    ),
    "no tuple": (
        lambda m: group(m)["hypers"].update(betas={"tuple": 3}),
        NOT_ONE + "groups[0].hypers['betas'].tuple must be a",
    ),
    "no kind": (lambda m: group(m)["hypers"].update(lr={}), NOT_ONE + "groups[0].hypers['lr'] is a table of no known kind"),
    "other parameters": (
        lambda m: group(m)["hypers"].update(params=[0]),
        NOT_ONE + "groups[0].hypers has 'params', which is no hyper",
    ),
    "part: true": (
        lambda m: group(m).update(part=True),
        NOT_ONE + "groups[0].part must be a whole number, 0 or above, not True",
    ),
    "part: 1": (lambda m: group(m).update(part=1), NOT_ONE + "groups[0].part is 1, of 1 parts"),
    "shape: -1": (
        lambda m: entry(m).update(shape=[-1]),
        NOT_ONE + "parameters['0.bias'].entries['exp_avg'].shape[0] must be a whole",
    ),
    "shape: 8.0": (
        lambda m: entry(m).update(shape=[8.0]),
        NOT_ONE + "parameters['0.bias'].entries['exp_avg'].shape[0] must be a",
    ),
    "no dtype": (
        lambda m: entry(m).update(dtype="Tensor"),
        NOT_ONE + "parameters['0.bias'].entries['exp_avg'].dtype must be a dtype",
    ),
    "no extent": (
        lambda m: m["parts"][0]["states"]["exp_avg"].update(extent=[]),
        NOT_ONE + "parts[0].states['exp_avg'].extent must",
    ),
    "no codebook": (
        lambda m: m["parts"][0]["states"]["exp_avg"].update(codes={}),
        NOT_ONE + "parts[0].states['exp_avg'].codes must",
    ),
    "states: 3": (
        lambda m: m["parts"][0].update(states={"exp_avg": 3}),
        NOT_ONE + "parts[0].states['exp_avg'] must be a table",
    ),
    "model: true": (lambda m: m.update(model=True), NOT_ONE + "model must be a table, not True"),
    "no format": (lambda m: m.pop("format"), NOT_ONE + "it lacks 'format'"),
    "huge": (
        lambda m: entry(m).update(shape=[10**13]),
        "is not the description of this checkpoint: it says that 'optimizer/0.bias/exp_avg' is torch.float32 of shape "
        "(10000000000000,), and the files have torch.float32 of shape (8,)",
    ),
    "another dtype": (
        lambda m: m["model"]["0.bias"].update(dtype="uint8"),
        "is not the description of this checkpoint: it says that 'model/0.bias' is torch.uint8 of shape (8,), and the",
    ),
    "a tensor too many": (
        lambda m: m["model"].update(x={"dtype": "float32", "shape": [1]}),
        "is not the description of this checkpoint: the files have no 'model/x'",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_told_with_its_place(tmp_path: Path, damage: str) -> None:
    net = model()
    optimizer = trained("AdamW", net)
    path = save(tmp_path, optimizer, net) / "optc.json"
    train(net, optimizer, range(3, 4))
    before = state_of(optimizer), [p.tolist() for p in net.parameters()]
    found = json.loads(path.read_text())
    DAMAGES[damage][0](found)
    path.write_text(json.dumps(found))
    with pytest.raises(ValueError) as raised:
        load(tmp_path, optimizer, net)
    assert str(raised.value).startswith(f"{path} {DAMAGES[damage][1]}") and "\n" not in str(raised.value)
    assert (state_of(optimizer), [p.tolist() for p in net.parameters()]) == before


@pytest.mark.parametrize("text", ["[" * 100_000, "\xff", "", "nul", "3", "null", '"optc"', "[]"])
def test_what_is_no_table_is_one_error(tmp_path: Path, text: str) -> None:
    optimizer = trained("AdamW", model())
    path = save(tmp_path, optimizer) / "optc.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"optc.json (cannot be read|is not the description of a checkpoint): ") as raised:
        load(tmp_path, optimizer)
    assert "\n" not in str(raised.value)


JUNK: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**13,
    10**400,
    0.5,
    float("nan"),
    "x",
    "",
    [],
    [[]],
    {},
    {"tensor": 1},
    {"tuple": [1]},
)


def test_random_damage_is_one_error_or_harmless(tmp_path: Path) -> None:
    """Wherever a value is replaced, taken away or put in the place of another: ValueError with the folder, or it loads."""
    draw = random.Random(0)
    net, optimizer = coded()
    net(torch.ones(2, 64)).square().mean().backward()
    optimizer.step()
    folder = save(tmp_path, optimizer, net)
    pristine = json.loads((folder / "optc.json").read_text())
    before = repr(optimizer.state_dict()), repr(net.state_dict())
    outcomes = {"refused": 0, "loaded": 0}
    for _ in range(300):
        found = damaged(pristine, draw)
        (folder / "optc.json").write_text(json.dumps(found))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                load(tmp_path, optimizer, net, strict=draw.random() < 0.5)
        except ValueError as error:
            outcomes["refused"] += 1
            assert str(folder) in str(error)
            assert (repr(optimizer.state_dict()), repr(net.state_dict())) == before
        else:
            outcomes["loaded"] += 1
            (folder / "optc.json").write_text(json.dumps(pristine))
            net, optimizer = coded()
            load(tmp_path, optimizer, net)
            assert (repr(optimizer.state_dict()), repr(net.state_dict())) == before
    assert min(outcomes.values()) > 20, outcomes


def coded() -> tuple[nn.Module, Any]:
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2))
    return net, optc.create("AdamW8bit", optc.groups.no_decay(net, 0.1), lr=torch.tensor(1e-3))


def damaged(pristine: Manifest, draw: random.Random) -> Manifest:
    """A manifest with one value that is another, is gone, or is a copy of one from elsewhere; any depth is as likely."""
    found = copy.deepcopy(pristine)
    by_depth: dict[int, list[tuple[Any, Any]]] = {}
    for depth, holder, key in values(found, 0):
        by_depth.setdefault(depth, []).append((holder, key))
    places = by_depth[draw.choice(sorted(by_depth))]
    (holder, key), (other, of) = draw.choice(places), draw.choice(by_depth[draw.choice(sorted(by_depth))])
    kind = draw.choice(["junk", "gone", "copy"])
    if kind == "gone":
        del holder[key]
    else:
        holder[key] = copy.deepcopy(draw.choice(JUNK) if kind == "junk" else other[of])
    return found


def values(found: Any, depth: int) -> Iterator[tuple[int, Any, Any]]:
    """All values of a table or list, and of those in it, with how deep they are and where; of long lists the first ones."""
    keys: list[Any] = list(found) if isinstance(found, dict) else list(range(min(len(found), 4)))
    for key in keys:
        yield depth, found, key
        if isinstance(found[key], dict | list):
            yield from values(found[key], depth + 1)
