"""Seeded faults in emitters: `python -m tests.faults.in_backends [EMITTER …] [--spec NAME …] [--sample N]`.

The text of every shipped spec's module is changed in one place, in every way of `tests.faults.in_text`, as a wrong emitter
would have written it, and the class that comes out is held against the oracle as `tests/matrix` does: on a model of tensors of
every kind and on the problems of the table, in every configuration of the spec. Prints a table by spec and one by kind, names
what has survived, and exits with 1 where less than 95 % are caught. Each fault has a process of its own: some crash.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import click
import torch
import torch._dynamo  # which every child would import by itself

from optc.cli.output import progress
from optc.cli.specs import spec_of
from optc.compiler.compose.library import named, shipped
from optc.compiler.instant import load_module
from optc.compiler.pipeline import compile_expanded
from optc.dsl.program import Program
from tests import references_composed
from tests.backends.processes import exit_code, in_child
from tests.faults.checks import ALL_CASES, program_of
from tests.faults.in_text import KINDS, changed
from tests.faults.score import NEEDED
from tests.matrix.models import (
    LARGE,
    SMALL,
    ModelProblem,
    largest_difference,
    model_problem,
    run_model,
    run_model_oracle,
    undefined_where_masked,
)
from tests.matrix.runners import run_compiled
from tests.oracle import run_program
from tests.problems import PROBLEMS
from tests.reference_cases import Case, Hypers, Trace, difference
from tests.references import SPECS as WRITTEN_OUT

SPECS = (*WRITTEN_OUT, *(s for s in references_composed.SPECS if s.startswith("composed/")))
TOLERANCE = 1e-9
RUN_BY = {"host": "torch", "model": "torch", "scalars": "triton"}
"""Which backend runs what is shared by all, or is a part of it; the others run their own."""

PROBLEMS_OF = {"torch": ("3x4x2 schedule", "11 zeros"), "native": ("3x4x2 schedule", "11 zeros"), "triton": ("11 zeros",)}
"""Problems of the table, for each backend; the matrix takes two as well, and one for Triton in its interpreter."""

OUTCOMES = {10: "caught", 11: "survived", 12: "raises"}
"""With what codes children tell what they have found; any other is that of a crash."""


@dataclass(frozen=True, slots=True)
class TextFault:
    """One spec's module with one place of one emitter's text changed: its line there, and what the line was."""

    spec: str
    emitter: str
    kind: str
    line: int
    was: str
    text: str

    @property
    def place(self) -> str:
        """`native: trust/lamb, line 191: partial lost: …`."""
        return f"{self.emitter}: {self.spec}, line {self.line}: {self.kind}: {self.was.strip()}"


@cache
def module_of(spec: str) -> str:
    """The text of a spec's module."""
    return compile_expanded(spec_of(named(shipped()[spec.rpartition("/")[2]]))).module


@cache
def faults_of(spec: str, emitter: str) -> tuple[TextFault, ...]:
    """Every fault of a spec's module that an emitter could have made."""
    text = module_of(spec)
    lines = text.splitlines()
    return tuple(TextFault(spec, emitter, kind, n, lines[n - 1], other) for kind, n, other in changed(text, emitter))


def sampled(emitter: str, every: int, specs: Sequence[str] = SPECS) -> Iterator[TextFault]:
    """One in `every` faults, at least one of each kind that there is and of each spec."""
    missing, counter = dict.fromkeys(KINDS[emitter]), every // 2
    left: dict[str, TextFault] = {}
    for spec in specs:
        found = faults_of(spec, emitter)
        chosen = [fault for place, fault in enumerate(found, start=counter + 1) if place % every == 0]
        counter += len(found)
        chosen = chosen or list(found[counter % len(found) :][:1] if found else ())
        for fault in chosen:
            missing.pop(fault.kind, None)
        for fault in found:
            left.setdefault(fault.kind, fault)
        yield from chosen
    yield from (left[kind] for kind in missing if kind in left)


# --- judging ------------------------------------------------------------------------------------------------------------------


