"""State dicts find their parameters by name, and say which spec they come from."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import optc
from optc.generated import AdamW
from optc.runtime.optimizer import Optimizer
from tests.runtime.training import assert_equal, give_gradients

NAMES = ["a", "b", "c"]


def make(names: list[str], values: dict[str, torch.Tensor], **options: Any) -> tuple[Optimizer, dict[str, nn.Parameter]]:
    """Parameters of one shape: nothing but names tells them apart."""
    parameters = {name: nn.Parameter(values[name.rpartition(".")[2]].clone()) for name in names}
    return AdamW(list(parameters.items()), **options), parameters


def trained() -> tuple[Optimizer, dict[str, nn.Parameter], dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    values = {name: torch.randn(4) for name in [*NAMES, "d", "x", "y", "z"]}
    optimizer, parameters = make(NAMES, values)
    for seed in range(3):
        give_gradients(seed, list(parameters.values()))
        optimizer.step()
    return optimizer, parameters, {**values, **{name: p.detach().clone() for name, p in parameters.items()}}


@pytest.mark.parametrize("names", [["c", "a", "b"], ["module.b", "module._orig_mod.c", "module.a"]])
def test_another_order_gets_the_same_states(names: list[str]) -> None:
    optimizer, parameters, values = trained()
    other, theirs = make(names, values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["param_names"] == names
    for name, p in theirs.items():
        slot, before = other.state[p], optimizer.state[parameters[name.rpartition(".")[2]]]
        assert slot.keys() == before.keys() and all(torch.equal(slot[key], before[key]) for key in slot)
    for p, q in ((theirs[name], parameters[name.rpartition(".")[2]]) for name in names):
        p.grad = q.grad = torch.ones(4)
    optimizer.step()
    other.step()
    assert_equal([theirs[name] for name in names], [parameters[name.rpartition(".")[2]] for name in names])


def test_names_on_one_side_only_are_refused() -> None:
    optimizer, _, values = trained()
    other, _ = make(["a", "b", "d"], values)
    before = repr(other.state_dict())
    with pytest.raises(ValueError, match="AdamW: group 0 has no 'c' here, and no 'd' in the state dict"):
        other.load_state_dict(optimizer.state_dict())
    assert repr(other.state_dict()) == before


def test_other_names_throughout_go_by_place() -> None:
    optimizer, parameters, values = trained()
    other, theirs = make(["x", "y", "z"], values)
    with pytest.warns(UserWarning, match=r"all parameters have other names in the state dict \('a' for 'x', …\)"):
        other.load_state_dict(optimizer.state_dict())
    for p, q in zip(theirs.values(), parameters.values(), strict=True):
        assert torch.equal(other.state[p]["exp_avg"], optimizer.state[q]["exp_avg"])


def test_names_come_from_the_file_where_there_are_none() -> None:
    optimizer, parameters, _ = trained()
    other = AdamW([nn.Parameter(p.detach().clone()) for p in parameters.values()])
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["param_names"] == NAMES


@pytest.mark.parametrize("names", [["a", "b"], ["a", "a", "b"], "abc", 3, [1, 2, 3], None])
def test_names_that_are_none_do_no_harm(names: Any) -> None:
    """Data from outside: too few, twice, or no list."""
    optimizer, parameters, values = trained()
    saved = optimizer.state_dict()
    saved["param_groups"][0]["param_names"] = names
    other, theirs = make(NAMES, values)
    if names == [1, 2, 3]:
        with pytest.warns(UserWarning, match="other names"):
            other.load_state_dict(saved)
    else:
        other.load_state_dict(saved)
    for name, p in theirs.items():
        assert torch.equal(other.state[p]["exp_avg"], optimizer.state[parameters[name]]["exp_avg"])
    assert other.param_groups[0]["param_names"] == NAMES


SPEC = "optimizer Mine:\n    hyper: lr = 0.1\n    state: m = 0\n    step:\n        m <- m + g\n        theta <- theta - lr*m\n"


def loaded(text: str) -> tuple[Optimizer, dict[str, Any]]:
    """A new optimizer of a text, and a state dict of the first version."""
    old = optc.compile(SPEC)([nn.Parameter(torch.ones(3))])
    give_gradients(0, old.param_groups[0]["params"])
    old.step()
    return optc.compile(text)([nn.Parameter(torch.ones(3))]), copy.deepcopy(old.state_dict())


def test_a_changed_spec_is_told() -> None:
    new, saved = loaded(SPEC.replace("m + g", "0.9*m + g"))
    with pytest.warns(UserWarning, match="Mine: the spec of Mine has changed since the state dict was made"):
        new.load_state_dict(saved)
    new, saved = loaded(SPEC.replace("state: m = 0", "state: m = 0; k = 0").replace("m + g", "m + g\n        k <- k + g*m"))
    with pytest.raises(ValueError, match=r"(?s)nothing was loaded:\n  the spec of Mine has changed.*'k' is missing"):
        new.load_state_dict(saved)


def test_words_and_defaults_make_no_other_spec() -> None:
    text = SPEC.replace("lr = 0.1", 'lr = 0.3 "step size"').replace("    state", "\n    # a comment\n    state")
    new, saved = loaded(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new.load_state_dict(saved)
    assert "spec" not in new.param_groups[0]


@pytest.mark.parametrize("spec", [None, 3, "", "Other 12", "Mine", ["Mine", "12"]])
def test_what_a_file_says_of_its_spec_is_data(spec: Any) -> None:
    new, saved = loaded(SPEC)
    saved["param_groups"][0]["spec"] = spec
    if spec == "Mine":
        with pytest.warns(UserWarning, match="has changed"):
            new.load_state_dict(saved)
    else:
        new.load_state_dict(saved)
    assert len(new.state) == 1
