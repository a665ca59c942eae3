"""Which parameter goes to which optimizer, by rules and groups; every error sentence."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import optc
from optc.generated import AdamW
from optc.runtime import Routed
from tests.runtime.routing import matrix, network, routed, same, separate, step
from tests.runtime.training import give_gradients


def kinds(optimizer: Routed) -> dict[str, tuple[str, Any]]:
    return {
        name: (group["type"], group.get("weight_decay")) for group in optimizer.param_groups for name in group["param_names"]
    }


def test_the_first_rule_that_holds_takes_a_parameter_and_groups_have_the_last_word() -> None:
    found = optc.groups.override(optc.groups.no_decay(network()), {"1.bias": {"type": "Lion", "lr": 0.5}})
    optimizer = optc.route(
        found,
        [("3.*", {"type": "SGD", "weight_decay": 0.1}), (matrix, {"type": "Adan", "weight_decay": 0.2})],
        otherwise={"type": "adam_w", "weight_decay": 0.3, "eps": 1e-6},
    )
    assert kinds(optimizer) == {
        "3.weight": ("SGD", 0.1), "3.bias": ("SGD", 0.0), "0.weight": ("Adan", 0.2), "1.bias": ("Lion", 0.0),
        "0.bias": ("AdamW", 0.0), "1.weight": ("AdamW", 0.0),
    }  # fmt: skip
    (lion,) = (group for group in optimizer.param_groups if group["type"] == "Lion")
    assert lion["lr"] == 0.5 and "eps" not in lion, "what is settled takes nothing of rules"


def test_frozen_parameters_are_left_out_or_kept() -> None:
    model = network()
    model[0].requires_grad_(False)
    assert not any(name.startswith("0.") for name in kinds(routed(model)))
    assert kinds(routed(model, frozen=True))["0.weight"][0] == "SGD"
    optc.route(model, [("1.*", {"type": "SGD"}), ("3.*", {"type": "AdamW"})])  # no rule need take the frozen ones


def test_a_type_alone_has_its_defaults() -> None:
    model = network()
    pairs: list[tuple[str, str | type[AdamW]]] = [("0.*", "sgd"), ("1.*", AdamW)]
    for rules in (pairs, dict(pairs)):
        written_out = [(pattern, {"type": kind}) for pattern, kind in pairs]
        short = optc.route(model, rules, otherwise="adamw + cautious")
        long = optc.route(model, written_out, otherwise={"type": "adamw + cautious"})
        assert [group["type"] for group in short.param_groups] == ["SGD", "AdamW", "AdamW + cautious"]
        assert repr(short.state_dict()) == repr(long.state_dict())


class Mine(AdamW):
    """Another one that is called so."""


Mine.__name__ = "AdamW"
SHARED = nn.Parameter(torch.ones(2))
ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "left over": (
        lambda: optc.route(network(), [("0.*", {"type": "SGD"})]),
        ValueError,
        r"no rule takes '1.weight', '1.bias', '3.weight', '3.bias': add one, or otherwise=dict\(type=…\) for all that is left",
    ),
    "many left over": (
        lambda: optc.route(nn.Sequential(*(nn.Linear(1, 1) for _ in range(4)))),
        ValueError,
        r"no rule takes '0.weight', .*, '2.weight' and 3 more: add one",
    ),
    "nothing for a rule": (
        lambda: optc.route(network(), [("1.*", {"type": "SGD"}), ("1.bias", {"type": "AdamW"})], otherwise={"type": "SGD"}),
        ValueError,
        r"rule 1 \('1.bias'\) gets no parameter: earlier ones take all that it holds for",
    ),
    "no such name": (
        lambda: optc.route(network(), [("2.*", {"type": "SGD"})], otherwise={"type": "SGD"}),
        ValueError,
        r"rule 0 \('2.\*'\) holds for no parameter",
    ),
    "no type": (
        lambda: optc.route(network(), [("1.*", {"lr": 0.1})]),
        ValueError,
        r"rule 0 has no 'type': say which optimizer it is for, such as dict\(type='AdamW'",
    ),
    "no type otherwise": (lambda: optc.route(network(), otherwise={}), ValueError, "otherwise has no 'type'"),
    "an unknown type": (
        lambda: optc.route(network(), otherwise={"type": "adanw"}),
        ValueError,
        "no optimizer is called 'adanw': did you mean",
    ),
    "torch's": (
        lambda: optc.route(network(), otherwise={"type": torch.optim.AdamW}),
        TypeError,
        "a name, a composition such as 'AdamW \\+ cautious' or a class of optc, not the class AdamW",
    ),
    "an unknown hyper": (
        lambda: optc.route(network(), otherwise={"type": "SGD", "momentun": 0.9}),
        TypeError,
        r"SGD\(\) has no keyword argument 'momentun': did you mean 'momentum'\?",
    ),
    "of the whole": (
        lambda: optc.route(network(), otherwise={"type": "SGD", "backend": "torch"}),
        TypeError,
        "otherwise: 'backend' is the same for all optimizers: give it to optc.route",
    ),
    "out of range": (
        lambda: optc.route(network(), [("3.*", {"type": "SGD"})], otherwise={"type": "AdamW", "lr": -1.0}),
        ValueError,
        r"AdamW: lr = -1.0, but it must be a number in \[0, inf\) \(group 1: '0.weight', '0.bias', …\)",
    ),
    "an unknown backend": (lambda: routed(network(), backend="cuda"), ValueError, "backend = 'cuda', but it must be one of"),
    "two of one name": (
        lambda: optc.route(network(), [("0.*", {"type": AdamW})], otherwise={"type": Mine}),
        ValueError,
        "two different optimizers are called 'AdamW'",
    ),
    "no rules": (lambda: optc.route(network(), ["0.*"]), TypeError, "rule 0 must be a pair"),  # type: ignore[list-item]
    "no list of rules": (lambda: optc.route(network(), 3), TypeError, "^rules are a dict, or pairs of .* not 3$"),  # type: ignore[arg-type]
    "no type at all": (
        lambda: optc.route(network(), [("0.*", 3)], otherwise="SGD"),  # type: ignore[list-item]
        TypeError,
        r"^rule 0 must be a pair of a pattern or function and a dict of options, not \('0\.\*', 3\)$",
    ),
    "no type at all otherwise": (
        lambda: optc.route(network(), otherwise=["SGD"]),  # type: ignore[arg-type]
        TypeError,
        r"^otherwise must be a type, such as 'AdamW', or a dict of it and hypers, not \['SGD'\]$",
    ),
    "an unknown name alone": (
        lambda: optc.route(network(), otherwise="adanw"),
        ValueError,
        "^no optimizer is called 'adanw': did you mean",
    ),
    "twice": (
        lambda: Routed([{"params": nn.Parameter(torch.ones(1)), "type": kind} for kind in ("SGD",)] * 2),
        ValueError,
        "some parameters appear in more than one parameter group",
    ),
    "twice in two routes": (
        lambda: optc.route([{"params": [("a", SHARED)], "type": "SGD"}, {"params": [("b", SHARED)], "type": "AdamW"}]),
        ValueError,
        "'b' stands twice in what is to be grouped, first as 'a'",
    ),
    "no group": (lambda: Routed([{"params": [SHARED]}]), ValueError, "group 0 has no 'type': say which optimizer updates it$"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_mistakes_are_told(case: str) -> None:
    make, error, message = ERRORS[case]
    with pytest.raises(error, match=message):
        make()


def test_a_group_for_another_optimizer_is_refused_by_a_plain_one() -> None:
    params = [nn.Parameter(torch.ones(2))]
    with pytest.raises(ValueError, match=r"AdamW: group 0 has type 'sgd': optc\.route makes one optimizer of several types"):
        AdamW([{"params": params, "type": "sgd"}])
    assert AdamW([{"params": params, "type": "adam_w"}]).param_groups and AdamW([{"params": params, "type": "backbone"}])


# --- groups -------------------------------------------------------------------------------------------------------------------


def test_groups_may_be_added_in_training() -> None:
    models = [network(), network()]
    extra = [nn.Linear(3, 3), nn.Linear(3, 3)]
    extra[1].load_state_dict(extra[0].state_dict())
    ours, theirs = routed(models[0]), separate(models[1])
    step(models[0], [ours])
    step(models[1], theirs)
    ours.add_param_group({"params": [("more.weight", extra[0].weight)], "type": "sgd", "lr": 0.2})
    ours.add_param_group({"params": [("more.bias", extra[0].bias)], "type": "Lion + cautious"})
    theirs[0].add_param_group({"params": [extra[1].weight], "lr": 0.2, "momentum": 0.0})
    theirs.append(optc.create("Lion + cautious", [extra[1].bias]))
    for seed in range(3):
        for model, more, optimizers in ((models[0], extra[0], [ours]), (models[1], extra[1], theirs)):
            give_gradients(seed, [*model.parameters(), *more.parameters()])
            for optimizer in optimizers:
                optimizer.step()
    same(*models)
    same(*extra)
    assert [group["type"] for group in ours.param_groups] == ["SGD", "AdamW", "SGD", "Lion + cautious"]


def test_a_group_that_is_refused_is_not_added() -> None:
    model = network()
    optimizer = routed(model)
    new = nn.Parameter(torch.ones(2))
    bad: list[tuple[Any, type[Exception], str]] = [
        ({"params": [("new", new)]}, ValueError, "group 2 has no 'type': say which optimizer updates it, such as 'SGD' or 'Ad"),
        ({"params": [("new", new)], "type": "sdg"}, ValueError, "no optimizer is called 'sdg'"),
        ({"params": [("new", new)], "type": "SGD", "lr": -1.0}, ValueError, r"SGD: lr = -1.0, .* \(group 2: 'new'\)"),
        ({"params": [("new", new)], "type": "Adan", "lr": -1.0}, ValueError, r"Adan: lr = -1.0, .* \(group 2: 'new'\)"),
        ({"params": [("new", torch.ones(2, dtype=torch.int8))], "type": "Adan"}, ValueError, "'new': it has dtype torch.int8"),
        ({"params": [new], "type": "Adan"}, ValueError, "with/without names"),
        ({"params": [("again", model[0].weight)], "type": "Adan"}, ValueError, "appear in more than one parameter group"),
        ({"params": [("again", model[0].weight)], "type": "SGD"}, ValueError, "appear in more than one parameter group"),
        ({"params": [("again", model[0].weight)], "type": "FTRL"}, ValueError, "appear in more than one parameter group"),
        ([new], TypeError, "a parameter group must be a dict with `params` and `type`, not a list"),
    ]
    defaults = optimizer.defaults
    for group, error, message in bad:
        with pytest.raises(error, match=message):
            optimizer.add_param_group(group)
        assert len(optimizer.param_groups) == 2 and list(optimizer.parts) == ["SGD", "AdamW"]
        assert [len(part.param_groups) for part in optimizer.parts.values()] == [1, 1] and optimizer.defaults == defaults
    step(model, [optimizer])


def test_groups_and_parameters_that_are_replaced_are_followed() -> None:
    model = network()
    twin = copy.deepcopy(model)
    ours, theirs = routed(model), separate(twin)
    step(model, [ours])
    step(twin, theirs)
    ours.param_groups = [dict(group) for group in reversed(ours.param_groups)]
    new = nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(6))
    ours.param_groups[0]["params"][1], theirs[1].param_groups[0]["params"][1] = new
    model[1].weight, twin[1].weight = new
    for seed in range(3):
        step(model, [ours], seed)
        step(twin, theirs, seed)
    same(model, twin)
    ours.param_groups[1]["type"] = "Lion"
    with pytest.raises(ValueError, match="group 1 has type 'Lion', but the optimizers here are 'SGD' and 'AdamW'"):
        step(model, [ours])


def test_what_is_wrong_in_a_step_names_the_group_of_the_whole() -> None:
    model = network()
    optimizer = Routed(
        [{"params": [p], "type": "SGD" if number % 2 else "AdamW"} for number, p in enumerate(model.parameters())]
    )
    optimizer.param_groups[3]["lr"] = -1.0
    with pytest.raises(ValueError, match=r"SGD: lr = -1.0, .* \(group 3\)"):
        step(model, [optimizer])
    optimizer.param_groups[3]["lr"] = 0.1
    give_gradients(0, list(model.parameters()))
    list(model.parameters())[4].grad = torch.eye(3, 6).to_sparse()
    with pytest.raises(ValueError, match="parameter 0 of group 4: its gradient is sparse"):
        optimizer.step()
