"""Composed optimizers compute what loops written by hand, libraries and specs written out do, alone and in combination."""

from __future__ import annotations

import math
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pytorch_optimizer as po
import torch

import optc
from optc.compiler.compose.expand import expand, with_modifiers
from optc.compiler.compose.library import named, shipped
from optc.dsl.check import check
from optc.dsl.program import Program
from optc.dsl.source import Source
from tests.matrix.runners import run_compiled
from tests.oracle import run_oracle, run_program
from tests.problems import PROBLEMS, random_problem
from tests.reference_cases import TOLERANCE, Array, Problem, Trace, difference, run_library
from tests.reference_loops_sampling import normals

BETAS, EPS = (0.8, 0.95), 1e-3
NAMES = ("5x7 zeros and schedule", "11 zeros", "scalar zeros and schedule")
SHORT = random_problem((4, 3), zeros=0.3, schedule=True, seed=3, steps=12)


@cache
def composed(composition: str) -> Program:
    expanded = expand(Source("<test>", f"optimizer Composed = {composition}\n"))
    return check(expanded.spec, expanded.source)


def run(composition: str, problem: Problem, **hypers: Any) -> Trace:
    return run_program(composed(composition), {"lr": 0.01, **hypers}, problem)


# --- a loop with every modifier, written from the papers ----------------------------------------------------------------------


def norm(x: Array) -> float:
    return math.sqrt(float(np.sum(x * x)))


def rms(x: Array) -> float:
    return math.sqrt(float(np.mean(x * x)))


def rows(x: Array) -> Array:
    """As a matrix of a row for each index of the first dimension."""
    return x.reshape(len(x), -1)


def before(name: str, g: Array, theta: Array, kept: dict[str, Array]) -> Array:
    """The gradient after a stage that changes it."""
    match name:
        case "clip_value":
            return np.clip(g, -0.5, 0.5)
        case "clip_norm":
            return g * min(1.0, 0.7 / (norm(g) + 1e-6))
        case "clip_global_norm" | "clip_group_norm":  # of one tensor that is the model
            return g * min(1.0, 0.7 / (norm(g) + 1e-6))
        case "agc" if g.ndim < 2:
            return np.asarray(g * min(1.0, 0.3 * max(norm(theta), 0.5) / max(norm(g), 1e-30)))
        case "agc":
            bounds = [0.3 * max(norm(row), 0.5) for row in rows(theta)]
            factors = [min(1.0, most / max(norm(row), 1e-30)) for row, most in zip(rows(g), bounds, strict=True)]
            return np.reshape(rows(g) * np.array(factors)[:, None], g.shape)
        case "centralize" if g.ndim >= 2:
            return np.reshape(rows(g) - np.mean(rows(g), axis=1, keepdims=True), g.shape)
        case "orthograd":
            p = g - np.sum(theta * g) / (np.sum(theta * theta) + 1e-30) * theta
            return np.asarray(p * (norm(g) / (norm(p) + 1e-30)))
        case "mars":
            last = kept.get("mars", g)
            kept["mars"] = g
            c = g + 0.3 * BETAS[0] / (1 - BETAS[0]) * (g - last)
            return np.asarray(c / max(1.0, norm(c)))
        case "grokfast":
            kept["grokfast"] = 0.9 * kept.get("grokfast", g) + 0.1 * g
            return g + 1.5 * kept["grokfast"]
        case "gradient_noise":
            kept["steps"] = kept.get("steps", np.array(0)) + 1
            t = int(kept["steps"])
            return g + math.sqrt(0.05 / (1 + t) ** 0.5) * normals(0, t, g.shape, int(kept.get("number", 0)))
        case "l2":
            return g + 0.2 * theta
    return g


def scale_of_kept(keep: npt.NDArray[np.bool_], names: set[str]) -> float:
    """What a cautious direction is multiplied by."""
    if "none" in names:
        return 1.0
    return 1 / max(float(np.mean(keep)), 0.6) if "share" in names else keep.size / (float(np.sum(keep)) + 1)


