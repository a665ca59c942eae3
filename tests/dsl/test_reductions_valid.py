"""Right specs with rows, columns and numbers of the whole model: extents of every value, and what the program says."""

from __future__ import annotations

import itertools

import pytest

from optc.dsl.kinds import SCALARS, Extent, Sort, Type
from optc.dsl.program import Apply, Branch, Expression, Let, Program, Read, Role, Statement, Store
from tests.dsl.programs import body, lines, program, spec, text
from tests.dsl.sound import check_totals, check_types
from tests.dsl.texts import FACTORED, GLOBAL

ROW, COL, MATRIX, ELEM, TENSOR, MODEL = (
    Extent.ROW, Extent.COL, Extent.MATRIX, Extent.ELEM, Extent.TENSOR, Extent.MODEL,
)  # fmt: skip


def values(checked: Program) -> dict[str, Expression]:
    """The value that each name is given first, in `step` and its branches."""
    found: dict[str, Expression] = {}
    stack: list[Statement] = list(reversed(checked.procedures[0].body))
    while stack:
        statement = stack.pop()
        if isinstance(statement, (Let, Store)):
            found.setdefault(statement.target.name, statement.value)
        if isinstance(statement, Branch):
            stack += reversed((*statement.then, *statement.otherwise))
    return found


REDUCED = [
    ("rowsum(g)", "sum(g)", ROW),
    ("rowmean(g^2)", "mean(pow(g, 2))", ROW),
    ("rowmax(abs(g))", "largest(abs(g))", ROW),
    ("rowmin(θ)", "smallest(theta)", ROW),
    ("colsum(g)", "sum(g)", COL),
    ("colmean(g)", "mean(g)", COL),
    ("colmax(g)", "largest(g)", COL),
    ("colmin(g)", "smallest(g)", COL),
    ("colmean(rowmean(g))", "mean(mean(g))", MATRIX),
    ("rowmax(colsum(g))", "largest(sum(g))", MATRIX),
    ("sum(rowmax(g))", "sum(largest(g))", TENSOR),
    ("norm(colmean(g))", "sqrt(sum(pow(mean(g), 2)))", TENSOR),
    ("max(colmean(rowmean(g)))", "largest(mean(mean(g)))", TENSOR),
    ("count(rowmean(g) > 0)", "sum(where(gt(mean(g), 0), 1, 0))", TENSOR),
    ("outer(rowsum(g), colsum(g))", "mul(sum(g), sum(g))", ELEM),
    ("outer(colsum(g), rowsum(g))", "mul(sum(g), sum(g))", ELEM),
    ("rowsum(g) + colmean(rowsum(g))", "add(sum(g), mean(sum(g)))", ROW),
    ("colsum(g)*norm(g) - lr", "sub(mul(sum(g), sqrt(sum(pow(g, 2)))), lr)", COL),
    ("g/rowsum(g)", "div(g, sum(g))", ELEM),
    ("where(t > 1, rowsum(g), 0)", "where(gt(t, 1), sum(g), 0)", ROW),
    ("where(rowsum(g) > 0, colsum(g), 0)", "where(gt(sum(g), 0), sum(g), 0)", ELEM),
    ("rowsum(rowsum(g)*colsum(g))", "sum(mul(sum(g), sum(g)))", ROW),
]


@pytest.mark.parametrize(("written", "meaning", "extent"), REDUCED, ids=[row[0] for row in REDUCED])
def test_extents_of_rows_and_columns(written: str, meaning: str, extent: Extent) -> None:
    checked = spec("if ndim >= 2:", f"    x = {written}", "    u = x*g", "else: u = g", "θ <- θ - lr*u")
    value = values(checked)["x"]
    assert text(value) == meaning
    assert value.type == Type(Sort.REAL, extent)


def test_rows_stand_wherever_two_dimensions_are_implied() -> None:
    for condition in ("ndim >= 2", "ndim > 1", "ndim == 3", "not ndim < 2", "ndim >= 2 and f", "2 <= ndim"):
        spec(f"if {condition}: u = g/rowsum(g)", "else: u = g", "if f: u = 2*u", "θ <- θ - lr*u", hyper="lr = 0.1; f = true")
        spec(
            f"if {condition}: R <- R + rowsum(g); u = R",
            "else: u = g",
            "if f: u = 2*u",
            "θ <- θ - lr*u",
            hyper="lr = 0.1; f = true",
            state=(f"if {condition}: R = 0 per row",),
        )
    spec("u = where(ndim >= 2, rowsum(g), g)", "θ <- θ - lr*u")
    spec("flat = ndim < 2", "if flat: u = g", "else: u = g/colsum(g)", "θ <- θ - lr*u")
    spec("if ndim < 2: stop", "θ <- θ - lr*g/rowsum(g)")


