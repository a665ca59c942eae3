"""Checkpoints that are damaged, or were made for others, loaded by processes together; runs in every process."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import optc
from tests.dist.kills import timed
from tests.dist.training import Net, built, difference, train, whole


def _manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    """What changes the description of a checkpoint."""

    def work(folder: Path) -> None:
        found = json.loads((folder / "optc.json").read_text())
        change(found)
        (folder / "optc.json").write_text(json.dumps(found))

    return work


def _cut(name: str) -> Callable[[Path], Any]:
    """What leaves the first half of a file."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[: (folder / name).stat().st_size // 2])


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut": (_cut("__1_0.distcp"), "ValueError: {} cannot be loaded: a file ends too early, or is none of torch.save"),
    "zeros": (
        lambda folder: (folder / "__1_0.distcp").write_bytes(bytes(10**6)),
        "ValueError: {} cannot be loaded: a file ends",
    ),
    "no file": (lambda folder: (folder / "__1_0.distcp").unlink(), "ValueError: {} cannot be loaded: "),
    "cut index": (_cut(".metadata"), "ValueError: {} cannot be loaded: "),
    "no index": (lambda folder: (folder / ".metadata").unlink(), "ValueError: {} cannot be loaded: "),
    "cut manifest": (_cut("optc.json"), "ValueError: {}/optc.json cannot be read: "),
    "no manifest": (lambda folder: (folder / "optc.json").unlink(), "FileNotFoundError: "),
    "a parameter that is not there": (
        _manifest(
            lambda found: [group["names"].remove("last.bias") for group in found["groups"] if "last.bias" in group["names"]]
        ),
        "ValueError: {} does not fit this AdamW, nothing was loaded:\n  'last.bias' is not in the checkpoint",
    ),
    "a parameter that is only there": (
        _manifest(lambda found: found["groups"][0]["names"].append("other")),
        "ValueError: {} does not fit this AdamW, nothing was loaded:\n  'other' is only in the checkpoint",
    ),
    "a tensor that is not there": (
        _manifest(lambda found: found["parameters"]["last.bias"]["entries"].update(other={"dtype": "float32", "shape": [1]})),
        "ValueError: {}/optc.json is not the description of this checkpoint: the files have no 'optimizer/last.bias/other'",
    ),
    "an entry without a shape": (
        _manifest(lambda found: found["parameters"]["last.bias"]["entries"]["exp_avg"].pop("shape")),
        "ValueError: {}/optc.json is not the description of a checkpoint: "
        "parameters['last.bias'].entries['exp_avg'] lacks 'shape'",
    ),
    "a tensor of the model that is not there": (
        _manifest(lambda found: found["model"].update(other={"dtype": "float32", "shape": [1]})),
        "ValueError: {}/optc.json is not the description of this checkpoint: the files have no 'model/other'",
    ),
    "a tensor of the model that is not told": (
        _manifest(lambda found: found["model"].pop("last.bias")),
        "ValueError: {} does not fit this AdamW, nothing was loaded:\n  the model's 'last.bias' is not in the checkpoint",
    ),
    "a learning rate that is none": (
        _manifest(lambda found: found["groups"][0]["hypers"].update(lr=-1)),
        "ValueError: {} cannot be loaded: this state dict does not fit AdamW, nothing was loaded:\n  group 0: AdamW: lr",
    ),
}
"""What is done to a save of two processes, and how the error starts, in all of them."""


def loaded_from_damaged(rank: int, engine: str, path: Path) -> dict[str, tuple[float, str, bool]]:
    """For each damage how long a load takes, what it raises, and whether parameters and states are as they were."""
    model, optimizer = _trained(engine, path)
    found = {}
    for name, (damage, _) in DAMAGES.items():
        if rank == 0:
            shutil.copytree(optc.dist.latest(path), path / name)
            damage(path / name)
        dist.barrier()
        before = _facts(model, optimizer)
        seconds, said = timed(lambda: optc.dist.load(path / name, optimizer, _inner(model)))  # noqa: B023
        found[name] = seconds, said, _facts(model, optimizer) == before
    return found


def loaded_by_others(rank: int, path: Path) -> dict[str, tuple[float, str, bool]]:
    """A load into optimizers that are others than the one that saved: in all processes, or in the second alone."""
    _trained("stage3", path)
    found = {}
    for name, make in OTHERS.items():
        model, _ = built("stage3", "AdamW")
        optimizer = make(rank, model)
        before = _facts(model, optimizer)
        seconds, said = timed(lambda: optc.dist.load(path, optimizer, model))  # noqa: B023
        found[name] = seconds, said, _facts(model, optimizer) == before
    return found


