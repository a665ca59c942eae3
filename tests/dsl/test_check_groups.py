"""Mistakes with numbers of a parameter group, each found at its place and with a hint."""

from __future__ import annotations

import pytest

from tests.dsl.wrong import diagnose, found, step

END = "θ <- θ - lr*u"

GROUPS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "a total of the model beside one of a group": (
        step("u = g/(total_norm(g) + group_norm(g) + total(sum(g)))", END, state=()),
        [("5:16 mixed-groups", "take one or the other")],
    ),
    "a state of the model beside a total of a group": (
        step("k <- k + group_norm(g)", "u = k*g", END, state=("k = 0 per model",)),
        [("5:19 mixed-groups", "states `per group`")],
    ),
    "a number of each parameter in one of a group": (
        step("k <- k + norm(g)", "u = k*g", END, state=("k = 0 per group",)),
        [("7:18 wrong-extent", "add it up: `group_total(x)`")],
    ),
    "a total of elements over a group": (
        step("u = g/group_total(g)", END, state=()),
        [("5:27 wrong-extent", "group_total(sum(x))")],
    ),
    "a total of a group under a count": (
        step("if t > 1: c = group_norm(g)", "else: c = 1", "u = g/c", END, state=()),
        [("5:23 narrow-total", "`group_total(where(condition, x, 0))`")],
    ),
    "new of a number of a group": (
        step("if new(k): u = g", "else: u = 2*g", END, state=("k = 0 per group",)),
        [("7:16 new-of-state", "`k = 0 per group`")],
    ),
}


@pytest.mark.parametrize(("text", "expected"), GROUPS.values(), ids=GROUPS)
def test_each_mistake_is_found_at_its_place_with_a_hint(text: str, expected: list[tuple[str, str]]) -> None:
    error = diagnose(text)
    assert found(error) == [place for place, _ in expected], error.render()
    for diagnostic, (_, hint) in zip(error.diagnostics, expected, strict=True):
        assert hint in (diagnostic.hint or diagnostic.message), error.render()
