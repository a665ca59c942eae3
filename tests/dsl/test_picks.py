"""Picked elements: what the checker makes of them, and what it says where they are wrong.

A case of the second kind is the text and, for each expected diagnostic, `line:column code`, a part of the message and one of
the hint.
"""

from __future__ import annotations

import pytest

from optc.dsl.check import check
from optc.dsl.kinds import SCALARS, Extent
from optc.dsl.parse import parse
from optc.dsl.program import PICK, Apply, Let, Program, Store
from optc.dsl.show import show
from optc.dsl.source import Source
from tests.dsl.wrong import diagnose, found, step

HYPER = "lr = 0.1; p = 3 in int [1, inf)"
STATE = ("s = pick(θ, p) per pick(p)",)
END = ("s <- s + pick(g, p)", "θ <- θ - lr*norm(s)*g")


def checked(*lines: str, state: tuple[str, ...] = STATE, more: tuple[str, ...] = ()) -> Program:
    source = Source("right.opt", step(*lines, hyper=HYPER, state=state, more=more))
    return check(parse(source), source)


def test_extents_of_values_and_states() -> None:
    program = checked("x = pick(g, p) - 2*s", "n = mean(x*norm(g))", "s <- x + n", "θ <- θ - lr*n*g")
    assert program.pick == "p"
    assert [(s.name, s.extent, s.host) for s in program.states] == [("s", Extent.PICK, False)]
    extents = [s.value.type.extent for s in program.procedures[0].body if isinstance(s, Let | Store)]
    assert extents == [Extent.PICK, Extent.TENSOR, Extent.PICK, Extent.ELEM]
    initial = program.states[0].initial
    assert isinstance(initial, Apply) and initial.operation == PICK


def test_functions_and_entries_may_pick() -> None:
    more = ("define some(x, q) = pick(x, q)", "entry refresh(z per elem):", "    s <- some(z, p)")
    program = checked("s <- s + some(g, p)", "θ <- θ - lr*norm1(s)*g", more=more)
    stores = [s for procedure in program.procedures for s in procedure.body if isinstance(s, Store)]
    assert [s.value.type.extent for s in stores] == [Extent.PICK, Extent.ELEM, Extent.PICK]


def test_an_optimizer_that_does_not_pick_has_no_p() -> None:
    program = checked("s <- s + g", "θ <- θ - lr*s/p", state=("s = θ",))
    assert program.pick is None


def test_numbers_are_states_of_picked_elements_too() -> None:
    program = checked("s <- norm(g)", "θ <- θ - lr*max(s)*g", state=("s = p per pick(p)",))
    assert program.states[0].extent is Extent.PICK and program.states[0].initial.type.extent in SCALARS


@pytest.mark.parametrize("mathematical", [False, True])
def test_shown_and_read_again(mathematical: bool) -> None:
    spec = parse(Source("a.opt", step(*END, hyper=HYPER, state=("s = pick(θ, p) per pick(p) as sums",))))
    text = show(spec, mathematical=mathematical)
    assert "per pick(p) as sums" in text
    assert parse(Source("b.opt", text)) == spec