def direction(names: set[str], g: Array, m: Array, v: Array, t: int, kept: dict[str, Array]) -> Array:
    """Adam's direction, with what acts on its numerator and its division."""
    if "amsgrad" in names:
        kept["v_max"] = v = np.maximum(kept.get("v_max", v), v)
    m_hat, v_hat = m / (1 - BETAS[0] ** t), v / (1 - BETAS[1] ** t)
    if "undebiased" in names:
        m_hat, v_hat = m, v
    if "accumulated" in names:
        m_hat = m + 0.4 * g
    if "nesterov" in names:
        m_hat = BETAS[0] * m_hat + (1 - BETAS[0]) * g / (1 - BETAS[0] ** t)
    if "ademamix" in names:
        kept["slow"] = 0.98 * kept.get("slow", np.zeros_like(g)) + 0.02 * g
        m_hat = m_hat + 2.0 * kept["slow"]
    if "cautious" in names:
        keep = m_hat * g > 0
        m_hat = np.where(keep, m_hat, 0.0) * scale_of_kept(keep, names)
    if "grams" in names:
        m_hat = np.sign(g) * np.abs(m_hat)
    if "atan2" in names:
        return np.asarray(4 / math.pi * np.arctan2(m_hat, np.sqrt(v_hat)))
    return np.asarray(m_hat / (np.sqrt(v_hat) + EPS))


def after(names: set[str], theta: Array, u: Array, lr: float) -> Array:
    """The parameter after trust, decay, the step and what acts on its result."""
    if "trust_ratio" in names:
        w, n = norm(theta), norm(u)
        u = u * (w / n if w > 0 and n > 0 else 1.0)
    if "clip_rms" in names:
        u = u / max(1.0, rms(u) / 0.5)
    if "decoupled" in names:
        theta = theta - lr * 0.3 * theta
    if "independent" in names:
        theta = theta - 0.03 * theta
    if "cautious_decay" in names:
        theta = theta - np.where(u * theta >= 0, lr * 0.3, 0.0) * theta
    return theta - lr * u


def constrained(name: str, theta: Array, lr: float) -> Array:
    """The parameter after the step and one modifier that changes it there."""
    match name:
        case "proximal":
            return theta / (1 + lr * 0.3)
        case "max_norm" if theta.ndim >= 2:
            lengths = np.linalg.norm(rows(theta), axis=1, keepdims=True)
            return np.where(lengths > 0.9, rows(theta) * (0.9 / lengths), rows(theta)).reshape(theta.shape)
        case "balanced" if theta.ndim >= 2:
            centred = rows(theta) - np.mean(rows(theta), axis=1, keepdims=True)
            return np.asarray(centred / (np.linalg.norm(centred, axis=1, keepdims=True) + 1e-3)).reshape(theta.shape)
    return theta


def by_hand(names: set[str], problem: Problem, lr: float = 0.01) -> Trace:
    """Adam with modifiers of those names."""
    theta, m, v = problem.theta.copy(), np.zeros_like(problem.theta), np.zeros_like(problem.theta)
    kept: dict[str, Array] = {}
    thetas, slow, average = [], theta, theta
    for t, rate, g, _ in problem.steps(lr):
        for name in BEFORE:
            if name in names:
                g = before(name, g, theta, kept)
        m = BETAS[0] * m + (1 if "accumulated" in names else 1 - BETAS[0]) * g
        v = BETAS[1] * v + (1 - BETAS[1]) * g * g
        theta = after(names, theta, direction(names, g, m, v, t, kept), rate)
        for name in CONSTRAINING & names:
            theta = constrained(name, theta, rate)
        if "lookahead" in names and t % 3 == 0:
            theta = slow = slow + 0.4 * (theta - slow)
        average = 0.9 * average + 0.1 * theta
        thetas.append(theta.copy())
    return Trace(
        tuple(thetas), {"exp_avg": m, "exp_avg_sq": v} | ({"weight_ema_avg": average} if "weight_ema" in names else {})
    )


