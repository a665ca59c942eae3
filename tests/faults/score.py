"""How many seeded faults the references catch: `python -m tests.faults.score [--spec NAME …] [--sample N] [--survivors]`.

Every shipped spec, compositions and modifiers included, is changed in one place in every way that `tests.faults.kinds` knows. A
mutant is caught if some comparison that the suite makes with the spec (`tests.faults.checks`) fails for it. One that is not
caught is compared with the spec on random hypers and models (`tests.faults.probes`): if it differs there it has survived, else
it is the same maths and does not count. Prints a table by spec and one by kind; exits with 1 where less than 95 % are caught.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import click

from optc.cli.output import progress
from optc.dsl.errors import OptcError
from tests.faults.checks import ALL_SPECS, Check, checks_of, program_of
from tests.faults.in_order import modifier_lines
from tests.faults.kinds import KINDS, Mutant, mutants
from tests.faults.probes import different

NEEDED = 0.95
OUTCOMES = ("same", "raises", "caught", "survived")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant: `same` maths, it `raises` (and so cannot pass unseen), `caught`, or `survived`."""

    mutant: Mutant
    outcome: str

    @property
    def place(self) -> str:
        """`adam/adamw.opt:23: min for max`."""
        return f"{self.mutant.spec}.opt:{self.mutant.line}: {self.mutant.kind}"


@cache
def mutants_of(spec: str) -> tuple[Mutant, ...]:
    """The mutants of a spec; of a modifier's, those of the lines that it brings to AdamW."""
    program = program_of(spec)
    lines = modifier_lines(program) if spec.startswith("modifiers/") else None
    return tuple(m for m in mutants(spec, program) if lines is None or m.line in lines)


def sampled(every: int, specs: Sequence[str] = ALL_SPECS) -> Iterator[Mutant]:
    """One in `every` mutants, at least one of each spec, and at least one of each kind that the specs have."""
    missing = dict.fromkeys(KINDS)
    counter = 0
    left: dict[str, Mutant] = {}
    for spec in specs:
        chosen = 0
        for mutant in mutants_of(spec):
            counter += 1
            if counter % every == 0:
                missing.pop(mutant.kind, None)
                chosen += 1
                yield mutant
            else:
                left.setdefault(mutant.kind, mutant)
        if chosen == 0 and mutants_of(spec):
            yield mutants_of(spec)[counter % len(mutants_of(spec))]
    yield from (left[kind] for kind in missing if kind in left)


def judge(mutant: Mutant, checks: Iterable[Check] | None = None) -> Verdict:
    """Whether a mutant is really different, and whether the suite (or the checks that are given) catches it."""
    try:
        if any(check.leaves(mutant.program) for check in (checks_of(mutant.spec) if checks is None else checks)):
            return Verdict(mutant, "caught")
        return Verdict(mutant, "survived" if different(program_of(mutant.spec), mutant.program, mutant.spec) else "same")
    except (KeyError, ValueError, TypeError, OptcError):  # it reads what does not exist, or rows where columns belong
        return Verdict(mutant, "raises")


def score(verdicts: Iterable[Verdict]) -> tuple[int, int]:
    """How many mutants are caught, and how many are really different."""
    counts = Counter(v.outcome for v in verdicts)
    return counts["caught"], counts["caught"] + counts["survived"]


def table(verdicts: Sequence[Verdict], by: str) -> str:
    """The score by `spec` or `kind`, with the names of what has survived under it."""
    groups: dict[str, list[Verdict]] = {name: [] for name in (KINDS if by == "kind" else ALL_SPECS)}
    for verdict in verdicts:
        groups[getattr(verdict.mutant, by)].append(verdict)
    rows = [f"{by:36}{'seeded':>8}{'same':>8}{'raise':>8}{'real':>8}{'caught':>8}"]
    for name, found in groups.items():
        if found:
            counts = Counter(v.outcome for v in found)
            caught, real = score(found)
            rows.append(f"{name:36}{len(found):8}{counts['same']:8}{counts['raises']:8}{real:8}{caught:8}")
    return "\n".join(rows)


def survivors(verdicts: Iterable[Verdict], outcome: str = "survived") -> str:
    """What has survived, by place and kind."""
    return "\n".join(f"{outcome}: {verdict.place}" for verdict in verdicts if verdict.outcome == outcome)


@click.command(help="How many seeded faults in specs the references catch.")
@click.option("--spec", "names", multiple=True, metavar="NAME", help="A spec, or what its name begins with (factored/).")
@click.option("--sample", default=1, show_default=True, help="Judge one fault in so many, at least one of each spec and kind.")
@click.option("--same", is_flag=True, help="List what was taken for the same maths as well.")
def main(names: tuple[str, ...], sample: int, same: bool) -> None:
    """Prints the score; the exit code is 1 below `NEEDED`."""
    start = time.perf_counter()
    specs = tuple(s for s in ALL_SPECS if not names or s.startswith(names))
    if not specs:
        raise click.UsageError(f"no spec is called {' or '.join(names)}")
    chosen = list(sampled(sample, specs))
    verdicts = []
    with progress([f"{m.spec}: {m.kind}" for m in chosen], "judging") as labels:
        for mutant, _ in zip(chosen, labels, strict=True):
            verdicts.append(judge(mutant))
    caught, real = score(verdicts)
    click.echo("\n\n".join(filter(None, (table(verdicts, "spec"), table(verdicts, "kind"), survivors(verdicts)))))
    if same:
        click.echo(survivors(verdicts, "same"))
    of = sum(len(mutants_of(spec)) for spec in specs)
    click.echo(f"\n{len(specs)} specs, {len(chosen)} of {of} faults judged in {time.perf_counter() - start:.0f} s")
    click.echo(f"{caught} of {real} real faults caught ({caught / max(real, 1):.1%}, at least {NEEDED:.0%} needed)")
    sys.exit(0 if caught >= NEEDED * real else 1)


if __name__ == "__main__":
    main()
