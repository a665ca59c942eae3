"""Gradients that hold ±inf and NaN: the elements beside them move as ever, and those elements get what the equations say.

The meaning is IEEE arithmetic of the lines as written. Where a library computes another form of a line (`EXPLAINED`), the
comparison is with the library after that one operation has been put into the form of the equation, in every element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import repeat
from typing import Any

import numpy as np
import pytest
import torch

from optc.compiler.ir import expressions, walk
from optc.dsl.program import REDUCTIONS, Apply
from tests.matrix.runners import optimizer_class, rounded_problem, run_compiled
from tests.oracle import program_of, run_oracle, run_program
from tests.problems import random_problem
from tests.references import CASES, Array, Case, Problem, Trace, difference, rest

INF, NAN = np.inf, np.nan
STEPS = 9
"""RAdam's rectification begins in the sixth step at the latest, averaging of the ASGD case with t0 = 8 in the ninth."""
PLAIN = random_problem((45,), steps=STEPS, seed=7)
"""More elements than a vector register and its multiples hold, so that the native kernels' last elements are among them."""
VALUES: dict[int, dict[int, float]] = {
    **{at: {step: value} for at, (value, step) in enumerate([(v, s) for v in (INF, -INF, NAN) for s in (0, 1, 4)])},
    9: {0: INF, 1: -INF},
    10: {2: -INF, 3: -INF},
    11: dict.fromkeys(range(STEPS), INF),
    12: {3: NAN, 4: INF},
    13: {8: INF},
    14: {8: NAN},
}
"""Which gradients are not finite: by affected element (every third one of θ), step and value."""


def spoiled(problem: Problem) -> Problem:
    """The problem with `VALUES` in its gradients, and in the inputs of entries."""

    def put(array: Array, step: int) -> Array:
        array = array.copy()
        for at, values in VALUES.items():
            array[3 * at + 1] = values.get(step, array[3 * at + 1])
        return array

    gradients = tuple(put(g, step) for step, g in enumerate(problem.gradients))
    calls = tuple(replace(c, inputs={n: put(x, c.after) for n, x in c.inputs.items()}) for c in problem.calls)
    return replace(problem, gradients=gradients, calls=calls)


SPOILED = spoiled(PLAIN)


def with_entries(entries: dict[tuple[int, int], tuple[int, float]]) -> Problem:
    """A problem of a matrix with these gradients, by row and column: step and value."""
    plain = random_problem((6, 5), steps=5, seed=7)
    for at, (step, value) in entries.items():
        plain.gradients[step][at] = value
    return plain


MATRICES = {
    "NaN": with_entries({(1, 2): (1, NAN)}),
    "infinite": with_entries({(4, 1): (1, INF)}),
    "infinite first": with_entries({(1, 2): (2, NAN), (4, 1): (0, -INF)}),
}


def has_been_nan(problem: Problem) -> Array:
    """By step and element: the gradient is NaN, or was."""
    found: Array = np.maximum.accumulate([np.isnan(g) for g in problem.gradients])
    return found


# --- forms in which references compute a line ---------------------------------------------------------------------------------

LERP = "m + (1 - beta)*(g - m) for beta*m + (1 - beta)*g: inf - inf where the average is infinite"
FROM_THE_NEARER = "torch.lerp(a, b, w) is b - (1 - w)*(b - a) where w is at least 1/2: NaN for an infinite b"
SIGN = "torch.sign(NaN) is 0: a step without the sign of a gradient that has none"
LAST_SIGN = (
    f"{SIGN}; so in the last line only, as Rprop's other sign asks whether g*g_prev is above or below 0, and NaN is neither"
)
NAN_TO_NUM = (
    "torch.nan_to_num for 0/0 alone (a neuron without a gradient, the deviation of one number): hides any other NaN too"
)
NO_BUFFER = "momentum*b with a momentum of 0, where the equation keeps no buffer: 0*inf for an infinite gradient of the past"
EXPLAINED: dict[str, tuple[str, ...]] = {
    "adam/adam": (LERP,),
    "adam/adamw": (LERP,),
    "adam/nadam": (LERP,),
    "adam/radam": (LERP,),
    "adam/adamax": (LERP,),
    "adam/adabelief": (LERP,),
    "adam/adan": (LERP,),
    "adam/adopt": (LERP,),
    "adam/ademamix": (LERP,),
    "adaptive/rmsprop": (LERP,),
    **dict.fromkeys(("adam/grams", "adam/exadam", "adam/grokfast_adamw", "adam/ano", "adam/dual_adam", "adam/adamg"), (LERP,)),
    **dict.fromkeys(("adam/spam", "adaptive/bcos", "second_order/sophia_h"), (LERP,)),
    **dict.fromkeys(("adam/stable_adamw", "adam/adanorm"), (LERP,)),
    "momentum/sgdsai": (LERP, NAN_TO_NUM),
    **dict.fromkeys(("adam/aida", "adam/adamw_sn", "adam/adashift", "adam/adagc"), (LERP,)),
    "adam/yogi": (LERP,),
    "adam/adabound": (LERP,),
    "adam/qhadam": (LERP,),
    "adam/padam": (LERP,),
    "adam/diffgrad": (LERP,),
    "adam/adamod": (LERP,),
    "adaptive/msvag": (LERP,),
    "momentum/qhm": (LERP,),
    "momentum/pnm": (LERP,),
    "second_order/sophia": (LERP,),
    "sign/tiger": (LERP, SIGN),
    "sign/lion": (LERP, SIGN),
    "sign/signum": (LERP, SIGN),
    "sign/signsgd": (SIGN,),
    "sign/rprop": (LAST_SIGN,),
    **dict.fromkeys(("factored/adafactor", "factored/torch_adafactor", "factored/racs"), (LERP,)),
    **dict.fromkeys(("factored/adamp", "factored/ranger21_core", "adam/adams", "adam/avagrad"), (LERP,)),
    **dict.fromkeys(("parameter_free/dadapt_sgd", "trust/novograd", "adam/stable_spam"), (LERP,)),
    "factored/nero": (NAN_TO_NUM,),
    "factored/sgdp": (NO_BUFFER,),
    "parameter_free/dadapt_lion": (LERP, SIGN),
    "parameter_free/lion_prodigy": (SIGN,),
    **dict.fromkeys(("adam/mars", "adam/sara", "adaptive/emonavi"), (LERP,)),
    **dict.fromkeys(("sign/emolynx", "factored/emofact"), (LERP, SIGN)),
    "trust/scion": (FROM_THE_NEARER, SIGN),
}
"""Why the reference of a spec differs where gradients are not finite: each is an operation of the library, not of the spec."""
IN_LOOPS = {"adam/adopt", "second_order/sophia"}
"""Specs with a float64 loop of `reference_loops` in the form `LERP`. NumPy's operators cannot be put into another form; such a
loop is compared wherever it has no NaN."""

