"""Right specs: what the checked program says, exactly."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from optc.dsl.check import check, points
from optc.dsl.functions import BUILTINS
from optc.dsl.kinds import SCALARS, Extent, Sort, Type
from optc.dsl.parse import parse
from optc.dsl.program import (
    BINARY,
    DRAW,
    GRADIENT,
    PICK,
    REDUCTIONS,
    TERNARY,
    THETA,
    TOTAL,
    TRUE,
    UNARY,
    Apply,
    Bounds,
    Branch,
    Constant,
    Expression,
    HyperKind,
    Let,
    Read,
    Role,
    Statement,
    Store,
    Symbol,
)
from optc.dsl.semantics import OPERATIONS, evaluate_static, reads
from optc.dsl.source import Source
from tests.dsl.programs import body, program, spec, text, value_of
from tests.dsl.texts import ADAMW, SGD
from tests.oracle import WRITTEN_OUT

SPECS = WRITTEN_OUT


def test_adamw() -> None:
    checked = program(ADAMW)
    assert (checked.name, checked.text, checked.cites) == ("AdamW", "Adam with decoupled weight decay.", ("arXiv:1711.05101",))
    lr, betas, eps, decay = checked.hypers
    assert (lr.key, lr.names, lr.defaults, lr.kind, lr.text) == ("lr", ("lr",), (1e-3,), HyperKind.REAL, "step size")
    assert lr.bounds == Bounds(0.0, math.inf, low_closed=True, high_closed=False)
    assert (betas.key, betas.names, betas.defaults, betas.is_tuple) == ("betas", ("beta1", "beta2"), (0.9, 0.999), True)
    assert (eps.key, decay.key) == ("eps", "weight_decay")
    assert [(s.name, s.key, s.extent, s.host, s.exists) for s in checked.states] == [
        ("m", "exp_avg", Extent.ELEM, False, TRUE),
        ("v", "exp_avg_sq", Extent.ELEM, False, TRUE),
    ]
    assert body(checked) == [
        "m <- add(mul(beta1, m), mul(sub(1, beta1), g))",
        "v <- add(mul(beta2, v), mul(sub(1, beta2), pow(g, 2)))",
        "m_hat = div(m, sub(1, pow(beta1, t)))",
        "v_hat = div(v, sub(1, pow(beta2, t)))",
        "u = div(m_hat, add(sqrt(v_hat), eps))",
        "theta <- sub(mul(sub(1, mul(lr, weight_decay)), theta), mul(lr, u))",
    ]
    assert points(checked) == ()
    for statement, line in zip(checked.procedures[0].body, (14, 15, 16, 17, 18, 19), strict=True):
        assert checked.source.position(statement.span.start) == (line, 9)


def test_types_follow_extent_host_and_static() -> None:
    checked = program(ADAMW)
    update = value_of(checked, "theta")
    assert isinstance(update, Apply) and update.type == Type(Sort.REAL, Extent.ELEM)
    kept = update.arguments[0]
    assert isinstance(kept, Apply) and kept.arguments[0].type == Type(Sort.REAL, Extent.GROUP, host=True)
    debiased = value_of(checked, "m_hat")
    assert isinstance(debiased, Apply) and debiased.arguments[1].type == Type(Sort.REAL, Extent.TENSOR, host=True)


def test_sgd_has_static_branches_and_a_conditional_state() -> None:
    checked = program(SGD)
    (state,) = checked.states
    assert (state.name, state.key, text(state.exists)) == ("b", "momentum_buffer", "ne(momentum, 0)")
    assert state.exists.type == Type(Sort.BOOL, Extent.GROUP, host=True, static=True)
    gradient, direction, branch, _ = checked.procedures[0].body
    assert isinstance(gradient, Let) and gradient.target == GRADIENT
    assert text(direction) == "u = g"
    assert isinstance(branch, Branch) and branch.condition.type.static
    new, pick = branch.then
    assert isinstance(new, Branch) and new.condition.type == Type(Sort.BOOL, Extent.TENSOR, host=True)
    assert text(new) == "if new(b) {b <- g} else {b <- add(mul(momentum, b), mul(sub(1, dampening), g))}"
    assert text(pick) == "u = where(nesterov, add(g, mul(momentum, b)), b)"
    (require,) = checked.requires
    assert text(require.condition) == "or(not(nesterov), and(gt(momentum, 0), eq(dampening, 0)))"
    assert require.message == "Nesterov needs a momentum and no dampening"


def test_adopt_stops_in_its_first_step() -> None:
    checked = spec(
        "if t == 1: v <- g²; stop",
        "n = clamp(g/max(√v, lr), -(t - 1)^0.25, (t - 1)^0.25)",
        "v <- ema(v, g², 0.9)",
        "θ <- θ - lr*n",
        state=("v = 0",),
    )
    first, clamped, *_ = checked.procedures[0].body
    assert text(first) == "if eq(t, 1) {v <- pow(g, 2); stop} else {}"
    assert isinstance(first, Branch) and first.condition.type == Type(Sort.BOOL, Extent.TENSOR, host=True)
    assert text(clamped) == ("n = min(max(div(g, max(sqrt(v), lr)), neg(pow(sub(t, 1), 0.25))), pow(sub(t, 1), 0.25))")


def test_radam_branches_on_a_host_value_and_joins_what_the_branches_bind() -> None:
    checked = spec(
        "ρ∞ = 2/(1 - β2) - 1",
        "ρₜ = ρ∞ - 2*t*β2^t/(1 - β2^t)",
        "if ρₜ > 5: r = √(ρₜ/ρ∞); k = 2",
        "else: r = 1; k = 2",
        "θ <- θ - r*k*β2*g",
        hyper="β2 = 0.999",
    )
    assert body(checked)[2:] == [
        "if gt(rho_t, 5) {r = sqrt(div(rho_t, rho_inf))} else {r = 1}",
        "theta <- sub(theta, mul(mul(mul(r, 2), beta2), g))",
    ]
    (read,) = (e for e in _parts(value_of(checked, "theta")) if isinstance(e, Read) and e.symbol.name == "r")
    assert read.type == Type(Sort.REAL, Extent.TENSOR, host=True)


def _parts(expression: Expression) -> list[Expression]:
    if isinstance(expression, Apply):
        return [expression, *itertools.chain(*map(_parts, expression.arguments))]
    return [expression]


def test_nadam_carries_a_scalar_on_the_host() -> None:
    checked = spec("P <- P*(1 - 0.5*0.96^t)", "θ <- θ - lr/(1 - P)*g", state=("P = 1 per tensor as mu_product",))
    (state,) = checked.states
    assert (state.name, state.key, state.extent, state.host, state.initial) == (
        "P", "mu_product", Extent.TENSOR, True, Constant(1, Type(Sort.REAL, Extent.MODEL, host=True, static=True)),
    )  # fmt: skip
    assert value_of(checked, "P").type == Type(Sort.REAL, Extent.TENSOR, host=True)


def test_sophia_has_an_entry_with_an_input() -> None:
    checked = spec(
        "m <- ema(m, g, 0.9)",
        "θ <- θ - lr*sign(m)*min(|m|/(h + 1e-15), 1)",
        state=("m = 0", "h = 0 as hessian"),
        more=("entry update_hessian(g_s per elem) every 10:", "    h <- ema(h, g_s^2, 0.99)"),
    )
    step, entry = checked.procedures
    assert (step.name, step.inputs, step.every) == ("step", (), None)
    assert (entry.name, entry.inputs, entry.every) == ("update_hessian", ("g_s",), 10)
    assert body(checked, 1) == ["h <- add(mul(0.99, h), mul(sub(1, 0.99), pow(g_s, 2)))"]
    (store,) = entry.body
    assert isinstance(store, Store) and Symbol(Role.INPUT, "g_s") in reads(store.value)


def test_every_becomes_a_branch_on_t() -> None:
    checked = spec(
        "every k: a <- a + g",
        "every 2 from 3: a <- 2*a",
        "θ <- θ - lr*a",
        hyper="lr = 0.1; k = 5 in int [1, inf)",
        state=("a = 0",),
    )
    assert body(checked)[:2] == [
        "if eq(mod(t, k), 0) {a <- add(a, g)} else {}",
        "if and(ge(t, 3), eq(mod(sub(t, 3), 2), 0)) {a <- mul(2, a)} else {}",
    ]


def test_several_targets_read_old_values() -> None:
    checked = spec("(a, b) <- (b, a + g)", "(x, y) = (a, b)", "θ <- θ - lr*(x + y)", state=("a = 0; b = θ",))
    assert body(checked)[:8] == [
        "a_next = b", "b_next = add(a, g)", "a <- a_next", "b <- b_next",
        "x_next = a", "y_next = b", "x = x_next", "y = y_next",
    ]  # fmt: skip


def test_fresh_names_avoid_those_of_the_text() -> None:
    checked = spec("a_next = 2*g", "(a, b) <- (b, a_next)", "θ <- θ - lr*(a + b)", state=("a = 0; b = 0",))
    assert body(checked)[1:3] == ["a_next_2 = b", "b_next = a_next"]


def test_defines_are_written_out_and_share_their_values() -> None:
    checked = spec(
        "a = half_life(β)",
        "u = squared(g + a)",
        "θ <- θ - choose(true, u, g)",
        hyper="β = 0.9",
        more=(
            "define half_life(x) = ln(0.5)/ln(x) - 1",
            "define squared(x):",
            "    y = x*x",
            "    return y + y*half_life(0.5)",
            "define choose(c, a, b):",
            "    if c: r = a",
            "    else: r = b",
            "    return r",
        ),
    )
    assert body(checked) == [
        "a = sub(div(log(0.5), log(beta)), 1)",
        "squared_x = add(g, a)",
        "squared_y = mul(squared_x, squared_x)",
        "u = add(squared_y, mul(squared_y, sub(div(log(0.5), log(0.5)), 1)))",
        "theta <- sub(theta, where(True, u, g))",
    ]


def test_a_define_in_an_initial_value_needs_no_lines() -> None:
    checked = spec("θ <- θ - lr*z", state=("z = twice(θ + lr)",), more=("define twice(x) = x + x",))
    assert text(checked.states[0].initial) == "add(add(theta, lr), add(theta, lr))"


def test_static_values_stand_for_themselves() -> None:
    checked = spec(
        "matrix = ndim >= 2 and not plain",
        "n = numel",
        "big = n >= 4096",
        "if matrix and big: s = 1/n",
        "else: s = 2/n",
        "θ <- θ - lr*s*g",
        hyper="lr = 0.1; plain = false",
    )
    branch, update = checked.procedures[0].body
    assert isinstance(branch, Branch) and branch.condition.type.static
    assert text(branch) == "if and(and(ge(ndim, 2), not(plain)), ge(numel, 4096)) {s = div(1, numel)} else {s = div(2, numel)}"
    assert text(update) == "theta <- sub(theta, mul(mul(lr, s), g))"


def test_a_static_condition_chosen_in_static_branches_stays_static() -> None:
    checked = spec(
        "if a: c = b",
        "else: c = ndim > 1",
        "if c: k <- k + g",
        "θ <- θ - lr*where(c, k, g)",
        hyper="lr = 0.1; a = false; b = false",
        state=("if a and b or not a and ndim > 1: k = 0",),
    )
    branch = checked.procedures[0].body[1]
    assert isinstance(branch, Branch) and branch.condition.type.static
    for a, b, ndim in itertools.product((False, True), (False, True), (1, 2)):
        assert evaluate_static(branch.condition, {"a": a, "b": b}, ndim, 8) == (b if a else ndim > 1)


def test_after_a_static_stop_the_opposite_holds() -> None:
    checked = spec("if f: stop", "b <- g", "θ <- θ - b", hyper="f = false", state=("if not f: b = 0",))
    assert text(checked.states[0].exists) == "not(f)"


def test_hypers_of_every_kind() -> None:
    checked = spec(
        'c = where(form == "fast", 2, 3)',
        "θ <- where(flag, θ - lr*c*shared_one*k*g, where(w == none, 1, t/w)*θ*low)",
        hyper='lr = 1; k = 3 as steps in int [1, 10]; flag = true; form = "fast" in {"fast", "slow"}\n'
        "w = none as warmup in int [1, inf); shared_one = 2.5 shared in (0, inf); low = -1",
    )
    by_key = {h.key: h for h in checked.hypers}
    assert [by_key[k].kind for k in ("lr", "steps", "flag", "form", "warmup")] == [
        HyperKind.REAL, HyperKind.INTEGER, HyperKind.FLAG, HyperKind.CHOICE, HyperKind.INTEGER,
    ]  # fmt: skip
    assert [(type(h.defaults[0]), h.defaults[0]) for h in checked.hypers] == [
        (float, 1.0), (int, 3), (bool, True), (str, "fast"), (type(None), None), (float, 2.5), (float, -1.0),
    ]  # fmt: skip
    assert by_key["warmup"].optional and not by_key["steps"].optional
    assert by_key["steps"].bounds == Bounds(1, 10, low_closed=True, high_closed=True)
    assert by_key["form"].choices == ("fast", "slow")
    read = next(e for e in _parts(value_of(checked, "theta")) if isinstance(e, Read) and e.symbol.name == "shared_one")
    assert by_key["shared_one"].shared and read.type.extent is Extent.MODEL


def test_lines_after_the_write_to_theta_may_read_it() -> None:
    checked = spec("θ <- θ - lr*g", "slow <- lerp(slow, θ, 0.5)", state=("slow = θ",))
    assert [s.target for s in checked.procedures[0].body if isinstance(s, Store)] == [THETA, Symbol(Role.STATE, "slow")]
    assert points(checked) == ("m_hat", "v_hat", "u")


def test_every_primitive_has_a_meaning_and_every_function_a_description() -> None:
    assert set(OPERATIONS) == {*UNARY, *BINARY, *TERNARY, DRAW}
    for name, builtin in BUILTINS.items():
        kinds = [k for k in (builtin.operation, builtin.formula, builtin.refused) if k is not None]
        assert len(kinds) == (0 if name in ("where", "new", "uniform") else 1), name
        assert builtin.doc, name
        if builtin.operation is not None:
            assert (builtin.reduces is not None) == (builtin.operation in REDUCTIONS | {TOTAL}), name
            assert len(builtin.parameters) == (1 if builtin.operation in UNARY | REDUCTIONS | {TOTAL} else 2), name


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_shipped_specs_are_right_and_hold_their_invariants(path: Path) -> None:
    source = Source(path.name, path.read_text(encoding="utf-8"))
    checked = check(parse(source), source)
    for procedure in checked.procedures:
        _check_invariants(procedure.body)


def _expression(statement: Statement) -> Expression:
    match statement:
        case Let(value=value) | Store(value=value):
            return value
        case Branch(condition=condition):
            return condition
    return TRUE


def _check_invariants(statements: tuple[Statement, ...]) -> None:
    for statement in statements:
        if isinstance(statement, Branch):
            assert statement.condition.type.sort is Sort.BOOL and statement.condition.type.extent in SCALARS
            _check_invariants(statement.then)
            _check_invariants(statement.otherwise)
        for expression in _parts(_expression(statement)):
            if expression.type.static:
                assert {s.role for s in reads(expression)} <= {Role.HYPER, Role.SHAPE}
            if isinstance(expression, Apply):
                assert expression.operation in set(OPERATIONS) | REDUCTIONS | {TOTAL, PICK}
                host = expression.operation != TOTAL and all(a.type.host for a in expression.arguments)
                assert expression.type.host == host