def refused_after_reading(rank: int, engine: str, path: Path) -> tuple[float, str, bool]:
    """A load that a hook of the second process refuses when all is read: seconds, what is told, whether all is as it was."""
    model, optimizer = _trained(engine, path)
    before = _facts(model, optimizer)

    def refuse(*_: Any) -> None:
        raise ValueError("the hook does not want it")

    if rank == 1:
        optimizer.register_load_state_dict_pre_hook(refuse)
    seconds, said = timed(lambda: optc.dist.load(path, optimizer, _inner(model)))
    return seconds, said, _facts(model, optimizer) == before


def saved_apart(rank: int, engine: str, path: Path) -> tuple[str, bool, list[str], str]:
    """A save to folders that processes do not share, which keeps nothing else: what it raises, whether what was saved before
    still loads, what is in the first one's folder, and which save is the latest.
    """
    model, optimizer = _trained(engine, path)
    optc.dist.save(path, optimizer, _inner(model))  # has one before it
    before = _facts(model, optimizer)
    train(model, optimizer, range(3, 4))
    _, said = timed(lambda: optc.dist.save(path / "apart" if rank else path, optimizer, _inner(model), keep=0))
    optc.dist.load(path, optimizer, _inner(model))
    saves = sorted(folder.name for folder in path.glob("save-*") if (folder / "optc.json").exists())
    return said, _facts(model, optimizer) == before, saves, optc.dist.latest(path).name


def loaded_by_larger(rank: int, path: Path) -> tuple[str, bool, tuple[Any, ...], bool]:
    """A load into a divided model that has a layer and a buffer more: what it raises, whether all is as it was, and what is
    told without `strict`; whether the rest is loaded then.
    """
    saved, _ = _trained("stage3", path)
    model = Larger()
    optc.dist.shard(model)
    optimizer = optc.create("AdamW", optc.groups.no_decay(model, 0.1))
    before = _facts(model, optimizer)
    _, said = timed(lambda: optc.dist.load(path, optimizer, model))
    unchanged = _facts(model, optimizer) == before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = optc.dist.load(path, optimizer, model, strict=False)
        optc.dist.load(path, optc.create("AdamW", optc.groups.no_decay(saved, 0.1)), saved)
    rest = {name: x for name, x in whole(model).items() if not name.startswith("extra")}
    return said, unchanged, (report.missing, report.model_missing), difference(rest, whole(saved)) == 0


class Larger(Net):
    """With a layer and a buffer that others lack."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(5, 3).double()
        self.register_buffer("stats", torch.ones(2))


OTHERS: dict[str, Callable[[int, nn.Module], Any]] = {
    "one group of two": lambda rank, model: optc.create("AdamW", model),
    "another optimizer in one": lambda rank, model: optc.create("LAMB" if rank else "AdamW", optc.groups.no_decay(model, 0.1)),
    "one group of two in one": lambda rank, model: optc.create("AdamW", model if rank else optc.groups.no_decay(model, 0.1)),
    "a parameter less in one": lambda rank, model: optc.create("AdamW", list(model.named_parameters())[rank:]),
}


def _trained(engine: str, path: Path) -> tuple[nn.Module, Any]:
    """A model and its optimizer of two groups, one step after what they have saved."""
    model, _ = built(engine if engine != "zero1" else "plain", "AdamW")
    optimizer: Any = optc.create("AdamW", optc.groups.no_decay(model, 0.1))
    if engine == "zero1":
        model = nn.parallel.DistributedDataParallel(model)
        optc.dist.Zero1(optimizer)
    train(model, optimizer, range(2))
    optc.dist.save(path, optimizer, _inner(model))
    train(model, optimizer, range(2, 3))
    return model, optimizer


def _inner(model: nn.Module) -> nn.Module:
    return getattr(model, "module", model)


def _facts(model: nn.Module, optimizer: Any) -> Any:
    """All numbers that a load could change."""
    state = [{key: getattr(x, "_local_tensor", x).tolist() for key, x in slot.items()} for slot in optimizer.state.values()]
    groups = [{key: x for key, x in group.items() if key != "params"} for group in optimizer.param_groups]
    return {key: x.tolist() for key, x in whole(model).items()}, state, groups
