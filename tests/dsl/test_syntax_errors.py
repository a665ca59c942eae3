"""Every known mistake gives its own diagnostic, at its place; one bad line neither hides nor causes another."""

from __future__ import annotations

import time

import pytest

from optc.dsl.errors import Diagnostic, SpecError
from optc.dsl.parse import parse
from optc.dsl.source import Source
from tests.dsl.texts import ADAMW

HEAD = "optimizer X:\n    hyper: lr = 1.0\n    step:\n"
"""The statements of the first table stand in line 4, from column 9."""


def _diagnostics(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(SpecError) as caught:
        parse(Source("x.opt", text))
    message = str(caught.value)
    for raw in ("Token(", "Expected", "_NL", "_INDENT", "_COLON", "Traceback", "lark"):
        assert raw not in message
    return caught.value.diagnostics


def _places(text: str) -> list[tuple[int, int, str]]:
    source = Source("x.opt", text)
    return [(*source.position(diagnostic.span.start), diagnostic.code) for diagnostic in _diagnostics(text)]


@pytest.mark.parametrize(
    ("line", "column", "code", "hint"),
    [
        ("u = 2t", 13, "juxtaposition", "`2*t`"),
        ("u = 2 t", 13, "juxtaposition", "`2*t`"),
        ("u = β1 m", 13, "juxtaposition", "`β1*m`"),
        ("u = 2(a + b)", 13, "juxtaposition", "`*`"),
        ("u = (a)(b)", 15, "juxtaposition", "`*`"),
        ("u = 2√v", 13, "juxtaposition", "`*`"),
        ("u = 2|x|", 13, "juxtaposition", "`*`"),
        ("u = max(a b)", 17, "juxtaposition", "`,`"),
        ("u = √v^2", 15, "root-power", "√(v^2)"),
        ("u = √v²", 15, "root-power", "√(v^2)"),
        ("u = √(v + 1)^2", 21, "root-power", "√(v^2)"),
        ("u = √f(v)'", 18, "root-power", "(√v)^2"),
        ("\tu = 1", 9, "tab", "spaces"),
        ("u =\t1", 12, "tab", "spaces"),
        ("u := 1", 11, "assignment-operator", "`=` to name"),
        ("u == 1", 11, "assignment-operator", "`<-` writes"),
        ("m < 3", 11, "assignment-operator", "`<-` writes"),
        ("x += 1", 11, "assignment-operator", "name = name + value"),
        ("if t = 1: u = 2", 14, "assignment-operator", "`==`"),
        ("if t <- 1: u = 2", 14, "assignment-operator", "x < -1"),
        ("u = x = 3", 15, "assignment-operator", "`==`"),
        ("u = a < b < c", 19, "chained-comparison", "a < b and b < c"),
        ("u = a ** 2", 15, "operator-spelling", "`^`"),
        ("if a && b: stop", 14, "operator-spelling", "`and`"),
        ("if a || b: stop", 14, "operator-spelling", "`or`"),
        ("if !a: stop", 12, "operator-spelling", "`not`"),
        ("u = a % b", 15, "operator-spelling", "`mod`"),
        ("u = a × b", 15, "operator-spelling", "`*`"),
        ("u = a − b", 15, "operator-spelling", "`-`"),
        ("u -> v", 11, "operator-spelling", "`<-`"),
        ("elif a: stop", 9, "elif", "else if"),
        ("if a: stop\n        elif b: stop", 9, "elif", "else if"),
        ("if a\n            stop", 13, "missing-colon", "`:`"),
        ("if a stop", 13, "missing-colon", "`:`"),
        ("if a: stop\n        else stop", 13, "missing-colon", "`:`"),
        ("if a", 13, "missing-colon", "`:`"),
        ("u = (a + b", 13, "missing-bracket", "`)`"),
        ("u = (a + b\n        v = 3", 13, "missing-bracket", "`)`"),
        ("u = x[1", 14, "missing-bracket", "`]`"),
        ("u = a + b)", 18, "missing-bracket", "`(`"),
        ("u = (a + b]", 19, "missing-bracket", "`)`"),
        ('u = "abc', 13, "unterminated-string", "same line"),
        ('u = "abc\\"', 13, "unterminated-string", "same line"),
        ('u = "a\\q"', 15, "escape", "\\\\"),
        ("u = é", 13, "unknown-character", "Latin and Greek"),
        ("u = g.sum()", 14, "unknown-character", "sqrt(g)"),
        ("u = “a”", 13, "unknown-character", "straight"),
        ("u = \x07", 13, "unknown-character", "take it out"),
        ("u = 'abc'", 13, "syntax", '"…"'),
        ("if a:\n        u = 1", 13, "empty-block", "indented"),
        ("if a:", 13, "empty-block", "indented"),
        ("u = 1\n            v = 2", 13, "indentation", "column"),
        ("u = 1\n      v = 2", 7, "indentation", "column 1, 5, 9"),
        ("step = 3", 9, "reserved-word", "another name"),
        ("u = state + 1", 13, "reserved-word", "another name"),
        ("u, v = (1, 2)", 10, "syntax", "(a, b)"),
        ("u = 1, v = 2", 14, "syntax", "`;`"),
        ("f(x)", 10, "syntax", "state <- f(x)"),
        ("u", 9, "syntax", "name = value"),
        ("u 3", 11, "syntax", "name = value"),
        ("u =", 12, "syntax", "a value"),
        ("u = a +", 16, "syntax", "a value"),
        ("u = f(a,)", 17, "syntax", "a value"),
        ("else: stop", 9, "stray-else", "column of its `if`"),
        ("if a: if b: stop", 15, "syntax", "line of its own"),
        ("while a: stop", 9, "syntax", "loops"),
        ("u = 1e999", 13, "number", "inf"),
        ("u = 9223372036854775808", 13, "number", "float"),
        ("u = x⁹⁹⁹⁹⁹⁹⁹⁹⁹⁹⁹⁹⁹⁹⁹⁹⁹⁹⁹⁹", 14, "number", None),
        ("repeat 3: stop", 9, "unsupported", None),
        ("repeat n as i:\n            u = i", 9, "unsupported", None),
        ("each axis: stop", 9, "unsupported", None),
        ("in bf16:\n            u = 1", 9, "unsupported", None),
        ("a[0] = 1", 10, "unsupported", None),
    ],
)
def test_mistakes_in_a_line(line: str, column: int, code: str, hint: str | None) -> None:
    text = f"{HEAD}        {line}\n"
    at = 5 if "\n" in line and code in ("elif", "indentation", "missing-colon") and not line.startswith("if a\n") else 4
    assert _places(text) == [(at, column, code)]
    found = _diagnostics(text)[0].hint
    assert found is None if hint is None else found is not None and hint in found


@pytest.mark.parametrize(
    ("text", "line", "column", "code", "hint"),
    [
        ("", 1, 1, "empty-file", "optimizer NAME:"),
        ("  \n  # only a comment\n", 1, 1, "empty-file", "optimizer NAME:"),
        ("define f(x) = x\n", 1, 1, "no-optimizer", "add one"),
        ("optimizer A:\n    step: stop\noptimizer B:\n    step: stop\n", 3, 1, "two-optimizers", "file of its own"),
        ("optimizer A:\n    step: stop\n    step: stop\n", 3, 5, "duplicate-section", "join"),
        ("optimizer A:\n    state: a = 1\n    step: stop\n    state: b = 1\n", 4, 5, "duplicate-section", "join"),
        ('optimizer A:\n    "a"\n    "b"\n    step: stop\n', 3, 5, "duplicate-section", "join"),
        ("optimizer A:\n    hyper:\n    step: stop\n", 2, 10, "empty-block", "indented"),
        ("optimizer A\n    step: stop\n", 1, 12, "missing-colon", "`:`"),
        ("  optimizer A:\n    step: stop\n", 1, 3, "indentation", None),
        ("optimizer A:\n    stat: m = 0\n    step: stop\n", 2, 5, "section", "`state`"),
        ("step:\n    stop\n", 1, 1, "section", "inside `optimizer NAME:`"),
        ("optimizer A:\n    u = 1\n", 2, 5, "section", "`hyper`"),
        ("optimizer A:\n    step:\n        stop\n\tstop\n", 4, 1, "tab", "spaces"),
        ("optimizer A:\n    step: stop\0\n", 1 + 1, 15, "nul", "text file"),
        ("optimizer A:\n    hyper: lr = 1.0, eps = 2\n    step: stop\n", 2, 20, "syntax", "`;`"),
        ("optimizer A:\n    hyper: lr <- 1.0\n    step: stop\n", 2, 15, "assignment-operator", "initial value"),
        ("optimizer A:\n    hyper: lr 1.0\n    step: stop\n", 2, 15, "syntax", "name = value"),
        ("optimizer A:\n    hyper: lr = x + 1\n    step: stop\n", 2, 17, "not-constant", "a number"),
        ("optimizer A:\n    hyper: lr = 1 in [0, x)\n    step: stop\n", 2, 26, "not-constant", "inf"),
        ("optimizer A:\n    hyper: lr = 1 as a as b\n    step: stop\n", 2, 24, "syntax", None),
        ('optimizer A:\n    hyper:\n        require a > 0 "b"\n    step: stop\n', 3, 23, "syntax", "message"),
        ("optimizer A:\n    state: if a: b = 0\n    step: stop\n", 2, 12, "syntax", "line of its own"),
        ("optimizer A:\n    entry f(a) every 2: stop\n    step: stop\n", 2, 14, "syntax", "per extent"),
        ("optimizer A:\n    entry f() every 0: stop\n    step: stop\n", 2, 5, "syntax", None),
        ("optimizer A:\n    cite\n    step: stop\n", 2, 5, "syntax", "arXiv"),
        ("optimizer A: step: stop\n", 1, 14, "syntax", "optimizer NAME:"),
        ("optimizer A = B + \n", 1, 18, "syntax", "write `optimizer NAME = "),
        ("optimizer A = B without\n", 1, 24, "syntax", "write `optimizer NAME = "),
        ("optimizer A = B + c storing m bf16\n", 1, 29, "juxtaposition", "write `m*bf16`"),
        ("optimizer A = B + c:\n    step: u = g\n", 2, 5, "section", "it stands inside"),
        ("modifier x:\n    mask m: m = 1\n", 2, 10, "wrong-point", "it acts on"),
        ("modifier x:\n    probe g: g = 1\n", 2, 5, "unsupported", None),
        ("modifier x:\n    maks u: u = 1\n", 2, 5, "section", "did you mean `mask`?"),
        ("modifier x:\n    mask u: u -> 1\n", 2, 15, "operator-spelling", "a value is written with `<-`"),
        ("modifier x:\n    mask u\n        u = 1\n", 2, 11, "missing-colon", None),
        ("modifier x:\n    step: u = g\n", 2, 5, "section", "it stands inside `optimizer NAME:`"),
        ("modifier x(a = 1):\n    hyper: b = 2\n    mask u: u = a*b*u\n", 1, 1, "duplicate-section", "put all of them"),
        ("modifier x:\n    cite y\n", 1, 1, "no-hook", "add a stage"),
        ("modifier x:\n    rewrite (a): a/2\n", 2, 21, "syntax", "write `rewrite"),
        (
            "modifier x:\n    mask u: u = 1\noptimizer A:\n    step: theta <- g\n",
            1,
            1,
            "misplaced-modifier",
            "put it in a file",
        ),
        ("modifier x\n    mask u: u = 1\n", 1, 11, "missing-colon", None),
        ("schedule x(T = 1):\n    return 1\n", 2, 5, "section", "`lr:`"),
        ("optimizer A:\n    shape: flat\n    step: stop\n", 2, 12, "unknown-shape", "write `shape: matrix`"),
        ("modifier x:\n    shape: rows\n    mask u: u = 1\n", 2, 12, "unknown-shape", "(first dimension, all others)"),
        ("optimizer A:\n    shape: 3\n    step: stop\n", 2, 12, "syntax", "write `shape: matrix`"),
        ("optimizer A:\n    shape:\n    step: stop\n", 2, 10, "empty-block", "on the same line"),
        ("optimizer A:\n    shape:\n        matrix\n    step: stop\n", 2, 11, "syntax", "write `shape: matrix`"),
        ("optimizer A:\n    shape = matrix\n    step: stop\n", 2, 5, "section", "as `shape: matrix`"),
        ("optimizer A:\n    Shape: matrix\n    step: stop\n", 2, 5, "section", "did you mean `shape`?"),
        ("optimizer A = B + c:\n    shape: matrix\n", 2, 5, "section", "or `modifier NAME:`"),
        ("optimizer A:\n    shape: matrix\n    shape: matrix\n    step: stop\n", 3, 5, "duplicate-section", "join the two"),
        ("modifier x:\n    shape: matrix\n    shape: matrix\n    mask u: u = 1\n", 3, 5, "duplicate-section", "join"),
        ("optimizer A:\n    for θ: ndim >= 2\n    step: stop\n", 2, 5, "unsupported", None),
        ("optimizer A:\n    view train: θ <- 1\n    step: stop\n", 2, 5, "unsupported", None),
        ("optimizer A:\n    state: L = 1 per axis\n    step: stop\n", 2, 22, "unsupported", None),
        ("optimizer A:\n    state: S = 0 per elem ring window\n    step: stop\n", 2, 27, "unsupported", None),
        ("optimizer A:\n    step: stop\n" + "#" * 1_000_000, 1, 1, "too-large", "a page"),
        ("optimizer A:\n    step: stop\n" + "\n" * 10_000, 1, 1, "too-large", "a page"),
        (f"{HEAD}        u = {'(' * 10_000}x{')' * 10_000}\n", 4, 113, "too-deep", None),
        (f"{HEAD}        u = {'x + ' * 2_000}x\n", 4, 13 + 4 * 998 + 2, "too-large", None),
    ],
)
def test_mistakes_in_a_file(text: str, line: int, column: int, code: str, hint: str | None) -> None:
    assert _places(text) == [(line, column, code)]
    found = _diagnostics(text)[0].hint
    assert hint is None or (found is not None and hint in found)


@pytest.mark.parametrize(
    "body",
    [
        "u = " + "-" * 500 + "x",
        "u = " + "√" * 500 + "x",
        "u = " + "not " * 500 + "x",
        "u = " + "|" * 400 + "x" + "|" * 400,
        "u = " + "2^" * 500 + "x",
        "u = " + "x + " * 500 + "x",
        "u = x" + "'" * 500,
        "if x: stop\n" + "        else if x: stop\n" * 500,
        "\n".join(" " * (8 + depth) + "if x:" for depth in range(1, 1000)).lstrip() + "\n" + " " * 1008 + "stop",
    ],
)
def test_absurd_nesting_is_refused_quickly(body: str) -> None:
    started = time.process_time()
    assert "too-deep" in [code for _, _, code in _places(f"{HEAD}        {body}\n")]
    assert time.process_time() - started < 5


def test_what_is_just_deep_enough_passes() -> None:
    parse(Source("x.opt", f"{HEAD}        u = {'(' * 100}x{')' * 100} + {'x + ' * 90}x\n"))


def test_each_bad_line_gives_one_error_and_hides_none() -> None:
    text = """\
define f(x) = 2x
optimizer X:
    hyper:
        lr = 1.0 1.0
        eps = é
    state:
        m <- 0
    step:
        u = 2t
        if t = 1:
            v = 3 4
        else:
            v = 1
        w = (a + b
        x = √v^2
          y = 3
        z = "abc
        θ <- ok
"""
    assert _places(text) == [
        (1, 15, "juxtaposition"),
        (4, 14, "juxtaposition"),
        (5, 15, "unknown-character"),
        (7, 11, "assignment-operator"),
        (9, 13, "juxtaposition"),
        (10, 14, "assignment-operator"),
        (14, 13, "missing-bracket"),
        (15, 15, "root-power"),
        (16, 11, "indentation"),
        (17, 13, "unterminated-string"),
    ]


def test_a_diagnostic_shows_line_caret_and_hint() -> None:
    with pytest.raises(SpecError) as caught:
        parse(Source("a.opt", ADAMW.replace("g^2", "2 g")))
    assert str(caught.value) == (
        "a.opt:15:21: error: nothing multiplies by standing beside: `2` `g` [juxtaposition]\n"
        "   15 |         v <- ema(v, 2 g, β2)\n"
        "      |                     ^^^\n"
        "        hint: write `2*g`, or `,` where these are two values\n"
        "1 error in a.opt"
    )


def test_a_thousand_bad_lines_end_soon() -> None:
    started = time.process_time()
    assert len(_diagnostics(HEAD + "        u = 2 t\n" * 5_000)) >= 1
    assert time.process_time() - started < 20