BEFORE = tuple(
    "clip_value clip_norm clip_global_norm clip_group_norm agc orthograd mars grokfast centralize gradient_noise l2".split()
)
"""What changes the gradient, in the order of the stages."""

CONSTRAINING = {"proximal", "max_norm", "balanced"}
OF_ROWS = {"centralize", "max_norm", "balanced"}
"""What leaves vectors and single numbers as they are."""

WRITTEN = {
    "clip_value": "clip_value(0.5)",
    "clip_norm": "clip_norm(max_norm = 0.7)",
    "clip_global_norm": "clip_global_norm(0.7)",
    "clip_group_norm": "clip_group_norm(0.7)",
    "agc": "agc(share = 0.3, least = 0.5)",
    "orthograd": "orthograd",
    "mars": "mars(0.3)",
    "grokfast": "grokfast(alpha = 0.9, grokfast_lamb = 1.5)",
    "centralize": "centralize",
    "gradient_noise": "gradient_noise(eta = 0.05, gamma = 0.5)",
    "l2": "l2(0.2)",
    "accumulated": "accumulated(0.4)",
    "nesterov": "nesterov",
    "ademamix": "ademamix(alpha = 2.0, beta3 = 0.98)",
    "cautious": "cautious",
    "grams": "grams",
    "atan2": "atan2",
    "trust_ratio": "trust_ratio",
    "clip_rms": "clip_rms(0.5)",
    "decoupled": "decoupled(0.3)",
    "independent": "independent(0.03)",
    "cautious_decay": "cautious_decay(weight_decay = 0.3)",
    "proximal": "proximal(0.3)",
    "max_norm": "max_norm(0.9)",
    "balanced": "balanced(1e-3)",
    "lookahead": "lookahead(k = 3, alpha = 0.4)",
    "weight_ema": "weight_ema(0.9)",
}
"""Each modifier as the loop has it."""

ALONE = (
    {"clip_value", "clip_norm", "clip_global_norm", "clip_group_norm", "agc"},
    {"cautious", "grams"}, {"trust_ratio", "clip_rms"},
    {"l2", "decoupled", "independent", "cautious_decay", "proximal"},  # one name outside
    {"accumulated", "nesterov", "ademamix"},  # the loop has one numerator
    {"orthograd", "mars", "grokfast", "centralize", "gradient_noise"},  # of one stage: left to right
    CONSTRAINING, {"lookahead", "weight_ema"},
)  # fmt: skip
"""Of each of these, one at most is in a combination."""


def adam_with(*names: str) -> str:
    eps = "" if "atan2" in names else f", eps = {EPS}"
    return f"AdamW(betas = ({BETAS[0]}, {BETAS[1]}){eps}) without weight_decay, amsgrad + " + " + ".join(
        WRITTEN.get(name, name) for name in names
    )


@pytest.mark.parametrize("problem", NAMES)
@pytest.mark.parametrize("name", WRITTEN)
def test_a_modifier_of_adam_is_what_its_paper_says(name: str, problem: str) -> None:
    found = run(adam_with(name), PROBLEMS[problem])
    expected = by_hand({name}, PROBLEMS[problem])
    assert difference(found, expected) <= TOLERANCE
    idle = name == "weight_ema" or (name in OF_ROWS and PROBLEMS[problem].theta.ndim < 2)
    assert (difference(found, by_hand(set(), PROBLEMS[problem])) > 1e-6) is not idle, "it does something"


def combinations(count: int) -> list[tuple[str, ...]]:
    rng = np.random.default_rng(7)
    found: list[tuple[str, ...]] = []
    while len(found) < count:
        chosen = tuple(str(name) for name in rng.permutation(list(WRITTEN))[: rng.integers(2, 7)])
        if all(len(group & set(chosen)) <= 1 for group in ALONE):
            found.append(chosen)
    return found