@cache
def cases_of(spec: str) -> tuple[Case, ...]:
    """The configurations of a spec, the one with most hypers first."""
    return tuple(sorted((c for c in ALL_CASES if c.spec == spec), key=lambda case: -len(case.hypers)))


@cache
def _problem(spec: str, backend: str, large: bool) -> ModelProblem:
    shapes = LARGE[backend] if large else SMALL
    return model_problem([s for s in shapes if s or spec not in references_composed.NOTHING_LEFT])


@cache
def _expected_of_model(spec: str, number: int, backend: str, large: bool) -> list[Trace]:
    return run_model_oracle(program_of(spec), cases_of(spec)[number].hypers, _problem(spec, backend, large))


@cache
def _expected(spec: str, number: int, name: str) -> Trace:
    return run_program(program_of(spec), cases_of(spec)[number].hypers, PROBLEMS[name])


def prepare(spec: str, backend: str) -> None:
    """Computes here what children would each compute again."""
    for number in range(len(cases_of(spec))):
        _expected_of_model(spec, number, backend, large=False)


def leaves(spec: str, text: str, emitter: str, name: str) -> bool:
    """Whether the class of a module's text leaves the oracle somewhere, on the backend that runs what the emitter writes."""
    backend, program = RUN_BY.get(emitter, emitter), program_of(spec)
    cls = getattr(load_module(name, text), program.name)
    numbers = range(len(cases_of(spec)))
    if backend == "triton":
        with undefined_where_masked():
            return _leaves_on_triton(cls, program, spec, captured=emitter == "scalars")
    return (
        any(_leaves_model(cls, program, spec, n, backend, large=False) for n in numbers)
        or any(_leaves_problem(cls, program, spec, n, backend, p) for n in numbers for p in PROBLEMS_OF[backend])
        or _leaves_model(cls, program, spec, 0, backend, large=True)
    )


def _leaves_on_triton(cls: type, program: Program, spec: str, captured: bool) -> bool:
    numbers = range(len(cases_of(spec)))
    return (
        any(_leaves_model(cls, program, spec, n, "triton", large=False, captured=captured) for n in numbers)
        or any(_leaves_problem(cls, program, spec, 0, "triton", name, captured) for name in PROBLEMS_OF["triton"])
        or (not captured and _leaves_model(cls, program, spec, 0, "triton", large=True))
    )


def _leaves_model(
    cls: type, program: Program, spec: str, number: int, backend: str, large: bool, captured: bool = False
) -> bool:
    hypers: Hypers = cases_of(spec)[number].hypers
    found = run_model(cls, program, hypers, backend, _problem(spec, backend, large), captured)
    return not largest_difference(found, _expected_of_model(spec, number, backend, large)) <= TOLERANCE


def _leaves_problem(
    cls: type, program: Program, spec: str, number: int, backend: str, name: str, captured: bool = False
) -> bool:
    hypers: Hypers = cases_of(spec)[number].hypers
    found = run_compiled(cls, program, backend, torch.float64, hypers, PROBLEMS[name], capturable=captured)
    return not difference(found, _expected(spec, number, name)) <= TOLERANCE


def outcome(fault: TextFault, number: int) -> str:
    """`caught`, `survived`, or `raises` where the code does not even run."""
    try:
        caught = leaves(fault.spec, fault.text, fault.emitter, f"fault_{fault.emitter}_{number}")
    except AssertionError:  # of a runner
        return "caught"
    except Exception:
        return "raises"
    return "caught" if caught else "survived"


def control(spec: str, emitter: str) -> TextFault:
    """The module as it is, which must survive: a judge that catches it would catch anything."""
    return TextFault(spec, emitter, "none", 1, "", module_of(spec))


def outcome_apart(fault: TextFault, number: int, seconds: float = 600) -> str:
    """The same in a process of its own; one that crashes, or takes longer, cannot pass unseen either."""

    def work() -> None:
        warnings.simplefilter("ignore")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # of what goes wrong in a child nothing but its code is told
        found = outcome(fault, number)
        os._exit(next(code for code, name in OUTCOMES.items() if name == found))

    return OUTCOMES.get(exit_code(in_child(work), seconds), "raises")


