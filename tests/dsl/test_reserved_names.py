"""Names that the language has already: nothing in a spec can be named like a function, and the remedy that is given works."""

from __future__ import annotations

import re

import pytest

from optc.dsl.check import check
from optc.dsl.errors import Diagnostic, SpecError
from optc.dsl.functions import BUILTINS
from optc.dsl.names import RESERVED_NAMES, RESERVED_WORDS
from optc.dsl.parse import parse
from optc.dsl.source import Source

HEAD = "optimizer X:\n    hyper: lr = 0.1\n"
DECLARATIONS = {
    "local": HEAD + "    step:\n        N = g\n        N = 2*N\n        θ <- θ - lr*N\n",
    "host value": HEAD + "    step:\n        N = lr*t\n        θ <- θ - N*g\n",
    "one of two locals": HEAD + "    step:\n        (a, N) = (g, lr)\n        θ <- θ - N*a\n",
    "local in a branch": HEAD + "    step:\n        if t > 1: N = 1\n        else: N = lr\n        θ <- θ - N*g\n",
    "hyper": "optimizer X:\n    hyper: N = 0.1\n    step: θ <- θ - N*g\n",
    "hyper with a name outside": "optimizer X:\n    hyper: N = 0.1 as lr\n    step: θ <- θ - N*g\n",
    "element": "optimizer X:\n    hyper: pair = (a = 0.1, N = 0.2)\n    step: θ <- θ - a*N*g\n",
    "tuple": "optimizer X:\n    hyper: N = (a = 0.1, b = 0.2)\n    step: θ <- θ - a*b*g\n",
    "state": HEAD + "    state: N = 0\n    step:\n        N <- N + g\n        θ <- θ - lr*N\n",
    "state with a name outside": HEAD + "    state: N = 0 as kept\n    step:\n        N <- N + g\n        θ <- θ - lr*N\n",
    "host state": HEAD + "    state: N = 0 per tensor\n    step:\n        N <- N + lr\n        θ <- θ - N*g\n",
    "input": HEAD + "    state: h = 0\n    step: θ <- θ - lr*h\n    entry update(N per elem): h <- h + N\n",
    "local of an entry": HEAD
    + "    state: h = 0\n    step: θ <- θ - lr*h\n    entry f(x per elem):\n        N = x*x\n        h <- N\n",
    "parameter": "define f(x,  # first\n    N) = x*N\n" + HEAD + "    step: θ <- θ - f(g, lr)\n",
    "local of a function": "define f(x):\n    N = x\n    N = N*x\n    return N\n" + HEAD + "    step: θ <- θ - lr*f(g)\n",
    "function": "define N(x) = 2*x\n" + HEAD + "    step: θ <- θ - lr*N(g)\n",
}
"""A right spec for every place where a name is declared, but for the name `N`."""


def mistakes(text: str) -> tuple[Diagnostic, ...]:
    source = Source("names.opt", text)
    try:
        check(parse(source), source)
    except SpecError as error:
        return error.diagnostics
    return ()


def named(text: str, name: str) -> str:
    return re.sub(r"\bN\b", name, text)


@pytest.mark.parametrize("text", DECLARATIONS.values(), ids=DECLARATIONS)
def test_nothing_is_named_like_a_function(text: str) -> None:
    """One diagnostic, at the first place of the name; with the name of the hint in its place the spec is right."""
    assert not mistakes(named(text, "free"))
    for name in BUILTINS:
        wrong = named(text, name)
        (mistake,) = mistakes(wrong)
        assert mistake.code == "reserved-name"
        assert f"`{name}` is a function of the language" in mistake.message
        start = re.search(r"\bN\b", text)
        assert start is not None
        assert (mistake.span.start, mistake.span.end) == (start.start(), start.start() + len(name))
        assert mistake.hint is not None
        remedy = re.search(r"`(\w+)(?: = … as (\w+))?`", mistake.hint)
        assert remedy is not None
        if remedy[2] is None:
            assert not mistakes(named(text, remedy[1]))
        else:  # the name stays as it is outside
            assert remedy[2] == name
            kept = re.sub(r"\bN( = (?:\(.*?\)|[\d.]+))", rf"{remedy[1]}\1 as {name}", text, count=1)
            assert f"as {name}" in kept
            assert not mistakes(named(kept, remedy[1]))


def test_the_name_of_the_hint_is_free() -> None:
    text = HEAD + "    step:\n        sqrt_value = g\n        sqrt = g\n        θ <- θ - lr*sqrt*sqrt_value\n"
    assert [m.hint for m in mistakes(text)] == ["choose another name, like `sqrt_value_2`"]


def test_names_outside_are_free() -> None:
    text = "optimizer X:\n    hyper: step_size = 0.1 as norm\n    state: G = 0 as sum\n    step:\n"
    assert not mistakes(text + "        G <- G + g^2\n        θ <- θ - step_size*g/sqrt(G)\n")


def test_functions_words_and_given_names_are_apart() -> None:
    assert not set(BUILTINS) & (RESERVED_NAMES | RESERVED_WORDS)


@pytest.mark.parametrize("kind", [kind for kind in DECLARATIONS if kind != "function"])
def test_nothing_is_named_like_a_word_or_a_given_name(kind: str) -> None:
    names = RESERVED_WORDS | RESERVED_NAMES
    if kind in ("local", "host value", "one of two locals", "local in a branch"):
        names -= {"g"}  # the gradient of a step may be given another value
    for name in sorted(names):
        wrong = named(DECLARATIONS[kind], name)
        source = Source("names.opt", wrong)
        with pytest.raises(SpecError):
            check(parse(source), source)
