"""Warnings name the line of whoever calls an optimizer, not one of PyTorch or of this package."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import pytest
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from optc.generated import AdamW, AdamW8bit
from optc.runtime.callers import stacklevel
from tests.runtime.training import parameters, train


def saved() -> dict[str, Any]:
    """A state dict with codes."""
    params = parameters([(70, 130)])
    optimizer = AdamW8bit(params, backend="torch")
    train([0], (optimizer, params))
    return optimizer.state_dict()


def test_the_warning_names_the_line_that_loads() -> None:
    optimizer, file = AdamW(parameters([(70, 130)])), saved()
    with pytest.warns(UserWarning, match="converted") as caught:
        optimizer.load_state_dict(file)
    line = inspect.currentframe().f_lineno - 1  # type: ignore[union-attr]
    assert {(warning.filename, warning.lineno) for warning in caught} == {(__file__, line)}


def test_the_warning_names_the_line_that_loads_through_functions_of_torch() -> None:
    model = nn.Sequential(nn.Linear(80, 80))
    optimizer, other = (kind(model.parameters(), backend="torch") for kind in (AdamW8bit, AdamW))
    train([0], (optimizer, list(model.parameters())))
    file = get_optimizer_state_dict(model, optimizer)
    with pytest.warns(UserWarning, match="converted") as caught:
        set_optimizer_state_dict(model, other, file)
    assert {warning.filename for warning in caught if "converted" in str(warning.message)} == {__file__}


def test_code_that_is_called_from_nowhere_else_is_named_itself() -> None:
    assert stacklevel() == 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("here", stacklevel=stacklevel())
    assert [warning.filename for warning in caught] == [__file__]
