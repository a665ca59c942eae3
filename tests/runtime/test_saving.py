"""Checkpoints on disk by one process: names, partial loads, other specs, damaged files, interrupted saves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optc
from optc.dist import latest, load, save

SPEC = """optimizer Mine:
    hyper:
        lr = 1e-3 in [0, inf)
    state:
        m = 0
    step:
        m ← ema(m, g, 0.9)
        θ ← θ - lr·m
"""


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def trained(name: str, net: nn.Module, steps: int = 3, **hypers: Any) -> Any:
    optimizer = optc.create(name, net, **hypers)
    train(net, optimizer, range(steps))
    return optimizer


def train(net: nn.Module, optimizer: Any, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        net(torch.randn(5, 4, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        optimizer.step()


def state_of(optimizer: Any) -> Any:
    packed = optimizer.state_dict()
    return [{k: v.tolist() for k, v in slot.items()} for slot in packed["state"].values()], packed["param_groups"]


@pytest.mark.parametrize("name", ["AdamW", "LAMB", "Adafactor", "Prodigy", "AdamW + cosine(T = 20)"])
def test_training_goes_on_to_the_bit(tmp_path: Path, name: str) -> None:
    net = model()
    optimizer = trained(name, net)
    folder = save(tmp_path, optimizer, net)
    train(net, optimizer, range(3, 6))
    other = model()
    again = optc.create(name, other, lr=0.5)
    load(tmp_path, again, other)
    train(other, again, range(3, 6))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), other.parameters(), strict=True))
    assert state_of(optimizer) == state_of(again)
    assert folder == latest(tmp_path) == tmp_path / "save-000001"


def test_parameters_are_matched_by_name(tmp_path: Path) -> None:
    net = model()
    optimizer = trained("AdamW", net)
    save(tmp_path, optimizer)
    named = dict(net.named_parameters())
    turned = optc.create("AdamW", [(name, named[name]) for name in reversed(named)])
    load(tmp_path, turned)
    for p in net.parameters():
        assert torch.equal(turned.state[p]["exp_avg"], optimizer.state[p]["exp_avg"])


class Wrapped(nn.Module):
    """As DistributedDataParallel is."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.module(x)
        return found


@pytest.mark.parametrize("wrapped", ["there", "here"])
def test_what_is_put_around_a_model_does_not_count(tmp_path: Path, wrapped: str) -> None:
    first, second = (Wrapped(model()) if side == wrapped else model() for side in ("there", "here"))
    optimizer, other = trained("AdamW", first), trained("AdamW", second, steps=1)
    save(tmp_path, optimizer, first)
    report = load(tmp_path, other, second)
    assert report.missing == report.unexpected == ()
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q) and torch.equal(optimizer.state[p]["exp_avg"], other.state[q]["exp_avg"])


def test_names_that_would_become_one_are_left_alone(tmp_path: Path) -> None:
    """A layer called `module` is none that was put around a model, where the rest of the names is not in it."""

    def odd() -> nn.Module:
        net = nn.Module()
        net.module, net.weight = nn.Linear(2, 2, bias=False), nn.Parameter(torch.randn(2, 2))
        return net

    nets = [odd(), odd()]
    optimizers = [optc.create("SGD", net, momentum=0.9) for net in nets]
    for p in nets[0].parameters():
        p.grad = torch.randn_like(p)
    optimizers[0].step()
    save(tmp_path, optimizers[0], nets[0])
    load(tmp_path, optimizers[1], nets[1])
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(p, q)
        assert torch.equal(optimizers[0].state[p]["momentum_buffer"], optimizers[1].state[q]["momentum_buffer"])


def test_parts_of_a_model_are_loaded_and_told(tmp_path: Path) -> None:
    net = model()
    optimizer = trained("AdamW", net)
    save(tmp_path, optimizer)
    some = dict(list(net.named_parameters())[:3])
    other = optc.create("AdamW", [*some.items(), ("new", nn.Parameter(torch.ones(3)))])
    with pytest.raises(ValueError, match=r"nothing was loaded:\n  'new' is not in the checkpoint\n  '2.bias' is only in"):
        load(tmp_path, other)
    assert not other.state
    with pytest.warns(UserWarning, match=r"1 parameters are not in the checkpoint \('new'\), 1 are only there \('2.bias'\)"):
        report = load(tmp_path, other, strict=False)
    assert (report.missing, report.unexpected) == (("new",), ("2.bias",))
    assert len(other.state) == 3


