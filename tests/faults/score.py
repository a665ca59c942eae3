"""How many seeded faults the table of references catches: `python -m tests.faults.score`.

Every shipped spec is changed in one place in every way that `tests.faults.kinds` knows. A mutant is caught if, in some case of
the table, its θ or a state leaves the reference by more than the case's tolerance. One that is not caught is compared with the
spec on random hypers and gradients: if it differs there it was missed, else it is the same maths and does not count. Prints a
table by kind and exits with 1 where less than 95 % are caught.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from optc.dsl.errors import OptcError
from optc.dsl.program import Bounds, Hyper, HyperKind
from tests.faults.kinds import KINDS, Mutant, mutants
from tests.oracle import program_of, run_program
from tests.problems import PROBLEMS, expected, random_problem
from tests.references import CASES, SPECS, Problem, Trace, difference

NEEDED = 0.95
MOST_OF_A_KIND = 3
"""Mutants of one kind made from one spec."""

PROBES = 24
PROBE_STEPS = 12
REAL_DIFFERENCE = 1e-8
"""A mutant that moves θ and the states by less, on every probe, is taken for the same maths."""

CATCHING = ("5x7 dense", "11 zeros", "3x4x2 schedule")
"""Problems of the table that mutants are run on."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant: `same` maths, it `raises` (and so cannot pass unseen), `caught`, or `missed`."""

    mutant: Mutant
    outcome: str


def all_mutants(most: int = MOST_OF_A_KIND) -> Iterator[Mutant]:
    """The mutants of every shipped spec."""
    for spec in SPECS:
        yield from mutants(spec, program_of(spec), most)


def judge(mutant: Mutant, cases: Iterable[int] = range(len(CASES))) -> Verdict:
    """Whether a mutant is really different, and whether the table (or the cases given by number) catches it."""
    try:
        if _caught(mutant, cases):
            return Verdict(mutant, "caught")
        return Verdict(mutant, "missed" if _different(mutant) else "same")
    except (KeyError, OptcError):  # it reads what does not exist
        return Verdict(mutant, "raises")


def _caught(mutant: Mutant, cases: Iterable[int]) -> bool:
    for number in cases:
        case = CASES[number]
        if case.spec == mutant.spec:
            for name in CATCHING:
                found = run_program(mutant.program, case.hypers, PROBLEMS[name])
                if difference(found, expected(number, name)) > case.tolerance:
                    return True
    return False


def _different(mutant: Mutant) -> bool:
    for hypers, problem, trace in _probes(mutant.spec):
        if difference(run_program(mutant.program, hypers, problem), trace) > REAL_DIFFERENCE:
            return True
    return False


Probe: TypeAlias = tuple[dict[str, Any], Problem, Trace]


@cache
def _probes(spec: str) -> tuple[Probe, ...]:
    """Random hypers and problems, and what the spec itself does on them."""
    rng = np.random.default_rng(sum(map(ord, spec)))
    found: list[Probe] = []
    while len(found) < PROBES:
        hypers = {h.key: _sample(h, rng) for h in program_of(spec).hypers}
        problem = random_problem((6,), zeros=0.2, schedule=True, seed=1000 + len(found), steps=PROBE_STEPS)
        try:
            trace = run_program(program_of(spec), hypers, problem)
        except OptcError:  # a `require` does not hold
            continue
        if all(np.isfinite(theta).all() for theta in trace.thetas):
            found.append((hypers, problem, trace))
    return tuple(found)


def _sample(hyper: Hyper, rng: np.random.Generator) -> Any:
    """A random value that a hyper may have."""
    match hyper.kind:
        case HyperKind.FLAG:
            return bool(rng.random() < 0.5)
        case HyperKind.CHOICE:
            return str(rng.choice(hyper.choices))
        case HyperKind.INTEGER:
            return None if hyper.optional and rng.random() < 0.5 else int(rng.integers(3, 20))
    values = tuple(None if default is None else _number(default, hyper.bounds, rng) for default in hyper.defaults)
    return values if hyper.is_tuple else values[0]


def _number(default: Any, bounds: Bounds | None, rng: np.random.Generator) -> float:
    low, high = (bounds.low, bounds.high) if bounds is not None else (-np.inf, np.inf)
    if default == 0:
        return 0.0 if rng.random() < 0.4 else float(rng.uniform(0.05, 0.9))
    if high == 1 and default > 0.5:  # a decay rate
        return float(rng.uniform(0.3, 0.98))
    if default < 1e-5:  # what guards a denominator
        return float(10 ** rng.uniform(-6, -1))
    if default > 1e4:  # a start in the far future
        return float(rng.uniform(2, 12))
    if default > 10:  # a bound or size out of reach in so few steps
        return float(rng.uniform(0.05, 5))
    return float(np.clip(default * rng.uniform(0.5, 1.5), low, high))


def table(verdicts: list[Verdict]) -> str:
    """The score by kind, and what was missed."""
    by_kind: dict[str, list[str]] = defaultdict(list)
    for verdict in verdicts:
        by_kind[verdict.mutant.kind].append(verdict.outcome)
    rows = [f"{'kind of fault':34}{'made':>6}{'same':>6}{'raise':>6}{'real':>6}{'caught':>8}{'':>3}"]
    for kind in KINDS:
        outcomes = by_kind[kind]
        counts = {outcome: outcomes.count(outcome) for outcome in ("same", "raises", "caught", "missed")}
        real = counts["caught"] + counts["missed"]
        percent = f"{counts['caught'] / real:8.0%}" if real else "       -"
        rows.append(f"{kind:34}{len(outcomes):6}{counts['same']:6}{counts['raises']:6}{real:6}{percent}")
    for verdict in verdicts:
        if verdict.outcome == "missed":
            rows.append(f"missed: {verdict.mutant.spec}.opt:{verdict.mutant.line}: {verdict.mutant.kind}")
    return "\n".join(rows)


def score(verdicts: list[Verdict]) -> tuple[int, int]:
    """How many mutants are caught, and how many are really different."""
    caught = sum(v.outcome == "caught" for v in verdicts)
    return caught, caught + sum(v.outcome == "missed" for v in verdicts)


def main() -> int:
    """Prints the score of all mutants; the exit code is 1 below `NEEDED`."""
    start = time.perf_counter()
    verdicts = [judge(mutant) for mutant in all_mutants()]
    caught, real = score(verdicts)
    print(table(verdicts))
    print(f"{caught} of {real} faults caught ({caught / real:.1%}, at least {NEEDED:.0%} needed)")
    print(f"{len(SPECS)} specs, {time.perf_counter() - start:.0f} s")
    return 0 if caught >= NEEDED * real else 1


if __name__ == "__main__":
    sys.exit(main())