@pytest.mark.parametrize("names", combinations(40), ids="-".join)
def test_modifiers_together_act_in_the_order_of_their_stages(names: tuple[str, ...]) -> None:
    assert difference(run(adam_with(*names), SHORT), by_hand(set(names), SHORT)) <= TOLERANCE
    assert difference(run(adam_with(*reversed(names)), SHORT), run(adam_with(*names), SHORT)) == 0.0


def test_within_a_stage_modifiers_act_from_left_to_right() -> None:
    first, second = run("AdamW + orthograd + grokfast", SHORT), run("AdamW + grokfast + orthograd", SHORT)
    assert difference(first, second) > 1e-6


# --- against libraries --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", NAMES)
def test_cautious_lion_is_the_librarys(problem: str) -> None:
    arguments = {"betas": (0.9, 0.8), "weight_decay": 0.3, "cautious": True}
    expected = run_library(po.Lion, arguments, {"lr": 0.01}, PROBLEMS[problem])
    found = run("Lion + cautious", PROBLEMS[problem], betas=(0.9, 0.8), weight_decay=0.3)
    assert difference(found, expected) <= TOLERANCE


@pytest.mark.parametrize("problem", NAMES[:2])  # nothing is orthogonal to a scalar but rounding errors
def test_orthograd_is_the_librarys(problem: str) -> None:
    def wrapped(parameters: list[torch.nn.Parameter], **arguments: Any) -> torch.optim.Optimizer:
        inner = torch.optim.SGD(parameters, momentum=0.9, **arguments)
        outer: torch.optim.Optimizer = po.OrthoGrad(inner)
        return outer

    expected = run_library(wrapped, {}, {"lr": 0.01}, PROBLEMS[problem])
    found = run("SGD(momentum = 0.9) + orthograd", PROBLEMS[problem])
    assert difference(Trace(found.thetas, {}), Trace(expected.thetas, {})) <= 1e-12


@pytest.mark.parametrize("problem", NAMES)
def test_lookahead_is_the_librarys(problem: str) -> None:
    def wrapped(parameters: list[torch.nn.Parameter], **arguments: Any) -> torch.optim.Optimizer:
        inner = torch.optim.SGD(parameters, momentum=0.9, foreach=False, **arguments)
        outer: torch.optim.Optimizer = po.Lookahead(inner, k=4, alpha=0.3, pullback_momentum="none")
        return outer

    constant = PROBLEMS[problem].__class__(PROBLEMS[problem].theta, PROBLEMS[problem].gradients, (1.0,) * 26)
    expected = run_library(wrapped, {}, {"lr": 0.01}, constant)
    found = run("SGD(momentum = 0.9) + lookahead(k = 4, alpha = 0.3)", constant)
    assert difference(Trace(found.thetas, {}), Trace(expected.thetas, {})) <= TOLERANCE


# --- against specs that are written out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("composition", "spec", "hypers", "others"),
    [
        ("AdamW(eps = 1e-6) + grams", "adam/grams", {"eps": 1e-6, "weight_decay": 0.3}, {}),
        ("AdamW(eps = 1e-8) + ademamix", "adam/ademamix", {"weight_decay": 0.3}, {}),
        ("AdamW + accumulated(0.5)", "adam/simplified_ademamix", {"betas": BETAS, "weight_decay": 0.3}, {"alpha": 0.5}),
        ("Adam without weight_decay", "adam/adam", {"amsgrad": True}, {}),
        (
            "RAdam(betas = (0.8, 0.9)) without weight_decay + decoupled(0.3)",
            "adam/radam",
            {},
            {"betas": (0.8, 0.9), "weight_decay": 0.3, "decoupled_weight_decay": True},
        ),
        ("RMSprop without momentum, centered, weight_decay + l2(0.3)", "adaptive/rmsprop", {}, {"weight_decay": 0.3}),
    ],
)
def test_a_composition_is_the_spec_that_is_written_out(
    composition: str, spec: str, hypers: dict[str, Any], others: dict[str, Any]
) -> None:
    found = run(composition, SHORT, **hypers)
    expected = run_oracle(spec, {"lr": 0.01, **hypers, **others}, SHORT)
    assert difference(Trace(found.thetas, {}), Trace(expected.thetas, {})) <= TOLERANCE