def test_hypers_and_the_numbers_of_the_model_come_back(tmp_path: Path) -> None:
    net = model()
    optimizer = optc.create("Prodigy", optc.groups.no_decay(net, 0.1), lr=torch.tensor(0.7), betas=(0.8, 0.95))
    train(net, optimizer, range(3))
    save(tmp_path, optimizer)
    other = optc.create("Prodigy", optc.groups.no_decay(model(), 0.3))
    load(tmp_path, other)
    for mine, theirs in zip(optimizer.param_groups, other.param_groups, strict=True):
        assert theirs["betas"] == (0.8, 0.95) and float(theirs["lr"]) == float(mine["lr"])
        assert theirs["weight_decay"] == mine["weight_decay"] and float(theirs["d"]) == float(mine["d"])


def test_another_storage_is_converted_and_told(tmp_path: Path) -> None:
    net = nn.Linear(64, 128)
    optimizer = optc.create("AdamW", net)
    net(torch.ones(2, 64)).square().mean().backward()
    optimizer.step()
    save(tmp_path, optimizer)
    small = optc.create("AdamW8bit", net)
    with pytest.warns(UserWarning) as said:
        load(tmp_path, small)
    assert any("'exp_avg' is kept as numbers in the file and as dynamic8 here: converted" in str(w.message) for w in said)
    assert small.state[net.weight]["exp_avg"].dtype == torch.uint8


def test_a_changed_spec_is_told(tmp_path: Path) -> None:
    net = model()
    optimizer = optc.compile(SPEC)(net.named_parameters())
    train(net, optimizer, range(2))
    save(tmp_path, optimizer)
    same_states = optc.compile(SPEC.replace("0.9", "0.95"))(net.named_parameters())
    with pytest.warns(UserWarning, match="the spec of Mine has changed since"):
        load(tmp_path, same_states)
    others = optc.compile(SPEC.replace("m = 0", "n = 0").replace("m ←", "n ←").replace("ema(m", "ema(n").replace("·m", "·n"))
    with pytest.raises(ValueError, match="the spec of Mine has changed since, and has no states 'm' any more"):
        load(tmp_path, others(net.named_parameters()))
    with pytest.raises(ValueError, match="was saved by Mine, and this is AdamW"):  # no other storage of the same
        load(tmp_path, optc.create("AdamW", net))


def test_other_shapes_are_told(tmp_path: Path) -> None:
    save(tmp_path, trained("AdamW", model()))
    other = optc.create("AdamW", nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 2)))
    with pytest.raises(ValueError, match=r"'0.weight' has shape \(8, 4\) there and \(9, 4\) here"):
        load(tmp_path, other)
    assert not other.state


@pytest.mark.parametrize("damage", ["cut", "zeros", "no file", "no index", "cut index", "no manifest", "no json", "other json"])
def test_damaged_files_give_one_error_and_change_nothing(tmp_path: Path, damage: str) -> None:
    net = model()
    optimizer = trained("AdamW", net)
    folder = save(tmp_path, optimizer, net)
    train(net, optimizer, range(3, 4))
    before = state_of(optimizer), [p.tolist() for p in net.parameters()]
    (data,) = folder.glob("*.distcp")
    manifest, index = folder / "optc.json", folder / ".metadata"
    if damage == "cut":
        data.write_bytes(data.read_bytes()[:100])
    elif damage == "zeros":
        data.write_bytes(bytes(data.stat().st_size))
    elif damage in ("no file", "no index", "no manifest"):
        {"no file": data, "no index": index, "no manifest": manifest}[damage].unlink()
    elif damage == "cut index":
        index.write_bytes(index.read_bytes()[:50])
    else:
        manifest.write_text("{" if damage == "no json" else json.dumps([1, 2]))
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        load(tmp_path, optimizer, net)
    assert "\n" not in str(raised.value) and "save-000001" in str(raised.value)
    assert (state_of(optimizer), [p.tolist() for p in net.parameters()]) == before


def test_there_is_no_checkpoint(tmp_path: Path) -> None:
    optimizer = optc.create("AdamW", model())
    with pytest.raises(FileNotFoundError, match="has no checkpoint: no save there has come to its end"):
        load(tmp_path, optimizer)
    (tmp_path / "latest").write_text("save-000007\n")
    with pytest.raises(FileNotFoundError, match="names 'save-000007', which is not there"):
        load(tmp_path, optimizer)


