"""Plans of steps that need numbers of the whole model, or values per row, column and matrix."""

from __future__ import annotations

import numpy as np
import pytest

from optc.compiler.traffic import PRECISIONS, besides, default_variant, state_bytes, traffic
from tests.compiler.test_passes import compare, compiled

MODEL = ((3, 5), (4,), (), (2, 3, 4))
ROWS = ((3, 5), (4,), (2, 3, 4), ())

ADAMW = (
    "m <- ema(m, g, beta)",
    "v <- ema(v, g^2, 0.99)",
    "u = debias(m, beta)/(√debias(v, 0.99) + 1e-8)",
    "θ <- (1 - 0.01*lr)*θ - lr*u",
)
CLIP = "g = min(1, limit/(total_norm(g) + 1e-6))*g"
LIMIT = ("limit = 1.0 shared in (0, inf)",)
PRODIGY = (
    "η = d*lr",
    "r <- √b2*r + total(d/d0*η*⟨g, x0 - θ⟩)",
    "s <- √b2*s + d/d0*η*g",
    "m <- beta*m + (1 - beta)*d*g",
    "v <- b2*v + (1 - b2)*d²*g²",
    "D = total(norm1(s))",
    "if D == 0: stop",
    "d_hat = r/D",
    "if d == d0: d <- max(d, d_hat)",
    "d_max <- max(d_max, d_hat)",
    "d <- d_max",
    "θ <- θ - η*m/(√v + d*1e-8)",
)
PRODIGY_STATES = ("m = 0", "v = 0", "s = 0", "x0 = θ", "d = d0 per model", "d_max = d0 per model", "r = 0 per model")
D0 = ("d0 = 1e-3 shared in (0, inf)", "b2 = 0.99 shared in [0, 1)")
DADAPT = (
    "d_lr = d*lr*debias(1, 0.9)",
    "num <- √b2*num + (1 - √b2)*total(d_lr*⟨g/(√v + 1e-8), s⟩)",
    "v <- ema(v, g^2, b2)",
    "s <- √b2*s + (1 - √b2)*d_lr*g",
    "m <- ema(m, d_lr*g, beta)",
    "size = total(norm1(s))",
    "if size > 0: d <- max(d, num/((1 - √b2)*size))",
    "θ <- θ - m/(√v + 1e-8)",
)
DADAPT_STATES = ("m = 0", "v = 0", "s = 0", "d = d0 per model", "num = 0 per model")
ADAFACTOR = (
    "b = 1 - t^-0.8",
    "α = max(1e-3, rms(θ))*lr",
    "q = g² + 1e-30",
    "if ndim >= 2:",
    "    R <- ema(R, rowmean(q), b)",
    "    C <- ema(C, colmean(q), b)",
    "    v̂ = R/colmean(R)*C",
    "else:",
    "    V <- ema(V, q, b)",
    "    v̂ = V",
    "u = g/√v̂",
    "u = u/max(1, rms(u)/1.0)",
    "θ <- θ - α*u + 0*beta",
)
FACTORED = "if ndim >= 2: R = 0 per row; C = 0 per col"
CAME = (
    "q = g² + 1e-30",
    "if ndim >= 2:",
    "    R <- ema(R, rowmean(q), 0.99)",
    "    C <- ema(C, colmean(q), 0.99)",
    "    v̂ = R/colmean(R)*C",
    "else:",
    "    V <- ema(V, q, 0.99)",
    "    v̂ = V",
    "u = g/√v̂",
    "u = u/max(1, rms(u))",
    "m <- ema(m, u, beta)",
    "if ndim >= 2:",
    "    w = (u - m)² + 1e-16",
    "    S <- ema(S, rowmean(w), 0.999)",
    "    T <- ema(T, colmean(w), 0.999)",
    "    u = m/√(S/colmean(S)*T)",
    "else: u = m",
    "θ <- θ - lr*u",
)
CAME_STATES = ("m = 0", "if ndim >= 2: R = 0 per row; C = 0 per col; S = 0 per row; T = 0 per col", "else: V = 0")

