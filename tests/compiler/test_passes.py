"""Plans: phases and passes that see only what lies in memory, or what is gathered, do what the oracle does, and are few."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optc.compiler.interpret import Oracle
from optc.compiler.pipeline import check_source, plan_program
from optc.compiler.plan import Plan
from optc.compiler.traffic import PRECISIONS, default_variant, traffic
from optc.dsl.program import Program, Store
from optc.dsl.source import Source
from tests.compiler.plan_machine import Machine
from tests.matrix.random_programs import specs
from tests.matrix.test_random_programs import bounded

HEAD = """
optimizer X:
    {shape}
    hyper:
        lr = 0.1 in [0, inf)
        beta = 0.9 in [0, 1){hypers}
    state:
{states}
    step:
{lines}
"""


def compiled(
    *lines: str, states: tuple[str, ...] = ("m = 0", "v = 0"), shared: tuple[str, ...] = (), shape: str = ""
) -> tuple[Program, Plan]:
    """A spec with these lines in `step`; `shared`: hypers besides `lr` and `beta`."""
    hypers = "".join(f"\n        {hyper}" for hyper in shared)
    text = HEAD.format(
        hypers=hypers,
        shape=shape,
        states="\n".join(f"        {s}" for s in states),
        lines="\n".join(f"        {line}" for line in lines),
    )
    program = check_source(Source("<text>", text))
    return program, plan_program(program)[1]


MATRIX = ((3, 5),)
MODEL = ((3, 5), (4,), (), (1, 2, 3))


def compare(
    program: Program, plan: Plan, hypers: Mapping[str, Any], seed: int, shapes: tuple[tuple[int, ...], ...] = MATRIX
) -> None:
    """Four steps of the oracle, of the plan pass by pass, and of its kernels as one program each."""
    rng = np.random.default_rng(seed)
    thetas = [rng.normal(size=shape) for shape in shapes]
    known = {n: d for h in program.hypers for n, d in zip(h.names, h.defaults, strict=True)} | dict(hypers)
    oracle, machines = Oracle(program, hypers), [Machine(plan, thetas, known, whole) for whole in (False, True)]
    kept = oracle.new_parameters(thetas)
    for step in range(4):
        gradients = [rng.normal(size=shape) for shape in shapes]
        taking = [k for k in range(len(shapes)) if len(shapes) == 1 or k != step]  # one after the other does not take part
        loss = float(rng.normal())
        oracle.step_together([kept[k] for k in taking], [gradients[k] for k in taking], loss=loss)
        for machine in machines:
            machine.step([gradients[k] if k in taking else None for k in range(len(shapes))], loss)
            close({**kept[0].model}, machine.model)
            for one, other in zip(kept, machine.params, strict=True):
                close({"theta": one.theta, **one.states}, other.memory)


def close(expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert np.size(found[name]) == np.size(value)
        np.testing.assert_allclose(np.reshape(found[name], np.shape(value)), value, rtol=1e-9, atol=1e-9, err_msg=name)


KINDS: dict[str, tuple[dict[str, bool], tuple[tuple[int, ...], ...], int]] = {
    # what is drawn, for which tensors, how many programs
    "numbers per tensor": ({"reducing": True}, MATRIX, 40),
    "numbers of the model": ({"model": True}, ((3, 5), (4,), ()), 50),
    "rows and columns": ({"rows": True}, ((3, 5), (4,), (2, 3, 4)), 35),
    "picked elements": ({"picking": True, "reducing": True}, ((3, 5), (4,), (), (2, 3, 4)), 40),
    "picked elements of the model": ({"picking": True, "model": True}, ((3, 5), (4,), ()), 30),
    "all of them": ({"model": True, "rows": True}, ((3, 5), (4,), (2, 3, 4)), 25),
}


def run_random(kind: str, times: int) -> None:
    options, shapes, examples = KINDS[kind]

    @given(specs(**options), st.booleans(), st.booleans(), st.integers(0, 1000))
    @bounded(examples * times)
    def run(text: str, flag: bool, shared_flag: bool, seed: int) -> None:
        program = check_source(Source("<text>", text))
        hypers = {"lr": 0.05, "h1": 0.8, "h2": 0.3, "flag": flag, "h3": 0.3 + 0.2 * (seed % 2), "shared_flag": shared_flag}
        hypers["p"] = (1, 2, 3, 7, 100)[seed % 5]
        given_hypers = {k: v for k, v in hypers.items() if any(h.key == k for h in program.hypers)}
        compare(program, plan_program(program)[1], given_hypers, seed, shapes)

    run()


@pytest.mark.parametrize("kind", KINDS)
def test_random_programs(kind: str) -> None:
    run_random(kind, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_random_programs(kind: str) -> None:
    run_random(kind, 40)


# --- how many passes, how many bytes ------------------------------------------------------------------------------------------

ADAM = ("m <- ema(m, g, beta)", "v <- ema(v, g^2, beta)")
CASES: dict[str, tuple[tuple[str, ...], int, int, int]] = {
    # lines, passes, bytes read and written per element in float32
    "a trust ratio re-reads the new moments": (
        (*ADAM, "u = m/(√v + 1e-8) + 0.1*θ", "q = ‖θ‖/(‖u‖ + 1)", "θ <- θ - lr*q*u"), 2, 28, 12,
    ),
    "clipping reads the gradient once more": (
        ("g = g/max(1, ‖g‖)", *ADAM, "θ <- θ - lr*m/(√v + 1e-8)"), 2, 20, 12,
    ),
    "two reductions of one pass": (("θ <- θ - lr*g*⟨θ, g⟩/(⟨θ, θ⟩ + 1)", "m <- beta*v; v <- m"), 2, 20, 12),
    "a reduction of a reduction": (
        ("u = g/(1 + ‖g‖)", "θ <- θ - lr*(u - mean(u)) + 0*(m + v)", "m <- beta*v; v <- m"), 3, 24, 12,
    ),
    "a state that needs its old value late is written late": (
        ("d = m - g", "m <- ema(m, g, beta)", "v <- v + 0*m", "θ <- θ - lr*d/(1 + ‖d‖)"), 2, 24, 12,
    ),
    "a reduction that nothing needs costs nothing": (("m <- m + 0*v", "v <- v*beta", "θ <- θ - lr*m*g"), 1, 16, 12),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_passes_and_bytes(case: str) -> None:
    lines, passes, read, written = CASES[case]
    program, plan = compiled(*lines)
    cost = traffic(plan.procedures[0], default_variant(plan), PRECISIONS[0])
    assert (cost.passes, cost.bytes_read, cost.bytes_written) == (passes, read, written)
    compare(program, plan, {}, seed=1)


def test_all_numbers_per_tensor_are_written_after_the_last_measurement() -> None:
    program, plan = compiled(
        "p <- ema(p, mean(g), beta)",
        "m <- m + p*g",
        "v <- v + m",
        "θ <- θ - lr*m*v",
        "q <- q + ‖m‖ + q*p",
        states=("m = 0", "v = 0", "p = 0 per tensor", "q = 1 per tensor"),
    )
    kernel = plan.procedures[0].kernels[0]
    stored = {s.target.name for s in kernel.finish if isinstance(s, Store)}
    assert stored == {"p", "q"}
    assert len(kernel.passes) == 2
    compare(program, plan, {}, seed=2)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0, 3)], ids=str)
def test_shapes_without_many_elements(shape: tuple[int, ...]) -> None:
    program, plan = compiled(*CASES["a trust ratio re-reads the new moments"][0])
    with np.errstate(all="ignore"):
        compare(program, plan, {}, seed=3, shapes=(shape,))
