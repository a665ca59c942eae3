"""Every pair of shipped modifiers on AdamW, Lion and ADOPT either computes what its composed spec says, or is refused with a
sentence that says which cannot go together. Every run builds a sample of the pairs, `--full` all of them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import optc
from optc.cli.specs import spec_of
from optc.compiler.compose.library import shipped_modifiers
from optc.dsl.check import check
from optc.dsl.errors import Diagnostic, SpecError
from optc.dsl.program import Program
from optc.dsl.source import Source
from tests.compiler.test_compose_numbers import BEFORE, WRITTEN
from tests.modifiers.by_hand import BETAS, EPS, STAGES, TOGETHER, by_hand
from tests.modifiers.pairs import BASES, ILLEGAL, LEGAL, TERMS, UNFIT, Combination, combinations, sample
from tests.modifiers.together import oracle_together, run_together
from tests.oracle import run_program
from tests.problems import gradients, random_problem
from tests.reference_cases import Problem, Trace, difference

STEPS, LR, TOLERANCE = 3, 0.02, 1e-12
SHAPES: tuple[tuple[int, ...], ...] = ((4, 3), (6,), (2, 2, 3), ())
SAMPLE = sample()
STATES = {"mars", "grokfast", "ademamix", "lookahead", "weight_ema"}
"""Modifiers that keep something."""


def base_source(base: str) -> Source:
    return Source("<base>", f"optimizer Plain{base} = {BASES[base]}\n")


def composed(combination: Combination) -> Program:
    expanded = spec_of(base_source(combination.base), combination.terms)
    return check(expanded.spec, expanded.source)


@cache
def problems() -> tuple[Problem, ...]:
    """One problem per shape with 40 % zeros; the second starts with a gradient of nothing but zeros. lr changes every step."""
    rng = np.random.default_rng(5)
    found = []
    for number, shape in enumerate(SHAPES):
        grads = gradients(rng, shape, STEPS, 0.4 if shape else 0.0)
        if number == 1:
            grads = (np.zeros(shape), *grads[1:])
        found.append(Problem(np.asarray(rng.normal(size=shape)), grads, (1.0, 0.5, 1.5)))
    return tuple(found)


def test_the_table_has_every_shipped_modifier() -> None:
    assert set(TERMS) == set(shipped_modifiers())
    assert {*STAGES, *TOGETHER} == set(BEFORE)


def test_the_sample_has_every_modifier_on_every_base_that_takes_it() -> None:
    assert 60 <= len(SAMPLE) <= 100
    assert {(c.base, c.pair[0]) for c in SAMPLE} == {(c.base, c.pair[0]) for c in LEGAL}


@pytest.mark.parametrize(
    "combination", [pytest.param(c, id=c.label, marks=() if c in SAMPLE else pytest.mark.slow) for c in LEGAL]
)
def test_a_legal_pair_computes_what_its_composed_spec_says(combination: Combination) -> None:
    program = composed(combination)
    # nothing is orthogonal to a single number but rounding errors, which no two implementations share
    given = tuple(p for p in problems() if p.theta.shape or "orthograd" not in combination.pair)
    found = run_together(optc.compile(base_source(combination.base).text, combination.terms), program, {"lr": LR}, given)
    expected = oracle_together(program, {"lr": LR}, given)
    for ours, oracles in zip(found, expected, strict=True):
        assert set(ours.states) == set(oracles.states)
        assert difference(ours, oracles) <= TOLERANCE
    if not combination.ordered:
        turned = composed(Combination(combination.base, (combination.pair[1], combination.pair[0])))
        for other, oracles in zip(oracle_together(turned, {"lr": LR}, given), expected, strict=True):
            assert difference(other, oracles) == 0.0, "the stages settle the order"
    kept = {key.split("_slow")[0].split("_prev")[0].split("_avg")[0] for key in found[0].states}
    assert STATES & set(combination.pair) <= kept


@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 8))])
def test_a_pair_on_lion_and_adopt_is_what_the_papers_say(part: int) -> None:
    """The order of the effects, held against loops that know nothing of compositions; for AdamW, see the test of those."""
    given = [random_problem(shape, zeros=0.3, schedule=True, steps=7) for shape in ((4, 3), (2, 3, 2))]
    for combination in [c for c in LEGAL if c.base != "AdamW"][part::8]:
        base, (first, second) = combination.base, combination.pair
        expanded = spec_of(base_source(base), (WRITTEN[first], WRITTEN[second]))
        hypers = {"lr": LR, "betas": BETAS} | ({"eps": EPS} if base == "ADOPT" else {})
        found = oracle_together(check(expanded.spec, expanded.source), hypers, given)
        for ours, expected in zip(found, by_hand(base, combination.pair, given, LR), strict=True):
            assert difference(ours, expected) <= TOLERANCE, combination.label


@pytest.mark.parametrize("base", BASES)
def test_each_modifier_shows(base: str) -> None:
    """With the arguments of the pairs, what a modifier does can be told from the base alone; but for averages only kept."""
    problem = random_problem((4, 3), zeros=0.3, steps=6)
    source = base_source(base)
    plain = spec_of(source)
    bare = run_program(check(plain.spec, plain.source), {"lr": LR}, problem)
    for name in sorted(set(TERMS) - set(UNFIT[base]) - {"weight_ema"}):
        expanded = spec_of(source, [TERMS[name]])
        changed = run_program(check(expanded.spec, expanded.source), {"lr": LR}, problem)
        assert difference(Trace(changed.thetas, {}), Trace(bare.thetas, {})) > 1e-6, name


def test_what_acts_on_one_gradient_norm_sees_all_parameters() -> None:
    """Beside a long gradient a short one is clipped as well, by the same factor."""
    expanded = spec_of(Source("<base>", "optimizer Base = SGD\n"), ["clip_global_norm(0.3)"])
    program = check(expanded.spec, expanded.source)
    short = Problem(np.zeros(2), (np.array([0.03, 0.04]),), (1.0,))
    long = Problem(np.zeros(3), (np.array([3.0, 0.0, 4.0]),), (1.0,))
    (alone,) = oracle_together(program, {"lr": 1.0}, [short])
    beside, _ = oracle_together(program, {"lr": 1.0}, [short, long])
    assert np.array_equal(alone.thetas[0], -short.gradients[0])
    assert np.allclose(beside.thetas[0], -short.gradients[0] * 0.3 / (np.sqrt(25.0025) + 1e-6), rtol=1e-14)


def test_nesterov_on_adopt_hurries_the_first_steps_and_never_overshoots() -> None:
    """With one gradient all the time, a step is the sum of the weights of all gradients so far."""
    source = Source("<base>", "optimizer Base = ADOPT without weight_decay\n")
    problem = Problem(np.zeros(3), (np.array([1.0, -2.0, 0.5]),) * 40, (1.0,) * 40)
    sizes = []
    for modifiers in ([], ["nesterov"]):
        expanded = spec_of(source, modifiers)
        thetas = run_program(check(expanded.spec, expanded.source), {"lr": 1.0, "betas": (0.9, 0.99)}, problem).thetas
        sizes.append(-np.diff([np.zeros(3), *thetas], axis=0) * np.sign(problem.gradients[0]))
    plain, hurried = sizes
    assert np.all(hurried[1:] > plain[1:]) and np.all(hurried <= 1.0)
    assert np.all(hurried[1] > 6 * plain[1]) and np.all(hurried[-1] < 1.01 * plain[-1])


def refusals(combination: Combination) -> tuple[Diagnostic, ...]:
    with pytest.raises(SpecError) as caught:
        spec_of(base_source(combination.base), combination.terms)
    assert all(d.hint for d in caught.value.diagnostics), combination.label
    return tuple(caught.value.diagnostics)


@pytest.mark.parametrize("base", BASES)
def test_two_that_cannot_go_together_are_refused_by_both_names(base: str) -> None:
    for combination in (c for c in ILLEGAL if c.base == base and c.conflict is not None):
        found = refusals(combination)
        said = [d.message for d in found if d.code == combination.conflict]
        first, second = combination.pair
        wanted = 2 if first == second else 1
        assert any(m.count(f"`{first}`") >= wanted and f"`{second}`" in m for m in said), (combination.label, found)


UNFITTING = [c for c in ILLEGAL if c.conflict is None]


@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 8))])
def test_what_a_base_cannot_take_is_refused_in_every_pair(part: int) -> None:
    for combination in UNFITTING[part::8]:
        found = refusals(combination)
        for name, code in combination.unfit.items():
            said = [d.message for d in found if d.code == code]
            assert any(f"`{name}`" in m and f"`{combination.base}`" in m for m in said), (combination.label, found)
        assert all(any(f"`{name}`" in d.message for name in combination.unfit) for d in found), (combination.label, found)


def test_legal_and_illegal_are_all() -> None:
    assert len(LEGAL) + len(ILLEGAL) == len(list(combinations())) == 3 * len(TERMS) ** 2
