"""What static conditions imply about states, and sizes that a hostile spec may have."""

from __future__ import annotations

import pytest

from optc.dsl import nodes
from optc.dsl.check import check
from optc.dsl.errors import SpecError
from optc.dsl.source import Source
from tests.dsl.programs import spec


def existence_holds(exists: str, condition: str, hyper: str) -> bool:
    """Whether a state that exists under `exists` may be written under `condition`; but for unused hypers all else is right."""
    try:
        spec(f"if {condition}: b <- g", "θ <- θ - g", hyper=hyper, state=(f"if {exists}: b = 0",))
    except SpecError as error:
        codes = {d.code for d in error.diagnostics}
        assert codes <= {"state-may-not-exist", "unused-hyper", "unused-state"}, error.render()
        return "state-may-not-exist" not in codes
    return True


@pytest.mark.parametrize(
    ("exists", "condition", "hyper"),
    [
        ("mu != 0", "mu > 0", "mu = 0.0"),
        ("mu > 0", "mu != 0", "mu = 0.0 in [0, inf)"),  # not negative: other than 0 is positive
        ("not mu == 0", "mu > 0.5 or mu < -1", "mu = 0.0"),
        ("k >= 2", "k > 1", "k = 0 in int [0, inf)"),  # whole numbers
        ("ndim >= 2", "ndim > 1.5", "mu = 1.0"),
        ('kind == "a"', 'kind != "b" and kind != "c"', 'kind = "a" in {"a", "b", "c"}'),
        ("w != none", "w != none and t > w", "w = none in int [1, inf)"),
        ("w != none and w > 3", "w != none and w > 4", "w = none in int [1, inf)"),
        ("f and h", "t > 3 and (h and f)", "f = false; h = true"),
        ("mu > 0", "f", 'mu = 0.0; f = false\nrequire not f or mu > 0, "needs mu"'),
        ("numel*2 > ndim", "numel*2 > ndim", "mu = 1.0"),
    ],
)
def test_conditions_that_imply_that_a_state_exists(exists: str, condition: str, hyper: str) -> None:
    assert existence_holds(exists, condition, hyper)


@pytest.mark.parametrize(
    ("exists", "condition", "hyper"),
    [
        ("mu > 0", "mu != 0", "mu = 0.0"),
        ("mu > 0", "not (mu <= 0)", "mu = 0.0"),  # NaN is neither
        ("k >= 3", "k > 1", "k = 0 in int [0, inf)"),
        ("f", "t > 1", "f = false"),
        ("f", "not (f and t > 1)", "f = false"),
        ("ndim >= 2", "numel >= 2", "mu = 0.0"),
        ("w != none and w > 3", "w != none", "w = none in int [1, inf)"),
        ("f", "h", 'f = false; h = false\nrequire not f or h, "needs h"'),
    ],
)
def test_conditions_that_do_not_imply_it(exists: str, condition: str, hyper: str) -> None:
    assert not existence_holds(exists, condition, hyper)


def _nested(depth: int) -> nodes.Expression:
    value: nodes.Expression = nodes.Name("g")
    for _ in range(depth):
        value = nodes.Binary("+", value, nodes.Number(1))
    return value


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (_nested(50_000), "too-deep"),
        (nodes.Call("f", (nodes.Name("g"),)), "too-large"),
    ],
    ids=["deep", "doubling"],
)
def test_hostile_sizes_are_diagnostics(value: nodes.Expression, code: str) -> None:
    doubled: nodes.Expression = nodes.Name("x")
    for _ in range(30):
        doubled = nodes.Call("lerp", (doubled, nodes.Number(1), nodes.Number(0.5)))
    define = nodes.Define("f", ("x",), (nodes.Return(doubled),))
    theta = nodes.Name("theta")
    step: list[nodes.Statement] = [nodes.Write((theta,), nodes.Binary("-", theta, value))]
    optimizer = nodes.Optimizer("X", defines=(define,) if code == "too-large" else (), step=tuple(step))
    with pytest.raises(SpecError) as caught:
        check(nodes.Spec(optimizer), Source("built", ""))
    assert [d.code for d in caught.value.diagnostics] == [code]


def test_deeply_nested_blocks_are_a_diagnostic() -> None:
    theta = nodes.Name("theta")
    block: tuple[nodes.Statement, ...] = (nodes.Stop(),)
    for _ in range(5_000):
        block = (nodes.If(nodes.Binary(">", nodes.Name("t"), nodes.Number(1)), block, ()),)
    optimizer = nodes.Optimizer("X", step=(*block, nodes.Write((theta,), nodes.Name("g"))))
    with pytest.raises(SpecError) as caught:
        check(nodes.Spec(optimizer), Source("built", ""))
    assert [d.code for d in caught.value.diagnostics] == ["too-deep"]
