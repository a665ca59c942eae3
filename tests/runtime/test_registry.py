"""Generated optimizers by name."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

import optc
import optc.specs
from optc.runtime import available, create
from tests.runtime.training import assert_equal, parameters, train


def test_names_may_be_spelt_in_any_way() -> None:
    assert "AdamW" in available()
    for name in ("AdamW", "adamw", "ADAM_W", "adam-w"):
        params = parameters()
        optimizer = create(name, params, lr=0.5, backend="torch")
        assert type(optimizer).__name__ == "AdamW" and optimizer.param_groups[0]["lr"] == 0.5
        train(range(2), (optimizer, params))


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(ValueError, match=r"no optimizer is called 'adanw': did you mean .*AdamW"):
        create("adanw", parameters())
    with pytest.raises(ValueError, match=r"known are .*AdamW"):
        create("xyzzy", parameters())


def test_an_optimizer_compiled_from_text_can_be_pickled() -> None:
    text = (Path(optc.specs.__path__[0]) / "adam" / "adamw.opt").read_text(encoding="utf-8")
    params = parameters()
    optimizer = optc.compile(text)(params, backend="torch")
    train(range(2), (optimizer, params))
    others, twin = pickle.loads(pickle.dumps((params, optimizer)))
    train(range(2, 4), (optimizer, params), (twin, others))
    assert_equal(params, others)
    assert type(twin) is type(optimizer)