def test_cautious_normalizers() -> None:
    """One step from zero averages: what is kept is g's own direction, whose size the normalizer sets."""
    g = np.array([1.0, -2.0, 0.0, 0.0])
    problem = Problem(np.zeros(4), (g,), (1.0,))
    moved = {
        kind: run("Lion + cautious", problem, lr=1.0, cautious_normalize=kind).thetas[0] for kind in ("paper", "share", "none")
    }
    assert np.allclose(moved["paper"], -np.sign(g) * 4 / 3, rtol=1e-15)
    assert np.allclose(moved["share"], -np.sign(g) * 4 / 2, rtol=1e-15)
    assert np.array_equal(moved["none"], -np.sign(g))
    floor = run("Lion + cautious", problem, lr=1.0, cautious_normalize="share", cautious_floor=1.0).thetas[0]
    assert np.array_equal(floor, -np.sign(g))


@pytest.mark.parametrize("problem", NAMES)
@pytest.mark.parametrize("base", ["Lion", "ADOPT", "SGD(momentum = 0.9)", "RMSprop(momentum = 0.5)"])
def test_what_acts_on_the_parameter_is_the_same_for_every_base(base: str, problem: str) -> None:
    """Decay before the step and division after it, in terms of the base's own steps without decay."""
    data = PROBLEMS[problem]
    plain = partial(run, f"{base} without weight_decay")
    for term, factor in (("decoupled(0.3)", lambda lr: 1 - 0.3 * lr), ("independent(0.03)", lambda lr: 1 - 0.03)):
        theta = data.theta
        expected = []
        steps = [b - a for a, b in zip((data.theta, *plain(data).thetas), plain(data).thetas, strict=False)]
        for (t, lr, _, _), step in zip(data.steps(0.01), steps, strict=True):
            shrinks = not (base == "ADOPT" and t == 1)  # its first step stops before θ is written
            theta = (factor(lr) if shrinks else 1.0) * theta + step
            expected.append(theta)
        found = run(f"{base} without weight_decay + {term}", data)
        assert difference(Trace(found.thetas, {}), Trace(tuple(expected), {})) <= TOLERANCE


def test_a_base_that_starts_at_the_gradient_starts_at_the_changed_one() -> None:
    """Adan's last gradient starts as the first one that its lines see, so that the first change is 0."""
    tripled = Problem(SHORT.theta, tuple(3 * g for g in SHORT.gradients), SHORT.lr_factors)
    text = "modifier tripled:\n    project g:\n        g = 3*g\noptimizer Composed = Adan + tripled\n"
    expanded = expand(Source("<test>", text))
    found = run_program(check(expanded.spec, expanded.source), {"lr": 0.01}, SHORT)
    assert difference(found, run_oracle("adam/adan", {"lr": 0.01}, tripled)) == 0.0


# --- compiled -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize(
    ("base", "modifiers"),
    [
        ("adamw", ("cautious", "atan2", "orthograd", "lookahead(k = 3)")),
        ("lion", ('cautious(normalize = "share")', "clip_norm(0.5)", "weight_ema(0.9)")),
        ("adopt", ("mars(0.3)", "clip_rms(0.5)", "grokfast")),
        ("sgd", ("trust_ratio", "clip_value(0.5)", "lookahead(k = 4)")),
        ("adan", ("grams", "grokfast", "nesterov")),
    ],
)
def test_the_generated_class_computes_what_the_oracle_does(base: str, modifiers: tuple[str, ...], backend: str) -> None:
    expanded = with_modifiers(named(shipped()[base]), modifiers)
    program = check(expanded.spec, expanded.source)
    found = run_compiled(optc.compile(base, modifiers), program, backend, torch.float64, {"lr": 0.01}, SHORT)
    assert difference(found, run_program(program, {"lr": 0.01}, SHORT)) <= TOLERANCE
