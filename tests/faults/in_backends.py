"""Seeded faults in emitters: generated text changed in one place, as a wrong emitter would write it.

`python -m tests.faults.in_backends [torch|native|triton …]` runs every fault of the chosen backends (default: torch and native)
against the oracle on the cases of the matrix, prints the score by kind and exits with 1 below 95 %.
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch

from optc.compiler.instant import load_module
from optc.compiler.pipeline import Compilation, compile_source
from optc.dsl.read import read
from optc.runtime.backend import BackendUnavailable
from tests.faults.score import NEEDED
from tests.matrix.runners import run_compiled
from tests.oracle import program_of, run_program, spec_path
from tests.problems import PROBLEMS
from tests.references import SPECS, Hypers, Trace, cases_of, difference

TOLERANCE = 1e-9
CATCHING = ("3x4x2 schedule", "11 zeros")
SECTION = {"torch": "PyTorch", "native": "native", "triton": "Triton", "host": "on the host, once per step, in float64"}


def wrong_signs(comment: str) -> dict[str, tuple[str, str]]:
    """A sum for a difference and the reverse, in a line of the spec: one that `comment` and its number close."""
    return {
        "minus for plus": (rf"(?<=[\w)]) \+ (?=[\w(].*{comment})", " - "),
        "plus for minus": (rf"(?<=[\w)]) - (?=[\w(].*{comment})", " + "),
    }


KINDS: dict[str, dict[str, tuple[str, str]]] = {
    "torch": {
        "lost in-place": (r"(\w+)\.mul_\((\w+)\)\.add", r"\1.mul(\2).add"),
        "mul for add": (r"\.add_\(", ".mul_("),
        "lost alpha": (r", alpha=\w+\)", ")"),
        "lost value": (r", value=-?\w+\)", ")"),
        "sub for add": (r"\.sub_\(", ".add_("),
        "lost sqrt": (r"\.sqrt_?\(\)", ""),
        "lost square": (r"addcmul_\((\w+), \1", r"addcmul_(\1, torch.ones_like(\1)"),
        "div for mul": (r"\.div_?\(", ".mul("),
        "min for max": (r"torch\.maximum", "torch.minimum"),
        "lost sign": (r"= sign\((\w+)\)", r"= \1"),
        "other scalar": (r"\bbeta1\b(?=\))", "one_minus_beta1"),
        "inverted flag": (r"    if (?!not )(\w+):", r"    if not \1:"),
        "lost store": (r"^    (m|v|h|b|s|ax)\.(mul_|copy_).*$", "    pass"),
    },
    "native": {
        **wrong_signs("//"),
        "lost sqrt": (r"\bsqrt\(", "("),
        "lost square": (r"\bsquare\(", "("),
        "min for max": (r"= max\(", "= min("),
        "div for mul": (r"(?<=\w)\*(?=\w+;  //)", "/"),
        "lost sign": (r"= sign\(", "= ("),
        "lost store": (r"^        store\(m_at\[i\], m\);$", ""),
        "lost theta store": (r"^        store\(theta_at\[i\], theta\);$", ""),
        "wrong row": (r"row<state_t>\((\d+)\)", "row<state_t>(0)"),
        "wrong scalar": (r"scalars\[1\]", "scalars[0]"),
        "inverted flag": (r"        if \((?!!)(\w+)\) \{", r"        if (!\1) {"),
    },
    "triton": {
        **wrong_signs("#"),
        "lost sqrt": (r"\bsqrt\(", "("),
        "lost square": (r"\bsquare\(", "("),
        "lost store": (r"^    tl\.store\(m_at, m, mask\)$", "    pass"),
        "lost mask": (r"tl\.store\(theta_at, theta, mask\)", "tl.store(theta_at, theta * 1.001, mask)"),
        "wrong scalar": (r", scalars, 1, ", ", scalars, 0, "),
    },
    "host": {
        **wrong_signs("#"),
        "lost power of t": (r"ieee\.pow\((\w+), t\)", r"\1"),
        "lost sqrt": (r"ieee\.sqrt\(", "("),
        "step behind": (r"ieee\.pow\((\w+), t\)", r"ieee.pow(\1, t - 1.0)"),
        "lost correction": (r"ieee\.div\(1\.0, 1\.0 - ieee\.pow\(\w+, t\)\)", "1.0"),
        "inverted condition": (r"    if (?!not )(\w+):", r"    if not \1:"),
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TextFault:
    """One spec's module with one place of one backend's code changed."""

    spec: str
    backend: str
    kind: str
    text: str


@cache
def compilation(spec: str) -> Compilation:
    """A shipped spec, compiled."""
    return compile_source(read(spec_path(spec)))


@cache
def expected(spec: str, case: int, problem: str) -> Trace:
    """What the oracle does."""
    return run_program(program_of(spec), cases_of(spec)[case].hypers, PROBLEMS[problem])


def faults(backend: str, specs: tuple[str, ...] = SPECS) -> Iterator[TextFault]:
    """For every spec and kind, the first place where that kind of fault fits the step's code of a backend."""
    for spec in specs:
        text = compilation(spec).module
        start = text.index(f"# --- step: {SECTION[backend]}")
        end = text.find("\n# --- ", start)
        for kind, (pattern, replacement) in KINDS[backend].items():
            changed = re.sub(pattern, replacement, text[start:end], count=1, flags=re.MULTILINE)
            if changed != text[start:end]:
                yield TextFault(spec, backend, kind, text[:start] + changed + text[end:])


def outcome(fault: TextFault, number: int) -> str:
    """`caught`, `missed`, or `raises` where the code does not even run."""
    program = program_of(fault.spec)
    backend = "torch" if fault.backend == "host" else fault.backend
    try:
        module = load_module(f"fault_{fault.backend}_{number}", fault.text)
        cls = getattr(module, program.name)
        for index, case in enumerate(cases_of(fault.spec)):
            for name in CATCHING[: 1 if backend != "torch" else None]:
                hypers: Hypers = case.hypers
                found = run_compiled(cls, program, backend, torch.float64, hypers, PROBLEMS[name])
                if difference(found, expected(fault.spec, index, name)) > TOLERANCE:
                    return "caught"
    except (BackendUnavailable, NameError, TypeError, ValueError, AttributeError, SyntaxError, RuntimeError):
        return "raises"
    return "missed"


def score(chosen: list[TextFault]) -> tuple[Counter[str], list[str]]:
    """Outcomes counted, and what was missed."""
    counts: Counter[str] = Counter()
    missed = []
    for number, fault in enumerate(chosen):
        found = outcome(fault, number)
        counts[found] += 1
        if found == "missed":
            missed.append(f"missed: {fault.backend}: {fault.spec}: {fault.kind}")
    return counts, missed


def main(arguments: list[str]) -> int:
    """Prints the score; the exit code is 1 below `NEEDED`."""
    start = time.perf_counter()
    backends = arguments or ["host", "torch", "native"]
    worst = 1.0
    for backend in backends:
        counts, missed = score(list(faults(backend)))
        real = counts["caught"] + counts["missed"]
        share = counts["caught"] / max(real, 1)
        worst = min(worst, share)
        print(f"{backend:8}{real:5} faults that run, {counts['raises']} that raise, {counts['caught']} caught ({share:.1%})")
        print(*missed, sep="\n")
    print(f"{time.perf_counter() - start:.0f} s")
    return 0 if worst >= NEEDED else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
