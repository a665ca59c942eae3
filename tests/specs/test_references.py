"""The float64 loops are right on their own: they give the golden values, and agree with libraries where those are right."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import pytorch_optimizer as po

from tests import reference_loops as loops
from tests.problems import GOLDEN, PROBLEMS, Golden
from tests.references import ADOPT, Trace, difference, run_library

LOOPS = {
    "adam/simplified_ademamix": loops.simplified_ademamix,
    "adam/adopt": loops.adopt,
    "adam/hn_adam": loops.hn_adam,
    "second_order/sophia": loops.sophia_g,
}


@pytest.mark.parametrize("golden", [g for g in GOLDEN if g.spec in LOOPS], ids=lambda golden: golden.spec)
def test_loop_gives_the_golden_values(golden: Golden) -> None:
    thetas, _ = LOOPS[golden.spec](golden.hypers, golden.problem())
    np.testing.assert_allclose(thetas[-1], golden.theta, rtol=0, atol=1e-12)  # printed to twelve digits


@pytest.mark.parametrize("name", PROBLEMS)
def test_loops_agree_with_libraries(name: str) -> None:
    betas = (0.8, 0.95, 0.99)
    warm = {"lr": 0.01, "betas": betas, "beta3_warmup": 9, "alpha_warmup": 9}
    pairs = (
        (partial(loops.adopt, {"lr": 0.01}), partial(run_library, po.ADOPT, ADOPT, {"lr": 0.01})),
        (partial(loops.ademamix, warm), partial(run_library, po.AdEMAMix, {"betas": betas, "t_alpha_beta3": 9}, warm)),
    )
    for loop, library in pairs:
        thetas, states = loop(PROBLEMS[name])
        assert difference(Trace(tuple(thetas), states), library(PROBLEMS[name])) <= 1e-12