def test_an_interrupted_save_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from optc.runtime import saving

    net = model()
    optimizer = trained("AdamW", net)
    save(tmp_path, optimizer)
    kept = state_of(optimizer)
    train(net, optimizer, range(3, 5))

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(saving, "_commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, optimizer)
    other = optc.create("AdamW", net)
    load(tmp_path, other)
    assert state_of(other) == kept
    save(tmp_path, optimizer)
    load(tmp_path, other)
    assert state_of(other) == state_of(optimizer)
    assert [folder.name for folder in sorted(tmp_path.glob("save-*"))] == ["save-000001", "save-000003"]  # the whole ones


def test_earlier_saves_are_kept_as_asked(tmp_path: Path) -> None:
    optimizer = trained("AdamW", model())
    for _ in range(5):
        save(tmp_path, optimizer, keep=2)
    assert [folder.name for folder in sorted(tmp_path.glob("save-*"))] == ["save-000003", "save-000004", "save-000005"]
    load(tmp_path / "save-000004", optimizer)


@pytest.mark.parametrize("keep", [-1, 1.5, None])
def test_what_cannot_be_kept_is_refused_before_anything(tmp_path: Path, keep: Any) -> None:
    optimizer = trained("AdamW", model())
    for _ in range(3):
        save(tmp_path, optimizer, keep=5)
    with pytest.raises(ValueError, match=f"keep must be a whole number of earlier saves, 0 or above, not {keep}"):
        save(tmp_path, optimizer, keep=keep)
    assert [folder.name for folder in sorted(tmp_path.iterdir())] == ["latest", "save-000001", "save-000002", "save-000003"]
    assert (tmp_path / "latest").read_text() == "save-000003\n"
    save(tmp_path, optimizer, keep=0)
    assert [folder.name for folder in sorted(tmp_path.glob("save-*"))] == ["save-000004"]


def test_a_save_is_no_folder_of_saves(tmp_path: Path) -> None:
    optimizer = trained("AdamW", model())
    folder = save(tmp_path, optimizer)
    before = sorted(folder.iterdir())
    with pytest.raises(ValueError, match=f"save-000001 is a save itself, .* save to the folder above it, {tmp_path}"):
        save(folder, optimizer)
    assert sorted(folder.iterdir()) == before


def test_two_parameters_of_one_name_are_refused(tmp_path: Path) -> None:
    """One's state would be put in the place of the other's."""
    twins = optc.create("AdamW", [("a", nn.Parameter(torch.ones(2))), ("a", nn.Parameter(torch.ones(2)))])
    with pytest.raises(ValueError, match="two parameters of this optimizer are called 'a'"):
        save(tmp_path, twins)
    assert not list(tmp_path.iterdir())
    save(tmp_path, optc.create("AdamW", [("a", nn.Parameter(torch.ones(2)))]))
    with pytest.raises(ValueError, match="two parameters of this optimizer are called 'a'"):
        load(tmp_path, twins)


@pytest.mark.parametrize("name", [b"\xff\xfe\x00", b"", b"a\x00b", b"x" * 5000, b"a\nb", b"..", b"../save-000001/.."])
def test_an_unusable_pointer_is_one_error(tmp_path: Path, name: bytes) -> None:
    optimizer = trained("AdamW", model())
    save(tmp_path / "at", optimizer)
    (tmp_path / "at" / "latest").write_bytes(name)
    with pytest.raises(FileNotFoundError) as raised:
        load(tmp_path / "at", optimizer)
    told = str(raised.value)
    assert "\n" not in told and len(told) < 300 and str(tmp_path / "at" / "latest") in told and "save-…" in told


def test_a_file_that_did_not_arrive_is_told_before_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from optc.runtime import saving

    optimizer = trained("AdamW", model())
    save(tmp_path, optimizer)
    kept = state_of(optimizer)
    train(model(), optimizer, range(3, 4))
    written = saving._dcp

    def lost(what: str, tensors: dict[str, Tensor], folder: Path) -> None:
        written(what, tensors, folder)
        if what == "save":
            next(folder.glob("*.distcp")).unlink()

    with monkeypatch.context() as patch:
        patch.setattr(saving, "_dcp", lost)
        with pytest.raises(OSError, match=r"save-000002 lacks 1 of the files .* '__0_0.distcp' .* a path that all of them see"):
            save(tmp_path, optimizer)
    assert latest(tmp_path) == tmp_path / "save-000001" and not (tmp_path / "save-000002" / "optc.json").exists()
    other = optc.create("AdamW", model())
    load(tmp_path, other)
    assert state_of(other) == kept


def test_nowhere_to_save(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        save(tmp_path / "file", trained("AdamW", model()))


def test_other_optimizers_are_refused(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    other: Any = torch.optim.AdamW(model.parameters())
    for work in (optc.dist.save, optc.dist.load):
        with pytest.raises(
            TypeError, match=rf"optc\.dist\.{work.__name__} needs an optimizer of optc, not torch\.optim\.AdamW"
        ):
            work(tmp_path / "there", other, model)
    assert not (tmp_path / "there").exists()
