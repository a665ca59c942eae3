"""A sample of the seeded faults is caught by the table of references. All of them: `python -m tests.faults.score`."""

from __future__ import annotations

import pytest

from tests.faults.kinds import KINDS, Mutant, mutants
from tests.faults.score import NEEDED, all_mutants, judge, score, table
from tests.oracle import program_of, run_program
from tests.problems import PROBLEMS, expected
from tests.references import CASES, difference

ALL = list(all_mutants())


def sample(every: int) -> list[Mutant]:
    """Every n-th mutant, and at least one of every kind."""
    chosen = ALL[::every]
    kinds = {mutant.kind for mutant in chosen}
    return chosen + [next(m for m in ALL if m.kind == kind) for kind in KINDS if kind not in kinds]


def test_there_are_enough_faults_of_every_kind() -> None:
    assert len(ALL) >= 120
    assert {mutant.kind for mutant in ALL} == set(KINDS)
    assert len({(m.spec, m.program.states, m.program.procedures) for m in ALL}) == len(ALL)


def test_sample_is_caught() -> None:
    verdicts = [judge(mutant) for mutant in sample(every=12)]
    caught, real = score(verdicts)
    assert real >= 50
    assert caught >= NEEDED * real, table(verdicts)


@pytest.mark.slow
def test_all_are_caught() -> None:
    verdicts = [judge(mutant) for mutant in ALL]
    caught, real = score(verdicts)
    assert caught >= NEEDED * real, table(verdicts)


def test_a_fault_that_no_case_reaches_is_missed() -> None:
    """The score can fail: faults in the AMSGrad branch pass unseen where no case turns it on."""
    without = [number for number, case in enumerate(CASES) if not case.hypers.get("amsgrad", False)]
    adamw = program_of("adam/adamw")
    verdicts = [judge(m, without) for m in mutants("adam/adamw", adamw, most=3) if m.kind == "min for max"]
    assert [v.outcome for v in verdicts] == ["missed"]
    assert [judge(v.mutant).outcome for v in verdicts] == ["caught"]
    assert score(verdicts) == (0, 1)
    assert "missed: adam/adamw.opt" in table(verdicts)


def test_spec_itself_is_not_caught() -> None:
    number, case = next((n, c) for n, c in enumerate(CASES) if c.spec == "adam/adamw")
    for name, problem in PROBLEMS.items():
        assert difference(run_program(program_of(case.spec), case.hypers, problem), expected(number, name)) <= case.tolerance
