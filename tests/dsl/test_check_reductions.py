"""Wrong specs with rows, columns and numbers of the whole model: each mistake at its place, with a remedy.

A case is the text and, for each expected diagnostic, `line:column code` and a part of the hint.
"""

from __future__ import annotations

import pytest

from tests.dsl.wrong import diagnose, found, step

END = "θ <- θ - lr*u"
MATRIX = "put the line under `if ndim >= 2:`"
CONDITION = "where(condition, x, 0)"
PICK = ("define chosen(x):", "    if ndim >= 2: r = x", "    else: r = 0", "    return r")
"""A function whose static condition differs between parameters."""


def rows(*lines: str, state: tuple[str, ...] = (), hyper: str = "lr = 0.1", more: tuple[str, ...] = ()) -> str:
    """A step whose lines stand under `if ndim >= 2:` and bind `u`; the first is line 6, or 8 with one line of states."""
    return step("if ndim >= 2:", *(f"    {line}" for line in lines), "else: u = g", END, state=state, hyper=hyper, more=more)


ROWS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    # --- where there are no rows
    "rows of any tensor": (step("u = g/rowmean(g)", END, state=()), [("5:15 needs-matrix", MATRIX)]),
    "columns of any tensor": (step("u = g/colmax(g)", END, state=()), [("5:15 needs-matrix", "under `else:`")]),
    "rows on the wrong side": (
        step("if ndim >= 2: u = g", "else: u = rowsum(g)", END, state=()),
        [("6:19 needs-matrix", MATRIX)],
    ),
    "rows where a flag holds": (
        step("if f: u = rowmin(g)", "else: u = g", END, state=(), hyper="lr = 0.1; f = true"),
        [("5:19 needs-matrix", MATRIX)],
    ),
    "rows beside a condition that does not imply them": (
        step("u = where(ndim >= 1, colmin(g), g)", END, state=()),
        [("5:30 needs-matrix", MATRIX)],
    ),
    "numbers per row outside": (
        step("if ndim >= 2: r = rowmean(g)", "else: r = mean(g)", "u = g/sum(r)", END, state=()),
        [("7:15 needs-matrix", MATRIX)],
    ),
    "a norm of numbers per column outside": (
        step("u = g*norm(where(ndim >= 2, colmean(g), 1))", END, state=()),
        [("5:15 needs-matrix", MATRIX)],
    ),
    "rows in a function that is called outside": (
        step("u = f(g)", END, state=(), more=("define f(x) = x/rowmean(x)",)),
        [("7:21 needs-matrix", MATRIX)],
    ),
    "a state per row of any tensor": (
        step("u = g/R", END, state=("R = 1 per row",)),
        [("5:19 needs-matrix", "declare it under `if ndim >= 2:`")],
    ),
    "a state per column of tensors that are no vectors": (
        step("if ndim != 1: u = g/C", "else: u = g", END, state=("if ndim != 1: C = 1 per col",)),
        [("5:33 needs-matrix", "declare it under `if ndim >= 2:`")],
    ),
    "a state per matrix under another condition": (
        step(
            "if ndim > 2 or f: u = g/M",
            "else: u = g",
            END,
            state=("if ndim > 2 or f: M = 1 per matrix",),
            hyper="lr = 1; f = true",
        ),
        [("5:37 needs-matrix", "declare it under `if ndim >= 2:`")],
    ),
    "a state per row read outside": (
        step("if ndim >= 2: R <- rowmean(g)", "u = g/R", END, state=("if ndim >= 2: R = 1 per row",)),
        [("8:15 state-may-not-exist", "put the line under `if ndim >= 2:`")],
    ),
    "a state per row in an entry": (
        rows("u = g/R", state=("if ndim >= 2: R = 1 per row",), more=("entry see(h per elem):", "    R <- rowmean(h^2)")),
        [("12:9 state-may-not-exist", "if ndim >= 2:"), ("12:14 needs-matrix", MATRIX)],
    ),
    # --- what does not fit
    "a row along its row": (rows("u = g/rowsum(rowmean(g))"), [("6:26 wrong-extent", "take the reduction off")]),
    "a column along its column": (rows("u = g/colmax(colmean(g))"), [("6:26 wrong-extent", "take the reduction off")]),
    "a matrix along its rows": (rows("u = g/rowmin(colmin(rowmin(g)))"), [("6:26 wrong-extent", "take the reduction off")]),
    "one number along rows": (rows("u = g/rowmean(norm(g))"), [("6:27 wrong-extent", "take the reduction off")]),
    "a number of the model along columns": (
        rows("u = g/colsum(k)", state=("k = 1 per model",)),
        [("8:26 wrong-extent", "off")],
    ),
    "elements in a row": (
        rows("R <- g^2", "u = g/R", state=("if ndim >= 2: R = 1 per row",)),
        [("8:18 wrong-extent", "`rowmean(x)`, `rowsum(x)`")],
    ),
    "a row in a column": (
        rows("C <- rowmean(g)", "u = g/C", state=("if ndim >= 2: C = 1 per col",)),
        [("8:18 wrong-extent", "`colmean(x)`, `colsum(x)`")],
    ),
    "a column in a matrix": (
        rows("M <- colmean(g)", "u = g/M", state=("if ndim >= 2: M = 1 per matrix",)),
        [("8:18 wrong-extent", "`colmean(rowmean(x))`")],
    ),
    "an outer product in a row": (
        rows("R <- outer(R, colmean(g))", "u = g/R", state=("if ndim >= 2: R = 1 per row",)),
        [("8:18 wrong-extent", "take `per row` off `R`")],
    ),
    "a matrix in one number": (
        rows("n <- colmean(rowmean(g))", "u = g/n", state=("n = 1 per tensor",)),
        [("8:18 wrong-extent", "`norm(x)`, `mean(x)`, `sum(x)`")],
    ),
    "a condition per row": (rows("if rowmean(g) > 0: u = g", "else: u = 2*g"), [("6:16 elem-condition", "where(condition")]),
    "a condition per matrix": (
        rows("if colmean(rowmean(g)) > 0: u = g", "else: u = 2*g"),
        [("6:16 elem-condition", "where(condition")],
    ),
    "rows of a condition": (rows("u = g*rowsum(g > 0)"), [("6:26 expected-number", "where")]),
    "an outer product of one": (rows("u = outer(rowmean(g))"), [("6:17 wrong-arity", "outer(r, c)")]),
    # --- initial values
    "rows in an initial value": (
        rows("m <- g + m", "u = m", state=("if ndim >= 2: m = rowmean(g)",)),
        [("5:27 not-readable-here", "`step`")],
    ),
    "a row that starts from the gradient": (
        rows("u = R*g", state=("if ndim >= 2: R = g per row",)),
        [("5:27 not-readable-here", "hypers and numbers only")],
    ),
    "a matrix that starts from θ": (
        rows("u = M*g", state=("if ndim >= 2: M = θ per matrix",)),
        [("5:27 not-readable-here", "hypers and numbers only")],
    ),
    "an input per row": (
        step("u = m*g", END, more=("entry see(h per row):", "    m <- m*h")),
        [("9:15 unsupported", "write `h per elem`")],
    ),
    "an unknown extent": (rows("u = g*R", state=("R = 1 per rows",)), [("5:19 unknown-extent", "did you mean `per row`?")]),
}