OF_AVERAGES = {"momentum/schedulefree_sgd", "adam/schedulefree_radam"}
"""Specs whose θ lies between two other iterates, both infinite after an infinite gradient: z + β*(x - z) is NaN, the library's
change of θ and (1 - β)*z + β*x in the loops are not. They are compared wherever neither has NaN."""


def _lerp(self: torch.Tensor, end: torch.Tensor, weight: float) -> torch.Tensor:
    return self * (1 - weight) + end * weight


def _lerp_from_the_first(self: torch.Tensor, end: torch.Tensor, weight: float) -> torch.Tensor:
    return self + (end - self) * weight


def _sign(self: torch.Tensor) -> torch.Tensor:
    return torch.where(self.isnan(), self, _torch_sign(self))


def _mul(self: torch.Tensor, other: torch.Tensor | float) -> torch.Tensor:
    return torch.zeros_like(self) if isinstance(other, float) and other == 0 else _torch_mul(self, other)


def _as_it_is(self: torch.Tensor, *, nan: float = 0.0) -> torch.Tensor:
    assert nan == 0
    return self


_torch_sign = torch.sign
_torch_mul = torch.mul
FORMS: dict[str, dict[str, Callable[..., torch.Tensor]]] = {
    LERP: {"lerp": _lerp},
    FROM_THE_NEARER: {"lerp": _lerp_from_the_first},
    SIGN: {"sign": _sign, "sgn": _sign},
    LAST_SIGN: {},
    NAN_TO_NUM: {"nan_to_num": _as_it_is},
    NO_BUFFER: {"mul": _mul},
}


def as_written(case: Case, forms: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, problem: Problem = SPOILED) -> Trace:
    """What the reference does, with the operations of `forms` in the form of the equation."""
    with monkeypatch.context() as patch, np.errstate(all="ignore"):
        for form in forms:
            for name, function in FORMS[form].items():
                patch.setattr(torch, name, function)
                patch.setattr(torch.Tensor, name, function)
                patch.setattr(torch.Tensor, f"{name}_", in_place(function))
                patch.setattr(torch, f"_foreach_{name}", for_each(function), raising=False)
                patch.setattr(torch, f"_foreach_{name}_", for_each(in_place(function)), raising=False)
        trace = case.run(problem)
    if LAST_SIGN in forms:
        thetas = zip(has_been_nan(problem), trace.thetas, strict=True)
        trace = Trace(tuple(np.where(nan, NAN, a) for nan, a in thetas), trace.states)
    return trace


