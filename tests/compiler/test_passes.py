"""Plans of kernels that reduce: passes that see only what lies in memory do what the oracle does, and are few."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optc.compiler.interpret import Oracle
from optc.compiler.pipeline import check_source, plan_program
from optc.compiler.plan import Kernel, Plan
from optc.compiler.streams import decide
from optc.compiler.traffic import PRECISIONS, default_variant, traffic
from optc.dsl.kinds import Extent
from optc.dsl.program import Branch, Let, Program, Role, Statement, Store, Symbol
from optc.dsl.semantics import evaluate, evaluate_static
from optc.dsl.source import Source
from tests.matrix.random_programs import specs
from tests.matrix.test_random_programs import bounded

HEAD = """
optimizer X:
    hyper:
        lr = 0.1 in [0, inf)
        beta = 0.9 in [0, 1)
    state:
{states}
    step:
{lines}
"""


def compiled(*lines: str, states: tuple[str, ...] = ("m = 0", "v = 0")) -> tuple[Program, Plan]:
    text = HEAD.format(states="\n".join(f"        {s}" for s in states), lines="\n".join(f"        {line}" for line in lines))
    program = check_source(Source("<text>", text))
    return program, plan_program(program)[1]


# --- a machine that runs plans ------------------------------------------------------------------------------------------------


class Machine:
    """One parameter in memory. A pass has no more than the streams and statistics that the plan gives it."""

    def __init__(self, plan: Plan, theta: np.ndarray, hypers: Mapping[str, Any]) -> None:
        self.plan, self.hypers = plan, dict(hypers)
        self.memory: dict[str, Any] = {"theta": theta.copy()}
        self.t = 0

    def step(self, g: np.ndarray) -> None:
        self.t += 1
        theta = self.memory["theta"]
        start = {"theta": theta, "g": g, **self.hypers}
        due = [s for s in self.plan.program.states if s.name not in self.memory]
        due = [s for s in due if evaluate_static(s.exists, self.hypers, theta.ndim, theta.size)]
        for state in due:
            value = evaluate(state.initial, lambda symbol: start[symbol.name])
            self.memory[state.name] = np.broadcast_to(value, theta.shape).copy() if state.extent is Extent.ELEM else value
        self.new = {s.name for s in due}
        procedure = self.plan.procedures[0]
        host = {"t": self.t, "numel": theta.size, "ndim": theta.ndim, **self.hypers}
        host |= {s.name: self.memory[s.name] for s in self.plan.program.states if s.host and s.name in self.memory}
        self.run(procedure.host.body, host)
        for name in procedure.host.carried:
            self.memory[name] = host[name]
        for state in self.plan.program.states:
            host[f"new_{state.name}"] = state.name in self.new
        flags = {f.name: evaluate_static(f.condition, self.hypers, theta.ndim, theta.size) for f in self.plan.flags}
        for kernel in procedure.kernels:
            self.kernel(kernel, {n: host[n] for n in (*kernel.scalars, *kernel.host_flags)} | flags, g)

    def kernel(self, kernel: Kernel, given: dict[str, Any], g: np.ndarray) -> None:
        table: dict[str, Any] = {}
        shape = {"numel": self.memory["theta"].size}
        for sweep in kernel.sweeps:
            for name, operation in table_of_none(sweep.measures).items():
                table[name] = operation
            self.per_tensor(kernel, sweep.prepare, given | shape, table)
            values = given | {name: table[name] for name in sweep.needs if name in table}
            for stream in sweep.streams:
                exists = decide(stream.exists, given)
                if stream.reads and exists is not False:
                    values[stream.name] = g if stream.name == "g" else self.memory[stream.name].copy()
            stored = self.run(sweep.body, values)
            assert stored <= {s.name for s in sweep.streams if s.writes}
            table |= {name: values[name] for name, _ in sweep.measures if name in values}
            self.memory |= {name: np.broadcast_to(values[name], g.shape).copy() for name in stored}
        self.per_tensor(kernel, kernel.finish, given | shape, table)

    def per_tensor(self, kernel: Kernel, body: tuple[Statement, ...], given: dict[str, Any], table: dict[str, Any]) -> None:
        numbers = {s.name: self.memory[s.name] for s in kernel.streams if s.extent is Extent.TENSOR and s.name in self.memory}
        values = given | table | numbers
        stored = self.run(body, values)
        self.memory |= {name: values[name] for name in stored}
        table |= {s: values[s] for s in kernel.statistics if s in values}

    def run(self, body: tuple[Statement, ...], values: dict[str, Any]) -> set[str]:
        """Runs lines over `values`; the names that were stored."""
        stored: set[str] = set()

        def read(symbol: Symbol) -> Any:
            return symbol.name in self.new if symbol.role is Role.NEW else values[symbol.name]

        for statement in body:
            match statement:
                case Let(target=target, value=value):
                    values[target.name] = evaluate(value, read, self.memory["theta"].shape)
                case Store(target=target, value=value):
                    values[target.name] = evaluate(value, read, self.memory["theta"].shape)
                    stored.add(target.name)
                case Branch(condition=condition, then=then, otherwise=otherwise):
                    stored |= self.run(then if evaluate(condition, read) else otherwise, values)
        return stored


def table_of_none(measures: tuple[tuple[str, str], ...]) -> dict[str, float]:
    """What measures leave on a path without their line."""
    neutral = {"sum": 0.0, "mean": np.nan, "largest": -np.inf, "smallest": np.inf}
    return {name: neutral[operation] for name, operation in measures}


def compare(program: Program, plan: Plan, hypers: Mapping[str, Any], seed: int, shape: tuple[int, ...] = (3, 5)) -> None:
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=shape)
    known = {h.key: h.defaults[0] for h in program.hypers} | dict(hypers)
    oracle, machine = Oracle(program, hypers), Machine(plan, theta, known)
    kept = oracle.new_parameter(theta)
    for _ in range(4):
        g = rng.normal(size=shape)
        oracle.step(kept, g)
        machine.step(g)
        np.testing.assert_allclose(machine.memory["theta"], kept.theta, rtol=1e-9, atol=1e-9)
        for name, value in kept.states.items():
            np.testing.assert_allclose(machine.memory[name], value, rtol=1e-9, atol=1e-9)


@given(specs(reducing=True), st.booleans(), st.integers(0, 1000))
@bounded(150)
def test_random_programs(text: str, flag: bool, seed: int) -> None:
    program = check_source(Source("<text>", text))
    hypers = {"lr": 0.05, "h1": 0.8, "h2": 0.3, "flag": flag}
    given_hypers = {k: v for k, v in hypers.items() if any(h.key == k for h in program.hypers)}
    compare(program, plan_program(program)[1], given_hypers, seed)


@pytest.mark.slow
def test_many_random_programs() -> None:
    @given(specs(reducing=True), st.booleans(), st.integers(0, 1000))
    @bounded(3000)
    def run(text: str, flag: bool, seed: int) -> None:
        program = check_source(Source("<text>", text))
        hypers = {"lr": 0.05, "h1": 0.8, "h2": 0.3, "flag": flag}
        given_hypers = {k: v for k, v in hypers.items() if any(h.key == k for h in program.hypers)}
        compare(program, plan_program(program)[1], given_hypers, seed)

    run()


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
        compare(program, plan, {}, seed=3, shape=shape)
