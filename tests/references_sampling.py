"""The table of optimizers that draw random numbers: no library draws the same ones, so all have float64 loops."""

from __future__ import annotations

from tests import reference_loops_sampling as loops
from tests.reference_cases import Case, loop

CASES: tuple[Case, ...] = (
    loop("sampling/sgld", loops.sgld, lr=0.01),
    loop("sampling/sgld", loops.sgld, lr=0.01, temperature=0.3, weight_decay=0.2, seed=123456789012),
    loop("sampling/sgld", loops.sgld, lr=0.01, temperature=0.0, weight_decay=0.2),
    loop("sampling/psgld", loops.psgld, lr=0.01, eps=1e-2),
    loop("sampling/psgld", loops.psgld, lr=0.01, alpha=0.8, eps=0.1, temperature=0.3, weight_decay=0.2, seed=16777217),
    loop("sampling/psgld", loops.psgld, lr=0.01, alpha=0.5, eps=0.1, temperature=0.0),
)
