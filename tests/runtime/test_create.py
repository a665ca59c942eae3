"""Optimizers by name, composition, config and class, over whatever holds parameters."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import optc
from optc.generated import AdamW, CautiousAdamW
from optc.runtime import registry
from tests.runtime.routing import network, same, step
from tests.runtime.training import assert_equal, parameters, train, twins


def trained(make: Callable[[Any], torch.optim.Optimizer]) -> list[nn.Parameter]:
    params = parameters(((4, 3), (5,), (2, 3, 4)))
    train(range(8), (make(params), params))
    return params


# --- compositions -------------------------------------------------------------------------------------------------------------

COMPOSITIONS: dict[str, tuple[str, Callable[[], Any], dict[str, Any]]] = {
    "AdamW8bit + cautious": ("CautiousAdamW8bit", lambda: optc.compile("adamw_8bit", ["cautious"]), {}),
    "adam-w + Cautious": ("CautiousAdamW", lambda: CautiousAdamW, {}),
    "ADOPT+lookahead(k = 3)+CAUTIOUS": (
        "LookaheadCautiousADOPT", lambda: optc.compile("adopt", ["lookahead(k = 3)", "cautious"]), {},
    ),
    "adam w (betas = (0.5, 0.75), eps = 1e-6)": ("AdamW_betas_eps", lambda: AdamW, {"betas": (0.5, 0.75), "eps": 1e-6}),
    "adamw without amsgrad, weight_decay": (
        "AdamW_without_amsgrad_weight_decay",
        lambda: optc.compile("optimizer X = AdamW without amsgrad, weight_decay\n"), {},
    ),
    "AdamW storing m: bf16, v: bf16": (
        "AdamW_m_bf16_v_bf16",
        lambda: optc.compile("adamw", storing={"m": "bf16", "v": "bf16"}),
        {},
    ),
    "(sgd(momentum = 0.9) without weight_decay + clip-global-norm(1e+0)) storing b: bf16": (
        "ClipGlobalNormSGD_b_bf16",
        lambda: optc.compile("optimizer X = SGD without weight_decay + clip_global_norm(1.0) storing b: bf16\n"),
        {"momentum": 0.9},
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", COMPOSITIONS)
def test_a_composition_is_what_is_composed_by_hand(text: str) -> None:
    name, by_hand, hypers = COMPOSITIONS[text]
    optimizer = optc.create(text, parameters())
    assert type(optimizer).__name__ == name
    cls = by_hand()
    assert_equal(trained(lambda p: optc.create(text, p, lr=0.1)), trained(lambda p: cls(p, lr=0.1, **hypers)))
    assert registry.of_type(text)[1] is type(optimizer), "compiled once"


def test_arguments_are_defaults_and_hypers_overrule_them() -> None:
    optimizer = optc.create("adamw(lr = 0.5, betas = (0.5, 0.75)) + lookahead(k = 6)", parameters(), betas=(0.1, 0.2))
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["lookahead_k"]) == (0.5, (0.1, 0.2), 6)


def test_one_spelling_names_all() -> None:
    spelt = {registry.of_type(text)[0] for text in ("AdamW + cautious", "adam_w+cautious", " ADAM-W  +  Cautious ")}
    assert spelt == {"AdamW + cautious"}
    assert registry.of_type("adamw8bit")[0] == "AdamW8bit" and registry.of_type(AdamW) == ("AdamW", AdamW)


def test_a_composed_optimizer_can_be_copied_and_pickled() -> None:
    params = parameters()
    optimizer = optc.create("Lion + cautious", params)
    train(range(2), (optimizer, params))
    pairs = [copy.deepcopy((params, optimizer)), pickle.loads(pickle.dumps((params, optimizer)))]
    for others, twin in pairs:
        assert type(twin) is type(optimizer)
        train(range(2, 4), (twin, others))
    train(range(2, 4), (optimizer, params))
    for others, _ in pairs:
        assert_equal(params, others)


ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "unknown": (
        lambda: optc.create("adanw + cautious", parameters()),
        ValueError,
        r"no optimizer is called 'adanw': did you mean .*AdamW",
    ),
    "unknown modifier": (
        lambda: optc.create("adamw + cautios", parameters()),
        ValueError,
        "no modifier is called 'cautios': did you mean cautious",
    ),
    "unknown and far": (
        lambda: optc.create("adamw + xyzzy", parameters()),
        ValueError,
        "no modifier is called 'xyzzy': known are accumulated, ademamix, agc",
    ),
    "an optimizer behind": (
        lambda: optc.create("adamw + lion", parameters()),
        optc.SpecError,
        "`Lion` is an optimizer, not a modifier",
    ),
    "a modifier in front": (
        lambda: optc.create("cautious + adamw", parameters()),
        optc.SpecError,
        "`cautious` is a modifier, not an optimizer",
    ),
    "two in one stage": (
        lambda: optc.create("adamw + cautious + grams", parameters()),
        optc.SpecError,
        "`grams` and `cautious` both act in the stage `mask`, which takes one",
    ),
    "no such storage": (
        lambda: optc.create("adamw storing m: dynamic9", parameters()),
        optc.SpecError,
        "dynamic9",
    ),
    "nothing behind": (lambda: optc.create("adamw +", parameters()), optc.SpecError, "the line ends too early"),
    "nothing in front": (lambda: optc.create("+ cautious", parameters()), optc.SpecError, "cannot stand here"),
    "brackets": (lambda: optc.create("adamw)", parameters()), optc.SpecError, "closes nothing"),
    "two lines": (
        lambda: optc.create("adamw +\ncautious", parameters()),
        ValueError,
        "a composition is one line, such as 'AdamW \\+ cautious'; for the text of a spec use optc.compile",
    ),
    "an unknown hyper": (
        lambda: optc.create("adamw + cautious", parameters(), weight_decai=0.1),
        TypeError,
        r"CautiousAdamW\(\) has no keyword argument 'weight_decai': did you mean 'weight_decay'",
    ),
    "out of range": (
        lambda: optc.create("adamw + cautious", parameters(), lr=-1.0),
        ValueError,
        r"CautiousAdamW: lr = -1.0, but it must be a number in \[0, inf\)$",
    ),
    "no type": (
        lambda: optc.create({"lr": 0.1}, parameters()),
        ValueError,
        r"the config {'lr': 0.1} has no 'type', such as dict\(type='AdamW', lr=1e-3\)",
    ),
    "twice": (
        lambda: optc.create({"type": "AdamW", "lr": 0.1}, parameters(), lr=0.2),
        TypeError,
        "'lr' given twice: in the config and as keyword",
    ),
    "torch's": (
        lambda: optc.create(torch.optim.SGD, parameters()),  # type: ignore[arg-type]
        TypeError,
        "an optimizer is a name, a composition such as 'AdamW \\+ cautious' or a class of optc, not the class SGD",
    ),
    "no name": (lambda: optc.create(3, parameters()), TypeError, "a class of optc, not 3"),  # type: ignore[arg-type]
    "a model without parameters": (lambda: optc.create("adamw", nn.ReLU()), ValueError, "this ReLU has no parameters"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_mistakes_are_told(case: str) -> None:
    make, error, message = ERRORS[case]
    with pytest.raises(error, match=message):
        make()


# --- configs, and what holds parameters ---------------------------------------------------------------------------------------


def test_configs_are_names_with_hypers() -> None:
    config = {"type": "adamw", "lr": 0.1, "betas": (0.5, 0.75)}
    optimizer = optc.create(config, parameters(), eps=1e-6)
    group = optimizer.param_groups[0]
    assert type(optimizer) is AdamW and (group["lr"], group["betas"], group["eps"]) == (0.1, (0.5, 0.75), 1e-6)
    assert config == {"type": "adamw", "lr": 0.1, "betas": (0.5, 0.75)} and "type" not in group
    assert type(optc.create({"type": "AdamW + cautious", "lr": 1.0}, parameters())).__name__ == "CautiousAdamW"
    own = optc.compile("adamw", ["grams"])
    assert type(optc.create({"type": own}, parameters())) is own is type(optc.create(own, parameters()))


def test_models_named_parameters_groups_and_parameters() -> None:
    models = [network() for _ in range(4)]
    holders: list[Any] = [
        models[0],
        models[1].named_parameters(),
        list(models[2].parameters()),
        optc.groups.no_decay(models[3]),
    ]
    optimizers = [optc.create("adamw", holder, lr=0.1, weight_decay=0.0) for holder in holders]
    for model, optimizer in zip(models, optimizers, strict=True):
        step(model, [optimizer])
        same(model, models[0])
    names = [name for name, _ in network().named_parameters()]
    assert [optimizer.param_groups[0].get("param_names") for optimizer in optimizers[:3]] == [names, names, None]


def test_frozen_parameters_of_a_model_are_left_out() -> None:
    model = network()
    model[0].requires_grad_(False)
    assert optc.create("adamw", model).param_groups[0]["param_names"] == ["1.weight", "1.bias", "3.weight", "3.bias"]


# --- what is imported ---------------------------------------------------------------------------------------------------------

WITHOUT_COMPILER = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("lark", "click"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import optc
assert "torch" not in sys.modules and optc.available()
assert "torch" not in sys.modules, "names need no torch"
import torch
params = [torch.nn.Parameter(torch.ones(2))]
optimizer = optc.create("adam-w", params)
optc.route([("a", params[0])], otherwise={"type": "SGD"})
optc.groups.no_decay([("a", params[0])], 0.1)
params[0].grad = torch.ones(2)
optimizer.step()
assert not {"lark", "click"} & set(sys.modules)
try:
    optc.create("adamw + cautious", params)
except ImportError as error:
    print(error)
"""


def test_names_work_without_the_compiler_and_compositions_say_what_they_need(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER], capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path,
        env={"PYTHONPATH": str(Path(optc.__file__).resolve().parents[1]), "PATH": "", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        "'AdamW + cautious' is compiled when it is made, and the compiler needs lark, which is not installed here: install it, "
        "or use an optimizer that is built (`optc build` writes a module that needs no compiler)"
    )


def test_errors_of_the_compiler_itself_are_not_taken_for_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optc.compiler.instant", None)
    with pytest.raises(ModuleNotFoundError, match=r"optc\.compiler\.instant"):
        optc.create("adamw + cautious", twins(parameters()))
