"""A sample of the seeded faults is caught by what the suite compares. All of them: `python -m tests.faults.score`."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from tests.faults import score as scoring
from tests.faults.checks import ALL_SPECS, checks_of, program_of
from tests.faults.kinds import KINDS, Mutant
from tests.faults.score import NEEDED, judge, main, mutants_of, sampled, score, survivors, table

SAMPLE = (
    "adam/adamw", "adam/adopt", "adam/ademamix", "adam/radam", "momentum/sgd", "sign/rprop", "adaptive/rmsprop",
    "adaptive/madgrad", "second_order/sophia", "trust/lamb", "factored/came", "factored/sm3", "factored/rose",
    "parameter_free/prodigy", "parameter_free/dadapt_sgd", "composed/ranger", "modifiers/cautious_decay",
)  # fmt: skip
"""Specs that have faults of every kind."""


def of_kind(spec: str, kind: str) -> list[Mutant]:
    return [mutant for mutant in mutants_of(spec) if mutant.kind == kind]


def test_no_two_faults_are_alike() -> None:
    for spec in ("adam/adamw", "factored/came"):
        found = mutants_of(spec)
        assert len(found) >= 60
        assert len({(m.program.states, m.program.procedures, m.program.seen) for m in found}) == len(found)


def test_sample_has_every_kind_and_spec_and_is_caught() -> None:
    chosen = list(sampled(24, SAMPLE))
    assert {mutant.kind for mutant in chosen} == set(KINDS)
    assert {mutant.spec for mutant in chosen} == set(SAMPLE)
    verdicts = [judge(mutant) for mutant in chosen]
    caught, real = score(verdicts)
    assert real >= 60
    assert caught >= NEEDED * real, survivors(verdicts)


@pytest.mark.slow
def test_all_are_caught() -> None:
    verdicts = [judge(mutant) for spec in ALL_SPECS for mutant in mutants_of(spec)]
    caught, real = score(verdicts)
    assert caught >= NEEDED * real, survivors(verdicts)


def test_a_fault_that_no_case_reaches_survives() -> None:
    """The score can fail: faults in the AMSGrad branch pass unseen where no case turns it on."""
    without = [check for check in checks_of("adam/adamw") if "amsgrad=True" not in check.label]
    verdicts = [judge(mutant, without) for mutant in of_kind("adam/adamw", "min for max")]
    assert [v.outcome for v in verdicts] == ["survived"]
    assert [judge(v.mutant).outcome for v in verdicts] == ["caught"]
    assert score(verdicts) == (0, 1)
    assert survivors(verdicts) == "survived: adam/adamw.opt:23: min for max"
    assert table(verdicts, "spec").splitlines()[1].split() == ["adam/adamw", "1", "0", "0", "1", "0"]


def test_a_total_that_is_left_out_survives_where_models_have_one_parameter() -> None:
    alone = [check for check in checks_of("parameter_free/dog") if not check.label.startswith("model")]
    dropped = of_kind("parameter_free/dog", "total dropped")
    assert {judge(mutant, alone).outcome for mutant in dropped} == {"survived"}
    assert {judge(mutant).outcome for mutant in dropped} == {"caught"}


def test_what_is_the_same_maths_does_not_count() -> None:
    """Where v starts does not matter where the first step sets it, as ADOPT's does."""
    verdicts = [judge(mutant) for mutant in of_kind("adam/adopt", "wrong initial state")]
    assert "same" in {v.outcome for v in verdicts}
    caught, real = score(verdicts)
    assert caught == real < len(verdicts)


def test_the_command_fails_where_too_little_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--spec", "sign/signsgd", "--sample", "4"]
    well = CliRunner().invoke(main, arguments)
    assert well.exit_code == 0 and "survived:" not in well.output
    monkeypatch.setattr(scoring, "checks_of", lambda spec: ())  # nothing is compared
    badly = CliRunner().invoke(main, arguments)
    assert badly.exit_code == 1
    assert "survived: sign/signsgd.opt:" in badly.output
    assert badly.output.splitlines()[-1].startswith("0 of ")


@pytest.mark.parametrize("spec", [pytest.param(s, marks=() if s in SAMPLE[:3] else pytest.mark.slow) for s in ALL_SPECS])
def test_a_spec_itself_is_not_caught(spec: str) -> None:
    assert [check.label for check in checks_of(spec) if check.leaves(program_of(spec))] == []
