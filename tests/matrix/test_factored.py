"""Every optimizer with all states kept as vectors and signs: two steps on PyTorch and in native code, resumed in between.

And with those that are never negative kept as vectors and codes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import optc
from optc.dsl.errors import SpecError
from optc.dsl.kinds import Extent
from optc.dsl.signs import never_negative
from optc.runtime.optimizer import Optimizer
from tests.matrix.runners import float64
from tests.matrix.test_storages import entries, hypers_of, same, size_of, step, through_a_file
from tests.oracle import program_of
from tests.references import CORE, SPECS
from tests.runtime.training import twins
from tests.specs.low_memory import one_thread

REFUSED = {"shapes-differ", "unsupported", "duplicate-key"}
"""Steps that know rows of another view of θ, or picked elements, or have rows under the name that a storage gives to its own.
Whatever else a composition may say is a fault."""
MOST_REFUSED = 30
APART = 1e-4
"""Native code and PyTorch after a step from equal states, of the largest parameter: sums of rows are float32 in another order,
and a sign of what is nearly 0 may differ, which moves a parameter of a sign-based step by twice the step."""


@pytest.fixture(autouse=True)
def single() -> Iterator[None]:
    with one_thread():
        yield


KINDS = {
    "square": ("rank1", "sign_rank1"),
    "rows": ("root_rowcol", "sign_rowcol"),
    "codes": ("linear4_rank1(smallest = 0)", None),
}
"""Storages for states of 0 or above and for others. Every optimizer has one kind by turns, and with `--full` all."""


@cache
def factored(spec: str, kind: str) -> type[Optimizer] | str:
    """The optimizer with its states kept so; the code of the mistake where they cannot be; empty without such states."""
    program = program_of(spec)
    positive = never_negative(program)
    of = {s.name: KINDS[kind][s.name not in positive] for s in program.states if s.extent is Extent.ELEM}
    states = {name: kept for name, kept in of.items() if kept is not None}
    if not states:
        return ""
    try:
        return optc.compile(spec.rpartition("/")[2], storing=states)
    except SpecError as error:
        (code,) = {diagnostic.code for diagnostic in error.diagnostics}
        return code


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(5)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((20, 24), (5, 3), (7,), (3, 2, 5))]


def check(spec: str, backend: str, kind: str) -> None:
    cls = factored(spec, kind)
    if isinstance(cls, str):
        assert cls in REFUSED | {""}
        return
    hypers: Any = hypers_of(spec, cls.schema)
    params = parameters()
    optimizer = cls(params, **hypers, backend=backend)
    step(optimizer, params, 0)
    saved = through_a_file(optimizer.state_dict())
    again, others = twins(params), twins(params)
    resumed, other = cls(again, **hypers, backend=backend), cls(others, **hypers, backend="torch")
    resumed.load_state_dict(saved)
    other.load_state_dict(saved)
    for one, its in ((optimizer, params), (resumed, again), (other, others)):
        step(one, its, 1)
    for a, b in zip(entries(optimizer, params), entries(resumed, again), strict=True):
        assert a.dtype == b.dtype and same(a, b), spec
    if kind == "codes":
        assert any(state.key.endswith("_code") for state in cls.schema.states)
    lr = float(hypers.get("lr") or 0)
    for p, q in zip(params, others, strict=True):
        mine, theirs = float64(p), float64(q)
        off = abs(mine - theirs) > APART * max(1.0, size_of(theirs))
        assert not off.any() or (off.mean() <= 0.05 and abs(mine - theirs)[off].max() <= 2.1 * lr), spec


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_few_are_refused(kind: str) -> None:
    found = Counter(cls for spec in SPECS if isinstance(cls := factored(spec, kind), str) and cls)
    assert set(found) <= REFUSED and sum(found.values()) <= MOST_REFUSED, found


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", SPECS)
def test_pytorch(spec: str, kind: str) -> None:
    check(spec, "torch", kind)


TURNS = {spec: tuple(KINDS)[sorted(CORE).index(spec) % 3] if spec in CORE else "" for spec in SPECS}
"""The kind that every run tests."""


@pytest.mark.parametrize(
    ("spec", "kind"),
    [pytest.param(spec, kind, marks=() if TURNS[spec] == kind else pytest.mark.slow) for spec in SPECS for kind in KINDS],
)
def test_native(spec: str, kind: str) -> None:
    check(spec, "native", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_core_is_there(kind: str) -> None:
    found = [spec for spec in CORE if TURNS[spec] == kind and not isinstance(factored(spec, kind), str)]
    assert len(found) >= 3