def seconds_of_control(spec: str, emitter: str) -> float:
    """How long the spec's own text takes to survive, and so whatever else survives; raises AssertionError where it does not."""
    prepare(spec, RUN_BY.get(emitter, emitter))
    start = time.perf_counter()
    if outcome_apart(control(spec, emitter), 0) != "survived":
        raise AssertionError(f"{spec} itself leaves the oracle on {emitter}")
    return time.perf_counter() - start


# --- the score ----------------------------------------------------------------------------------------------------------------


Verdicts = list[tuple[TextFault, str]]


def score(verdicts: Verdicts) -> tuple[int, int]:
    """How many faults are caught, and how many run at all."""
    counts = Counter(found for _, found in verdicts)
    return counts["caught"], counts["caught"] + counts["survived"]


def table(verdicts: Verdicts, by: str) -> str:
    """The score by `kind` or `spec`."""
    groups: dict[str, Verdicts] = {}
    for fault, found in verdicts:
        groups.setdefault(getattr(fault, by), []).append((fault, found))
    rows = [f"{by:36}{'seeded':>8}{'raise':>8}{'real':>8}{'caught':>8}"]
    for name, of in groups.items():
        caught, real = score(of)
        rows.append(f"{name:36}{len(of):8}{len(of) - real:8}{real:8}{caught:8}")
    return "\n".join(rows)


def survivors(verdicts: Verdicts) -> str:
    """What has survived."""
    return "\n".join(f"survived: {fault.place}" for fault, found in verdicts if found == "survived")


@click.command(help="How many seeded faults in what emitters write the matrix of tests catches.")
@click.argument("emitters", nargs=-1, type=click.Choice(list(KINDS)))
@click.option("--spec", "names", multiple=True, metavar="NAME", help="A spec, or what its name begins with (factored/).")
@click.option("--sample", default=1, show_default=True, help="Judge one fault in so many, at least one of each spec and kind.")
def main(emitters: tuple[str, ...], names: tuple[str, ...], sample: int) -> None:
    """Prints the score; the exit code is 1 below `NEEDED`."""
    specs = tuple(s for s in SPECS if not names or s.startswith(names))
    if not specs:
        raise click.UsageError(f"no spec is called {' or '.join(names)}")
    torch.set_num_threads(1)
    worst = 1.0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["OPTC_CACHE_DIR"] = folder
        for emitter in emitters or ("host", "model", "torch", "native"):
            start = time.perf_counter()
            chosen = list(sampled(emitter, sample, specs))
            verdicts: Verdicts = []
            limits: dict[str, float] = {}
            with progress([f"{f.spec}: {f.kind}" for f in chosen], emitter) as labels:
                for fault, _ in zip(chosen, labels, strict=True):
                    if fault.spec not in limits:
                        limits[fault.spec] = 60 + 5 * seconds_of_control(fault.spec, emitter)
                    verdicts.append((fault, outcome_apart(fault, len(verdicts), limits[fault.spec])))
            caught, real = score(verdicts)
            worst = min(worst, caught / max(real, 1))
            click.echo("\n\n".join(filter(None, (table(verdicts, "spec"), table(verdicts, "kind"), survivors(verdicts)))))
            of = sum(len(faults_of(spec, emitter)) for spec in specs)
            click.echo(f"\n{emitter}: {len(specs)} specs, {len(chosen)} of {of} faults, {time.perf_counter() - start:.0f} s")
            share = f"({caught / max(real, 1):.1%}, {NEEDED:.0%} needed)"
            click.echo(f"{emitter}: {caught} of {real} that run are caught {share}\n")
            sys.stdout.flush()
    sys.exit(0 if worst >= NEEDED else 1)


if __name__ == "__main__":
    if os.environ.get("TRITON_INTERPRET") != "1":  # which Triton reads when it is imported
        os.environ["TRITON_INTERPRET"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "tests.faults.in_backends", *sys.argv[1:]])
    main()
