"""Names that would break or hide something in the generated class are refused; all others compile and run."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from optc.compiler.instant import compile_class
from optc.dsl.errors import SpecError
from optc.generated import AdamW
from optc.runtime.optimizer import Optimizer

_ARGUMENTS = [name for name, p in inspect.signature(Optimizer.__init__).parameters.items() if p.kind is p.KEYWORD_ONLY]
_INSTANCE = AdamW([torch.nn.Parameter(torch.ones(1))])
_ATTRIBUTES = [name for name in (*dir(_INSTANCE), *vars(_INSTANCE)) if name not in ("state", "step")]


def hyper(name: str) -> str:
    return f"optimizer X:\n    hyper: {name} = 0.5\n    step: θ <- θ - {name}*g\n"


def entry(name: str) -> str:
    return f"optimizer X:\n    state: h = 0\n    step: θ <- θ - h*g\n    entry {name}(x per elem): h <- h + x\n"


@pytest.mark.parametrize("name", ["self", "super", "params", "param_names", "initial_lr", "spec", *_ARGUMENTS])
def test_arguments_of_every_constructor_are_no_hypers(name: str) -> None:
    with pytest.raises(SpecError, match=r"python-keyword|reserved-name"):
        compile_class(hyper(name))


def test_attributes_of_every_optimizer_are_no_entries() -> None:
    hidden = []
    for name in _ATTRIBUTES:
        try:
            compile_class(entry(name))
        except SpecError as error:
            assert any(d.code == "reserved-name" for d in error.diagnostics), name
        else:
            hidden.append(name)
    assert not hidden


@pytest.mark.parametrize(
    "name", ["Tensor", "Optimizer", "dict", "float", "Any", "torch", "defaults", "schema", "closure", "m_at"]
)
def test_other_names_are_free(name: str) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    made: Any = compile_class(hyper(name))
    made([p], backend="torch").step()
    assert torch.equal(p, torch.full((3,), 0.5))


def test_a_class_cannot_be_called_super() -> None:
    with pytest.raises(SpecError, match="python-keyword"):
        compile_class("optimizer super:\n    step: θ <- θ - g\n")


@pytest.mark.parametrize(
    "change",
    [lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff" + text, lambda text: text.replace("m̂", "m\u0302")],
)
def test_a_text_means_the_same_as_a_file(change: object) -> None:
    text = "optimizer X:\n    hyper: lr = 0.5\n    step:\n        m̂ = g\n        θ <- θ - lr*m̂\n"
    assert callable(change)
    assert compile_class(change(text)) is compile_class(text)


@pytest.mark.parametrize("text", ["", " ", "\n", "optimizer X: \ud800\n"])
def test_texts_that_are_no_spec_are_said_plainly(text: str) -> None:
    with pytest.raises(SpecError, match=r"holds no spec|not UTF-8"):
        compile_class(text)