TOTALS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    # --- what is added up
    "a total of elements": (step("u = g/total(g)", END, state=()), [("5:21 wrong-extent", "total(sum(x))")]),
    "a total of rows": (rows("u = g/total(rowsum(g))"), [("6:25 wrong-extent", "total(sum(x))")]),
    "a total of a total": (step("u = g/total(total(sum(g)))", END, state=()), [("5:21 wrong-extent", "take it off")]),
    "a total of a number": (step("u = g/total(2)", END, state=()), [("5:21 wrong-extent", "take it off")]),
    "a total of a shared hyper": (
        step("u = g/total(lr)", END, state=(), hyper="lr = 1 shared"),
        [("5:21 wrong-extent", "off")],
    ),
    "a total of a condition": (step("u = g/total(any(g > 0))", END, state=()), [("5:21 expected-number", "where")]),
    "a norm of a norm over the model": (
        step("u = g/total_norm(norm(g))", END, state=()),
        [("5:15 wrong-extent", "take the reduction")],
    ),
    # --- where it stands
    "a total in an entry": (
        step("u = m*g", END, more=("entry see(h per elem):", "    m <- h*total(sum(h))")),
        [("10:16 not-readable-here", "put it into `step`")],
    ),
    "a total in an entry's function": (
        step("u = m*g", END, more=("define f(x) = x*total_norm(x)", "entry see(h per elem):", "    m <- f(h)")),
        [("11:14 not-readable-here", "put it into `step`")],
    ),
    "a total in an initial value": (
        step("u = m*g", END, state=("m = total(lr)",)),
        [("5:13 not-readable-here", "reductions stand in `step`")],
    ),
    "a total in a model state's initial value": (
        step("u = k*g", END, state=("k = total(lr) per model",)),
        [("5:13 not-readable-here", "reductions stand in `step`")],
    ),
    "a total in the condition of a state": (
        step("u = m*g", END, state=("if total(lr) > 0: m = 0",)),
        [("5:12 not-readable-here", "reductions stand in `step`")],
    ),
    "a total in require": (
        step("u = g", END, state=(), hyper='lr = 0.1; require total(lr) > 0, "x"'),
        [("3:27 not-readable-here", "reductions stand in `step`")],
    ),
    "a reduction in require, by a function": (
        step("u = g", END, state=(), hyper='lr = 0.1; require f(lr) > 0, "x"', more=("define f(x) = total(x)",)),
        [("7:19 not-readable-here", "reductions stand in `step`")],
    ),
    # --- what all parameters come to
    "under a count": (
        step("if t > 1: c = total_norm(g)", "else: c = 1", "u = g/c", END, state=()),
        [("5:23 narrow-total", CONDITION)],
    ),
    "under a shape": (rows("u = g/total(sum(g))"), [("6:19 narrow-total", CONDITION)]),
    "under a flag of groups": (
        step("if f: c = total(sum(g))", "else: c = 1", "u = g/c", END, state=(), hyper="lr = 0.1; f = true"),
        [("5:19 narrow-total", "declare the hypers of the condition `shared`")],
    ),
    "under the other side of it": (
        step("if f: c = 1", "else: c = total(sum(g))", "u = g/c", END, state=(), hyper="lr = 0.1; f = true"),
        [("6:19 narrow-total", "shared")],
    ),
    "deep under it": (
        step(
            "if f:",
            "    if k > 1: c = total(sum(g))",
            "    else: c = 1",
            "else: c = 1",
            "k <- k + 1",
            "u = g/c",
            END,
            state=("k = 0 per model",),
            hyper="lr = 0.1; f = true",
        ),
        [("8:27 narrow-total", "shared")],
    ),
    "under a measured condition": (
        step("if norm(g) > 1: c = total(sum(g))", "else: c = 1", "u = g/c", END, state=()),
        [("5:29 narrow-total", CONDITION)],
    ),
    "under every": (step("every 2: m <- g*total(sum(g))", "u = m", END), [("7:25 narrow-total", CONDITION)]),
    "under new": (step("if new(m): m <- g*total(sum(g))", "u = m", END), [("7:27 narrow-total", CONDITION)]),
    "in a static where": (
        step("u = g*where(f, total(sum(g)), 1)", END, state=(), hyper="lr = 0.1; f = true"),
        [("5:24 narrow-total", CONDITION)],
    ),
    "on the right of a static and": (
        step("u = where(f and total(sum(g)) > 1, g, 0)", END, state=(), hyper="lr = 0.1; f = true"),
        [("5:25 narrow-total", CONDITION)],
    ),
    "on the right of a static or": (
        step("u = where(w == none or total(sum(g)) > 1, g, 0)", END, state=(), hyper="lr = 0.1; w = none"),
        [("5:32 narrow-total", CONDITION)],
    ),
    "in a function called under a condition": (
        step("if t > 1: u = f(g) + f(2*g)", "else: u = g", END, state=(), more=("define f(x) = x*total(sum(x))",)),
        [("8:21 narrow-total", CONDITION)],
    ),
    "under a condition inside a function": (
        step(
            "u = f(g)",
            END,
            state=(),
            more=("define f(x):", "    if ndim >= 2: c = total(sum(x))", "    else: c = 1", "    return c*x"),
        ),
        [("8:27 narrow-total", CONDITION)],
    ),
    "brought there by a function, where no line can name it": (
        step("u = g*where(f, chosen(total(sum(g))), 1)", END, state=(), hyper="lr = 0.1; f = true shared", more=PICK),
        [("5:31 narrow-total", CONDITION)],
    ),
    "brought there by an and": (
        step(
            "u = where(f and both(total(sum(g))), g, 0)",
            END,
            state=(),
            hyper="lr = 0.1; f = true shared",
            more=("define both(x) = ndim >= 2 and x > 0",),
        ),
        [("5:30 narrow-total", CONDITION)],
    ),
    "after a stop": (
        step("if t == 1: stop", "u = g/total(sum(g))", END, state=()),
        [("6:15 narrow-total", "before the `stop`")],
    ),
    "after a stop deep in a shared branch": (
        step(
            "if f:",
            "    if norm(g) == 0: stop",
            "    u = g",
            "else: u = 2*g",
            "u = u/total_norm(u)",
            END,
            state=(),
            hyper="lr = 0.1; f = true shared",
        ),
        [("9:15 narrow-total", "before the `stop`")],
    ),
    # --- states of the model
    "a number of each parameter": (
        step("k <- k + t", "u = k*g", END, state=("k = 0 per model",)),
        [("7:18 wrong-extent", "add it up: `total(x)`")],
    ),
    "a host number of each parameter": (
        step("k <- k + P", "P <- 2*P", "u = k*g", END, state=("k = 0 per model; P = 1 per tensor",)),
        [("7:18 wrong-extent", "add it up: `total(x)`")],
    ),
    "elements in a number of the model": (
        step("k <- k + g", "u = k*g", END, state=("k = 0 per model",)),
        [("7:18 wrong-extent", "`total(sum(x))`")],
    ),
    "a hyper of groups in a number of the model": (
        step("k <- k + lr", "u = k*g", END, state=("k = 0 per model",)),
        [("7:18 wrong-extent", "declare its hypers `shared`")],
    ),
    "a choice of groups in a number of the model": (
        step("k <- where(f, k, 1)", "u = k*g", END, state=("k = 0 per model",), hyper="lr = 1; f = true"),
        [("7:20 wrong-extent", "declare its hypers `shared`")],
    ),
    "a number bound under a count": (
        step("if t > 1: c = 1", "else: c = 2", "k <- c", "u = k*g", END, state=("k = 0 per model",)),
        [("9:14 wrong-extent", "add it up")],
    ),
    "written under a count": (
        step("if t > 1: k <- k + 1", "u = k*g", END, state=("k = 0 per model",)),
        [("7:19 wrong-extent", "take it out of the condition")],
    ),
    "written under every": (
        step("every 2: k <- k + 1", "u = k*g", END, state=("k = 0 per model",)),
        [("7:18 wrong-extent", "take it out of the condition")],
    ),
    "written after a stop": (
        step("if t == 1: stop", "k <- k + 1", "u = k*g", END, state=("k = 0 per model",)),
        [("8:9 wrong-extent", "put it before the `stop`")],
    ),
    "written beside another state": (
        step("(m, k) <- (g, t)", "u = k*m", END, state=("m = 0; k = 0 per model",)),
        [("7:23 wrong-extent", "add it up")],
    ),
    "written in an entry": (
        step(
            "u = k*m*g", END, state=("m = 0; k = 0 per model",), more=("entry see(h per elem):", "    k <- k + 1", "    m <- h")
        ),
        [("10:9 entry-writes-model", "write it in `step`")],
    ),
    "starting from a hyper of groups": (
        step("k <- k + 1", "u = k*g", END, state=("k = lr per model",)),
        [("5:20 wrong-extent", "declared `shared`")],
    ),
    "starting from θ": (
        step("k <- k + 1", "u = k*g", END, state=("k = θ per model",)),
        [("5:13 not-readable-here", "hypers and numbers only")],
    ),
    "under a shape, as a state": (
        rows("k <- k + 1", "u = k*g", state=("if ndim >= 2: k = 0 per model",)),
        [("5:33 wrong-extent", "declared `shared`")],
    ),
    "under a flag of groups, as a state": (
        step("if f: u = k*g", "else: u = g", END, state=("if f: k = 0 per model",), hyper="lr = 0.1; f = true"),
        [("5:25 wrong-extent", "declared `shared`")],
    ),
    "new of the model's": (
        step("if new(k): u = g", "else: u = k*g", END, state=("k = 1 per model",)),
        [("7:16 new-of-state", "k <- k + 1")],
    ),
    "called like a hyper outside": (
        step("u = k*g", END, state=("k = 1 per model as lr",)),
        [("5:28 duplicate-key", "another name outside with `as`")],
    ),
    # --- the loss
    "the loss in an entry": (
        step("u = g*m", END, more=("entry see(h per elem):", "    m <- h*loss")),
        [("10:16 not-readable-here", "an entry runs between steps")],
    ),
    "the loss as an initial value": (
        step("u = k*g", END, state=("k = loss per model",)),
        [("5:13 not-readable-here", "it reads hypers and numbers only")],
    ),
    "the loss as an initial value per element": (
        step("u = m*g", END, state=("m = loss",)),
        [("5:13 not-readable-here", "initial values read hypers, θ and g")],
    ),
    "the loss in the condition of a state": (
        step("m <- g", "u = m", END, state=("if loss > 1: m = 0",)),
        [("5:12 not-readable-here", "it reads hypers, `ndim`, `numel` and `bf16` only")],
    ),
    "the loss in a function": (
        step("u = f(g)", END, state=(), more=("define f(x) = x*loss",)),
        [("7:21 impure-define", "give it to the function as an argument")],
    ),
    "a loss that is written": (
        step("loss <- 1", "u = loss*g", END, state=()),
        [("5:9 write-to-non-state", "give the value another name")],
    ),
    "a loss that is named": (step("loss = 1", "u = loss*g", END, state=()), [("5:9 reserved-name", "choose another name")]),
    "a state called loss": (
        step("u = g", END, state=("loss = 0 per model",)),
        [("5:9 reserved-name", "choose another name")],
    ),
    "a total of the loss": (step("u = g/total(loss)", END, state=()), [("5:21 wrong-extent", "take it off")]),
    "a reduction of the loss": (step("u = g/mean(loss)", END, state=()), [("5:20 wrong-extent", "take the reduction off")]),
    "the period of every": (step("every loss: m <- g", "u = m*g", END), [("7:15 every-period", "write a whole number")]),
    "rows under the loss": (
        step("if loss > 1: u = g/rowmean(g)", "else: u = g", END, state=()),
        [("5:28 needs-matrix", MATRIX)],
    ),
    "a state of the model under a count, written with the loss": (
        step("if t > 1: k <- loss", "u = k*g", END, state=("k = 0 per model",)),
        [("7:19 wrong-extent", "take it out of the condition")],
    ),
}


@pytest.mark.parametrize(("text", "expected"), [*ROWS.values(), *TOTALS.values()], ids=[*ROWS, *TOTALS])
def test_each_mistake_is_found_at_its_place_with_a_hint(text: str, expected: list[tuple[str, str]]) -> None:
    error = diagnose(text)
    assert found(error) == [place for place, _ in expected], error.render()
    for diagnostic, (_, hint) in zip(error.diagnostics, expected, strict=True):
        assert hint in (diagnostic.hint or ""), error.render()