def test_a_value_per_row_lives_on_after_the_if_and_spreads_over_any_tensor() -> None:
    checked = spec("if ndim >= 2: r = rowmean(g)", "else: r = mean(g)", "u = g/r", "θ <- θ - lr*u")
    read = values(checked)["u"]
    assert isinstance(read, Apply) and read.type.extent is ELEM
    assert read.arguments[1].type == Type(Sort.REAL, ROW)


def test_states_per_row_column_and_matrix() -> None:
    checked = spec(
        "if ndim >= 2:",
        "    R <- ema(R, rowmean(g^2), 0.9)",
        "    C <- ema(C, colmean(g^2), 0.9)",
        "    M <- colmean(R)",
        "    R <- R + M",
        "    u = g/(outer(R, C) + M)",
        "else: u = g",
        "θ <- θ - lr*u",
        state=("if ndim >= 2: R = lr per row as rows; C = 0 per col; M = 1 per matrix",),
    )
    assert [(s.key, s.extent, s.host, text(s.exists)) for s in checked.states] == [
        ("rows", ROW, False, "ge(ndim, 2)"), ("C", COL, False, "ge(ndim, 2)"), ("M", MATRIX, False, "ge(ndim, 2)"),
    ]  # fmt: skip
    branch = checked.procedures[0].body[0]
    assert isinstance(branch, Branch)
    assert lines(branch.then).split("; ")[2:] == ["M <- mean(R)", "R <- add(R, M)", "u = div(g, add(mul(R, C), M))"]
    assert values(checked)["u"].type.extent is ELEM


def test_shape_matrix_is_said_by_the_program() -> None:
    assert not spec("θ <- θ - lr*g").seen
    checked = program("optimizer X:\n    shape: matrix\n    step: θ <- θ - where(ndim >= 2, rowsum(g), g)\n")
    assert checked.seen == "matrix"
    shapes = [(), (4,), (2, 3), (2, 3, 4), (2, 0, 4), (2, 3, 4, 5)]
    assert [checked.view(s) for s in shapes] == [(), (4,), (2, 3), (2, 12), (2, 0), (2, 60)]
    assert all(spec("θ <- θ - lr*g").view(s) == s for s in shapes)


def test_shape_is_no_reserved_name() -> None:
    checked = spec("if shape: u = shape2*g", "else: u = g", "θ <- θ - u", hyper="shape = true; shape2 = 0.1")
    assert [h.key for h in checked.hypers] == ["shape", "shape2"]


def test_totals_are_numbers_of_the_model() -> None:
    checked = spec(
        "n = total_norm(g)",
        "c = total(numel)",
        "w = total(lr)",
        "q = total(where(ndim >= 2 and f, sum(g), 0))",
        "r = total(mean(g)/total(sum(g)))",
        "if n > 2*c: k <- k + w",
        "else: k <- r; stop",
        "p = total(sum(θ))",
        "θ <- θ - q*k*p*g",
        hyper="lr = 0.1; f = true",
        state=("k = 1 per model as count",),
    )
    assert body(checked)[:6] == [
        "n = sqrt(total(sum(pow(g, 2))))",
        "c = total(numel)",
        "w = total(lr)",
        "q = total(where(and(ge(ndim, 2), f), sum(g), 0))",
        "r = total(div(mean(g), total(sum(g))))",
        "if gt(n, mul(2, c)) {k <- add(k, w)} else {k <- r; stop}",
    ]
    found = values(checked)
    assert all(found[name].type == Type(Sort.REAL, MODEL) for name in ("n", "c", "w", "q", "r", "p", "k"))
    (state,) = checked.states
    assert (state.name, state.key, state.extent, state.host) == ("k", "count", MODEL, False)


def test_the_loss_is_a_number_of_the_model_that_the_host_does_not_know() -> None:
    checked = spec(
        "c = loss",
        "if loss > 2*k and total_norm(g) > 1: k <- loss",
        "w <- w + loss",
        "if loss > 9: stop",
        "s = total(sum(θ))",
        "θ <- θ - lr*w*s*where(loss < 1, c, g)",
        state=("k = 1 per model", "w = 0 per tensor"),
    )
    assert body(checked)[0] == "c = loss"
    assert values(checked)["c"].type == Type(Sort.REAL, MODEL)
    assert [state.host for state in checked.states] == [False, False]


def test_shared_hypers_make_conditions_of_the_model() -> None:
    checked = spec(
        "if f and T != none: c = total(sum(g))*T",
        "else: c = where(s > 0, total_norm(g), 1)",
        "k <- where(f or total(sum(θ)) > 1, k + s, 0)",
        "if k == 3:",
        "    if f: k <- 0",
        "θ <- θ - c*g",
        hyper="f = true shared; T = none shared; s = 2 shared",
        state=("k = s per model",),
    )
    assert values(checked)["k"].type.extent is MODEL
    branch = checked.procedures[0].body[0]
    assert isinstance(branch, Branch) and branch.condition.type == Type(Sort.BOOL, MODEL, host=True, static=True)