PICKS = "picked elements"
WRONG: dict[str, tuple[str, list[tuple[str, str, str]]]] = {
    "elements beside them": (
        step("s <- s + g", "θ <- lr*norm(s)*pick(θ, p)", hyper=HYPER, state=STATE),
        [
            ("7:18 wrong-extent", "this is per elem, and meets picked elements", "pick from it, too: `pick(x, p)`"),
            ("8:25 wrong-extent", "`theta` is per elem, this is per pick", "reduce the value"),
        ],
    ),
    "another p": (
        step("s <- pick(g, q)", "θ <- θ - lr*norm(s)*g", hyper=f"{HYPER}; q = 2 in int [1, inf)", state=STATE),
        [("7:22 another-pick", "this picks by `q`, other lines by `p`", "write `p`")],
    ),
    "a number for p": (
        step("s <- s + pick(g, 3)", "θ <- θ - lr*norm(s)*g", hyper=HYPER, state=STATE),
        [("7:26 pick-period", "the p of `pick` is a hyper", "in int [1, inf)")],
    ),
    "a p that is not whole": (
        step(*END, hyper="lr = 0.1; p = 3 in [1, inf)", state=("s = 0 per pick(p)",)),
        [("5:24 pick-period", "it is a whole number, at least 1", "in int [1, inf)")],
    ),
    "a p that may be 0": (
        step(*END, hyper="lr = 0.1; p = 3 in int [0, inf)", state=("s = 0 per pick(p)",)),
        [("5:24 pick-period", "it is a whole number, at least 1", "in int [1, inf)")],
    ),
    "a state without p": (
        step(*END, hyper=HYPER, state=("s = 0 per pick",)),
        [("5:19 missing-period", "the hyper that says how many", "per pick(p)")],
    ),
    "a number in brackets elsewhere": (
        step("θ <- θ - lr*p*s*g", "s <- 1", hyper=HYPER, state=("s = 0 per tensor(p)",)),
        [("5:19 unknown-extent", "only `per pick` takes a number in brackets", "")],
    ),
    "a number that is picked from": (
        step("s <- s + pick(lr, p)", "θ <- θ - lr*norm(s)*g", hyper=HYPER, state=STATE),
        [("7:23 wrong-extent", "this is one number for the whole group", "take `pick` off")],
    ),
    "picked twice": (
        step("s <- pick(s, p)", "θ <- θ - lr*norm(s)*g", hyper=HYPER, state=STATE),
        [("7:19 wrong-extent", "picked already", "take one `pick` off")],
    ),
    "an initial value of elements": (
        step(*END, hyper=HYPER, state=("s = θ per pick(p)",)),
        [("5:13 wrong-extent", "`s` is per pick, this is per elem", "pick from it: `pick(x, p)`")],
    ),
    "a state of elements": (
        step("s <- pick(g, p)", "θ <- θ - lr*norm(s)*g", hyper=HYPER, state=("s = 0",)),
        [("7:14 wrong-extent", "`s` is per elem, this is per pick", "reduce the value")],
    ),
    "one name by turns": (
        step("x = pick(g, p)", "s <- x", "x = g", "θ <- θ - lr*norm(s)*x", hyper=HYPER, state=STATE),
        [("9:13 wrong-extent", "`x` is per pick elsewhere, this is per elem", "another name")],
    ),
    "one name in two branches": (
        step("if t > 1: x = pick(g, p)", "else: x = g", "s <- 0", "θ <- θ - lr*norm(s)*norm(x)", hyper=HYPER, state=STATE),
        [("8:19 wrong-extent", "`x` is per pick elsewhere, this is per elem", "another name")],
    ),
    "a condition of picked elements": (
        step("if s > 0: s <- 0", "θ <- θ - lr*norm(s)*g", hyper=HYPER, state=STATE),
        [("7:12 elem-condition", "per pick", "where(condition, a, b)")],
    ),
    "rows of picked elements": (
        step("if ndim >= 2: s <- norm(rowmean(s))", "θ <- θ - lr*norm(s)*g", hyper=HYPER, state=STATE),
        [("7:41 wrong-extent", "`rowmean` reduces along rows, but this value is per pick", "take the reduction off")],
    ),
    "rows beside them": (
        step("n = 1", "if ndim >= 2: n = mean(rowmax(g))", *END[:1], "θ <- θ - lr*n*norm(s)*g", hyper=HYPER, state=STATE),
        [("5:33 unsupported", "picked elements do not go with rows and columns (line 8)", "leave one of them out")],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes(name: str) -> None:
    text, expected = WRONG[name]
    error = diagnose(text)
    assert found(error) == [place for place, _, _ in expected], [d.message for d in error.diagnostics]
    for diagnostic, (_, message, hint) in zip(error.diagnostics, expected, strict=True):
        assert message in diagnostic.message and hint in (diagnostic.hint or ""), diagnostic