KNOWN: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], int, list[tuple[bool, bool]], int]] = {
    # lines, states, shared hypers; passes over memory, (model program?, kernel?) of every phase, bytes moved in float32
    "AdamW, clipped by the norm of the model": (
        (CLIP, *ADAMW), ("m = 0", "v = 0"), LIMIT, 2, [(False, True), (True, True)], 32,
    ),
    "Prodigy": (PRODIGY, PRODIGY_STATES, D0, 2, [(True, True), (True, True)], 48),
    "D-Adaptation measures and moves in one pass, its number is for the next step": (
        DADAPT, DADAPT_STATES, D0, 1, [(True, True), (True, False)], 36,
    ),
    "Adafactor": (ADAFACTOR, (FACTORED, "else: V = 0"), (), 3, [(False, True)], 24),
    "CAME": (CAME, CAME_STATES, (), 4, [(False, True)], 32),
    "LAMB after a clip of the model": (
        (CLIP, *ADAMW[:-1], "u = u + 0.01*θ", "θ <- θ - lr*‖θ‖/(‖u‖ + 1e-6)*u"),
        ("m = 0", "v = 0"), LIMIT, 3, [(False, True), (True, True)], 48,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN, ids=str)
def test_known_optimizers_take_few_passes(name: str) -> None:
    lines, states, shared, passes, phases, moved = KNOWN[name]
    program, plan = compiled(*lines, states=states, shared=shared)
    procedure = plan.procedures[0]
    cost = traffic(procedure, default_variant(plan), PRECISIONS[0])
    assert [(p.model is not None, p.kernel is not None) for p in procedure.phases] == phases
    assert (cost.passes, cost.total) == (passes, moved)
    compare(program, plan, {}, seed=1, shapes=MODEL)


def test_state_in_rows_and_columns_is_told_in_words() -> None:
    _, plan = compiled(*CAME, states=CAME_STATES)
    variant = default_variant(plan)
    assert (state_bytes(plan, variant, PRECISIONS[0]), besides(plan, variant)) == (4, "rows and columns")
    vectors = dict.fromkeys(variant, False)
    assert (state_bytes(plan, vectors, PRECISIONS[0]), besides(plan, vectors)) == (8, "")


# --- the model ----------------------------------------------------------------------------------------------------------------

MODELS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # lines; states
    "two totals in a row": (
        ("n = total_norm(g)", "k = total(sum(where(|g| > 0.1*n, 1, 0)))", "m <- ema(m, g/(1 + k), beta)", "θ <- θ - lr*m/n"),
        ("m = 0",),
    ),
    "a total after a reduction that depends on a total": (
        ("n = total_norm(g)", "m <- ema(m, g/n, beta)", "p = mean(m*n)", "k = total(p²)", "θ <- θ - lr*m*tanh(k + p)"),
        ("m = 0",),
    ),
    "a stop on a number of the model": (
        ("n = total_norm(g)", "w <- ema(w, n, 0.9)", "if n > w*2: stop", "m <- ema(m, g, beta)", "θ <- θ - lr*m"),
        ("m = 0", "w = 1 per model"),
    ),
    "states of the model only": (
        ("k <- k + 1", "w <- w*0.5 + 1/k", "θ <- θ - lr*(w + k)*beta*g"), ("k = 0 per model", "w = 0 per model"),
    ),
    "a state of the model that nothing but itself reads": (
        ("w <- ema(w, total_norm(g), 0.5)", "θ <- θ - lr*beta*g"), ("w = 0 per model",),
    ),
    "totals of numbers that are states": (
        ("p <- ema(p, mean(g), beta)", "k = total(p)", "p <- p + 0.1*k", "θ <- θ - lr*(p + total(p²))*g"),
        ("p = 1 per tensor",),
    ),
    "totals of what the host knows": (
        ("w <- w + 1", "θ <- θ - lr*g/(total(numel) + total(t + lr))*beta"), ("w = 0 per model",),
    ),
    "a kernel with lines on statistics only": (
        ("p <- p + 1", "k = total(p*lr)", "θ <- θ - lr*beta*g*k"), ("p = 1 per tensor",),
    ),
    "a total is gathered after θ has been written": (
        ("m <- ema(m, g, beta)", "u = m", "θ <- θ - lr*u", "w <- total(norm1(θ)) + 0.5*w"), ("m = 0", "w = 0 per model"),
    ),
    "numbers of the model in a branch that not all parameters take": (
        ("n = total_norm(g)", "k = n", "if t == 1:", "    k = n + w", "    m <- n*g", "else: m <- ema(m, g*w, beta)",
         "w <- 0.5*w + 0.1*n", "θ <- θ - lr*m*tanh(k)"),
        ("m = 0", "w = 1 per model"),
    ),
    "a condition on a number of the model around lines per element and per tensor": (
        ("n = total_norm(g)", "if n > w:", "    m <- 0.5*m", "    p <- mean(m)", "else:", "    m <- m + g/n", "    p <- p*beta",
         "w <- n", "θ <- θ - lr*m*(1 + p)"),
        ("m = 0", "p = 1 per tensor", "w = 3 per model"),
    ),
    "a name with values of the model, of the tensor and of elements by turns": (
        ("x = total_norm(g)", "w <- w + x", "x = x*rms(g)", "p <- tanh(x)", "x = x*g", "m <- ema(m, x, beta)",
         "x = total(p)", "θ <- θ - lr*m*x*w"),
        ("m = 0", "p = 0 per tensor", "w = 0 per model"),
    ),
    "an old number of the model next to its new one": (
        ("old = w", "w <- 0.5*w + total_norm(g)", "θ <- θ - lr*g*(w - old)*beta"), ("w = 1 per model",),
    ),
    "a number of the model as a factor of a hyper that differs between groups": (
        ("η = lr*w", "w <- w + total(η*sum(g*θ))", "θ <- θ - η*beta*g"), ("w = 1 per model",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MODELS, ids=str)
def test_numbers_of_the_model(case: str) -> None:
    lines, states = MODELS[case]
    if "beta" not in " ".join(lines):
        lines = (*lines[:-1], lines[-1] + " + 0*beta")
    program, plan = compiled(*lines, states=states)
    for seed in range(3):
        compare(program, plan, {}, seed, shapes=MODEL)


@pytest.mark.parametrize("on", [True, False])
def test_totals_under_shared_flags(on: bool) -> None:
    program, plan = compiled(
        "if clip: g = g*min(1, limit/total_norm(g))",
        "if limit > 0.5:",
        "    w <- w + total(mean(g))",
        "    if clip: m <- m + w*g",
        "else: m <- ema(m, g, beta)",
        "θ <- θ - lr*m + 0*w",
        states=("m = 0", "w = 1 per model"),
        shared=("clip = true shared", *LIMIT),
    )
    for limit in (0.4, 0.6):
        compare(program, plan, {"clip": on, "limit": limit}, seed=4, shapes=MODEL)


def test_model_states_are_written_in_the_last_phase_only() -> None:
    _, plan = compiled(*PRODIGY, states=PRODIGY_STATES, shared=D0)
    carried = [phase.model.carried if phase.model is not None else () for phase in plan.procedures[0].phases]
    assert carried[0] == ()
    assert set(carried[1]) == {"d", "d_max", "r"}


def test_a_parameter_without_a_gradient_gives_nothing_to_totals() -> None:
    program, plan = compiled(CLIP, *ADAMW, shared=LIMIT)
    compare(program, plan, {"limit": 0.1}, seed=5, shapes=((3, 5), (2,)))  # each sits out one of the steps


# --- rows and columns ---------------------------------------------------------------------------------------------------------

STATES_OF_ROWS = ("m = 0", "if ndim >= 2: R = 0 per row; C = 1 per col; M = 1 per matrix", "else: V = 0.5")
ROW_CASES: dict[str, tuple[str, ...]] = {
    "a row and a number per tensor under one name": (
        "if ndim >= 2: n = rowmean(g)", "else: n = mean(g)", "k = 2*n", "m <- m + k*g",
    ),
    "such a name is reduced again, as what it is": (
        "n = mean(g)", "if ndim >= 2: n = rowmean(g)", "k = 2*n",
        "if ndim >= 2:", "    M <- tanh(colsum(k))", "    R <- ema(R, k, beta)", "    s = sum(n)", "else: s = mean(g)",
        "m <- m + s*k*g",
    ),
    "a static choice between rows and elements": (
        "q = where(ndim >= 2, C*mean(g), tanh(g))", "m <- ema(m, q + where(ndim >= 2, R, V), beta)",
    ),
    "columns of rows, rows of columns": (
        "if ndim >= 2:", "    M <- colmean(rowmean(g²))", "    R <- rowmax(|g|)*rowmean(C)",
        "    C <- C + colmin(g)*colmean(R)", "    m <- m + g*M/(1 + R²)/(1 + C²)",
    ),
    "means over rows, of what the mean over rows has changed": (
        "if ndim >= 2:", "    x = g - rowmean(g)", "    x = x - colmean(x)", "    R <- rowmean(x²)",
        "    m <- ema(m, x/(1 + R), beta)",
    ),
    "an old row next to its new one": (
        "if ndim >= 2:", "    old = R", "    R <- ema(R, rowmean(g), beta)", "    m <- m + (R - old)*g", "else: V <- V + g",
    ),
    "rows under a condition that the tensor tells": (
        "if rms(g) > 0.9:", "    if ndim >= 2: R <- R + rowsum(g)", "    else: V <- 0.5*V", "if ndim >= 2: m <- m + R*C*M",
    ),
    "norms of rows and columns": (
        "if ndim >= 2: m <- m + g*norm(rowmean(g))/(1 + norm1(C)) + ⟨R, R⟩ + mean(M)", "else: m <- g",
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", ["", "shape: matrix"])
@pytest.mark.parametrize("case", ROW_CASES, ids=str)
def test_rows_and_columns(case: str, shape: str) -> None:
    rest = ("if ndim >= 2: rest = R*C*M", "else: rest = V", "θ <- θ - lr*(m + rest) + 0*beta")
    program, plan = compiled(*ROW_CASES[case], *rest, states=STATES_OF_ROWS, shape=shape)
    for seed in range(2):
        compare(program, plan, {}, seed, shapes=ROWS)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 3), (1, 1), (0,)], ids=str)
def test_matrices_without_many_entries(shape: tuple[int, ...]) -> None:
    with np.errstate(all="ignore"):
        for lines, states in ((ADAFACTOR, (FACTORED, "else: V = 0")), (CAME, CAME_STATES)):
            program, plan = compiled(*lines, states=states)
            compare(program, plan, {}, seed=3, shapes=(shape,))


def test_a_total_of_means_of_rows() -> None:
    program, plan = compiled(
        "if ndim >= 2:",
        "    R <- ema(R, rowmean(g²), beta)",
        "    n = mean(R)",
        "    x = g/√(R + 1e-8)",
        "else:",
        "    n = mean(g²)",
        "    x = g/√(n + 1e-8)",
        "w <- 0.5*w + total(n)",
        "θ <- θ - lr*x/(1 + w + total(norm1(x)))",
        states=("if ndim >= 2: R = 0 per row", "w = 0 per model"),
    )
    compare(program, plan, {}, seed=6, shapes=ROWS)