def test_a_state_of_the_model_may_exist_under_a_shared_flag_and_be_read_in_entries() -> None:
    checked = spec(
        "if f: k <- k + 1",
        "θ <- θ - m*where(f, k, 1)*g",
        hyper="f = true shared",
        state=("m = 0", "if f: k = 0 per model"),
        more=("entry see(h per elem):", "    if f: m <- h*k"),
    )
    assert checked.states[1].exists.type.extent is MODEL
    assert body(checked, 1) == ["if f {m <- mul(h, k)} else {}"]


def test_a_stop_in_one_shared_branch_is_not_before_the_other() -> None:
    checked = spec(
        "if f:",
        "    if t == 1: stop",
        "    c = 1",
        "else: c = total(sum(g))",
        "θ <- θ - c*g",
        hyper="f = true shared",
    )
    assert body(checked)[0] == "if f {if eq(t, 1) {stop} else {}; c = 1} else {c = total(sum(g))}"


def test_functions_reduce_and_take_totals_before_their_own_conditions() -> None:
    checked = spec(
        "c = chosen(total(sum(g)))",
        "d = named(g)",
        "θ <- θ - lr*where(both(total_norm(θ)), c, d)*scaled(g)",
        more=(
            "define scaled(x) = x/norm(x)",
            "define chosen(x):",
            "    if ndim >= 2: r = x",
            "    else: r = 0",
            "    return r",
            "define both(x) = ndim >= 2 and x > 0",
            "define named(x):",
            "    s = total_norm(x)",
            "    if numel > 4: r = s",
            "    else: r = 1",
            "    return r",
        ),
    )
    assert body(checked) == [
        "chosen_x = total(sum(g))",
        "c = where(ge(ndim, 2), chosen_x, 0)",
        "named_s = sqrt(total(sum(pow(g, 2))))",
        "d = where(gt(numel, 4), named_s, 1)",
        "both_x = sqrt(total(sum(pow(theta, 2))))",
        "theta <- sub(theta, mul(mul(lr, where(and(ge(ndim, 2), gt(both_x, 0)), c, d)), div(g, sqrt(sum(pow(g, 2))))))",
    ]


@pytest.mark.parametrize("whole", [FACTORED, GLOBAL], ids=["FACTORED", "GLOBAL"])
def test_whole_optimizers_are_sound(whole: str) -> None:
    checked = program(whole)
    check_types(checked)
    check_totals(checked)


def test_functions_reduce_in_entries_too() -> None:
    checked = spec(
        "θ <- θ - lr*m",
        state=("m = 0",),
        more=(
            "define scaled(x):",
            "    if ndim >= 2: r = x/rowsum(x)",
            "    else: r = x/sum(x)",
            "    return r",
            "entry see(h per elem):",
            "    m <- scaled(h)",
        ),
    )
    assert body(checked, 1) == ["m <- where(ge(ndim, 2), div(h, sum(h)), div(h, sum(h)))"]


def test_extents_join_and_shape_themselves() -> None:
    assert {a.join(b) for a, b in itertools.permutations((ROW, COL))} == {ELEM}
    for inner, outer in itertools.combinations((MODEL, Extent.GROUP, TENSOR, MATRIX, ROW, ELEM), 2):
        assert inner.join(outer) is outer.join(inner) is outer
        assert inner.within(outer) and not outer.within(inner)
    for extent in SCALARS:
        assert extent.shape((2, 3)) == () and extent.varies(2) == (False, False)
    assert [e.shape((5, 2, 3)) for e in (MATRIX, ROW, COL, ELEM)] == [(5, 1, 1), (5, 2, 1), (5, 1, 3), (5, 2, 3)]
    assert [e.shape((2, 3)) for e in (MATRIX, ROW, COL)] == [(1, 1), (2, 1), (1, 3)]
    assert [e.shape((0, 3)) for e in (MATRIX, ROW, COL)] == [(1, 1), (0, 1), (1, 3)]


def test_reading_a_state_of_the_model_has_its_extent() -> None:
    checked = spec("k <- k + 1", "u = k*g", "θ <- θ - lr*u", state=("k = 0 per model",))
    (read,) = [a for a in _parts(values(checked)["u"]) if isinstance(a, Read) and a.symbol.role is Role.STATE]
    assert read.type == Type(Sort.REAL, MODEL)


def _parts(expression: Expression) -> list[Expression]:
    inner = expression.arguments if isinstance(expression, Apply) else ()
    return [expression, *itertools.chain(*map(_parts, inner))]
