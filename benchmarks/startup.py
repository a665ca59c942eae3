"""How long a user waits: building, checking, importing, the first native step. Every number is from fresh processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from statistics import median

from benchmarks.report import Row, Table
from benchmarks.workloads import SPECS

NOTE = "Wall time of whole commands in fresh processes, or of one statement inside one; median of {rounds}."

_IMPORT = """
import time
import torch
start = time.perf_counter()
from optc.generated import AdamW
print(time.perf_counter() - start)
"""
_FIRST_STEP = """
import time
import torch
from optc.generated import AdamW
p = torch.nn.Parameter(torch.zeros(1000))
p.grad = torch.ones(1000)
optimizer = AdamW([p], backend="native")
start = time.perf_counter()
optimizer.step()
print(time.perf_counter() - start)
"""


def _python(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"python {' '.join(arguments)[:60]} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def _elapsed(*arguments: str) -> float:
    start = time.perf_counter()
    _python("-m", "optc", *arguments)
    return time.perf_counter() - start


def _build_cold(specs: Sequence[Path]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return _elapsed("build", *map(str, specs), "-o", folder)


def _build_unchanged(specs: Sequence[Path]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        _elapsed("build", *map(str, specs), "-o", folder)
        return _elapsed("build", *map(str, specs), "-o", folder)


def _build_one_changed(specs: Sequence[Path]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        copies = [shutil.copy(path, folder) for path in specs]
        _elapsed("build", *copies, "-o", f"{folder}/out")
        with Path(copies[0]).open("a", encoding="utf-8") as file:
            file.write("# a comment\n")
        return _elapsed("build", *copies, "-o", f"{folder}/out")


def _first_step() -> float:
    with tempfile.TemporaryDirectory() as cache:
        os.chmod(cache, 0o700)
        return float(_python("-c", _FIRST_STEP, environment={"OPTC_CACHE_DIR": cache}))


def run(rounds: int = 3, only: Sequence[str] = ()) -> Iterator[Row]:
    """One row for each thing a user waits for. `only`: build these specs instead of all."""
    specs = [
        p
        for p in sorted(SPECS.rglob("*.opt"))
        if p.parent.name not in ("modifiers", "storages") and (not only or p.stem in only)
    ]
    measured: list[tuple[str, float, Callable[[], float]]] = [
        (f"optc build of all {len(specs)} specs, cold", 40.0, lambda: _build_cold(specs)),
        ("optc build, nothing changed", 2.0, lambda: _build_unchanged(specs)),
        ("optc build, one spec changed", inf, lambda: _build_one_changed(specs)),
        ("optc check adamw", 1.0, lambda: _elapsed("check", "adamw")),
        ("import of a generated optimizer after torch", 0.1, lambda: float(_python("-c", _IMPORT))),
        ("first native step, empty cache", 2.0, _first_step),
    ]
    for what, limit, once in measured:
        seconds = median(once() for _ in range(rounds))
        target = f"< {limit:g} s" if limit < inf else ""
        yield Row(what, target, f"{seconds:.3f} s", seconds < limit if target else None, {"seconds": seconds})


def table(rows: Sequence[Row], rounds: int) -> Table:
    """The rows with what they mean."""
    return Table("Waiting times", NOTE.format(rounds=rounds), tuple(rows))
