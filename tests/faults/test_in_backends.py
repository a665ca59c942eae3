"""A sample of the faults in what emitters write is caught. More of them: `python -m tests.faults.in_backends`.

As there, C++ is tried in processes of their own: an access to the wrong place may end them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tests.faults import in_backends
from tests.faults.checks import ALL_CASES
from tests.faults.in_backends import RUN_BY, TextFault, control, faults_of, outcome, outcome_apart, score, survivors, table
from tests.faults.in_text import KINDS
from tests.faults.score import NEEDED

SAMPLE = {
    "host": {"adam/radam": 4, "adam/nadam": 6},
    "model": {"parameter_free/prodigy": 3},
    "torch": {"adam/adan": 9, "trust/lamb": 5, "factored/came": 6},
    "native": {"trust/lamb": 24, "factored/came": 120},
    "triton": {"trust/lamb": 20},
    "scalars": {"adam/radam": 20},
}
"""For each emitter specs, and of how many of their faults one is tried."""

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # NumPy, inside Triton's interpreter


def sample(emitter: str) -> list[TextFault]:
    return [fault for spec, every in SAMPLE[emitter].items() for fault in faults_of(spec, emitter)[every // 2 :: every]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A forked process has no other threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def judged(chosen: list[TextFault]) -> list[tuple[TextFault, str]]:
    return [(f, (outcome_apart if f.emitter == "native" else outcome)(f, number)) for number, f in enumerate(chosen)]


@pytest.mark.parametrize("emitter", KINDS)
def test_sample_is_caught(emitter: str) -> None:
    verdicts = judged(sample(emitter))
    caught, real = score(verdicts)
    assert real >= max(2, len(verdicts) / 2)
    assert caught >= NEEDED * real, survivors(verdicts)


@pytest.mark.slow
@pytest.mark.parametrize("emitter", KINDS)
def test_one_fault_in_twenty_is_caught(emitter: str) -> None:
    verdicts = [(fault, outcome_apart(fault, n)) for n, fault in enumerate(in_backends.sampled(emitter, 20))]
    caught, real = score(verdicts)
    assert caught >= NEEDED * real, survivors(verdicts)


@pytest.mark.parametrize("emitter", ["torch", "native", "triton", "scalars"])
def test_unchanged_code_survives(emitter: str) -> None:
    assert outcome(control("trust/lamb", emitter), 0) == "survived"


@pytest.fixture
def without_max_norm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """LAMB's cases but those that bound the parameter's norm."""
    cases = tuple(case for case in ALL_CASES if "max_norm" not in case.hypers)
    caches = (in_backends.cases_of, in_backends._expected_of_model, in_backends._expected)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(in_backends, "ALL_CASES", cases)
    yield
    for cache in caches:
        cache.cache_clear()


def bound_lost() -> TextFault:
    return next(f for f in faults_of("trust/lamb", "torch") if f.kind == "lost bound" and "max_norm" in repr(f))


def test_a_fault_that_no_case_reaches_survives(without_max_norm: None) -> None:
    """The score can fail: what LAMB does with `max_norm` passes unseen where no case has one."""
    verdicts = judged([bound_lost()])
    assert score(verdicts) == (0, 1)
    assert survivors(verdicts).startswith("survived: torch: trust/lamb, line ") and "clamp_max(max_norm" in survivors(verdicts)
    assert table(verdicts, "kind").splitlines()[1].split() == ["lost", "bound", "1", "0", "1", "0"]


def test_with_all_cases_it_is_caught() -> None:
    assert outcome(bound_lost(), 0) == "caught"


def test_code_that_does_not_run_counts_for_nothing() -> None:
    broken = replace(control("trust/lamb", "torch"), text="import nothing_of_that_name\n")
    assert score(judged([broken])) == (0, 0)


def test_every_emitter_is_run_by_a_backend() -> None:
    assert {RUN_BY.get(emitter, emitter) for emitter in KINDS} == {"torch", "native", "triton"}