def in_place(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def write(self: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
        return self.copy_(function(self, *arguments, **keywords))

    return write


def for_each(function: Callable[..., torch.Tensor]) -> Callable[..., list[torch.Tensor]]:
    def several(first: Sequence[torch.Tensor], *others: Sequence[torch.Tensor] | float, **keywords: Any) -> list[torch.Tensor]:
        lists = [repeat(x, len(first)) if isinstance(x, int | float) else x for x in others]
        return [function(*tensors, **keywords) for tensors in zip(first, *lists, strict=True)]

    return several


@cache
def oracle(number: int) -> Trace:
    return run_oracle(CASES[number].spec, CASES[number].hypers, SPOILED)


def known(found: Trace, expected: Trace) -> Trace:
    """`found`, but NaN wherever `expected` is."""
    thetas = tuple(np.where(np.isnan(b), NAN, a) for a, b in zip(found.thetas, expected.thetas, strict=True))
    states = {k: np.where(np.isnan(expected.states[k]), NAN, a) for k, a in found.states.items() if k in expected.states}
    return Trace(thetas, states)


# --- tests --------------------------------------------------------------------------------------------------------------------


def reduces(number: int) -> bool:
    """Whether a case's spec reduces over the tensor, so that one gradient that is not finite reaches all elements."""
    body = program_of(CASES[number].spec).procedures[0].body
    return any(isinstance(e, Apply) and e.operation in REDUCTIONS for value in expressions(body) for e in walk(value))


every_case = pytest.mark.parametrize("number", range(len(CASES)), ids=[case.label for case in CASES])
reducing_case = pytest.mark.parametrize("number", [n for n in range(len(CASES)) if reduces(n)], ids=lambda n: CASES[n].label)


@every_case
def test_oracle_gives_what_the_reference_gives(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case, found = CASES[number], oracle(number)
    theirs = as_written(case, EXPLAINED.get(case.spec, ()), monkeypatch)
    is_library = isinstance(case.reference, partial)
    if case.spec in IN_LOOPS and not is_library:
        found = known(found, theirs)
    if case.spec in OF_AVERAGES:
        found, theirs = known(found, theirs), known(theirs, found)
    assert difference(found, theirs) <= case.tolerance


@pytest.mark.parametrize("problem", MATRICES.values(), ids=MATRICES)
@reducing_case
def test_matrices_give_what_the_reference_gives(number: int, problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into rows, columns and the whole tensor it spreads as the equations say, and no further; NaN is not hidden."""
    case = CASES[number]
    found = run_oracle(case.spec, case.hypers, problem)
    assert difference(found, as_written(case, EXPLAINED.get(case.spec, ()), monkeypatch, problem)) <= case.tolerance
    assert np.isnan(found.thetas[-1][has_been_nan(problem)[-1]]).all()


@pytest.mark.parametrize("spec", EXPLAINED)
def test_every_explained_difference_is_one(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of its forms a spec does not agree in some case, so the table holds no more than it must."""
    numbers = [n for n, case in enumerate(CASES) if case.spec == spec]
    for left_out in EXPLAINED[spec]:
        others = tuple(form for form in EXPLAINED[spec] if form != left_out)
        assert any(
            difference(run_oracle(spec, CASES[n].hypers, problem), as_written(CASES[n], others, monkeypatch, problem)) == INF
            for n in numbers
            for problem in (SPOILED, *MATRICES.values())
        ), left_out


@every_case
def test_nan_is_never_hidden(number: int) -> None:
    """Where a gradient was NaN, θ is NaN at the end: no line turns it into a number."""
    been = has_been_nan(SPOILED)[-1]
    assert been.sum() == 5
    if CASES[number].spec == "adam/sara":  # which does not read the gradients of weights that it keeps
        been &= np.abs(SPOILED.theta) < CASES[number].hypers["threshold"]
        assert been.any()
    assert np.isnan(oracle(number).thetas[-1][been]).all()


@pytest.mark.parametrize("number", [n for n in range(len(CASES)) if not reduces(n)], ids=lambda n: CASES[n].label)
def test_oracle_keeps_to_the_element(number: int) -> None:
    clean = run_oracle(CASES[number].spec, CASES[number].hypers, PLAIN)
    assert_same_beside(oracle(number), clean)


@pytest.mark.parametrize(("backend", "dtype"), [("torch", torch.float32), ("native", torch.float32), ("native", torch.float64)])
@pytest.mark.parametrize("number", [pytest.param(n, id=c.label, marks=rest(c.spec)) for n, c in enumerate(CASES)])
def test_backends_give_what_the_oracle_gives(number: int, backend: str, dtype: torch.dtype) -> None:
    case, program = CASES[number], program_of(CASES[number].spec)

    def run(problem: Problem) -> Trace:
        return run_compiled(optimizer_class(case.spec), program, backend, dtype, case.hypers, rounded_problem(problem, dtype))

    found = run(SPOILED)
    expected = oracle(number) if dtype is torch.float64 else run_program(program, case.hypers, rounded_problem(SPOILED, dtype))
    assert difference(found, expected) <= (2e-12 if dtype is torch.float64 else 2e-5)
    if not reduces(number):
        assert_same_beside(found, run(PLAIN))


def assert_same_beside(found: Trace, clean: Trace) -> None:
    """Elements whose gradients were finite throughout are exactly what they are without the others."""
    beside = np.ones(len(PLAIN.theta), dtype=bool)
    beside[[3 * at + 1 for at in VALUES]] = False
    for a, b in zip(found.thetas, clean.thetas, strict=True):
        assert np.array_equal(a[beside], b[beside])
    assert set(found.states) == set(clean.states)
    for key, a in found.states.items():
        b = clean.states[key]
        assert np.array_equal(a[beside], b[beside]) if np.ndim(a) else a == b, key
